//! A session: authorized calls for synchronous applications, with tokens that are fetched,
//! refreshed and stored.

use std::time::{Duration, Instant};
use std::{fmt, sync::Arc};

use http::{HeaderMap, Request, Response, request, uri::PathAndQuery};
use keybound_core::driver::{SessionConfig, SessionId, Shared};
use keybound_core::provider::moov::Moov;
use keybound_core::{Client, Endpoint, Error, Grant, InvalidInput, RefreshPolicy, Scope, Token};
use ureq::AsSendBody;

use crate::clock::now;
use crate::transport::{Transport, is_same_origin};
use crate::{KeySigner, request::ReplayableRequest, storage::Storage, token_cache::TokenCache};

/// A session with an authorization server. It fetches a token on first use, refreshes it before it
/// expires, and shares it between threads. Clones are cheap and share the same session.
///
/// Concurrent callers cause a single token request. Callers with a valid token never block on a
/// refresh. Callers without one wait for the refresh in progress and share its result, including
/// its error.
#[derive(Clone)]
#[doc(alias("refresh", "cache", "single flight"))]
pub struct Session(Arc<Handle>);

/// The handle that all clones of a session share and its refreshes don't. It is dropped with the
/// last clone.
struct Handle {
    inner: Arc<Inner>,
    drop_timeout: Duration,
}

/// The part of a session that its refreshes use as well.
pub(crate) struct Inner {
    pub(crate) transport: Arc<Transport>,
    pub(crate) id: SessionId,
    pub(crate) storage: Option<Box<dyn Storage>>,
    pub(crate) signer: Option<Box<dyn KeySigner>>,
    pub(crate) cache: TokenCache,
    /// The name of the session in its events.
    pub(crate) label: Option<Arc<str>>,
    client: Client,
    api: Option<Api>,
}

/// A builder for a [`Session`].
#[must_use = "call `build` to create the session"]
pub struct SessionBuilder {
    transport: Arc<Transport>,
    config: SessionConfig,
    storage: Option<Box<dyn Storage>>,
    signer: Option<Box<dyn KeySigner>>,
    api: Option<Api>,
    drop_timeout: Duration,
}

/// The API of a session: where its paths begin, and the headers of its requests.
struct Api {
    base: Endpoint,
    headers: HeaderMap,
}

impl SessionBuilder {
    /// Sets the grant that fetches the first token. A [repeatable](Grant::is_repeatable) grant, such
    /// as client credentials, also fetches all later tokens, and no refresh token is used; after any
    /// other grant, the session uses refresh tokens.
    pub fn grant(self, grant: Grant) -> Self {
        self.with(|config| config.grant(grant))
    }

    /// Binds the tokens to a key (RFC 9449), and signs proofs with it: [`Client::dpop`] with the
    /// public half, and a [signer](Transport::signer) for this session alone.
    pub fn dpop(mut self, key: impl KeySigner + 'static) -> Self {
        let client = self.config.client().clone().dpop(key.public().clone());
        self.signer = Some(Box::new(key));
        self.with(|config| config.with_client(client))
    }

    /// Sets the policy for token refreshes: when they start and how long they may take.
    pub fn policy(self, policy: RefreshPolicy) -> Self {
        self.with(|config| config.policy(policy))
    }

    /// Sets the session's first token, from a login that was made elsewhere.
    ///
    /// With a [storage](Self::storage) the token is stored immediately, in the background, even if
    /// it has expired. It replaces the stored state, unless that state descends from this token: an
    /// application that restarts with an old token continues with its successor.
    pub fn token(self, token: Token) -> Self {
        self.with(|config| config.token(token))
    }

    /// Sets the scope in the name under which the session is [stored](Self::storage). It is not
    /// sent: the grant has the scope to request. Default: the scope of a
    /// [repeatable](Grant::is_repeatable) grant, otherwise none.
    pub fn scope(self, scope: Scope) -> Self {
        self.with(|config| config.scope(scope))
    }

    /// Adds a resource (RFC 8707) to the name under which the session is [stored](Self::storage).
    /// It is not sent: the grant has the resources to request. Default: the resources of a
    /// [repeatable](Grant::is_repeatable) grant, otherwise none.
    pub fn resource(self, uri: &str) -> Self {
        self.with(|config| config.resource(uri))
    }

