//! Storage for sessions, for later processes and for concurrent ones.
//!
//! | type | stored in | exclusive refresh by |
//! |---|---|---|
//! | [`MemoryStorage`] | memory, until the process exits | one thread of the process |
//! | `FileStorage`, feature `file` | a directory, one file of mode 0600 for each session | one process of the machine, with a lock that the system releases when the process exits |
//! | `RedisStorage`, feature `redis` | Redis | one process of a fleet, with a lease that expires |
//! | [`EncryptedStorage`] | any other storage, encrypted | as in that storage |

mod encrypted;
#[cfg(feature = "file")]
mod file;
mod memory;
#[cfg(feature = "file")]
mod private;
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

/// A storage of session states by name. The states contain secrets in plain text;
/// [`EncryptedStorage`] encrypts them.
pub trait Storage: Send + Sync {
    /// Returns the session state that was saved last under this name, or `None` if there is none.
    ///
    /// # Errors
    /// Returns an error if the storage cannot be read.
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError>;

    /// Tries to acquire the exclusive right to refresh the session of this name, without blocking.
    /// Returns `None` while another holder has it. The lease ends when it is dropped. If the
    /// storage cannot detect that its holder has crashed, the lease also expires after `ttl`.
    ///
    /// # Errors
    /// Returns an error if the storage cannot be reached.
    fn lease(&self, name: &str, ttl: Duration)
    -> Result<Option<Box<dyn Lease + '_>>, StorageError>;

    /// Returns where the state of this name is stored, such as a path, for messages about a state
    /// that can't be read. Default: the name.
    fn location(&self, name: &str) -> String {
        name.to_owned()
    }
}

/// The exclusive right to refresh a session and to save its state.
pub trait Lease {
    /// Replaces the session state under the lease's name, as durably as the storage can. Returns
    /// `false`, and saves nothing, if the lease has expired and a later one has already saved its
    /// state, which is newer.
    ///
    /// # Errors
    /// Returns an error if the state cannot be saved. The previous state is then still stored,
    /// unchanged.
    fn save(&mut self, state: &SecretBytes) -> Result<bool, StorageError>;
}

/// An error of a storage.
pub type StorageError = Box<dyn Error + Send + Sync>;

impl<S: Storage + ?Sized> Storage for std::sync::Arc<S> {
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        (**self).load(name)
    }

    fn lease(
        &self,
        name: &str,
        ttl: Duration,
    ) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        (**self).lease(name, ttl)
    }

    fn location(&self, name: &str) -> String {
        (**self).location(name)
    }
}

impl fmt::Debug for dyn Storage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Storage")
    }
}
