//! Responses whose headers the driver can't read, as in a browser whose resource server exposes none.

use http::{HeaderMap, HeaderName, Request, StatusCode};
use keybound_core::Grant;
use keybound_core::driver::{SessionConfig, SessionId, Step};

use crate::peer::Peer;
use crate::session_state::token;
use crate::world::{RESOURCE_URL, World};

fn world(peer: Peer) -> (World, SessionId) {
    let mut world = World::with(peer);
    let config = SessionConfig::new(world.client()).grant(Grant::client_credentials());
    let session = world.open(config);
    token(&mut world, session).unwrap();
    world.peer.requests.clear();
    (world, session)
}

fn request(method: &str, key: Option<&'static str>) -> Request<()> {
    let request = Request::builder().method(method).uri(RESOURCE_URL);
    let mut request = request.body(()).unwrap();
    if let Some(key) = key {
        let name = HeaderName::from_static(key);
        request.headers_mut().insert(name, "k".parse().unwrap());
    }
    request
}

/// How often a request is sent whose responses have this status alone, the number of token requests, and whether
/// the token was rejected.
fn sends(
    world: &mut World,
    session: SessionId,
    request: &Request<()>,
    statuses: &[u16],
) -> (usize, usize, bool) {
    let call = session
        .call(request.method(), request.uri())
        .unwrap()
        .detect_idempotency_key(request.headers());
    let context = world.context();
    let mut step = world.shared.start(call, context);
    let mut sends = 0;
    loop {
        while let Some(refresh) = world.shared.next_refresh(session) {
            world.run(refresh).unwrap();
        }
        step = match step {
            Step::Call(call) => {
                let status = statuses[sends.min(statuses.len() - 1)];
                sends += 1;
                assert!(sends < 9, "it goes on for ever");
                let (status, context) = (StatusCode::from_u16(status).unwrap(), world.context());
                call.status_only(status, &mut world.shared, context)
            }
            Step::Done(delivered) => {
                let rejected = delivered.unwrap().token_rejected;
                return (sends, world.peer.requests.len(), rejected);
            }
            step => world.step(step),
        };
    }
}

#[test]
fn a_rejection_without_its_head_is_repeated_to_read_it_only_if_the_request_is_idempotent() {
    for (method, key, is_repeated) in [
        ("GET", None, true),
        ("HEAD", None, true),
        ("PUT", None, true),
        ("DELETE", None, true),
        ("POST", None, false),
        ("PATCH", None, false),
        ("POST", Some("idempotency-key"), true),
        ("POST", Some("x-idempotency-key"), true),
        ("PATCH", Some("idempotency-key"), true),
    ] {
        for status in [401, 400] {
            let (mut world, session) = world(Peer::bound());
            let (sent, tokens, rejected) =
                sends(&mut world, session, &request(method, key), &[status]);
            assert_eq!(sent, if is_repeated { 2 } else { 1 }, "{method} {status}");
            // It may be the proof's fault: the token is not replaced for it.
            assert_eq!((tokens, rejected), (0, false), "{method} {status}");
        }
        for status in [200, 204, 302, 403, 404, 409, 422, 500, 503] {
            let (mut world, session) = world(Peer::bound());
            let found = sends(&mut world, session, &request(method, key), &[status]);
            assert_eq!(found, (1, 0, false), "{method} {status}");
        }
    }
}

#[test]
fn a_401_without_its_head_rejects_a_bearer_token_and_a_bound_one_does_not() {
    for (method, key) in [
        ("GET", None),
        ("DELETE", None),
        ("POST", Some("idempotency-key")),
    ] {
        let (mut world, session) = world(Peer::bearer());
        let request = request(method, key);
        let found = sends(&mut world, session, &request, &[401, 401, 200]);
        assert_eq!(found, (3, 1, false), "with a new token");
        let (mut world, session) = world_bearer();
        let found = sends(&mut world, session, &request, &[401]);
        assert!(found.2, "{method} {found:?}");
    }
    // What may have an effect twice is not sent again, but the token is replaced.
    for method in ["POST", "PATCH"] {
        let (mut world, session) = world_bearer();
        let request = request(method, None);
        assert_eq!(sends(&mut world, session, &request, &[401]), (1, 0, true));
        token(&mut world, session).unwrap();
        assert_eq!(world.peer.requests.len(), 1);
        for status in [400, 403, 404] {
            let found = sends(&mut world, session, &request, &[status]);
            assert_eq!((found.0, found.2), (1, false), "{status}");
        }
    }
}

fn world_bearer() -> (World, SessionId) {
    world(Peer::bearer())
}

#[test]
fn a_head_that_can_be_read_the_second_time_decides() {
    let (mut world, session) = world(Peer::bound());
    let request = request("GET", None);
    let call = session.call(request.method(), request.uri()).unwrap();
    let context = world.context();
    let step = world.shared.start(call, context);
    let Step::Call(call) = world.step(step) else {
        panic!("it is sent")
    };
    let context = world.context();
    let step = call.status_only(StatusCode::UNAUTHORIZED, &mut world.shared, context);
    let Step::Call(call) = world.step(step) else {
        panic!("it is sent again")
    };
    let mut headers = HeaderMap::new();
    headers.insert("dpop-nonce", "n-1".parse().unwrap());
    let context = world.context();
    let unauthorized = StatusCode::UNAUTHORIZED;
    let step = call.received(unauthorized, &headers, &mut world.shared, context);
    let Step::Call(call) = world.step(step) else {
        panic!("it is sent with the nonce")
    };
    let context = world.context();
    let done = call.status_only(StatusCode::OK, &mut world.shared, context);
    assert!(matches!(done, Step::Done(Ok(_))));
}
