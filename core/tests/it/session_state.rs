//! The stored state of a session: saved for the next process, adopted from another.

use std::time::Duration;

use keybound_core::driver::{RefreshFailure, SessionState, Ticket, TokenAction, TokenManager};
use keybound_core::jose::{Algorithm, SigningKey};
use keybound_core::{
    Client, Error, Grant, InvalidInput, RefreshPolicy, Secret, Sent, Token, UnixTime,
};
use serde_json::{Value, json};

use crate::peer::{Asks, Peer, ScriptedResponse, response, with_header};
use crate::world::{RESOURCE_URL, START, World};

/// A world whose tokens come with refresh tokens, and its first.
fn world() -> (World, Token) {
    let mut world = World::with(Peer::bound());
    world.peer.resource_server.asks = Asks::Rotating;
    world
        .peer
        .token_members
        .insert("refresh_token".into(), json!("refresh-1"));
    world
        .peer
        .token_members
        .insert("expires_in".into(), json!(100));
    world
        .peer
        .token_members
        .insert("id_token".into(), json!("id.to.ken"));
    let token = world.token(Grant::client_credentials()).unwrap();
    world.call(&token, RESOURCE_URL);
    (world, token)
}

fn json_of(state: &SessionState) -> Value {
    serde_json::from_slice(state.to_json().expose()).unwrap()
}

fn restore(json: &Value, client: &Client) -> Result<SessionState, InvalidInput> {
    SessionState::from_json(json.to_string().as_bytes(), client, START)
}

#[test]
fn a_token_comes_back_whole_and_still_authorizes() {
    let (mut world, token) = world();
    let state = SessionState::new(token.clone()).with_server_state(world.server_state.clone());
    let restored =
        SessionState::from_json(state.to_json().expose(), &world.client(), START).unwrap();
    let other = restored.token().unwrap().clone();
    assert_eq!(other.access_token().expose(), token.access_token().expose());
    assert_eq!(other.token_type(), token.token_type());
    assert_eq!(
        (other.received_at(), other.expires_at()),
        (token.received_at(), token.expires_at())
    );
    assert_eq!(other.refresh_token().map(Secret::expose), Some("refresh-1"));
    assert_eq!(other.scope(), token.scope());
    assert_eq!(
        other.extra("id_token").map(Secret::expose),
        Some("id.to.ken")
    );
    assert_eq!(
        other.key().unwrap().thumbprint(),
        token.key().unwrap().thumbprint()
    );
    assert_eq!(
        restored.server_state().to_json(),
        world.server_state.to_json()
    );
    assert_eq!(json_of(&restored), json_of(&state));
    // The peer verifies the proof, its `ath` included.
    world.peer.requests.clear();
    world.call(&other, RESOURCE_URL);
    assert_eq!(world.nonces_seen(), [Some("rs-2")]);
}

#[test]
fn nonces_that_are_too_old_are_left_out() {
    let (world, token) = world();
    let json = SessionState::new(token)
        .with_server_state(world.server_state.clone())
        .to_json();
    let later = START.saturating_add(Duration::from_secs(1));
    let restored = SessionState::from_json(json.expose(), &world.client(), later).unwrap();
    assert_eq!(restored.server_state().to_json(), "[]");
}

#[test]
fn an_invalid_session_state_is_refused_by_an_error_that_quotes_nothing() {
    let (world, token) = world();
    let good = json_of(&SessionState::new(token));
    let client = world.client();
    assert!(restore(&good, &client).is_ok());
    let with = |member: &str, value: Value| {
        let mut json = good.clone();
        json[member] = value;
        json
    };
    let with_token = |member: &str, value: Value| {
        let mut json = good.clone();
        json["token"][member] = value;
        json
    };
    for (bad, rule) in [
        (json!(null), "wrote"),
        (json!([]), "wrote"),
        (json!({}), "wrote"),
        (json!("access-1"), "wrote"),
        (with("version", json!(2)), "later keybound"),
        (with("version", json!("1")), "wrote"),
        (with("attempts_left", json!(-1)), "wrote"),
        (
            with(
                "server_state",
                json!([{ "origin": "http://evil.example/", "role": "ResourceServer", "nonce": "n", "last_seen": u64::MAX }]),
            ),
            "",
        ),
        (with_token("access_token", json!("line\nbreak")), "wrote"),
        (with_token("access_token", json!(7)), "wrote"),
        (with_token("jkt", json!(7)), "wrote"),
        (with_token("jkt", json!("x")), "this client's key"),
        (with_token("received_at", json!("today")), "wrote"),
    ] {
        let invalid = restore(&bad, &client).expect_err(&bad.to_string());
        assert!(invalid.rule().contains(rule), "{bad}: {invalid}");
        assert!(!invalid.to_string().contains("access-1"), "{invalid}");
    }
    for cut in 0..good.to_string().len() {
        assert!(
            SessionState::from_json(&good.to_string().as_bytes()[..cut], &client, START).is_err(),
            "{cut}"
        );
    }
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    for other in [
        client.clone().dpop(key.public().clone()),
        World::with(Peer::bearer()).client(),
    ] {
        assert!(
            restore(&good, &other)
                .unwrap_err()
                .rule()
                .contains("this client's key")
        );
    }
}

