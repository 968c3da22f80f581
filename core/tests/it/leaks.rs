//! Secrets are planted wherever one can stand, and looked for in whatever can be printed.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, Method, Response, Uri};
use keybound_core::dpop::{Proof, ProofVerifier};
use keybound_core::driver::{
    Event, FromResponse, SessionConfig, SessionState, Shared, Signing, Step, Task,
};
use keybound_core::jose::{Algorithm, PublicJwk, SigningKey};
use keybound_core::provider::moov::Moov;
use keybound_core::provider::treasury_prime::TreasuryPrime;
use keybound_core::{
    Cause, Client, ClientAuth, Endpoint, Error, Grant, IdTokenValidation, Issuer, Operation,
    RedirectError, Secret, Sent, Token,
};
use serde_json::{Value, json};

use crate::maker::Maker;
use crate::peer::{ISSUER, Peer, json_response, response, with_header};
use crate::planted::{Planted, looked_at_by};
use crate::rustcrypto::Theirs;
use crate::sources::public_types;
use crate::world::{
    Answered, RESOURCE_URL, START, TOKEN_URL, World, answered, endpoint, outgoing, sent,
};

const CLIENT_SECRET: &str = "cl1ent/s3cret+of=32&characters";
/// As Basic authentication has it, before its base64 (RFC 6749 §2.3.1).
const CLIENT_SECRET_ESCAPED: &str = "cl1ent%2Fs3cret%2Bof%3D32%26characters";
const ACCESS_TOKEN: &str = "acc3ss-t0ken-eyJhbGciOiJFZERTQSJ9";
const REFRESH_TOKEN: &str = "r3fresh-t0ken-eyJhbGciOiJFZERTQSJ9";
const PARAM: &str = "p4rameter-of-an-extension-grant";
const BEARER: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJrZXlfMSJ9.c2lnbmF0dXJlLW9mLWEtand0";

/// The constants above.
fn all() -> Planted {
    Planted::new(&[
        CLIENT_SECRET,
        CLIENT_SECRET_ESCAPED,
        ACCESS_TOKEN,
        REFRESH_TOKEN,
        PARAM,
        BEARER,
    ])
}

fn secret(text: &str) -> Secret {
    Secret::new(text)
}

fn auths() -> Vec<ClientAuth> {
    [
        ClientAuth::basic("app", secret(CLIENT_SECRET)),
        ClientAuth::post("app", secret(CLIENT_SECRET)),
        ClientAuth::both("app", secret(CLIENT_SECRET)),
        ClientAuth::bearer(secret(BEARER)),
    ]
    .map(Result::unwrap)
    .into()
}

fn grant() -> Grant {
    Grant::refresh_token(secret(REFRESH_TOKEN))
        .unwrap()
        .secret_param("assertion", secret(PARAM))
        .unwrap()
}

fn client(auth: ClientAuth) -> Client {
    Client::new(endpoint(TOKEN_URL), auth)
        .revocation_endpoint(endpoint("https://as.example/revoke"))
        .header("X-Api-Key", CLIENT_SECRET)
        .unwrap()
}

fn token_answer() -> Response<Vec<u8>> {
    json_response(
        200,
        &json!({
            "access_token": ACCESS_TOKEN,
            "refresh_token": REFRESH_TOKEN,
            "id_token": PARAM,
            "token_type": "DPoP",
        }),
    )
}

/// A world whose next answer is this one, and an exchange that knows every secret.
fn about_to(answer: Response<Vec<u8>>, auth: ClientAuth) -> (World, Operation<Token>) {
    let world = World::scripted(Peer::bound(), [answer]);
    let client = client(auth).dpop(world.key.public().clone());
    let operation = client.token(grant()).unwrap();
    (world, operation)
}

