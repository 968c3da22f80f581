//! The offset between a server's clock and the local clock.

use crate::types::time::UnixTime;

/// How far a server's clock is ahead of the local clock, or behind it. The `Date` header (RFC 9110
/// §6.6.1) is in whole seconds, rounded down, and was written before the response arrived. The
/// estimated time is therefore never ahead of the server's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClockOffset {
    ahead_millis: u64,
    behind_millis: u64,
}

#[cfg(feature = "record")]
crate::request::recorded::recorded!(struct ClockOffset { ahead_millis, behind_millis });

impl ClockOffset {
    pub(super) fn from_date_header(theirs: UnixTime, ours: UnixTime) -> Self {
        Self {
            ahead_millis: theirs.as_millis().saturating_sub(ours.as_millis()),
            behind_millis: ours.as_millis().saturating_sub(theirs.as_millis()),
        }
    }

    pub(crate) fn apply(self, ours: UnixTime) -> UnixTime {
        UnixTime::from_millis(
            ours.as_millis()
                .saturating_add(self.ahead_millis)
                .saturating_sub(self.behind_millis),
        )
    }
}
