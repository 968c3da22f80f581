//! What a synchronous application embeds: it asks for an authorised call, and the token has been taken care of.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use http::{Request, Response, Uri};
use keybound_core::driver::{SessionState, Ticket, TokenAction, TokenManager};
use keybound_core::{Client, Grant, RefreshPolicy, Scope, Token};

use crate::clock::{Deadline, now};
use crate::event::{Event, Reason};
use crate::refresh::{POLL_INTERVAL, Refresh};
use crate::storage::{Storage, StorageError};
use crate::transport::{CallResult, ReplayableRequest};
use crate::{Error, Transport};

/// A token that is simply there: got when it is first needed, renewed before it expires, shared by all threads.
/// Cloning a session is cheap, and the clones are one.
///
/// However many threads need a token, one asks for it. A caller with a token that is still good never waits for a
/// renewal; one without waits for the one that is under way, and shares its result, its error included.
#[derive(Clone)]
pub struct Session(Arc<Handle>);

/// What the clones of a session share, and its refreshes don't: it is dropped with the last of them.
struct Handle(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) transport: Arc<Transport>,
    pub(crate) client: Client,
    pub(crate) slot: Option<StorageSlot>,
    /// How long a renewal may take.
    pub(crate) refresh_timeout: Duration,
    state: Mutex<State>,
    settled: Condvar,
}

/// Where a session is kept.
pub(crate) struct StorageSlot {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) name: String,
}