#[test]
fn the_forms_that_are_looked_for_would_be_found() {
    let planted = Planted::new(&[CLIENT_SECRET]);
    let shown = [
        format!("{:#?}", CLIENT_SECRET.as_bytes()),
        STANDARD.encode(format!("app:{CLIENT_SECRET}")),
        STANDARD.encode(format!("apps:{CLIENT_SECRET}")),
        format!("{{\"error\":\"{CLIENT_SECRET}\"}}"),
    ];
    for shown in shown {
        let found = std::panic::catch_unwind(|| planted.are_not_in(&shown));
        assert!(found.is_err(), "{shown}");
    }
}

#[test]
fn what_a_client_is_made_of_shows_no_secret() {
    let planted = all();
    planted.are_not_shown(&[&secret(CLIENT_SECRET), &grant()]);
    for auth in auths() {
        let client = client(auth.clone());
        let revocation = client.revoke(secret(ACCESS_TOKEN), None).unwrap();
        planted.are_not_shown(&[&client, &client.token(grant()).unwrap(), &revocation]);
        planted.are_not_shown(&[
            &Moov::new(auth.clone()),
            &TreasuryPrime::production(auth.clone()),
            &auth,
        ]);
    }
}

/// Runs a task, and looks at each of its steps.
fn watched<T: Task + Debug>(world: &mut World, task: T) -> Result<T::Output, Error>
where
    T::Output: Debug,
{
    let planted = all();
    planted.are_not_shown(&[&task]);
    let context = world.context();
    let mut step = world.shared.start(task, context);
    loop {
        planted.are_not_shown(&[&step, &world.shared]);
        if let Step::Save(save) = &step {
            planted.are_not_shown(&[&save.effect]);
        }
        step = match step {
            Step::Done(result) => return result,
            step => world.step(step),
        };
    }
}

#[test]
fn no_step_of_an_operation_shows_a_secret_or_its_proof() {
    let planted = all();
    for auth in auths() {
        let (mut world, operation) = about_to(token_answer(), auth);
        planted.are_not_shown(&[&operation]);
        let context = world.context();
        let Step::Sign(signing) = world.shared.start(operation, context) else {
            panic!("there is a key to prove")
        };
        let input = std::str::from_utf8(signing.effect.message())
            .unwrap()
            .to_owned();
        for planted in [&planted, &Planted::new(&[&input])] {
            planted.are_not_shown(&[&signing, &signing.effect, &world.shared]);
        }
        let signature = world.key.sign(&signing.effect).map_err(Cause::new);
        let context = world.context();
        let sent = sent(signing.signed(signature, &mut world.shared, context));
        let proof = sent.effect.request.headers()["dpop"]
            .to_str()
            .unwrap()
            .to_owned();
        let proof = Planted::new(&[&proof, input.split_once('.').unwrap().1]);
        for planted in [&planted, &proof] {
            planted.are_not_shown(&[
                &sent,
                &sent.effect,
                sent.effect.request.headers(),
                sent.effect.request.body(),
            ]);
        }
        let context = world.context();
        let received = sent.received(&token_answer(), &mut world.shared, context);
        planted.are_not_shown(&[&received, &world.shared, world.server_state()]);
        let Step::Done(Ok(token)) = received else {
            panic!("a token came")
        };
        planted.are_not_shown(&[&token]);
    }
}

#[test]
fn a_person_who_is_away_is_waited_for_without_showing_the_verifier() {
    let mut world = World::with(Peer::bound());
    let builder = world
        .client()
        .authorization("https://app.example/cb")
        .unwrap();
    let request = builder.build([3; 32]).unwrap();
    let grant = request
        .pending
        .receive(&world.peer.authorizations.agree(&request.url))
        .unwrap();
    let operation = world.client().token(grant.clone()).unwrap();
    let stored: Value = serde_json::from_str(request.pending.to_json().expose()).unwrap();
    let seed = stored["seed"].as_str().unwrap().to_owned();
    world.run(operation).unwrap();
    let verifier = world.peer.requests[0].params["code_verifier"].clone();
    let planted = Planted::new(&[&seed, &verifier, "code-0"]);
    planted.are_not_shown(&[
        &request,
        &request.pending,
        &request.pending.to_json(),
        &grant,
    ]);
    planted.are_not_shown(&[&world.client().token(grant.clone()).unwrap()]);
}

