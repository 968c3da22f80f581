//! Logins that survive: the end of a process, a storage that fails for a moment, a restart with an older token.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use keybound_ureq::storage::{FileStorage, Lease, MemoryStorage, Storage, StorageError};
use keybound_ureq::{
    Client, ClientAuth, Endpoint, Error, Grant, RefreshPolicy, Retry, Secret, SecretBytes, Session,
    SessionBuilder, SessionPool, Token, Transport,
};

use serde_json::Value;

use crate::server::{Server, response};

/// A token endpoint whose refresh tokens `r1`, `r2`, … are good once, and whose tokens live `life` seconds. It calls
/// `refreshes` before it answers a refresh.
fn rotating_server(life: u64, refreshes: impl Fn() + Send + Sync + 'static) -> Server {
    let current = AtomicUsize::new(0);
    Server::start(move |asked| {
        let number = current.load(Ordering::SeqCst);
        let is_refresh = asked.body.contains("grant_type=refresh_token");
        if is_refresh {
            refreshes();
        }
        match asked.path.as_str() {
            "/token" if is_refresh && !asked.body.contains(&format!("refresh_token=r{number}")) => {
                response("400 Bad Request", r#"{"error":"invalid_grant"}"#)
            }
            "/token" => {
                let number = current.fetch_add(1, Ordering::SeqCst) + 1;
                response(
                    "200 OK",
                    &format!(
                        r#"{{"access_token":"a{number}","token_type":"Bearer","expires_in":{life},"refresh_token":"r{number}"}}"#
                    ),
                )
            }
            _ => response("200 OK", ""),
        }
    })
}

/// What a process has: a session of its own, with nothing in common with others but the storage.
fn process(server: &Server, storage: &Arc<dyn Storage>) -> SessionBuilder {
    Session::builder(Transport::new(), server.client())
        .storage(Arc::clone(storage), "one")
        .policy(RefreshPolicy::default().retry_interval(Duration::ZERO))
}

fn code() -> Grant {
    Grant::extension("authorization_code")
        .unwrap()
        .param("code", "c")
        .unwrap()
}

/// A token of a login that was made without a session.
fn login(server: &Server) -> Token {
    Transport::new()
        .execute(server.client().token(code()).unwrap())
        .unwrap()
}

fn refresh_token_of(token: &Token) -> &str {
    token.refresh_token().map_or("", Secret::expose)
}

fn file_storage(folder: &Path) -> Arc<dyn Storage> {
    Arc::new(FileStorage::new(folder).unwrap())
}

/// Runs this test in a process of its own, which is given a folder and a server, and ends as `main` ends.
fn child(test: &str, folder: &Path, server: &Server, owner: &str) {
    let _ = fs::remove_file(folder.join(ASKED));
    let test = format!("durability::{test}");
    let mut child = Command::new(env::current_exe().unwrap())
        .args([&test, "--exact", "--include-ignored", "--test-threads=1"])
        .env("KEYBOUND_FOLDER", folder)
        .env("KEYBOUND_SERVER", &server.url)
        .env("KEYBOUND_OWNER", owner)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    assert!(child.wait().unwrap().success(), "{owner}");
}

/// In such a process: the session that it resumes, and who owns it at the end.
fn in_child() -> Option<(Session, String)> {
    let storage = file_storage(Path::new(&env::var_os("KEYBOUND_FOLDER")?));
    let endpoint = format!("{}/token", env::var("KEYBOUND_SERVER").unwrap());
    let auth = ClientAuth::basic("id", Secret::new("secret")).unwrap();
    let client = Client::new(Endpoint::loopback_http(&endpoint).unwrap(), auth);
    let policy = RefreshPolicy::default()
        .refresh_before_expiry(EARLY)
        .retry_interval(Duration::ZERO);
    let session = Session::builder(Transport::new(), client)
        .policy(policy)
        .storage(storage, "one")
        .build();
    Some((session, env::var("KEYBOUND_OWNER").unwrap()))
}

const EARLY: Duration = Duration::from_secs(4);

/// The server makes this file when it is asked for a refresh.
const ASKED: &str = "asked";

/// Waits until the session's token is due, begins its refresh, works a moment more, and ends.
fn work(session: Session, owner: &str) {
    let expires = session.token().unwrap().expires_at().unwrap().as_millis();
    let due = UNIX_EPOCH + Duration::from_millis(expires) - EARLY / 2;
    thread::sleep(due.duration_since(SystemTime::now()).unwrap());
    session.token().unwrap();
    let asked = Path::new(&env::var_os("KEYBOUND_FOLDER").unwrap()).join(ASKED);
    while !asked.exists() {
        thread::sleep(Duration::from_millis(1));
    }
    thread::sleep(Duration::from_millis(60));
    match owner {
        "main" => drop(session),
        "a thread's clone" => {
            let clone = session.clone();
            drop(session);
            thread::spawn(move || drop(clone)).join().unwrap();
        }
        "a pool" => {
            let pool = SessionPool::new(1, move |_: &u8| session.clone());
            pool.session(&0);
            drop(pool);
        }
        "an agent" => {
            let authorizer = session.authorizer(["https://rs.example"]).unwrap();
            drop(session);
            drop(
                ureq::Agent::config_builder()
                    .middleware(authorizer)
                    .build()
                    .new_agent(),
            );
        }
        other => panic!("{other}"),
    }
}

const OWNERS: [&str; 4] = ["main", "a thread's clone", "a pool", "an agent"];

/// Has a session stored in this folder whose token is not due yet, and will be before it expires, in eight seconds.
fn store_token(folder: &Path, server: &Server) -> Arc<dyn Storage> {
    let storage = file_storage(folder);
    let session = Session::builder(Transport::new(), server.client()).grant(code());
    session
        .storage(Arc::clone(&storage), "one")
        .build()
        .token()
        .unwrap();
    set_expiry(folder);
    storage
}

fn set_expiry(folder: &Path) {
    let mut files = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let file = files
        .find(|path| {
            path.extension()
                .is_some_and(|extension| extension == "session")
        })
        .unwrap();
    let mut state: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let millis = |time: Duration| Value::from(u64::try_from(time.as_millis()).unwrap());
    state["token"]["received_at"] = millis(now - Duration::from_secs(3600));
    state["token"]["expires_at"] = millis(now + 2 * EARLY);
    fs::write(&file, state.to_string()).unwrap();
}

#[test]
fn a_process_that_ends_while_a_refresh_is_in_flight_has_stored_the_new_refresh_token() {
    if let Some((session, owner)) = in_child() {
        return work(session, &owner);
    }
    let name = "a_process_that_ends_while_a_refresh_is_in_flight_has_stored_the_new_refresh_token";
    thread::scope(|scope| {
        for owner in OWNERS {
            scope.spawn(move || {
                let folder = tempfile::tempdir().unwrap();
                let asked = folder.path().join(ASKED);
                let server = rotating_server(3600, move || {
                    fs::write(&asked, "").unwrap();
                    thread::sleep(Duration::from_millis(700));
                });
                let storage = store_token(folder.path(), &server);
                child(name, folder.path(), &server, owner);
                let next = process(&server, &storage).build().token().unwrap();
                assert_eq!(refresh_token_of(&next), "r2", "{owner}");
                assert_eq!(server.count("/token"), 2, "{owner}");
            });
        }
    });
}

#[test]
fn processes_that_end_while_answers_are_lost_do_not_use_up_the_refresh_token() {
    if let Some((session, owner)) = in_child() {
        return work(session, &owner);
    }
    let lost = Arc::new(AtomicUsize::new(0));
    let losing = Arc::clone(&lost);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(ASKED);
    let server = Server::start(move |asked| {
        if asked.body.contains("grant_type=refresh_token")
            && losing.fetch_add(1, Ordering::SeqCst) < 2
        {
            fs::write(&file, "").unwrap();
            thread::sleep(Duration::from_millis(300));
            return String::new();
        }
        let token =
            r#"{"access_token":"a","token_type":"Bearer","expires_in":3600,"refresh_token":"r"}"#;
        response("200 OK", token)
    });
    let storage = store_token(folder.path(), &server);
    for owner in &OWNERS[..2] {
        set_expiry(folder.path());
        let name = "processes_that_end_while_answers_are_lost_do_not_use_up_the_refresh_token";
        child(name, folder.path(), &server, owner);
    }
    assert_eq!(lost.load(Ordering::SeqCst), 2);
    thread::sleep(EARLY);
    // It has expired.
    assert_eq!(
        process(&server, &storage)
            .build()
            .token()
            .unwrap()
            .access_token()
            .expose(),
        "a"
    );
    assert_eq!(lost.load(Ordering::SeqCst), 3);
}

/// A storage that is slow or fails where a test wants it to.
#[derive(Default)]
struct Faulty {
    inside: MemoryStorage,
    /// How long each save takes.
    slow: Mutex<Duration>,
    /// Until when saving fails.
    full_until: Mutex<Option<Instant>>,
    failures: AtomicUsize,
}

impl Faulty {
    fn fail_for(&self, time: Duration) {
        *self.full_until.lock().unwrap() = Some(Instant::now() + time);
    }

    fn slow_down(&self, time: Duration) {
        *self.slow.lock().unwrap() = time;
    }
}

struct FaultyLease<'a>(Box<dyn Lease + 'a>, &'a Faulty);

impl Storage for Faulty {
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        self.inside.load(name)
    }

    fn lease(
        &self,
        name: &str,
        ttl: Duration,
    ) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        match self.inside.lease(name, ttl)? {
            Some(lease) => Ok(Some(Box::new(FaultyLease(lease, self)))),
            None => Ok(None),
        }
    }
}

