//! One renewal of a session's token, from the ticket to the end, however it ends.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use keybound_core::{Attempt, Kept, Store, Ticket, Token};

use crate::clock::{Clock, entropy, now};
use crate::session::{Shared, Shelf};
use crate::storage::{Lease, StorageError};
use crate::{Error, Event, Transport};

/// How often it is looked whether another process has done the work.
pub(crate) const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// What comes at the last moment must still be saved, and told, on a busy machine too, before somebody else's turn comes.
const MARGIN: Duration = Duration::from_secs(2);

/// How long a nonce that another process has learned may be of use.
const NONCE_LIFE: Duration = Duration::from_secs(300);

/// A renewal that is under way. However it ends, by a panic too, whoever waits for it is told.
pub(crate) struct Renewal {
    shared: Arc<Shared>,
    ticket: Option<Ticket>,
    /// How long the ticket lasts, or the lease: whoever comes after it must not meet this one's request.
    clock: Clock,
    /// The storage has refused what came.
    save_failed: bool,
}

/// Who renews.
enum Turn<'a> {
    /// This process, under a lease.
    Ours(Box<dyn Lease + 'a>),
    /// Another has, and this is its token.
    Theirs(Token),
}

impl Renewal {
    pub(crate) fn new(shared: &Arc<Shared>, ticket: Ticket) -> Self {
        let clock = Clock::start(shared.patience);
        Self { shared: Arc::clone(shared), ticket: Some(ticket), clock, save_failed: false }
    }