#[test]
fn an_assertion_is_shown_nowhere_and_struck_out_of_what_comes_back() {
    let client_key = SigningKey::generate(Algorithm::Es256).unwrap();
    let proof_key = SigningKey::generate(Algorithm::Es256).unwrap();
    let auth = ClientAuth::private_key_jwt("app", client_key.public().clone()).unwrap();
    let client = client(auth.clone()).dpop(proof_key.public().clone());
    let context = || keybound_core::driver::RequestContext::new(START, [1; 16]);
    let shared = &mut Shared::new();
    let Step::Sign(signing) = shared.start(client.token(grant()).unwrap(), context()) else {
        panic!("the assertion comes first")
    };
    let input = std::str::from_utf8(signing.effect.message())
        .unwrap()
        .to_owned();
    let signature = client_key.sign(&signing.effect).map_err(Cause::new);
    Planted::new(&[&input]).are_not_shown(&[&client, &auth, &signing]);
    let Step::Sign(signing) = signing.signed(signature, shared, context()) else {
        panic!("the proof comes next")
    };
    Planted::new(&[&input]).are_not_shown(&[&signing]);
    let signature = proof_key.sign(&signing.effect).map_err(Cause::new);
    let sent = sent(signing.signed(signature, shared, context()));
    let body = String::from_utf8(sent.effect.request.body().as_ref().to_vec()).unwrap();
    let assertion = body.split("client_assertion=").nth(1).unwrap().to_owned();
    let planted = Planted::new(&[&assertion]);
    planted.are_not_shown(&[&sent]);
    let refusal = response(
        400,
        &json!({ "error": format!("bad {assertion}") }).to_string(),
    );
    let Step::Done(Err(error)) = sent.received(&refusal, shared, context()) else {
        panic!("no refusal")
    };
    assert!(error.to_string().contains("bad [redacted]"), "{error}");
    planted.are_not_told(&error);
}

#[test]
fn no_step_of_a_call_shows_the_token_or_its_proof() {
    let (mut world, operation) = about_to(token_answer(), auths().remove(0));
    let token = world.run(operation).unwrap();
    let uri: Uri = RESOURCE_URL.parse().unwrap();
    let call = token.authorize(&Method::GET, &uri).unwrap();
    let planted = all();
    planted.are_not_shown(&[&call]);
    let context = world.context();
    let Step::Sign(signing) = world.shared.start(call, context) else {
        panic!("there is a key to prove")
    };
    planted.are_not_shown(&[&signing]);
    let signature = world.key.sign(&signing.effect).map_err(Cause::new);
    let context = world.context();
    let Step::Call(mut call) = signing.signed(signature, &mut world.shared, context) else {
        panic!("one signature is enough")
    };
    planted.are_not_shown(&[&call, &call.effect, &call.effect.headers]);
    let mut map = HeaderMap::new();
    call.effect.headers.apply(&mut map);
    let proof = map["dpop"].to_str().unwrap().to_owned();
    for planted in [planted, Planted::new(&[&proof])] {
        planted.are_not_shown(&[&map, &call, &world.shared]);
    }
    let head = with_header(response(401, ""), "dpop-nonce", "n");
    let context = world.context();
    let (status, headers) = (head.status(), head.headers());
    let next = call.received(status, headers, &mut world.shared, context);
    all().are_not_shown(&[&next]);
    let Step::Call(call) = world.step(next) else {
        panic!("it is sent with the nonce")
    };
    let context = world.context();
    let ok = http::StatusCode::OK;
    let Step::Done(Ok(delivered)) = call.received(ok, headers, &mut world.shared, context) else {
        panic!("it has its response")
    };
    all().are_not_shown(&[&delivered]);
}

