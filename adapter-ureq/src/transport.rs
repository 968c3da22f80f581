//! Sends requests over ureq, and holds what the tasks of one agent share.

use std::io::{self, Read as _};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::{fmt, mem, time::Duration};

use http::{Method, Request, Response, Uri, request, uri::Scheme};
use keybound_core::driver::{
    Attempt, FromResponse, MAX_RESPONSE, PreparedRequest, Role, ServerState, Shared,
};
use keybound_core::{AuthorizationBuilder, AuthorizationRequest, Error, Operation, Sent, Token};
use ureq::{AsSendBody, Timeout};

use crate::event::{Event, Observed};
use crate::names::ResolvedHosts;
use crate::refresher::Refreshes;
use crate::request::ReplayableRequest;
use crate::{Signer, clock::entropy, session::Inner};

/// Sends the requests of the core over ureq: token requests and other [`Operation`]s, and calls of
/// protected resources. Passes the responses to the core, and waits before retries as the core
/// requires.
///
/// For any settings of the [`ureq::Agent`], redirects are not followed, every status is returned as
/// a response, and `http` URLs are limited to loopback.
pub struct Transport {
    agent: ureq::Agent,
    pub(crate) signer: Option<Box<dyn Signer>>,
    state: Mutex<State>,
    /// Notified when the shared state has changed.
    pub(crate) changed: Condvar,
    resolved_hosts: ResolvedHosts,
    pub(crate) timeout: Duration,
    on_event: Option<EventHandler>,
    #[cfg(feature = "record")]
    pub(crate) recording: Option<crate::recording::Recording>,
}

type EventHandler = Box<dyn Fn(Event<'_>) + Send + Sync>;

/// The state of all tasks, and the callers that wait for a change.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) shared: Shared,
    /// The generation that the waiting callers know of.
    pub(crate) notified: u64,
    pub(crate) waiting: usize,
    pub(crate) refreshes: Refreshes,
}

impl Default for Transport {
    fn default() -> Self {
        Self::new()
    }
}

impl Transport {
    /// Creates a transport with ureq's default settings and a [timeout](Self::timeout) of 30 s.
    pub fn new() -> Self {
        Self::with_agent(ureq::Agent::new_with_defaults())
    }

    /// Creates a transport with an agent of the application, for its proxy, TLS and pool settings.
    #[doc(alias("proxy", "tls", "mtls", "certificate"))]
    pub fn with_agent(agent: ureq::Agent) -> Self {
        Self {
            agent,
            signer: None,
            state: Mutex::default(),
            changed: Condvar::new(),
            resolved_hosts: ResolvedHosts::default(),
            timeout: Duration::from_secs(30),
            on_event: None,
            #[cfg(feature = "record")]
            recording: None,
        }
    }

    /// Sets the signer of proofs, and of the assertions of a client that authenticates with
    /// `private_key_jwt`. Without a signer, a request that needs a signature fails with
    /// [`Error::Signer`].
    #[must_use]
    pub fn signer(self, signer: impl Signer + 'static) -> Self {
        let signer: Option<Box<dyn Signer>> = Some(Box::new(signer));
        Self { signer, ..self }
    }

    /// Sets the timeout of one [`execute`](Self::execute), including its delays and retries (for a
    /// [`DeviceAuthorization`](crate::DeviceAuthorization), of each poll, without the polling
    /// interval), and of one [`send`](Self::send) until the response's headers have arrived.
    /// Default: 30 s. As an example, Marqeta's browser SDK gives up after 5 s.
    ///
    /// If the server responded within the last ten seconds, the system's own timeouts apply to the
    /// lookup of its name.
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Replaces the known state of servers (nonces, clock offsets and algorithm names), for example
    /// by those of an earlier process.
    #[must_use]
    pub fn with_server_state(self, state: ServerState) -> Self {
        self.lock().shared.set_server_state(state);
        self
    }

    /// Returns the known state of servers: nonces, clock offsets and algorithm names.
    pub fn server_state(&self) -> ServerState {
        self.lock().shared.server_state().clone()
    }

