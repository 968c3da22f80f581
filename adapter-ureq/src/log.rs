//! Events for the `log` crate, under the target `keybound`.

use crate::Event;

pub(crate) fn log(event: &Event<'_>) {
    let level = match event {
        Event::Sending { .. } | Event::Received { .. } => log::Level::Debug,
        Event::Again { .. } | Event::Renewed(_) => log::Level::Info,
        Event::Lost { .. } | Event::NotRenewed(_) | Event::Alone(_) => log::Level::Warn,
    };
    log::log!(target: "keybound", level, "{event:?}");
}
