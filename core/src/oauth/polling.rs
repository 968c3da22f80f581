//! Polling for the token of a device code (RFC 8628 §3.5).

use std::time::Duration;

use crate::oauth::grant::Polling;
use crate::request::operation::{FlowFailure, Operation};

/// The default interval between two requests, and its increase after `slow_down`: 5 s (RFC 8628
/// §3.2, §3.5).
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Makes a token operation poll until the user has decided or the code expires (RFC 8628 §3.5).
pub(crate) fn poll<T>(operation: Operation<T>, polling: Polling) -> Operation<T> {
    let Polling {
        mut interval,
        until,
    } = polling;
    operation
        .delayed_by(interval)
        .on_failure(move |failure, _, now| {
            let FlowFailure::Refusal(error) = failure else {
                return None;
            };
            match error.code() {
                Some("authorization_pending") => {}
                Some("slow_down") => interval = interval.saturating_add(POLL_INTERVAL),
                _ => return None,
            }
            let delay = interval.max(error.retry_after().unwrap_or_default());
            (now.saturating_add(delay) < until).then_some(delay)
        })
}