impl StorageSlot {
    /// Waits for whoever renews just now, and removes what that one saves as well.
    fn clear(&self, patience: Duration) -> Result<(), StorageError> {
        let clock = Deadline::start(patience);
        loop {
            if let Some(mut lease) = self.storage.lease(&self.name, patience)? {
                return lease.remove();
            }
            if clock.left().is_zero() {
                return Err("another process has been renewing the token for too long".into());
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

pub(crate) struct State {
    pub(crate) tokens: TokenManager,
    /// Why the last renewal failed, for those who waited for it.
    pub(crate) failure: Option<Arc<Error>>,
    /// How many renewals have ended, those left aside whose ticket had lapsed.
    pub(crate) ended: u64,
    /// How many have threads.
    pub(crate) under_way: usize,
}

/// A session that is being set up.
#[must_use = "it becomes a session by `open`"]
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
    /// When tokens are renewed.
    pub fn policy(mut self, policy: RefreshPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Begins with this token, of a login that was made without this session.
    ///
    /// With a [storage](Self::storage) it is stored at once, in the background. It replaces what is stored, unless that
    /// descends from this token: an application that starts again with an old token goes on with its successor.
    pub fn token(mut self, token: Token) -> Self {
        self.token = Some(token);
        self
    }

    /// Sets the scope that the session's tokens are for, which is part of the name under which it is
    /// [stored](Self::storage). Defaults to that of a grant that is [repeatable](Grant::is_repeatable), else to none.
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Adds a resource (RFC 8707) that the session's tokens are for, which is part of the name under which it is
    /// [stored](Self::storage). Defaults to those of a grant that is [repeatable](Grant::is_repeatable), else to none.
    pub fn resource(mut self, uri: &str) -> Self {
        self.resources.push(uri.to_owned());
        self
    }

    /// Keeps the session there, under a name that is its own: the next process goes on with it, and processes that run
    /// at the same time share one token. One of them renews; a new token is saved before it is used.
    ///
    /// If the storage fails, each process goes on by itself, and [`Event::StorageUnavailable`] says so; but a refresh token is not
    /// sent unless it is certain that no other process sends it.
    ///
    /// The storage has it under this name, a hyphen, and the [fingerprint](Client::session_fingerprint) of client, server,
    /// [scope](Self::scope) and [resources](Self::resource). A session of another client, or at another server, is not
    /// found under the same name, nor replaced.
    pub fn storage(mut self, storage: Arc<dyn Storage>, name: impl Into<String>) -> Self {
        self.slot = Some((storage, name.into()));
        self
    }

    /// The session. Nothing is sent before a token is needed, and nothing loaded unless it begins with a
    /// [token](Self::token).
    pub fn build(self) -> Session {
        let shelf = self.slot.as_ref().map(|(storage, name)| {
            let name = format!("{name}-{}", self.fingerprint());
            StorageSlot {
                storage: Arc::clone(storage),
                name,
            }
        });
        let store = TokenManager::new(self.policy, self.grant);
        let store = match self.token {
            Some(token) => {
                let mut store = store.with_state(SessionState::new(token));
                if shelf.is_some() {
                    store.mark_unsaved();
                }
                store
            }
            None => store,
        };
        let session = Session(Arc::new(Handle(Arc::new(Shared {
            transport: self.transport,
            client: self.client,
            slot: shelf,
            refresh_timeout: store.refresh_timeout(),
            state: Mutex::new(State {
                tokens: store,
                failure: None,
                under_way: 0,
                ended: 0,
            }),
            settled: Condvar::new(),
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
    /// A session that has no token yet, in memory alone. `grant` gets the first: client credentials get every other
    /// one as well; any other grant is followed by the refresh tokens that it brings.
    pub fn new(transport: impl Into<Arc<Transport>>, client: Client, grant: Grant) -> Self {
        Self::builder(transport, client, grant).build()
    }

    /// A session with settings of its own.
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

    /// A session that goes on from a token, or from what is [kept](SessionBuilder::storage), and can't begin by
    /// itself: without either it ends in [`Error::LoginRequired`].
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

    /// What performs its requests.
    pub fn transport(&self) -> &Transport {
        &self.shared().transport
    }

    /// A token that is good now.
    ///
    /// # Errors
    /// That of the one renewal that all who need a token have waited for, or that no token came in time.
    pub fn token(&self) -> Result<Token, Arc<Error>> {
        self.token_by(&Deadline::start(self.shared().transport.total_timeout()))
    }

    /// Sends a request with a good token, as [`Transport::send_once`] does. If the server refuses the token all the
    /// same, it is renewed and the request sent again, once.
    ///
    /// # Errors
    /// If there is no token, or the request gets no answer.
    pub fn send<B: AsRef<[u8]>>(
        &self,
        request: Request<B>,
    ) -> Result<Response<ureq::Body>, Arc<Error>> {
        let (head, body) = request.into_parts();
        let clock = Deadline::start(self.shared().transport.total_timeout());
        let request = ReplayableRequest::new(head, body.as_ref()).map_err(Error::from)?;
        let send = |token: &Token| {
            let call = request.call(token, clock.left())?;
            self.shared().transport.perform(call, &request, &clock)
        };
        let started = self.generation();
        let token = self.token_by(&clock)?;
        let performed = send(&token)?;
        if !self.is_refused(&token, &performed, request.uri(), started) {
            return Ok(performed.response);
        }
        // Without another token, the refusal is the application's.
        let Some(other) = self.another_token(&clock) else {
            return Ok(performed.response);
        };
        let performed = send(&other)?;
        self.is_refused(&other, &performed, request.uri(), started);
        Ok(performed.response)
    }

    /// Forgets the token, and removes what is kept, for this process and for every other that loads it from now on. What
    /// is returned was held until now, to be [revoked](Client::revoke). From then on the session ends in
    /// [`Error::LoginRequired`].
    ///
    /// # Errors
    /// If what is kept can't be removed; it is forgotten here all the same.
    pub fn log_out(&self) -> Result<Option<Token>, Arc<Error>> {
        let held = self.shared().state().tokens.clear();
        if let Some(shelf) = &self.shared().slot {
            shelf
                .clear(self.shared().refresh_timeout)
                .map_err(Error::Storage)?;
        }
        Ok(held)
    }

    /// A number that grows with every token that the session gets.
    pub(crate) fn generation(&self) -> u64 {
        self.shared().state().tokens.generation()
    }

    /// Notes whether the server has taken the token, and returns whether the request is to be sent again with another.
    /// `started` is the generation of before it was got.
    pub(crate) fn is_refused(
        &self,
        token: &Token,
        performed: &CallResult,
        uri: &Uri,
        started: u64,
    ) -> bool {
        let mut state = self.shared().state();
        if performed.token_is_refused {
            return state.tokens.refused(token, uri, started, now());
        }
        // An error of the server's own is no word about the token.
        if !performed.response.status().is_server_error() {
            state.tokens.accepted(uri);
        }
        false
    }

    /// Another token, for one more request.
    pub(crate) fn another_token(&self, clock: &Deadline) -> Option<Token> {
        let other = self.token_by(clock).ok()?;
        self.shared().transport.emit(Event::Retrying {
            wait: Duration::ZERO,
            reason: Reason::TokenRejected,
        });
        Some(other)
    }

    /// Whether anybody but a pool has it, a renewal included.
    pub(crate) fn is_cached(&self) -> bool {
        Arc::strong_count(&self.0) > 1 || self.shared().state().under_way > 0
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.0.0
    }

    /// Stores the token that the session begins with, unless it has to be refreshed first.
    fn store_given(&self) {
        let mut state = self.shared().state();
        if state.tokens.unsaved().is_some() && state.tokens.good(now()).is_some() {
            if let TokenAction::Use(_, Some(ticket)) = state.tokens.poll(now()) {
                self.start_refresh(state, ticket);
            }
        }
    }

    pub(crate) fn token_by(&self, clock: &Deadline) -> Result<Token, Arc<Error>> {
        let shared = self.shared();
        let mut state = shared.state();
        let mut ended = state.ended;
        loop {
            if state.ended != ended {
                ended = state.ended;
                // All who have waited for a renewal share its result.
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
                TokenAction::WaitUntil(_) if clock.left().is_zero() => {
                    return Err(Arc::new(Error::Timeout));
                }
                TokenAction::WaitUntil(until) => {
                    let wait = until.saturating_since(now()).min(clock.left());
                    let woken = shared.settled.wait_timeout(state, wait);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
                TokenAction::BackOffUntil(_) => {
                    // Nobody is asked twice within a moment: the answer is still the one that has just come.
                    return Err(state
                        .failure
                        .clone()
                        .unwrap_or_else(|| Arc::new(Error::RefreshAborted)));
                }
            }
        }
    }

    /// Renews in a thread of its own, so that no caller's budget ends a request that uses something up. Where no thread
    /// can be had, the renewal ends at once.
    fn start_refresh(&self, mut state: MutexGuard<'_, State>, ticket: Ticket) {
        state.under_way += 1;
        drop(state);
        let renewal = Refresh::new(self.shared(), ticket);
        let _ = thread::Builder::new()
            .name("keybound-renewal".into())
            .spawn(move || renewal.run());
    }
}

/// With the last clone ends the session. It waits for a refresh token that is under way or not stored yet, as long as the
/// policy's patience lasts: the process may be about to end, and the answer comes only once.
impl Drop for Handle {
    fn drop(&mut self) {
        let Self(shared) = self;
        let clock = Deadline::start(shared.refresh_timeout);
        let mut state = shared.state();
        while state.under_way > 0 && state.tokens.may_lose_login() && !clock.left().is_zero() {
            let woken = shared.settled.wait_timeout(state, clock.left());
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    /// Never held across IO, and a panic elsewhere leaves nothing half-done in it.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all who wait for a renewal.
    pub(crate) fn notify_all(&self) {
        self.settled.notify_all();
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
