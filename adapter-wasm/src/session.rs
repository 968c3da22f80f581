//! Sessions: authorized calls with a token that is fetched, refreshed, stored and shared between tabs.

use std::rc::{Rc, Weak};
use std::{cell::Cell, fmt, pin::Pin, time::Duration};

use keybound_core::driver::{SessionConfig, SessionId, Task};
use keybound_core::{Client, Grant, InvalidInput, Scope, Token, TokenTypeHint};
use wasm_bindgen::JsValue;
use wasm_bindgen_futures::spawn_local;
use web_sys::{Request, Response};

use crate::{CoreError, Error, Transport, key, platform, transport::to_call};

/// The maximum time that a caller waits for a token.
const TOKEN_TIMEOUT: Duration = Duration::from_secs(60);

/// The message to other tabs after a logout.
const LOGGED_OUT: &str = "logged out";

/// The message to other tabs after a login.
const LOGGED_IN: &str = "logged in";

/// The source of a session's tokens.
#[non_exhaustive]
pub enum TokenSource {
    /// The authorization server issues tokens for this grant and for the refresh tokens that follow it.
    /// `None` if a [login](Session::log_in_with) provides the grant.
    Grant(Option<Grant>),
    /// The page fetches a token, for example from its own backend, with a proof that it has created.
    /// The future resolves to the JSON of the token response.
    Callback(Box<dyn Fn() -> TokenFuture>),
}

/// The future of [`TokenSource::Callback`]: the JSON of the token response, or the exception thrown.
pub type TokenFuture = Pin<Box<dyn Future<Output = Result<String, JsValue>>>>;

/// A session: fetches a token on first use, refreshes it before it expires, stores it in IndexedDB, and
/// shares it between all tabs and workers of the page's origin.
///
/// Concurrent callers, tabs and workers cause a single token request and share its result. Callers with
/// a valid token never wait for a refresh. Cloning is cheap; clones share their state.
#[derive(Clone)]
pub struct Session(Rc<Inner>);

pub(crate) struct Inner {
    /// The name of the key.
    name: String,
    /// The name of the session in its storage, which is unique in the page's origin.
    storage_name: String,
    transport: Transport,
    config: SessionConfig,
    pub(crate) callback: Option<Box<dyn Fn() -> TokenFuture>>,
    /// The session of the current login. `None` after a logout, in this tab or in another. The key is
    /// deleted then.
    id: Cell<Option<SessionId>>,
    /// The `BroadcastChannel` to this session in other tabs.
    channel: JsValue,
}

impl Session {
    /// Opens the session of this name for `client` and `scope`. Resumes the state stored in IndexedDB;
    /// otherwise `source` provides the first token.
    ///
    /// `scope` defaults to that of a repeatable grant. State that was stored for another server, client,
    /// scope, resource or key is ignored.
    ///
    /// # Errors
    /// Returns [`Error::Browser`] if IndexedDB is not available.
    pub async fn open(
        name: &str,
        transport: Transport,
        client: Client,
        source: TokenSource,
        scope: Option<&Scope>,
    ) -> Result<Self, Error> {
        let mut config = SessionConfig::new(client).stored_as(name);
        if let Some(scope) = scope {
            config = config.scope(scope.clone());
        }
        let (config, callback) = match source {
            TokenSource::Grant(None) => (config, None),
            TokenSource::Grant(Some(grant)) => (config.grant(grant), None),
            // A callback is like a repeatable grant: it may be called any number of times.
            TokenSource::Callback(callback) => {
                let config = config.grant(Grant::client_credentials());
                (config.fetch_tokens(), Some(callback))
            }
        };
        let storage_name = config.storage_name().unwrap_or_default();
        let inner = Rc::new(Inner {
            name: name.to_owned(),
            channel: platform::channel(&storage_name),
            storage_name,
            transport,
            callback,
            id: Cell::default(),
            config: config.clone(),
        });
        inner.start(config);
        inner.resume().await?;
        spawn_local(listen(Rc::downgrade(&inner), inner.channel.clone()));
        Ok(Self(inner))
    }

