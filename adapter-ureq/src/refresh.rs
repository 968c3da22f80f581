//! One renewal of a session's token, from the ticket to the end, however it ends.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use keybound_core::Token;
use keybound_core::driver::{RefreshAttempt, SessionState, Ticket, TokenManager};

use crate::clock::{Deadline, entropy, now};
use crate::session::{Shared, StorageSlot};
use crate::storage::{Lease, StorageError};
use crate::{Error, Event, Transport};

/// How often it is looked whether another process has done the work.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What comes at the last moment must still be saved, and told, on a busy machine too, before somebody else's turn comes.
const SAVE_MARGIN: Duration = Duration::from_secs(2);

/// How long a nonce that another process has learned may be of use.
const NONCE_LIFETIME: Duration = Duration::from_secs(300);

/// A renewal that is under way. However it ends, by a panic too, whoever waits for it is told.
pub(crate) struct Refresh {
    shared: Arc<Shared>,
    ticket: Option<Ticket>,
    /// How long the ticket lasts, or the lease: whoever comes after it must not meet this one's request.
    clock: Deadline,
    /// The storage has refused what came.
    save_failed: bool,
}

/// Who renews.
enum LeaseOutcome<'a> {
    /// This process, under a lease.
    Ours(Box<dyn Lease + 'a>),
    /// Another has, and this is its token.
    Theirs(Token),
}

impl Refresh {
    pub(crate) fn new(shared: &Arc<Shared>, ticket: Ticket) -> Self {
        let clock = Deadline::start(shared.refresh_timeout);
        Self {
            shared: Arc::clone(shared),
            ticket: Some(ticket),
            clock,
            save_failed: false,
        }
    }

