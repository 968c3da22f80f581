//! What `keybound_core::provider` says of providers that have no type of their own.

use keybound_core::dpop::{ProofError, ProofVerifier};
use keybound_core::driver::{FromResponse, PreparedRequest, RequestContext, Shared, Step};
use keybound_core::jose::{Algorithm, SigningKey};
use keybound_core::{
    AuthorizationRequest, Cause, Client, ClientAuth, Error, Grant, InvalidResponseKind, Issuer,
    Operation, Retry, Scope, Secret, Sent, TokenType,
};
use serde_json::json;

use crate::maker::Maker;
use crate::peer::{Asks, ISSUER, Peer, json_response, params, response, with_header};
use crate::world::{Answered, START, TOKEN_URL, World, answered, endpoint, millis, outgoing, sent};

fn signing(id: &str, key: &SigningKey) -> ClientAuth {
    ClientAuth::private_key_jwt(id, key.public().with_kid("key-1")).unwrap()
}

fn es256() -> SigningKey {
    SigningKey::generate(Algorithm::Es256).unwrap()
}

/// A client of a provider that knows nothing of proofs.
fn plain() -> Client {
    let auth = ClientAuth::post("app", Secret::new("a secret")).unwrap();
    Client::new(endpoint(TOKEN_URL), auth)
        .device_authorization_endpoint(endpoint("https://as.example/device"))
}

fn done<T: FromResponse>(operation: Operation<T>, answer: serde_json::Value) -> T {
    match answered(operation, json_response(200, &answer)) {
        Ok(Answered::Done(done)) => done,
        other => panic!("{:?}", other.map(drop)),
    }
}

#[test]
fn okta_wants_a_nonce_first_and_an_assertion_by_another_key() {
    let mut world = World::with(Peer::bound());
    world.peer.authorization_server.asks = Asks::Always;
    let client_key = es256();
    let client = Client::new(endpoint(TOKEN_URL), signing("app", &client_key))
        .dpop(world.key.public().clone());
    world.client_key = Some(client_key);
    let grant = || Grant::client_credentials().scope(Scope::new("okta.users.read").unwrap());
    let first = world.run(client.token(grant()).unwrap()).unwrap();
    world.run(client.token(grant()).unwrap()).unwrap();
    assert_eq!(first.key(), Some(world.key.public()));
    assert_eq!(world.nonces_seen(), [None, Some("as-1"), Some("as-1")]);
}

#[test]
fn bluesky_has_a_url_for_an_id_and_another_nonce_with_every_answer() {
    let id = "https://app.example/client-metadata.json";
    let mut world = World::with(Peer::bound());
    world.peer.authorization_server.asks = Asks::Rotating;
    world.peer.authorizations.client_id = id;
    world
        .peer
        .token_members
        .insert("sub".into(), json!("did:plc:abc"));
    let client_key = es256();
    let client = Client::new(endpoint(TOKEN_URL), signing(id, &client_key))
        .issuer(Issuer::https(ISSUER).unwrap())
        .require_iss()
        .authorization_endpoint(endpoint("https://as.example/authorize"))
        .pushed_authorization_request_endpoint(endpoint("https://as.example/par"))
        .dpop(world.key.public().clone());
    world.client_key = Some(client_key);
    let builder = client
        .authorization("https://app.example/callback")
        .unwrap();
    let pushed = builder
        .scope(Scope::new("atproto transition:generic").unwrap())
        .push([1; 32])
        .unwrap();
    let AuthorizationRequest { url, pending } = world.run(pushed).unwrap();
    let redirect = world.peer.authorizations.agree(&url);
    let token = world
        .run(client.token(pending.receive(&redirect).unwrap()).unwrap())
        .unwrap();
    assert_eq!(token.extra("sub").map(Secret::expose), Some("did:plc:abc"));
    let refresh = Grant::refresh_token(token.refresh_token().unwrap().clone()).unwrap();
    world.run(client.token(refresh).unwrap()).unwrap();
    // One request is for the first nonce; every other one has the latest.
    assert_eq!(world.peer.requests.len(), 4);
}