/// Has a resource refuse a token that was held before the call.
fn refuse(manager: &mut TokenManager, token: &Token) {
    let started = manager.generation();
    assert!(manager.token_rejected(token, &RESOURCE_URL.parse().unwrap(), started, START));
}

/// A token manager without a grant, and its ticket.
fn resumed(policy: RefreshPolicy) -> (TokenManager, Ticket) {
    let mut manager = TokenManager::new(policy, None);
    let TokenAction::Refresh(ticket) = manager.poll(START) else {
        panic!("it has no token")
    };
    (manager, ticket)
}

#[test]
fn a_fresh_token_stored_by_another_process_makes_a_refresh_needless() {
    let (_, token) = world();
    let policy = RefreshPolicy::default().refresh_before_expiry(Duration::from_secs(10));
    let at = |secs| START.saturating_add(Duration::from_secs(secs));
    for (secs, taken) in [(0, true), (89, true), (90, false), (100, false)] {
        let (mut manager, ticket) = resumed(policy);
        let got = manager.adopt(&ticket, SessionState::new(token.clone()), at(secs), 0);
        assert_eq!(got.is_some(), taken, "{secs}");
        // Its refresh token is the newest there is, in any case.
        assert_eq!(
            manager
                .snapshot()
                .unwrap()
                .token()
                .unwrap()
                .refresh_token()
                .map(Secret::expose),
            Some("refresh-1")
        );
    }
}

#[test]
fn a_rejected_token_is_not_adopted_again() {
    let (world, token) = world();
    let mut manager = TokenManager::new(RefreshPolicy::default(), None)
        .with_state(SessionState::new(token.clone()));
    refuse(&mut manager, &token);
    let TokenAction::Refresh(ticket) = manager.poll(START) else {
        panic!("it was refused")
    };
    let same = restore(&json_of(&SessionState::new(token)), &world.client()).unwrap();
    assert!(manager.adopt(&ticket, same, START, 0).is_none());
    let _ = manager.complete(ticket, Err(RefreshFailure::not_sent()), START, 0);
    assert!(!matches!(manager.poll(START), TokenAction::Use(..)));
}

#[test]
fn the_attempts_left_of_a_refresh_token_are_stored_for_the_next_process() {
    let (world, token) = world();
    let mut state = SessionState::new(token);
    let mut sends = 0;
    loop {
        let json = json_of(&state);
        let (mut manager, mut ticket) = resumed(RefreshPolicy::default());
        let expired = UnixTime::from_secs(START.as_secs() + 1000);
        assert!(
            manager
                .adopt(
                    &ticket,
                    restore(&json, &world.client()).unwrap(),
                    expired,
                    0
                )
                .is_none()
        );
        // Saved before it is sent; then the process dies.
        let Some(attempt) = manager.begin_refresh(&mut ticket) else {
            break;
        };
        state = attempt.checkpoint.unwrap();
        sends += 1;
    }
    assert_eq!(sends, 2);
}

#[test]
fn a_new_login_takes_precedence_over_the_stored_state_of_an_earlier_one() {
    let (_, token) = world();
    let code = Grant::extension("authorization_code")
        .unwrap()
        .param("code", "c")
        .unwrap();
    let mut manager = TokenManager::new(RefreshPolicy::default(), Some(code));
    let TokenAction::Refresh(mut ticket) = manager.poll(START) else {
        panic!("it has no token")
    };
    assert!(
        manager
            .adopt(&ticket, SessionState::new(token.clone()), START, 0)
            .is_none()
    );
    assert!(!manager.is_repeatable());
    // Saved before the code is spent, to see that the storage works: the earlier login, of which nothing is lost yet.
    let checkpoint = manager
        .begin_refresh(&mut ticket)
        .unwrap()
        .checkpoint
        .unwrap();
    assert_eq!(
        json_of(&checkpoint),
        json_of(&SessionState::new(token.clone()))
    );
    assert!(manager.complete(ticket, Ok(token.clone()), START, 0));
    // From now on, refresh tokens.
    refuse(&mut manager, &token);
    let TokenAction::Refresh(mut ticket) = manager.poll(START) else {
        panic!("it was refused")
    };
    assert!(
        manager
            .begin_refresh(&mut ticket)
            .unwrap()
            .checkpoint
            .is_some()
    );
}

