//! The inputs that the core can't produce itself: the current time and entropy.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: milliseconds since 1970-01-01T00:00:00Z, without leap seconds.
///
/// The core never reads a clock. Drivers create this value from their own clock. Arithmetic
/// saturates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct UnixTime(u64);

impl UnixTime {
    /// Creates a time from whole seconds since the epoch, like `NumericDate` (RFC 7519 §2).
    pub const fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1000))
    }

    /// Creates a time from milliseconds since the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Returns the whole seconds since the epoch, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// Returns the milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns this time plus `later`, or the latest possible time if that is earlier.
    pub fn saturating_add(self, later: Duration) -> Self {
        Self(self.0.saturating_add(whole_millis(later)))
    }

    /// Returns this time minus `before`, or the epoch if that is later.
    pub fn saturating_sub(self, before: Duration) -> Self {
        Self(self.0.saturating_sub(whole_millis(before)))
    }

    /// Returns the time elapsed since `earlier`, or zero if `earlier` is later than this time.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Returns whether this time, which was at most `most` away when it was set, is yet to come. If
    /// it is further away now, the clock has been set back since, and waiting for it could take any
    /// time. The clocks of two tasks may differ by [`CLOCK_DIFFERENCE`].
    pub(crate) fn is_pending(self, now: Self, most: Duration) -> bool {
        now < self && self.saturating_since(now) <= most.saturating_add(CLOCK_DIFFERENCE)
    }
}

/// How much two tasks of a process may differ in the time: one may read it before the other and take
/// its step later, each may have a monotonic clock of its own, and the system's clock is adjusted.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(1);

/// Times before 1970 become 1970-01-01T00:00:00Z.
impl From<SystemTime> for UnixTime {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self::from_millis(whole_millis(since))
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The time and 128 bits of entropy, for one request.
///
/// Each request consumes its own context, which can be neither copied nor cloned, so no two
/// requests share a `jti` (RFC 9449 §4.2). The entropy must come from a cryptographically secure
/// source.
pub struct RequestContext {
    pub(crate) now: UnixTime,
    pub(crate) entropy: [u8; 16],
}

impl RequestContext {
    /// Creates the context of a request from the current time and 16 fresh random bytes.
    pub const fn new(now: UnixTime, entropy: [u8; 16]) -> Self {
        Self { now, entropy }
    }

    /// Returns the time.
    #[cfg(feature = "record")]
    pub const fn now(&self) -> UnixTime {
        self.now
    }
}

impl std::fmt::Debug for RequestContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestContext")
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}