#[test]
fn github_reports_errors_in_a_200_to_devices_as_well() {
    let code = || {
        plain()
            .token(
                Grant::extension("authorization_code")
                    .unwrap()
                    .param("code", "x")
                    .unwrap(),
            )
            .unwrap()
    };
    let refusal = json!({ "error": "bad_verification_code", "error_description": "The code passed is incorrect or expired." });
    let Err(Error::Server(error)) = answered(code(), json_response(200, &refusal)) else {
        panic!("no refusal")
    };
    assert_eq!(
        (error.code(), error.status().as_u16()),
        (Some("bad_verification_code"), 200)
    );
    let answer = json!({ "access_token": "gho_1", "scope": "repo,gist", "token_type": "bearer" });
    let token = done(code(), answer.clone());
    assert_eq!(
        (token.token_type(), token.expires_at()),
        (&TokenType::Bearer, None)
    );
    assert_eq!(token.scope(), Some(&Scope::new("repo gist").unwrap()));

    let put_off = |code: &str| json_response(200, &json!({ "error": code }));
    let answers = [
        json_response(
            200,
            &json!({
                "device_code": "3584d8", "user_code": "WDJB-MJHT", "verification_uri": "https://github.com/login/device",
                "expires_in": 900, "interval": 5,
            }),
        ),
        put_off("authorization_pending"),
        put_off("slow_down"),
        json_response(200, &answer),
    ];
    let mut world = World::scripted(Peer::bearer(), answers);
    let device = world
        .run(plain().device_authorization(None).unwrap())
        .unwrap();
    let token = world.run(plain().token(device.grant()).unwrap()).unwrap();
    assert_eq!(token.access_token().expose(), "gho_1");
    assert_eq!(world.waits, [millis(5000), millis(5000), millis(10_000)]);
}

#[test]
fn azure_v1_writes_its_seconds_as_texts() {
    let grant = Grant::client_credentials()
        .param("resource", "https://graph.example")
        .unwrap();
    let token = done(
        plain().token(grant).unwrap(),
        json!({
            "token_type": "Bearer", "expires_in": "3599", "ext_expires_in": "3599", "expires_on": "1700003599",
            "not_before": "1699999699", "resource": "https://graph.example", "access_token": "eyJ",
        }),
    );
    assert_eq!(
        token.expires_at(),
        Some(START.saturating_add(millis(3_599_000)))
    );
    assert_eq!(
        token.extra("resource").map(Secret::expose),
        Some("https://graph.example")
    );
}

#[test]
fn auth0_ends_its_issuer_with_a_slash_and_wants_an_audience() {
    let document = json!({
        "issuer": "https://tenant.auth0.example/",
        "token_endpoint": "https://tenant.auth0.example/oauth/token",
        "authorization_endpoint": "https://tenant.auth0.example/authorize",
    });
    let issuer = Issuer::https("https://tenant.auth0.example/").unwrap();
    let metadata = done(issuer.discover().unwrap(), document);
    let client = metadata.client(ClientAuth::none("app").unwrap()).unwrap();
    let builder = client
        .authorization("https://app.example/cb")
        .unwrap()
        .param("audience", "https://api.example")
        .unwrap();
    let AuthorizationRequest { url, pending } = builder.build([1; 32]).unwrap();
    assert!(
        url.to_string()
            .contains("&audience=https%3A%2F%2Fapi.example&")
    );
    let back = format!(
        "?code=x&state={}&iss=https://tenant.auth0.example/",
        pending.state()
    );
    assert!(pending.receive(&back).is_ok());
}

