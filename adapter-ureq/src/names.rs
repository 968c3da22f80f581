//! Which hosts' names have been found lately.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::Uri;
use http::uri::Authority;

/// ureq looks a name up before each request, even where it has a connection, and starts a thread for it where that
/// may take only so long: a thread for each call costs more than the call. So the system's own time-outs have to do
/// for a name that was found a moment ago.
#[derive(Default)]
pub(crate) struct ResolvedHosts {
    /// The newest name stands last.
    reachable: Mutex<VecDeque<(Authority, Instant)>>,
}

impl ResolvedHosts {
    const CAPACITY: usize = 64;
    const RECENT: Duration = Duration::from_secs(10);

    /// Its server has answered.
    pub(crate) fn mark_reachable(&self, uri: &Uri) {
        let Some(name) = uri.authority() else { return };
        let mut found = self.lock();
        match found
            .iter_mut()
            .rev()
            .find(|(known, _)| known.as_str() == name.as_str())
        {
            Some((_, at)) => *at = Instant::now(),
            None => {
                if found.len() >= Self::CAPACITY {
                    found.pop_front();
                }
                found.push_back((name.clone(), Instant::now()));
            }
        }
    }

    /// Its server has not, and perhaps because nobody knew where it is.
    pub(crate) fn forget(&self, uri: &Uri) {
        self.lock()
            .retain(|(known, _)| Some(known) != uri.authority());
    }

    pub(crate) fn is_recently_reachable(&self, uri: &Uri) -> bool {
        let name = uri.authority().map(Authority::as_str);
        let found = self.lock();
        let known = found
            .iter()
            .rev()
            .find(|(known, _)| Some(known.as_str()) == name);
        known.is_some_and(|(_, at)| at.elapsed() < Self::RECENT)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Authority, Instant)>> {
        self.reachable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
