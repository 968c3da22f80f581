//! Resources that refuse every token: they cause no storm of token requests.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use keybound_ureq::{RefreshPolicy, Session};

use crate::server::{Server, at_once, response, token};

const UNAUTHORIZED: [&str; 3] = [
    "401 Unauthorized",
    "401 Unauthorized\r\nWWW-Authenticate: Bearer error=\"invalid_token\"",
    "401 Unauthorized\r\nWWW-Authenticate: DPoP error=\"invalid_token\"",
];

/// A server that mints `t0`, `t1`, …, and a resource that takes those that `takes` says; the tokens that came there.
fn server(
    token_type: &'static str,
    refusal: &'static str,
    takes: impl Fn(&str) -> bool + Send + Sync + 'static,
) -> (Server, Arc<Mutex<Vec<String>>>) {
    let made = AtomicUsize::new(0);
    let used = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&used);
    let server = Server::start(move |asked| {
        if asked.path == "/token" {
            return token(
                &format!("t{}", made.fetch_add(1, Ordering::SeqCst)),
                token_type,
                3600,
            );
        }
        let bearer = asked.bearer.clone().unwrap_or_default();
        let is_taken = takes(&bearer);
        seen.lock().unwrap().push(bearer);
        response(if is_taken { "200 OK" } else { refusal }, "")
    });
    (server, used)
}

fn session(server: &Server, token_type: &str) -> Session {
    if token_type == "DPoP" {
        server.bound_session()
    } else {
        server.session(RefreshPolicy::default())
    }
}

#[test]
fn a_token_that_was_minted_for_a_call_and_refused_is_not_replaced_for_that_call() {
    for token_type in ["Bearer", "DPoP"] {
        for refusal in UNAUTHORIZED {
            let (server, used) = server(token_type, refusal, |_| false);
            let session = session(&server, token_type);
            assert_eq!(server.call(&session).unwrap().status(), 401);
            assert_eq!(server.count("/token"), 1, "{token_type} {refusal}");
            assert_eq!(used.lock().unwrap().last().unwrap(), "t0");
        }
    }
}

#[test]
fn a_resource_that_refuses_every_token_causes_two_token_requests_however_often_it_is_called() {
    for token_type in ["Bearer", "DPoP"] {
        for refusal in UNAUTHORIZED {
            let (server, used) = server(token_type, refusal, |_| false);
            let session = session(&server, token_type);
            for _ in 0..20 {
                assert_eq!(server.call(&session).unwrap().status(), 401);
            }
            assert_eq!(server.count("/token"), 2, "{token_type} {refusal}");
            // They go out, with the token that is held.
            assert!(used.lock().unwrap().len() >= 21);
            assert_eq!(used.lock().unwrap().last().unwrap(), "t1");
            let many = at_once(20, || server.call(&session).unwrap().status().as_u16());
            assert_eq!(many, vec![401; 20]);
            assert_eq!(server.count("/token"), 2, "{token_type} {refusal}");
        }
    }
}

#[test]
fn an_agent_at_a_resource_that_refuses_every_token_causes_two_token_requests() {
    for status_as_error in [false, true] {
        let (server, _) = server("Bearer", UNAUTHORIZED[1], |_| false);
        let session = session(&server, "Bearer");
        let config = ureq::Agent::config_builder().http_status_as_error(status_as_error);
        let agent = config
            .middleware(session.authorizer([server.url.as_str()]).unwrap())
            .build()
            .new_agent();
        for _ in 0..10 {
            match agent.get(format!("{}/resource", server.url)).call() {
                Ok(answer) => assert_eq!(answer.status(), 401),
                Err(error) => assert!(matches!(error, ureq::Error::StatusCode(401))),
            }
        }
        assert_eq!(server.count("/token"), 2, "{status_as_error}");
    }
}

#[test]
fn a_refusing_resource_costs_no_other_resource_its_tokens() {
    let (refusing, _) = server("Bearer", UNAUTHORIZED[0], |_| false);
    let revoked = Arc::new(AtomicBool::new(false));
    let is_revoked = Arc::clone(&revoked);
    let (good, used) = server("Bearer", UNAUTHORIZED[0], move |token| {
        token != "t1" || !is_revoked.load(Ordering::SeqCst)
    });
    // Tokens come from the good one.
    let session = good.session(RefreshPolicy::default());
    for _ in 0..5 {
        let request = ureq::http::Request::get(&refusing.url)
            .body(Vec::new())
            .unwrap();
        assert_eq!(session.send(request).unwrap().status(), 401);
        assert_eq!(good.call(&session).unwrap().status(), 200);
    }
    assert_eq!(good.count("/token"), 2);
    // A token that was good and is refused is replaced there, as ever.
    revoked.store(true, Ordering::SeqCst);
    assert_eq!(good.call(&session).unwrap().status(), 200);
    assert_eq!(good.count("/token"), 3);
    assert_eq!(used.lock().unwrap().last().unwrap(), "t2");
}

#[test]
fn refusals_that_are_not_in_a_row_cause_no_hold_off() {
    // Each token is taken once, and refused from then on.
    let taken = Mutex::new(std::collections::HashSet::new());
    let (server, _) = server("Bearer", UNAUTHORIZED[1], move |token| {
        taken.lock().unwrap().insert(token.to_owned())
    });
    let session = session(&server, "Bearer");
    for call in 1..=6 {
        assert_eq!(server.call(&session).unwrap().status(), 200);
        assert_eq!(server.count("/token"), call);
    }
}
