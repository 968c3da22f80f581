//! Sessions with a storage: its content, which process refreshes, and failures of the storage.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use keybound_ureq::storage::{
    EncryptedStorage, FileStorage, Lease, MemoryStorage, Storage, StorageError,
};
use keybound_ureq::{
    Error, Event, Grant, RefreshPolicy, Retry, Secret, SecretBytes, Session, SessionBuilder,
    Transport,
};

use crate::server::{Server, at_once, response, token};

const LEASE_TTL: Duration = Duration::from_secs(30);
const NAMES: [&str; 4] = ["default", "person/psn_1", "../up", "Ü {}:%"];

/// The same of every storage.
fn keeps_and_leases(storage: &dyn Storage) {
    for name in NAMES {
        assert!(storage.load(name).unwrap().is_none(), "{name}");
        let mut lease = storage.lease(name, LEASE_TTL).unwrap().unwrap();
        assert!(
            storage.lease(name, LEASE_TTL).unwrap().is_none(),
            "one at a time"
        );
        for state in [&b"first, and long"[..], b"second", &[0, 0xFF, 10]] {
            assert!(lease.save(&SecretBytes::new(state.to_vec())).unwrap());
            assert_eq!(
                storage.load(name).unwrap().unwrap().expose(),
                state,
                "{name}"
            );
        }
        drop(lease);
        assert!(storage.lease(name, LEASE_TTL).unwrap().is_some());
        assert_eq!(storage.load(name).unwrap().unwrap().expose(), [0, 0xFF, 10]);
    }
}

#[test]
fn every_storage_keeps_each_name_apart_and_leases_it_to_one() {
    let folder = tempfile::tempdir().unwrap();
    keeps_and_leases(&MemoryStorage::new());
    keeps_and_leases(&FileStorage::new(folder.path().join("new/folder")).unwrap());
    keeps_and_leases(&EncryptedStorage::new(MemoryStorage::new(), &[7; 32]).unwrap());
}

#[test]
fn a_lease_is_given_to_one_of_many_threads() {
    let folder = tempfile::tempdir().unwrap();
    let file = FileStorage::new(folder.path()).unwrap();
    let memory = MemoryStorage::new();
    let storages: [&dyn Storage; 2] = [&file, &memory];
    for storage in storages {
        let leases = Mutex::new(Vec::new());
        at_once(20, || {
            let lease = storage.lease("one", LEASE_TTL).unwrap();
            let won = lease.is_some();
            // Kept until all have asked.
            thread::sleep(Duration::from_millis(100));
            leases.lock().unwrap().push(won);
        });
        assert_eq!(
            leases
                .into_inner()
                .unwrap()
                .into_iter()
                .filter(|won| *won)
                .count(),
            1
        );
    }
}

#[cfg(unix)]
#[test]
fn files_are_for_their_owner_alone_and_replaced_as_a_whole() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sessions");
    let storage = FileStorage::new(&path).unwrap();
    // What a process has left that died while it wrote.
    fs::write(path.join("one.session.new"), "half of a sess").unwrap();
    let mut lease = storage.lease("one", LEASE_TTL).unwrap().unwrap();
    assert!(storage.load("one").unwrap().is_none());
    assert!(lease.save(&SecretBytes::new(b"whole".to_vec())).unwrap());
    let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        names.push(entry.file_name().into_string().unwrap());
        assert_eq!(mode(&entry.path()) & 0o077, 0, "{names:?}");
    }
    names.sort_unstable();
    assert_eq!(names, ["one.lock", "one.session"]);
}

#[test]
fn an_encrypted_state_reveals_nothing_and_is_decrypted_with_its_key_and_name_alone() {
    let inner = Arc::new(MemoryStorage::new());
    let state = SecretBytes::new(b"a very secret state".to_vec());
    let encrypted = EncryptedStorage::new(Arc::clone(&inner), &[1; 32]).unwrap();
    for _ in 0..2 {
        encrypted
            .lease("a", LEASE_TTL)
            .unwrap()
            .unwrap()
            .save(&state)
            .unwrap();
    }
    let text = inner.load("a").unwrap().unwrap();
    assert!(
        !text
            .expose()
            .windows(4)
            .any(|four| state.expose().windows(4).any(|other| other == four))
    );

    let load = |text: &[u8], name: &str| {
        inner
            .lease(name, LEASE_TTL)
            .unwrap()
            .unwrap()
            .save(&SecretBytes::new(text.to_vec()))
            .unwrap();
        encrypted
            .load(name)
            .map(|state| state.unwrap().expose().to_vec())
    };
    assert_eq!(load(text.expose(), "a").unwrap(), state.expose());
    assert!(load(text.expose(), "b").is_err(), "another name");
    for at in 0..text.expose().len() {
        let mut changed = text.expose().to_vec();
        changed[at] ^= 1;
        assert!(load(&changed, "a").is_err(), "byte {at}");
        assert!(load(&text.expose()[..at], "a").is_err(), "cut at {at}");
    }
    load(text.expose(), "a").unwrap();
    let other = EncryptedStorage::new(Arc::clone(&inner), &[2; 32]).unwrap();
    assert!(other.load("a").is_err(), "another key");
    assert_eq!(
        other
            .with_previous_key(&[1; 32])
            .unwrap()
            .load("a")
            .unwrap()
            .unwrap()
            .expose(),
        state.expose()
    );
    assert!(EncryptedStorage::new(MemoryStorage::new(), &[0; 31]).is_err());
}

