//! The time and the entropy that the core needs.

use std::time::{Duration, Instant, SystemTime};

use keybound_core::driver::RequestContext;
use keybound_core::{Error, UnixTime};
use ring::rand::{SecureRandom as _, SystemRandom};

/// A clock that starts at the system's time and is monotonic from there: setting the system's clock
/// during a task changes neither timeouts nor delays.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    at: UnixTime,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let (started, at) = (Instant::now(), now());
        Self { started, at }
    }

    pub(crate) fn now(&self) -> UnixTime {
        self.at.saturating_add(self.started.elapsed())
    }

    /// Returns the time from now until `time`, zero if it has passed.
    pub(crate) fn until(&self, time: UnixTime) -> Duration {
        time.saturating_since(self.now())
    }

    pub(crate) fn context(&self) -> Result<RequestContext, Error> {
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
    let filled = SystemRandom::new().fill(&mut entropy);
    filled.map_or(Err(Error::NoEntropy), |()| Ok(entropy))
}
