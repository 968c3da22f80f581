use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use keybound_core::SecretBytes;

use super::{Lease, Storage, StorageError};

/// Stores sessions in memory until the process exits: for tests, and for a
/// [`SessionPool`](crate::SessionPool), whose closed sessions then continue when they are opened
/// again.
#[derive(Debug, Default)]
pub struct MemoryStorage(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    states: HashMap<String, SecretBytes>,
    leased: HashSet<String>,
}

impl MemoryStorage {
    /// Creates an empty storage.
    pub fn new() -> Self {
        Self::default()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for MemoryStorage {
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        Ok(self.state().states.get(name).cloned())
    }

    /// The lease ends with its holder, a thread of this process, so it does not expire.
    fn lease(&self, name: &str, _: Duration) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        let name = name.to_owned();
        if !self.state().leased.insert(name.clone()) {
            return Ok(None);
        }
        Ok(Some(Box::new(Leased {
            storage: self,
            name,
        })))
    }
}

struct Leased<'a> {
    storage: &'a MemoryStorage,
    name: String,
}

impl Lease for Leased<'_> {
    fn save(&mut self, state: &SecretBytes) -> Result<bool, StorageError> {
        self.storage
            .state()
            .states
            .insert(self.name.clone(), state.clone());
        Ok(true)
    }
}

impl Drop for Leased<'_> {
    fn drop(&mut self) {
        self.storage.state().leased.remove(&self.name);
    }
}