impl Lease for FaultyLease<'_> {
    fn save(&mut self, state: &SecretBytes) -> Result<bool, StorageError> {
        let slow = *self.1.slow.lock().unwrap();
        thread::sleep(slow);
        if self
            .1
            .full_until
            .lock()
            .unwrap()
            .is_some_and(|until| Instant::now() < until)
        {
            self.1.failures.fetch_add(1, Ordering::SeqCst);
            return Err("no space left".into());
        }
        self.0.save(state)
    }
}

#[test]
fn a_caller_with_a_good_token_never_waits_for_the_storage_of_a_failed_refresh() {
    for failure in [
        response("502 Bad Gateway", ""),
        response("400 Bad Request", r#"{"error":"invalid_grant"}"#),
        String::new(),
    ] {
        let refused = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&refused);
        let server = Server::start(move |asked| {
            if asked.body.contains("grant_type=refresh_token") {
                seen.store(true, Ordering::SeqCst);
                return failure.clone();
            }
            response(
                "200 OK",
                r#"{"access_token":"a","token_type":"Bearer","expires_in":10,"refresh_token":"r"}"#,
            )
        });
        let faulty = Arc::new(Faulty::default());
        let storage: Arc<dyn Storage> = faulty.clone();
        let session = process(&server, &storage).token(login(&server)).build();
        session.token().unwrap();
        // It is due after eight seconds, or up to a second later.
        thread::sleep(Duration::from_millis(9050));
        faulty.slow_down(Duration::from_millis(300));
        let mut slowest = Duration::ZERO;
        let until = Instant::now() + Duration::from_millis(900);
        while Instant::now() < until {
            let asked = Instant::now();
            session.token().unwrap();
            slowest = slowest.max(asked.elapsed());
            thread::sleep(Duration::from_millis(1));
        }
        assert!(refused.load(Ordering::SeqCst), "it was due");
        assert!(
            slowest < Duration::from_millis(150),
            "a good token took {slowest:?}"
        );
        faulty.slow_down(Duration::ZERO);
    }
}