/// A secret may be wrong as an argument; it is a secret still.
#[test]
fn no_invalid_input_quotes_its_argument() {
    let spoiled = |text: &str| secret(&format!("{text}\n"));
    let jwk = json!({ "kty": "EC", "crv": "P-256", "x": PARAM, "y": PARAM, "d": CLIENT_SECRET });
    let with_password = format!("https://app:{PARAM}@as.example/token");
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{ACCESS_TOKEN}\n-----END PRIVATE KEY-----");
    let twice = || {
        Grant::extension("x")?
            .param("assertion", "1")?
            .secret_param("assertion", secret(PARAM))
    };
    let misuses = [
        ClientAuth::bearer(spoiled(BEARER)).unwrap_err(),
        ClientAuth::basic("", secret(CLIENT_SECRET)).unwrap_err(),
        Endpoint::https(&with_password).unwrap_err(),
        ProofVerifier::default().url(&with_password).unwrap_err(),
        PublicJwk::from_json(jwk.to_string().as_bytes()).unwrap_err(),
        PublicJwk::from_json(ACCESS_TOKEN.as_bytes()).unwrap_err(),
        SigningKey::from_pkcs8_pem(&pem).unwrap_err(),
        SigningKey::from_pkcs8_der(ACCESS_TOKEN.as_bytes()).unwrap_err(),
        keybound_core::dpop::Nonce::new(spoiled(PARAM).expose()).unwrap_err(),
        keybound_core::driver::ServerState::from_json(ACCESS_TOKEN, START).unwrap_err(),
        keybound_core::PendingAuthorization::from_json(ACCESS_TOKEN).unwrap_err(),
        keybound_core::Scope::new(spoiled(PARAM).expose()).unwrap_err(),
        client(auths().remove(0))
            .header("x-key", spoiled(CLIENT_SECRET).expose())
            .unwrap_err(),
        twice().unwrap_err(),
    ];
    for invalid in misuses {
        all().are_not_told(&invalid);
    }
}

#[test]
fn a_private_key_shows_its_public_half_alone() {
    for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
        let key = SigningKey::generate(algorithm).unwrap();
        let (pem, der, jwk) = (key.to_pkcs8_pem(), key.to_pkcs8_der(), key.to_jwk());
        let members: Value = serde_json::from_str(jwk.expose()).unwrap();
        let scalar = URL_SAFE_NO_PAD
            .decode(members["d"].as_str().unwrap())
            .unwrap();
        let bytes = [format!("{scalar:?}"), format!("{:?}", der.expose())];
        let bytes = bytes.iter().map(|bytes| bytes.trim_matches(['[', ']']));
        let lines = pem.expose().lines().filter(|line| !line.starts_with('-'));
        let hidden: Vec<&str> = bytes.chain(lines).chain(members["d"].as_str()).collect();
        Planted::new(&hidden).are_not_shown(&[&key, &pem, &jwk, &der, key.public()]);
    }
}

#[test]
fn a_proof_and_its_inspection_show_nothing_that_could_be_replayed() {
    let mut world = World::with(Peer::bound());
    let (method, uri) = (Method::GET, RESOURCE_URL.parse::<Uri>().unwrap());
    let token = secret(ACCESS_TOKEN);
    let context = world.context();
    let builder = Proof::build(world.key.public(), &method, &uri)
        .unwrap()
        .access_token(&token);
    let signing = builder.clone().prepare(context);
    all().are_not_shown(&[&builder, &signing]);
    if let Signing::Needs(unsigned) = &signing {
        all().are_not_shown(&[unsigned]);
    }
    let own = signing.finish(|request| world.key.sign(request)).unwrap();

    let relayed = Maker::new().proof();
    let signature = relayed.rsplit_once('.').unwrap().1;
    let verifier = ProofVerifier::default().access_token(&token);
    let sound = ProofVerifier::default().verify(&relayed, START);
    let relay = TreasuryPrime::sandbox(auths().remove(0));
    let operation = relay
        .uxt_access_token("psn_1", sound.verified().unwrap())
        .unwrap();
    let unsound = verifier.verify(&relayed, START);
    let planted = Planted::new(&[&relayed, signature, own.as_str(), ACCESS_TOKEN]);
    planted.are_not_shown(&[
        &own,
        &verifier,
        &sound,
        &unsound,
        &sound.verified(),
        &operation,
    ]);
    planted.are_not_shown(&[&own.into_header()]);
    let error = World::scripted(
        Peer::bearer(),
        [response(400, &json!({ "error": relayed }).to_string())],
    )
    .run(operation)
    .unwrap_err();
    planted.are_not_told(&error);
}

