//! The time and the entropy that the core needs.

use std::time::{Duration, Instant, SystemTime};

use keybound_core::UnixTime;
use keybound_core::driver::RequestContext;
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::Error;

/// A timeout, and a clock that starts at the system's time and is monotonic from there: setting the
/// system's clock during an operation changes neither timeouts nor delays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    started: Instant,
    at: UnixTime,
    timeout: Duration,
}

impl Deadline {
    /// Starts the clock of an operation with this timeout.
    pub(crate) fn start(timeout: Duration) -> Self {
        Self {
            started: Instant::now(),
            at: now(),
            timeout,
        }
    }

    pub(crate) fn now(&self) -> UnixTime {
        self.at.saturating_add(self.elapsed())
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Returns the time left, zero after the timeout.
    pub(crate) fn left(&self) -> Duration {
        self.timeout.saturating_sub(self.elapsed())
    }

    pub(crate) fn request_context(&self) -> Result<RequestContext, Error> {
        Ok(RequestContext::new(self.now(), entropy()?))
    }
}

/// Returns the time of the system's clock.
pub(crate) fn now() -> UnixTime {
    SystemTime::now().into()
}

/// Returns random bytes from the system.
pub(crate) fn entropy<const N: usize>() -> Result<[u8; N], Error> {
    let mut entropy = [0; N];
    SystemRandom::new()
        .fill(&mut entropy)
        .map_err(|_| Error::NoEntropy)?;
    Ok(entropy)
}
