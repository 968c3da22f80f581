//! The sandbox refuses what real servers refuse, in their words. Requests are made by ureq alone.

#![cfg(test)]

#[path = "../../examples/own_transport.rs"]
#[allow(unreachable_pub, reason = "an example is a crate of its own")]
mod own_transport;

use keybound_sandbox::{API_KEY, CLIENT_ID, CLIENT_SECRET, ORIGIN, Options, Sandbox};
use keybound_ureq::dpop::{Nonce, Proof};
use keybound_ureq::driver::RequestContext;
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::{Secret, UnixTime};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};
use ureq::http::{Method, Request, Response};

/// With nonces, over a bare socket: a token, and a call with it.
#[test]
fn the_core_needs_no_adapter() {
    own_transport::main().unwrap();
}

fn sandbox(nonce: bool) -> Sandbox {
    Sandbox::start(Options::default().require_nonce(nonce)).unwrap()
}

fn send(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Response<String> {
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .build()
        .into();
    let request = request.body(body.to_owned()).unwrap();
    let response = if body.is_empty() {
        agent.run(request.map(|_| ()))
    } else {
        agent.run(request)
    }
    .unwrap();
    let (head, mut body) = response.into_parts();
    Response::from_parts(head, body.read_to_string().unwrap())
}

fn json_of(response: &Response<String>) -> Value {
    serde_json::from_str(response.body()).unwrap_or(Value::Null)
}

fn basic(id: &str, secret: &str) -> String {
    use base64::Engine as _;
    format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(format!("{id}:{secret}"))
    )
}

fn moov_token(sandbox: &Sandbox, headers: &[(&str, &str)], body: Value) -> Response<String> {
    let mut all = vec![("content-type", "application/json")];
    all.extend(headers);
    send(
        "POST",
        &format!("{}/oauth2/token", sandbox.moov()),
        &all,
        &body.to_string(),
    )
}

fn moov_body(scope: &str) -> Value {
    json!({ "grant_type": "client_credentials", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET, "scope": scope })
}