/// What a server may send back of what it was sent.
fn echoes(auth: &ClientAuth) -> Vec<String> {
    let operation = client(auth.clone()).token(grant()).unwrap();
    let request = outgoing(operation).request;
    let body = String::from_utf8(request.body().as_ref().to_vec()).unwrap();
    let torn = format!("{}\u{7}{}", &REFRESH_TOKEN[..9], &REFRESH_TOKEN[9..]);
    let long = format!("{} {PARAM}", "x".repeat(240));
    let headers = request
        .headers()
        .values()
        .map(|value| value.to_str().unwrap().to_owned());
    [body, torn, long, format!("{REFRESH_TOKEN}{PARAM}")]
        .into_iter()
        .chain(headers)
        .collect()
}

fn refusals(echo: &str) -> Vec<Response<Vec<u8>>> {
    let objects: [Value; 8] = [
        json!({ "error": echo }),
        json!({ "error": "invalid_request", "error_description": echo, "error_uri": echo }),
        json!({ "error": { "message": echo, "type": echo } }),
        json!({ "error": { "field": echo } }),
        json!({ "scope": echo, "nested": { "field": [echo, echo] } }),
        json!({ echo: "is odd" }),
        json!({ "message": echo }),
        json!({ "access_token": [echo], echo: echo }),
    ];
    let bodies = objects
        .iter()
        .map(ToString::to_string)
        .chain([echo.to_owned(), format!("<p>{echo}</p>")]);
    let one_line: String = echo.chars().filter(|c| !c.is_control()).collect();
    bodies
        .flat_map(|body| [200, 307, 400, 401, 422, 503].map(|status| response(status, &body)))
        .map(|answer| {
            with_header(
                with_header(answer, "x-request-id", &one_line),
                "content-type",
                &one_line,
            )
        })
        .collect()
}

#[test]
fn a_token_that_the_server_repeats_under_another_name_is_not_shown() {
    let answer = json!({
        "access_token": ACCESS_TOKEN,
        "refresh_token": REFRESH_TOKEN,
        "token_type": format!("my{ACCESS_TOKEN}"),
        "scope": format!("read {REFRESH_TOKEN}"),
    });
    let answer = with_header(json_response(200, &answer), "x-request-id", ACCESS_TOKEN);
    let auth = ClientAuth::none("app").unwrap();
    let token = answered(client(auth).token(grant()).unwrap(), answer).unwrap();
    all().are_not_shown(&[&token]);
    assert!(
        format!("{token:?}").contains("read [redacted]"),
        "{token:?}"
    );
}

#[test]
fn what_the_server_echoes_is_struck_out_wherever_it_stands() {
    for auth in auths() {
        for refusal in echoes(&auth).iter().flat_map(|echo| refusals(echo)) {
            let operation = client(auth.clone()).token(grant()).unwrap().max_attempts(1);
            if let Err(error) = answered(operation, refusal) {
                all().are_not_told(&error);
            }
        }
    }
}

#[test]
fn no_response_shows_no_secret() {
    let mut world = World::losing(Peer::bearer(), Sent::Maybe);
    let operation = client(auths().remove(0)).token(grant()).unwrap();
    let error = world.run(operation).unwrap_err();
    assert!(matches!(error, Error::NoResponse(_)));
    all().are_not_told(&error);
}