    /// Returns the transport that sends the session's requests.
    pub fn transport(&self) -> &Transport {
        &self.0.transport
    }

    /// Returns an id that is unique in the page's origin: the name, and a fingerprint of the server,
    /// client, scope, resources and key.
    #[cfg(feature = "package")]
    pub(crate) fn id(&self) -> &str {
        &self.0.storage_name
    }

    /// Returns the session's client.
    pub fn client(&self) -> &Client {
        self.0.config.client()
    }

    /// Returns whether there is a valid token, a grant or refresh token to get one, or a login in
    /// progress. If not, a new login is required.
    pub fn is_open(&self) -> bool {
        let (id, transport) = (self.0.id(), &self.0.transport);
        id.is_some_and(|id| transport.shared().is_open(id, platform::now()))
    }

    /// Loads the state that other tabs, or other sessions of this page, have stored since this session
    /// was opened. Does nothing if the session [is open](Self::is_open), or after a logout.
    ///
    /// # Errors
    /// Returns [`Error::Browser`] if IndexedDB is not available.
    pub async fn resume(&self) -> Result<(), Error> {
        match self.is_open() {
            true => Ok(()),
            false => self.0.resume().await,
        }
    }

    /// Returns a valid token. Waits for a refresh only if there is no valid token.
    ///
    /// # Errors
    /// Returns the error of the refresh. Concurrent callers share one refresh and its error.
    pub async fn token(&self) -> Result<Token, Error> {
        loop {
            let id = self.0.current()?;
            let result = self.0.run(id.token(TOKEN_TIMEOUT)).await;
            if !self.0.is_replaced(id, &result) {
                return result;
            }
        }
    }

    /// Sends a request with a valid token, as [`Transport::send`] does, and returns the response.
    ///
    /// If the server rejects a token that the session had before the call, the token is refreshed and
    /// the request is retried once. If it rejects a token that was fetched during the call, the response
    /// is returned. After two such rejections in a row from one origin, its rejections cause no token
    /// request for 30 s.
    ///
    /// # Errors
    /// Returns an error if there is no token or no response.
    pub async fn fetch(&self, request: &Request) -> Result<Response, Error> {
        loop {
            let id = self.0.current()?;
            let call = to_call(request, |method, uri| id.call(method, uri))?;
            let result = self.0.transport.call(call, Some(&self.0), request).await;
            if !self.0.is_replaced(id, &result) {
                return result;
            }
        }
    }

    /// Starts the session anew with the grant of a login, in all tabs, and returns its first token.
    /// With [`TokenSource::Callback`] the grant is not used: the callback fetches the token.
    ///
    /// The session's previous state is discarded in memory at once, and in storage when the new
    /// state is stored.
    ///
    /// # Errors
    /// Returns the error of the token request or of the callback, [`Error::Browser`] if IndexedDB
    /// is not available, and [`InvalidInput`] after a logout.
    pub async fn log_in_with(&self, grant: Grant) -> Result<Token, Error> {
        self.require_key()?;
        self.0.start(self.0.config.clone().grant(grant));
        let token = self.token().await?;
        platform::post(&self.0.channel, LOGGED_IN);
        Ok(token)
    }