#[test]
fn marqeta_gets_the_browsers_proof_as_it_is_and_once() {
    let key = es256();
    let client = Client::new(endpoint(TOKEN_URL), signing("program", &key))
        .header("X-Source-Client", "relay")
        .unwrap();
    let relay = || {
        let grant = Grant::client_credentials()
            .param("user_token", "user-1")
            .unwrap();
        client
            .relay(
                grant.param("audience", "https://uxt.example").unwrap(),
                Maker::new().verified(),
            )
            .unwrap()
    };
    let context = || RequestContext::new(START, [1; 16]);
    let first = |shared: &mut Shared| match shared.start(relay(), context()) {
        Step::Sign(signing) => {
            let signature = key.sign(&signing.effect).map_err(Cause::new);
            sent(signing.signed(signature, shared, context()))
        }
        step => sent(step),
    };
    let PreparedRequest { request, .. } = *first(&mut Shared::new()).effect;
    assert_eq!(request.headers().get_all("dpop").iter().count(), 1);
    assert_eq!(request.headers()["dpop"], Maker::new().proof());
    assert!(request.headers()["dpop"].is_sensitive());
    let params = params(&request);
    assert_eq!(
        (params["user_token"].as_str(), params["grant_type"].as_str()),
        ("user-1", "client_credentials")
    );
    assert!(params.contains_key("client_assertion"));

    let answer = |status, body: &str, headers: &[(&'static str, &str)]| {
        let answer = headers
            .iter()
            .fold(response(status, body), |answer, (name, value)| {
                with_header(answer, name, value)
            });
        let shared = &mut Shared::new();
        match first(shared).received(&answer, shared, context()) {
            Step::Done(result) => result,
            _ => panic!("it is sent again"),
        }
    };
    let Ok(token) = answer(200, r#"{"access_token":"a","token_type":"DPoP"}"#, &[]) else {
        panic!("no token")
    };
    assert_eq!(token.key(), Some(Maker::new().verified().key()));
    let Err(Error::Server(wish)) = answer(
        400,
        r#"{"error":"use_dpop_nonce"}"#,
        &[("dpop-nonce", "n-1")],
    ) else {
        panic!("a proof of its own was made")
    };
    assert_eq!(
        wish.nonce().map(|nonce| nonce.as_str().to_owned()),
        Some("n-1".into())
    );
    for status in [429, 502, 503, 504] {
        assert!(
            answer(status, "", &[("retry-after", "1")]).is_err(),
            "{status}"
        );
    }
    for lost in [Sent::No, Sent::Maybe] {
        let shared = &mut Shared::new();
        let end = first(shared).failed(lost, None, shared, context());
        assert!(matches!(end, Step::Done(Err(_))));
    }
    let echoed = answer(
        400,
        &json!({ "error": format!("bad {}", Maker::new().proof()) }).to_string(),
        &[],
    );
    assert!(echoed.unwrap_err().to_string().contains("bad [redacted]"));
}

#[test]
fn zoom_has_a_grant_of_its_own() {
    let grant = Grant::extension("account_credentials")
        .unwrap()
        .param("account_id", "abc")
        .unwrap()
        .repeatable();
    let operation = plain().token(grant.clone()).unwrap();
    let body = outgoing(operation).request.into_body().into_vec();
    assert!(
        String::from_utf8(body)
            .unwrap()
            .starts_with("grant_type=account_credentials&account_id=abc&")
    );
    let busy = answered(
        plain().token(grant).unwrap().max_attempts(1),
        response(504, ""),
    );
    assert_eq!(busy.map(drop).unwrap_err().retry(), Retry::Later(None));
}

#[test]
fn what_no_setting_takes_care_of_is_refused_or_has_a_way_around() {
    let url = "https://as.example/token?grant_type=client_credentials";
    let auth = || ClientAuth::post("app", Secret::new("a secret")).unwrap();
    let client = Client::new(endpoint(url), auth())
        .param("client_key", "app")
        .unwrap();
    let request = outgoing(client.token(Grant::client_credentials()).unwrap()).request;
    assert_eq!(
        (request.method().as_str(), request.uri().to_string()),
        ("POST", url.to_owned())
    );
    assert_eq!(request.headers()["accept"], "application/json");
    let params = params(&request);
    assert_eq!(
        (params["client_key"].as_str(), params["client_id"].as_str()),
        ("app", "app")
    );

    let form = response(200, "access_token=gho_1&scope=repo&token_type=bearer");
    let Err(Error::Response(bad)) =
        answered(plain().token(Grant::client_credentials()).unwrap(), form)
    else {
        panic!("a form was read")
    };
    assert!(matches!(bad.kind(), InvalidResponseKind::NotJson { .. }));

    let inner = json!({ "access_token": "at", "expires_in": 3600, "token_type": "Bearer" });
    let token = plain()
        .parse_token_response(inner.to_string().as_bytes(), START)
        .unwrap();
    assert_eq!(
        token.expires_at(),
        Some(START.saturating_add(millis(3_600_000)))
    );
    assert!(
        plain()
            .parse_token_response(
                json!({ "AuthResponse": inner }).to_string().as_bytes(),
                START
            )
            .is_err()
    );

    let problems = |verifier: &ProofVerifier, proof: &Maker| {
        verifier.verify(&proof.proof(), START).problems().to_vec()
    };
    for alg in ["ES512", "ES256K"] {
        let proof = Maker::new().header("alg", json!(alg));
        assert_eq!(
            problems(&ProofVerifier::default(), &proof),
            [ProofError::Alg],
            "{alg}"
        );
    }
    let lower = Maker::new().claim("htm", json!("get"));
    let verifier = ProofVerifier::default().method("GET");
    assert_eq!(problems(&verifier, &lower), [ProofError::HtmMismatch]);
    assert_eq!(problems(&verifier.method("get"), &lower), []);
}