#[test]
fn whatever_carries_a_secret_in_a_header_is_marked_sensitive() {
    for auth in auths() {
        let request = outgoing(client(auth).token(grant()).unwrap()).request;
        for name in ["authorization", "x-api-key"] {
            assert!(
                request
                    .headers()
                    .get(name)
                    .is_none_or(http::HeaderValue::is_sensitive),
                "{name}"
            );
        }
    }
}

/// What the server says of a token, a device or a person is as secret as they are.
#[test]
fn no_other_answer_shows_what_it_was_about() {
    let planted = Planted::new(&[ACCESS_TOKEN, REFRESH_TOKEN, PARAM]);
    let client = client(auths().remove(0))
        .introspection_endpoint(endpoint("https://as.example/introspect"))
        .device_authorization_endpoint(endpoint("https://as.example/device"));
    let about = json!({ "active": true, "sub": PARAM, "username": PARAM });
    let introspection = done(
        client.introspect(secret(ACCESS_TOKEN), None).unwrap(),
        &about,
    );
    planted.are_not_shown(&[&introspection]);

    let codes = json!({
        "device_code": PARAM,
        "user_code": REFRESH_TOKEN,
        "verification_uri": "https://as.example/device",
        "verification_uri_complete": format!("https://as.example/device?code={REFRESH_TOKEN}"),
        "expires_in": 600,
    });
    let device = done(client.device_authorization(None).unwrap(), &codes);
    planted.are_not_shown(&[
        &device,
        &device.grant(),
        &client.token(device.grant()).unwrap(),
    ]);

    let revoked = done(
        client.revoke(secret(ACCESS_TOKEN), None).unwrap(),
        &json!({ "note": ACCESS_TOKEN }),
    );
    planted.are_not_shown(&[&revoked]);
}

#[test]
fn an_id_token_shows_nobody_before_and_after_it_is_verified() {
    let issuer = Theirs::new(Algorithm::Es256);
    let now = START.as_secs();
    let claims = json!({ "iss": ISSUER, "sub": PARAM, "aud": "app", "exp": now + 60, "iat": now, "nonce": REFRESH_TOKEN });
    let jws = issuer.jws(&json!({ "alg": "ES256" }), &claims);
    let answer = json!({ "access_token": ACCESS_TOKEN, "id_token": jws });
    let token = done(
        Client::new(endpoint(TOKEN_URL), auths().remove(0))
            .token(grant())
            .unwrap(),
        &answer,
    );
    let expected = IdTokenValidation::new(&Issuer::https(ISSUER).unwrap(), "app")
        .nonce(Some(REFRESH_TOKEN.into()));
    let unverified = token.id_token().unwrap();
    let planted = Planted::new(&[PARAM, ACCESS_TOKEN, &jws]);
    planted.are_not_shown(&[&token, &unverified, &expected]);
    let keys = crate::id_token::keys_of(&issuer);
    planted.are_not_shown(&[&unverified.verify(&expected, &keys, START).unwrap(), &keys]);
    let problem = unverified
        .verify(&expected.nonce(Some("another".into())), &keys, START)
        .unwrap_err();
    planted.are_not_told(&problem);
}