#[test]
fn an_unsaved_state_is_not_replaced_by_the_stored_one() {
    let (mut world, old) = world();
    world
        .peer
        .token_members
        .insert("refresh_token".into(), json!("refresh-2"));
    let new = world.token(Grant::client_credentials()).unwrap();
    let mut manager = TokenManager::new(RefreshPolicy::default(), None)
        .with_state(SessionState::new(new.clone()));
    manager.mark_given();
    refuse(&mut manager, &new);
    let TokenAction::Refresh(ticket) = manager.poll(START) else {
        panic!("it was refused")
    };
    assert!(
        manager
            .adopt(&ticket, SessionState::new(old), START, 0)
            .is_none()
    );
    assert_eq!(
        manager
            .snapshot()
            .unwrap()
            .token()
            .unwrap()
            .refresh_token()
            .map(Secret::expose),
        Some("refresh-2")
    );
}

/// A token with these members in place of the first one's.
fn another(world: &mut World, members: &[(&str, Value)]) -> Token {
    world.peer.token_members.extend(
        members
            .iter()
            .map(|(name, value)| ((*name).into(), value.clone())),
    );
    world.token(Grant::client_credentials()).unwrap()
}

#[test]
fn a_token_replaced_by_a_refresh_is_not_adopted_again_but_a_newer_one_is() {
    let (mut world, old) = world();
    let new = another(&mut world, &[("refresh_token", json!("refresh-2"))]);
    let theirs = another(&mut world, &[("refresh_token", json!("refresh-3"))]);
    let later = START.saturating_add(Duration::from_secs(1000));
    let (mut manager, ticket) = resumed(RefreshPolicy::default());
    assert!(
        manager
            .adopt(&ticket, SessionState::new(old.clone()), later, 0)
            .is_none()
    );
    assert!(manager.complete(ticket, Ok(new), later, 0));
    // It was saved under a lease that had lapsed, and is overwritten by what the next holder had found.
    for (stored, goes_on_with) in [
        (old.clone(), "refresh-2"),
        (old, "refresh-2"),
        (theirs, "refresh-3"),
    ] {
        let evenlater = later.saturating_add(Duration::from_secs(1000));
        let TokenAction::Refresh(ticket) = manager.poll(evenlater) else {
            panic!("it has expired")
        };
        assert!(
            manager
                .adopt(&ticket, SessionState::new(stored), evenlater, 0)
                .is_none()
        );
        let _ = manager.complete(ticket, Err(RefreshFailure::not_sent()), later, 0);
        let held = manager.snapshot().unwrap();
        assert_eq!(
            held.token().unwrap().refresh_token().map(Secret::expose),
            Some(goes_on_with)
        );
        assert_eq!(json_of(&held)["attempts_left"], 2);
    }
}

#[test]
fn an_expired_stored_token_does_not_replace_a_valid_one() {
    let (mut world, expired) = world();
    let good = another(&mut world, &[("expires_in", json!(10_000))]);
    let at = |secs| START.saturating_add(Duration::from_secs(secs));
    let mut manager =
        TokenManager::new(RefreshPolicy::default(), Some(Grant::client_credentials()));
    let TokenAction::Refresh(ticket) = manager.poll(START) else {
        panic!("it has no token")
    };
    // Without the storage, which comes back later, with what it had.
    assert!(manager.complete(ticket, Ok(good), START, 0));
    let TokenAction::Use(_, Some(ticket)) = manager.poll(at(9_990)) else {
        panic!("it is to be refreshed")
    };
    assert!(
        manager
            .adopt(&ticket, SessionState::new(expired), at(9_990), 0)
            .is_none()
    );
    assert!(
        matches!(manager.poll(at(9_991)), TokenAction::Use(_, None)),
        "no caller waits for the refresh"
    );
}

