//! Three stories of real runs. The files beside this one are such recordings.
//! `KEYBOUND_WRITE_RECORDINGS=1` replaces them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::storage::{Lease, MemoryStorage, Storage, StorageError};
use keybound_ureq::{
    Client, Error, Grant, RefreshPolicy, SecretBytes, Session, Token, Transport, UnixTime,
};

use crate::server::{Server, response, token};
use crate::{Lines, replay};

const LOST_REFRESH: &str = include_str!("lost_refresh.jsonl");
const FROZEN_STORAGE: &str = include_str!("frozen_storage.jsonl");
const ROTATING_NONCE: &str = include_str!("rotating_nonce.jsonl");

fn assert_tells(words: &str, parts: &[&str]) {
    let mut rest = words;
    for part in parts {
        let at = rest.find(part);
        let at = at.unwrap_or_else(|| panic!("{part} is missing in\n{words}"));
        rest = &rest[at + part.len()..];
    }
}

#[test]
fn a_recorded_refresh_whose_answer_was_lost_replays() {
    assert_lost_refresh(&run("lost_refresh", lost_refresh));
    assert_lost_refresh(&replay(LOST_REFRESH));
}

#[test]
fn a_recorded_storage_that_froze_under_the_lease_replays() {
    assert_frozen_storage(&run("frozen_storage", frozen_storage));
    assert_frozen_storage(&replay(FROZEN_STORAGE));
}

#[test]
fn recorded_nonces_that_rotate_with_each_answer_replay() {
    assert_rotating_nonce(&run("rotating_nonce", rotating_nonce));
    assert_rotating_nonce(&replay(ROTATING_NONCE));
}

#[test]
fn a_changed_recording_does_not_replay() {
    let changed = LOST_REFRESH.replacen("invalid_grant", "invalid_scope", 1);
    assert_ne!(changed, LOST_REFRESH);
    let replayed = std::panic::catch_unwind(|| replay(&changed));
    assert!(replayed.is_err());
}

/// Records a story, and replays it.
fn run(name: &str, story: impl FnOnce(Transport)) -> String {
    let lines = Lines::default();
    story(Transport::new().record(lines.clone()).unwrap());
    let recording = lines.text();
    if std::env::var_os("KEYBOUND_WRITE_RECORDINGS").is_some() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recordings");
        std::fs::write(folder.join(name).with_extension("jsonl"), &recording).unwrap();
    }
    replay(&recording)
}

fn policy() -> RefreshPolicy {
    RefreshPolicy::default().retry_interval(Duration::from_millis(50))
}

/// A token that has expired, with a refresh token.
fn expired(client: &Client) -> Token {
    let json = br#"{"access_token":"at-1-Vq8Zt2","token_type":"Bearer","expires_in":60,"refresh_token":"rt-1-k3Xw9P"}"#;
    client
        .parse_token_response(json, UnixTime::from_secs(1_700_000_000))
        .unwrap()
}

/// The server rotates the refresh token, and the connection is cut before the answer.
fn lost_refresh(transport: Transport) {
    let used = Arc::new(AtomicBool::new(false));
    let server = Server::start(move |asked| match asked.path.as_str() {
        "/token" if used.swap(true, Ordering::SeqCst) => response(
            "400 Bad Request",
            r#"{"error":"invalid_grant","error_description":"the token was used"}"#,
        ),
        "/token" => String::new(),
        _ => response("200 OK", "fine"),
    });
    let session = Session::builder(transport, server.client())
        .token(expired(&server.client()))
        .policy(policy())
        .storage(MemoryStorage::default(), "login")
        .build();
    let lost = server.call(&session);
    assert!(matches!(lost, Err(Error::NoResponse(_))), "{lost:?}");
    thread::sleep(Duration::from_millis(100));
    let refused = server.call(&session);
    assert!(matches!(&refused, Err(Error::Server(_))), "{refused:?}");
}

fn assert_lost_refresh(words: &str) {
    assert_tells(
        words,
        &[
            "refresh_token",
            "no_response",
            "because of no response: not sent again: it may have been processed",
            "because of 400 invalid_grant: the server's error is the result",
        ],
    );
}

