//! A session: authorized calls for synchronous applications, with tokens that are fetched,
//! refreshed and stored.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use http::{Request, Response, Uri};
use keybound_core::driver::{SessionState, Ticket, TokenAction, TokenManager};
use keybound_core::{Client, Grant, RefreshPolicy, Scope, Token};

use crate::clock::{Deadline, now};
use crate::event::{Event, Reason};
use crate::refresh::Refresh;
use crate::shared::{Shared, State, StorageSlot};
use crate::storage::Storage;
use crate::transport::{CallResult, ReplayableRequest};
use crate::{Error, Transport};

/// A session with an authorization server. It fetches a token on first use, refreshes it before it
/// expires, and shares it between threads. Clones are cheap and share the same session.
///
/// Concurrent callers cause a single token request. Callers with a valid token never block on a
/// refresh. Callers without one wait for the refresh in progress and share its result, including
/// its error.
#[derive(Clone)]
#[doc(alias("refresh", "cache", "single flight"))]
pub struct Session(Arc<Handle>);

/// The handle that all clones of a session share and its refresh threads don't. It is dropped with
/// the last clone.
struct Handle(Arc<Shared>);

/// A builder for a [`Session`].
#[must_use = "call `build` to create the session"]
pub struct SessionBuilder {
    transport: Arc<Transport>,
    client: Client,
    grant: Option<Grant>,
    policy: RefreshPolicy,
    token: Option<Token>,
    scope: Option<Scope>,
    resources: Vec<String>,
    slot: Option<(Arc<dyn Storage>, String)>,
}

impl SessionBuilder {
    /// Sets the policy for token refreshes: when they start and how long they may take.
    pub fn policy(mut self, policy: RefreshPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sets the session's first token, from a login that was made elsewhere.
    ///
    /// With a [storage](Self::storage) the token is stored immediately, in the background, even if
    /// it has expired. It replaces the stored state, unless that state descends from this token: an
    /// application that restarts with an old token continues with its successor.
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Sets the scope in the name under which the session is [stored](Self::storage). It is not
    /// sent: the grant has the scope to request. Default: the scope of a
    /// [repeatable](Grant::is_repeatable) grant, otherwise none.
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Adds a resource (RFC 8707) to the name under which the session is [stored](Self::storage).
    /// It is not sent: the grant has the resources to request. Default: the resources of a
    /// [repeatable](Grant::is_repeatable) grant, otherwise none.
    pub fn resource(mut self, uri: &str) -> Self {
        self.resources.push(uri.to_owned());
        self
    }

    /// Stores the session in `storage` under a unique name. The next process loads it, and
    /// concurrent processes share one token: one of them refreshes it, and a new token is saved
    /// before it is used.
    ///
    /// If the storage fails, a process with a [repeatable](Grant::is_repeatable) grant continues on
    /// its own and emits [`Event::StorageUnavailable`]. A refresh token or a single-use grant is not
    /// sent without the storage: another process might send it too, or its token could not be
    /// stored.
    ///
    /// The key in the storage is `name`, a hyphen, and the
    /// [fingerprint](Client::session_fingerprint) of client, server, [scope](Self::scope) and
    /// [resources](Self::resource). A session of another client or server with the same `name` is
    /// therefore neither loaded nor replaced.
    pub fn storage(mut self, storage: Arc<dyn Storage>, name: impl Into<String>) -> Self {
        self.slot = Some((storage, name.into()));
        self
    }

    /// Creates the session. It neither sends a request nor accesses the storage until a token is
    /// needed. The exception is a given [token](Self::token): with a [storage](Self::storage) it is
    /// stored immediately, in the background and without a refresh, even if it has expired.
    pub fn build(self) -> Session {
        let slot = self.slot.as_ref().map(|(storage, name)| {
            let name = format!("{name}-{}", self.fingerprint());
            StorageSlot {
                storage: Arc::clone(storage),
                name,
            }
        });
        let tokens = TokenManager::new(self.policy, self.grant);
        let tokens = match self.token {
            Some(token) => {
                let mut tokens = tokens.with_state(SessionState::new(token));
                if slot.is_some() {
                    tokens.mark_given();
                }
                tokens
            }
            None => tokens,
        };
        let session = Session(Arc::new(Handle(Arc::new(Shared {
            transport: self.transport,
            client: self.client,
            slot,
            refresh_timeout: tokens.refresh_timeout(),
            state: Mutex::new(State {
                tokens,
                failure: None,
                in_flight: 0,
                completed: 0,
            }),
            refresh_finished: Condvar::new(),
        }))));
        session.store_given();
        session
    }

    fn fingerprint(&self) -> String {
        let repeatable = self.grant.as_ref().filter(|grant| grant.is_repeatable());
        let scope = self
            .scope
            .as_ref()
            .or(repeatable.and_then(Grant::requested_scope));
        let of_grant = repeatable.filter(|_| self.resources.is_empty()).into_iter();
        let resources = of_grant.flat_map(Grant::requested_resources);
        let resources = resources.chain(self.resources.iter().map(String::as_str));
        self.client.session_fingerprint(scope, resources)
    }
}

impl Session {
    /// Creates a session without a token and without a storage. `grant` fetches the first token. A
    /// [repeatable](Grant::is_repeatable) grant, such as client credentials, also fetches all later
    /// tokens, and no refresh token is used; after any other grant, the session uses refresh
    /// tokens.
    pub fn new(transport: impl Into<Arc<Transport>>, client: Client, grant: Grant) -> Self {
        Self::builder(transport, client, grant).build()
    }

