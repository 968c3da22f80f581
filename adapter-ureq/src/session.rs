//! What a synchronous application embeds: it asks for an authorised call, and the token has been taken care of.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use http::{Request, Response};
use keybound_core::{Client, Demand, Grant, Kept, RefreshPolicy, Store, Ticket, Token};

use crate::clock::{Clock, now};
use crate::event::{Event, Reason};
use crate::renewal::{LOOK_AGAIN, Renewal};
use crate::storage::{Storage, StorageError};
use crate::transport::{Performed, Repeatable};
use crate::{Error, Transport};

/// A token that is simply there: got when it is first needed, renewed before it expires, shared by all threads.
/// Cloning a session is cheap, and the clones are one.
///
/// However many threads need a token, one asks for it. A caller with a token that is still good never waits for a
/// renewal; one without waits for the one that is under way, and shares its result, its error included.
#[derive(Clone)]
pub struct Session(Arc<Shared>);

pub(crate) struct Shared {
    pub(crate) transport: Arc<Transport>,
    pub(crate) client: Client,
    pub(crate) shelf: Option<Shelf>,
    /// How long a renewal may take.
    pub(crate) patience: Duration,
    state: Mutex<State>,
    settled: Condvar,
}

/// Where a session is kept.
pub(crate) struct Shelf {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) name: String,
}

impl Shelf {
    /// Waits for whoever renews just now, and removes what that one saves as well.
    fn clear(&self, patience: Duration) -> Result<(), StorageError> {
        let clock = Clock::start(patience);
        loop {
            if let Some(mut lease) = self.storage.lease(&self.name, patience)? {
                return lease.remove();
            }
            if clock.left().is_zero() {
                return Err("another process has been renewing the token for too long".into());
            }
            thread::sleep(LOOK_AGAIN);
        }
    }
}

pub(crate) struct State {
    pub(crate) store: Store,
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
    held: Option<Token>,
    shelf: Option<Shelf>,
}

impl SessionBuilder {
    /// When tokens are renewed.
    pub fn policy(mut self, policy: RefreshPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Begins with this token.
    pub fn token(mut self, token: Token) -> Self {
        self.held = Some(token);
        self
    }

    /// Keeps the session there, under a name that is its own: the next process goes on with it, and processes that run
    /// at the same time share one token. One of them renews; a new token is saved before it is used.
    ///
    /// If the storage fails, each process goes on by itself, and [`Event::Alone`] says so; but a refresh token is not
    /// sent unless it is certain that no other process sends it.
    pub fn kept_in(mut self, storage: Arc<dyn Storage>, name: impl Into<String>) -> Self {
        self.shelf = Some(Shelf { storage, name: name.into() });
        self
    }

    /// The session. Nothing is sent, and nothing loaded, before a token is needed.
    pub fn open(self) -> Session {
        let store = Store::new(self.policy, self.grant);
        let store = match self.held {
            Some(token) => {
                let mut store = store.holding(Kept::new(token));
                store.not_saved();
                store
            }
            None => store,
        };
        Session(Arc::new(Shared {
            transport: self.transport,
            client: self.client,
            shelf: self.shelf,
            patience: store.patience(),
            state: Mutex::new(State { store, failure: None, under_way: 0, ended: 0 }),
            settled: Condvar::new(),
        }))
    }
}

impl Session {
    /// A session that has no token yet, in memory alone. `grant` gets the first: client credentials get every other
    /// one as well; any other grant is followed by the refresh tokens that it brings.
    pub fn new(transport: impl Into<Arc<Transport>>, client: Client, grant: Grant) -> Self {
        Self::builder(transport, client, grant).open()
    }

    /// A session with settings of its own.
    pub fn builder(transport: impl Into<Arc<Transport>>, client: Client, grant: Grant) -> SessionBuilder {
        SessionBuilder { grant: Some(grant), ..Self::resume(transport, client) }
    }

    /// A session that goes on from a token, or from what is [kept](SessionBuilder::kept_in), and can't begin by
    /// itself: without either it ends in [`Error::Reauthenticate`].
    pub fn resume(transport: impl Into<Arc<Transport>>, client: Client) -> SessionBuilder {
        SessionBuilder {
            transport: transport.into(),
            client,
            grant: None,
            policy: RefreshPolicy::default(),
            held: None,
            shelf: None,
        }
    }

    /// What performs its requests.
    pub fn transport(&self) -> &Transport {
        &self.0.transport
    }

    /// A token that is good now.
    ///
    /// # Errors
    /// That of the one renewal that all who need a token have waited for, or that no token came in time.
    pub fn token(&self) -> Result<Token, Arc<Error>> {
        self.token_by(&Clock::start(self.0.transport.time()))
    }

