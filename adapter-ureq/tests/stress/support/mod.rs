//! What the harnesses share.

pub(crate) mod http;
pub(crate) mod peer;
pub(crate) mod proxy;

use std::collections::BTreeMap;
use std::env;
use std::fmt::Debug;
use std::fs;
use std::io::{self, Read as _};
use std::path::Path;
use std::process::{self, Child, Command, Stdio};
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use keybound_ureq::jose::{Algorithm, SigningKey};

/// A setting from the environment.
pub(crate) fn setting<T: FromStr<Err: Debug>>(name: &str, otherwise: T) -> T {
    match env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|error| panic!("{name}={text}: {error:?}")),
        Err(_) => otherwise,
    }
}

/// Harnesses run one after the other: each would disturb the others' times.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The test of this name in a process of its own. The test looks for the environment that it is given here.
pub(crate) fn child(test: &str, environment: &BTreeMap<&str, String>) -> Child {
    Command::new(env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .envs(environment)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// In a child that goes on for ever: ends it with its parent, however that ends.
pub(crate) fn end_with_parent() {
    thread::spawn(|| {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        process::exit(1);
    });
}

/// Waits for something that must come within so long.
pub(crate) fn wait_for(what: &str, within: Duration, mut is_there: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is_there() {
        assert!(
            began.elapsed() < within,
            "{what} did not come within {within:?}"
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// A new key, in a file from which another process reads it.
pub(crate) fn new_key(path: &Path) -> SigningKey {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    fs::write(path, key.to_pkcs8_pem().expose()).unwrap();
    key
}

pub(crate) fn read_key(path: &str) -> SigningKey {
    SigningKey::from_pkcs8_pem(&fs::read_to_string(path).unwrap()).unwrap()
}
