//! Sessions: authorized calls with a token that is fetched, refreshed, stored and shared between tabs.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use http::StatusCode;
use keybound_core::driver::{SessionState, Ticket, TokenAction, TokenManager};
use keybound_core::{Client, Grant, InvalidInput, RefreshPolicy, Scope, Token, TokenTypeHint};
use wasm_bindgen::JsValue;
use wasm_bindgen_futures::spawn_local;
use web_sys::{Request, Response};

use crate::notify::Notify;
use crate::platform::Lock;
use crate::transport::Called;
use crate::{Error, Transport, key, platform};

/// The maximum age of a stored nonce that is loaded.
const NONCE_LIFETIME: Duration = Duration::from_secs(300);

/// The interval between retries of a failed save.
const SAVE_RETRY_INTERVAL: Duration = Duration::from_millis(200);

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
pub struct Session(Rc<Shared>);

struct Shared {
    /// The name of the key.
    name: String,
    id: String,
    transport: Transport,
    client: Client,
    source: TokenSource,
    /// Replaced as a whole at a login, at a logout, and when stored state is resumed.
    tokens: RefCell<Rc<RefCell<TokenManager>>>,
    /// The error of the last failed refresh, for the callers that waited for it.
    failure: RefCell<Option<Rc<Error>>>,
    settled: Notify,
    /// The `BroadcastChannel` to this session in other tabs.
    channel: JsValue,
    /// Whether the user has logged out, in this tab or in another. The key is deleted then.
    closed: Cell<bool>,
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
        let repeatable = source.grant().filter(Grant::is_repeatable);
        let scope = scope.or(repeatable.as_ref().and_then(Grant::requested_scope));
        let resources = repeatable.iter().flat_map(Grant::requested_resources);
        let id = format!("{name} {}", client.session_fingerprint(scope, resources));
        let shared = Rc::new(Shared {
            name: name.to_owned(),
            channel: platform::channel(&id),
            id,
            transport,
            client,
            tokens: new_token_manager(source.grant(), None).into(),
            source,
            failure: RefCell::default(),
            settled: Notify::default(),
            closed: Cell::default(),
        });
        shared.resume().await?;
        spawn_local(listen(Rc::downgrade(&shared), shared.channel.clone()));
        Ok(Self(shared))
    }

    /// Returns the transport that sends the session's requests.
    pub fn transport(&self) -> &Transport {
        &self.0.transport
    }

    /// Returns an id that is unique in the page's origin: the name, and a fingerprint of the server,
    /// client, scope, resources and key.
    #[cfg(feature = "package")]
    pub(crate) fn id(&self) -> &str {
        &self.0.id
    }

    /// Returns the session's client.
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// Returns whether there is a valid token, a grant or refresh token to get one, or a login in
    /// progress. If not, a new login is required.
    pub fn is_open(&self) -> bool {
        self.0.tokens().borrow().is_open(platform::now())
    }

    /// Loads the state that other tabs, or other sessions of this page, have stored since this session
    /// was opened. Does nothing if the session [is open](Self::is_open), or after a logout.
    ///
    /// # Errors
    /// Returns [`Error::Browser`] if IndexedDB is not available.
    pub async fn resume(&self) -> Result<(), Error> {
        if self.is_open() || self.0.closed.get() {
            return Ok(());
        }
        self.0.resume().await
    }

    /// Returns a valid token. Waits for a refresh only if there is no valid token.
    ///
    /// # Errors
    /// Returns the error of the refresh. Concurrent callers share one refresh and its error.
    pub async fn token(&self) -> Result<Token, Rc<Error>> {
        let shared = &self.0;
        loop {
            if shared.closed.get() {
                return Err(Rc::new(Error::LoginRequired));
            }
            let tokens = shared.tokens();
            let action = tokens.borrow_mut().poll(platform::now());
            match action {
                TokenAction::Use(token, None) => return Ok(token),
                TokenAction::Use(token, Some(ticket)) => {
                    let refresh = self.refresh(tokens, ticket);
                    spawn_local(async move {
                        // The next call of `token` returns the result.
                        let _ = refresh.run().await;
                    });
                    return Ok(token);
                }
                TokenAction::Refresh(ticket) => {
                    let result = self.refresh(Rc::clone(&tokens), ticket).run().await;
                    // A login or logout during the refresh replaced the token manager.
                    if result.is_ok() || shared.is_current(&tokens) {
                        return result;
                    }
                }
                TokenAction::WaitUntil(until) => {
                    shared
                        .settled
                        .wait_timeout(until.saturating_since(platform::now()))
                        .await;
                }
                TokenAction::BackOffUntil(_) => {
                    // During the backoff no request is sent: the last error still applies.
                    let failure = shared.failure.borrow().clone();
                    return Err(failure.unwrap_or_else(|| Rc::new(Error::RefreshAborted)));
                }
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
    pub async fn fetch(&self, request: &Request) -> Result<Response, Rc<Error>> {
        let started = self.0.tokens().borrow().generation();
        let (response, refused) = self.call(request, &self.token().await?, started).await?;
        if !refused {
            return Ok(response);
        }
        match self.token().await {
            Ok(other) => Ok(self.call(request, &other, started).await?.0),
            // Without a new token, the application gets the rejection.
            Err(_) => Ok(response),
        }
    }

    /// Sends the request with this token, and returns the response and whether to retry with a new
    /// token. `started` is the token manager's generation from before the token was obtained.
    async fn call(
        &self,
        request: &Request,
        token: &Token,
        started: u64,
    ) -> Result<(Response, bool), Rc<Error>> {
        let Called {
            response,
            uri,
            is_refused,
        } = self.0.transport.perform(token, request).await?;
        let tokens = self.0.tokens();
        let mut tokens = tokens.borrow_mut();
        if is_refused {
            return Ok((
                response,
                tokens.token_rejected(token, &uri, started, platform::now()),
            ));
        }
        if let Ok(status) = StatusCode::from_u16(response.status()) {
            tokens.token_accepted(&uri, status);
        }
        Ok((response, false))
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
    pub async fn log_in_with(&self, grant: Grant) -> Result<Token, Rc<Error>> {
        self.require_key().map_err(Error::from)?;
        self.0.start(Some(grant), None);
        let token = self.token().await?;
        platform::post(&self.0.channel, LOGGED_IN);
        Ok(token)
    }

    /// Ends the session in all tabs. Deletes the tokens, and revokes the refresh token if the client has
    /// a revocation endpoint. Deletes the key, unless another session of this name has tokens that are
    /// bound to it.
    ///
    /// Waits until a refresh in flight in any tab completes, for up to the refresh timeout.
    ///
    /// # Errors
    /// Returns [`Error::Browser`] if IndexedDB is not available or the refresh in flight exceeds the
    /// timeout, and the error of the revocation. Each step is carried out even if a previous one fails:
    /// after a timeout, the tokens are deleted and revoked all the same.
    pub async fn log_out(&self) -> Result<(), Error> {
        let shared = &self.0;
        let state = shared.tokens().borrow().snapshot();
        shared.log_out();
        platform::post(&shared.channel, LOGGED_OUT);
        // A refresh in flight in a tab that has not received the message yet completes first.
        let refresh_timeout = shared.tokens().borrow().refresh_timeout();
        let lock = Lock::acquire(&shared.id, refresh_timeout).await;
        let key = key::storage_key(&shared.name);
        let erased = platform::erase_session(&shared.storage_key(), &key).await;
        let erased = erased.and(lock.map(drop)).map_err(Error::Browser);
        let refresh_token = state
            .as_ref()
            .and_then(|state| state.token()?.refresh_token());
        let revocation = refresh_token.and_then(|token| {
            shared
                .client
                .revoke(token.clone(), Some(TokenTypeHint::RefreshToken))
                .ok()
        });
        let revoked = match revocation {
            Some(operation) => shared.transport.execute(operation).await.map(|_| ()),
            None => Ok(()),
        };
        erased.and(revoked)
    }

    /// Checks that the key still exists.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] after a logout, which deleted the key.
    pub(crate) fn require_key(&self) -> Result<(), InvalidInput> {
        match self.0.closed.get() {
            true => Err(InvalidInput::new(
                "session",
                "must be opened again after a logout, with a new key",
            )),
            false => Ok(()),
        }
    }

    fn refresh(&self, tokens: Rc<RefCell<TokenManager>>, ticket: Ticket) -> Refresh {
        Refresh {
            shared: Rc::clone(&self.0),
            tokens,
            ticket: Some(ticket),
            save_failed: false,
        }
    }
}

impl TokenSource {
    /// Returns the grant for the token manager. A callback is represented by a repeatable grant, since
    /// it may be called any number of times.
    fn grant(&self) -> Option<Grant> {
        match self {
            Self::Grant(grant) => grant.clone(),
            Self::Callback(_) => Some(Grant::client_credentials()),
        }
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

impl Shared {
    fn storage_key(&self) -> String {
        format!("session {}", self.id)
    }

    /// Loads the stored state of this or another tab, and merges its server state. Returns `None` for
    /// state of another format version or key.
    async fn load_state(&self) -> Result<Option<SessionState>, Error> {
        let Some(text) = platform::load(&self.storage_key())
            .await
            .map_err(Error::Browser)?
        else {
            return Ok(None);
        };
        let since = platform::now().saturating_sub(NONCE_LIFETIME);
        let state = SessionState::from_json(text.as_bytes(), &self.client, since).ok();
        if let Some(state) = &state {
            self.transport.merge_server_state(state.server_state());
        }
        Ok(state)
    }

    /// Resumes the stored state, if there is any, unless a login or logout happens meanwhile.
    async fn resume(&self) -> Result<(), Error> {
        let tokens = self.tokens();
        let state = self.load_state().await?;
        if let Some(state) = state.filter(|_| self.is_current(&tokens) && !self.closed.get()) {
            self.start(self.source.grant(), Some(state));
        }
        Ok(())
    }

    async fn save_state(&self, state: &SessionState) -> Result<(), Error> {
        let json = state
            .clone()
            .with_server_state(self.transport.server_state())
            .to_json();
        let text = std::str::from_utf8(json.expose()).unwrap_or_default();
        platform::save(&self.storage_key(), text)
            .await
            .map_err(Error::Browser)
    }

    /// Saves the unsaved state of a token manager. Returns `true` if none is left, also if the token
    /// manager was replaced by a login or a logout.
    async fn save_rest(&self, tokens: &Rc<RefCell<TokenManager>>) -> bool {
        let unsaved = tokens
            .borrow()
            .unsaved()
            .filter(|_| self.is_current(tokens));
        let Some(state) = unsaved else { return true };
        let saved = self.save_state(&state).await.is_ok();
        if saved {
            tokens.borrow_mut().saved(&state);
        }
        saved
    }

    fn log_out(&self) {
        self.closed.set(true);
        self.start(None, None);
    }

    fn tokens(&self) -> Rc<RefCell<TokenManager>> {
        Rc::clone(&self.tokens.borrow())
    }

    fn is_current(&self, tokens: &Rc<RefCell<TokenManager>>) -> bool {
        Rc::ptr_eq(&self.tokens.borrow(), tokens)
    }

    fn start(&self, grant: Option<Grant>, state: Option<SessionState>) {
        *self.tokens.borrow_mut() = new_token_manager(grant, state);
        self.settled.notify_all();
    }
}

fn new_token_manager(
    grant: Option<Grant>,
    state: Option<SessionState>,
) -> Rc<RefCell<TokenManager>> {
    let tokens = TokenManager::new(RefreshPolicy::default(), grant);
    Rc::new(RefCell::new(match state {
        Some(state) => tokens.with_state(state),
        None => tokens,
    }))
}

/// Retries a failed save until the refresh timeout, and then releases the lock. Until then, no other tab
/// uses the stored refresh token, which may have been replaced.
async fn save_later(shared: Rc<Shared>, tokens: Rc<RefCell<TokenManager>>, lock: Lock) {
    let until = platform::now().saturating_add(tokens.borrow().refresh_timeout());
    while platform::now() < until {
        platform::sleep(SAVE_RETRY_INTERVAL).await;
        if shared.save_rest(&tokens).await {
            break;
        }
    }
    drop(lock);
}

/// Applies logins and logouts of other tabs for as long as the session exists.
async fn listen(shared: Weak<Shared>, channel: JsValue) {
    loop {
        let message = platform::next_message(&channel).await;
        let Some(shared) = shared.upgrade() else {
            return;
        };
        match message.as_string().as_deref() {
            Some(LOGGED_OUT) => shared.log_out(),
            // State that can't be loaded now is loaded by the next refresh.
            _ if shared.closed.get() => {}
            _ => drop(shared.resume().await),
        }
    }
}

/// A refresh in flight. Completes its ticket and wakes the waiting callers, on drop at the latest.
struct Refresh {
    shared: Rc<Shared>,
    /// The token manager that issued the ticket. The session may have replaced it since.
    tokens: Rc<RefCell<TokenManager>>,
    ticket: Option<Ticket>,
    /// Whether the new token could not be saved.
    save_failed: bool,
}

impl Refresh {
    async fn run(mut self) -> Result<Token, Rc<Error>> {
        let shared = Rc::clone(&self.shared);
        // Held until the result is saved.
        let mut lock = None;
        let result = self.refresh(&mut lock).await.map_err(Rc::new);
        self.end(&result);
        if let Some(lock) = lock {
            if !shared.save_rest(&self.tokens).await {
                let tokens = Rc::clone(&self.tokens);
                spawn_local(save_later(shared, tokens, lock));
            }
        }
        result
    }

    async fn refresh(&mut self, lock: &mut Option<Lock>) -> Result<Token, Error> {
        let shared = Rc::clone(&self.shared);
        let refresh_timeout = self.tokens.borrow().refresh_timeout();
        *lock = Some(
            Lock::acquire(&shared.id, refresh_timeout)
                .await
                .map_err(Error::Browser)?,
        );
        // While this tab waited for the lock, a login or logout may have ended this refresh's session.
        if shared.closed.get() || !shared.is_current(&self.tokens) {
            return Err(Error::LoginRequired);
        }
        if let Some(state) = shared.load_state().await? {
            let adopted = self
                .with_ticket(|tokens, ticket| tokens.adopt(ticket, state, platform::now(), seed()));
            if let Some(token) = adopted.flatten() {
                return Ok(token);
            }
        }
        let good = self.tokens.borrow().valid_token(platform::now());
        if let Some(token) = good {
            return Ok(token); // The ticket was issued only to save it.
        }
        let attempt = self
            .with_ticket(TokenManager::begin_refresh)
            .flatten()
            .ok_or(Error::LoginRequired)?;
        if let Some(checkpoint) = attempt.checkpoint {
            if let Err(error) = shared.save_state(&checkpoint).await {
                self.with_ticket(TokenManager::withdraw);
                return Err(error);
            }
            self.tokens.borrow_mut().saved(&checkpoint);
        }
        let token = match &shared.source {
            TokenSource::Grant(_) => {
                shared
                    .transport
                    .execute(shared.client.token(attempt.grant)?)
                    .await?
            }
            TokenSource::Callback(get) => {
                let response = get().await.map_err(Error::Callback)?;
                shared
                    .client
                    .parse_token_response(response.as_bytes(), platform::now())?
            }
        };
        // Saved before its first use, since the server returns a new refresh token only once.
        if shared.is_current(&self.tokens) {
            let state = self.tokens.borrow().snapshot_with(token.clone());
            self.save_failed = shared.save_state(&state).await.is_err();
        }
        Ok(token)
    }

    fn end(&mut self, result: &Result<Token, Rc<Error>>) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let outcome = result.clone().map_err(|error| error.refresh_failure());
        *self.shared.failure.borrow_mut() = result.as_ref().err().cloned();
        let mut tokens = self.tokens.borrow_mut();
        tokens.complete(ticket, outcome, platform::now(), seed());
        if self.save_failed {
            tokens.save_failed(platform::now());
        }
        drop(tokens);
        self.shared.settled.notify_all();
    }

    fn with_ticket<T>(
        &mut self,
        with: impl FnOnce(&mut TokenManager, &mut Ticket) -> T,
    ) -> Option<T> {
        let ticket = self.ticket.as_mut()?;
        Some(with(&mut self.tokens.borrow_mut(), ticket))
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        self.end(&Err(Rc::new(Error::RefreshAborted)));
    }
}

fn seed() -> u64 {
    u64::from_ne_bytes(platform::entropy())
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("name", &self.0.name)
            .field("client", &self.0.client)
            .finish_non_exhaustive()
    }
}
