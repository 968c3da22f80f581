//! What the core can't make for itself: the time, and entropy.

use std::time::Duration;

/// A point in time: milliseconds since 1970-01-01T00:00:00Z, leap seconds not counted.
///
/// The core never reads a clock. Drivers make one of these from theirs; arithmetic saturates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime {
    millis: u64,
}

impl UnixTime {
    /// A time from whole seconds, as `NumericDate` of RFC 7519 §2 counts them.
    pub const fn from_secs(secs: u64) -> Self {
        Self {
            millis: secs.saturating_mul(1000),
        }
    }

    /// A time from milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self { millis }
    }

    /// Whole seconds, rounded down.
    pub const fn as_secs(self) -> u64 {
        self.millis / 1000
    }

    /// Milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.millis
    }

    /// This time and `later` more.
    pub fn saturating_add(self, later: Duration) -> Self {
        Self {
            millis: self.millis.saturating_add(whole_millis(later)),
        }
    }

    /// This time, and so long before.
    pub fn saturating_sub(self, before: Duration) -> Self {
        Self {
            millis: self.millis.saturating_sub(whole_millis(before)),
        }
    }

    /// How long it is since `earlier`; zero where `earlier` lies ahead.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.millis.saturating_sub(earlier.millis))
    }
}

fn whole_millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The time and 128 bits of entropy, for one request.
///
/// It is consumed by the step that it serves, and can be neither copied nor cloned, so that no two
/// requests share a `jti` (RFC 9449 §4.2). The entropy must come from a cryptographically secure source.
pub struct RequestContext {
    pub(crate) now: UnixTime,
    pub(crate) entropy: [u8; 16],
}

impl RequestContext {
    /// Takes the time at which the request is made, and 16 fresh random bytes.
    pub const fn new(now: UnixTime, entropy: [u8; 16]) -> Self {
        Self { now, entropy }
    }
}

impl std::fmt::Debug for RequestContext {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestContext")
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}