/// A token endpoint with client credentials and refresh tokens that are good once; all tokens live an hour.
fn rotating_server() -> Server {
    let made = AtomicUsize::new(0);
    Server::start(move |asked| {
        let number = made.load(Ordering::SeqCst);
        match asked.path.as_str() {
            "/token" if asked.body.contains("grant_type=client_credentials") => token(
                &format!("c{}", made.fetch_add(1, Ordering::SeqCst) + 1),
                "Bearer",
                3600,
            ),
            "/token"
                if number == 0
                    || asked.body.contains(&format!("refresh_token=r{number}&"))
                    || asked.body.ends_with(&format!("refresh_token=r{number}")) =>
            {
                let number = made.fetch_add(1, Ordering::SeqCst) + 1;
                let body = format!(
                    r#"{{"access_token":"a{number}","token_type":"Bearer","expires_in":3600,"refresh_token":"r{number}"}}"#
                );
                response("200 OK", &body)
            }
            "/token" => response("400 Bad Request", r#"{"error":"invalid_grant"}"#),
            _ if asked.bearer.as_deref() == Some(&format!("a{number}"))
                || asked.bearer.as_deref() == Some(&format!("c{number}")) =>
            {
                response("200 OK", "")
            }
            _ => response("401 Unauthorized", ""),
        }
    })
}

/// A session that one process would have: its own, with nothing in common but the storage.
fn process(server: &Server, storage: &Arc<dyn Storage>, grant: Option<Grant>) -> SessionBuilder {
    let builder = match grant {
        Some(grant) => Session::builder(Transport::new(), server.client()).grant(grant),
        None => Session::builder(Transport::new(), server.client()),
    };
    builder
        .storage(Arc::clone(storage), "one")
        .policy(RefreshPolicy::default().retry_interval(Duration::ZERO))
}

fn code() -> Grant {
    Grant::extension("authorization_code")
        .unwrap()
        .param("code", "c")
        .unwrap()
}

#[test]
fn processes_share_one_token_and_the_next_goes_on_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let file: Arc<dyn Storage> = Arc::new(FileStorage::new(folder.path()).unwrap());
    let encrypted: Arc<dyn Storage> =
        Arc::new(EncryptedStorage::new(MemoryStorage::new(), &[3; 32]).unwrap());
    for storage in [file, encrypted] {
        let server = rotating_server();
        let processes: Vec<Session> = (0..8)
            .map(|_| process(&server, &storage, Some(Grant::client_credentials())).build())
            .collect();
        let next = AtomicUsize::new(0);
        let tokens = at_once(8, || {
            let session = &processes[next.fetch_add(1, Ordering::SeqCst)];
            session.token().unwrap().access_token().expose().to_owned()
        });
        assert_eq!(tokens, vec!["c1"; 8]);
        assert_eq!(server.count("/token"), 1);
        let later = process(&server, &storage, Some(Grant::client_credentials())).build();
        assert_eq!(server.call(&later).unwrap().status(), 200);
        assert_eq!(server.count("/token"), 1);
    }
}

