//! The nonces that earlier commands have learned, so that the next one need not be told again. They are no
//! secrets; where there is no place for the file, each command learns for itself.

use std::fs;
use std::path::PathBuf;

use etcetera::{BaseStrategy as _, choose_base_strategy};
use keybound_ureq::UnixTime;
use keybound_ureq::driver::ServerState;
use tempfile::NamedTempFile;

use crate::input::now;

/// Older ones are stale on most servers.
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

/// Replaces the file as a whole, so that no command reads half of it.
pub(crate) fn store(origins: &ServerState) {
    let write = || -> Option<()> {
        let file = file()?;
        let folder = file.parent()?;
        fs::create_dir_all(folder).ok()?;
        let draft = NamedTempFile::new_in(folder).ok()?;
        fs::write(draft.path(), origins.to_json()).ok()?;
        draft.persist(&file).ok()?;
        Some(())
    };
    // A cache that can't be written costs a request, no more.
    let _ = write();
}

fn file() -> Option<PathBuf> {
    let folder = choose_base_strategy().ok()?.cache_dir();
    Some(folder.join("keybound").join("nonces.json"))
}
