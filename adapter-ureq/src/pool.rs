//! Sessions by key, as many as there is room for.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};

use crate::Session;

/// A session for each key, such as a person or a set of scopes, opened when it is first asked for. Beyond its bound
/// the one that was asked for longest ago is closed, unless somebody holds it at that moment.
///
/// With a session that is closed goes its token, and, where it is [kept](crate::SessionBuilder::storage) nowhere, the
/// refresh token as well: sessions that can't begin anew by themselves belong into a storage.
pub struct SessionPool<K> {
    open: Box<Open<K>>,
    bound: usize,
    sessions: Mutex<Sessions<K>>,
}

type Open<K> = dyn Fn(&K) -> Session + Send + Sync;

struct Sessions<K> {
    by_key: HashMap<K, (Session, u64)>,
    /// When each was asked for last, counted in requests; the one longest ago stands first.
    by_use: BTreeMap<u64, K>,
    uses: u64,
}

impl<K: Clone + Eq + Hash> SessionPool<K> {
    /// Room for `bound` sessions, at least one; `open` makes them, and must neither block nor ask this pool.
    pub fn new(bound: usize, open: impl Fn(&K) -> Session + Send + Sync + 'static) -> Self {
        let sessions = Sessions {
            by_key: HashMap::new(),
            by_use: BTreeMap::new(),
            uses: 0,
        };
        Self {
            open: Box::new(open),
            bound: bound.max(1),
            sessions: Mutex::new(sessions),
        }
    }

    /// The session of this key.
    pub fn session(&self, key: &K) -> Session {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        sessions.uses += 1;
        let now = sessions.uses;
        if let Some((session, last)) = sessions.by_key.get_mut(key) {
            let (session, last) = (session.clone(), std::mem::replace(last, now));
            let key = sessions.by_use.remove(&last).unwrap_or_else(|| key.clone());
            sessions.by_use.insert(now, key);
            sessions.close_down_to(self.bound);
            return session;
        }
        sessions.close_down_to(self.bound - 1);
        let session = (self.open)(key);
        sessions.by_use.insert(now, key.clone());
        sessions.by_key.insert(key.clone(), (session.clone(), now));
        session
    }

    /// Closes the session of this key, whoever holds it: for a new grant, or after a [log-out](Session::log_out).
    pub fn close(&self, key: &K) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let closed = sessions.by_key.remove(key);
        if let Some((_, last)) = &closed {
            sessions.by_use.remove(last);
        }
        drop(sessions);
        // It may wait for a renewal, and nobody else has to.
        drop(closed);
    }

    /// How many sessions are open.
    pub fn len(&self) -> usize {
        self.sessions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .by_key
            .len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<K: Clone + Eq + Hash> Sessions<K> {
    fn close_down_to(&mut self, many: usize) {
        while self.by_key.len() > many {
            let is_held = |key: &K| {
                self.by_key
                    .get(key)
                    .is_some_and(|(session, _)| session.is_cached())
            };
            let Some((last, key)) = self.by_use.iter().find(|(_, key)| !is_held(key)) else {
                // All are in use: what is more goes with them.
                return;
            };
            let (last, key) = (*last, key.clone());
            self.by_use.remove(&last);
            self.by_key.remove(&key);
        }
    }
}

impl<K> fmt::Debug for SessionPool<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionPool")
            .field("bound", &self.bound)
            .finish_non_exhaustive()
    }
}
