//! Which requests may be retried, how often, and after how long.

use std::time::Duration;

use http::{Method, StatusCode};

use crate::types::error::Sent;
use crate::types::time::{RequestContext, UnixTime};

const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// The maximum idle time of a connection for a relayed proof: half of the shortest after which a
/// common server closes one (Gunicorn 2 s; Apache and Node 5 s, nginx 75 s). The other half is for
/// the network, by whose delay the server counts more.
const RELAY_MAX_IDLE: Duration = Duration::from_secs(1);

/// Whether a request may be retried automatically (RFC 9110 §9.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RetrySafety {
    /// After any transient failure: the request consumes nothing.
    Idempotent,
    /// Only if it was certainly not processed: it consumes a code or a rotating refresh token.
    SingleUse,
    /// Only if the server itself rejected it and named a time to come back: its effect can't be
    /// undone. A gateway's own 503 may hide a request that was processed.
    NonIdempotent,
    /// Never: it carries a single-use credential of another party.
    Never,
}

#[cfg(feature = "record")]
crate::request::recorded::recorded!(
    enum RetrySafety {
        Idempotent,
        SingleUse,
        NonIdempotent,
        Never,
    }
);

impl RetrySafety {
    /// Returns the retry safety of a call to a resource server with this method (RFC 9110 §9.2.2).
    pub(crate) fn for_method(method: &Method) -> Self {
        if method.is_idempotent() {
            Self::Idempotent
        } else {
            Self::NonIdempotent
        }
    }

    /// Returns whether a response with this status allows a retry. `retry_after` is the delay that
    /// the server requests.
    pub(crate) fn allows_retry_after(
        self,
        status: StatusCode,
        retry_after: Option<Duration>,
    ) -> bool {
        match (self, status.as_u16()) {
            (Self::Never, _) => false,
            (_, 429) => true,
            (Self::Idempotent, 502..=504) | (Self::SingleUse, 503) => true,
            (Self::NonIdempotent, 503) => retry_after.is_some(),
            _ => false,
        }
    }

    /// Returns the maximum idle time of the connection over which the request is sent. The server may
    /// close an idle one just then, and it is unknown whether it has processed the request (RFC 9112
    /// §9.3.1).
    pub(crate) fn max_idle(self) -> Duration {
        match self {
            // A retry follows at once.
            Self::Idempotent => Duration::MAX,
            // A lost one costs the other party a proof, and nothing that it could not make again.
            Self::Never => RELAY_MAX_IDLE,
            Self::SingleUse | Self::NonIdempotent => Duration::ZERO,
        }
    }

    /// Returns whether the request may be retried when no response came.
    pub(crate) fn allows_retry_without_response(self, sent: Sent) -> bool {
        match (self, sent) {
            (Self::Idempotent, _) | (_, Sent::No) => true,
            (Self::SingleUse | Self::NonIdempotent | Self::Never, Sent::Maybe) => false,
        }
    }
}

/// The number of transient failures, and the limits on attempts and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryState {
    failures: u8,
    max_attempts: u8,
    timeout: Duration,
    deadline: Option<UnixTime>,
    delay: Duration,
}

#[cfg(feature = "record")]
crate::request::recorded::recorded!(struct RetryState { failures, max_attempts, timeout, deadline, delay });

impl Default for RetryState {
    /// Four attempts, 30 s.
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
    pub(crate) fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    pub(crate) fn set_max_attempts(&mut self, max_attempts: u8) {
        self.max_attempts = max_attempts;
    }

    /// Returns the delay before the next request.
    pub(crate) fn delay(&self) -> Duration {
        self.delay
    }

    /// Records the start of an attempt. The first one sets the deadline for all of them.
    pub(crate) fn start_attempt(&mut self, now: UnixTime) {
        self.deadline
            .get_or_insert(now.saturating_add(self.timeout));
    }

    /// Returns the time left until the deadline: never more than the timeout, even if the clock has
    /// been set back since.
    pub(crate) fn time_left(&self, now: UnixTime) -> Duration {
        self.deadline
            .map_or(self.timeout, |deadline| deadline.saturating_since(now))
            .min(self.timeout)
    }

    /// Returns whether a transient failure of the next request is final.
    pub(crate) fn is_last_attempt(&self) -> bool {
        self.failures.saturating_add(1) >= self.max_attempts
    }

    /// Returns whether the deadline has passed.
    pub(crate) fn is_over(&self, now: UnixTime) -> bool {
        self.deadline.is_some_and(|deadline| now > deadline)
    }

    /// Sets the delay of the next request to zero: the retry is not due to a failure.
    pub(crate) fn retry_now(&mut self) {
        self.delay = Duration::ZERO;
    }

    /// Starts the count of failures anew, without a delay.
    pub(crate) fn restart(&mut self) {
        self.failures = 0;
        self.delay = Duration::ZERO;
    }

    /// Restarts the retries, and sets the delay of the next request. A delay other than zero is a
    /// polling interval: it does not count against the timeout, which starts anew after it.
    pub(crate) fn reset(&mut self, wait: Duration) {
        self.failures = 0;
        self.deadline = self.deadline.filter(|_| wait.is_zero());
        self.delay = wait;
    }

    /// Counts a transient failure, and sets the delay of the next request: `retry_after`, but at
    /// least `poll_interval`; without `retry_after`, `poll_interval` plus a random backoff. Returns
    /// whether an attempt and enough time are left for it. The deadline is extended by
    /// `poll_interval`.
    pub(crate) fn schedule_retry(
        &mut self,
        retry_after: Option<Duration>,
        poll_interval: Duration,
        now: UnixTime,
        seed: u64,
    ) -> bool {
        self.failures = self.failures.saturating_add(1);
        let delay = match retry_after {
            Some(retry_after) => retry_after.saturating_sub(poll_interval),
            None => backoff(self.failures, seed),
        };
        let in_time = self
            .deadline
            .is_none_or(|deadline| now.saturating_add(delay) <= deadline);
        self.deadline = self
            .deadline
            .map(|deadline| deadline.saturating_add(poll_interval));
        self.delay = poll_interval.saturating_add(delay);
        self.failures < self.max_attempts && in_time
    }
}

/// Returns a backoff with full jitter: a random delay between zero and a maximum that doubles with
/// each attempt.
fn backoff(failures: u8, seed: u64) -> Duration {
    let doubled = FIRST_BACKOFF
        .saturating_mul(1 << failures.saturating_sub(1).min(8))
        .min(MAX_BACKOFF);
    let millis = u64::try_from(doubled.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(seed % millis.saturating_add(1))
}

/// Derives the jitter of a backoff from a request's entropy.
pub(crate) fn jitter_seed(context: &RequestContext) -> u64 {
    context
        .entropy
        .iter()
        .fold(0, |seed: u64, byte| seed.rotate_left(8) ^ u64::from(*byte))
}
