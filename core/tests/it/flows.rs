//! Exchanges with an authorization server, from the first request to the last.

use std::time::Duration;

use http::{Response, header::AUTHORIZATION};
use keybound_core::driver::{FromResponse, MAX_RESPONSE};
use keybound_core::{
    Error, Grant, InvalidResponseKind, Operation, Retry, Secret, Sent, Token, TokenType,
    TokenTypeHint,
};
use proptest::prelude::*;
use serde_json::json;

use crate::maker::Maker;
use crate::peer::{
    AT_THE_TOKEN_ENDPOINT, Asks, Challenge, Peer, ScriptedResponse, json_response, response,
    with_header,
};
use crate::world::{START, World, millis};

fn client_credentials() -> Grant {
    Grant::client_credentials()
}

fn refresh(token: &Token) -> Grant {
    Grant::refresh_token(token.refresh_token().expect("a refresh token").clone()).unwrap()
}

fn exposed(secret: Option<&Secret>) -> Option<&str> {
    secret.map(Secret::expose)
}

fn later(status: u16, header: &'static str, value: &str) -> Response<Vec<u8>> {
    with_header(response(status, ""), header, value)
}

fn challenge(nonce: &str) -> Response<Vec<u8>> {
    with_header(
        response(400, r#"{"error":"use_dpop_nonce"}"#),
        "dpop-nonce",
        nonce,
    )
}

fn why(error: &Error) -> &InvalidResponseKind {
    match error {
        Error::Response(bad) => bad.kind(),
        other => panic!("{other}"),
    }
}

#[test]
fn client_credentials_bring_a_token_bound_to_the_key() {
    let mut world = World::with(Peer::bound());
    let token = world.token(client_credentials()).unwrap();
    assert_eq!(token.access_token().expose(), "access-1");
    assert_eq!(token.token_type(), &TokenType::Dpop);
    assert_eq!(token.key(), Some(world.key.public()));
    assert_eq!(
        token.expires_at(),
        Some(START.saturating_add(Duration::from_secs(3600)))
    );
    assert_eq!(world.peer.requests.len(), 1);
}

#[test]
fn without_a_key_there_is_no_proof_and_the_token_is_bound_to_none() {
    let mut world = World::with(Peer::bearer());
    let token = world.token(client_credentials()).unwrap();
    assert_eq!(
        (token.token_type(), token.key()),
        (&TokenType::Bearer, None)
    );
    assert!(!world.peer.requests[0].headers.contains_key("dpop"));
    assert!(!world.peer.requests[0].headers.contains_key(AUTHORIZATION));
}

#[test]
fn a_rotated_refresh_token_replaces_the_old_one_and_an_absent_or_null_one_keeps_it() {
    for (rotates, member, expected) in [
        (true, None, "refresh-2"),
        (false, Some(json!(null)), "refresh-1"),
        (false, Some(json!("")), "refresh-1"),
        (false, None, "refresh-1"),
    ] {
        for peer in [Peer::bound(), Peer::bearer()] {
            let mut world = World::with(peer);
            world.peer.rotates_refresh_tokens = rotates;
            let first = world.token(client_credentials()).unwrap();
            if let Some(member) = member.clone() {
                world
                    .peer
                    .token_members
                    .insert("refresh_token".into(), member);
            }
            let second = world.token(refresh(&first)).unwrap();
            assert_eq!(second.access_token().expose(), "access-2");
            assert_eq!(exposed(second.refresh_token()), Some(expected));
        }
    }
    let mut silent = World::scripted(Peer::bearer(), [response(200, r#"{"access_token":"a"}"#)]);
    let token = silent
        .token(Grant::refresh_token(Secret::new("old")).unwrap())
        .unwrap();
    assert_eq!(exposed(token.refresh_token()), Some("old"));
}

#[test]
fn an_unknown_refresh_token_means_reauthenticate() {
    let mut world = World::with(Peer::bound());
    let error = world
        .token(Grant::refresh_token(Secret::new("stolen")).unwrap())
        .unwrap_err();
    assert_eq!(error.retry(), Retry::Reauthenticate);
    assert_eq!(world.peer.requests.len(), 1);
}

#[test]
fn a_revocation_succeeds_by_200_and_by_204_with_and_without_a_proof() {
    for status in [200, 204] {
        for peer in [Peer::bound(), Peer::bearer()] {
            let mut world = World::with(peer);
            world.peer.revocation_status = status;
            let hint = Some(TokenTypeHint::RefreshToken);
            let operation = world
                .client()
                .revoke(Secret::new("refresh-1"), hint)
                .unwrap();
            world.run(operation).unwrap();
            let params = &world.peer.requests[0].params;
            assert_eq!(
                (params["token"].as_str(), params["token_type_hint"].as_str()),
                ("refresh-1", "refresh_token")
            );
        }
    }
}

#[test]
fn a_revocation_that_says_error_in_a_200_is_refused() {
    let answer = response(200, r#"{"error":"unsupported_token_type"}"#);
    let mut world = World::scripted(Peer::bearer(), [answer]);
    let operation = world.client().revoke(Secret::new("t"), None).unwrap();
    let Err(Error::Server(error)) = world.run(operation) else {
        panic!("no refusal")
    };
    assert_eq!(error.code(), Some("unsupported_token_type"));
}

#[test]
fn a_nonce_challenge_of_any_shape_causes_a_retry_with_its_nonce() {
    let shapes = [
        AT_THE_TOKEN_ENDPOINT,
        Challenge {
            status: 401,
            fields: &[r#"DPoP realm="as""#],
            ..AT_THE_TOKEN_ENDPOINT
        },
        Challenge {
            status: 401,
            ..AT_THE_TOKEN_ENDPOINT
        },
        Challenge {
            status: 400,
            fields: &[r#"DPoP algs="ES256", error="use_dpop_nonce""#],
            body: "",
        },
        Challenge {
            status: 401,
            fields: &[r#"Bearer, DPoP algs="ES256", error=use_dpop_nonce"#],
            body: "",
        },
        Challenge {
            status: 401,
            fields: &["Bearer", r#"dPoP error="use_dpop_nonce""#],
            body: "<html>",
        },
    ];
    for shape in shapes {
        let mut world = World::with(Peer::bound());
        world.peer.authorization_server.asks = Asks::Always;
        world.peer.authorization_server.challenge = shape;
        world.token(client_credentials()).unwrap();
        assert_eq!(
            world.nonces_seen(),
            [None, Some("as-1")],
            "{:?}",
            shape.fields
        );
        world.token(client_credentials()).unwrap();
        assert_eq!(
            world.peer.requests.len(),
            3,
            "the next token costs one request"
        );
        assert!(world.waits.is_empty());
    }
}

#[test]
fn a_second_nonce_challenge_causes_no_retry_but_its_nonce_is_stored() {
    let mut world = World::with(Peer::bound());
    world.peer.authorization_server.asks = Asks::Insatiably;
    let Err(Error::Server(error)) = world.token(client_credentials()) else {
        panic!("no refusal")
    };
    assert_eq!(error.nonce().map(|nonce| nonce.as_str()), Some("as-2"));
    assert_eq!(world.nonces_seen(), [None, Some("as-1")]);
    world.peer.authorization_server.asks = Asks::Always;
    world.token(client_credentials()).unwrap();
    assert_eq!(world.nonces_seen()[2..], [Some("as-2")]);
}

#[test]
fn a_challenge_with_the_same_nonce_causes_no_retry() {
    let mut world = World::with(Peer::bound());
    world.peer.authorization_server.asks = Asks::Always;
    world.token(client_credentials()).unwrap();
    world.peer.authorization_server.asks = Asks::Stubbornly;
    assert!(world.token(client_credentials()).is_err());
    assert_eq!(world.nonces_seen(), [None, Some("as-1"), Some("as-1")]);
}

#[test]
fn a_challenge_without_a_nonce_causes_no_retry() {
    let mut world = World::scripted(
        Peer::bound(),
        [response(400, r#"{"error":"use_dpop_nonce"}"#)],
    );
    assert!(world.token(client_credentials()).is_err());
    assert_eq!(world.peer.requests.len(), 1);
}

#[test]
fn a_client_without_a_key_does_not_retry_for_a_nonce() {
    let mut world = World::scripted(Peer::bearer(), [challenge("n")]);
    assert!(world.token(client_credentials()).is_err());
    assert_eq!(world.peer.requests.len(), 1);
}

#[test]
fn a_nonce_of_a_success_is_in_the_next_request() {
    let mut world = World::with(Peer::bound());
    world.peer.authorization_server.asks = Asks::Rotating;
    for _ in 0..3 {
        world.token(client_credentials()).unwrap();
    }
    assert_eq!(
        world.nonces_seen(),
        [None, Some("as-1"), Some("as-2"), Some("as-3")]
    );
}

#[test]
fn a_nonce_of_a_failure_is_in_the_retry() {
    let refusal = with_header(later(503, "retry-after", "1"), "dpop-nonce", "as-of-503");
    let mut world = World::scripted(Peer::bound(), [refusal]);
    world.token(client_credentials()).unwrap();
    assert_eq!(world.nonces_seen(), [None, Some("as-of-503")]);
}

#[test]
fn a_refresh_is_retried_with_the_nonce_of_the_challenge() {
    let mut world = World::with(Peer::bound());
    let first = world.token(client_credentials()).unwrap();
    world.peer.authorization_server.asks = Asks::Always;
    assert_eq!(
        world
            .token(refresh(&first))
            .unwrap()
            .access_token()
            .expose(),
        "access-2"
    );
    assert_eq!(world.nonces_seen(), [None, None, Some("as-1")]);
}

#[test]
fn every_send_has_a_jti_of_its_own_and_the_time_at_which_it_goes_out() {
    let delays = [
        later(429, "retry-after", "20"),
        later(503, "retry-after-ms", "7000"),
    ];
    let mut world = World::scripted(Peer::bound(), delays);
    world.token(client_credentials()).unwrap();
    let requests = &world.peer.requests;
    assert_eq!(
        requests
            .iter()
            .map(|request| request.iat.unwrap() - START.as_secs())
            .collect::<Vec<_>>(),
        [0, 20, 27]
    );
    // The peer itself refuses a jti that comes twice.
    assert!(requests.iter().all(|request| request.jti.is_some()));
}

#[test]
fn retry_after_is_honored_exactly_in_all_its_forms() {
    for status in [429, 502, 503, 504] {
        for (header, value, wait) in [
            ("retry-after", "2", 2000),
            ("retry-after", "Tue, 14 Nov 2023 22:13:27 GMT", 7000),
            ("retry-after-ms", "250", 250),
            ("x-retry-in", "1500", 1500),
            ("x-retry-in", "1.5s", 1500),
        ] {
            let mut world = World::scripted(Peer::bound(), [later(status, header, value)]);
            world.token(client_credentials()).unwrap();
            assert_eq!(
                (world.waits, world.peer.requests.len()),
                (vec![millis(wait)], 2),
                "{status} {value}"
            );
        }
    }
}

#[test]
fn backoff_is_drawn_from_a_range_that_doubles_up_to_ten_seconds() {
    for (failures, ceiling) in [
        (1, 500),
        (2, 1000),
        (3, 2000),
        (4, 4000),
        (5, 8000),
        (6, 10_000),
    ] {
        let longest = (1..100)
            .map(|seed| last_backoff_after(failures, seed))
            .max()
            .unwrap();
        assert!(
            longest <= millis(ceiling) && longest > millis(ceiling * 4 / 5),
            "{failures}: {longest:?}"
        );
    }
}

/// The backoff after so many failures, with entropy of this seed.
fn last_backoff_after(failures: usize, seed: u128) -> Duration {
    let mut world = World::scripted(Peer::bearer(), (0..failures).map(|_| response(503, "")));
    world.drawn = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835);
    let operation = world.client().token(client_credentials()).unwrap();
    world
        .run(operation.max_attempts(9).timeout(Duration::from_secs(100)))
        .unwrap();
    world.waits.last().copied().unwrap_or_default()
}

#[test]
fn retries_are_bounded_by_max_attempts_and_nonce_challenges_do_not_count() {
    for (max_attempts, requests) in [(0, 1), (1, 1), (2, 2), (3, 3)] {
        let storm = (0..9).map(|_| later(503, "retry-after", "1"));
        let mut world = World::scripted(Peer::bound(), storm);
        let operation = world
            .client()
            .token(client_credentials())
            .unwrap()
            .max_attempts(max_attempts);
        let error = world.run(operation).unwrap_err();
        assert_eq!(error.retry(), Retry::Later(Some(Duration::from_secs(1))));
        assert_eq!(world.peer.requests.len(), requests);
    }
    let mut world = World::scripted(
        Peer::bound(),
        [challenge("n"), later(503, "retry-after", "1")],
    );
    let operation = world
        .client()
        .token(client_credentials())
        .unwrap()
        .max_attempts(2);
    world.run(operation).unwrap();
    assert_eq!(world.peer.requests.len(), 3);
}

#[test]
fn a_nonce_retry_has_no_backoff_even_after_one_that_had() {
    let mut world = World::scripted(
        Peer::bound(),
        [later(503, "retry-after", "1"), challenge("n")],
    );
    world.token(client_credentials()).unwrap();
    assert_eq!(
        (world.waits, world.peer.requests.len()),
        (vec![Duration::from_secs(1)], 3)
    );
}

#[test]
fn a_nonce_is_corrected_anew_after_a_delay() {
    let lost = || ScriptedResponse::NoResponse(Sent::Maybe);
    let busy = || ScriptedResponse::Response(later(503, "retry-after", "1"));
    let limited = || ScriptedResponse::Response(later(429, "retry-after", "1"));
    for delay in [lost, busy, limited] {
        // Without the delay, a second challenge is the end.
        let mut world = World::with(Peer::bound());
        for nonce in ["n-1", "n-2"] {
            let challenge = ScriptedResponse::Response(challenge(nonce));
            world.peer.script.extend([challenge, delay()]);
        }
        world.token(client_credentials()).unwrap();
        assert_eq!(
            world.nonces_seen(),
            [None, Some("n-1"), Some("n-1"), Some("n-2"), Some("n-2")]
        );
    }
}

#[test]
fn a_challenge_for_a_nonce_counts_before_the_code_of_the_body() {
    for body in [
        r#"{"error":"invalid_client"}"#,
        r#"{"error":"invalid_grant"}"#,
        r#"{"error":"invalid_dpop_proof"}"#,
        r#"{"message":"odd"}"#,
    ] {
        let refusal = with_header(response(401, body), "dpop-nonce", "n-1");
        let refusal = with_header(
            refusal,
            "www-authenticate",
            r#"DPoP error="use_dpop_nonce""#,
        );
        let mut world = World::scripted(Peer::bound(), [refusal]);
        world.token(client_credentials()).unwrap();
        assert_eq!(world.nonces_seen(), [None, Some("n-1")], "{body}");
    }
}

#[test]
fn a_429_with_a_nonce_is_retried_no_sooner_or_more_often_than_any_other() {
    let refusal = with_header(challenge("n-1"), "retry-after", "2");
    let limited = || {
        let mut refusal = refusal.clone();
        *refusal.status_mut() = http::StatusCode::TOO_MANY_REQUESTS;
        refusal
    };
    let mut world = World::scripted(Peer::bound(), (0..9).map(|_| limited()));
    assert!(world.token(client_credentials()).is_err());
    assert_eq!(world.waits, [Duration::from_secs(2); 3]);
    assert_eq!(world.peer.requests.len(), 4);
}

#[test]
fn no_backoff_is_begun_that_ends_after_the_timeout() {
    for (asked, timeout, retried) in [("30", 29, false), ("30", 30, true), ("30", 31, true)] {
        let mut world = World::scripted(Peer::bound(), [later(429, "retry-after", asked)]);
        let operation = world
            .client()
            .token(client_credentials())
            .unwrap()
            .timeout(Duration::from_secs(timeout));
        assert_eq!(
            world.run(operation).is_ok(),
            retried,
            "{asked} s within {timeout} s"
        );
    }
    // Counted from the first request, not from the last.
    let storm = (0..3).map(|_| later(503, "retry-after", "12"));
    let mut world = World::scripted(Peer::bound(), storm);
    assert!(world.token(client_credentials()).is_err());
    assert_eq!(world.waits, [Duration::from_secs(12); 2]);
}

/// What becomes of an exchange after one failure in passing.
#[derive(Debug, PartialEq, Eq)]
enum After {
    Repeated,
    GivenUp,
}

fn after_the_first<T: FromResponse + std::fmt::Debug>(
    mut world: World,
    operation: Result<Operation<T>, keybound_core::InvalidInput>,
) -> After {
    let outcome = world.run(operation.unwrap());
    match (outcome, world.peer.requests.len()) {
        (Ok(_), 2) => After::Repeated,
        (Err(_), 1) => After::GivenUp,
        (outcome, requests) => panic!("{requests} requests: {outcome:?}"),
    }
}

/// What the first request may end in.
#[derive(Clone, Copy, Debug)]
enum First {
    Status(u16),
    Lost(Sent),
}

impl First {
    const ALL: [Self; 8] = [
        Self::Status(429),
        Self::Status(503),
        Self::Lost(Sent::No),
        Self::Status(502),
        Self::Status(504),
        Self::Lost(Sent::Maybe),
        Self::Status(500),
        Self::Status(408),
    ];

    fn world(self, peer: Peer) -> World {
        match self {
            Self::Status(status) => World::scripted(peer, [response(status, "")]),
            Self::Lost(sent) => World::losing(peer, sent),
        }
    }
}

#[test]
fn idempotent_requests_are_retried_after_every_transient_failure() {
    for (at, first) in First::ALL.into_iter().enumerate() {
        let expected = if at < 6 {
            After::Repeated
        } else {
            After::GivenUp
        };
        let world = first.world(Peer::bound());
        let operation = world.client().token(client_credentials());
        assert_eq!(
            after_the_first(world, operation),
            expected,
            "token after {first:?}"
        );

        let world = first.world(Peer::bound());
        let operation = world.client().revoke(Secret::new("t"), None);
        assert_eq!(
            after_the_first(world, operation),
            expected,
            "revocation after {first:?}"
        );
    }
}

#[test]
fn a_single_use_grant_is_retried_only_where_it_was_certainly_not_consumed() {
    for (at, first) in First::ALL.into_iter().enumerate() {
        let grant = || Grant::refresh_token(Secret::new("refresh-1")).unwrap();
        let primed = || {
            let mut world = first.world(Peer::bound());
            let script = std::mem::take(&mut world.peer.script);
            world.token(client_credentials()).unwrap();
            world.peer.script = script;
            world.peer.requests.clear();
            world
        };
        let expected = if at < 3 {
            After::Repeated
        } else {
            After::GivenUp
        };
        let world = primed();
        let operation = world.client().token(grant());
        assert_eq!(
            after_the_first(world, operation),
            expected,
            "refresh after {first:?}"
        );

        let expected = if at < 6 {
            After::Repeated
        } else {
            After::GivenUp
        };
        let world = primed();
        let operation = world.client().token(grant().repeatable());
        assert_eq!(
            after_the_first(world, operation),
            expected,
            "repeatable refresh after {first:?}"
        );
    }
}

#[test]
fn a_relay_is_never_retried() {
    for first in First::ALL {
        // The proof is the browser's, so the relay itself is a bearer client.
        let world = first.world(Peer::bearer());
        let operation = Maker::new().relay();
        assert_eq!(
            after_the_first(world, operation),
            After::GivenUp,
            "{first:?}"
        );
    }
    let mut world = World::scripted(Peer::bearer(), [challenge("fresh")]);
    let error = world.run(Maker::new().relay().unwrap()).unwrap_err();
    assert_eq!(error.retry(), Retry::Later(None));
    let Error::Server(refusal) = error else {
        panic!("{error}")
    };
    assert_eq!(refusal.nonce().unwrap().as_str(), "fresh");
    assert_eq!(world.peer.requests.len(), 1);
}

#[test]
fn no_response_says_whether_the_request_may_have_been_sent() {
    for (sent, grant, retry) in [
        (
            Sent::Maybe,
            Grant::refresh_token(Secret::new("r")).unwrap(),
            Retry::No,
        ),
        (Sent::Maybe, client_credentials(), Retry::Later(None)),
        (
            Sent::No,
            Grant::refresh_token(Secret::new("r")).unwrap(),
            Retry::Later(None),
        ),
    ] {
        let mut world = World::losing(Peer::bearer(), sent);
        let operation = world.client().token(grant).unwrap().max_attempts(1);
        let error = world.run(operation).unwrap_err();
        assert_eq!(error.retry(), retry);
        let Error::NoResponse(lost) = error else {
            panic!("{error}")
        };
        assert_eq!(lost.sent(), sent);
    }
}

#[test]
fn a_5xx_or_429_does_not_invalidate_the_grant_whatever_its_body_says() {
    for status in [429, 500, 501, 502, 503, 504, 520] {
        let verdict = json_response(status, &json!({ "error": "invalid_grant" }));
        let mut world = World::scripted(Peer::bearer(), [verdict]);
        let grant = Grant::refresh_token(Secret::new("r")).unwrap();
        let operation = world.client().token(grant).unwrap().max_attempts(1);
        assert_eq!(
            world.run(operation).unwrap_err().retry(),
            Retry::Later(None),
            "{status}"
        );
    }
    let verdict = json_response(400, &json!({ "error": "invalid_grant" }));
    let mut world = World::scripted(Peer::bearer(), [verdict]);
    assert_eq!(
        world.token(client_credentials()).unwrap_err().retry(),
        Retry::Reauthenticate
    );
}

#[test]
fn a_5xx_with_use_dpop_nonce_is_a_transient_failure() {
    let confused = with_header(
        with_header(
            response(503, r#"{"error":"use_dpop_nonce"}"#),
            "retry-after",
            "3",
        ),
        "dpop-nonce",
        "n",
    );
    let mut world = World::scripted(Peer::bound(), [confused]);
    world.token(client_credentials()).unwrap();
    assert_eq!(world.waits, [Duration::from_secs(3)]);
}

#[test]
fn a_redirection_is_followed_nowhere() {
    for status in [301, 302, 303, 304, 307, 308] {
        let elsewhere = with_header(
            response(status, ""),
            "location",
            "https://evil.example/token",
        );
        let mut world = World::scripted(Peer::bound(), [elsewhere]);
        let error = world.token(client_credentials()).unwrap_err();
        assert_eq!(
            (why(&error), error.retry()),
            (&InvalidResponseKind::Redirect, Retry::No),
            "{status}"
        );
        assert_eq!(world.peer.requests.len(), 1);
    }
}

#[test]
fn a_body_over_the_limit_is_not_read() {
    let padded = |length: usize| {
        let token = r#"{"access_token":"a"}"#;
        response(200, &format!("{token}{}", " ".repeat(length - token.len())))
    };
    let mut world = World::scripted(Peer::bearer(), [padded(MAX_RESPONSE)]);
    assert!(world.token(client_credentials()).is_ok());
    let mut world = World::scripted(Peer::bearer(), [padded(MAX_RESPONSE + 1)]);
    assert_eq!(
        why(&world.token(client_credentials()).unwrap_err()),
        &InvalidResponseKind::TooLarge
    );
}

#[test]
fn a_gateways_page_over_the_limit_hides_neither_its_status_nor_its_retry_after() {
    let page = with_header(
        response(503, &"x".repeat(MAX_RESPONSE + 1)),
        "retry-after",
        "1",
    );
    let mut world = World::scripted(Peer::bound(), [page]);
    world.token(client_credentials()).unwrap();
    assert_eq!(world.waits, [Duration::from_secs(1)]);
    let long = json!({ "error": "invalid_grant", "padding": "x".repeat(MAX_RESPONSE) });
    let Err(Error::Server(error)) =
        World::scripted(Peer::bound(), [json_response(400, &long)]).token(client_credentials())
    else {
        panic!("no refusal")
    };
    assert_eq!((error.status().as_u16(), error.code()), (400, None));
}

#[test]
fn a_bearer_token_in_place_of_a_bound_one_is_refused_unless_it_was_allowed() {
    for (named, bound) in [
        (json!("DPoP"), true),
        (json!("dPoP"), true),
        (json!("DPOP"), true),
        (json!("bearer"), false),
        (json!("Bearer"), false),
        (json!("opaque"), false),
        (json!(""), false),
        (json!(null), false),
    ] {
        let mut world = World::with(Peer::bound());
        world
            .peer
            .token_members
            .insert("token_type".into(), named.clone());
        let strict = world.token(client_credentials());
        let operation = world
            .client()
            .accept_bearer()
            .token(client_credentials())
            .unwrap();
        let lenient = world.run(operation).unwrap();
        assert_eq!(lenient.key().is_some(), bound, "{named}");
        match strict {
            Ok(token) => assert!(bound && token.key() == Some(world.key.public()), "{named}"),
            Err(error) => assert!(
                !bound && why(&error) == &InvalidResponseKind::NotBound,
                "{named}: {error}"
            ),
        }
    }
}

#[test]
fn a_token_that_is_neither_bound_nor_a_bearers_is_never_taken_for_one() {
    let mut world = World::with(Peer::bound());
    for named in ["mac", "N_A"] {
        world
            .peer
            .token_members
            .insert("token_type".into(), json!(named));
        let operation = world
            .client()
            .accept_bearer()
            .token(client_credentials())
            .unwrap();
        assert_eq!(
            why(&world.run(operation).unwrap_err()),
            &InvalidResponseKind::NotBound
        );
    }
}

#[test]
fn a_refusal_is_understood_whatever_its_message_is_written_in() {
    let latin1 = b"{\"error\":\"invalid_grant\",\"error_description\":\"Ung\xfcltig\"}".to_vec();
    let marked = b"\xef\xbb\xbf{\"error\":\"invalid_grant\"}".to_vec();
    for body in [latin1, marked] {
        let answer = Response::builder().status(400).body(body).unwrap();
        let mut world = World::scripted(Peer::bearer(), [answer]);
        assert_eq!(
            world.token(client_credentials()).unwrap_err().retry(),
            Retry::Reauthenticate
        );
    }
}

#[test]
fn an_error_says_whose_it_is() {
    let mut world = World::scripted(
        Peer::bearer(),
        [json_response(400, &json!({ "error": "invalid_scope" }))],
    );
    let error = world.token(client_credentials()).unwrap_err();
    assert_eq!(error.to_string(), "as.example refused: 400 invalid_scope");
    let mut world = World::scripted(Peer::bearer(), [response(200, "<html>")]);
    let error = world.token(client_credentials()).unwrap_err().to_string();
    assert!(
        error.starts_with("invalid response from as.example (200): "),
        "{error}"
    );
    let discovery = keybound_core::Issuer::https("https://as.example/t")
        .unwrap()
        .discover()
        .unwrap();
    let error = world.run(discovery).map(drop).unwrap_err().to_string();
    let last = "as.example/.well-known/openid-configuration/t";
    assert!(
        error.starts_with(&format!("{last} refused: 404")),
        "{error}"
    );
    let resource = format!("https://rs.example/{}?key=planted", "x".repeat(1000));
    let error = world
        .run(keybound_core::ProtectedResource::discover(&resource).unwrap())
        .map(drop);
    let error = error.unwrap_err().to_string();
    assert!(
        error.starts_with("rs.example/.well-known/") && error.len() < 400,
        "{error}"
    );
    assert!(!error.contains("planted"), "{error}");
}

#[test]
fn error_codes_that_need_a_new_login_mean_reauthenticate() {
    for (code, retry) in [
        ("expired_token", Retry::Reauthenticate),
        ("interaction_required", Retry::Reauthenticate),
        ("login_required", Retry::Reauthenticate),
        ("consent_required", Retry::Reauthenticate),
        ("access_denied", Retry::No),
        ("invalid_scope", Retry::No),
    ] {
        let answer = json_response(400, &json!({ "error": code }));
        let mut world = World::scripted(Peer::bearer(), [answer]);
        assert_eq!(
            world.token(client_credentials()).unwrap_err().retry(),
            retry,
            "{code}"
        );
    }
}

/// RFC 8693 §2.2.1
#[test]
fn an_issued_token_that_is_no_access_token_need_not_be_bound() {
    let mut world = World::with(Peer::bound());
    let issued = |kind: &str| json!(format!("urn:ietf:params:oauth:token-type:{kind}"));
    world
        .peer
        .token_members
        .insert("token_type".into(), json!("N_A"));
    world
        .peer
        .token_members
        .insert("issued_token_type".into(), issued("id_token"));
    let token = world.token(client_credentials()).unwrap();
    assert!(token.key().is_none());
    let resource = "https://rs.example/".parse().unwrap();
    assert!(
        token.authorize(&http::Method::GET, &resource).is_err(),
        "it is shown to no resource"
    );
    world
        .peer
        .token_members
        .insert("issued_token_type".into(), issued("access_token"));
    assert_eq!(
        why(&world.token(client_credentials()).unwrap_err()),
        &InvalidResponseKind::NotBound
    );
}

/// Any answer that a server, a gateway or an attacker may give.
fn any_answer() -> impl Strategy<Value = Response<Vec<u8>>> {
    const STATUSES: &[u16] = &[
        200, 204, 301, 400, 401, 403, 408, 422, 425, 429, 500, 502, 503, 504,
    ];
    const WAITS: &[&str] = &["0", "1", "9", "1e9", "soon", "99999999999999999999"];
    let status = prop::sample::select(STATUSES);
    let code = prop::sample::select(vec![
        "use_dpop_nonce",
        "invalid_grant",
        "server_error",
        "odd words",
    ]);
    let body = prop_oneof![
        code.clone()
            .prop_map(|code| json!({ "error": code }).to_string()),
        code.prop_map(|code| json!({ "error": { "code": code }, "access_token": 7 }).to_string()),
        "[ -~]{0,20}",
    ];
    let nonce = prop::option::of("[!#-Z]{1,3}");
    let wait = prop::option::of(prop::sample::select(WAITS));
    (status, body, nonce, wait).prop_map(|(status, body, nonce, wait)| {
        let mut answer = response(status, &body);
        if let Some(nonce) = nonce {
            answer = with_header(answer, "dpop-nonce", &nonce);
        }
        if let Some(wait) = wait {
            answer = with_header(answer, "retry-after", wait);
        }
        answer
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_operation_ends_within_its_timeout_and_max_attempts_whatever_the_responses(
        answers in prop::collection::vec(any_answer(), 0..8),
        max_attempts in 1u8..5,
        refreshes: bool,
    ) {
        let mut world = World::scripted(Peer::bound(), answers);
        let refresh = Grant::refresh_token(Secret::new("r")).unwrap();
        let grant = if refreshes { refresh } else { client_credentials() };
        let operation = world.client().token(grant).unwrap().max_attempts(max_attempts);
        let _ = world.run(operation.timeout(Duration::from_secs(15)));
        // One more than the attempts, for a nonce.
        prop_assert!(world.peer.requests.len() <= usize::from(max_attempts) + 1);
        prop_assert!(world.now.saturating_since(START) <= Duration::from_secs(15));
    }
}