    /// Sets a handler for all [`Event`]s, for traces and metrics. Requests and responses are passed
    /// with their headers and bodies, which contain secrets. The handler is called by the thread that
    /// sends the request or refreshes the token, so it should not block.
    #[must_use]
    #[doc(alias("metrics", "tracing", "observer"))]
    pub fn on_event(mut self, handler: impl Fn(Event<'_>) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Box::new(handler));
        self
    }

    /// Executes an operation and returns its result: sends its requests, and retries them where
    /// that is safe.
    ///
    /// # Errors
    /// Returns [`Error::Server`] if the server refused the request, [`Error::Response`] if its
    /// response can't be used, [`Error::NoResponse`] after a lost connection, [`Error::Signer`] if
    /// there is no signer or it failed, or [`Error::NoEntropy`].
    pub fn execute<T: FromResponse>(&self, operation: Operation<T>) -> Result<T, Error> {
        self.run(operation.timeout(self.timeout), None)
    }

    /// Starts an authorization: draws its random values, and pushes the request to the authorization
    /// server first if the client has an endpoint for it (RFC 9126).
    ///
    /// # Errors
    /// Returns [`InvalidInput`](crate::InvalidInput) for a request that can't be made, the errors of
    /// [`execute`](Self::execute), or [`Error::NoEntropy`].
    pub fn authorization(
        &self,
        request: AuthorizationBuilder,
    ) -> Result<AuthorizationRequest, Error> {
        match request.can_be_pushed() {
            true => self.execute(request.push(entropy()?)?),
            false => Ok(request.build(entropy()?)?),
        }
    }

    /// Sends a request with a token: adds the `Authorization` header, and a new proof if the token
    /// is bound.
    ///
    /// The request is retried if the server requires another proof (with its nonce, its time, or
    /// its name for the algorithm), and after 429, 502, 503, 504 and a lost connection where that
    /// is safe: see [`Call`](crate::Call). A body of more than 10 MiB is not buffered, so its
    /// request is never retried. The response is returned for any status, its body unread: a refusal
    /// by the API (4xx, 5xx) is a response, not an error.
    ///
    /// # Errors
    /// Returns [`InvalidInput`](crate::InvalidInput) for a URL that must not get a token (`http`,
    /// except on loopback) or for a token that [can't be sent](Token::authorize), [`Error::Server`]
    /// if the server keeps rejecting its own nonces, [`Error::NoResponse`] after a lost connection,
    /// [`Error::Signer`] if there is no signer or it failed, or [`Error::NoEntropy`].
    pub fn send<B: AsSendBody>(
        &self,
        token: &Token,
        request: Request<B>,
    ) -> Result<Response<ureq::Body>, Error> {
        let (head, mut body) = request.into_parts();
        let request = ReplayableRequest::new(head, body.as_body())?;
        let call = token.authorize(&request.head.method, &request.head.uri)?;
        request.send(self, None, call)
    }

    /// Sends a request to an authorization server, and reads its response.
    pub(crate) fn exchange(
        &self,
        effect: &mut PreparedRequest,
        session: Option<&Arc<Inner>>,
    ) -> Result<Response<Vec<u8>>, ureq::Error> {
        let (head, body) = mem::take(&mut effect.request).into_parts();
        let role = Role::AuthorizationServer;
        let observed = self.observe(session, role, effect.attempt, &head, body.as_ref());
        let scope = TimeoutScope::Whole {
            max_idle: effect.max_idle,
        };
        let response = self.send_whole(head, body.as_ref(), effect.timeout, scope);
        if let Some(observed) = observed {
            match &response {
                Ok(response) => observed.received(response, Some(response.body())),
                Err(cause) => observed.lost(cause),
            }
        }
        response
    }

    /// Sends one request, and reads the response.
    fn send_whole(
        &self,
        head: request::Parts,
        body: &[u8],
        left: Duration,
        scope: TimeoutScope,
    ) -> Result<Response<Vec<u8>>, ureq::Error> {
        let response = self.send_once(head, body, left, scope)?;
        let (head, body) = response.into_parts();
        // One byte more than the limit, so that the core can detect a longer body.
        let limit = u64::try_from(MAX_RESPONSE).unwrap_or(u64::MAX);
        let mut body = body.into_reader().take(limit.saturating_add(1));
        let mut bytes = Vec::new();
        let read = body.read_to_end(&mut bytes).map_err(ureq::Error::from);
        // An error response is valid even if its body is incomplete.
        if let Some(cause) = read.err().filter(|_| head.status.is_success()) {
            return Err(cause);
        }
        Ok(Response::from_parts(head, bytes))
    }

    /// Sends one request, within `left`.
    pub(crate) fn send_once(
        &self,
        head: request::Parts,
        body: &[u8],
        left: Duration,
        scope: TimeoutScope,
    ) -> AgentResult {
        match has_body(&head.method, body) {
            true => self.send_body(Request::from_parts(head, body), left, scope),
            false => self.send_body(Request::from_parts(head, ()), left, scope),
        }
    }

    /// Sends one request with any body.
    pub(crate) fn send_body<B: AsSendBody>(
        &self,
        request: Request<B>,
        left: Duration,
        scope: TimeoutScope,
    ) -> AgentResult {
        let uri = &request.uri().clone();
        let result = match left.is_zero() {
            true => Err(ureq::Error::Timeout(Timeout::Connect)),
            false => self.agent.run(self.configured(request, left, scope)),
        };
        match &result {
            Ok(_) => self.resolved_hosts.mark_reachable(uri),
            Err(_) => self.resolved_hosts.forget(uri),
        }
        result
    }

    fn configured<B: AsSendBody>(
        &self,
        request: Request<B>,
        left: Duration,
        scope: TimeoutScope,
    ) -> Request<B> {
        // Plain http is for loopback only: it must not go to a proxy of the environment.
        let is_plain = request.uri().scheme() == Some(&Scheme::HTTP);
        // Shorter than the other timeouts, so that a timeout before sending is recognized as
        // `Sent::No`.
        let connect_timeout = left - left / 16;
        let is_resolved = self.resolved_hosts.is_recently_reachable(request.uri());
        let config = self
            .agent
            .configure_request(request)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .timeout_resolve((!is_resolved).then_some(connect_timeout))
            .timeout_connect(Some(connect_timeout));
        let config = match scope {
            // ureq uses no pooled connection of this age or older, nor one that the server is known
            // to have closed.
            TimeoutScope::Whole { max_idle } => {
                config.timeout_global(Some(left)).max_idle_age(max_idle)
            }
            TimeoutScope::Head => config
                .timeout_send_request(Some(left))
                .timeout_send_body(Some(left))
                .timeout_recv_response(Some(left)),
        };
        let config = if is_plain { config.proxy(None) } else { config };
        config.build()
    }

    /// Reports a request that is about to be sent, and returns what reports its end. Returns `None`,
    /// and measures nothing, if nobody listens.
    pub(crate) fn observe(
        &self,
        session: Option<&Arc<Inner>>,
        role: Role,
        number: u32,
        head: &request::Parts,
        body: &[u8],
    ) -> Option<Observed<'_>> {
        #[cfg(feature = "log")]
        let is_logged = crate::log::is_enabled();
        #[cfg(not(feature = "log"))]
        let is_logged = false;
        if !is_logged && self.on_event.is_none() {
            return None;
        }
        let label = session.and_then(|session| session.label.clone());
        let attempt = Attempt::new(&head.uri, role, number).session(label);
        Some(Observed::start(self, attempt, head, body))
    }

