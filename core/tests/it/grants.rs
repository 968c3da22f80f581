//! Grants beside the usual ones: what they send, how they go on, and how somebody else makes one.

use std::time::Duration;

use keybound_core::{
    BodyFormat, Client, ClientAuth, DeviceAuthorization, Error, Grant, InvalidInput, Scope, Secret,
    Sent, Token,
};
use serde_json::{Value, json};

use crate::peer::{Asks, Peer, ScriptedResponse, json_response, response, with_header};
use crate::world::{Answered, START, TOKEN_URL, World, answered, endpoint, first_wait, outgoing};

const DEVICE_CODE: &str = "urn:ietf:params:oauth:grant-type:device_code";

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

/// The body of the request for a token by this grant.
fn body(client: &Client, grant: Grant) -> String {
    String::from_utf8(
        outgoing(client.token(grant).unwrap())
            .request
            .into_body()
            .into_vec(),
    )
    .unwrap()
}

fn client() -> Client {
    Client::new(endpoint(TOKEN_URL), ClientAuth::none("app").unwrap())
        .device_authorization_endpoint(endpoint("https://as.example/device"))
}

#[test]
fn a_token_exchange_says_what_it_is_of_and_who_acts() {
    let of = "urn:ietf:params:oauth:token-type:access_token";
    let grant = Grant::token_exchange(secret("subject"), of).unwrap();
    let grant = grant
        .actor_token(secret("actor"), "urn:ietf:params:oauth:token-type:jwt")
        .unwrap();
    let grant = grant
        .param("audience", "a")
        .unwrap()
        .param("audience", "b")
        .unwrap();
    assert!(!grant.is_repeatable());
    assert_eq!(
        body(&client(), grant.resource("https://rs.example/").unwrap()),
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&subject_token=subject\
         &subject_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token&actor_token=actor\
         &actor_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Ajwt&audience=a&audience=b\
         &resource=https%3A%2F%2Frs.example%2F&client_id=app"
    );
    let mut world = World::with(Peer::bound());
    world.peer.grant_type = Some("urn:ietf:params:oauth:grant-type:token-exchange".into());
    world
        .peer
        .token_members
        .insert("issued_token_type".into(), json!(of));
    let token = world
        .token(Grant::token_exchange(secret("subject"), of).unwrap())
        .unwrap();
    assert_eq!(
        token.extra("issued_token_type").map(Secret::expose),
        Some(of)
    );
    assert_eq!(
        Grant::token_exchange(secret(""), of)
            .unwrap_err()
            .argument(),
        "subject_token"
    );
    assert_eq!(
        Grant::token_exchange(secret("x"), "")
            .unwrap_err()
            .argument(),
        "subject_token_type"
    );
}

#[test]
fn a_jwt_of_somebody_else_is_a_grant() {
    let grant = Grant::jwt_bearer(secret("eyJ.eyJ.c2ln"))
        .unwrap()
        .scope(Scope::new("read").unwrap());
    assert_eq!(
        body(&client(), grant),
        "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=eyJ.eyJ.c2ln&scope=read&client_id=app"
    );
    assert_eq!(
        Grant::jwt_bearer(secret("")).unwrap_err().argument(),
        "assertion"
    );
}

#[test]
fn a_resource_is_an_absolute_uri_and_there_may_be_several() {
    let grant = || {
        Grant::client_credentials()
            .resource("https://a.example/x?y")
            .unwrap()
            .resource("urn:b")
            .unwrap()
    };
    let json = client().body_format(BodyFormat::Json);
    let sent: Value = serde_json::from_str(&body(&json, grant())).unwrap();
    assert_eq!(sent["resource"], json!(["https://a.example/x?y", "urn:b"]));
    assert!(
        body(&client(), grant())
            .contains("&resource=https%3A%2F%2Fa.example%2Fx%3Fy&resource=urn%3Ab")
    );
    for bad in ["", "api", "/api", "https://a.example/#x"] {
        assert_eq!(
            Grant::client_credentials()
                .resource(bad)
                .unwrap_err()
                .argument(),
            "resource",
            "{bad}"
        );
    }
}

fn device_answer() -> Value {
    json!({
        "device_code": "GmRh-secret",
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://as.example/go",
        "verification_uri_complete": "https://as.example/go?user_code=WDJB-MJHT",
        "expires_in": 600,
        "interval": 7,
    })
}

