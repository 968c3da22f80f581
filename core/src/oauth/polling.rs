//! Polling for the token of a device code (RFC 8628 §3.5).

use std::time::Duration;

use crate::oauth::grant::Polling;
use crate::request::operation::FlowFailure;
use crate::types::time::UnixTime;

/// The default interval between two requests, and its increase after `slow_down`: 5 s (RFC 8628
/// §3.2, §3.5).
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The maximum interval between two requests: 5 minutes, whatever the server asks for.
pub(super) const MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);

impl Polling {
    /// Returns the wait before the next request, unless the user has decided or the code expires
    /// first (RFC 8628 §3.5).
    pub(crate) fn after(&mut self, failure: &FlowFailure, now: UnixTime) -> Option<Duration> {
        let FlowFailure::Refusal(error) = failure else {
            return None;
        };
        match error.code() {
            Some("authorization_pending") => {}
            Some("slow_down") => self.interval = self.interval.saturating_add(POLL_INTERVAL),
            _ => return None,
        }
        let delay = self.interval.max(error.retry_after().unwrap_or_default());
        let delay = delay.min(MAX_POLL_INTERVAL);
        (now.saturating_add(delay) < self.until).then_some(delay)
    }
}
