//! How far a server's clock is from ours.

use crate::types::time::UnixTime;

/// How far a server's clock is ahead of ours, or behind. The server dated its answer before it came, in whole
/// seconds rounded down: so what is shown is never ahead of what it shows itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ClockOffset {
    ahead_millis: u64,
    behind_millis: u64,
}

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
