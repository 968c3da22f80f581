//! What each event says: the server, the attempt, the outcome, the time and the session.

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use keybound_ureq::storage::{Lease, MemoryStorage, Storage, StorageError};
use keybound_ureq::{
    Attempt, Client, ClientAuth, Endpoint, Error, Event, Grant, Reason, RefreshPolicy, Role,
    Secret, SecretBytes, Sent, Session, SessionBuilder, SessionPool, Transport,
};

use crate::server::{Server, response, token};

/// How long the servers of these tests take.
const SLOWNESS: Duration = Duration::from_millis(20);

/// The parts of an event that a metric would have. Durations are those that it reports.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    Ended(Attempt, String, Duration),
    Retrying(Attempt, Reason, Duration),
    Refreshed(Label, bool, u32, Duration),
    Failed(Label, &'static str, u32, Duration),
    LoginLost(Label, &'static str),
    Awaited(Label, Duration),
    StorageUnavailable(Label, String),
}

type Label = Option<String>;

#[derive(Clone, Default)]
struct Observer(Arc<Mutex<Vec<Seen>>>);

impl Observer {
    fn transport(&self) -> Transport {
        let seen = Arc::clone(&self.0);
        Transport::new().on_event(move |event| seen.lock().unwrap().extend(read(&event)))
    }

    /// Returns the events since the last call.
    fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

fn read(event: &Event<'_>) -> Option<Seen> {
    let label = |label: &Option<Arc<str>>| label.as_deref().map(str::to_owned);
    Some(match event {
        Event::ResponseReceived {
            attempt,
            duration,
            status,
            ..
        } => Seen::Ended((*attempt).clone(), status.as_str().to_owned(), *duration),
        Event::NoResponse {
            attempt,
            duration,
            sent,
            ..
        } => Seen::Ended((*attempt).clone(), format!("{sent:?}"), *duration),
        Event::Retrying(it) => Seen::Retrying(it.attempt.clone(), it.reason, it.wait),
        Event::TokenRefreshed(it) => {
            Seen::Refreshed(label(&it.session), it.is_adopted, it.attempts, it.duration)
        }
        Event::RefreshFailed(it) => Seen::Failed(
            label(&it.session),
            it.error.kind(),
            it.attempts,
            it.duration,
        ),
        Event::LoginLost(it) => Seen::LoginLost(label(&it.session), it.error.kind()),
        Event::LeaseAwaited(it) => Seen::Awaited(label(&it.session), it.duration),
        Event::StorageUnavailable(it) => {
            Seen::StorageUnavailable(label(&it.session), it.cause.to_string())
        }
        _ => return None,
    })
}

fn users() -> Label {
    Some("users".to_owned())
}

/// Checks the parts of an attempt, and returns its outcome.
fn outcome(seen: &Seen, server: &str, role: Role, number: u32, elapsed: Duration) -> String {
    let Seen::Ended(attempt, outcome, duration) = seen else {
        panic!("{seen:?} is no end of an attempt");
    };
    let label = attempt.session.as_deref();
    assert_eq!((label, attempt.server.as_str()), (Some("users"), server));
    assert_eq!((attempt.role, attempt.number), (role, number));
    assert!(
        *duration >= SLOWNESS && *duration <= elapsed,
        "{duration:?}"
    );
    outcome.clone()
}

fn refresh_grant() -> Grant {
    Grant::refresh_token(Secret::new("r0")).unwrap()
}

/// A token that expires after a second, and a refresh token.
fn tokens_of_a_second() -> String {
    let body = r#"{"access_token":"a","token_type":"Bearer","expires_in":1,"refresh_token":"r1"}"#;
    response("200 OK", body)
}

fn labelled(server: &Server, observer: &Observer) -> SessionBuilder {
    Session::builder(observer.transport(), server.client()).label("users")
}

#[test]
fn attempts_and_refreshes_have_server_role_number_outcome_duration_and_label() {
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |request| {
        thread::sleep(SLOWNESS);
        match (request.path.as_str(), asked.fetch_add(1, Ordering::SeqCst)) {
            ("/token", 0) => response("503 Service Unavailable\r\nRetry-After: 0", ""),
            ("/token", _) => token("t", "Bearer", 3600),
            _ => response("404 Not Found", ""),
        }
    });
    let observer = Observer::default();
    let begin = Instant::now();
    let session = labelled(&server, &observer)
        .grant(Grant::client_credentials())
        .build();
    server.call(&session).unwrap();
    let (elapsed, url) = (begin.elapsed(), server.url.as_str());
    // The refresh has a thread of its own, which reports it while the call goes on.
    let mut seen = observer.take();
    let is_refreshed = |seen: &Seen| matches!(seen, Seen::Refreshed(..));
    let refreshed = seen.remove(seen.iter().position(is_refreshed).unwrap());
    let [first, retrying, second, call] = seen.as_slice() else {
        panic!("{seen:#?}");
    };
    let server = Role::AuthorizationServer;
    assert_eq!(outcome(first, url, server, 1, elapsed), "503");
    assert_eq!(outcome(second, url, server, 2, elapsed), "200");
    let resource = Role::ResourceServer;
    assert_eq!(outcome(call, url, resource, 1, elapsed), "404");
    let Seen::Retrying(attempt, Reason::ServerResponse(status), Duration::ZERO) = retrying else {
        panic!("{retrying:?}");
    };
    assert_eq!((status.as_u16(), attempt.number), (503, 1));
    assert_eq!((attempt.server.as_str(), attempt.role), (url, server));
    assert_eq!(attempt.session.as_deref(), Some("users"));
    let Seen::Refreshed(label, false, 2, duration) = refreshed else {
        panic!("{refreshed:?}");
    };
    assert_eq!(label, users());
    assert!(
        duration >= SLOWNESS * 2 && duration <= elapsed,
        "{duration:?}"
    );
}

#[test]
fn a_refused_refresh_token_is_a_failed_refresh_and_one_lost_login() {
    let server = Server::start(|_| {
        thread::sleep(SLOWNESS);
        response("400 Bad Request", r#"{"error":"invalid_grant"}"#)
    });
    let observer = Observer::default();
    let begin = Instant::now();
    let session = labelled(&server, &observer)
        .grant(refresh_grant())
        .policy(RefreshPolicy::default().retry_interval(Duration::ZERO))
        .build();
    session.token().unwrap_err();
    let seen = observer.take();
    let [end, Seen::Failed(label, "server", 1, duration), lost] = seen.as_slice() else {
        panic!("{seen:#?}");
    };
    let elapsed = begin.elapsed();
    let (url, role) = (&server.url, Role::AuthorizationServer);
    assert_eq!(outcome(end, url, role, 1, elapsed), "400");
    assert_eq!(*label, users());
    assert!(
        *duration >= SLOWNESS && *duration <= elapsed,
        "{duration:?}"
    );
    assert_eq!(*lost, Seen::LoginLost(users(), "server"));
    // It stays lost, and is reported once.
    session.token().unwrap_err();
    let seen = observer.take();
    let is_again = |seen: &[Seen]| matches!(seen, [Seen::Failed(_, "login_required", 0, _)]);
    assert!(is_again(&seen), "{seen:#?}");
}

#[test]
fn neither_a_log_out_nor_a_repeatable_grant_nor_a_lost_connection_loses_a_login() {
    let refused = Server::start(|_| response("400 Bad Request", r#"{"error":"invalid_grant"}"#));
    let silent = Server::start(|_| String::new());
    let observer = Observer::default();
    let minting = labelled(&refused, &observer).grant(Grant::client_credentials());
    minting.build().token().unwrap_err();
    let one = labelled(&silent, &observer).grant(refresh_grant()).build();
    one.token().unwrap_err();
    // Of two processes with the same login, one logs out.
    let giving = Server::start(|_| tokens_of_a_second());
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let process = || labelled(&giving, &observer).storage(Arc::clone(&storage), "one");
    let (out, other) = (process().grant(refresh_grant()).build(), process().build());
    for session in [&out, &other] {
        session.token().unwrap();
    }
    // Another refresh, after which both have a refresh token that they could send.
    thread::sleep(Duration::from_millis(1100));
    for session in [&other, &out] {
        session.token().unwrap();
    }
    out.log_out().unwrap();
    thread::sleep(Duration::from_millis(1100));
    for session in [out, other] {
        assert_eq!(session.token().unwrap_err(), Error::LoginRequired);
    }
    labelled(&silent, &observer).build().token().unwrap_err();
    let seen = observer.take();
    let failures = seen.iter().filter(|seen| matches!(seen, Seen::Failed(..)));
    assert_eq!(failures.count(), 5, "{seen:#?}");
    assert!(
        !seen.iter().any(|seen| matches!(seen, Seen::LoginLost(..))),
        "{seen:#?}"
    );
}

#[test]
fn a_login_that_vanishes_from_the_storage_or_is_damaged_there_is_lost() {
    let server = Server::start(|_| tokens_of_a_second());
    for damage in [None, Some(SecretBytes::new(b"{}".to_vec()))] {
        let observer = Observer::default();
        let storage = Arc::new(Vanishing::default());
        let policy = RefreshPolicy::default().retry_interval(Duration::ZERO);
        let session = labelled(&server, &observer)
            .grant(refresh_grant())
            .policy(policy)
            .storage(storage.clone(), "one")
            .build();
        session.token().unwrap();
        // Loads its own state once, so that it knows of it.
        thread::sleep(Duration::from_millis(1100));
        session.token().unwrap();
        observer.take();
        *storage.damage.lock().unwrap() = Some(damage);
        thread::sleep(Duration::from_millis(1100));
        for _ in 0..2 {
            assert_eq!(session.token().unwrap_err(), Error::LoginRequired);
        }
        let lost = observer.take().into_iter();
        let lost = lost.filter(|seen| matches!(seen, Seen::LoginLost(..)));
        let expected = Seen::LoginLost(users(), "login_required");
        assert_eq!(lost.collect::<Vec<_>>(), [expected]);
    }
}

#[test]
fn an_attempt_without_a_response_tells_whether_the_request_was_sent() {
    let server = Server::start(|request| {
        thread::sleep(SLOWNESS);
        match request.path.as_str() {
            "/token" => String::new(),
            _ => panic!("there is no token"),
        }
    });
    let observer = Observer::default();
    let begin = Instant::now();
    let session = labelled(&server, &observer).grant(refresh_grant()).build();
    session.token().unwrap_err();
    let (seen, elapsed) = (observer.take(), begin.elapsed());
    let [end, Seen::Failed(_, "no_response", 1, _)] = seen.as_slice() else {
        panic!("{seen:#?}");
    };
    let role = Role::AuthorizationServer;
    assert_eq!(outcome(end, &server.url, role, 1, elapsed), "Maybe");

    // Nobody listens there. The retry that follows has a reason without a status.
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let endpoint = Endpoint::loopback_http(&format!("http://{free}/token")).unwrap();
    let client = Client::new(endpoint, ClientAuth::none("app").unwrap());
    let transport = observer.transport().timeout(Duration::from_secs(2));
    transport
        .execute(client.token(refresh_grant()).unwrap())
        .unwrap_err();
    let seen = observer.take();
    let Seen::Ended(attempt, outcome, duration) = &seen[0] else {
        panic!("{seen:#?}");
    };
    assert_eq!((attempt.number, attempt.session.as_deref()), (1, None));
    assert_eq!(attempt.server, format!("http://{free}"));
    assert_eq!(*outcome, format!("{:?}", Sent::No));
    assert!(!duration.is_zero());
    let is_retry = |seen: &Seen| matches!(seen, Seen::Retrying(_, Reason::NoResponse, wait) if !wait.is_zero());
    assert!(seen.iter().any(is_retry), "{seen:#?}");
}

#[test]
fn a_failing_storage_is_reported_with_the_label_whatever_the_grant() {
    let server = Server::start(|_| token("t", "Bearer", 3600));
    for (grant, is_alone) in [
        (Grant::client_credentials(), true),
        (refresh_grant(), false),
    ] {
        let observer = Observer::default();
        let session = labelled(&server, &observer).grant(grant);
        let session = session.storage(Broken, "one").build();
        assert_eq!(session.token().is_ok(), is_alone);
        let failure = Seen::StorageUnavailable(users(), "it is broken".to_owned());
        let seen = observer.take();
        let failures = seen.iter().filter(|seen| **seen == failure);
        assert_eq!(failures.count(), 1, "{seen:#?}");
        let is_failed = |seen: &Seen| matches!(seen, Seen::Failed(_, "storage", 0, _));
        assert_eq!(seen.iter().any(is_failed), !is_alone, "{seen:#?}");
    }
}

#[test]
fn a_wait_for_the_lease_of_another_process_is_reported_and_its_token_adopted() {
    let server = Server::start(|_| {
        thread::sleep(Duration::from_millis(200));
        token("t", "Bearer", 3600)
    });
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let process = |observer: &Observer| {
        labelled(&server, observer)
            .grant(Grant::client_credentials())
            .storage(Arc::clone(&storage), "one")
            .build()
    };
    let (first, second) = (Observer::default(), Observer::default());
    let (one, other) = (process(&first), process(&second));
    let begin = Instant::now();
    thread::scope(|scope| {
        scope.spawn(|| one.token().unwrap());
        thread::sleep(Duration::from_millis(50));
        scope.spawn(|| other.token().unwrap());
    });
    let (seen, elapsed) = (second.take(), begin.elapsed());
    let [
        Seen::Awaited(other, waited),
        Seen::Refreshed(label, true, 0, duration),
    ] = seen.as_slice()
    else {
        panic!("{seen:#?}");
    };
    assert_eq!((label, other), (&users(), &users()));
    assert!(
        *waited >= Duration::from_millis(50) && waited <= duration,
        "{waited:?}"
    );
    assert!(*duration <= elapsed, "{duration:?}");
    assert!(
        !first
            .take()
            .iter()
            .any(|seen| matches!(seen, Seen::Awaited(..)))
    );
}

#[test]
fn the_sessions_of_a_pool_can_share_a_label_which_prints_on_one_line() {
    let server = Server::start(|_| token("t", "Bearer", 3600));
    let observer = Observer::default();
    let (transport, client) = (Arc::new(observer.transport()), server.client());
    let pool = SessionPool::new(8, move |_: &u32| {
        Session::builder(Arc::clone(&transport), client.clone())
            .label("us\x1b]0;ers\n")
            .grant(Grant::client_credentials())
            .build()
    });
    for user in 0..3 {
        pool.session(&user).token().unwrap();
    }
    let seen = observer.take();
    let labels = seen.iter().filter_map(|seen| match seen {
        Seen::Refreshed(label, ..) => label.as_deref(),
        _ => None,
    });
    assert_eq!(labels.collect::<Vec<_>>(), ["us]0;ers"; 3]);
}

/// A storage of which nothing works.
struct Broken;

impl Storage for Broken {
    fn lease(&self, _: &str, _: Duration) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        Err("it is broken".into())
    }

    fn load(&self, _: &str) -> Result<Option<SecretBytes>, StorageError> {
        Err("it is broken".into())
    }
}

/// A storage that loses or damages what it has.
#[derive(Default)]
struct Vanishing {
    storage: MemoryStorage,
    damage: Mutex<Option<Option<SecretBytes>>>,
}

impl Storage for Vanishing {
    fn lease(
        &self,
        name: &str,
        ttl: Duration,
    ) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        self.storage.lease(name, ttl)
    }

    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        match &*self.damage.lock().unwrap() {
            Some(damage) => Ok(damage.clone()),
            None => self.storage.load(name),
        }
    }
}