#[test]
fn a_refresh_token_goes_from_process_to_process_and_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::new(folder.path()).unwrap());
    let server = rotating_server();
    let first = process(&server, &storage, Some(code())).build();
    assert_eq!(first.token().unwrap().access_token().expose(), "a1");
    let others: Vec<Session> = (0..3)
        .map(|_| process(&server, &storage, None).build())
        .collect();
    for (round, session) in others.iter().cycle().take(9).enumerate() {
        // Each has the newest token without asking, finds it refused, and refreshes it for all.
        let token = session.token().unwrap();
        assert_eq!(token.access_token().expose(), format!("a{}", round + 1));
        let refreshed = {
            let once = AtomicBool::new(true);
            let refusing = Server::start(move |_| {
                let refused = once.swap(false, Ordering::SeqCst);
                response(
                    if refused {
                        "401 Unauthorized"
                    } else {
                        "200 OK"
                    },
                    "",
                )
            });
            let request = ureq::http::Request::get(&refusing.url)
                .body(Vec::new())
                .unwrap();
            assert_eq!(session.send(request).unwrap().status(), 200);
            session.token().unwrap()
        };
        assert_eq!(
            refreshed.refresh_token().map(Secret::expose),
            Some(format!("r{}", round + 2).as_str())
        );
        for other in &others {
            let stale = other.token().unwrap();
            if stale.access_token().expose() != refreshed.access_token().expose() {
                // It is refused, and the storage has the newer one.
                assert_eq!(server.call(other).unwrap().status(), 200);
            }
        }
    }
    assert_eq!(server.count("/token"), 10);
}

#[test]
fn a_session_without_a_grant_or_a_stored_state_returns_login_required() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let server = rotating_server();
    let session = process(&server, &storage, None).build();
    for _ in 0..3 {
        assert!(matches!(
            &session.token().unwrap_err(),
            Error::LoginRequired
        ));
    }
    assert_eq!(server.count("/token"), 0);
    // As soon as another process has a login, this one goes on.
    process(&server, &storage, Some(code()))
        .build()
        .token()
        .unwrap();
    assert_eq!(session.token().unwrap().access_token().expose(), "a1");
}

#[test]
fn a_refresh_token_that_was_refused_is_sent_by_no_process_again() {
    let folder = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::new(folder.path()).unwrap());
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" if asked.body.contains("authorization_code") => response(
            "200 OK",
            r#"{"access_token":"a","token_type":"Bearer","expires_in":1,"refresh_token":"r"}"#,
        ),
        "/token" => response("400 Bad Request", r#"{"error":"invalid_grant"}"#),
        _ => response("401 Unauthorized", ""),
    });
    process(&server, &storage, Some(code()))
        .build()
        .token()
        .unwrap();
    thread::sleep(Duration::from_millis(1100));
    for round in 0..4 {
        let error = process(&server, &storage, None)
            .build()
            .token()
            .unwrap_err();
        assert_eq!(error.retry(), Retry::Reauthenticate, "{round} {error}");
    }
    assert_eq!(server.count("/token"), 2);
}

/// A storage that can be made to fail.
#[derive(Default)]
struct Fragile {
    inside: MemoryStorage,
    gone: AtomicBool,
    /// It fails from the lease on.
    forgetful: AtomicBool,
}

struct FragileLease<'a>(Box<dyn Lease + 'a>, &'a AtomicBool);

impl Storage for Fragile {
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        if self.gone.load(Ordering::SeqCst) {
            Err("it is gone".into())
        } else {
            self.inside.load(name)
        }
    }

    fn lease(
        &self,
        name: &str,
        ttl: Duration,
    ) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        if self.gone.load(Ordering::SeqCst) {
            return Err("it is gone".into());
        }
        match self.inside.lease(name, ttl)? {
            Some(lease) => Ok(Some(Box::new(FragileLease(lease, &self.forgetful)))),
            None => Ok(None),
        }
    }
}

impl Lease for FragileLease<'_> {
    fn save(&mut self, state: &SecretBytes) -> Result<bool, StorageError> {
        if self.1.load(Ordering::SeqCst) {
            Err("it is full".into())
        } else {
            self.0.save(state)
        }
    }
}

/// A transport, and the recorded messages of its storage's failures.
fn recording_transport() -> (Transport, Arc<Mutex<Vec<String>>>) {
    let failures = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&failures);
    let transport = Transport::new().on_event(move |event| {
        if let Event::StorageUnavailable(error) = event {
            recorded.lock().unwrap().push(error.cause.to_string());
        }
    });
    (transport, failures)
}

