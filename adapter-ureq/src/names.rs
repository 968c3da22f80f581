//! The hosts whose names were resolved recently.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::uri::{Authority, Uri};

/// The hosts that were reachable recently.
///
/// ureq resolves the name before each request, even when it reuses a connection. With a timeout for
/// the lookup, ureq starts a thread for it, and a thread for each call costs more than the call.
/// For a host that was reachable a moment ago there is therefore no such timeout: the system's own
/// timeouts apply.
#[derive(Default)]
pub(crate) struct ResolvedHosts {
    /// The hosts with the time of their last response; the most recently added host is last.
    reachable: Mutex<VecDeque<(Authority, Instant)>>,
}

impl ResolvedHosts {
    const CAPACITY: usize = 64;
    const RECENT: Duration = Duration::from_secs(10);

    /// Records that the host of this URL responded.
    pub(crate) fn mark_reachable(&self, uri: &Uri) {
        let Some(host) = uri.authority() else { return };
        let mut hosts = self.lock();
        let mut newest_first = hosts.iter_mut().rev();
        if let Some((_, at)) = newest_first.find(|(known, _)| known.as_str() == host.as_str()) {
            *at = Instant::now();
            return;
        }
        if hosts.len() >= Self::CAPACITY {
            hosts.pop_front();
        }
        hosts.push_back((host.clone(), Instant::now()));
    }

    /// Removes the host of this URL after a failure, which may have been a failed lookup.
    pub(crate) fn forget(&self, uri: &Uri) {
        let host = uri.authority();
        self.lock().retain(|(known, _)| Some(known) != host);
    }

    /// Whether the host of this URL responded within [`RECENT`](Self::RECENT).
    pub(crate) fn is_recently_reachable(&self, uri: &Uri) -> bool {
        let host = uri.authority().map(Authority::as_str);
        let hosts = self.lock();
        let mut newest_first = hosts.iter().rev();
        let known = newest_first.find(|(known, _)| Some(known.as_str()) == host);
        known.is_some_and(|(_, at)| at.elapsed() < Self::RECENT)
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Authority, Instant)>> {
        let hosts = self.reachable.lock();
        hosts.unwrap_or_else(PoisonError::into_inner)
    }
}
