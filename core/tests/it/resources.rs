//! Calls of protected resources.

use std::collections::BTreeSet;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode, Uri};
use keybound_core::driver::{AuthHeaders, Awaiting, PreparedCall, Role, ServerState, Step};
use keybound_core::{Call, Cause, Error, Grant, Sent, Token};
use serde_json::json;

use crate::peer::{
    AT_THE_RESOURCE, Asks, Challenge, Peer, ScriptedResponse, response, with_header,
};
use crate::world::{Called, RESOURCE_URL, START, TOKEN_URL, World};

/// A world and a token, with no requests seen.
fn with_token(peer: Peer) -> (World, Token) {
    let mut world = World::with(peer);
    let token = world.token(Grant::client_credentials()).unwrap();
    world.peer.requests.clear();
    (world, token)
}

#[test]
fn a_bound_token_goes_out_with_a_proof_that_names_it() {
    let (mut world, token) = with_token(Peer::bound());
    assert_eq!(
        world.call(&token, RESOURCE_URL),
        Called::Delivered(StatusCode::OK)
    );
    assert_eq!(
        world.peer.requests[0].headers[AUTHORIZATION],
        "DPoP access-1"
    );
}

#[test]
fn a_bearer_token_goes_out_alone() {
    let (mut world, token) = with_token(Peer::bearer());
    assert_eq!(
        world.call(&token, RESOURCE_URL),
        Called::Delivered(StatusCode::OK)
    );
    let headers = &world.peer.requests[0].headers;
    assert_eq!(
        (&headers[AUTHORIZATION], headers.get("dpop")),
        (&"Bearer access-1".parse().unwrap(), None)
    );
}

#[test]
fn headers_replace_what_stood_there_and_are_sensitive() {
    for peer in [Peer::bound(), Peer::bearer()] {
        let bound = peer.bound;
        let (mut world, token) = with_token(peer);
        let mut call = prepared(&mut world, &token);
        assert_eq!(
            applied(&mut call.effect.headers)
                .get_all("dpop")
                .iter()
                .count(),
            usize::from(bound)
        );
    }
}

/// A call that awaits its response.
fn prepared(world: &mut World, token: &Token) -> Awaiting<PreparedCall, Call> {
    let uri: Uri = RESOURCE_URL.parse().unwrap();
    let call = token.authorize(&Method::GET, &uri).unwrap();
    let context = world.context();
    let mut step = world.shared.start(call, context);
    if let Step::Sign(signing) = step {
        let signature = world.sign(&signing.effect).map_err(Cause::new);
        let context = world.context();
        step = signing.signed(signature, &mut world.shared, context);
    }
    match step {
        Step::Call(call) => call,
        step => panic!("{step:?}"),
    }
}

fn applied(headers: &mut AuthHeaders) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.append("dpop", "left over".parse().unwrap());
    map.append(AUTHORIZATION, "Basic left-over".parse().unwrap());
    headers.apply(&mut map);
    assert_eq!(map.get_all(AUTHORIZATION).iter().count(), 1);
    assert!(map.values().all(http::HeaderValue::is_sensitive));
    map
}