#[test]
fn a_process_whose_storage_is_unavailable_goes_on_alone_and_emits_an_event() {
    let storage = Arc::new(Fragile::default());
    let server = rotating_server();
    let (transport, failures) = recording_transport();
    let session = Session::builder(transport, server.client())
        .grant(Grant::client_credentials())
        .storage(storage.clone(), "one")
        .build();
    storage.gone.store(true, Ordering::SeqCst);
    assert_eq!(server.call(&session).unwrap().status(), 200);
    assert_eq!(*failures.lock().unwrap(), ["it is gone"]);
    storage.gone.store(false, Ordering::SeqCst);
    storage.forgetful.store(true, Ordering::SeqCst);
    let shared: Arc<dyn Storage> = storage.clone();
    let other = process(&server, &shared, Some(Grant::client_credentials()));
    assert_eq!(other.build().token().unwrap().access_token().expose(), "c2");
    assert!(
        storage
            .inside
            .load(&server.stored_as("one"))
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_refresh_token_is_not_sent_without_its_storage_but_a_good_token_stays_in_use() {
    let storage = Arc::new(Fragile::default());
    let server = rotating_server();
    let shared: Arc<dyn Storage> = storage.clone();
    let session = process(&server, &shared, Some(code())).build();
    session.token().unwrap();
    storage.gone.store(true, Ordering::SeqCst);
    assert_eq!(server.call(&session).unwrap().status(), 200);
    let refusing = Server::start(|_| response("401 Unauthorized", ""));
    let refused = session
        .send(
            ureq::http::Request::get(&refusing.url)
                .body(Vec::new())
                .unwrap(),
        )
        .unwrap();
    assert_eq!(refused.status(), 401);
    let error = session.token().unwrap_err();
    assert!(matches!(&error, Error::Storage(_)), "{error}");
    assert_eq!(error.retry(), Retry::Later(None));
    assert_eq!(server.count("/token"), 1);
    // What is to be sent can't be noted down: it isn't sent.
    storage.gone.store(false, Ordering::SeqCst);
    storage.forgetful.store(true, Ordering::SeqCst);
    assert!(matches!(&session.token().unwrap_err(), Error::Storage(_)));
    assert_eq!(server.count("/token"), 1);
    storage.forgetful.store(false, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(session.token().unwrap().access_token().expose(), "a2");
    }
    assert_eq!(server.count("/token"), 2);
}

#[test]
fn an_unreadable_stored_state_is_replaced_where_that_loses_nothing() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let spoil = |name: String| {
        let state = SecretBytes::new(b"{\"version\":1,\"access_token\":\"s3cret\"".to_vec());
        // A refresh that has just ended may have it for a moment still.
        let mut lease = loop {
            match storage.lease(&name, LEASE_TTL).unwrap() {
                Some(lease) => break lease,
                None => thread::yield_now(),
            }
        };
        lease.save(&state).unwrap();
    };
    let server = rotating_server();
    spoil(server.stored_as("one"));
    let error = process(&server, &storage, None)
        .build()
        .token()
        .unwrap_err();
    assert!(
        matches!(&error, Error::LoginRequired) && !error.to_string().contains("s3cret"),
        "{error}"
    );
    let session = process(&server, &storage, Some(Grant::client_credentials())).build();
    assert_eq!(session.token().unwrap().access_token().expose(), "c1");
    let next = process(&server, &storage, Some(Grant::client_credentials())).build();
    assert_eq!(next.token().unwrap().access_token().expose(), "c1");
    // After a login nothing that was stored before is needed.
    let server = rotating_server();
    spoil(server.stored_as("one"));
    assert_eq!(
        process(&server, &storage, Some(code()))
            .build()
            .token()
            .unwrap()
            .access_token()
            .expose(),
        "a1"
    );
    assert_eq!(
        process(&server, &storage, None)
            .build()
            .token()
            .unwrap()
            .access_token()
            .expose(),
        "a1"
    );
}

#[test]
fn a_given_token_takes_precedence_over_an_earlier_login() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let made = AtomicUsize::new(0);
    let server = Server::start(move |asked| {
        let number = made.load(Ordering::SeqCst);
        let is_good = asked.body.contains("authorization_code")
            || asked.body.contains(&format!("refresh_token=r{number}"));
        if asked.path != "/token" {
            let refused = asked.bearer.as_deref() == Some("a2");
            return response(
                if refused {
                    "401 Unauthorized"
                } else {
                    "200 OK"
                },
                "",
            );
        }
        if !is_good {
            return response("400 Bad Request", r#"{"error":"invalid_grant"}"#);
        }
        let number = made.fetch_add(1, Ordering::SeqCst) + 1;
        let body = format!(
            r#"{{"access_token":"a{number}","token_type":"Bearer","refresh_token":"r{number}"}}"#
        );
        response("200 OK", &body)
    });
    process(&server, &storage, Some(code()))
        .build()
        .token()
        .unwrap();
    let login = Transport::new()
        .execute(server.client().token(code()).unwrap())
        .unwrap();
    let session = process(&server, &storage, None).token(login).build();
    assert_eq!(session.token().unwrap().access_token().expose(), "a2");
    // It is refused, and refreshed with the refresh token that came with it.
    assert_eq!(server.call(&session).unwrap().status(), 200);
    assert_eq!(session.token().unwrap().access_token().expose(), "a3");
    assert_eq!(
        process(&server, &storage, None)
            .build()
            .token()
            .unwrap()
            .access_token()
            .expose(),
        "a3"
    );
}

#[test]
fn names_that_differ_in_case_alone_are_different_files_on_every_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let storage = FileStorage::new(folder.path()).unwrap();
    for name in ["alice", "Alice", "ALICE", "aLICE", "%41lice", "Ä", "ä"] {
        storage
            .lease(name, LEASE_TTL)
            .unwrap()
            .unwrap()
            .save(&SecretBytes::new(name.into()))
            .unwrap();
    }
    let names = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name());
    let folded: std::collections::BTreeSet<String> = names
        .map(|name| name.into_string().unwrap().to_lowercase())
        .collect();
    assert_eq!(folded.len(), 14, "{folded:?}");
}

