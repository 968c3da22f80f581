//! A session's token, for threads that read it at the same time.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use keybound_core::{Token, UnixTime};

/// The number of copies. Threads beyond it share copies.
const SLOTS: usize = 8;

/// Copies of one token, each read by few threads: a shared one would move between processors with
/// each lock and each clone.
#[derive(Default)]
pub(crate) struct TokenCache {
    /// The version of the session's token, from the last step of one of its tasks.
    version: AtomicU64,
    slots: [Slot; SLOTS],
}

/// A copy in cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Slot(Mutex<Copied>);

/// The token of a version that has been read, and a copy of it as soon as it is read again. Most
/// sessions of a pool are read once.
#[derive(Default)]
struct Copied {
    version: u64,
    copy: Option<Token>,
    /// When it needs a refresh.
    until: Option<UnixTime>,
}

thread_local! {
    static SLOT: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed) % SLOTS
    };
}

impl TokenCache {
    /// Records the version of the token. Copies of another one are not used any more.
    pub(crate) fn publish(&self, version: u64) {
        if self.version.load(Ordering::Relaxed) != version {
            self.version.store(version, Ordering::Release);
        }
    }

    /// Returns the token if there is a current copy that needs no refresh. Otherwise copies the one
    /// that `load` returns, with its version and the time until which it needs no refresh.
    pub(crate) fn get(
        &self,
        now: UnixTime,
        load: impl FnOnce() -> Option<(u64, Token, Option<UnixTime>)>,
    ) -> Option<Token> {
        let slot = self.slots.get(SLOT.with(|slot| *slot))?;
        let mut copied = slot.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.version.load(Ordering::Acquire);
        let is_current = copied.version == current && copied.until.is_none_or(|until| now < until);
        if let Some(token) = copied.copy.as_ref().filter(|_| is_current) {
            return Some(token.clone());
        }
        let seen = copied.version;
        *copied = Copied::default();
        let (version, token, until) = load()?;
        *copied = Copied {
            version,
            copy: (version == seen).then(|| token.detached()),
            until,
        };
        Some(token)
    }
}
