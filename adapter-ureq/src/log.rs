//! Writes events as records of the `log` crate, with the target `keybound`.

use crate::Event;

pub(crate) fn log(event: &Event<'_>) {
    let level = match event {
        Event::RequestSent { .. } | Event::ResponseReceived { .. } => log::Level::Debug,
        Event::Retrying(_) | Event::TokenRefreshed(_) => log::Level::Info,
        Event::NoResponse { .. } | Event::RefreshFailed(_) | Event::StorageUnavailable(_) => {
            log::Level::Warn
        }
    };
    log::log!(target: "keybound", level, "{event:?}");
}
