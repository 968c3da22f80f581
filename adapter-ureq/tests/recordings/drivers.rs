//! The core records, so every driver makes the same recording of the same run.

use std::sync::Arc;

use keybound_ureq::driver::{RequestContext, SessionConfig, Shared};
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::{Error, Grant, Session, Transport, UnixTime};
use ureq::http::Request;

use crate::server::{Server, response, token};
use crate::{Lines, replay};

#[path = "../../examples/own_transport.rs"]
#[expect(dead_code, unreachable_pub, reason = "the example uses the rest")]
mod own_transport;

use own_transport::{Driver, Storage};

const KEY: [u8; 32] = [9; 32];

fn inputs() -> RequestContext {
    RequestContext::new(UnixTime::from_secs(1_800_000_000), [7; 16])
}

fn own_inputs() -> Result<RequestContext, Error> {
    Ok(inputs())
}

/// Wants a nonce for tokens and calls, and refuses the first token.
fn server() -> Server {
    Server::start(|asked| {
        let (nonce, is_good) = match asked.path.as_str() {
            "/token" => ("as-1", asked.nonce.as_deref() == Some("as-1")),
            _ => ("rs-1", asked.nonce.as_deref() == Some("rs-1")),
        };
        let answer = match (asked.path.as_str(), is_good) {
            ("/token", true) => token("at-1-Vq8Zt2", "DPoP", 3600),
            ("/token", false) => response("400 Bad Request", r#"{"error":"use_dpop_nonce"}"#),
            (_, true) => response("200 OK", "fine"),
            (_, false) => response(
                "401 Unauthorized\r\nWWW-Authenticate: DPoP error=\"use_dpop_nonce\"",
                "",
            ),
        };
        answer.replacen(
            "Connection",
            &format!("DPoP-Nonce: {nonce}\r\nConnection"),
            1,
        )
    })
}

#[test]
fn two_drivers_make_the_same_recording_of_the_same_run() {
    let server = server();
    let key = Arc::new(SigningKey::generate(Algorithm::Es256).unwrap());
    let client = server.client().dpop(key.public().clone());
    let url = format!("{}/resource?user=alice", server.url);

    let lines = Lines::default();
    let transport = Transport::new()
        .signer(key.clone())
        .record_with(lines.clone(), KEY, inputs);
    let session = Session::builder(transport, client.clone())
        .grant(Grant::client_credentials())
        .build();
    for _ in 0..2 {
        assert_eq!(session.get(&url).unwrap().status(), 200);
    }
    let of_ureq = lines.text();

    let mut shared = Shared::recording(&KEY);
    let config = SessionConfig::new(client).grant(Grant::client_credentials());
    let session = shared.open(config, inputs().now());
    let driver = Driver::new(
        shared,
        session,
        key,
        Arc::new(Storage::default()),
        own_inputs,
    );
    for _ in 0..2 {
        let request = Request::get(&url).body(Vec::new()).unwrap();
        assert_eq!(driver.call(request).unwrap().status(), 200);
    }
    let mut of_own = String::new();
    while let Some(line) = { driver.lock().next_line() } {
        of_own.extend([&line, "\n"]);
    }

    assert_eq!(of_own, of_ureq);
    assert!(of_ureq.lines().count() > 15, "{of_ureq}");
    replay(&of_ureq);
}

#[test]
fn what_other_operations_learn_of_a_server_is_recorded() {
    let server = server();
    let key = Arc::new(SigningKey::generate(Algorithm::Es256).unwrap());
    let client = server.client().dpop(key.public().clone());
    let lines = Lines::default();
    let transport = Transport::new().signer(key).record(lines.clone()).unwrap();
    let session = Session::builder(transport, client.clone())
        .grant(Grant::client_credentials())
        .build();
    let operation = client.token(Grant::client_credentials()).unwrap();
    session.transport().execute(operation).unwrap();
    let url = format!("{}/resource", server.url);
    assert_eq!(session.get(&url).unwrap().status(), 200);
    // The session's own request has the nonce from the start.
    assert_eq!(server.count("/token"), 3);
    replay(&lines.text());
}

#[test]
fn a_recording_ends_at_the_first_line_that_can_not_be_written() {
    let server = server();
    let key = Arc::new(SigningKey::generate(Algorithm::Es256).unwrap());
    let client = server.client().dpop(key.public().clone());
    let lines = Lines::limited(3_000);
    let transport = Transport::new().signer(key).record(lines.clone()).unwrap();
    let session = Session::builder(transport, client)
        .grant(Grant::client_credentials())
        .build();
    for _ in 0..5 {
        assert_eq!(
            session
                .get(&format!("{}/resource", server.url))
                .unwrap()
                .status(),
            200
        );
    }
    let recording = lines.text();
    assert!((1_000..=3_000).contains(&recording.len()), "{recording}");
    replay(&recording);
}