#[test]
fn a_token_that_a_session_is_given_is_stored_for_the_next_process() {
    for is_used in [false, true] {
        let server = rotating_server(2, || {});
        let folder = tempfile::tempdir().unwrap();
        let storage = file_storage(folder.path());
        let session = process(&server, &storage).token(login(&server)).build();
        if is_used {
            session.token().unwrap();
        }
        drop(session);
        let next = process(&server, &storage).build().token().unwrap();
        assert_eq!(refresh_token_of(&next), "r1");
        assert_eq!(server.count("/token"), 1);
        // And the one after it goes on by its refresh token.
        thread::sleep(Duration::from_millis(2100));
        assert_eq!(
            refresh_token_of(&process(&server, &storage).build().token().unwrap()),
            "r2"
        );
    }
}

#[test]
fn a_token_of_a_new_login_replaces_the_stored_token_of_an_earlier_one() {
    let server = Server::start({
        let logins = AtomicUsize::new(0);
        move |_| {
            let number = logins.fetch_add(1, Ordering::SeqCst);
            let body = format!(
                r#"{{"access_token":"a{number}","token_type":"Bearer","refresh_token":"r{number}"}}"#
            );
            response("200 OK", &body)
        }
    });
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    for number in 0..3 {
        drop(process(&server, &storage).token(login(&server)).build());
        let next = process(&server, &storage).build().token().unwrap();
        assert_eq!(refresh_token_of(&next), format!("r{number}"));
    }
}

#[test]
fn a_restart_with_an_older_token_goes_on_with_the_refreshed_one() {
    let server = rotating_server(2, || {});
    let folder = tempfile::tempdir().unwrap();
    let storage = file_storage(folder.path());
    let mut given = vec![login(&server)];
    let session = process(&server, &storage).token(given[0].clone()).build();
    for _ in 0..3 {
        thread::sleep(Duration::from_millis(2100));
        given.push(session.token().unwrap());
    }
    drop(session);
    assert_eq!(refresh_token_of(&given[3]), "r4");
    // The token of the login, and those that the application has seen since.
    for old in given {
        let session = process(&server, &storage).token(old).build();
        // An old token may still be handed out before the storage was read; then it is the rotated one.
        thread::sleep(Duration::from_millis(200));
        assert_eq!(refresh_token_of(&session.token().unwrap()), "r4");
        drop(session);
        assert_eq!(
            refresh_token_of(&process(&server, &storage).build().token().unwrap()),
            "r4"
        );
    }
    assert_eq!(server.count("/token"), 4);
}

