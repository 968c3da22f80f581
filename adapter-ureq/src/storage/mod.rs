//! Where sessions are kept: for the next process, and for several at once.
//!
//! | | kept | who renews |
//! |---|---|---|
//! | [`MemoryStorage`] | until the process ends | one thread of it |
//! | `FileStorage`, feature `file` | in a folder, each session in a file of its own, mode 0600 | one process of this machine, by a lock that its end releases |
//! | `RedisStorage`, feature `redis` | in Redis | one process of a fleet, by a lease that lapses |
//! | [`EncryptedStorage`] | in any of them, encrypted | as there |

mod encrypted;
#[cfg(feature = "file")]
mod file;
mod memory;
#[cfg(feature = "redis")]
mod redis;

use std::error::Error;
use std::fmt;
use std::time::Duration;

use keybound_core::SecretBytes;

pub use encrypted::EncryptedStorage;
#[cfg(feature = "file")]
pub use file::FileStorage;
pub use memory::MemoryStorage;
#[cfg(feature = "redis")]
pub use redis::RedisStorage;

/// Where the states of sessions are kept, each under a name of its own. What is kept holds secrets in clear, unless
/// it is [`EncryptedStorage`].
pub trait Storage: Send + Sync {
    /// What was saved last under this name.
    ///
    /// # Errors
    /// If the storage can't be read.
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError>;

    /// The sole right to renew the session of this name; `None` while another has it. It ends when it is dropped,
    /// and after `patience` where it has to lapse by itself.
    ///
    /// # Errors
    /// If the storage can't be reached.
    fn lease(
        &self,
        name: &str,
        patience: Duration,
    ) -> Result<Option<Box<dyn Lease + '_>>, StorageError>;
}

/// The right to save what a renewal brings.
pub trait Lease {
    /// Replaces what is saved under the lease's name, as durably as the storage can. `false` if the lease has lapsed and another has been
    /// given since: what that one saves is newer, and this is dropped.
    ///
    /// # Errors
    /// If it can't be saved; then what was there before is still there, whole.
    fn save(&mut self, state: &SecretBytes) -> Result<bool, StorageError>;

    /// Removes what is saved under the lease's name.
    ///
    /// # Errors
    /// If it can't be removed.
    fn remove(&mut self) -> Result<(), StorageError>;
}

/// What is wrong with a storage.
pub type StorageError = Box<dyn Error + Send + Sync>;

impl<S: Storage + ?Sized> Storage for std::sync::Arc<S> {
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        (**self).load(name)
    }

    fn lease(
        &self,
        name: &str,
        patience: Duration,
    ) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        (**self).lease(name, patience)
    }
}

impl fmt::Debug for dyn Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Storage")
    }
}