/// The stored state of a session that began with this token and was refreshed so often, as the next process restores it.
fn state_after(world: &mut World, first: &Token, refreshes: usize) -> (SessionState, Vec<Token>) {
    let later = START.saturating_add(Duration::from_secs(1000));
    let mut manager = TokenManager::new(RefreshPolicy::default(), None)
        .with_state(SessionState::new(first.clone()));
    let mut tokens = vec![first.clone()];
    for number in 0..refreshes {
        let TokenAction::Refresh(ticket) = manager.poll(later) else {
            panic!("it has expired")
        };
        let (access, refresh) = (format!("access-{number}+"), format!("refresh-{number}+"));
        let new = another(
            world,
            &[
                ("access_token", json!(access)),
                ("refresh_token", json!(refresh)),
            ],
        );
        assert!(manager.complete(ticket, Ok(new.clone()), later, 0));
        tokens.push(new);
    }
    (
        restore(&json_of(&manager.snapshot().unwrap()), &world.client()).unwrap(),
        tokens,
    )
}

fn refresh_token(manager: &TokenManager) -> String {
    manager
        .snapshot()
        .unwrap()
        .token()
        .unwrap()
        .refresh_token()
        .unwrap()
        .expose()
        .to_owned()
}

#[test]
fn a_given_token_replaces_the_stored_one_unless_that_descends_from_it() {
    let (mut world, first) = world();
    let (state, tokens) = state_after(&mut world, &first, 30);
    let stranger = another(
        &mut world,
        &[
            ("access_token", json!("new")),
            ("refresh_token", json!("new")),
        ],
    );
    // The first is never forgotten; of the others the latest are known.
    let known = tokens.iter().take(1).chain(&tokens[16..30]);
    let cases = known
        .map(|token| (token, "refresh-29+"))
        .chain([(&stranger, "new")]);
    for (given, goes_on_with) in cases {
        let mut manager = TokenManager::new(RefreshPolicy::default(), None)
            .with_state(SessionState::new(given.clone()));
        manager.mark_given();
        assert!(manager.overrides_stored());
        let later = START.saturating_add(Duration::from_secs(1000));
        let TokenAction::Refresh(ticket) = manager.poll(later) else {
            panic!("it has expired")
        };
        assert!(manager.adopt(&ticket, state.clone(), later, 0).is_none());
        assert_eq!(refresh_token(&manager), goes_on_with);
        assert_eq!(manager.unsaved().is_some(), goes_on_with == "new");
    }
}

#[test]
fn a_refresh_token_given_as_a_grant_is_not_sent_where_the_stored_one_descends_from_it() {
    let (mut world, first) = world();
    let later = START.saturating_add(Duration::from_secs(1000));
    for refreshes in [0, 1, 3] {
        let (state, _) = state_after(&mut world, &first, refreshes);
        for (given, is_known) in [("refresh-1", true), ("another", false)] {
            let grant = Grant::refresh_token(Secret::new(given)).unwrap();
            let mut manager = TokenManager::new(RefreshPolicy::default(), Some(grant));
            let TokenAction::Refresh(mut ticket) = manager.poll(later) else {
                panic!("it has no token")
            };
            assert!(manager.adopt(&ticket, state.clone(), later, 0).is_none());
            let attempt = manager.begin_refresh(&mut ticket).unwrap();
            assert_eq!(manager.overrides_stored(), !is_known);
            // The stored state is saved unchanged, until the other has been redeemed.
            let checkpoint = json_of(&attempt.checkpoint.unwrap());
            assert_eq!(checkpoint["attempts_left"], if is_known { 1 } else { 2 });
            assert_eq!(checkpoint["token"], json_of(&state)["token"]);
            if !is_known {
                let token = another(&mut world, &[("refresh_token", json!("another+"))]);
                let expected = json_of(&manager.snapshot_with(token.clone()));
                assert!(manager.complete(ticket, Ok(token), later, 0));
                assert_eq!(json_of(&manager.snapshot().unwrap()), expected);
                assert_eq!(expected["descends_from"].as_array().unwrap().len(), 1);
            }
        }
    }
}

