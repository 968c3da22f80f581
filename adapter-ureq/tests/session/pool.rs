//! Many sessions, with a bound.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use keybound_core::driver::SessionState;
use keybound_ureq::storage::{MemoryStorage, Storage};
use keybound_ureq::{Client, Grant, Session, SessionBuilder, SessionPool, Transport, UnixTime};

use crate::server::{Server, at_once, response, token};

const LEASE_TTL: Duration = Duration::from_secs(30);

/// The number of refreshes that run at once.
const REFRESHES: usize = 32;

/// A server whose token endpoint hangs while it is told to.
struct Hanging {
    server: Server,
    hangs: Arc<AtomicBool>,
    /// The number of token requests under way, the most there have been, and all that were answered.
    counts: Arc<Mutex<Counts>>,
}

#[derive(Clone, Copy, Default)]
struct Counts {
    now: usize,
    most: usize,
    answered: usize,
}

fn hanging() -> Hanging {
    let hangs = Arc::new(AtomicBool::new(true));
    let counts = Arc::new(Mutex::new(Counts::default()));
    let (is_hanging, counted) = (Arc::clone(&hangs), Arc::clone(&counts));
    let server = Server::start(move |request| {
        if request.path != "/token" {
            return response("200 OK", "");
        }
        let count = |change: fn(&mut Counts)| change(&mut counted.lock().unwrap());
        count(|it| {
            it.now += 1;
            it.most = it.most.max(it.now);
        });
        while is_hanging.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(5));
        }
        count(|it| {
            it.now -= 1;
            it.answered += 1;
        });
        let body =
            r#"{"access_token":"t","token_type":"Bearer","expires_in":100,"refresh_token":"new"}"#;
        response("200 OK", body)
    });
    Hanging {
        server,
        hangs,
        counts,
    }
}

/// A session of this person. Odd ones have only what is stored.
fn person(
    number: usize,
    transport: &Arc<Transport>,
    client: &Client,
    storage: &Arc<dyn Storage>,
) -> SessionBuilder {
    let builder = Session::builder(Arc::clone(transport), client.clone())
        .storage(Arc::clone(storage), number.to_string());
    match number % 2 {
        0 => builder.grant(Grant::client_credentials()),
        _ => builder,
    }
}

/// Stores a token for this person that is good for 29 s, and due for a refresh.
fn store_due_token(number: usize, server: &Server, storage: &dyn Storage) {
    let body = format!(r#"{{"access_token":"old","expires_in":1000,"refresh_token":"r{number}"}}"#);
    let then = UnixTime::from(SystemTime::now() - Duration::from_secs(971));
    let token = server
        .client()
        .parse_token_response(body.as_bytes(), then)
        .unwrap();
    let state = SessionState::new(token).to_json();
    let mut lease = storage
        .lease(&server.stored_as(&number.to_string()), LEASE_TTL)
        .unwrap()
        .unwrap();
    assert!(lease.save(&state).unwrap());
}

#[test]
fn a_hanging_server_gets_a_bounded_number_of_refreshes_and_the_pool_keeps_its_bound() {
    const PEOPLE: usize = 400;
    const CAPACITY: usize = 10;
    let Hanging {
        server,
        hangs,
        counts,
    } = hanging();
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let transport = Arc::new(Transport::new());
    let (opens_with, client) = (Arc::clone(&storage), server.client());
    let pool = SessionPool::new(CAPACITY, move |number: &usize| {
        person(*number, &transport, &client, &opens_with).build()
    });
    for number in 0..PEOPLE {
        store_due_token(number, &server, &*storage);
    }
    let begin = Instant::now();
    let mut most_sessions = 0;
    for number in 0..PEOPLE {
        let token = pool.session(&number).token().unwrap();
        assert_eq!(token.access_token().expose(), "old");
        most_sessions = most_sessions.max(pool.len());
    }
    // Nobody with a good token waits for the server.
    let took = begin.elapsed();
    assert!(took < Duration::from_secs(10), "{took:?}");
    let requests = counts.lock().unwrap().most;
    println!("{requests} requests at once, {most_sessions} sessions, {took:?}");
    assert!(
        (REFRESHES / 2..=REFRESHES).contains(&requests),
        "{requests}"
    );
    assert!(most_sessions <= CAPACITY + REFRESHES, "{most_sessions}");
    // All that waits goes on when the server does.
    hangs.store(false, Ordering::SeqCst);
    let begin = Instant::now();
    while pool.len() > CAPACITY || counts.lock().unwrap().now > 0 {
        assert!(begin.elapsed() < Duration::from_secs(20), "{}", pool.len());
        let _ = pool.session(&0).token();
        thread::sleep(Duration::from_millis(20));
    }
    // A session that was closed before its refresh began gets it when it is opened again.
    let session = pool.session(&1);
    while session.token().unwrap().access_token().expose() != "t" {
        assert!(begin.elapsed() < Duration::from_secs(20));
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn callers_without_a_token_wait_for_no_refresh_of_others() {
    const CALLERS: usize = 2 * REFRESHES;
    let Hanging {
        server,
        hangs,
        counts,
    } = hanging();
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let transport = Arc::new(Transport::new());
    let session = |number| person(number, &transport, &server.client(), &storage).build();
    let sessions: Vec<Session> = (0..CALLERS).map(|number| session(2 * number)).collect();
    let next = AtomicUsize::new(0);
    let tokens = thread::scope(|scope| {
        scope.spawn(|| {
            let begin = Instant::now();
            while counts.lock().unwrap().now < CALLERS {
                assert!(begin.elapsed() < Duration::from_secs(20));
                thread::sleep(Duration::from_millis(5));
            }
            hangs.store(false, Ordering::SeqCst);
        });
        at_once(CALLERS, || {
            sessions[next.fetch_add(1, Ordering::SeqCst)].token()
        })
    });
    assert!(tokens.into_iter().all(|token| token.is_ok()));
    assert_eq!(counts.lock().unwrap().answered, CALLERS);
}

#[test]
fn a_pool_closes_the_session_that_was_asked_for_longest_ago_unless_it_is_held() {
    let server = Server::start(|_| token("t", "Bearer", 3600));
    let opened = Arc::new(Mutex::new(Vec::new()));
    let (seen, client) = (Arc::clone(&opened), server.client());
    let transport = Arc::new(Transport::new());
    let pool = SessionPool::new(2, move |person: &u32| {
        seen.lock().unwrap().push(*person);
        Session::builder(Arc::clone(&transport), client.clone())
            .grant(Grant::client_credentials())
            .build()
    });
    let held = pool.session(&1);
    for person in [2, 1, 3, 1, 3, 2, 1] {
        pool.session(&person).token().unwrap();
        // A refresh that has just ended may hold its session for a moment still.
        while pool.len() > 2 {
            let _ = pool.session(&person);
        }
    }
    // 1 is held all the time, so 2 and 3 make room for each other.
    assert_eq!(*opened.lock().unwrap(), [1, 2, 3, 2]);
    drop(held);
    pool.session(&3).token().unwrap();
    while pool.len() > 2 {
        let _ = pool.session(&3);
    }
    assert_eq!(*opened.lock().unwrap(), [1, 2, 3, 2, 3]);
    pool.close(&3);
    assert_eq!(pool.len(), 1);
    let all: Vec<Session> = (10..15).map(|person| pool.session(&person)).collect();
    while pool.len() > 5 {
        let _ = pool.session(&10);
    }
    assert_eq!((all.len(), pool.len()), (5, 5));
    drop(all);
    let _ = pool.session(&99);
    assert_eq!(pool.len(), 2);
}