    /// Ends the session in all tabs. Deletes the tokens, and revokes the refresh token if the client has
    /// a revocation endpoint. Deletes the key, unless another session of this name has tokens that are
    /// bound to it. A mark without a token stays in the storage, so that no tab continues the session.
    ///
    /// Waits until a refresh in flight in any tab completes, for up to the refresh timeout.
    ///
    /// # Errors
    /// Returns [`Storage`](CoreError::Storage) or [`Error::Browser`] if IndexedDB is not available or
    /// the refresh in flight exceeds the timeout, and the error of the revocation. Each step is carried
    /// out even if a previous one fails: after a timeout, the tokens are deleted and revoked all the
    /// same.
    pub async fn log_out(&self) -> Result<(), Error> {
        let inner = &self.0;
        platform::post(&inner.channel, LOGGED_OUT);
        let mut result = Ok(());
        let mut token = None;
        if let Some(id) = inner.id.take() {
            token = inner.transport.shared().token(id);
            // The storage may have a newer one.
            result = inner.run(id.log_out()).await.map(|newest| token = newest);
            inner.close(id);
        }
        let key = key::storage_key(&inner.name);
        let erased = platform::erase_session(&storage_key(&inner.storage_name), &key).await;
        let result = result.and(erased.map_err(Error::Browser));
        let refresh_token = token.as_ref().and_then(Token::refresh_token).cloned();
        let revocation = refresh_token.and_then(|token| {
            let hint = Some(TokenTypeHint::RefreshToken);
            self.client().revoke(token, hint).ok()
        });
        match revocation {
            Some(operation) => result.and(inner.transport.execute(operation).await.map(drop)),
            None => result,
        }
    }

    /// Checks that the key still exists.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] after a logout, which deleted the key.
    pub(crate) fn require_key(&self) -> Result<(), InvalidInput> {
        let rule = "must be opened again after a logout, with a new key";
        let deleted = || InvalidInput::new("session", rule);
        self.0.id().map(drop).ok_or_else(deleted)
    }
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Grant(grant) => f.debug_tuple("Grant").field(grant).finish(),
            Self::Callback(_) => f.write_str("Callback"),
        }
    }
}

impl Inner {
    pub(crate) fn id(&self) -> Option<SessionId> {
        self.id.get()
    }

    fn current(&self) -> Result<SessionId, CoreError> {
        self.id().ok_or(CoreError::LoginRequired)
    }

    /// Returns whether a login or logout has replaced the session before a task of it sent anything.
    fn is_replaced<T>(&self, id: SessionId, result: &Result<T, Error>) -> bool {
        matches!(result, Err(Error::Core(CoreError::LoginRequired))) && self.id() != Some(id)
    }

    /// Starts a session in place of the current one, whose tasks end.
    fn start(&self, config: SessionConfig) {
        let id = self.transport.shared().open(config, platform::now());
        if let Some(before) = self.id.replace(Some(id)) {
            self.close(before);
        }
    }

    fn close(&self, id: SessionId) {
        self.transport.shared().close(id);
        self.transport.settle(None);
    }

    /// Continues from the stored state, if there is any, unless a login or logout happens meanwhile.
    async fn resume(&self) -> Result<(), Error> {
        let Some(id) = self.id() else { return Ok(()) };
        let stored = platform::load(&storage_key(&self.storage_name)).await;
        if let Some(json) = stored.map_err(Error::Browser)? {
            let now = platform::now();
            self.transport.shared().resume(id, json.as_bytes(), now);
            self.transport.settle(None);
        }
        Ok(())
    }

    pub(crate) async fn run<T: Task>(self: &Rc<Self>, task: T) -> Result<T::Output, Error> {
        self.transport.run(task, Some(self)).await
    }
}

/// Returns the IndexedDB key of the session with this name in its storage.
pub(crate) fn storage_key(storage_name: &str) -> String {
    format!("session {storage_name}")
}

/// Applies logins and logouts of other tabs for as long as the session exists.
async fn listen(session: Weak<Inner>, channel: JsValue) {
    loop {
        let message = platform::next_message(&channel).await;
        let Some(session) = session.upgrade() else {
            return;
        };
        if message.as_string().as_deref() != Some(LOGGED_OUT) {
            // State that can't be loaded now is loaded by the next refresh.
            drop(session.resume().await);
        } else if let Some(id) = session.id.take() {
            session.close(id);
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("name", &self.0.name)
            .field("client", self.client())
            .finish_non_exhaustive()
    }
}
