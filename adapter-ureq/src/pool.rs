//! A bounded cache of sessions by key.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{fmt, hash::Hash, mem, time::Duration};

use crate::Session;

/// A cache with one session for each key, such as a user or a set of scopes. A session is opened on
/// first use. When the pool is full, it closes the least recently used session that has neither a
/// clone elsewhere nor a single-use token under way. If there is none, the pool exceeds its capacity
/// for a while, by at most the number of refreshes that run at once: 32 for each
/// [`Transport`](crate::Transport).
///
/// Its sessions are told apart by their keys, not by their [labels](crate::SessionBuilder::label): one
/// label for all of them keeps the labels of metrics few.
///
/// Closing a session drops its token. Without a [storage](crate::SessionBuilder::storage) its
/// refresh token is lost as well, so use a storage for sessions that cannot fetch a new token on
/// their own.
pub struct SessionPool<K> {
    open: Box<Open<K>>,
    capacity: usize,
    sessions: Mutex<Sessions<K>>,
}

type Open<K> = dyn Fn(&K) -> Session + Send + Sync;

struct Sessions<K> {
    by_key: HashMap<K, (Session, u64)>,
    /// The keys by last use, least recently used first. Times are counted in calls of `session`.
    by_use: BTreeMap<u64, K>,
    uses: u64,
}

impl<K: Clone + Eq + Hash> SessionPool<K> {
    /// Creates a pool for at most `capacity` sessions (at least one). `open` creates a session; it
    /// must neither block nor call this pool.
    pub fn new(capacity: usize, open: impl Fn(&K) -> Session + Send + Sync + 'static) -> Self {
        let sessions = Sessions {
            by_key: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
        };
        Self {
            open: Box::new(open),
            capacity: capacity.max(1),
            sessions: Mutex::new(sessions),
        }
    }

    /// Returns the session of this key, and opens it if necessary.
    pub fn session(&self, key: &K) -> Session {
        let mut sessions = self.lock();
        sessions.uses += 1;
        let now = sessions.uses;
        if let Some((session, last)) = sessions.by_key.get_mut(key) {
            let (session, last) = (session.clone(), mem::replace(last, now));
            let key = sessions.by_use.remove(&last).unwrap_or_else(|| key.clone());
            sessions.by_use.insert(now, key);
            sessions.evict_down_to(self.capacity);
            return session;
        }
        sessions.evict_down_to(self.capacity - 1);
        let session = (self.open)(key);
        sessions.by_use.insert(now, key.clone());
        sessions.by_key.insert(key.clone(), (session.clone(), now));
        session
    }

    /// Closes the session of this key, even if callers still hold clones of it: use it before a new
    /// grant, or after a [log-out](Session::log_out).
    pub fn close(&self, key: &K) {
        let mut sessions = self.lock();
        let closed = sessions.by_key.remove(key);
        if let Some((_, last)) = &closed {
            sessions.by_use.remove(last);
        }
        drop(sessions);
        // Dropped without the lock: it may wait for a refresh, which must not block other callers.
        drop(closed);
    }

    /// Returns the number of open sessions.
    pub fn len(&self) -> usize {
        self.lock().by_key.len()
    }

    /// Whether no session is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Sessions<K>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> Sessions<K> {
    fn evict_down_to(&mut self, capacity: usize) {
        while self.by_key.len() > capacity {
            let is_unused = |key: &K| {
                let session = self.by_key.get(key);
                session.is_none_or(|(session, _)| !session.is_in_use())
            };
            let Some((&last, key)) = self.by_use.iter().find(|(_, key)| is_unused(key)) else {
                // All sessions are in use. The excess is closed by a later call.
                return;
            };
            let key = key.clone();
            self.by_use.remove(&last);
            // Its refresh, if there is one, goes on without it: no caller waits for that.
            if let Some((session, _)) = self.by_key.remove(&key) {
                session.close(Duration::ZERO);
            }
        }
    }
}

impl<K> fmt::Debug for SessionPool<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionPool")
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}