#[test]
fn a_state_is_unsaved_until_this_very_state_was_saved() {
    let (mut world, first) = world();
    let later = START.saturating_add(Duration::from_secs(1000));
    let mut manager =
        TokenManager::new(RefreshPolicy::default(), None).with_state(SessionState::new(first));
    assert!(manager.unsaved().is_none());
    let TokenAction::Refresh(mut ticket) = manager.poll(later) else {
        panic!("it has expired")
    };
    let checkpoint = manager
        .begin_refresh(&mut ticket)
        .unwrap()
        .checkpoint
        .unwrap();
    manager.saved(&checkpoint);
    assert!(manager.complete(ticket, Err(RefreshFailure::not_sent()), later, 0));
    // The storage has it with a send less than there are.
    let unsaved = manager.unsaved().unwrap();
    assert_eq!(
        (
            json_of(&checkpoint)["attempts_left"].clone(),
            json_of(&unsaved)["attempts_left"].clone()
        ),
        (json!(1), json!(2))
    );
    manager.saved(&checkpoint);
    assert!(manager.unsaved().is_some());
    manager.saved(&unsaved);
    assert!(manager.unsaved().is_none());

    // What was not sent after all leaves nothing to be saved.
    let evenlater = later.saturating_add(Duration::from_secs(1000));
    let TokenAction::Refresh(mut ticket) = manager.poll(evenlater) else {
        panic!("it has expired")
    };
    assert!(manager.begin_refresh(&mut ticket).is_some());
    manager.withdraw(&mut ticket);
    assert!(manager.complete(ticket, Err(RefreshFailure::not_sent()), evenlater, 0));
    assert!(manager.unsaved().is_none());

    // A token that could not be saved is handed out with a ticket, by which it is saved, and is not refreshed for that.
    let evenlater = evenlater.saturating_add(Duration::from_secs(1000));
    let TokenAction::Refresh(ticket) = manager.poll(evenlater) else {
        panic!("it has expired")
    };
    let new = another(
        &mut world,
        &[
            ("expires_in", json!(10_000)),
            ("access_token", json!("new")),
        ],
    );
    assert!(manager.complete(ticket, Ok(new.clone()), evenlater, 0));
    assert!(matches!(manager.poll(START), TokenAction::Use(_, None)));
    manager.save_failed(START.saturating_sub(Duration::from_secs(1)));
    let TokenAction::Use(_, Some(ticket)) = manager.poll(START) else {
        panic!("it is to be saved")
    };
    assert!(
        matches!(manager.poll(START), TokenAction::Use(_, None)),
        "by one caller"
    );
    let good = manager.valid_token(START).unwrap();
    manager.saved(&manager.unsaved().unwrap());
    assert!(manager.complete(ticket, Ok(good), START, 0));
    assert!(matches!(manager.poll(START), TokenAction::Use(_, None)));
}

#[test]
fn the_fingerprint_of_a_session_depends_on_all_that_it_is_for_and_on_no_order() {
    use keybound_core::{ClientAuth, Endpoint, Issuer, Scope};
    let key = SigningKey::generate(Algorithm::Es256)
        .unwrap()
        .public()
        .clone();
    let at = |url: &str, auth: ClientAuth| Client::new(Endpoint::https(url).unwrap(), auth);
    let none = |id: &str| ClientAuth::none(id).unwrap();
    let basic = |id: &str, secret: &str| ClientAuth::basic(id, Secret::new(secret)).unwrap();
    let url = "https://as.example/token";
    let issuer = |issuer: &str| at(url, none("a")).issuer(Issuer::https(issuer).unwrap());
    let scope = |text: &str| Some(Scope::new(text).unwrap());
    let (x, y) = ("https://x.example/", "https://y.example/");
    let prints = [
        at(url, none("a")).session_fingerprint(None, []),
        at(url, none("b")).session_fingerprint(None, []),
        at("https://as.example/token2", none("a")).session_fingerprint(None, []),
        at("https://other.example/token", none("a")).session_fingerprint(None, []),
        issuer("https://as.example").session_fingerprint(None, []),
        issuer("https://other.example").session_fingerprint(None, []),
        at(url, none("a"))
            .dpop(key.clone())
            .session_fingerprint(None, []),
        at(url, none("a")).session_fingerprint(scope("read").as_ref(), []),
        at(url, none("a")).session_fingerprint(scope("read write").as_ref(), []),
        at(url, none("a")).session_fingerprint(None, [x]),
        at(url, none("a")).session_fingerprint(None, [x, y]),
        at(url, none("a")).session_fingerprint(scope("read").as_ref(), [x]),
    ];
    assert!(
        prints
            .iter()
            .all(|print| print.len() == 16 && print.bytes().all(|byte| byte.is_ascii_hexdigit()))
    );
    let different: std::collections::BTreeSet<&String> = prints.iter().collect();
    assert_eq!(different.len(), prints.len());
    assert_eq!(
        at(url, none("a")).session_fingerprint(scope("write read read").as_ref(), []),
        prints[8]
    );
    assert_eq!(
        at(url, none("a")).session_fingerprint(None, [y, x, y]),
        prints[10]
    );
    // A new secret, or for a client that has one a new key, is no other client.
    let confidential = at(url, basic("a", "1")).session_fingerprint(None, []);
    assert_eq!(
        at(url, basic("a", "2")).session_fingerprint(None, []),
        confidential
    );
    assert_eq!(
        at(url, basic("a", "1"))
            .dpop(key)
            .session_fingerprint(None, []),
        confidential
    );
    // It is written into names, and never changes.
    assert_eq!(confidential, FINGERPRINT);
}