    pub(crate) fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        // Given back when all is over.
        let mut lease = None;
        let renewed = self.renew(&shared, &mut lease).map_err(Arc::new);
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
            let unsaved = self.shared.state().store.unsaved();
            let Some(kept) = unsaved else { return };
            match save(lease, &kept, transport) {
                Ok(true) => self.shared.state().store.saved(&kept),
                // Somebody with a later lease has saved.
                Ok(false) => return,
                Err(error) if !has_failed => {
                    has_failed = true;
                    transport.tell(Event::Alone(&*error));
                }
                Err(_) => {}
            }
            if self.clock.left().is_zero() {
                return;
            }
            if has_failed {
                thread::sleep(LOOK_AGAIN);
            }
        }
    }

    fn renew<'a>(
        &mut self,
        shared: &'a Shared,
        lease: &mut Option<Box<dyn Lease + 'a>>,
    ) -> Result<Token, Error> {
        if let Some(shelf) = &shared.shelf {
            match self.turn(shared, shelf) {
                Ok(Turn::Theirs(token)) => return Ok(token),
                Ok(Turn::Ours(ours)) => *lease = Some(ours),
                Err(error) => {
                    self.go_alone(error)?;
                    // There is no lease to be kept to.
                    self.clock = Clock::start(shared.patience);
                }
            }
        }
        let good = shared.state().store.good(now());
        if let Some(token) = good {
            return Ok(token); // It has only to be saved.
        }
        let attempt = self.with_ticket(Store::attempt).flatten().ok_or(Error::Reauthenticate)?;
        let uses_something_up = attempt.keep.is_some();
        let renewed = self.ask(shared, attempt, lease.as_deref_mut());
        match (&renewed, &shared.shelf) {
            // Perhaps somebody whose lease had lapsed was served, and has saved what came.
            (Err(_), Some(shelf)) if uses_something_up => {
                self.look(shared, shelf).ok().flatten().map_or(renewed, Ok)
            }
            _ => renewed,
        }
    }

    /// Waits for the lease, or for what its holder saves.
    fn turn<'a>(&mut self, shared: &Shared, shelf: &'a Shelf) -> Result<Turn<'a>, StorageError> {
        let clock = Clock::start(shared.patience);
        loop {
            self.clock = Clock::start(shared.patience);
            let lease = shelf.storage.lease(&shelf.name, shared.patience)?;
            let is_ours = lease.is_some();
            match self.look(shared, shelf) {
                Ok(Some(token)) => return Ok(Turn::Theirs(token)),
                Ok(None) => {}
                // What can't be read is replaced, where it isn't needed.
                Err(error) if is_ours && shared.state().store.replaces_kept() => {
                    shared.transport.tell(Event::Alone(&*error));
                }
                Err(error) => return Err(error),
            }
            if let Some(lease) = lease {
                return Ok(Turn::Ours(lease));
            }
            if clock.left().is_zero() {
                return Err("another process has been renewing the token for too long".into());
            }
            thread::sleep(LOOK_AGAIN.min(clock.left()));
        }
    }

    /// A token that another process has saved, if it makes this renewal needless.
    fn look(&mut self, shared: &Shared, shelf: &Shelf) -> Result<Option<Token>, StorageError> {
        let Some(state) = shelf.storage.load(&shelf.name)? else {
            return Ok(None);
        };
        let kept = Kept::from_json(state.expose(), &shared.client, now().saturating_sub(NONCE_LIFE))?;
        shared.transport.origins().learn_from(kept.origins());
        let seed = seed();
        Ok(self.with_ticket(|store, ticket| store.take_over(ticket, kept, now(), seed)).flatten())
    }

    fn ask(
        &mut self,
        shared: &Shared,
        attempt: Attempt,
        mut lease: Option<&mut (dyn Lease + '_)>,
    ) -> Result<Token, Error> {
        let Shared { transport, client, .. } = shared;
        if let (Some(lease), Some(keep)) = (&mut lease, attempt.keep) {
            let saved = match save(*lease, &keep, transport) {
                Ok(true) => Ok(()),
                Ok(false) => Err("the lease has lapsed before it could be used".into()),
                Err(error) => Err(error),
            };
            if let Err(error) = saved {
                self.with_ticket(Store::withdraw);
                return Err(Error::Storage(error));
            }
            shared.state().store.saved(&keep);
        }
        let left = self.clock.left();
        let budget = left.saturating_sub(MARGIN.min(left / 2)).min(transport.time());
        let token = transport.run_within(budget, client.token(attempt.grant)?)?;
        // Before anybody uses it: a new refresh token comes only once.
        let kept = shared.state().store.kept_with(token.clone());
        if let Some(Err(error)) = lease.map(|lease| save(lease, &kept, transport)) {
            transport.tell(Event::Alone(&*error));
            self.save_failed = true;
        }
        Ok(token)
    }

    /// Goes on without the storage, where a renewal uses nothing up. A refresh token may be under way from
    /// another process: sent twice, it is lost for both.
    fn go_alone(&self, error: StorageError) -> Result<(), Error> {
        if !self.shared.state().store.is_repeatable() {
            return Err(Error::Storage(error));
        }
        self.shared.transport.tell(Event::Alone(&*error));
        Ok(())
    }

    fn end(&mut self, renewed: &Result<Token, Arc<Error>>) {
        // An observer that panics as well would end the process.
        if self.ticket.is_some() && !thread::panicking() {
            self.shared.transport.tell(match renewed {
                Ok(token) => Event::Renewed(token),
                Err(error) => Event::NotRenewed(error),
            });
        }
        let Some(ticket) = self.ticket.take() else { return };
        let seed = seed();
        let outcome = renewed.clone().map_err(|error| error.failure());
        let mut state = self.shared.state();
        if state.store.settle(ticket, outcome, now(), seed) {
            state.failure = renewed.as_ref().err().map(Arc::clone);
            state.ended += 1;
        }
        if self.save_failed {
            state.store.save_failed();
        }
        drop(state);
        self.shared.wake();
    }

    fn with_ticket<T>(&mut self, with: impl FnOnce(&mut Store, &mut Ticket) -> T) -> Option<T> {
        let ticket = self.ticket.as_mut()?;
        Some(with(&mut self.shared.state().store, ticket))
    }
}

impl Drop for Renewal {
    fn drop(&mut self) {
        self.end(&Err(Arc::new(Error::RenewalEnded)));
        let mut state = self.shared.state();
        state.under_way = state.under_way.saturating_sub(1);
        drop(state);
        self.shared.wake();
    }
}

fn save(lease: &mut dyn Lease, kept: &Kept, transport: &Transport) -> Result<bool, StorageError> {
    lease.save(&kept.clone().with_origins(transport.learned()).to_json())
}

/// Random, for times that are left to chance; where there is no chance, none is needed.
fn seed() -> u64 {
    entropy().map_or(0, u64::from_ne_bytes)
}
