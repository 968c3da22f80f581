//! The state that a session shares with its refreshes.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use keybound_core::Client;
use keybound_core::driver::TokenManager;

use crate::clock::Deadline;
use crate::storage::{Storage, StorageError};
use crate::{Error, Transport};

/// The interval at which a process checks whether another one has released the lease or saved a
/// token.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The part of a session that its refresh threads use as well.
pub(crate) struct Shared {
    pub(crate) transport: Arc<Transport>,
    pub(crate) client: Client,
    pub(crate) slot: Option<StorageSlot>,
    /// The maximum duration of a refresh.
    pub(crate) refresh_timeout: Duration,
    pub(crate) state: Mutex<State>,
    pub(crate) refresh_finished: Condvar,
}

/// A storage, and the name under which it holds the session.
pub(crate) struct StorageSlot {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) name: String,
}

impl StorageSlot {
    /// Removes the stored session. If another process is refreshing it, waits for the lease, so
    /// that the state which that process saves is removed as well.
    pub(crate) fn clear(&self, timeout: Duration) -> Result<(), StorageError> {
        let deadline = Deadline::start(timeout);
        loop {
            if let Some(mut lease) = self.storage.lease(&self.name, timeout)? {
                return lease.remove();
            }
            if deadline.left().is_zero() {
                return Err(
                    "timed out waiting for another process that is refreshing the token".into(),
                );
            }
            thread::sleep(POLL_INTERVAL);
        }
    }
}

pub(crate) struct State {
    pub(crate) tokens: TokenManager,
    /// The error of the last refresh, for the callers that waited for it.
    pub(crate) failure: Option<Arc<Error>>,
    /// The number of completed refreshes, successful or not, excluding those whose ticket was
    /// replaced by a later one.
    pub(crate) completed: u64,
    /// The number of refresh threads.
    pub(crate) in_flight: usize,
}

impl Shared {
    /// Locks the state. The lock is never held across IO. A poisoned lock is usable: no code that
    /// can panic leaves the state inconsistent.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes all callers that wait for a refresh.
    pub(crate) fn notify_all(&self) {
        self.refresh_finished.notify_all();
    }
}