    /// Stores the session in `storage` under a unique name. The next process loads it, and
    /// concurrent processes share one token: one of them refreshes it, and a new token is saved
    /// before it is used.
    ///
    /// If the storage fails, a process with a [repeatable](Grant::is_repeatable) grant continues on
    /// its own and emits [`Event::StorageUnavailable`](crate::Event::StorageUnavailable). A refresh token or a single-use grant is not
    /// sent without the storage: another process might send it too, or its token could not be
    /// stored.
    ///
    /// The key in the storage is `name`, a hyphen, and the
    /// [fingerprint](Client::session_fingerprint) of client, server, [scope](Self::scope) and
    /// [resources](Self::resource). A session of another client or server with the same `name` is
    /// therefore neither loaded nor replaced.
    pub fn storage(mut self, storage: impl Storage + 'static, name: impl Into<String>) -> Self {
        self.storage = Some(Box::new(storage));
        self.with(|config| config.stored_as(name))
    }

    /// Sets the name of the session in its [events](crate::Event), for logs and the labels of metrics.
    /// Sessions may share one, such as all those of a [pool](crate::SessionPool): metrics need few
    /// different labels. It is printed, so it must be neither a secret nor personal. Control
    /// characters are removed, and it is cut to 256 characters. Default: none.
    pub fn label(self, label: &str) -> Self {
        self.with(|config| config.label(label))
    }

    /// Sets the URL of the API, which requests without a host are relative to, and headers for its
    /// requests. They are added to requests to this origin alone, unless the request has them.
    pub fn api(self, base: Endpoint, headers: HeaderMap) -> Self {
        let api = Some(Api { base, headers });
        Self { api, ..self }
    }

    /// Sets how long the drop of the session's last clone waits while a single-use token is under
    /// way or the newest one is not stored yet: the process may be about to exit, and the server
    /// sends a new refresh token only once. Default: 5 s. [`Session::close`] has a timeout of its
    /// own.
    pub fn drop_timeout(mut self, timeout: Duration) -> Self {
        self.drop_timeout = timeout;
        self
    }

    /// Creates the session. It neither sends a request nor accesses the storage until a token is
    /// needed. The exception is a given [token](Self::token): with a [storage](Self::storage) it is
    /// stored immediately, in the background and without a refresh, even if it has expired.
    pub fn build(self) -> Session {
        let client = self.config.client().clone();
        let mut config = self.config.timeout(self.transport.timeout);
        if let Some((storage, name)) = self.storage.as_ref().zip(config.storage_name()) {
            config = config.stored_at(storage.location(&name));
        }
        let label = config.event_label().cloned();
        #[cfg(not(feature = "record"))]
        let now = now();
        #[cfg(feature = "record")]
        let now = self.transport.opening_time();
        let id = self.transport.lock().shared.open(config, now);
        let inner = Arc::new(Inner {
            transport: self.transport,
            id,
            storage: self.storage,
            signer: self.signer,
            cache: TokenCache::default(),
            label,
            client,
            api: self.api,
        });
        // Stores a given token.
        let state = inner.transport.lock();
        inner.transport.after_step(state, Some(&inner));
        let drop_timeout = self.drop_timeout;
        Session(Arc::new(Handle {
            inner,
            drop_timeout,
        }))
    }

    fn with(self, change: impl FnOnce(SessionConfig) -> SessionConfig) -> Self {
        let config = change(self.config);
        Self { config, ..self }
    }
}

impl Session {
    /// Returns a builder for a session. Without a [grant](SessionBuilder::grant) it continues from a
    /// [token](SessionBuilder::token) or from its [stored state](SessionBuilder::storage). With none
    /// of the three, its calls return [`Error::LoginRequired`].
    pub fn builder(transport: impl Into<Arc<Transport>>, client: Client) -> SessionBuilder {
        SessionBuilder {
            transport: transport.into(),
            config: SessionConfig::new(client),
            storage: None,
            signer: None,
            api: None,
            drop_timeout: Duration::from_secs(5),
        }
    }

    /// Returns a builder for a session with Moov: its client, its base URL and its headers.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the base URL has a query.
    pub fn moov(
        transport: impl Into<Arc<Transport>>,
        moov: &Moov,
    ) -> Result<SessionBuilder, InvalidInput> {
        let builder = Self::builder(transport, moov.client()?);
        Ok(builder.api(moov.endpoint("/")?, moov.headers().clone()))
    }

    /// Returns the transport of the session.
    pub fn transport(&self) -> &Transport {
        &self.inner().transport
    }

    /// Returns the client of the session.
    pub fn client(&self) -> &Client {
        &self.inner().client
    }

    /// Returns a valid token, and fetches or refreshes it if necessary.
    ///
    /// # Errors
    /// Returns the error of the refresh, which all callers that waited for it share; the same error
    /// again until the [retry interval](RefreshPolicy::retry_interval) has passed;
    /// [`Error::LoginRequired`] if no grant and no refresh token is left; or [`Error::Timeout`] if
    /// the refresh did not complete within the transport's [timeout](Transport::timeout).
    pub fn token(&self) -> Result<Token, Error> {
        let transport = self.transport();
        let (id, now) = (self.inner().id, now());
        let load = || transport.lock().shared.view(id, now);
        if let Some(token) = self.inner().cache.get(now, load) {
            return Ok(token);
        }
        transport.run(id.token(transport.timeout), Some(self.inner()))
    }

