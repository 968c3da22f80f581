//! Runs the refreshes of sessions in threads of their own, so that the timeout of a caller does not
//! abort a request that consumes a single-use token.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::thread;

use keybound_core::driver::RefreshPurpose;

use crate::driver_loop::{StartedRefresh, start_refresh};
use crate::{session::Inner, transport::Transport};

/// The maximum number of refreshes of one transport that run at once and that no caller waits for.
/// A server that hangs would otherwise cost a thread for each session.
const MAX_THREADS: usize = 32;

/// The threads that run refreshes, and the sessions that wait for one.
#[derive(Default)]
pub(crate) struct Refreshes {
    /// Nobody needs the refresh of a session that is gone.
    due: VecDeque<Weak<Inner>>,
    threads: usize,
}

impl Refreshes {
    /// Adds a session whose refresh is due. Returns the thread to start for it, unless there are
    /// enough of them and no caller waits.
    pub(crate) fn add(
        &mut self,
        session: &Arc<Inner>,
        purpose: RefreshPurpose,
    ) -> Option<RefreshThread> {
        let added = Arc::downgrade(session);
        self.due
            .retain(|due| due.strong_count() > 0 && !due.ptr_eq(&added));
        if purpose != RefreshPurpose::Obtain && self.threads >= MAX_THREADS {
            self.due.push_back(added);
            return None;
        }
        self.threads += 1;
        Some(RefreshThread {
            place: Place::new(&session.transport),
            first: Arc::clone(session),
        })
    }

    /// Returns the next session for a thread. The thread ends if there is none, or if there are too
    /// many threads.
    fn next(&mut self) -> Option<Arc<Inner>> {
        if self.threads <= MAX_THREADS {
            while let Some(due) = self.due.pop_front() {
                if let Some(session) = due.upgrade() {
                    return Some(session);
                }
            }
        }
        self.threads -= 1;
        None
    }
}

/// A thread that runs refreshes, the one of `first` before others.
pub(crate) struct RefreshThread {
    place: Place,
    first: Arc<Inner>,
}

impl RefreshThread {
    /// Starts the thread. The first refresh takes its first step before, so that a caller that drops
    /// its session next waits for a single-use token that is under way. If the system has no thread,
    /// that refresh ends at once, as aborted.
    pub(crate) fn start(self) {
        let Self { mut place, first } = self;
        let first = start_refresh(first);
        let run = move || {
            first.into_iter().for_each(StartedRefresh::run);
            while let Some(session) = place.next() {
                let next = start_refresh(session);
                next.into_iter().for_each(StartedRefresh::run);
            }
        };
        let thread = thread::Builder::new().name("keybound-refresh".into());
        drop(thread.spawn(run));
    }
}

/// The place of a thread among those that run. Given back also if the thread does not start, or if a
/// signer or an event handler panics.
struct Place {
    transport: Arc<Transport>,
    is_given_back: bool,
}

impl Place {
    fn new(transport: &Arc<Transport>) -> Self {
        Self {
            transport: Arc::clone(transport),
            is_given_back: false,
        }
    }

    /// Returns the next session, or gives the place back.
    fn next(&mut self) -> Option<Arc<Inner>> {
        let next = self.transport.lock().refreshes.next();
        self.is_given_back = next.is_none();
        next
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.is_given_back {
            self.transport.lock().refreshes.threads -= 1;
        }
    }
}
