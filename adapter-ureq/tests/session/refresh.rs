//! Refreshes of a token shared by threads: which caller refreshes, which wait, and their results.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::storage::{MemoryStorage, Storage};
use keybound_ureq::{Error, Event, Grant, RefreshPolicy, Retry, Session, SignRequest, Transport};

use crate::server::{Server, at_once, response, token};

#[test]
fn many_threads_without_a_token_cause_one_token_request() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" => {
            thread::sleep(Duration::from_millis(50));
            token("a", "Bearer", 3600)
        }
        _ => response("200 OK", ""),
    });
    let session = server.session(RefreshPolicy::default());
    assert_eq!(server.calls_at_once(&session, 100), vec![200; 100]);
    assert_eq!(server.count("/token"), 1);
}

#[test]
fn a_failed_refresh_gives_all_waiting_callers_the_same_error() {
    let server = Server::start(|_| {
        thread::sleep(Duration::from_millis(50));
        response("400 Bad Request", r#"{"error":"invalid_scope"}"#)
    });
    let session = server.session(RefreshPolicy::default());
    let errors = at_once(20, || session.token().unwrap_err());
    assert_eq!(server.count("/token"), 1);
    for error in errors {
        let Error::Server(refusal) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(refusal.code(), Some("invalid_scope"));
    }
}

#[test]
fn without_a_retry_interval_too_waiting_callers_share_a_failed_refresh() {
    let server = Server::start(|_| {
        thread::sleep(Duration::from_millis(300));
        response("400 Bad Request", r#"{"error":"invalid_scope"}"#)
    });
    let session = server.session(RefreshPolicy::default().retry_interval(Duration::ZERO));
    assert!(
        at_once(20, || session.token().is_err())
            .into_iter()
            .all(|failed| failed)
    );
    assert_eq!(server.count("/token"), 1);
}

#[test]
fn a_refresh_waits_for_its_lease_no_longer_than_the_timeout() {
    let storage = Arc::new(MemoryStorage::new());
    let server = Server::start(|_| token("a", "Bearer", 3600));
    let timeout = Duration::from_millis(300);
    let session = Session::builder(Transport::new().timeout(timeout), server.client())
        .grant(Grant::client_credentials());
    let session = session.storage(storage.clone(), "one").build();
    // Another process refreshes, and takes its time.
    let lease = storage
        .lease(&server.stored_as("one"), timeout)
        .unwrap()
        .unwrap();
    let asked = Instant::now();
    let error = session.token().unwrap_err();
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "{:?}",
        asked.elapsed()
    );
    assert!(matches!(&error, Error::Timeout), "{error}");
    drop(lease);
    assert_eq!(session.token().unwrap().access_token().expose(), "a");
}

#[test]
fn a_rejected_token_is_refreshed_once_and_the_call_retried_once() {
    let made = AtomicUsize::new(0);
    let server = Server::start(move |asked| match asked.path.as_str() {
        "/token" => token(
            &format!("t{}", made.fetch_add(1, Ordering::Relaxed)),
            "Bearer",
            3600,
        ),
        _ if asked.bearer.as_deref() == Some("t1") => response("200 OK", ""),
        _ => response(
            "401 Unauthorized\r\nWWW-Authenticate: Bearer error=\"invalid_token\"",
            "",
        ),
    });
    let session = server.session(RefreshPolicy::default());
    session.token().unwrap();
    assert_eq!(server.call(&session).unwrap().status(), 200);
    assert_eq!((server.count("/token"), server.count("/resource")), (2, 2));
}

#[test]
fn a_caller_with_a_valid_token_does_not_wait_for_its_refresh() {
    let made = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        let number = made.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(600 * u64::try_from(number).unwrap()));
        token(&format!("t{number}"), "Bearer", 5)
    });
    let session = server.session(RefreshPolicy::default());
    assert_eq!(session.token().unwrap().access_token().expose(), "t0");
    // Refreshed a second before it expires, or up to half a second later.
    thread::sleep(Duration::from_millis(4520));
    let asked = Instant::now();
    assert_eq!(session.token().unwrap().access_token().expose(), "t0");
    assert!(asked.elapsed() < Duration::from_millis(400));
    thread::sleep(Duration::from_millis(1000));
    assert_eq!(session.token().unwrap().access_token().expose(), "t1");
    assert_eq!(server.count("/token"), 2);
}

