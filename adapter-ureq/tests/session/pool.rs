//! Many sessions, with a bound.

use std::sync::{Arc, Mutex};

use keybound_ureq::{Grant, Session, SessionPool, Transport};

use crate::server::{Server, token};

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
