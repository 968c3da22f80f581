//! A log-out stays, whatever other processes have, do meanwhile or start with.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use keybound_ureq::storage::{EncryptedStorage, FileStorage, MemoryStorage, Storage};
use keybound_ureq::{Error, Grant, Secret, Session, SessionBuilder, Token, Transport};

use crate::server::{Server, response};

/// Rotates its refresh tokens; its access tokens expire after a second.
fn server() -> Server {
    let made = AtomicUsize::new(0);
    Server::start(move |_| {
        let number = made.fetch_add(1, Ordering::SeqCst) + 1;
        let body = format!(
            r#"{{"access_token":"a{number}","token_type":"Bearer","expires_in":1,"refresh_token":"r{number}"}}"#
        );
        response("200 OK", &body)
    })
}

fn storages() -> [Arc<dyn Storage>; 3] {
    let folder = tempfile::tempdir().unwrap().keep();
    [
        Arc::new(MemoryStorage::new()),
        Arc::new(FileStorage::new(folder).unwrap()),
        Arc::new(EncryptedStorage::new(MemoryStorage::new(), &[3; 32]).unwrap()),
    ]
}

fn code(code: &str) -> Grant {
    Grant::extension("authorization_code")
        .unwrap()
        .param("code", code)
        .unwrap()
}

fn process(server: &Server, storage: &Arc<dyn Storage>) -> SessionBuilder {
    Session::builder(Transport::new(), server.client()).storage(Arc::clone(storage), "one")
}

fn stored(server: &Server, storage: &Arc<dyn Storage>) -> String {
    let state = storage.load(&server.stored_as("one")).unwrap().unwrap();
    String::from_utf8(state.expose().to_vec()).unwrap()
}

fn is_login_required(result: Result<Token, Error>) -> bool {
    matches!(result, Err(Error::LoginRequired))
}

/// Past the expiry of every token so far.
fn wait() {
    thread::sleep(Duration::from_millis(1100));
}

#[test]
fn no_process_of_the_same_login_goes_on_and_none_of_its_tokens_starts_it_again() {
    for storage in storages() {
        let server = server();
        let first = process(&server, &storage).grant(code("c")).build();
        let old = first.token().unwrap();
        let other = process(&server, &storage).build();
        other.token().unwrap();
        wait();
        let newer = other.token().unwrap();
        assert_ne!(newer.access_token().expose(), old.access_token().expose());
        first.token().unwrap();
        let requests = server.count("/token");
        first.log_out().unwrap();
        let mark = stored(&server, &storage);
        wait();
        assert!(is_login_required(other.token()), "it had a token");
        drop(other);
        let refresh = |token: &Token| {
            let secret = token.refresh_token().unwrap().expose();
            Grant::refresh_token(Secret::new(secret)).unwrap()
        };
        for later in [
            process(&server, &storage),
            process(&server, &storage).token(old.clone()),
            process(&server, &storage).token(newer.clone()),
            process(&server, &storage).grant(refresh(&old)),
            process(&server, &storage).grant(refresh(&newer)),
        ] {
            let session = later.build();
            wait();
            assert!(is_login_required(session.token()));
        }
        assert_eq!(server.count("/token"), requests, "no token was sent");
        assert_eq!(stored(&server, &storage), mark, "nothing was saved");
    }
}

#[test]
fn another_login_and_a_grant_that_can_be_repeated_begin_anew() {
    for storage in storages() {
        let server = server();
        let first = process(&server, &storage).grant(code("c")).build();
        first.token().unwrap();
        let repeatable = process(&server, &storage).grant(Grant::client_credentials());
        let repeatable = repeatable.build();
        first.log_out().unwrap();
        wait();
        assert_eq!(repeatable.token().unwrap().access_token().expose(), "a2");
        assert!(!stored(&server, &storage).contains("logged_out"));
        repeatable.log_out().unwrap();
        let second = process(&server, &storage).grant(code("d")).build();
        assert_eq!(second.token().unwrap().access_token().expose(), "a3");
        let third = process(&server, &storage).build();
        assert_eq!(third.token().unwrap().access_token().expose(), "a3");
        assert!(is_login_required(first.token()), "a log-out is final");
    }
}

#[test]
fn a_session_whose_stored_state_has_vanished_is_logged_out() {
    let folder = tempfile::tempdir().unwrap();
    let storage: Arc<dyn Storage> = Arc::new(FileStorage::new(folder.path()).unwrap());
    let server = server();
    process(&server, &storage)
        .grant(code("c"))
        .build()
        .token()
        .unwrap();
    let session = process(&server, &storage).build();
    session.token().unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        std::fs::remove_file(file.unwrap().path()).unwrap();
    }
    wait();
    assert!(is_login_required(session.token()));
    assert_eq!(server.count("/token"), 1);
}

#[test]
fn a_process_that_has_not_used_the_login_ends_it_all_the_same() {
    for storage in storages() {
        let server = server();
        let first = process(&server, &storage).grant(code("c")).build();
        let old = first.token().unwrap();
        wait();
        let newer = first.token().unwrap();
        let requests = server.count("/token");
        // Such as the next run of a script.
        let fresh = process(&server, &storage).build();
        let revocable = fresh.log_out().unwrap().unwrap();
        let refresh_token = |token: &Token| token.refresh_token().unwrap().expose().to_owned();
        assert_eq!(refresh_token(&revocable), refresh_token(&newer));
        drop(first);
        for given in [old, newer] {
            let session = process(&server, &storage).token(given).build();
            wait();
            assert!(is_login_required(session.token()));
        }
        assert_eq!(server.count("/token"), requests, "no token was sent");
        // One whose token another process has replaced since.
        let stale = process(&server, &storage).grant(code("d")).build();
        stale.token().unwrap();
        wait();
        let newest = process(&server, &storage).build().token().unwrap();
        let revocable = stale.log_out().unwrap().unwrap();
        assert_eq!(refresh_token(&revocable), refresh_token(&newest));
    }
}