    /// Sends a request with a good token, as [`Transport::call`] does. If the server refuses the token all the
    /// same, it is renewed and the request sent again, once.
    ///
    /// # Errors
    /// If there is no token, or the request gets no answer.
    pub fn run<B: AsRef<[u8]>>(&self, request: Request<B>) -> Result<Response<ureq::Body>, Arc<Error>> {
        let (head, body) = request.into_parts();
        let clock = Clock::start(self.0.transport.time());
        let request = Repeatable::new(head, body.as_ref()).map_err(Error::from)?;
        let send = |token: &Token| {
            let call = request.call(token, clock.left())?;
            self.0.transport.perform(call, &request, &clock)
        };
        let token = self.token_by(&clock)?;
        let Performed { response, token_is_refused } = send(&token)?;
        if !token_is_refused {
            return Ok(response);
        }
        // Without another token, the refusal is the application's.
        let Some(other) = self.token_instead_of(&token, &clock) else { return Ok(response) };
        let Performed { response, token_is_refused } = send(&other)?;
        if token_is_refused {
            self.reject(&other);
        }
        Ok(response)
    }

    /// Forgets the token, and removes what is kept, for this process and for every other that loads it from now on. What
    /// is returned was held until now, to be [revoked](Client::revoke). From then on the session ends in
    /// [`Error::Reauthenticate`].
    ///
    /// # Errors
    /// If what is kept can't be removed; it is forgotten here all the same.
    pub fn log_out(&self) -> Result<Option<Token>, Arc<Error>> {
        let held = self.0.state().store.forget();
        if let Some(shelf) = &self.0.shelf {
            shelf.clear(self.0.patience).map_err(Error::Storage)?;
        }
        Ok(held)
    }

    /// Another token than this one, which a server has refused, for one more request.
    pub(crate) fn token_instead_of(&self, refused: &Token, clock: &Clock) -> Option<Token> {
        self.reject(refused);
        let other = self.token_by(clock).ok()?;
        self.0.transport.tell(Event::Again { wait: Duration::ZERO, reason: Reason::TokenRefused });
        Some(other)
    }

    /// Sees that a token is not used again, which a server has refused.
    pub(crate) fn reject(&self, refused: &Token) {
        self.0.state().store.reject(refused);
    }

    /// Whether anybody but a pool has it, a renewal included.
    pub(crate) fn is_held(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    pub(crate) fn token_by(&self, clock: &Clock) -> Result<Token, Arc<Error>> {
        let shared = &self.0;
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
            match state.store.demand(now()) {
                Demand::Use(token, None) => return Ok(token),
                Demand::Use(token, Some(ticket)) => {
                    self.begin(state, ticket);
                    return Ok(token);
                }
                Demand::Renew(ticket) => {
                    self.begin(state, ticket);
                    state = shared.state();
                }
                Demand::Wait(_) if clock.left().is_zero() => return Err(Arc::new(Error::OutOfTime)),
                Demand::Wait(until) => {
                    let wait = until.saturating_since(now()).min(clock.left());
                    let woken = shared.settled.wait_timeout(state, wait);
                    state = woken.unwrap_or_else(PoisonError::into_inner).0;
                }
                Demand::Pause(_) => {
                    // Nobody is asked twice within a moment: the answer is still the one that has just come.
                    return Err(state.failure.clone().unwrap_or_else(|| Arc::new(Error::RenewalEnded)));
                }
            }
        }
    }

    /// Renews in a thread of its own, so that no caller's budget ends a request that uses something up. Where no thread
    /// can be had, the renewal ends at once.
    fn begin(&self, mut state: MutexGuard<'_, State>, ticket: Ticket) {
        state.under_way += 1;
        drop(state);
        let renewal = Renewal::new(&self.0, ticket);
        let _ = thread::Builder::new().name("keybound-renewal".into()).spawn(move || renewal.run());
    }
}

/// The last one waits for a refresh token that is under way, as long as the policy's patience lasts: the process may
/// be about to end, and the answer comes only once.
impl Drop for Session {
    fn drop(&mut self) {
        let clock = Clock::start(self.0.patience);
        let mut state = self.0.state();
        while state.under_way > 0
            && Arc::strong_count(&self.0) <= state.under_way + 1
            && !state.store.is_repeatable()
            && !clock.left().is_zero()
        {
            let woken = self.0.settled.wait_timeout(state, clock.left());
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
    pub(crate) fn wake(&self) {
        self.settled.notify_all();
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("client", &self.0.client).finish_non_exhaustive()
    }
}

impl fmt::Debug for SessionBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionBuilder").field("client", &self.client).finish_non_exhaustive()
    }
}
