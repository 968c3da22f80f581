//! Many calls at once to servers that want nonces.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::{Error, Grant, Session, Transport};

use crate::server::{Server, at_once, nonce_server, response, token};

#[test]
fn twenty_cold_calls_to_a_server_that_wants_a_nonce_cost_twenty_one_requests() {
    let server = nonce_server(|_, nonce| (nonce == Some(7), 7));
    let session = server.bound_session();
    assert_eq!(server.calls_at_once(&session, 20), vec![200; 20]);
    assert_eq!((server.count("/token"), server.count("/resource")), (1, 21));
}

#[test]
fn with_a_nonce_that_changes_at_every_success_all_twenty_succeed() {
    // The one before is still taken.
    let server = nonce_server(|current, nonce| {
        let taken = nonce.is_some_and(|nonce| nonce == *current || nonce + 1 == *current);
        *current += u32::from(taken);
        (taken, *current)
    });
    let session = server.bound_session();
    assert_eq!(server.calls_at_once(&session, 20), vec![200; 20]);
    assert!(
        server.count("/resource") <= 60,
        "{}",
        server.count("/resource")
    );
}

#[test]
fn with_nonces_that_are_good_once_all_twenty_succeed() {
    let server = nonce_server(|current, nonce| {
        let taken = nonce == Some(*current);
        *current += u32::from(taken);
        (taken, *current)
    });
    let session = server.bound_session();
    assert_eq!(server.calls_at_once(&session, 20), vec![200; 20]);
    assert!(
        server.count("/resource") <= 60,
        "{}",
        server.count("/resource")
    );
}

#[test]
fn a_first_call_that_hangs_does_not_take_the_others_with_it() {
    let hung = AtomicUsize::new(0);
    let server = Server::start(move |asked| {
        if asked.path == "/token" {
            return token("bound", "DPoP", 3600);
        }
        if hung.fetch_add(1, Ordering::SeqCst) == 0 {
            thread::sleep(Duration::from_secs(20));
        }
        response("200 OK", "")
    });
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let client = server.client().dpop(key.public().clone());
    let transport = Transport::new().signer(key).timeout(Duration::from_secs(4));
    let session = Session::builder(transport, client)
        .grant(Grant::client_credentials())
        .build();
    session.token().unwrap();
    let answered = at_once(10, || server.call(&session).is_ok());
    assert_eq!(answered.into_iter().filter(|answered| *answered).count(), 9);
}

#[test]
fn nonce_retries_are_bounded_if_a_server_always_wants_another_nonce() {
    let server = nonce_server(|current, _| {
        *current += 1;
        (false, *current)
    });
    let session = server.bound_session();
    for sends in [2, 5] {
        let error = server.call(&session).unwrap_err();
        let Error::Server(refusal) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(refusal.code(), Some("use_dpop_nonce"));
        assert_eq!(server.count("/resource"), sends);
    }
}

#[test]
fn a_server_that_wants_no_nonce_is_called_by_all_at_once_after_the_first() {
    let under_way = AtomicUsize::new(0);
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let server = Server::start(move |asked| {
        if asked.path == "/token" {
            return token("bound", "DPoP", 3600);
        }
        seen.fetch_max(
            under_way.fetch_add(1, Ordering::SeqCst) + 1,
            Ordering::SeqCst,
        );
        thread::sleep(Duration::from_millis(100));
        under_way.fetch_sub(1, Ordering::SeqCst);
        response("200 OK", "")
    });
    let session = server.bound_session();
    assert_eq!(server.calls_at_once(&session, 10), vec![200; 10]);
    assert_eq!(server.count("/resource"), 10);
    assert!(most.load(Ordering::SeqCst) >= 5);
}