#[test]
fn a_restart_with_a_refresh_token_that_was_rotated_goes_on_with_the_rotated_one() {
    let server = rotating_server(5, || {});
    let first = login(&server).refresh_token().unwrap().clone();
    let folder = tempfile::tempdir().unwrap();
    let storage = file_storage(folder.path());
    // The third comes when the token of before has expired.
    for (number, after) in [("r2", 0), ("r2", 0), ("r3", 5100), ("r3", 0)] {
        thread::sleep(Duration::from_millis(after));
        let grant = Grant::refresh_token(first.clone()).unwrap();
        let session = Session::builder(Transport::new(), server.client()).grant(grant);
        let session = session.storage(Arc::clone(&storage), "one").build();
        assert_eq!(refresh_token_of(&session.token().unwrap()), number);
    }
    assert_eq!(server.count("/token"), 3);
}

#[test]
fn a_refresh_token_that_could_not_be_saved_at_first_is_saved_later() {
    for time in [100, 500, 1500] {
        let faulty = Arc::new(Faulty::default());
        let failing = Arc::clone(&faulty);
        let server = Server::start(move |asked| {
            let is_refresh = asked.body.contains("grant_type=refresh_token");
            if is_refresh {
                assert!(asked.body.contains("refresh_token=r0"), "it was sent twice");
                // What is saved before it is sent is saved; what comes is not, at first.
                failing.fail_for(Duration::from_millis(time));
            }
            let (number, life) = if is_refresh { (1, 3600) } else { (0, 1) };
            let token = format!(
                r#"{{"access_token":"a","token_type":"Bearer","expires_in":{life},"refresh_token":"r{number}"}}"#
            );
            response("200 OK", &token)
        });
        let storage: Arc<dyn Storage> = faulty.clone();
        let session = Session::builder(Transport::new(), server.client()).grant(code());
        let session = session.storage(Arc::clone(&storage), "one").build();
        session.token().unwrap();
        thread::sleep(Duration::from_millis(1100));
        assert_eq!(refresh_token_of(&session.token().unwrap()), "r1");
        assert!(
            faulty.failures.load(Ordering::SeqCst) > 0,
            "the storage has failed"
        );
        // Nobody asks for a token again.
        thread::sleep(Duration::from_millis(time + 1000));
        assert_eq!(
            refresh_token_of(&process(&server, &storage).build().token().unwrap()),
            "r1"
        );
        assert_eq!(server.count("/token"), 2);
    }
}

#[test]
fn a_single_use_grant_is_not_sent_where_its_token_can_not_be_stored() {
    let server = rotating_server(2, || {});
    let refresh_token = login(&server).refresh_token().unwrap().clone();
    for grant in [Grant::refresh_token(refresh_token).unwrap(), code()] {
        let folder = tempfile::tempdir().unwrap();
        // From some length on a name fits into one file's name and not into another's.
        for length in 200..256 {
            let storage = file_storage(folder.path());
            let before = server.count("/token");
            let session = Session::builder(Transport::new(), server.client())
                .grant(grant.clone())
                .storage(Arc::clone(&storage), "n".repeat(length))
                .build();
            let stored = || {
                let next = Session::builder(Transport::new(), server.client());
                next.storage(Arc::clone(&storage), "n".repeat(length))
                    .build()
                    .token()
            };
            match session.token() {
                Ok(token) => {
                    assert_eq!(
                        refresh_token_of(&stored().unwrap()),
                        refresh_token_of(&token),
                        "{length}"
                    );
                    break; // it is used up
                }
                Err(error) => {
                    assert_eq!(server.count("/token"), before, "{length}: {error}");
                    assert!(matches!(&error, Error::Storage(_)), "{length}: {error}");
                }
            }
        }
    }
    // A disk that is full, and has room again.
    let faulty = Arc::new(Faulty::default());
    faulty.fail_for(Duration::from_secs(3600));
    let session = Session::builder(Transport::new(), server.client())
        .grant(code())
        .policy(RefreshPolicy::default().retry_interval(Duration::ZERO))
        .storage(faulty.clone(), "one")
        .build();
    let before = server.count("/token");
    for _ in 0..3 {
        let error = session.token().unwrap_err();
        assert_eq!(error.retry(), Retry::Later(None), "{error}");
    }
    assert_eq!(server.count("/token"), before);
    faulty.fail_for(Duration::ZERO);
    session.token().unwrap();
}

