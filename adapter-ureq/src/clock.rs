//! The time and the entropy that the core asks for.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keybound_core::{Ambient, UnixTime};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::Error;

/// The system's time at the start of a run, and steady from there: a clock that is set in the middle changes
/// neither budgets nor waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    at: UnixTime,
}

impl Clock {
    pub(crate) fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = UnixTime::from_secs(0).saturating_add(since_epoch);
        Self { started: Instant::now(), at }
    }

    pub(crate) fn now(&self) -> UnixTime {
        self.at.saturating_add(self.elapsed())
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn ambient(&self) -> Result<Ambient, Error> {
        Ok(Ambient::new(self.now(), entropy()?))
    }
}

/// Random bytes from the system.
pub(crate) fn entropy<const N: usize>() -> Result<[u8; N], Error> {
    let mut entropy = [0; N];
    SystemRandom::new().fill(&mut entropy).map_err(|_| Error::NoEntropy)?;
    Ok(entropy)
}
