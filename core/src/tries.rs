//! What may be sent again, how often, and after how long.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::error::Sent;
use crate::time::{Ambient, UnixTime};

const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// When a request may be sent again without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Whenever it failed in passing: it uses nothing up.
    Freely,
    /// Only where it certainly wasn't carried out: it uses up a code or a rotating token.
    IfNotCarriedOut,
    /// Only where the server itself turned it away and named a time to come back: what it does can't be undone. A
    /// gateway's own 503 may stand for a request that went through.
    IfTurnedAway,
    /// Never: what it carries is somebody else's, and good for once.
    Never,
}

impl Repeat {
    /// For a call of a resource (RFC 9110 §9.2.2).
    pub(crate) fn of(method: &Method) -> Self {
        if method.is_idempotent() { Self::Freely } else { Self::IfTurnedAway }
    }

    /// Whether the answer lets it be sent again. `asked` is the pause that the server names.
    pub(crate) fn after(self, status: StatusCode, asked: Option<Duration>) -> bool {
        match (self, status.as_u16()) {
            (Self::Never, _) => false,
            (_, 429) => true,
            (Self::Freely, 502..=504) | (Self::IfNotCarriedOut, 503) => true,
            (Self::IfTurnedAway, 503) => asked.is_some(),
            _ => false,
        }
    }

    /// Whether no answer lets it be sent again.
    pub(crate) fn after_loss(self, sent: Sent) -> bool {
        match (self, sent) {
            (Self::Freely, _) | (_, Sent::No) => true,
            (Self::IfNotCarriedOut | Self::IfTurnedAway | Self::Never, Sent::Maybe) => false,
        }
    }
}

/// How often something failed in passing, and how long it may go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tries {
    failures: u8,
    at_most: u8,
    budget: Duration,
    deadline: Option<UnixTime>,
    wait: Duration,
}

impl Default for Tries {
    /// Four sends, thirty seconds.
    fn default() -> Self {
        Self {
            failures: 0,
            at_most: 4,
            budget: Duration::from_secs(30),
            deadline: None,
            wait: Duration::ZERO,
        }
    }
}

impl Tries {
    pub(crate) fn within(&mut self, budget: Duration) {
        self.budget = budget;
    }

    pub(crate) fn at_most(&mut self, sends: u8) {
        self.at_most = sends;
    }

    /// How long to wait before the next request.
    pub(crate) fn wait(&self) -> Duration {
        self.wait
    }

    /// A request is made: the first one starts the time that all may take.
    pub(crate) fn begin(&mut self, now: UnixTime) {
        self.deadline.get_or_insert(now.saturating_add(self.budget));
    }

    /// How much of the time is left.
    pub(crate) fn time_left(&self, now: UnixTime) -> Duration {
        self.deadline.map_or(self.budget, |deadline| deadline.saturating_since(now))
    }

    /// The next request need not wait: it is not a failure that asks for it.
    pub(crate) fn at_once(&mut self) {
        self.wait = Duration::ZERO;
    }

    /// What was asked goes on after so long. A wait that is the server's wish costs nothing of the time, which begins anew.
    pub(crate) fn go_on(&mut self, wait: Duration) {
        self.failures = 0;
        self.deadline = self.deadline.filter(|_| wait.is_zero());
        self.wait = wait;
    }

    /// Whether there is time and a try left after a failure that may pass: after the pause that the server asks
    /// for, or one by chance. No request follows another sooner than by `pace`, and that costs nothing of the time.
    pub(crate) fn again(
        &mut self,
        asked: Option<Duration>,
        pace: Duration,
        now: UnixTime,
        seed: u64,
    ) -> bool {
        self.failures = self.failures.saturating_add(1);
        let later = match asked {
            Some(asked) => asked.saturating_sub(pace),
            None => pause(self.failures, seed),
        };
        let in_time = self.deadline.is_none_or(|deadline| now.saturating_add(later) <= deadline);
        self.deadline = self.deadline.map(|deadline| deadline.saturating_add(pace));
        self.wait = pace.saturating_add(later);
        self.failures < self.at_most && in_time
    }
}

/// Full jitter: anything between nothing and a pause that doubles with each try.
fn pause(failures: u8, seed: u64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(8)).min(LONGEST_PAUSE);
    let millis = u64::try_from(doubled.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(seed % millis.saturating_add(1))
}

/// Chance for a pause, from a request's entropy.
pub(crate) fn seed(ambient: &Ambient) -> u64 {
    ambient.entropy.iter().fold(0, |seed: u64, byte| seed.rotate_left(8) ^ u64::from(*byte))
}