#[test]
fn moov_refuses_in_its_own_shapes() {
    let sandbox = sandbox(false);
    let wrong_secret = basic(CLIENT_ID, "wrong");
    for (headers, body, status, answer) in [
        (
            &[("authorization", wrong_secret.as_str())][..],
            moov_body("/ping.read"),
            401,
            Value::Null,
        ),
        (
            &[],
            json!({ "grant_type": "client_credentials" }),
            401,
            Value::Null,
        ),
        (&[], moov_body(""), 422, json!({ "scope": "is required" })),
        (
            &[],
            json!({ "grant_type": "refresh_token", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET }),
            422,
            json!({ "refresh_token": "is required" }),
        ),
        (
            &[],
            json!({ "grant_type": "password", "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET }),
            400,
            json!({ "error": "unsupported_grant_type" }),
        ),
        (&[], json!([]), 400, json!({ "error": "invalid_request" })),
        (
            &[("x-moov-version", "v2024.1")],
            moov_body("/ping.read"),
            404,
            Value::Null,
        ),
    ] {
        let response = moov_token(&sandbox, headers, body.clone());
        assert_eq!(
            (response.status().as_u16(), json_of(&response)),
            (status, answer),
            "{body}"
        );
        assert!(response.headers().contains_key("x-request-id"));
        assert!(!response.headers().contains_key("www-authenticate"));
    }
}

#[test]
fn moov_answers_a_wrong_origin_with_an_empty_401_later_on() {
    let sandbox = sandbox(false);
    for (origin, status) in [(ORIGIN, 204), ("https://other.example", 401)] {
        let token = json_of(&moov_token(
            &sandbox,
            &[("origin", origin)],
            moov_body("/ping.read"),
        ));
        let bearer = format!("Bearer {}", token["access_token"].as_str().unwrap());
        let response = send(
            "GET",
            &format!("{}/ping", sandbox.moov()),
            &[("authorization", &bearer)],
            "",
        );
        assert_eq!(
            (response.status().as_u16(), response.body().as_str()),
            (status, ""),
            "{origin}"
        );
    }
}

#[test]
fn moov_limits_the_rate_and_says_how_long() {
    let sandbox = sandbox(false);
    let limited = (0..100)
        .map(|_| moov_token(&sandbox, &[], moov_body("/ping.read")))
        .find(|r| r.status() == 429);
    assert_eq!(limited.unwrap().headers()["retry-after"], "1");
}

#[test]
fn moov_sends_a_unix_time_rotates_and_revokes() {
    let sandbox = sandbox(false);
    let token = json_of(&moov_token(&sandbox, &[], moov_body("/accounts.read")));
    assert!(token["expires_in"].as_u64().unwrap() > 1_700_000_000);
    let refresh = json!({ "grant_type": "refresh_token", "refresh_token": token["refresh_token"], "client_id": CLIENT_ID, "client_secret": CLIENT_SECRET });
    assert_eq!(moov_token(&sandbox, &[], refresh.clone()).status(), 200);
    assert_eq!(moov_token(&sandbox, &[], refresh).status(), 422);
    for (body, status) in [
        (json!({ "token": token["access_token"] }), 204),
        (
            json!({ "token": "unknown", "token_type_hint": "refresh_token" }),
            204,
        ),
        (json!({ "token": "unknown", "token_type_hint": "odd" }), 422),
        (json!({}), 422),
    ] {
        let headers = [
            ("content-type", "application/json"),
            ("authorization", &basic(CLIENT_ID, CLIENT_SECRET)),
        ];
        let response = send(
            "POST",
            &format!("{}/oauth2/revoke", sandbox.moov()),
            &headers,
            &body.to_string(),
        );
        assert_eq!(response.status(), status, "{body}");
    }
}

struct Prover {
    key: SigningKey,
    method: Method,
    url: String,
    nonce: Option<String>,
    token: Option<String>,
    age: i64,
    entropy: u8,
}

impl Prover {
    fn new(method: Method, url: String) -> Self {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        Self {
            key,
            method,
            url,
            nonce: None,
            token: None,
            age: 0,
            entropy: 0,
        }
    }

    fn proof(&self) -> String {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let now = UnixTime::from_secs(now.saturating_add_signed(-self.age));
        let uri = self.url.parse().unwrap();
        let nonce = self.nonce.as_ref().map(|nonce| Nonce::new(nonce).unwrap());
        let mut proof = Proof::build(self.key.public(), &self.method, &uri).unwrap();
        if let Some(nonce) = &nonce {
            proof = proof.nonce(nonce);
        }
        if let Some(token) = &self.token {
            proof = proof.access_token(&Secret::new(token.as_str()));
        }
        let signed = proof
            .prepare(RequestContext::new(now, [self.entropy; 16]))
            .finish(|request| self.key.sign(request));
        signed.unwrap().as_str().to_owned()
    }
}

fn oauth_token(sandbox: &Sandbox, proof: Option<&str>) -> Response<String> {
    let authorization = basic(CLIENT_ID, CLIENT_SECRET);
    let mut headers = vec![
        ("content-type", "application/x-www-form-urlencoded"),
        ("authorization", &authorization),
    ];
    headers.extend(proof.map(|proof| ("dpop", proof)));
    send(
        "POST",
        &format!("{}/token", sandbox.oauth()),
        &headers,
        "grant_type=client_credentials",
    )
}

#[test]
fn the_authorization_server_is_strict_about_proofs() {
    let sandbox = sandbox(false);
    let url = format!("{}/token", sandbox.oauth());
    let good = || Prover::new(Method::POST, url.clone());
    for (what, prover) in [
        ("stale", Prover { age: 70, ..good() }),
        ("from the future", Prover { age: -10, ..good() }),
        (
            "wrong htm",
            Prover {
                method: Method::GET,
                ..good()
            },
        ),
        (
            "wrong htu",
            Prover {
                url: format!("{}/other", sandbox.oauth()),
                ..good()
            },
        ),
        (
            "ath",
            Prover {
                token: Some("x".into()),
                ..good()
            },
        ),
        (
            "unasked nonce",
            Prover {
                nonce: Some("x".into()),
                ..good()
            },
        ),
    ] {
        let response = oauth_token(&sandbox, Some(&prover.proof()));
        assert_eq!(
            (response.status().as_u16(), &json_of(&response)["error"]),
            (400, &json!("invalid_dpop_proof")),
            "{what}"
        );
    }
    let proof = good().proof();
    assert_eq!(
        json_of(&oauth_token(&sandbox, Some(&proof)))["token_type"],
        "DPoP"
    );
    assert_eq!(
        json_of(&oauth_token(&sandbox, Some(&proof)))["error"],
        "invalid_dpop_proof",
        "replayed"
    );
    assert_eq!(
        json_of(&oauth_token(&sandbox, None))["token_type"],
        "Bearer"
    );
}

#[test]
fn the_resource_is_strict_about_proofs() {
    let sandbox = sandbox(true);
    let mut prover = Prover::new(Method::POST, format!("{}/token", sandbox.oauth()));
    let challenge = oauth_token(&sandbox, Some(&prover.proof()));
    assert_eq!(
        (challenge.status().as_u16(), &json_of(&challenge)["error"]),
        (400, &json!("use_dpop_nonce"))
    );
    prover.nonce = Some(challenge.headers()["dpop-nonce"].to_str().unwrap().into());
    prover.entropy = 1;
    let token = json_of(&oauth_token(&sandbox, Some(&prover.proof())))["access_token"]
        .as_str()
        .unwrap()
        .to_owned();

    let resource = format!("{}/resource", sandbox.oauth());
    let call = |scheme: &str, proof: &str| {
        let authorization = format!("{scheme} {token}");
        let headers = [("authorization", authorization.as_str()), ("dpop", proof)];
        let response = send("GET", &resource, &headers, "");
        let challenge = response
            .headers()
            .get("www-authenticate")
            .map(|value| value.to_str().unwrap().to_owned());
        (
            response.status().as_u16(),
            challenge.unwrap_or_default(),
            response,
        )
    };
    prover = Prover {
        method: Method::GET,
        url: resource.clone(),
        nonce: None,
        token: Some(token.clone()),
        entropy: 2,
        ..prover
    };
    let (status, challenge, response) = call("DPoP", &prover.proof());
    assert!(
        status == 401 && challenge.contains("error=\"use_dpop_nonce\""),
        "{challenge}"
    );
    let nonce = response.headers()["dpop-nonce"]
        .to_str()
        .unwrap()
        .to_owned();
    prover.nonce = Some("made-up".into());
    assert!(
        call("DPoP", &prover.proof())
            .1
            .contains("error=\"use_dpop_nonce\"")
    );
    prover.nonce = Some(nonce);
    prover.age = 70;
    assert!(
        call("DPoP", &prover.proof())
            .1
            .contains("error=\"invalid_dpop_proof\""),
        "stale"
    );
    prover.age = 0;
    prover.entropy = 3;
    let good = prover.proof();
    assert!(call("Bearer", &good).1.contains("invalid_token"));
    assert_eq!(call("DPoP", &good).0, 200);
    assert!(
        call("DPoP", &good).1.contains("invalid_dpop_proof"),
        "replayed"
    );
    prover.entropy = 4;
    let wrong_ath = Prover {
        token: Some("other".into()),
        key: SigningKey::generate(Algorithm::Es256).unwrap(),
        url: resource.clone(),
        nonce: prover.nonce.clone(),
        method: Method::GET,
        age: 0,
        entropy: 5,
    };
    assert!(
        call("DPoP", &wrong_ath.proof())
            .1
            .contains("invalid_dpop_proof")
    );
    let other_key = Prover {
        token: Some(token.clone()),
        key: SigningKey::generate(Algorithm::Es256).unwrap(),
        ..wrong_ath
    };
    assert!(call("DPoP", &other_key.proof()).1.contains("another key"));
}

#[test]
fn a_resource_names_every_algorithm_that_it_takes() {
    let sandbox = sandbox(false);
    let resource = format!("{}/resource", sandbox.oauth());
    let mut named = Algorithm::ALL
        .iter()
        .map(|algorithm| algorithm.as_str())
        .collect::<Vec<_>>();
    named.sort_unstable();
    for headers in [&[][..], &[("authorization", "DPoP unknown")]] {
        let response = send("GET", &resource, headers, "");
        let challenge = response.headers()["www-authenticate"].to_str().unwrap();
        let (_, algs) = challenge.split_once("algs=\"").unwrap();
        let mut algs = algs
            .split('"')
            .next()
            .unwrap()
            .split(' ')
            .collect::<Vec<_>>();
        algs.sort_unstable();
        assert_eq!(algs, named, "{challenge}");
    }
}

#[test]
fn an_answer_with_a_nonce_is_not_to_be_cached() {
    let sandbox = sandbox(true);
    let mut prover = Prover::new(Method::POST, format!("{}/token", sandbox.oauth()));
    let refused = oauth_token(&sandbox, Some(&prover.proof()));
    prover.nonce = Some(refused.headers()["dpop-nonce"].to_str().unwrap().into());
    prover.entropy = 1;
    let granted = oauth_token(&sandbox, Some(&prover.proof()));
    let token = json_of(&granted)["access_token"]
        .as_str()
        .unwrap()
        .to_owned();
    let bearer = json_of(&oauth_token(&sandbox, None))["access_token"]
        .as_str()
        .unwrap()
        .to_owned();

    let resource = format!("{}/resource", sandbox.oauth());
    let proof = Prover {
        method: Method::GET,
        url: resource.clone(),
        nonce: None,
        token: Some(token.clone()),
        entropy: 2,
        ..prover
    };
    let (bound, bearer) = (format!("DPoP {token}"), format!("Bearer {bearer}"));
    let challenged = send(
        "GET",
        &resource,
        &[("authorization", &bound), ("dpop", &proof.proof())],
        "",
    );
    let called = send("GET", &resource, &[("authorization", &bearer)], "");
    assert_eq!(
        (challenged.status().as_u16(), called.status().as_u16()),
        (401, 200)
    );
    for response in [refused, granted, challenged, called] {
        assert!(
            response.headers().contains_key("dpop-nonce"),
            "{response:?}"
        );
        assert_eq!(
            response
                .headers()
                .get("cache-control")
                .map(|value| value.as_bytes()),
            Some(&b"no-store"[..])
        );
    }
}

#[test]
fn only_what_may_stand_twice_stands_twice() {
    let sandbox = sandbox(false);
    let authorization = basic(CLIENT_ID, CLIENT_SECRET);
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("authorization", authorization.as_str()),
    ];
    for (twice, status) in [
        (
            "resource=https://a.example/&resource=https://b.example/",
            200,
        ),
        ("audience=a&audience=b", 200),
        ("scope=a&scope=b", 400),
        ("grant_type=client_credentials", 400),
    ] {
        let body = format!("grant_type=client_credentials&{twice}");
        let response = send(
            "POST",
            &format!("{}/token", sandbox.oauth()),
            &headers,
            &body,
        );
        assert_eq!(response.status(), status, "{twice}");
    }
}

#[test]
fn a_media_type_counts_in_any_case_and_with_parameters_but_whole() {
    let sandbox = sandbox(false);
    let authorization = basic(CLIENT_ID, CLIENT_SECRET);
    let (oauth, moov) = (
        format!("{}/token", sandbox.oauth()),
        format!("{}/oauth2/token", sandbox.moov()),
    );
    let (form, json) = (
        "grant_type=client_credentials&scope=/ping.read",
        moov_body("/ping.read").to_string(),
    );
    for (url, kind, body, status) in [
        (&oauth, "Application/X-WWW-Form-URLencoded", form, 200),
        (
            &oauth,
            "application/x-www-form-urlencoded ; charset=UTF-8",
            form,
            200,
        ),
        (&oauth, "application/x-www-form-urlencoded2", form, 400),
        (&oauth, "application/json", json.as_str(), 400),
        (&moov, "Application/X-WWW-Form-URLencoded", form, 200),
        (&moov, "Application/JSON;charset=utf-8", json.as_str(), 200),
        (&moov, "application/json-seq", json.as_str(), 400),
    ] {
        let headers = [
            ("content-type", kind),
            ("authorization", authorization.as_str()),
        ];
        assert_eq!(
            send("POST", url, &headers, body).status(),
            status,
            "{url} {kind}"
        );
    }
}

#[test]
fn treasury_prime_takes_either_scheme_and_refuses_the_rest() {
    let sandbox = sandbox(false);
    let uxt = format!("{}/person/psn_1/uxt_access_token", sandbox.treasury_prime());
    let prover = Prover::new(Method::POST, format!("{}/oauth/token", sandbox.marqeta()));
    let bodies = |proof: &str| json!({ "dpop": proof }).to_string();
    let post = |url: &str, authorization: &str, body: &str| {
        send(
            "POST",
            url,
            &[
                ("authorization", authorization),
                ("content-type", "application/json"),
            ],
            body,
        )
    };
    let key = basic(CLIENT_ID, CLIENT_SECRET);
    let response = post(&uxt, &key, &bodies(&prover.proof()));
    assert_eq!(response.status(), 200, "{response:?}");
    let token = json_of(&response);
    assert_eq!(
        (&token["expires_in"], &token["token_type"]),
        (&json!(3600), &json!("DPoP"))
    );
    assert_eq!(token.as_object().unwrap().len(), 3);

    let fresh = Prover {
        entropy: 1,
        ..prover
    };
    assert_eq!(
        post(&uxt, &format!("Bearer {API_KEY}"), &bodies(&fresh.proof())).status(),
        200
    );
    for (what, url, authorization, body, status) in [
        ("replayed", &uxt, &key, bodies(&fresh.proof()), 400),
        ("no proof", &uxt, &key, "{}".into(), 400),
        ("no JSON", &uxt, &key, "dpop=x".into(), 400),
        (
            "not a proof",
            &uxt,
            &key,
            bodies("eyJhbGciOiJFUzI1NiIsInR5cCI6ImRwb3Arand0IiwiandrIjp7Imt0eSI6IkVDIiwiY3J2I"),
            400,
        ),
        ("bad key", &uxt, &basic(CLIENT_ID, "x"), bodies("x"), 401),
        (
            "bad person",
            &uxt.replace("psn_1", "acct_1"),
            &key,
            bodies("x"),
            400,
        ),
    ] {
        let response = post(url, authorization, &body);
        assert_eq!(response.status(), status, "{what}");
        assert!(json_of(&response)["error"].is_string(), "{what}");
    }
}

#[test]
fn a_sandbox_stops_when_it_is_dropped() {
    let sandbox = sandbox(false);
    let address = sandbox.base_url().trim_start_matches("http://").to_owned();
    assert!(std::net::TcpStream::connect(&address).is_ok());
    drop(sandbox);
    let gone = (0..100).any(|_| {
        std::thread::sleep(Duration::from_millis(20));
        std::net::TcpStream::connect(&address).is_err()
    });
    assert!(gone);
}
