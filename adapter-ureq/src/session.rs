//! What a synchronous application embeds: it asks for an authorised call, and the token has been taken care of.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use http::{Request, Response};
use keybound_core::{Client, Demand, Grant, RefreshPolicy, Store, Ticket, Token};

use crate::clock::{Clock, entropy};
use crate::{Error, Transport};

/// A token that is simply there: got when it is first needed, renewed before it expires, shared by all threads.
/// Cloning a session is cheap, and the clones are one.
///
/// However many threads need a token, one asks for it. A caller with a token that is still good never waits for a
/// renewal; one without waits for the one that is under way, and shares its result, its error included.
#[derive(Clone)]
pub struct Session(Arc<Shared>);

struct Shared {
    transport: Transport,
    client: Client,
    grant: Grant,
    state: Mutex<State>,
    settled: Condvar,
}

struct State {
    store: Store,
    /// Why the last renewal failed, for those who waited for it.
    failure: Option<Arc<Error>>,
    /// How often what is good for once, a refresh token or a code, may still be sent.
    tries_left: u8,
}

/// What may have been used up in a request that was lost is tried once more: it was lost for us anyway, if so.
const TRIES: u8 = 2;

impl Session {
    /// A session that has no token yet. `grant` gets the first: client credentials get every other one as well;
    /// any other grant is followed by the refresh tokens that it brings.
    pub fn new(transport: Transport, client: Client, grant: Grant) -> Self {
        Self::with(transport, client, grant, RefreshPolicy::default(), None)
    }

    /// A session with a policy of its own, and perhaps a token from before.
    pub fn with(
        transport: Transport,
        client: Client,
        grant: Grant,
        policy: RefreshPolicy,
        held: Option<Token>,
    ) -> Self {
        let state = State { store: Store::new(policy, held), failure: None, tries_left: TRIES };
        Self(Arc::new(Shared { transport, client, grant, state: Mutex::new(state), settled: Condvar::new() }))
    }

    /// What performs its requests.
    pub fn transport(&self) -> &Transport {
        &self.0.transport
    }

    /// A token that is good now.
    ///
    /// # Errors
    /// That of the one renewal that all who need a token have waited for.
    pub fn token(&self) -> Result<Token, Arc<Error>> {
        let shared = &self.0;
        let clock = Clock::start();
        let mut state = shared.state();
        loop {
            match state.store.demand(clock.now()) {
                Demand::Use(token, None) => return Ok(token),
                Demand::Use(token, Some(ticket)) => {
                    drop(state);
                    let renewal = self.renewal(ticket);
                    // Where no thread can be had, the ticket goes back, and a later caller tries again.
                    let _ =
                        thread::Builder::new().name("keybound-renewal".into()).spawn(move || renewal.run());
                    return Ok(token);
                }
                Demand::Renew(ticket) => {
                    drop(state);
                    return self.renewal(ticket).run();
                }
                Demand::Wait(until) => {
                    let wait = until.saturating_since(clock.now());
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

    /// Sends a request with a good token, as [`Transport::call`] does. If the server refuses the token all the
    /// same, it is renewed and the request sent again, once.
    ///
    /// # Errors
    /// If there is no token, or the request gets no answer.
    pub fn run<B: AsRef<[u8]>>(&self, request: Request<B>) -> Result<Response<ureq::Body>, Arc<Error>> {
        let (head, body) = request.into_parts();
        let send = |token: &Token| {
            let request = Request::from_parts(head.clone(), body.as_ref());
            self.0.transport.call_and_judge(token, request).map_err(Arc::new)
        };
        let token = self.token()?;
        let (response, rejected) = send(&token)?;
        if !rejected {
            return Ok(response);
        }
        self.0.state().store.reject(&token);
        match self.token() {
            Ok(other) => send(&other).map(|(response, _)| response),
            // Without another token, the refusal is the application's.
            Err(_) => Ok(response),
        }
    }

    fn renewal(&self, ticket: Ticket) -> Renewal {
        Renewal { shared: Arc::clone(&self.0), ticket: Some(ticket) }
    }
}

impl Shared {
    /// The refresh token that is held, unless the first grant is as good a second time.
    fn next_grant(&self) -> Result<Grant, Error> {
        if self.grant.is_repeatable() {
            return Ok(self.grant.clone());
        }
        let state = self.state();
        if state.tries_left == 0 {
            return Err(Error::Reauthenticate);
        }
        match state.store.held().map(Token::refresh_token) {
            None => Ok(self.grant.clone()),
            Some(Some(refresh_token)) => Ok(Grant::refresh_token(refresh_token.clone())?),
            Some(None) => Err(Error::Reauthenticate),
        }
    }

    /// Never held across IO, and a panic elsewhere leaves nothing half-done in it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A renewal that is under way. However it ends, by a panic too, whoever waits for it is told.
struct Renewal {
    shared: Arc<Shared>,
    ticket: Option<Ticket>,
}

impl Renewal {
    fn run(mut self) -> Result<Token, Arc<Error>> {
        let Shared { transport, client, .. } = &*self.shared;
        let renewed = self.shared.next_grant().and_then(|grant| transport.run(client.token(grant)?));
        let result = renewed.map_err(Arc::new);
        self.end(result.clone().ok(), result.clone().err());
        result
    }

    fn end(&mut self, token: Option<Token>, failure: Option<Arc<Error>>) {
        if let Some(ticket) = self.ticket.take() {
            let seed = entropy().map_or(0, u64::from_ne_bytes);
            let mut state = self.shared.state();
            state.tries_left = match &failure {
                _ if token.is_some() => TRIES,
                Some(error) => error.tries_left_after(state.tries_left),
                None => state.tries_left.saturating_sub(1),
            };
            state.failure = failure;
            state.store.settle(ticket, token, Clock::start().now(), seed);
            drop(state);
            self.shared.settled.notify_all();
        }
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.end(None, None);
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("client", &self.0.client).finish_non_exhaustive()
    }
}