/// SHA-256 of `1:24:https://as.example/token1:1:a0:0:0:`, its first eight bytes.
const FINGERPRINT: &str = "b8924fdc8c48d05c";

/// What a refresh ends in when it gets this answer for ever.
fn failed(answer: impl Fn() -> ScriptedResponse) -> Error {
    let (mut world, _) = world();
    world.peer.script.extend((0..9).map(|_| answer()));
    world
        .token(Grant::refresh_token(Secret::new("refresh-1")).unwrap())
        .unwrap_err()
}

#[test]
fn attempts_left_and_backoff_after_each_kind_of_refresh_failure() {
    let refusal =
        |status, body: &'static str| move || ScriptedResponse::Response(response(status, body));
    let busy = |wait: &'static str| {
        move || ScriptedResponse::Response(with_header(response(429, ""), "retry-after", wait))
    };
    let backoff = Duration::from_secs(1);
    for (error, attempts_left, expected) in [
        (
            failed(refusal(400, r#"{"error":"invalid_grant"}"#)),
            0,
            backoff,
        ),
        (
            failed(refusal(401, r#"{"error":"invalid_client"}"#)),
            2,
            backoff,
        ),
        (
            failed(refusal(400, r#"{"error":"invalid_request"}"#)),
            2,
            backoff,
        ),
        (
            failed(refusal(503, r#"{"error":"invalid_grant"}"#)),
            2,
            backoff,
        ),
        (
            failed(refusal(500, r#"{"error":"invalid_grant"}"#)),
            2,
            backoff,
        ),
        (failed(refusal(502, "<html>")), 2, backoff),
        (failed(refusal(200, "<html>")), 2, backoff),
        (failed(refusal(302, "")), 2, backoff),
        (
            failed(|| ScriptedResponse::NoResponse(Sent::No)),
            2,
            backoff,
        ),
        (
            failed(|| ScriptedResponse::NoResponse(Sent::Maybe)),
            2,
            backoff,
        ),
        (failed(busy("40")), 2, Duration::from_secs(40)),
        (failed(busy("86400")), 2, Duration::from_secs(300)),
    ] {
        let (_, token) = world();
        let later = START.saturating_add(Duration::from_secs(1000));
        let mut manager =
            TokenManager::new(RefreshPolicy::default(), None).with_state(SessionState::new(token));
        let TokenAction::Refresh(mut ticket) = manager.poll(later) else {
            panic!("it has expired")
        };
        assert!(manager.begin_refresh(&mut ticket).is_some());
        assert!(manager.complete(ticket, Err(RefreshFailure::from_error(&error)), later, 0));
        assert_eq!(
            json_of(&manager.snapshot().unwrap())["attempts_left"],
            attempts_left,
            "{error}"
        );
        let TokenAction::BackOffUntil(until) = manager.poll(later) else {
            panic!("{error}")
        };
        assert_eq!(until.saturating_since(later), expected, "{error}");
    }
}

#[test]
fn after_a_log_out_nothing_is_left_and_a_late_refresh_is_dropped() {
    let (_, token) = world();
    let later = START.saturating_add(Duration::from_secs(1000));
    for grant in [None, Some(Grant::client_credentials())] {
        let mut manager = TokenManager::new(RefreshPolicy::default(), grant)
            .with_state(SessionState::new(token.clone()));
        let TokenAction::Refresh(mut ticket) = manager.poll(later) else {
            panic!("it has expired")
        };
        assert!(manager.begin_refresh(&mut ticket).is_some());
        assert!(manager.clear().is_some());
        let _ = manager.complete(ticket, Ok(token.clone()), later, 0);
        assert!(manager.snapshot().is_none());
        let TokenAction::Refresh(mut ticket) = manager.poll(later) else {
            panic!("it holds nothing")
        };
        assert!(manager.begin_refresh(&mut ticket).is_none());
    }
}