    pub(crate) fn emit(&self, event: Event<'_>) {
        #[cfg(feature = "log")]
        crate::log::log(&event);
        if let Some(handler) = &self.on_event {
            handler(event);
        }
    }

    /// Locks the state. The lock is never held across IO. A poisoned lock is usable: no code that
    /// can panic leaves the state inconsistent.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// The result of sending a request with ureq.
pub(crate) type AgentResult = Result<Response<ureq::Body>, ureq::Error>;

/// The part of a response that a timeout covers.
#[derive(Clone, Copy)]
pub(crate) enum TimeoutScope {
    /// All of it. The connection has been idle for less than `max_idle`.
    Whole { max_idle: Duration },
    /// Without the body, which the application reads. The agent chooses the connection.
    Head,
}

/// Returns whether two URLs in their normal form have the same origin.
pub(crate) fn is_same_origin(one: &Uri, other: &Uri) -> bool {
    one.scheme() == other.scheme() && one.authority() == other.authority()
}

/// Whether a request has a body, or one of the methods with a `Content-Length` even without a body.
pub(crate) fn has_body(method: &Method, body: &[u8]) -> bool {
    !body.is_empty() || matches!(*method, Method::POST | Method::PUT | Method::PATCH)
}

/// Returns whether any part of the request may have reached the server.
pub(crate) fn was_sent(cause: &ureq::Error) -> Sent {
    match cause {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::Tls(_)
        | ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => Sent::No,
        ureq::Error::Io(error) if is_before_sending(error) => Sent::No,
        _ => Sent::Maybe,
    }
}

/// Whether an IO error occurred before anything was sent. Some errors of the standard library and
/// of rustls can only be recognized by their messages.
fn is_before_sending(error: &io::Error) -> bool {
    let kinds = [
        io::ErrorKind::ConnectionRefused,
        io::ErrorKind::HostUnreachable,
        io::ErrorKind::NetworkUnreachable,
        io::ErrorKind::AddrNotAvailable,
    ];
    let message = error.to_string();
    kinds.contains(&error.kind())
        || message.starts_with("failed to lookup address information")
        || message.contains("invalid peer certificate")
}