/// Takes its time to save, and knows when it gave its last lease.
struct SlowStorage {
    storage: MemoryStorage,
    leased: Mutex<Instant>,
}

struct SlowLease<'a>(Box<dyn Lease + 'a>);

impl Storage for SlowStorage {
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        self.storage.load(name)
    }

    fn lease(
        &self,
        name: &str,
        ttl: Duration,
    ) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        *self.leased.lock().unwrap() = Instant::now();
        match self.storage.lease(name, ttl)? {
            Some(lease) => Ok(Some(Box::new(SlowLease(lease)))),
            None => Ok(None),
        }
    }
}

impl Lease for SlowLease<'_> {
    fn save(&mut self, state: &SecretBytes) -> Result<bool, StorageError> {
        thread::sleep(Duration::from_millis(400));
        self.0.save(state)
    }
}

#[test]
fn no_refresh_is_in_flight_when_its_lease_has_expired() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" if asked.body.contains("refresh_token=r0") => {
            thread::sleep(Duration::from_secs(5));
            String::new()
        }
        "/token" => response(
            "200 OK",
            r#"{"access_token":"a","token_type":"Bearer","refresh_token":"r0"}"#,
        ),
        _ => response("401 Unauthorized", ""),
    });
    let storage = Arc::new(SlowStorage {
        storage: MemoryStorage::new(),
        leased: Mutex::new(Instant::now()),
    });
    let ended = Arc::new(Mutex::new(None));
    let recorded = Arc::clone(&ended);
    let transport = Transport::new().on_event(move |event| {
        if matches!(event, Event::NoResponse { .. }) {
            *recorded.lock().unwrap() = Some(Instant::now());
        }
    });
    let code = Grant::extension("authorization_code")
        .unwrap()
        .param("code", "c")
        .unwrap();
    let policy = RefreshPolicy::default().refresh_timeout(Duration::from_secs(1));
    let shared: Arc<dyn Storage> = storage.clone();
    let session = Session::builder(transport, server.client())
        .grant(code)
        .policy(policy)
        .storage(shared, "s")
        .build();
    session.token().unwrap();
    assert_eq!(server.call(&session).unwrap().status(), 401);
    let held = ended.lock().unwrap().unwrap() - *storage.leased.lock().unwrap();
    assert!(held < Duration::from_millis(1200), "{held:?}");
}

#[test]
fn a_log_out_leaves_no_token_behind_and_returns_the_token_to_revoke() {
    let folder = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::new(folder.path()).unwrap());
    let server = rotating_server();
    let session = process(&server, &storage, Some(code())).build();
    session.token().unwrap();
    let token = session.log_out().unwrap().unwrap();
    assert_eq!(token.refresh_token().map(Secret::expose), Some("r1"));
    let stored = storage.load(&server.stored_as("one")).unwrap().unwrap();
    let stored = String::from_utf8(stored.expose().to_vec()).unwrap();
    assert!(stored.contains("\"logged_out\":true"), "{stored}");
    assert!(
        !stored.contains("r1") && !stored.contains("access_token"),
        "{stored}"
    );
    for session in [session, process(&server, &storage, None).build()] {
        assert!(matches!(
            &session.token().unwrap_err(),
            Error::LoginRequired
        ));
        assert!(session.log_out().unwrap().is_none());
    }
    assert_eq!(server.count("/token"), 1);
}