#[test]
fn a_single_use_grant_is_followed_by_refresh_tokens() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" if asked.body.contains("refresh_token=r0") => token("second", "Bearer", 3600),
        "/token" => response(
            "200 OK",
            r#"{"access_token":"first","token_type":"Bearer","refresh_token":"r0"}"#,
        ),
        _ if asked.bearer.as_deref() == Some("second") => response("200 OK", ""),
        _ => response("401 Unauthorized", ""),
    });
    let code = Grant::extension("authorization_code")
        .unwrap()
        .param("code", "c")
        .unwrap();
    let session = Session::builder(Transport::new(), server.client())
        .grant(code)
        .build();
    session.token().unwrap();
    assert_eq!(server.call(&session).unwrap().status(), 200);
}

#[test]
fn a_refresh_token_is_sent_until_the_server_returns_invalid_grant() {
    for (answer, is_verdict) in [
        (
            response("400 Bad Request", r#"{"error":"invalid_grant"}"#),
            true,
        ),
        // Perhaps it was not used up: only the server knows.
        (String::new(), false),
        (response("502 Bad Gateway", "<html>"), false),
    ] {
        let server = Server::start(move |asked| match asked.path.as_str() {
            "/token" if asked.body.contains("refresh_token=r0") => answer.clone(),
            "/token" => response(
                "200 OK",
                r#"{"access_token":"a","token_type":"Bearer","refresh_token":"r0"}"#,
            ),
            _ => response("401 Unauthorized", ""),
        });
        let code = Grant::extension("authorization_code")
            .unwrap()
            .param("code", "c")
            .unwrap();
        let policy = RefreshPolicy::default().retry_interval(Duration::ZERO);
        let session = Session::builder(Transport::new(), server.client())
            .grant(code)
            .policy(policy)
            .build();
        session.token().unwrap();
        assert_eq!(server.call(&session).unwrap().status(), 401);
        for _ in 0..5 {
            let over = session.token().unwrap_err().retry() == Retry::Reauthenticate;
            assert_eq!(over, is_verdict);
        }
        assert_eq!(server.count("/token"), if is_verdict { 2 } else { 7 });
    }
}

#[test]
fn a_signer_that_panics_aborts_its_refresh_and_blocks_no_caller() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" => token("bound", "DPoP", 3600),
        _ => response("200 OK", ""),
    });
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let client = server.client().dpop(key.public().clone());
    let panics = AtomicUsize::new(1);
    let transport = Transport::new().signer(move |request: &SignRequest| {
        if panics.swap(0, Ordering::SeqCst) == 1 {
            // Until all the others wait.
            thread::sleep(Duration::from_millis(200));
            panic!("the signer panics, as it should");
        }
        Ok(key.sign(request)?)
    });
    let policy = RefreshPolicy::default().retry_interval(Duration::from_millis(300));
    let session = Session::builder(transport, client)
        .grant(Grant::client_credentials())
        .policy(policy)
        .build();
    let began = Instant::now();
    let errors = at_once(20, || session.token().unwrap_err());
    // Much sooner than the refresh timeout.
    assert!(
        began.elapsed() < Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    for error in errors {
        assert!(matches!(&error, Error::RefreshAborted));
    }
    thread::sleep(Duration::from_millis(400));
    assert_eq!(server.call(&session).unwrap().status(), 200);
}