/// A world whose person decides after so many refusals, and the code that the device has got.
fn device(peer: Peer, undecided: &[&'static str]) -> (World, Client, DeviceAuthorization) {
    let mut world = World::with(peer);
    world.peer.answers.insert("/device", device_answer());
    world.peer.grant_type = Some(DEVICE_CODE.into());
    world.peer.undecided.extend(undecided);
    let bound = world.peer.bound;
    let client = if bound {
        client().dpop(world.key.public().clone())
    } else {
        client()
    };
    let operation = client
        .device_authorization(Some(Scope::new("films").unwrap()))
        .unwrap();
    let device = world.run(operation).unwrap();
    assert_eq!(world.peer.requests[0].params["scope"], "films");
    assert_eq!(world.peer.requests[0].params["client_id"], "app");
    (world, client, device)
}

fn secs(seconds: &[u64]) -> Vec<Duration> {
    seconds.iter().copied().map(Duration::from_secs).collect()
}

#[test]
fn a_device_asks_at_the_servers_pace_until_its_person_has_decided() {
    let undecided = [
        "authorization_pending",
        "slow_down",
        "authorization_pending",
        "slow_down",
    ];
    for peer in [Peer::bound(), Peer::bearer()] {
        let (mut world, client, device) = device(peer, &undecided);
        assert_eq!(
            (device.user_code(), device.verification_uri()),
            ("WDJB-MJHT", "https://as.example/go")
        );
        assert_eq!(
            device.verification_uri_complete(),
            Some("https://as.example/go?user_code=WDJB-MJHT")
        );
        assert_eq!(
            device.expires_at(),
            START.saturating_add(Duration::from_secs(600))
        );
        // The waits don't count: the whole takes longer than an exchange may.
        assert!(
            !device.grant().is_repeatable(),
            "the code is good for one token"
        );
        let operation = client
            .token(device.grant())
            .unwrap()
            .timeout(Duration::from_secs(10));
        let token = world.run(operation).unwrap();
        assert_eq!(token.access_token().expose(), "access-1");
        assert_eq!(world.waits, secs(&[7, 7, 12, 12, 17]));
        assert!(
            world.peer.requests[1..]
                .iter()
                .all(|request| request.params["device_code"] == "GmRh-secret")
        );
    }
}

#[test]
fn a_nonce_costs_a_poll_nothing_but_a_request() {
    let (mut world, client, device) = device(Peer::bound(), &["authorization_pending"]);
    world.peer.authorization_server.asks = Asks::Always;
    world.run(client.token(device.grant()).unwrap()).unwrap();
    assert_eq!(world.waits, secs(&[7, 7]));
    assert_eq!(
        world.nonces_seen(),
        [None, None, Some("as-1"), Some("as-1")]
    );
}

#[test]
fn a_nonce_is_corrected_anew_with_each_poll() {
    let (mut world, client, device) = device(Peer::bound(), &["authorization_pending"]);
    let challenge = |nonce: &str| {
        let challenge = json_response(400, &json!({ "error": "use_dpop_nonce" }));
        ScriptedResponse::Response(with_header(challenge, "dpop-nonce", nonce))
    };
    let pending = json_response(400, &json!({ "error": "authorization_pending" }));
    world.peer.script.extend([
        challenge("n-1"),
        ScriptedResponse::Response(pending),
        challenge("n-2"),
    ]);
    world.run(client.token(device.grant()).unwrap()).unwrap();
    let nonces = [None, None, Some("n-1"), Some("n-1"), Some("n-2")];
    assert_eq!(world.nonces_seen()[..5], nonces);
}

#[test]
fn a_retry_after_during_polls_counts_from_the_response_and_not_on_top_of_the_interval() {
    for (asked, wait) in [("3", 7), ("7", 7), ("9", 9), ("20", 20)] {
        let (mut world, client, device) = device(Peer::bearer(), &[]);
        let busy = with_header(response(503, ""), "retry-after", asked);
        world
            .peer
            .script
            .push_back(ScriptedResponse::Response(busy));
        world.run(client.token(device.grant()).unwrap()).unwrap();
        assert_eq!(world.waits, secs(&[7, wait]), "{asked}");
    }
}

#[test]
fn no_poll_of_a_device_waits_longer_than_five_minutes_whatever_the_server_asks_for() {
    for (status, error, retry_after) in [
        (400, "slow_down", "315360000"),
        (429, "slow_down", "86400"),
        (400, "authorization_pending", "301"),
        (400, "slow_down", "Fri, 01 Jan 2100 00:00:00 GMT"),
    ] {
        let (mut world, client, _) = device(Peer::bearer(), &[]);
        let mut codes = device_answer();
        codes["expires_in"] = json!(u32::MAX);
        codes["interval"] = json!(1e9);
        world.peer.answers.insert("/device", codes);
        let device = world
            .run(client.device_authorization(None).unwrap())
            .unwrap();
        let refusal = || json_response(status, &json!({ "error": error }));
        let refusal = || with_header(refusal(), "retry-after", retry_after);
        let script = (0..3).map(|_| ScriptedResponse::Response(refusal()));
        world.peer.script.extend(script);
        world.run(client.token(device.grant()).unwrap()).unwrap();
        assert_eq!(world.waits, secs(&[300; 4]), "{retry_after}");
    }
}

#[test]
fn a_device_poll_is_retried_as_often_as_any_request() {
    let (mut world, client, device) = device(Peer::bearer(), &["authorization_pending"; 3]);
    for _ in 0..4 {
        // Three failures, and then an answer, after which the count begins anew.
        world.peer.script.extend([
            ScriptedResponse::NoResponse(Sent::Maybe),
            ScriptedResponse::Response(with_header(response(503, ""), "retry-after", "2")),
            ScriptedResponse::NoResponse(Sent::No),
        ]);
        world
            .peer
            .script
            .push_back(ScriptedResponse::Response(json_response(
                400,
                &json!({ "error": "authorization_pending" }),
            )));
    }
    // Each question has that time by itself: the failures of all of them take longer.
    let operation = client
        .token(device.grant())
        .unwrap()
        .timeout(Duration::from_secs(4));
    world.run(operation).unwrap();
    assert_eq!(world.peer.requests.len(), 1 + 16 + 4);
    assert_eq!(world.waits.len(), 1 + 16 + 3);
    // Whatever fails, nobody asks more often than he may (RFC 8628 §3.5).
    assert!(
        world
            .waits
            .iter()
            .all(|wait| *wait >= Duration::from_secs(7)),
        "{:?}",
        world.waits
    );
}

#[test]
fn a_server_may_say_slow_down_by_429_with_retry_after() {
    let (mut world, client, device) = device(Peer::bearer(), &[]);
    let slow_down = || json_response(429, &json!({ "error": "slow_down" }));
    let pending = json_response(403, &json!({ "error": "authorization_pending" }));
    let answers = [
        slow_down(),
        pending,
        with_header(slow_down(), "retry-after", "40"),
        slow_down(),
        slow_down(),
    ];
    world
        .peer
        .script
        .extend(answers.map(ScriptedResponse::Response));
    world.run(client.token(device.grant()).unwrap()).unwrap();
    assert_eq!(world.waits, secs(&[7, 12, 12, 40, 22, 27]));
}

#[test]
fn a_device_stops_when_its_person_refuses_or_the_code_has_expired() {
    for error in ["access_denied", "expired_token", "invalid_grant"] {
        let (mut world, client, device) = device(
            Peer::bearer(),
            &["authorization_pending", error, "slow_down"],
        );
        let Err(Error::Server(refusal)) = world.run(client.token(device.grant()).unwrap()) else {
            panic!("no refusal")
        };
        assert_eq!(
            (refusal.code(), world.peer.requests.len()),
            (Some(error), 3)
        );
    }
    let (mut world, client, device) = device(Peer::bearer(), &["authorization_pending"; 99]);
    let Err(Error::Server(refusal)) = world.run(client.token(device.grant()).unwrap()) else {
        panic!("no refusal")
    };
    assert_eq!(refusal.code(), Some("authorization_pending"));
    assert_eq!(world.waits.len(), 600 / 7);
    assert!(world.now < device.expires_at());
}

#[test]
fn what_a_server_says_of_a_device_code_is_read_with_care() {
    let ask = || client().device_authorization(None).unwrap();
    let with = |member: &str, value: Value| {
        let mut answer = device_answer();
        answer[member] = value;
        answer
    };
    for (member, value, why) in [
        ("device_code", json!(null), "`device_code` is missing"),
        ("device_code", json!(""), "`device_code` has a wrong"),
        ("user_code", json!(7), "`user_code` has a wrong"),
        ("expires_in", json!(null), "`expires_in` is missing"),
        ("expires_in", json!(-1), "`expires_in` is missing"),
        (
            "verification_uri",
            json!(null),
            "`verification_uri` is missing",
        ),
        (
            "verification_uri",
            json!("http://evil.example/"),
            "`verification_uri` has a wrong",
        ),
        (
            "verification_uri",
            json!("file:///etc/passwd"),
            "`verification_uri` has a wrong",
        ),
    ] {
        let error = answered(ask(), json_response(200, &with(member, value)))
            .map(drop)
            .unwrap_err();
        assert!(error.to_string().contains(why), "{error}");
    }
    let read = |answer: &Value| match answered(ask(), json_response(200, answer)).unwrap() {
        Answered::Done(device) => device,
        Answered::Again(_) => panic!("it is there"),
    };
    let wait = |answer: &Value| {
        let operation = client().token(read(answer).grant()).unwrap();
        first_wait(operation).as_secs()
    };
    for (interval, waits) in [
        (json!(null), 5),
        (json!(0), 5),
        (json!(-3), 5),
        (json!("8"), 8),
        (json!(1e9), 300),
    ] {
        assert_eq!(
            wait(&with("interval", interval.clone())),
            waits,
            "{interval}"
        );
    }
    for url in [
        "https://as.example/#/device",
        "https://as.example/app?a=b#/device?user_code=WDJB",
    ] {
        assert_eq!(
            read(&with("verification_uri", json!(url))).verification_uri(),
            url
        );
    }
    for url in ["https://as.example/#/\u{1b}[2J", "https://as.example/#a#b"] {
        assert!(
            answered(
                ask(),
                json_response(200, &with("verification_uri", json!(url)))
            )
            .is_err()
        );
    }
    let odd = read(&with(
        "verification_uri_complete",
        json!("javascript:alert(1)"),
    ));
    assert_eq!(odd.verification_uri_complete(), None);
    assert_eq!(
        read(&with("user_code", json!("A\u{1b}[2JB"))).user_code(),
        "A[2JB"
    );
    let mut googles = with("verification_uri", json!(null));
    googles["verification_url"] = json!("https://www.google.com/device");
    assert_eq!(
        read(&googles).verification_uri(),
        "https://www.google.com/device"
    );
    assert!(!format!("{:?} {:?}", read(&googles), read(&googles).grant()).contains("GmRh"));
    let without = Client::new(endpoint(TOKEN_URL), ClientAuth::none("app").unwrap());
    assert_eq!(
        without
            .device_authorization(None)
            .map(drop)
            .unwrap_err()
            .argument(),
        "device_authorization_endpoint"
    );
}

/// What a crate that uses keybound writes for a grant that keybound doesn't know: Zoom's.
trait ZoomGrant: Sized {
    fn account_credentials(account_id: &str) -> Result<Self, InvalidInput>;
}

impl ZoomGrant for Grant {
    fn account_credentials(account_id: &str) -> Result<Self, InvalidInput> {
        Ok(Self::extension("account_credentials")?
            .param("account_id", account_id)?
            .repeatable())
    }
}

#[test]
fn an_extension_grant_goes_the_same_way_nonces_and_retries_included() {
    let mut world = World::losing(Peer::bound(), Sent::Maybe);
    world.peer.authorization_server.asks = Asks::Always;
    world.peer.grant_type = Some("account_credentials".into());
    let token: Token = world
        .token(Grant::account_credentials("abc").unwrap())
        .unwrap();
    assert_eq!(token.key(), Some(world.key.public()));
    assert_eq!(
        token.expires_at(),
        Some(world.now.saturating_add(Duration::from_secs(3600)))
    );
    assert_eq!(world.peer.requests.len(), 3);
    assert!(
        world
            .peer
            .requests
            .iter()
            .all(|request| request.params["account_id"] == "abc")
    );
}
