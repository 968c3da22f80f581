//! Writes events as records of the `log` crate, with the target `keybound`.

use log::Level;

use crate::Event;

const TARGET: &str = "keybound";

/// Returns whether any event may be written.
pub(crate) fn is_enabled() -> bool {
    log::log_enabled!(target: TARGET, Level::Error)
}

pub(crate) fn log(event: &Event<'_>) {
    let level = match event {
        Event::RequestSent { .. } | Event::ResponseReceived { .. } => Level::Debug,
        Event::Retrying(_) | Event::TokenRefreshed(_) | Event::LeaseAwaited(_) => Level::Info,
        Event::NoResponse { .. } | Event::RefreshFailed(_) | Event::StorageUnavailable(_) => {
            Level::Warn
        }
        Event::LoginLost(_) => Level::Error,
    };
    log::log!(target: TARGET, level, "{event:?}");
}