#[test]
fn a_call_keeps_to_its_timeout_however_long_its_refresh_takes() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" => {
            thread::sleep(Duration::from_secs(6));
            token("a", "Bearer", 3600)
        }
        _ => response("200 OK", ""),
    });
    let transport = Transport::new().timeout(Duration::from_millis(500));
    let policy = RefreshPolicy::default();
    let session = Session::builder(transport, server.client())
        .grant(Grant::client_credentials())
        .policy(policy)
        .build();
    let began = Instant::now();
    let error = server.call(&session).unwrap_err();
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    assert!(
        matches!(&error, Error::Timeout | Error::NoResponse { .. }),
        "{error:?}"
    );
}

#[test]
fn a_refresh_leaves_half_of_a_short_refresh_timeout_for_saving() {
    let server = Server::start(|_| {
        thread::sleep(Duration::from_secs(5));
        token("late", "Bearer", 3600)
    });
    let policy = RefreshPolicy::default().refresh_timeout(Duration::from_secs(4));
    let session = server.session(policy);
    let began = Instant::now();
    let error = session.token().unwrap_err();
    assert!(matches!(&error, Error::NoResponse { .. }), "{error:?}");
    assert!(
        began.elapsed() < Duration::from_secs(3),
        "{:?}",
        began.elapsed()
    );
}

#[test]
fn the_last_handle_of_a_session_waits_for_a_refresh_in_flight() {
    let refreshed = Arc::new(Mutex::new(Vec::new()));
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" if asked.body.contains("refresh_token=r0") => {
            thread::sleep(Duration::from_millis(500));
            response(
                "200 OK",
                r#"{"access_token":"b","token_type":"Bearer","refresh_token":"r1","expires_in":5}"#,
            )
        }
        _ => response(
            "200 OK",
            r#"{"access_token":"a","token_type":"Bearer","refresh_token":"r0","expires_in":2}"#,
        ),
    });
    let code = Grant::extension("authorization_code")
        .unwrap()
        .param("code", "c")
        .unwrap();
    let recorded = Arc::clone(&refreshed);
    let transport = Transport::new().on_event(move |event| {
        if let Event::TokenRefreshed(event) = event {
            recorded
                .lock()
                .unwrap()
                .push(event.token.access_token().expose().to_owned());
        }
    });
    let session = Session::builder(transport, server.client())
        .grant(code)
        .build();
    session.token().unwrap();
    // It is due, and still good.
    thread::sleep(Duration::from_millis(1850));
    assert_eq!(
        session.clone().token().unwrap().access_token().expose(),
        "a"
    );
    assert_eq!(*refreshed.lock().unwrap(), ["a"]);
    drop(session);
    assert_eq!(*refreshed.lock().unwrap(), ["a", "b"]);
}

/// Google's servers bind the refresh token alone.
#[test]
fn bearer_tokens_with_a_bound_refresh_token_are_called_without_a_proof_and_refreshed_with_one() {
    let server = Server::start(|asked| match (asked.path.as_str(), asked.has_proof) {
        ("/token", true) if asked.body.contains("refresh_token=r0") => token("b", "Bearer", 3600),
        ("/token", true) => response(
            "200 OK",
            r#"{"access_token":"a","token_type":"Bearer","expires_in":1,"refresh_token":"r0"}"#,
        ),
        ("/resource", false) => response("200 OK", asked.bearer.as_deref().unwrap_or_default()),
        _ => response("400 Bad Request", ""),
    });
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let client = server.client().accept_bearer();
    let code = Grant::extension("authorization_code")
        .unwrap()
        .param("code", "c")
        .unwrap();
    let session = Session::builder(Transport::new(), client).dpop(key);
    let session = session.grant(code).build();
    let call = || {
        let mut answer = server.call(&session).unwrap();
        assert_eq!(answer.status(), 200);
        answer.body_mut().read_to_string().unwrap()
    };
    assert_eq!(call(), "a");
    thread::sleep(Duration::from_millis(1100));
    assert_eq!(call(), "b");
}