    /// Sends a request with a valid token, as [`Transport::send`] does. If the server rejects a
    /// token that the session had before this call, the session refreshes it and sends the request
    /// once more. A rejection of a new token is returned as it is; after two of those in a row from
    /// one origin, its rejections cause no token request for 30 s. The response is returned for any
    /// status.
    ///
    /// # Errors
    /// Returns the errors of [`token`](Self::token) and of [`Transport::send`].
    pub fn send<B: AsSendBody>(&self, request: Request<B>) -> Result<Response<ureq::Body>, Error> {
        let inner = self.inner();
        let (mut head, mut body) = request.into_parts();
        if let Some(api) = &inner.api {
            api.complete(&mut head)?;
        }
        let request = ReplayableRequest::new(head, body.as_body())?;
        let call = inner.id.call(&request.head.method, &request.head.uri)?;
        request.send(&inner.transport, Some(inner), call)
    }

    /// Sends a GET request with a valid token. `url` is a URL, or a path of the session's
    /// [API](SessionBuilder::api), such as `/accounts?count=10`.
    ///
    /// # Errors
    /// As for [`send`](Self::send), and [`InvalidInput`] if `url` is invalid.
    pub fn get(&self, url: &str) -> Result<Response<ureq::Body>, Error> {
        let invalid = |_| InvalidInput::new("url", "must be a URL, or a path of the session's API");
        self.send(Request::get(url).body(()).map_err(invalid)?)
    }

    /// Ends the session, also for other processes that load it from now on: a mark replaces its
    /// stored state, which no later save of theirs undoes. If another process is refreshing the
    /// token, waits for it, at most for the [refresh timeout](RefreshPolicy::refresh_timeout).
    /// Returns the last token, so that the caller can [revoke](Client::revoke) it. Later calls
    /// return [`Error::LoginRequired`].
    ///
    /// # Errors
    /// Returns [`Error::Storage`] if the mark cannot be stored, or if the other process does not
    /// complete in time. The session in memory is cleared nevertheless.
    pub fn log_out(&self) -> Result<Option<Token>, Error> {
        let inner = self.inner();
        inner.transport.run(inner.id.log_out(), Some(inner))
    }

    /// Waits while a single-use token is under way or the newest one is not stored yet, at most for
    /// `timeout`, in place of the [drop timeout](SessionBuilder::drop_timeout). Returns whether the
    /// process can exit without the loss of a login.
    pub fn close(mut self, timeout: Duration) -> bool {
        let is_safe = self.inner().wait_until_safe(timeout);
        if let Some(last) = Arc::get_mut(&mut self.0) {
            last.drop_timeout = Duration::ZERO;
        }
        is_safe
    }

    /// Whether the session has clones outside its pool, or would lose its login if it were closed
    /// and the process ended. Any other refresh in progress goes on without it.
    pub(crate) fn is_in_use(&self) -> bool {
        let is_unsafe = |shared: &Shared| shared.is_unsafe_to_exit(self.inner().id);
        Arc::strong_count(&self.0) > 1 || is_unsafe(&self.transport().lock().shared)
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.0.inner
    }
}

impl Inner {
    /// Waits until no single-use token is under way and the newest one is stored. Returns whether
    /// that is so.
    fn wait_until_safe(&self, timeout: Duration) -> bool {
        let start = Instant::now();
        let left = || timeout.saturating_sub(start.elapsed());
        let is_unsafe = |shared: &Shared| shared.is_unsafe_to_exit(self.id);
        self.transport.wait_while(is_unsafe, left)
    }
}

impl Api {
    /// Adds the base URL to a path, and the headers to a request to this API.
    fn complete(&self, head: &mut request::Parts) -> Result<(), InvalidInput> {
        if head.uri.authority().is_none() {
            let path = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
            head.uri = self.base.join(path)?.uri().clone();
        }
        if is_same_origin(&head.uri, self.base.uri()) {
            for (name, value) in &self.headers {
                head.headers.entry(name).or_insert_with(|| value.clone());
            }
        }
        Ok(())
    }
}

/// Removes the session when neither a clone nor a refresh uses it any more.
impl Drop for Inner {
    fn drop(&mut self) {
        self.transport.lock().shared.close(self.id);
        #[cfg(feature = "record")]
        self.transport.write_recording();
    }
}

/// Ends the session with its last clone.
impl Drop for Handle {
    fn drop(&mut self) {
        self.inner.wait_until_safe(self.drop_timeout);
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("client", self.client())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder")
            .field("client", self.config.client())
            .finish_non_exhaustive()
    }
}
