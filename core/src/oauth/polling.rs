//! Polling for the token of a device code (RFC 8628 §3.5).

use std::time::Duration;

use crate::oauth::grant::Polling;
use crate::request::operation::{FlowFailure, Operation};

/// How long to wait between two requests where the server doesn't say, and by how much it grows when it is too short
/// (RFC 8628 §3.2, §3.5).
pub(super) const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// Makes a token exchange ask until somebody has decided (RFC 8628 §3.5).
pub(crate) fn poll<T>(exchange: Operation<T>, polling: Polling) -> Operation<T> {
    let Polling {
        mut interval,
        until,
    } = polling;
    exchange
        .delayed_by(interval)
        .on_failure(move |setback, _, now| {
            let FlowFailure::Refusal(refusal) = setback else {
                return None;
            };
            match refusal.code() {
                Some("authorization_pending") => {}
                Some("slow_down") => interval = interval.saturating_add(POLL_INTERVAL),
                _ => return None,
            }
            let wait = interval.max(refusal.retry_after().unwrap_or_default());
            (now.saturating_add(wait) < until).then_some(wait)
        })
}