#[test]
fn a_session_shows_none_of_its_tokens_and_stored_state() {
    let planted = all();
    let (mut world, operation) = about_to(token_answer(), auths().remove(0));
    let token = world.run(operation).unwrap();
    let state = SessionState::new(token.clone());
    planted.are_not_shown(&[&state, &state.to_json()]);

    let configs = |world: &World| {
        let config = || SessionConfig::new(world.client()).stored_as("s");
        [
            config().grant(grant()),
            config().token(token.clone()),
            config().state(Some(state.clone())),
        ]
    };
    for at in 0..3 {
        world.storage.states.clear();
        world.peer.script.clear();
        let config = configs(&world)[at].clone();
        planted.are_not_shown(&[&config]);
        let session = world.shared.open(config, world.now);
        planted.are_not_shown(&[&world.shared, &session]);
        let context = world.context();
        let first = world
            .shared
            .start(session.token(Duration::from_secs(60)), context);
        planted.are_not_shown(&[&first]);
        let refused = response(400, &json!({ "error": REFRESH_TOKEN }).to_string());
        world
            .peer
            .script
            .extend([refused, token_answer()].map(crate::peer::ScriptedResponse::Response));
        for _ in 0..2 {
            while let Some(refresh) = world.shared.next_refresh(session) {
                watched(&mut world, refresh).unwrap();
            }
            world.sleep(10);
            let _ = watched(&mut world, session.token(Duration::ZERO));
            while let Some(event) = world.shared.next_event() {
                planted.are_not_shown(&[&event]);
                match &event {
                    Event::RefreshFailed(event) => {
                        planted.are_not_shown(&[event]);
                        planted.are_not_told(&event.error);
                    }
                    Event::TokenRefreshed(event) => planted.are_not_shown(&[event]),
                    _ => {}
                }
            }
        }
        let out = watched(&mut world, session.log_out()).unwrap();
        assert!(out.is_some(), "{at}");
    }

    let client = world.client();
    let invalid = SessionState::from_json(ACCESS_TOKEN.as_bytes(), &client, START).unwrap_err();
    planted.are_not_told(&invalid);
}

#[test]
fn what_is_drawn_at_random_is_not_shown_before_it_is_used() {
    let entropy = *b"16 random bytes.";
    let planted = Planted::new(&["16 random bytes."]);
    planted.are_not_shown(&[&keybound_core::driver::RequestContext::new(START, entropy)]);
    let mut seen = keybound_core::dpop::ReplayCache::new(8);
    let relayed = Maker::new().claim("jti", json!(PARAM)).proof();
    let proof = ProofVerifier::default()
        .verify(&relayed, START)
        .verified()
        .unwrap();
    seen.check_and_insert(&proof, START).unwrap();
    let replay = seen.check_and_insert(&proof, START).unwrap_err();
    Planted::new(&[PARAM]).are_not_shown(&[&seen, &replay]);
}

/// What a redirect brings may be forged, and ends up in logs all the same: the code and the state are not in it.
#[test]
fn a_redirect_that_is_refused_shows_neither_code_nor_state() {
    let world = World::with(Peer::bound());
    let builder = world
        .client()
        .authorization("https://app.example/cb")
        .unwrap();
    let request = builder.clone().build([3; 32]).unwrap();
    let state = request.pending.state();
    let planted = Planted::new(&[PARAM, &state]);
    planted.are_not_shown(&[&builder, &request.pending]);
    for query in [
        format!(
            "error=access_denied&error_description=no&state={state}&iss=https%3A%2F%2Fas.example&code={PARAM}"
        ),
        format!("code={PARAM}&state={state}&iss=https%3A%2F%2Felsewhere.example"),
        format!("code={PARAM}&code={PARAM}&state={state}"),
        format!("code={PARAM}&state=another"),
        format!("state={state}&iss=https%3A%2F%2Fas.example"),
    ] {
        let error = request
            .pending
            .receive(&format!("https://app.example/cb?{query}"))
            .unwrap_err();
        if let RedirectError::Denied(denial) = &error {
            planted.are_not_shown(&[denial]);
        }
        planted.are_not_told(&error);
    }
}

/// What an exchange makes of a success.
fn done<T: FromResponse>(operation: Operation<T>, answer: &Value) -> T {
    match answered(operation, json_response(200, answer)) {
        Ok(Answered::Done(done)) => done,
        Ok(Answered::Again(_)) => panic!("it is there"),
        Err(error) => panic!("{error}"),
    }
}

