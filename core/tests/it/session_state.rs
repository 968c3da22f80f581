//! The stored state of a session: saved for the next process, adopted from another.

use std::time::Duration;

use keybound_core::driver::{
    Awaiting, PreparedRequest, Refresh, SessionConfig, SessionId, SessionState, Shared, Step,
};
use keybound_core::jose::{Algorithm, SigningKey};
use keybound_core::{Client, Error, Grant, InvalidInput, RefreshPolicy, Secret, Sent, Token};
use serde_json::{Value, json};

use crate::peer::{Asks, Peer, ScriptedResponse, json_response, response, with_header};
use crate::world::{Called, RESOURCE_URL, START, World};

/// A world whose tokens come with refresh tokens, and its first.
pub(crate) fn world() -> (World, Token) {
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

pub(crate) fn json_of(state: &SessionState) -> Value {
    serde_json::from_slice(state.to_json().expose()).unwrap()
}

fn restore(json: &Value, client: &Client) -> Result<SessionState, InvalidInput> {
    SessionState::from_json(json.to_string().as_bytes(), client, START)
}

#[test]
fn a_token_comes_back_whole_and_still_authorizes() {
    let (mut world, token) = world();
    let state = SessionState::new(token.clone()).with_server_state(world.server_state().clone());
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
        world.server_state().to_json()
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
        .with_server_state(world.server_state().clone())
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

/// A session of this world's client that is stored.
pub(crate) fn stored(world: &World) -> SessionConfig {
    SessionConfig::new(world.client()).stored_as("s")
}

pub(crate) fn name(world: &World) -> String {
    stored(world).storage_name().unwrap()
}

pub(crate) fn store(world: &mut World, state: &SessionState) {
    let name = name(world);
    let json = state.to_json().expose().to_vec();
    world.storage.states.insert(name, json);
}

/// The state in the storage.
pub(crate) fn in_storage(world: &World) -> Value {
    serde_json::from_slice(&world.storage.states[&name(world)]).unwrap()
}

/// The process ends, and another one with the same storage starts.
pub(crate) fn restart(world: &mut World) {
    world.shared = Shared::new();
    world.storage.leased.clear();
    world.storage.saved.clear();
    world.peer.requests.clear();
}

pub(crate) fn token(world: &mut World, session: SessionId) -> Result<Token, Error> {
    world.run(session.token(Duration::from_secs(60)))
}

/// The refresh tokens that were sent.
pub(crate) fn sent(world: &World) -> Vec<&str> {
    let params = world.peer.requests.iter().map(|request| &request.params);
    params
        .filter_map(|params| params.get("refresh_token"))
        .map(String::as_str)
        .collect()
}

/// Starts a refresh, as far as its token request.
pub(crate) fn sending(
    world: &mut World,
    session: SessionId,
) -> Option<Awaiting<Box<PreparedRequest>, Refresh>> {
    let context = world.context();
    let waits = world
        .shared
        .start(session.token(Duration::from_secs(60)), context);
    assert!(matches!(waits, Step::Wait(_)), "it has no usable token");
    let refresh = world.shared.next_refresh(session).unwrap();
    let context = world.context();
    let mut step = world.shared.start(refresh, context);
    loop {
        step = match step {
            Step::Send(sent) => return Some(sent),
            Step::Done(_) => return None,
            step => world.step(step),
        };
    }
}

pub(crate) fn scripted(world: &mut World, answer: impl Fn() -> ScriptedResponse) {
    world.peer.script.extend((0..9).map(|_| answer()));
}

#[test]
fn a_fresh_token_stored_by_another_process_makes_a_refresh_needless() {
    let policy = RefreshPolicy::default().refresh_before_expiry(Duration::from_secs(10));
    // One that is due is used, and then replaced.
    let cases = [
        (0, true, false),
        (89, true, false),
        (95, true, true),
        (100, false, true),
    ];
    for (secs, taken, replaced) in cases {
        let (mut world, theirs) = world();
        restart(&mut world);
        store(&mut world, &SessionState::new(theirs.clone()));
        let session = world.open(stored(&world).policy(policy));
        world.sleep(secs);
        let got = token(&mut world, session).unwrap();
        assert_eq!(got == theirs, taken, "{secs}");
        // Its refresh token is the newest there is, in any case.
        assert_eq!(
            sent(&world),
            &["refresh-1"][usize::from(!replaced)..],
            "{secs}"
        );
    }
}

#[test]
fn a_rejected_token_is_not_adopted_again() {
    let refused = || ScriptedResponse::Response(response(401, ""));
    let (mut world, theirs) = world();
    restart(&mut world);
    store(&mut world, &SessionState::new(theirs));
    let session = world.open(stored(&world));
    world.peer.script.push_back(refused());
    let get = |world: &mut World| {
        let request = http::Request::get(RESOURCE_URL).body(()).unwrap();
        let call = session.call(request.method(), request.uri()).unwrap();
        world.perform(call, request)
    };
    assert_eq!(
        get(&mut world).unwrap(),
        Called::Delivered(http::StatusCode::OK)
    );
    assert_eq!(sent(&world), ["refresh-1"]);

    // Nor does it come back if there is no other.
    scripted(&mut world, refused);
    assert_eq!(get(&mut world).unwrap(), Called::Rejected);
    assert!(token(&mut world, session).is_err());
}

#[test]
fn the_attempts_left_of_a_refresh_token_are_stored_for_the_next_process() {
    let (mut world, first) = world();
    world.sleep(1000);
    for attempts_left in [10, 255, 3] {
        let mut json = json_of(&SessionState::new(first.clone()));
        json["attempts_left"] = json!(attempts_left);
        let state = restore(&json, &world.client()).unwrap();
        store(&mut world, &state);
        let mut sends = 0;
        loop {
            restart(&mut world);
            let session = world.shared.open(stored(&world), world.now);
            // Saved before it is sent; then the process dies.
            if sending(&mut world, session).is_none() {
                break;
            }
            sends += 1;
            assert_eq!(
                in_storage(&world)["attempts_left"],
                attempts_left.min(10) - sends
            );
        }
        assert_eq!(sends, attempts_left.min(10));
    }
}

#[test]
fn a_new_login_takes_precedence_over_the_stored_state_of_an_earlier_one() {
    let (mut world, earlier) = world();
    restart(&mut world);
    let earlier = SessionState::new(earlier);
    store(&mut world, &earlier);
    world.peer.grant_type = Some("code".into());
    let session = world.open(stored(&world).grant(Grant::extension("code").unwrap()));
    let new = token(&mut world, session).unwrap();
    assert_eq!(world.peer.requests[0].params["grant_type"], "code");
    // Saved before the code is spent, to see that the storage works: the earlier login, of which nothing is lost yet.
    for member in ["token", "attempts_left", "descends_from"] {
        assert_eq!(world.storage.saved[0][member], json_of(&earlier)[member]);
    }
    assert_eq!(
        in_storage(&world)["token"]["access_token"],
        new.access_token().expose()
    );
    // From now on, refresh tokens.
    world.sleep(1000);
    world.storage.saved.clear();
    token(&mut world, session).unwrap();
    assert_eq!(sent(&world), ["refresh-1"]);
    assert_eq!(world.storage.saved[0]["attempts_left"], 9);
}

#[test]
fn an_unsaved_state_is_not_replaced_by_the_stored_one() {
    let (mut world, old) = world();
    let new = another(&mut world, &[("refresh_token", json!("refresh-2"))]);
    restart(&mut world);
    store(&mut world, &SessionState::new(old));
    world.storage.is_read_only = true;
    let session = world.open(stored(&world).token(new));
    assert!(world.shared.is_unsaved(session));
    world.storage.is_read_only = false;
    world.sleep(1000);
    let _ = token(&mut world, session);
    assert_eq!(sent(&world), ["refresh-2"]);
    assert_eq!(in_storage(&world)["token"]["refresh_token"], "refresh-2");
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
    let theirs = another(&mut world, &[("refresh_token", json!("refresh-3"))]);
    restart(&mut world);
    store(&mut world, &SessionState::new(old.clone()));
    let session = world.open(stored(&world));
    world
        .peer
        .token_members
        .insert("refresh_token".into(), json!("refresh-2"));
    world.sleep(1000);
    token(&mut world, session).unwrap();
    // It was saved under a lease that had lapsed, and is overwritten by what the next holder had found.
    for (stored, goes_on_with) in [
        (old.clone(), "refresh-2"),
        (old, "refresh-2"),
        (theirs, "refresh-3"),
    ] {
        store(&mut world, &SessionState::new(stored));
        world.peer.requests.clear();
        world.sleep(1000);
        scripted(&mut world, || ScriptedResponse::NoResponse(Sent::No));
        assert!(token(&mut world, session).is_err());
        world.peer.script.clear();
        assert_eq!(sent(&world), [goes_on_with; 4]);
        let held = in_storage(&world);
        assert_eq!(
            (&held["token"]["refresh_token"], &held["attempts_left"]),
            (&json!(goes_on_with), &json!(10))
        );
    }
}

#[test]
fn an_expired_stored_token_does_not_replace_a_valid_one() {
    let (mut world, expired) = world();
    restart(&mut world);
    world
        .peer
        .token_members
        .insert("expires_in".into(), json!(10_000));
    // Without the storage, which comes back later, with what it had.
    world.storage.is_down = true;
    let session = world.open(stored(&world).grant(Grant::client_credentials()));
    let good = token(&mut world, session).unwrap();
    world.storage.is_down = false;
    store(&mut world, &SessionState::new(expired));
    world.sleep(9_990);
    scripted(&mut world, || ScriptedResponse::Response(response(400, "")));
    for _ in 0..2 {
        let context = world.context();
        let step = world
            .shared
            .start(session.token(Duration::from_secs(60)), context);
        assert!(
            matches!(step, Step::Done(Ok(token)) if token == good),
            "no caller waits for the refresh"
        );
        assert!(token(&mut world, session).is_ok_and(|token| token == good));
    }
    assert!(world.peer.requests.len() > 1, "it was to be refreshed");
}

/// The stored state of a session that began with this token and was refreshed so often, and all of its tokens.
fn state_after(world: &mut World, first: &Token, refreshes: usize) -> (Value, Vec<Token>) {
    restart(world);
    world.peer.rotates_refresh_tokens = true;
    let session = world.open(stored(world).token(first.clone()));
    let mut tokens = vec![first.clone()];
    for number in 0..refreshes {
        for (name, value) in [("access", "access"), ("refresh", "refresh")] {
            let value = format!("{value}-{number}+");
            world
                .peer
                .token_members
                .insert(format!("{name}_token"), json!(value));
        }
        world.sleep(1000);
        let answer = json_response(200, &members(world));
        world
            .peer
            .script
            .push_back(ScriptedResponse::Response(answer));
        tokens.push(token(world, session).unwrap());
    }
    let state = in_storage(world);
    restart(world);
    (state, tokens)
}

pub(crate) fn members(world: &World) -> Value {
    let mut members = world.peer.token_members.clone();
    members.insert("token_type".into(), json!("DPoP"));
    let access_token = || json!("another");
    members.entry("access_token").or_insert_with(access_token);
    Value::Object(members)
}

#[test]
fn a_given_token_replaces_the_stored_one_unless_that_descends_from_it() {
    let (mut world, first) = world();
    let stranger = another(
        &mut world,
        &[
            ("access_token", json!("new")),
            ("refresh_token", json!("new")),
        ],
    );
    let (state, tokens) = state_after(&mut world, &first, 30);
    let state = restore(&state, &world.client()).unwrap();
    world.sleep(1000);
    // The first is never forgotten; of the others the latest are known.
    let known = tokens.iter().take(1).chain(&tokens[16..30]);
    let cases = known
        .map(|token| (token, "refresh-29+"))
        .chain([(&stranger, "new")]);
    for (given, goes_on_with) in cases {
        restart(&mut world);
        store(&mut world, &state);
        let session = world.open(stored(&world).token(given.clone()));
        assert_eq!(
            in_storage(&world)["token"]["refresh_token"],
            goes_on_with,
            "{given:?}"
        );
        assert_eq!(!world.storage.saved.is_empty(), goes_on_with == "new");
        scripted(&mut world, || ScriptedResponse::Response(response(400, "")));
        let _ = token(&mut world, session);
        world.peer.script.clear();
        assert_eq!(sent(&world), [goes_on_with]);
    }
}

#[test]
fn a_refresh_token_given_as_a_grant_is_not_sent_where_the_stored_one_descends_from_it() {
    for refreshes in [0, 1, 3] {
        for (given, is_known) in [("refresh-1", true), ("another", false)] {
            let (mut world, first) = world();
            let (state, _) = state_after(&mut world, &first, refreshes);
            let newest = state["token"]["refresh_token"].as_str().unwrap().to_owned();
            world.sleep(1000);
            let grant = Grant::refresh_token(Secret::new(given)).unwrap();
            let session = world.open(stored(&world).grant(grant));
            world
                .peer
                .token_members
                .insert("refresh_token".into(), json!("another+"));
            let answer = json_response(200, &members(&world));
            world
                .peer
                .script
                .push_back(ScriptedResponse::Response(answer));
            token(&mut world, session).unwrap();
            assert_eq!(sent(&world), [if is_known { &newest } else { given }]);
            // The stored state is saved unchanged, until the other has been redeemed.
            let checkpoint = &world.storage.saved[0];
            assert_eq!(checkpoint["attempts_left"], if is_known { 9 } else { 10 });
            assert_eq!(checkpoint["token"], state["token"]);
            let new = in_storage(&world);
            assert_eq!(new["token"]["refresh_token"], "another+");
            let ancestors = new["descends_from"].as_array().unwrap().len();
            assert_eq!(ancestors, if is_known { refreshes + 1 } else { 1 });
        }
    }
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

#[test]
fn attempts_left_and_backoff_after_each_kind_of_refresh_failure() {
    let refusal = |status, body| ScriptedResponse::Response(response(status, body));
    let busy =
        |wait| ScriptedResponse::Response(with_header(response(429, ""), "retry-after", wait));
    let cases: [(&dyn Fn() -> ScriptedResponse, u8, u64); 12] = [
        (&|| refusal(400, r#"{"error":"invalid_grant"}"#), 0, 1),
        (&|| refusal(401, r#"{"error":"invalid_client"}"#), 10, 1),
        (&|| refusal(400, r#"{"error":"invalid_request"}"#), 10, 1),
        (&|| refusal(503, r#"{"error":"invalid_grant"}"#), 10, 1),
        (&|| refusal(500, r#"{"error":"invalid_grant"}"#), 10, 1),
        (&|| refusal(502, "<html>"), 10, 1),
        (&|| refusal(200, "<html>"), 10, 1),
        (&|| refusal(302, ""), 10, 1),
        (&|| ScriptedResponse::NoResponse(Sent::No), 10, 1),
        (&|| ScriptedResponse::NoResponse(Sent::Maybe), 9, 1),
        (&|| busy("40"), 10, 40),
        (&|| busy("86400"), 10, 300),
    ];
    for (answer, attempts_left, backoff) in cases {
        let (mut world, first) = world();
        world.sleep(1000);
        let session = world.open(stored(&world).token(first));
        scripted(&mut world, answer);
        let error = token(&mut world, session).unwrap_err();
        world.peer.script.clear();
        assert_eq!(
            in_storage(&world)["attempts_left"],
            attempts_left,
            "{error}"
        );
        world.peer.requests.clear();
        world.sleep(backoff - 1);
        assert_eq!(token(&mut world, session).unwrap_err(), error);
        assert!(world.peer.requests.is_empty(), "{error}: {backoff}");
        world.sleep(1);
        let next = token(&mut world, session);
        assert_eq!(next.is_ok(), attempts_left > 0, "{error}");
        assert_eq!(world.peer.requests.len(), usize::from(attempts_left > 0));
    }
}

#[test]
fn after_a_log_out_nothing_is_left_and_a_late_refresh_is_dropped() {
    for grant in [None, Some(Grant::client_credentials())] {
        let (mut world, first) = world();
        let config = SessionConfig::new(world.client()).state(Some(SessionState::new(first)));
        let config = match grant {
            Some(grant) => config.grant(grant),
            None => config,
        };
        world.sleep(1000);
        let session = world.shared.open(config, world.now);
        let sent = sending(&mut world, session).unwrap();
        assert!(world.run(session.log_out()).unwrap().is_some());
        let answer = json_response(200, &members(&world));
        let context = world.context();
        let step = sent.received(&answer, &mut world.shared, context);
        assert!(matches!(step, Step::Done(Ok(()))));
        assert!(!world.shared.is_open(session, world.now));
        world.peer.requests.clear();
        assert_eq!(
            token(&mut world, session).unwrap_err(),
            Error::LoginRequired
        );
        assert!(world.peer.requests.is_empty());
    }
}
