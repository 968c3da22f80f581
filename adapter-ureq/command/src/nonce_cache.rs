//! A cache file for nonces and clock offsets of servers. It saves the next invocation a request per
//! server. Its contents are not secret. Without a writable cache directory there is no cache.

use std::fs;
use std::path::PathBuf;

use etcetera::{BaseStrategy as _, choose_base_strategy};
use keybound_ureq::UnixTime;
use keybound_ureq::driver::ServerState;
use tempfile::NamedTempFile;

use crate::input::now;

/// The maximum age of cached nonces, in seconds. Older ones are stale on most servers.
const MAX_AGE_SECS: u64 = 300;

pub(crate) fn load() -> ServerState {
    let since = UnixTime::from_secs(
        now()
            .saturating_since(UnixTime::from_secs(MAX_AGE_SECS))
            .as_secs(),
    );
    file()
        .and_then(|file| fs::read_to_string(file).ok())
        .and_then(|json| ServerState::from_json(&json, since).ok())
        .unwrap_or_default()
}

/// Stores the server state. The file is replaced atomically, so that concurrent invocations never
/// read a partial file.
pub(crate) fn store(server_state: &ServerState) {
    let write = || -> Option<()> {
        let file = file()?;
        let folder = file.parent()?;
        fs::create_dir_all(folder).ok()?;
        let temporary = NamedTempFile::new_in(folder).ok()?;
        fs::write(temporary.path(), server_state.to_json()).ok()?;
        temporary.persist(&file).ok()?;
        Some(())
    };
    // Without the cache, the next invocation needs an additional request.
    let _ = write();
}

fn file() -> Option<PathBuf> {
    let folder = choose_base_strategy().ok()?.cache_dir();
    Some(folder.join("keybound").join("nonces.json"))
}
