//! One refresh of a session's token, from its ticket to its completion or abort.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use keybound_core::Token;
use keybound_core::driver::{RefreshAttempt, SessionState, Ticket, TokenManager};

use crate::clock::{Deadline, entropy, now};
use crate::shared::{POLL_INTERVAL, Shared, StorageSlot};
use crate::storage::{Lease, StorageError};
use crate::{Error, Event, Transport};

/// The part of the lease that is reserved for saving: a response in the last moment must be saved,
/// on a busy machine too, before another process can acquire the lease.
const SAVE_MARGIN: Duration = Duration::from_secs(2);

/// The maximum age of a nonce that is loaded from another process.
const NONCE_LIFETIME: Duration = Duration::from_secs(300);

/// A refresh in progress. When it is dropped, also by a panic, it is completed as aborted and the
/// waiting callers are notified.
pub(crate) struct Refresh {
    shared: Arc<Shared>,
    ticket: Option<Ticket>,
    /// The remaining lifetime of the ticket or the lease. This refresh must not send a request
    /// after it, because the next holder may send its own.
    deadline: Deadline,
    /// Whether it only stores the cached token.
    is_store_only: bool,
    /// The session's token generation at the start.
    generation: u64,
    /// Whether the storage failed to save the new token.
    save_failed: bool,
}

/// The result of waiting for the lease.
enum LeaseOutcome<'a> {
    /// This process has the lease and must refresh.
    Acquired(Box<dyn Lease + 'a>),
    /// Another process has stored this token, which makes the refresh unnecessary.
    RefreshedElsewhere(Token),
}

impl Refresh {
    pub(crate) fn new(shared: &Arc<Shared>, ticket: Ticket) -> Self {
        let deadline = Deadline::start(shared.refresh_timeout);
        let generation = shared.state().tokens.generation();
        Self {
            shared: Arc::clone(shared),
            ticket: Some(ticket),
            deadline,
            is_store_only: false,
            generation,
            save_failed: false,
        }
    }

    /// Stores the cached token without refreshing it, even if it has expired.
    pub(crate) fn store_only(mut self) -> Self {
        self.is_store_only = true;
        self
    }