    /// Returns a builder for a session that uses `grant` as [`new`](Self::new) does.
    pub fn builder(
        transport: impl Into<Arc<Transport>>,
        client: Client,
        grant: Grant,
    ) -> SessionBuilder {
        SessionBuilder {
            grant: Some(grant),
            ..Self::resume(transport, client)
        }
    }

    /// Returns a builder for a session without a grant, which continues from a
    /// [token](SessionBuilder::token) or from its [stored state](SessionBuilder::storage). With
    /// neither, its calls return [`Error::LoginRequired`].
    pub fn resume(transport: impl Into<Arc<Transport>>, client: Client) -> SessionBuilder {
        SessionBuilder {
            transport: transport.into(),
            client,
            grant: None,
            policy: RefreshPolicy::default(),
            token: None,
            scope: None,
            resources: Vec::new(),
            slot: None,
        }
    }

    /// Returns the transport of the session.
    pub fn transport(&self) -> &Transport {
        &self.shared().transport
    }

    /// Returns a valid token, and fetches or refreshes it if necessary.
    ///
    /// # Errors
    /// Returns the error of the refresh, which all callers that waited for it share; the same error
    /// again until the [retry interval](RefreshPolicy::retry_interval) has passed;
    /// [`Error::LoginRequired`] if no grant and no refresh token is left; or [`Error::Timeout`] if
    /// the refresh did not complete within the transport's [timeout](Transport::timeout).
    pub fn token(&self) -> Result<Token, Arc<Error>> {
        self.token_by(&Deadline::start(self.shared().transport.total_timeout()))
    }

    /// Sends a request with a valid token, as [`Transport::send`] does. If the server rejects a
    /// token that the session had before this call, the session refreshes it and sends the request
    /// once more. A rejection of a new token is returned as it is; after two of those in a row from
    /// one origin, its rejections cause no token request for 30 s. The response is returned for any
    /// status.
    ///
    /// # Errors
    /// Returns the errors of [`token`](Self::token) and of [`Transport::send`].
    pub fn send<B: AsRef<[u8]>>(
        &self,
        request: Request<B>,
    ) -> Result<Response<ureq::Body>, Arc<Error>> {
        let (head, body) = request.into_parts();
        let deadline = Deadline::start(self.shared().transport.total_timeout());
        let request = ReplayableRequest::new(head, body.as_ref()).map_err(Error::from)?;
        let send = |token: &Token| {
            let call = request.call(token, deadline.left())?;
            self.shared().transport.perform(call, &request, &deadline)
        };
        let started = self.generation();
        let token = self.token_by(&deadline)?;
        let result = send(&token)?;
        if !self.is_refused(&token, &result, request.uri(), started) {
            return Ok(result.response);
        }
        // Without a new token, the application gets the response that rejected the token.
        let Some(new_token) = self.another_token(&deadline) else {
            return Ok(result.response);
        };
        let result = send(&new_token)?;
        self.is_refused(&new_token, &result, request.uri(), started);
        Ok(result.response)
    }

    /// Clears the session and removes its stored state, also for other processes that load it from
    /// now on. If another process is refreshing the token, waits for it, at most for the [refresh
    /// timeout](RefreshPolicy::refresh_timeout). Returns the last token, so that the caller can
    /// [revoke](Client::revoke) it. Later calls return [`Error::LoginRequired`].
    ///
    /// # Errors
    /// Returns [`Error::Storage`] if the stored state cannot be removed, or if the other process
    /// does not complete in time. The session in memory is cleared nevertheless.
    pub fn log_out(&self) -> Result<Option<Token>, Arc<Error>> {
        let token = self.shared().state().tokens.clear();
        if let Some(slot) = &self.shared().slot {
            slot.clear(self.shared().refresh_timeout)
                .map_err(Error::Storage)?;
        }
        Ok(token)
    }

