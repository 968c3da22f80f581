//! The time and the entropy that the core asks for.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keybound_core::UnixTime;
use keybound_core::driver::RequestContext;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::Error;

/// The system's time at the start of a run, and steady from there: a clock that is set in the middle changes
/// neither budgets nor waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    started: Instant,
    at: UnixTime,
    timeout: Duration,
}

impl Deadline {
    /// For a run that may take so long.
    pub(crate) fn start(budget: Duration) -> Self {
        Self {
            started: Instant::now(),
            at: now(),
            timeout: budget,
        }
    }

    pub(crate) fn now(&self) -> UnixTime {
        self.at.saturating_add(self.elapsed())
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// How much of the budget is left.
    pub(crate) fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.elapsed())
    }

    pub(crate) fn request_context(&self) -> Result<RequestContext, Error> {
        Ok(RequestContext::new(self.now(), entropy()?))
    }
}

/// What the system's clock shows.
pub(crate) fn now() -> UnixTime {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixTime::from_secs(0).saturating_add(since_epoch)
}

/// Random bytes from the system.
pub(crate) fn entropy<const N: usize>() -> Result<[u8; N], Error> {
    let mut entropy = [0; N];
    SystemRandom::new()
        .fill(&mut entropy)
        .map_err(|_| Error::NoEntropy)?;
    Ok(entropy)
}