#[test]
fn a_nonce_challenge_of_any_shape_causes_a_retry_with_its_nonce() {
    let shapes = [
        AT_THE_RESOURCE,
        Challenge {
            fields: &[r#"DPoP algs="ES256 EdDSA", error="use_dpop_nonce""#],
            ..AT_THE_RESOURCE
        },
        Challenge {
            fields: &[r#"Bearer, DPoP algs="ES256", error="use_dpop_nonce""#],
            ..AT_THE_RESOURCE
        },
        Challenge {
            fields: &[
                r#"Bearer realm="a, b", error="invalid_token""#,
                "dPoP error = use_dpop_nonce",
            ],
            ..AT_THE_RESOURCE
        },
        Challenge {
            fields: &[r#"Bearer error="use_dpop_nonce""#],
            ..AT_THE_RESOURCE
        },
        Challenge {
            fields: &[],
            body: "",
            status: 401,
        },
        Challenge {
            status: 400,
            ..AT_THE_RESOURCE
        },
    ];
    for shape in shapes {
        let (mut world, token) = with_token(Peer::bound());
        world.peer.resource_server.asks = Asks::Always;
        world.peer.resource_server.challenge = shape;
        for _ in 0..2 {
            assert_eq!(
                world.call(&token, RESOURCE_URL),
                Called::Delivered(StatusCode::OK)
            );
        }
        let expected = [None, Some("rs-1"), Some("rs-1")];
        assert_eq!(world.nonces_seen(), expected, "{:?}", shape.fields);
    }
}

/// The nonce of the error in which a call ends that no nonce satisfies.
fn wanted_nonce(world: &mut World, token: &Token) -> Option<String> {
    let request = Request::get(RESOURCE_URL).body(()).unwrap();
    let call = token.authorize(request.method(), request.uri()).unwrap();
    let Err(Error::Server(refusal)) = world.perform(call, request) else {
        panic!("it is never content")
    };
    assert_eq!(
        (refusal.status(), refusal.code()),
        (StatusCode::UNAUTHORIZED, Some("use_dpop_nonce"))
    );
    refusal.nonce().map(|nonce| nonce.as_str().to_owned())
}

#[test]
fn a_second_nonce_challenge_causes_no_retry_but_its_nonce_is_stored() {
    let (mut world, token) = with_token(Peer::bound());
    world.peer.resource_server.asks = Asks::Insatiably;
    assert_eq!(wanted_nonce(&mut world, &token).as_deref(), Some("rs-2"));
    assert_eq!(world.nonces_seen(), [None, Some("rs-1")]);
    world.peer.resource_server.asks = Asks::Always;
    world.call(&token, RESOURCE_URL);
    assert_eq!(world.nonces_seen()[2..], [Some("rs-2")]);
}

#[test]
fn a_challenge_with_the_same_nonce_causes_no_retry() {
    let (mut world, token) = with_token(Peer::bound());
    world.peer.resource_server.asks = Asks::Always;
    world.call(&token, RESOURCE_URL);
    world.peer.resource_server.asks = Asks::Stubbornly;
    assert!(wanted_nonce(&mut world, &token).is_some());
    assert_eq!(world.peer.requests.len(), 3);
}

#[test]
fn a_nonce_is_corrected_anew_after_a_delay() {
    let challenge = |nonce| {
        let challenge = with_header(response(401, ""), "dpop-nonce", nonce);
        let field = r#"DPoP error="use_dpop_nonce""#;
        ScriptedResponse::Response(with_header(challenge, "www-authenticate", field))
    };
    let lost = || ScriptedResponse::NoResponse(Sent::Maybe);
    let busy = || ScriptedResponse::Response(with_header(response(503, ""), "retry-after", "1"));
    let limited = || ScriptedResponse::Response(response(429, ""));
    for delay in [lost, busy, limited] {
        let (mut world, token) = with_token(Peer::bound());
        let answers = [challenge("n-1"), delay(), challenge("n-2"), delay()];
        world.peer.script.extend(answers);
        assert_eq!(
            world.call(&token, RESOURCE_URL),
            Called::Delivered(StatusCode::OK)
        );
        assert_eq!(
            world.nonces_seen(),
            [None, Some("n-1"), Some("n-1"), Some("n-2"), Some("n-2")]
        );
    }
}

#[test]
fn a_nonce_of_any_response_is_in_the_next_call() {
    let (mut world, token) = with_token(Peer::bound());
    world.peer.resource_server.asks = Asks::Rotating;
    for _ in 0..3 {
        world.call(&token, RESOURCE_URL);
    }
    assert_eq!(
        world.nonces_seen(),
        [None, Some("rs-1"), Some("rs-2"), Some("rs-3")]
    );
    world.peer.resource_server.asks = Asks::Never;
    for (status, nonce) in [(302, "of-302"), (404, "of-404"), (503, "of-503")] {
        let answer = with_header(response(status, ""), "dpop-nonce", nonce);
        world
            .peer
            .script
            .push_back(ScriptedResponse::Response(answer));
        world.call(&token, RESOURCE_URL);
        world.call(&token, RESOURCE_URL);
        assert_eq!(world.nonces_seen().last(), Some(&Some(nonce)));
    }
}

#[test]
fn one_origin_has_a_nonce_for_each_of_its_two_roles() {
    const RESOURCE: &str = "https://as.example/userinfo";
    assert!(TOKEN_URL.starts_with("https://as.example/"));
    let mut world = World::with(Peer::bound());
    world.peer.authorization_server.asks = Asks::Always;
    // The resource server never asks, so the peer would panic at a nonce of the other role's.
    let token = world.token(Grant::client_credentials()).unwrap();
    world.call(&token, RESOURCE);
    world.peer.resource_server.asks = Asks::Rotating;
    world.call(&token, RESOURCE);
    world.token(Grant::client_credentials()).unwrap();
    let expected = [None, Some("as-1"), None, None, Some("rs-1"), Some("as-1")];
    assert_eq!(world.nonces_seen(), expected);
}

#[test]
fn a_nonce_is_for_no_other_origin() {
    let (mut world, token) = with_token(Peer::bound());
    world.peer.resource_server.asks = Asks::Always;
    world.call(&token, RESOURCE_URL);
    for other in [
        "https://rs.example:8443/",
        "http://localhost:443/",
        "https://rs2.example/",
    ] {
        world.peer.requests.clear();
        world.call(&token, other);
        assert_eq!(world.nonces_seen()[0], None, "{other}");
    }
}

#[test]
fn the_answer_is_the_applications_unless_it_refuses_the_token() {
    let cases: [(u16, &[&str], bool); 16] = [
        (401, &[r#"DPoP error="invalid_token""#], true),
        (401, &[r#"Bearer error="invalid_token""#], true),
        (400, &[r#"DPoP error="invalid_token""#], true),
        (
            401,
            &[r#"Bearer error="invalid_token""#, r#"DPoP algs="ES256""#],
            true,
        ),
        (401, &[r#"Bearer realm="x""#], true),
        (401, &[r#"Basic realm="x""#, r#"DPoP algs="ES256""#], true),
        (401, &[], true),
        // A challenge of another scheme says nothing of the token.
        (401, &[r#"Basic realm="x""#], false),
        (401, &["Negotiate", r#"Digest realm="x", nonce="n""#], false),
        (401, &[r#"Signature realm="x", headers="date""#], false),
        (401, &[r#"DPoP error="invalid_dpop_proof""#], false),
        (403, &[r#"DPoP error="insufficient_scope""#], false),
        (403, &[], false),
        (404, &[], false),
        (200, &[r#"DPoP error="invalid_token""#], false),
        (302, &[], false),
    ];
    for (status, fields, rejected) in cases {
        for peer in [Peer::bound(), Peer::bearer()] {
            let (mut world, token) = with_token(peer);
            let mut answer = response(status, "");
            for field in fields {
                answer = with_header(answer, "www-authenticate", field);
            }
            world
                .peer
                .script
                .push_back(ScriptedResponse::Response(answer));
            let called = world.call(&token, RESOURCE_URL);
            assert_eq!(called == Called::Rejected, rejected, "{status} {fields:?}");
            assert_eq!(world.peer.requests.len(), 1);
        }
    }
}

#[test]
fn a_bearer_call_is_not_retried_for_a_nonce() {
    let (mut world, token) = with_token(Peer::bearer());
    let challenge = with_header(
        with_header(
            response(401, ""),
            "www-authenticate",
            r#"DPoP error="use_dpop_nonce""#,
        ),
        "dpop-nonce",
        "rs-1",
    );
    world
        .peer
        .script
        .push_back(ScriptedResponse::Response(challenge));
    assert_eq!(
        world.call(&token, RESOURCE_URL),
        Called::Delivered(StatusCode::UNAUTHORIZED)
    );
}

#[test]
fn a_challenge_is_judged_by_its_head_alone() {
    let (mut world, token) = with_token(Peer::bound());
    let call = prepared(&mut world, &token);
    let head = with_header(response(401, ""), "dpop-nonce", "n")
        .into_parts()
        .0;
    let context = world.context();
    let next = call.received(head.status, &head.headers, &mut world.shared, context);
    assert!(matches!(next, Step::Sign(_)), "{next:?}");
    assert!(
        world
            .server_state()
            .to_json()
            .contains(&format!("{:?}", Role::ResourceServer))
    );
}

#[test]
fn a_token_that_no_scheme_fits_authorizes_nothing() {
    let uri: Uri = RESOURCE_URL.parse().unwrap();
    for (named, argument) in [("MAC", "token"), ("DPoP", "token")] {
        // Nothing is known of a key here, so that a token of type DPoP can't be used either.
        let mut world = World::with(Peer::bearer());
        world
            .peer
            .token_members
            .insert("token_type".into(), json!(named));
        let token = world.token(Grant::client_credentials()).unwrap();
        assert_eq!(
            token.authorize(&Method::GET, &uri).unwrap_err().argument(),
            argument,
            "{named}"
        );
    }
}

#[test]
fn a_url_that_a_proof_can_not_name_is_refused() {
    let (_, token) = with_token(Peer::bound());
    for url in [
        "/relative",
        "ftp://rs.example/",
        "https://user:pw@rs.example/",
        "rs.example:443",
    ] {
        let invalid = token
            .authorize(&Method::GET, &url.parse().unwrap())
            .unwrap_err();
        assert_eq!(invalid.argument(), "url", "{url}");
    }
}

#[test]
fn a_token_leaves_this_machine_by_https_alone() {
    for peer in [Peer::bound(), Peer::bearer()] {
        let (mut world, token) = with_token(peer);
        for url in [
            "http://rs.example/",
            "http://10.0.0.1/",
            "http://localhost.example/",
        ] {
            let invalid = token
                .authorize(&Method::GET, &url.parse().unwrap())
                .unwrap_err();
            assert_eq!(invalid.argument(), "url", "{url}");
        }
        for url in [
            "http://localhost:8080/me",
            "http://127.0.0.1/me",
            "http://[::1]:1/me",
        ] {
            assert_eq!(
                world.call(&token, url),
                Called::Delivered(StatusCode::OK),
                "{url}"
            );
        }
    }
}

#[test]
fn the_state_of_every_server_survives_its_json() {
    let (mut world, token) = with_token(Peer::bound());
    world.peer.resource_server.asks = Asks::Rotating;
    for url in [
        RESOURCE_URL,
        "http://localhost:8080/me",
        "https://RS.example:8443/me",
    ] {
        world.call(&token, &url.to_lowercase());
    }
    let json = world.server_state().to_json();
    let restored = ServerState::from_json(&json, START).unwrap();
    assert_eq!(restored.to_json(), json);
    assert_eq!(json.matches("rs-").count(), 3);
}

/// How often a request with this method and header is sent to a server that answers so for ever.
fn sends(request: &Request<()>, answer: &Response<Vec<u8>>) -> (usize, Called) {
    let (mut world, token) = with_token(Peer::bound());
    world
        .peer
        .script
        .extend((0..9).map(|_| ScriptedResponse::Response(answer.clone())));
    let call = token
        .authorize(request.method(), request.uri())
        .unwrap()
        .detect_idempotency_key(request.headers());
    let called = world.perform(call, request.clone()).unwrap();
    (world.peer.requests.len(), called)
}

#[test]
fn a_call_to_a_busy_server_is_retried_where_that_is_harmless() {
    let soon = |status| with_header(response(status, ""), "retry-after", "1");
    let request = |method: &str| {
        Request::builder()
            .method(method)
            .uri(RESOURCE_URL)
            .body(())
            .unwrap()
    };
    let keyed = |name: &str| {
        let mut request = request("POST");
        request
            .headers_mut()
            .insert(HeaderName::try_from(name).unwrap(), "k".parse().unwrap());
        request
    };
    for idempotent in [
        request("GET"),
        request("HEAD"),
        request("PUT"),
        request("DELETE"),
        keyed("Idempotency-Key"),
        keyed("X-Idempotency-Key"),
    ] {
        for status in [429, 502, 503, 504] {
            assert_eq!(
                sends(&idempotent, &response(status, "")).0,
                4,
                "{idempotent:?} {status}"
            );
        }
        for status in [400, 403, 408, 409, 500, 501] {
            assert_eq!(
                sends(&idempotent, &soon(status)).0,
                1,
                "{idempotent:?} {status}"
            );
        }
    }
    for method in ["POST", "PATCH", "MINT"] {
        for (answer, expected) in [
            (response(429, ""), 4),
            (soon(429), 4),
            (response(503, ""), 1),
            (soon(503), 4),
            (response(502, ""), 1),
            (soon(502), 1),
            (soon(504), 1),
            (soon(500), 1),
        ] {
            let status = answer.status();
            assert_eq!(
                sends(&request(method), &answer),
                (expected, Called::Delivered(status)),
                "{method}"
            );
        }
    }
}

#[test]
fn a_call_honors_retry_after_but_never_beyond_its_timeout() {
    let (mut world, token) = with_token(Peer::bound());
    for wait in ["7", "12", "0"] {
        let busy = with_header(response(503, ""), "retry-after", wait);
        world
            .peer
            .script
            .push_back(ScriptedResponse::Response(busy));
    }
    assert_eq!(
        world.call(&token, RESOURCE_URL),
        Called::Delivered(StatusCode::OK)
    );
    assert_eq!(
        world.waits,
        [Duration::from_secs(7), Duration::from_secs(12)]
    );

    let (mut world, token) = with_token(Peer::bound());
    let busy = with_header(response(503, ""), "retry-after", "31");
    world
        .peer
        .script
        .push_back(ScriptedResponse::Response(busy));
    assert_eq!(
        world.call(&token, RESOURCE_URL),
        Called::Delivered(StatusCode::SERVICE_UNAVAILABLE)
    );
    assert_eq!(world.waits, []);

    let (mut world, token) = with_token(Peer::bound());
    let uri = RESOURCE_URL.parse().unwrap();
    let request = || Request::get(RESOURCE_URL).body(()).unwrap();
    world
        .peer
        .script
        .extend((0..9).map(|_| ScriptedResponse::Response(response(429, ""))));
    let call = token.authorize(&Method::GET, &uri).unwrap().max_attempts(2);
    assert_eq!(
        world.perform(call, request()).unwrap(),
        Called::Delivered(StatusCode::TOO_MANY_REQUESTS)
    );
    assert_eq!(world.peer.requests.len(), 2);
    let call = token
        .authorize(&Method::GET, &uri)
        .unwrap()
        .timeout(Duration::ZERO);
    let busy = with_header(response(503, ""), "retry-after", "1");
    world
        .peer
        .script
        .push_front(ScriptedResponse::Response(busy));
    assert_eq!(
        world.perform(call, request()).unwrap(),
        Called::Delivered(StatusCode::SERVICE_UNAVAILABLE)
    );
}

#[test]
fn a_call_without_a_response_is_retried_where_it_was_not_sent_or_is_idempotent() {
    for (method, sent, sends) in [
        ("GET", Sent::No, 4),
        ("GET", Sent::Maybe, 4),
        ("DELETE", Sent::Maybe, 4),
        ("POST", Sent::No, 4),
        ("POST", Sent::Maybe, 1),
        ("PATCH", Sent::Maybe, 1),
    ] {
        let (mut world, token) = with_token(Peer::bound());
        world
            .peer
            .script
            .extend((0..9).map(|_| ScriptedResponse::NoResponse(sent)));
        let request = Request::builder()
            .method(method)
            .uri(RESOURCE_URL)
            .body(())
            .unwrap();
        let call = token.authorize(request.method(), request.uri()).unwrap();
        let Err(Error::NoResponse(lost)) = world.perform(call, request) else {
            panic!("it is lost for good")
        };
        assert_eq!(
            (lost.sent(), world.peer.requests.len()),
            (sent, sends),
            "{method}"
        );
        let ids: BTreeSet<_> = world
            .peer
            .requests
            .iter()
            .filter_map(|request| request.jti.as_ref())
            .collect();
        assert_eq!(ids.len(), sends, "each has a proof of its own");
    }
}

#[test]
fn a_call_with_a_single_use_body_is_never_retried() {
    let challenge = with_header(
        with_header(
            response(401, ""),
            "www-authenticate",
            r#"DPoP error="use_dpop_nonce""#,
        ),
        "dpop-nonce",
        "rs-1",
    );
    for answer in [
        ScriptedResponse::Response(challenge),
        ScriptedResponse::Response(response(429, "")),
        ScriptedResponse::NoResponse(Sent::No),
        ScriptedResponse::NoResponse(Sent::Maybe),
    ] {
        let (mut world, token) = with_token(Peer::bound());
        world.peer.script.push_back(answer);
        let request = Request::get(RESOURCE_URL).body(()).unwrap();
        let call = token
            .authorize(request.method(), request.uri())
            .unwrap()
            .single_use_body();
        let _ = world.perform(call, request);
        assert_eq!(world.peer.requests.len(), 1);
    }
}