/// Types that hold nothing secret: what anybody may see, settings, times, names.
const PUBLIC: &[(&str, &str)] = &[
    (
        "Recorder",
        "can't be seen; `recordings::secrets` searches its lines",
    ),
    ("Replay", "has stand-ins"),
    ("ReplayError", "has lines with stand-ins"),
    ("Algorithm", "a name"),
    ("Answer", "can't be printed"),
    ("Attempt", "an origin, a number and a label"),
    ("BodyFormat", "a setting"),
    ("Cause", "an error of the driver's own"),
    ("Challenge", "what a server says to everybody"),
    (
        "ProofClaims",
        "of a proof that was presented, as its reader wants to see them",
    ),
    ("Effect", "a part of `Step`, which is looked at"),
    ("Endpoint", "a URL, and none with user information"),
    ("Erased", "shows nothing of its task"),
    (
        "EndpointRequest",
        "a part of `Operation`, which is looked at",
    ),
    ("Expected", "a part of `Operation`, which doesn't show it"),
    ("FetchToken", "a time"),
    ("FlowFailure", "an error, and both kinds are looked at"),
    ("LeaseAwaited", "a time and a label"),
    ("LeaseRequest", "a name and a time"),
    ("LoadRequest", "a name"),
    ("LoginLost", "a label and an error"),
    ("Next", "a part of `Step`, which is looked at"),
    ("ParseError", "names"),
    ("Reason", "a name and a status"),
    ("RefreshPurpose", "a name"),
    ("ReleaseRequest", "a name"),
    ("Running", "shows a number alone"),
    ("Retrying", "a name, a status and a time"),
    ("Server", "URLs"),
    ("SuccessResponse", "can't be printed"),
    ("Until", "a time and a number"),
    ("ExpiresIn", "a setting"),
    ("IdTokenError", "a name"),
    ("Issuer", "a URL"),
    ("Metadata", "what a server says to everybody"),
    ("Nonce", "a server's, for everybody who asks"),
    ("Origin", "what Moov calls the website of an account"),
    ("ProofError", "a name"),
    ("ProtectedResource", "what a resource says to everybody"),
    ("RefreshPolicy", "times"),
    ("ReplayError", "a name"),
    ("Retry", "a name and a time"),
    ("Role", "a name"),
    ("Scope", "names of what is allowed"),
    ("Sent", "a name"),
    (
        "Signature",
        "says nothing without what was signed, which `SignRequest` doesn't show",
    ),
    (
        "StorageUnavailable",
        "a label and an error of the driver's own",
    ),
    ("StepUp", "what a resource asks for"),
    ("TaskContext", "can't be printed"),
    ("TokenType", "a name"),
    ("TokenTypeHint", "a name"),
    ("UnixTime", "a time"),
    ("Version", "a date"),
    ("Warning", "a name"),
];

/// Whoever adds a public type plants a secret in it, or says above that it can hold none.
#[test]
fn every_public_type_has_been_looked_at() {
    let looked_at = looked_at_by(&[
        what_a_client_is_made_of_shows_no_secret,
        no_step_of_an_operation_shows_a_secret_or_its_proof,
        a_person_who_is_away_is_waited_for_without_showing_the_verifier,
        an_assertion_is_shown_nowhere_and_struck_out_of_what_comes_back,
        no_step_of_a_call_shows_the_token_or_its_proof,
        no_invalid_input_quotes_its_argument,
        a_private_key_shows_its_public_half_alone,
        a_proof_and_its_inspection_show_nothing_that_could_be_replayed,
        what_the_server_echoes_is_struck_out_wherever_it_stands,
        no_response_shows_no_secret,
        no_other_answer_shows_what_it_was_about,
        an_id_token_shows_nobody_before_and_after_it_is_verified,
        a_session_shows_none_of_its_tokens_and_stored_state,
        what_is_drawn_at_random_is_not_shown_before_it_is_used,
        a_redirect_that_is_refused_shows_neither_code_nor_state,
    ]);
    let known: BTreeSet<String> = PUBLIC
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .chain(looked_at)
        .collect();
    let public = public_types(Path::new(env!("CARGO_MANIFEST_DIR")));
    let missing: Vec<_> = public.difference(&known).collect();
    assert!(missing.is_empty(), "plant a secret in these: {missing:?}");
    let stale: Vec<_> = PUBLIC
        .iter()
        .filter(|(name, _)| !public.contains(*name))
        .collect();
    assert!(stale.is_empty(), "{stale:?}");
}