    pub(crate) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        // Given back when all is over.
        let mut lease = None;
        let renewed = self.refresh(&shared, &mut lease).map_err(Arc::new);
        self.end(&renewed);
        if let Some(lease) = &mut lease {
            self.save_rest(&mut **lease);
        }
    }

    /// Saves what is not saved yet: a token that was given, how often the refresh token may still be sent after a failure,
    /// and what the storage has refused before. It is tried as long as the lease lasts; nobody waits for it.
    fn save_rest(&self, lease: &mut (dyn Lease + '_)) {
        let Shared { transport, .. } = &*self.shared;
        let mut has_failed = false;
        loop {
            // Not in the loop's head, where its lock would be held to the end of the body.
            let unsaved = self.shared.state().tokens.unsaved();
            let Some(kept) = unsaved else { return };
            match save(lease, &kept, transport) {
                Ok(true) => self.shared.state().tokens.saved(&kept),
                // Somebody with a later lease has saved.
                Ok(false) => return,
                Err(error) if !has_failed => {
                    has_failed = true;
                    transport.emit(Event::StorageUnavailable(&*error));
                }
                Err(_) => {}
            }
            if self.clock.left().is_zero() {
                return;
            }
            if has_failed {
                thread::sleep(POLL_INTERVAL);
            }
        }
    }

    fn refresh<'a>(
        &mut self,
        shared: &'a Shared,
        lease: &mut Option<Box<dyn Lease + 'a>>,
    ) -> Result<Token, Error> {
        if let Some(shelf) = &shared.slot {
            match self.acquire_lease(shared, shelf) {
                Ok(LeaseOutcome::Theirs(token)) => return Ok(token),
                Ok(LeaseOutcome::Ours(ours)) => *lease = Some(ours),
                Err(error) => {
                    self.proceed_unshared(error)?;
                    // There is no lease to be kept to.
                    self.clock = Deadline::start(shared.refresh_timeout);
                }
            }
        }
        let good = shared.state().tokens.good(now());
        if let Some(token) = good {
            return Ok(token); // It has only to be saved.
        }
        let attempt = self
            .with_ticket(TokenManager::begin_refresh)
            .flatten()
            .ok_or(Error::LoginRequired)?;
        let uses_something_up = attempt.checkpoint.is_some();
        let renewed = self.request_token(shared, attempt, lease.as_deref_mut());
        match (&renewed, &shared.slot) {
            // Perhaps somebody whose lease had lapsed was served, and has saved what came.
            (Err(_), Some(shelf)) if uses_something_up => self
                .load_shared(shared, shelf)
                .ok()
                .flatten()
                .map_or(renewed, Ok),
            _ => renewed,
        }
    }

    /// Waits for the lease, or for what its holder saves.
    fn acquire_lease<'a>(
        &mut self,
        shared: &Shared,
        shelf: &'a StorageSlot,
    ) -> Result<LeaseOutcome<'a>, StorageError> {
        let clock = Deadline::start(shared.refresh_timeout);
        loop {
            self.clock = Deadline::start(shared.refresh_timeout);
            let lease = shelf.storage.lease(&shelf.name, shared.refresh_timeout)?;
            let is_ours = lease.is_some();
            match self.load_shared(shared, shelf) {
                Ok(Some(token)) => return Ok(LeaseOutcome::Theirs(token)),
                Ok(None) => {}
                // What can't be read is replaced, where it isn't needed.
                Err(error) if is_ours && shared.state().tokens.replaces_kept() => {
                    shared.transport.emit(Event::StorageUnavailable(&*error));
                }
                Err(error) => return Err(error),
            }
            if let Some(lease) = lease {
                return Ok(LeaseOutcome::Ours(lease));
            }
            if clock.left().is_zero() {
                return Err("another process has been renewing the token for too long".into());
            }
            thread::sleep(POLL_INTERVAL.min(clock.left()));
        }
    }

    /// A token that another process has saved, if it makes this renewal needless.
    fn load_shared(
        &mut self,
        shared: &Shared,
        shelf: &StorageSlot,
    ) -> Result<Option<Token>, StorageError> {
        let Some(state) = shelf.storage.load(&shelf.name)? else {
            return Ok(None);
        };
        let kept = SessionState::from_json(
            state.expose(),
            &shared.client,
            now().saturating_sub(NONCE_LIFETIME),
        )?;
        shared.transport.servers().merge(kept.server_state());
        let seed = seed();
        Ok(self
            .with_ticket(|store, ticket| store.adopt(ticket, kept, now(), seed))
            .flatten())
    }

    fn request_token(
        &mut self,
        shared: &Shared,
        attempt: RefreshAttempt,
        mut lease: Option<&mut (dyn Lease + '_)>,
    ) -> Result<Token, Error> {
        let Shared {
            transport, client, ..
        } = shared;
        if let (Some(lease), Some(keep)) = (&mut lease, attempt.checkpoint) {
            let saved = match save(*lease, &keep, transport) {
                Ok(true) => Ok(()),
                Ok(false) => Err("the lease has lapsed before it could be used".into()),
                Err(error) => Err(error),
            };
            if let Err(error) = saved {
                self.with_ticket(TokenManager::withdraw);
                return Err(Error::Storage(error));
            }
            shared.state().tokens.saved(&keep);
        }
        let left = self.clock.left();
        let budget = left
            .saturating_sub(SAVE_MARGIN.min(left / 2))
            .min(transport.total_timeout());
        let token = transport.execute_within(budget, client.token(attempt.grant)?)?;
        // Before anybody uses it: a new refresh token comes only once.
        let kept = shared.state().tokens.kept_with(token.clone());
        if let Some(Err(error)) = lease.map(|lease| save(lease, &kept, transport)) {
            transport.emit(Event::StorageUnavailable(&*error));
            self.save_failed = true;
        }
        Ok(token)
    }

    /// Goes on without the storage, where a renewal uses nothing up. A refresh token may be under way from
    /// another process: sent twice, it is lost for both.
    fn proceed_unshared(&self, error: StorageError) -> Result<(), Error> {
        if !self.shared.state().tokens.is_repeatable() {
            return Err(Error::Storage(error));
        }
        self.shared
            .transport
            .emit(Event::StorageUnavailable(&*error));
        Ok(())
    }

    fn end(&mut self, renewed: &Result<Token, Arc<Error>>) {
        // An observer that panics as well would end the process.
        if self.ticket.is_some() && !thread::panicking() {
            self.shared.transport.emit(match renewed {
                Ok(token) => Event::TokenRefreshed(token),
                Err(error) => Event::RefreshFailed(error),
            });
        }
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let seed = seed();
        let outcome = renewed.clone().map_err(|error| error.refresh_failure());
        let mut state = self.shared.state();
        if state.tokens.complete(ticket, outcome, now(), seed) {
            state.failure = renewed.as_ref().err().map(Arc::clone);
            state.ended += 1;
        }
        if self.save_failed {
            state.tokens.save_failed();
        }
        drop(state);
        self.shared.notify_all();
    }

    fn with_ticket<T>(
        &mut self,
        with: impl FnOnce(&mut TokenManager, &mut Ticket) -> T,
    ) -> Option<T> {
        let ticket = self.ticket.as_mut()?;
        Some(with(&mut self.shared.state().tokens, ticket))
    }
}

impl Drop for Refresh {
    fn drop(&mut self) {
        self.end(&Err(Arc::new(Error::RefreshAborted)));
        let mut state = self.shared.state();
        state.under_way = state.under_way.saturating_sub(1);
        drop(state);
        self.shared.notify_all();
    }
}

fn save(
    lease: &mut dyn Lease,
    kept: &SessionState,
    transport: &Transport,
) -> Result<bool, StorageError> {
    lease.save(
        &kept
            .clone()
            .with_server_state(transport.server_state())
            .to_json(),
    )
}

/// Random, for times that are left to chance; where there is no chance, none is needed.
fn seed() -> u64 {
    entropy().map_or(0, u64::from_ne_bytes)
}