    pub(crate) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        // Released at the end of this function.
        let mut lease = None;
        let result = self.refresh(&shared, &mut lease).map_err(Arc::new);
        self.end(&result);
        if let Some(lease) = &mut lease {
            self.save_rest(&mut **lease);
        }
        let mut state = shared.state();
        match state.tokens.unsaved() {
            // Without a storage there is nothing to save to.
            Some(unsaved) if shared.slot.is_none() => state.tokens.saved(&unsaved),
            Some(_) => state.tokens.save_failed(now()),
            None => {}
        }
    }

    /// Saves unsaved state: a token that the application supplied, the remaining sends of a refresh
    /// token after a failure, or a token that the storage failed to save. Retries until the lease
    /// expires. No caller waits for it.
    fn save_rest(&self, lease: &mut (dyn Lease + '_)) {
        let Shared { transport, .. } = &*self.shared;
        let mut has_failed = false;
        loop {
            // Not in a `while let`, which would hold the lock until the end of the body.
            let unsaved = self.shared.state().tokens.unsaved();
            let Some(state) = unsaved else { return };
            match save(lease, &state, transport) {
                Ok(true) => self.shared.state().tokens.saved(&state),
                // The holder of a later lease has saved.
                Ok(false) => return,
                Err(error) if !has_failed => {
                    has_failed = true;
                    transport.emit(Event::StorageUnavailable(&*error));
                }
                Err(_) => {}
            }
            if self.deadline.left().is_zero() {
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
        if let Some(slot) = &shared.slot {
            match self.acquire_lease(shared, slot) {
                Ok(LeaseOutcome::RefreshedElsewhere(token)) => return Ok(token),
                Ok(LeaseOutcome::Acquired(acquired)) => *lease = Some(acquired),
                Err(error) => {
                    self.proceed_unshared(error)?;
                    // Without a lease, only the ticket limits the time.
                    self.deadline = Deadline::start(shared.refresh_timeout);
                }
            }
        }
        if let Some(token) = self.cached_token(shared) {
            return Ok(token); // It only needs to be saved.
        }
        let attempt = self
            .with_ticket(TokenManager::begin_refresh)
            .flatten()
            .ok_or(Error::LoginRequired)?;
        let is_single_use = attempt.checkpoint.is_some();
        let result = self.request_token(shared, attempt, lease.as_deref_mut());
        match (&result, &shared.slot) {
            // Another process whose lease had expired may have consumed the refresh token and saved
            // its successor.
            (Err(_), Some(slot)) if is_single_use => self
                .load_shared(shared, slot)
                .ok()
                .flatten()
                .map_or(result, Ok),
            _ => result,
        }
    }

    /// Returns the cached token if it needs no refresh, or is only to be stored.
    fn cached_token(&self, shared: &Shared) -> Option<Token> {
        let state = shared.state();
        match self.is_store_only {
            true => state.tokens.snapshot()?.token().cloned(),
            false => state.tokens.valid_token(now()),
        }
    }

    /// Waits for the lease, or for the token that its holder saves.
    fn acquire_lease<'a>(
        &mut self,
        shared: &Shared,
        slot: &'a StorageSlot,
    ) -> Result<LeaseOutcome<'a>, StorageError> {
        let deadline = Deadline::start(shared.refresh_timeout);
        loop {
            self.deadline = Deadline::start(shared.refresh_timeout);
            let lease = slot.storage.lease(&slot.name, shared.refresh_timeout)?;
            let is_acquired = lease.is_some();
            match self.load_shared(shared, slot) {
                Ok(Some(token)) => return Ok(LeaseOutcome::RefreshedElsewhere(token)),
                Ok(None) => {}
                // An unreadable state is overwritten if this process does not need it.
                Err(error) if is_acquired && shared.state().tokens.overrides_stored() => {
                    shared.transport.emit(Event::StorageUnavailable(&*error));
                }
                Err(error) => return Err(error),
            }
            if let Some(lease) = lease {
                return Ok(LeaseOutcome::Acquired(lease));
            }
            if deadline.left().is_zero() {
                return Err(
                    "timed out waiting for another process that is refreshing the token".into(),
                );
            }
            thread::sleep(POLL_INTERVAL.min(deadline.left()));
        }
    }

    /// Loads the stored state. Returns the token of another process if it makes this refresh
    /// unnecessary.
    fn load_shared(
        &mut self,
        shared: &Shared,
        slot: &StorageSlot,
    ) -> Result<Option<Token>, StorageError> {
        let Some(stored) = slot.storage.load(&slot.name)? else {
            return Ok(None);
        };
        let state = SessionState::from_json(
            stored.expose(),
            &shared.client,
            now().saturating_sub(NONCE_LIFETIME),
        )?;
        shared.transport.servers().merge(state.server_state());
        let seed = seed();
        Ok(self
            .with_ticket(|tokens, ticket| tokens.adopt(ticket, state, now(), seed))
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
        if let (Some(lease), Some(checkpoint)) = (&mut lease, attempt.checkpoint) {
            let saved = match save(*lease, &checkpoint, transport) {
                Ok(true) => Ok(()),
                Ok(false) => Err("a later lease has saved a newer state".into()),
                Err(error) => Err(error),
            };
            if let Err(error) = saved {
                self.with_ticket(TokenManager::withdraw);
                return Err(Error::Storage(error));
            }
            shared.state().tokens.saved(&checkpoint);
        }
        let left = self.deadline.left();
        let timeout = left
            .saturating_sub(SAVE_MARGIN.min(left / 2))
            .min(transport.total_timeout());
        let token = transport.execute_within(timeout, client.token(attempt.grant)?)?;
        // Saved before it is used: the server sends a new refresh token only once.
        let state = shared.state().tokens.snapshot_with(token.clone());
        match lease.map(|lease| save(lease, &state, transport)) {
            Some(Err(error)) => {
                transport.emit(Event::StorageUnavailable(&*error));
                self.save_failed = true;
            }
            // A later lease has saved. The next ticket finds out which of the two states is newer.
            Some(Ok(false)) => self.save_failed = true,
            Some(Ok(true)) | None => {}
        }
        Ok(token)
    }

    /// Continues without the storage if the grant is repeatable, otherwise returns the error.
    /// Another process may have the same refresh token in flight; sent twice, it would be invalid
    /// for both.
    fn proceed_unshared(&self, error: StorageError) -> Result<(), Error> {
        if !self.shared.state().tokens.is_repeatable() {
            return Err(Error::Storage(error));
        }
        self.shared
            .transport
            .emit(Event::StorageUnavailable(&*error));
        Ok(())
    }

    fn end(&mut self, result: &Result<Token, Arc<Error>>) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let seed = seed();
        let outcome = result.clone().map_err(|error| error.refresh_failure());
        let mut state = self.shared.state();
        if state.tokens.complete(ticket, outcome, now(), seed) {
            state.failure = result.as_ref().err().map(Arc::clone);
            state.completed += 1;
        }
        if self.save_failed {
            state.tokens.save_failed(now());
        }
        let is_new = state.tokens.generation() != self.generation;
        drop(state);
        // A panic of the event handler during a panic would abort the process.
        if !thread::panicking() {
            match result {
                Ok(token) if is_new => self.shared.transport.emit(Event::TokenRefreshed(token)),
                Ok(_) => {}
                Err(error) => self.shared.transport.emit(Event::RefreshFailed(error)),
            }
        }
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
        state.in_flight = state.in_flight.saturating_sub(1);
        drop(state);
        self.shared.notify_all();
    }
}

fn save(
    lease: &mut dyn Lease,
    state: &SessionState,
    transport: &Transport,
) -> Result<bool, StorageError> {
    lease.save(
        &state
            .clone()
            .with_server_state(transport.server_state())
            .to_json(),
    )
}

/// Returns a random seed for jitter, or zero if the system has no entropy: jitter is not
/// security-relevant.
fn seed() -> u64 {
    entropy().map_or(0, u64::from_ne_bytes)
}
