//! The time and the entropy that the core needs.

use std::time::{Duration, Instant, SystemTime};

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
}

/// Returns the time of the system's clock.
pub(crate) fn now() -> UnixTime {
    SystemTime::now().into()
}

/// Random bytes for the steps of a task. The system is asked once for several steps.
#[derive(Debug, Default)]
pub(crate) struct Entropy {
    drawn: [[u8; 16]; 4],
    left: usize,
}

impl Entropy {
    /// Returns bytes that were never returned before.
    pub(crate) fn next(&mut self) -> Result<[u8; 16], Error> {
        if self.left == 0 {
            fill(self.drawn.as_flattened_mut())?;
            self.left = self.drawn.len();
        }
        self.left -= 1;
        self.drawn.get(self.left).copied().ok_or(Error::NoEntropy)
    }
}

/// Returns random bytes from the system.
pub(crate) fn entropy<const N: usize>() -> Result<[u8; N], Error> {
    let mut entropy = [0; N];
    fill(&mut entropy)?;
    Ok(entropy)
}

fn fill(bytes: &mut [u8]) -> Result<(), Error> {
    let filled = SystemRandom::new().fill(bytes);
    filled.map_err(|_| Error::NoEntropy)
}