#[test]
fn a_log_out_during_a_refresh_is_final_however_the_refresh_ends() {
    for ending in ["200 OK", "502 Bad Gateway", "400 Bad Request", ""] {
        let server = Server::start(move |asked| {
            let is_refresh = asked.body.contains("grant_type=refresh_token");
            if is_refresh {
                thread::sleep(Duration::from_millis(300));
            }
            let token =
                r#"{"access_token":"a","token_type":"Bearer","expires_in":1,"refresh_token":"r"}"#;
            match ending {
                _ if !is_refresh => response("200 OK", token),
                "" => String::new(),
                "400 Bad Request" => response(ending, r#"{"error":"invalid_grant"}"#),
                _ => response(ending, token),
            }
        });
        let folder = tempfile::tempdir().unwrap();
        let storage = file_storage(folder.path());
        let session = process(&server, &storage).token(login(&server)).build();
        session.token().unwrap();
        thread::sleep(Duration::from_millis(1100));
        thread::scope(|scope| {
            scope.spawn(|| session.token());
            while server.count("/token") < 2 {
                thread::sleep(Duration::from_millis(5));
            }
            session.log_out().unwrap();
        });
        for session in [session, process(&server, &storage).build()] {
            for _ in 0..3 {
                let error = session.token().unwrap_err();
                assert!(matches!(error, Error::LoginRequired), "{ending}: {error}");
            }
        }
        assert_eq!(server.count("/token"), 2, "{ending}");
    }
}

#[test]
fn a_given_token_is_stored_without_a_request_even_if_it_has_expired() {
    for wait in [0, 1700, 2100] {
        let server = rotating_server(2, || {});
        let folder = tempfile::tempdir().unwrap();
        let storage = file_storage(folder.path());
        let token = login(&server);
        thread::sleep(Duration::from_millis(wait));
        drop(process(&server, &storage).token(token).build());
        assert_eq!(server.count("/token"), 1, "{wait}");
        let next = process(&server, &storage).build().token().unwrap();
        assert!(["r1", "r2"].contains(&refresh_token_of(&next)), "{wait}");
    }
}

#[test]
fn while_a_storage_fails_calls_with_a_good_token_do_not_start_a_refresh_each() {
    let server = Server::start(|_| {
        response(
            "200 OK",
            r#"{"access_token":"a","token_type":"Bearer","expires_in":3600}"#,
        )
    });
    let faulty = Arc::new(Faulty::default());
    faulty.fail_for(Duration::from_secs(3600));
    let events = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&events);
    let transport =
        Transport::new().on_event(move |event| seen.lock().unwrap().push(event.to_string()));
    let session = Session::builder(transport, server.client())
        .grant(Grant::client_credentials())
        .policy(RefreshPolicy::default().refresh_timeout(Duration::from_millis(200)))
        .storage(faulty.clone(), "one")
        .build();
    let until = Instant::now() + Duration::from_millis(2500);
    while Instant::now() < until {
        session.token().unwrap();
        thread::sleep(Duration::from_millis(1));
    }
    let events = events.lock().unwrap();
    let count = |text: &str| events.iter().filter(|event| event.contains(text)).count();
    // One when the token came, and one for each attempt to store it, a second apart.
    assert!((2..=5).contains(&count("storage failed")), "{events:?}");
    assert_eq!(count("new token"), 1, "{events:?}");
    assert_eq!(server.count("/token"), 1);
}

#[test]
fn close_and_drop_each_wait_for_a_token_that_is_not_stored_as_long_as_they_are_told() {
    let server = rotating_server(3600, || {});
    let faulty = Arc::new(Faulty::default());
    faulty.fail_for(Duration::from_secs(3600));
    let storage: Arc<dyn Storage> = faulty.clone();
    let build = || process(&server, &storage).token(login(&server));
    let second = Duration::from_secs(1);

    let begin = Instant::now();
    assert!(!build().build().close(Duration::from_millis(300)));
    assert!((Duration::from_millis(300)..second).contains(&begin.elapsed()));

    let begin = Instant::now();
    drop(build().drop_timeout(Duration::from_millis(300)).build());
    assert!((Duration::from_millis(300)..second).contains(&begin.elapsed()));

    let last = build().build();
    faulty.fail_for(Duration::ZERO);
    assert!(last.close(Duration::from_secs(30)));
    assert!(storage.load(&server.stored_as("one")).unwrap().is_some());
}
