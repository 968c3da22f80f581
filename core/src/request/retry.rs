//! What may be sent again, how often, and after how long.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::types::error::Sent;
use crate::types::time::{RequestContext, UnixTime};

const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// When a request may be sent again without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetrySafety {
    /// Whenever it failed in passing: it uses nothing up.
    Idempotent,
    /// Only where it certainly wasn't carried out: it uses up a code or a rotating token.
    SingleUse,
    /// Only where the server itself turned it away and named a time to come back: what it does can't be undone. A
    /// gateway's own 503 may stand for a request that went through.
    NonIdempotent,
    /// Never: what it carries is somebody else's, and good for once.
    Never,
}

impl RetrySafety {
    /// For a call of a resource (RFC 9110 §9.2.2).
    pub(crate) fn for_method(method: &Method) -> Self {
        if method.is_idempotent() {
            Self::Idempotent
        } else {
            Self::NonIdempotent
        }
    }

    /// Whether the answer lets it be sent again. `asked` is the pause that the server names.
    pub(crate) fn allows_retry_after(self, status: StatusCode, asked: Option<Duration>) -> bool {
        match (self, status.as_u16()) {
            (Self::Never, _) => false,
            (_, 429) => true,
            (Self::Idempotent, 502..=504) | (Self::SingleUse, 503) => true,
            (Self::NonIdempotent, 503) => asked.is_some(),
            _ => false,
        }
    }

    /// Whether no answer lets it be sent again.
    pub(crate) fn allows_retry_without_response(self, sent: Sent) -> bool {
        match (self, sent) {
            (Self::Idempotent, _) | (_, Sent::No) => true,
            (Self::SingleUse | Self::NonIdempotent | Self::Never, Sent::Maybe) => false,
        }
    }
}

/// How often something failed in passing, and how long it may go on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RetryState {
    failures: u8,
    max_attempts: u8,
    timeout: Duration,
    deadline: Option<UnixTime>,
    delay: Duration,
}

impl Default for RetryState {
    /// Four sends, thirty seconds.
    fn default() -> Self {
        Self {
            failures: 0,
            max_attempts: 4,
            timeout: Duration::from_secs(30),
            deadline: None,
            delay: Duration::ZERO,
        }
    }
}

impl RetryState {
    pub(crate) fn set_timeout(&mut self, budget: Duration) {
        self.timeout = budget;
    }

    pub(crate) fn set_max_attempts(&mut self, sends: u8) {
        self.max_attempts = sends;
    }

    /// How long to wait before the next request.
    pub(crate) fn delay(&self) -> Duration {
        self.delay
    }

    /// A request is made: the first one starts the time that all may take.
    pub(crate) fn start_attempt(&mut self, now: UnixTime) {
        self.deadline
            .get_or_insert(now.saturating_add(self.timeout));
    }

    /// How much of the time is left.
    pub(crate) fn time_left(&self, now: UnixTime) -> Duration {
        self.deadline
            .map_or(self.timeout, |deadline| deadline.saturating_since(now))
    }

    /// The next request need not wait: it is not a failure that asks for it.
    pub(crate) fn retry_now(&mut self) {
        self.delay = Duration::ZERO;
    }

    /// What was asked goes on after so long. A wait that is the server's wish costs nothing of the time, which begins anew.
    pub(crate) fn reset(&mut self, wait: Duration) {
        self.failures = 0;
        self.deadline = self.deadline.filter(|_| wait.is_zero());
        self.delay = wait;
    }

    /// Whether there is time and a try left after a failure that may pass: after the pause that the server asks
    /// for, or one by chance. No request follows another sooner than by `pace`, and that costs nothing of the time.
    pub(crate) fn schedule_retry(
        &mut self,
        asked: Option<Duration>,
        pace: Duration,
        now: UnixTime,
        seed: u64,
    ) -> bool {
        self.failures = self.failures.saturating_add(1);
        let later = match asked {
            Some(asked) => asked.saturating_sub(pace),
            None => backoff(self.failures, seed),
        };
        let in_time = self
            .deadline
            .is_none_or(|deadline| now.saturating_add(later) <= deadline);
        self.deadline = self.deadline.map(|deadline| deadline.saturating_add(pace));
        self.delay = pace.saturating_add(later);
        self.failures < self.max_attempts && in_time
    }
}

/// Full jitter: anything between nothing and a pause that doubles with each try.
fn backoff(failures: u8, seed: u64) -> Duration {
    let doubled = FIRST_BACKOFF
        .saturating_mul(1 << failures.saturating_sub(1).min(8))
        .min(MAX_BACKOFF);
    let millis = u64::try_from(doubled.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(seed % millis.saturating_add(1))
}

/// Chance for a pause, from a request's entropy.
pub(crate) fn jitter_seed(context: &RequestContext) -> u64 {
    context
        .entropy
        .iter()
        .fold(0, |seed: u64, byte| seed.rotate_left(8) ^ u64::from(*byte))
}