/// A storage that a process can reach until it has the lease, as a Redis that stops.
struct Frozen {
    inner: MemoryStorage,
    is_frozen: Arc<AtomicBool>,
}

struct FrozenLease<'a>(Box<dyn Lease + 'a>, &'a AtomicBool);

fn frozen() -> StorageError {
    thread::sleep(Duration::from_millis(30));
    "timed out reading from the server".into()
}

impl Storage for Frozen {
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        self.inner.load(name)
    }

    fn lease(
        &self,
        name: &str,
        ttl: Duration,
    ) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        let lease = self.inner.lease(name, ttl)?;
        Ok(lease
            .map(|lease| -> Box<dyn Lease + '_> { Box::new(FrozenLease(lease, &self.is_frozen)) }))
    }
}

impl Lease for FrozenLease<'_> {
    fn save(&mut self, state: &SecretBytes) -> Result<bool, StorageError> {
        match self.1.load(Ordering::SeqCst) {
            true => Err(frozen()),
            false => self.0.save(state),
        }
    }
}

fn frozen_storage(transport: Transport) {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" => response(
            "200 OK",
            r#"{"access_token":"at-2-Wm5Yb7","token_type":"Bearer","expires_in":600,"refresh_token":"rt-2-c8Jf4N"}"#,
        ),
        _ => response("200 OK", "fine"),
    });
    let is_frozen = Arc::new(AtomicBool::new(true));
    let storage = Frozen {
        inner: MemoryStorage::default(),
        is_frozen: is_frozen.clone(),
    };
    let session = Session::builder(transport, server.client())
        .grant(Grant::refresh_token(keybound_ureq::Secret::new("rt-1-k3Xw9P")).unwrap())
        .policy(policy())
        .storage(storage, "login")
        .build();
    let failed = server.call(&session);
    assert!(matches!(failed, Err(Error::Storage(_))), "{failed:?}");
    assert_eq!(server.count("/token"), 0);
    is_frozen.store(false, Ordering::SeqCst);
    thread::sleep(Duration::from_millis(100));
    assert_eq!(server.call(&session).unwrap().status(), 200);
    session.close(Duration::from_secs(5));
}

fn assert_frozen_storage(words: &str) {
    assert_tells(
        words,
        &[
            r#""lease""#,
            r#"leased {"ok":true}"#,
            r#"saved {"error""#,
            "storage",
            r#"saved {"ok":true}"#,
            r#"then {"send""#,
            "token_refreshed",
        ],
    );
}

/// Each response brings another nonce, and only the last one is good.
fn rotating_nonce(transport: Transport) {
    let (next, requests) = (AtomicU32::new(0), AtomicUsize::new(0));
    let server = Server::start(move |asked| {
        if asked.path == "/token" {
            return token("at-1-Vq8Zt2", "DPoP", 600);
        }
        requests.fetch_add(1, Ordering::SeqCst);
        let last = next.fetch_add(1, Ordering::SeqCst);
        let nonce = format!("DPoP-Nonce: nonce-{}\r\nConnection", last + 1);
        let is_good = asked.nonce == Some(format!("nonce-{last}"));
        let answer = match is_good {
            true => response("200 OK", "fine"),
            false => response(
                "401 Unauthorized\r\nWWW-Authenticate: DPoP error=\"use_dpop_nonce\"",
                "",
            ),
        };
        answer.replacen("Connection", &nonce, 1)
    });
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let client = server.client().dpop(key.public().clone());
    let session = Session::builder(transport.signer(key), client)
        .grant(Grant::client_credentials())
        .label("reports")
        .build();
    for _ in 0..3 {
        assert_eq!(server.call(&session).unwrap().status(), 200);
    }
    assert_eq!(server.count("/resource"), 4);
}

fn assert_rotating_nonce(words: &str) {
    assert_tells(
        words,
        &[
            "because of 401 use_dpop_nonce: send again with the server's nonce",
            "session reports",
            "task 3",
            "task 4",
        ],
    );
}