    /// Returns a number that increases with every token of the session.
    pub(crate) fn generation(&self) -> u64 {
        self.shared().state().tokens.generation()
    }

    /// Records whether the server accepted the token. Returns whether the request must be retried
    /// with a new token. `started` is the generation before the token was requested.
    pub(crate) fn is_refused(
        &self,
        token: &Token,
        result: &CallResult,
        uri: &Uri,
        started: u64,
    ) -> bool {
        let mut state = self.shared().state();
        if result.token_rejected {
            return state.tokens.token_rejected(token, uri, started, now());
        }
        state.tokens.token_accepted(uri, result.response.status());
        false
    }

    /// Returns a new token for one retry, or `None` if there is none.
    pub(crate) fn another_token(&self, deadline: &Deadline) -> Option<Token> {
        let new_token = self.token_by(deadline).ok()?;
        self.shared().transport.emit(Event::Retrying {
            wait: Duration::ZERO,
            reason: Reason::TokenRejected,
        });
        Some(new_token)
    }

    /// Whether the session has clones outside its pool or a refresh in progress.
    pub(crate) fn is_in_use(&self) -> bool {
        let state = self.shared().state();
        // Closed now, the session would lose a token that is not stored yet.
        Arc::strong_count(&self.0) > 1 || state.in_flight > 0 || state.tokens.unsaved().is_some()
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Stores the token that the session begins with, without refreshing it.
    fn store_given(&self) {
        let mut state = self.shared().state();
        if state.tokens.unsaved().is_none() {
            return;
        }
        if let TokenAction::Use(_, Some(ticket)) | TokenAction::Refresh(ticket) =
            state.tokens.poll(now())
        {
            state.in_flight += 1;
            drop(state);
            spawn(Refresh::new(self.shared(), ticket).store_only());
        }
    }

    pub(crate) fn token_by(&self, deadline: &Deadline) -> Result<Token, Arc<Error>> {
        let shared = self.shared();
        let mut state = shared.state();
        let mut completed = state.completed;
        loop {
            if state.completed != completed {
                completed = state.completed;
                // All callers that waited for a refresh share its result.
                if let Some(failure) = &state.failure {
                    return Err(Arc::clone(failure));
                }
            }
            match state.tokens.poll(now()) {
                TokenAction::Use(token, None) => return Ok(token),
                TokenAction::Use(token, Some(ticket)) => {
                    self.start_refresh(state, ticket);
                    return Ok(token);
                }
                TokenAction::Refresh(ticket) => {
                    self.start_refresh(state, ticket);
                    state = shared.state();
                }
                TokenAction::WaitUntil(_) if deadline.left().is_zero() => {
                    return Err(Arc::new(Error::Timeout));
                }
                TokenAction::WaitUntil(until) => {
                    let wait = until.saturating_since(now()).min(deadline.left());
                    let guard = shared.refresh_finished.wait_timeout(state, wait);
                    state = guard.unwrap_or_else(PoisonError::into_inner).0;
                }
                TokenAction::BackOffUntil(_) => {
                    // No refresh starts so soon after a failed one. Its error still applies.
                    return Err(state
                        .failure
                        .clone()
                        .unwrap_or_else(|| Arc::new(Error::RefreshAborted)));
                }
            }
        }
    }

    /// Refreshes in a separate thread, so that the timeout of a caller does not abort a request
    /// that consumes a single-use token. If no thread can be started, the refresh is aborted
    /// immediately.
    fn start_refresh(&self, mut state: MutexGuard<'_, State>, ticket: Ticket) {
        state.in_flight += 1;
        drop(state);
        spawn(Refresh::new(self.shared(), ticket));
    }
}

/// Runs a refresh in a thread of its own. Without a thread it ends at once, as aborted.
fn spawn(refresh: Refresh) {
    let _ = thread::Builder::new()
        .name("keybound-refresh".into())
        .spawn(move || refresh.run());
}

/// Ends the session with its last clone. Waits at most the policy's refresh timeout for a refresh
/// token that is in flight or not stored yet: the process may be about to exit, and the server
/// sends a new refresh token only once.
impl Drop for Handle {
    fn drop(&mut self) {
        let Self(shared) = self;
        let deadline = Deadline::start(shared.refresh_timeout);
        let mut state = shared.state();
        while state.in_flight > 0 && state.tokens.may_lose_login() && !deadline.left().is_zero() {
            let guard = shared.refresh_finished.wait_timeout(state, deadline.left());
            state = guard.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session")
            .field("client", &self.shared().client)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder")
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}
