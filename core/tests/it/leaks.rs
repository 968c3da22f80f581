//! Secrets are planted wherever one can stand, and looked for in whatever can be printed.

use std::collections::BTreeSet;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, Method, Response, Uri};
use keybound_core::dpop::{Proof, ProofVerifier};
use keybound_core::driver::{
    PreparedCall, PreparedRequest, SessionState, Signing, Step, TokenAction, TokenManager,
};
use keybound_core::jose::{Algorithm, PublicJwk, SigningKey};
use keybound_core::provider::moov::Moov;
use keybound_core::provider::treasury_prime::TreasuryPrime;
use keybound_core::{
    Client, ClientAuth, Endpoint, Error, Grant, IdTokenValidation, Issuer, Operation,
    RedirectError, RefreshPolicy, Secret, Sent, Token,
};
use serde_json::{Value, json};

use crate::maker::Maker;
use crate::peer::{ISSUER, Peer, json_response, response, with_header};
use crate::planted::{Planted, looked_at_by};
use crate::rustcrypto::Theirs;
use crate::sources::public_types;
use crate::world::{RESOURCE_URL, START, TOKEN_URL, World, answered, endpoint, outgoing};

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

#[test]
fn no_step_of_an_operation_shows_a_secret_or_its_proof() {
    let planted = all();
    for auth in auths() {
        let (mut world, operation) = about_to(token_answer(), auth);
        planted.are_not_shown(&[&operation]);
        let context = world.context();
        let Ok(Signing::Needs(unsigned)) = operation.prepare(&world.server_state, context) else {
            panic!("there is a key to prove")
        };
        let input = std::str::from_utf8(unsigned.request().message())
            .unwrap()
            .to_owned();
        for planted in [&planted, &Planted::new(&[&input])] {
            planted.are_not_shown(&[&unsigned, unsigned.request()]);
        }
        let signature = world.key.sign(unsigned.request()).unwrap();
        let signing = unsigned.resume(signature).unwrap();
        planted.are_not_shown(&[&signing]);
        let Signing::Ready(outgoing) = signing else {
            panic!("one signature is enough")
        };
        let proof = outgoing.request.headers()["dpop"]
            .to_str()
            .unwrap()
            .to_owned();
        let proof = Planted::new(&[&proof, input.split_once('.').unwrap().1]);
        for planted in [&planted, &proof] {
            planted.are_not_shown(&[
                &outgoing,
                outgoing.request.headers(),
                outgoing.request.body(),
            ]);
        }
        let PreparedRequest { pending, .. } = outgoing;
        planted.are_not_shown(&[&pending]);
        let received = pending
            .receive(token_answer(), &mut world.server_state, START)
            .unwrap();
        planted.are_not_shown(&[&received, &world.server_state]);
        let Step::Done(token) = received else {
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
    let (server_state, context) = (
        keybound_core::driver::ServerState::new(),
        keybound_core::driver::RequestContext::new(START, [1; 16]),
    );
    let Ok(Signing::Needs(unsigned)) = client
        .token(grant())
        .unwrap()
        .prepare(&server_state, context)
    else {
        panic!("the assertion comes first")
    };
    let input = std::str::from_utf8(unsigned.request().message())
        .unwrap()
        .to_owned();
    let signature = client_key.sign(unsigned.request()).unwrap();
    Planted::new(&[&input]).are_not_shown(&[&client, &auth, &unsigned]);
    let Ok(Signing::Needs(unsigned)) = unsigned.resume(signature) else {
        panic!("the proof comes next")
    };
    Planted::new(&[&input]).are_not_shown(&[&unsigned]);
    let signature = proof_key.sign(unsigned.request()).unwrap();
    let Ok(Signing::Ready(outgoing)) = unsigned.resume(signature) else {
        panic!("both are there")
    };
    let body = String::from_utf8(outgoing.request.body().as_ref().to_vec()).unwrap();
    let assertion = body.split("client_assertion=").nth(1).unwrap().to_owned();
    let planted = Planted::new(&[&assertion]);
    planted.are_not_shown(&[&outgoing]);
    let refusal = response(
        400,
        &json!({ "error": format!("bad {assertion}") }).to_string(),
    );
    let Err(error) = outgoing.pending.receive(
        refusal,
        &mut keybound_core::driver::ServerState::new(),
        START,
    ) else {
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
    let signing = call.prepare(&world.server_state, context).unwrap();
    planted.are_not_shown(&[&signing]);
    let authorized = signing.finish(|request| world.key.sign(request)).unwrap();
    planted.are_not_shown(&[&authorized]);
    let PreparedCall { headers, pending } = authorized;
    let mut map = HeaderMap::new();
    planted.are_not_shown(&[&headers]);
    headers.apply(&mut map);
    let proof = map["dpop"].to_str().unwrap().to_owned();
    for planted in [planted, Planted::new(&[&proof])] {
        planted.are_not_shown(&[&map, &pending]);
    }
    let head = with_header(response(401, ""), "dpop-nonce", "n");
    let judged = pending
        .verdict(
            head.status(),
            head.headers(),
            &mut world.server_state,
            START,
        )
        .unwrap();
    all().are_not_shown(&[&judged]);
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

    let mut fresh = TokenManager::new(RefreshPolicy::default(), Some(grant()));
    let TokenAction::Refresh(mut ticket) = fresh.poll(START) else {
        panic!("there is no token yet")
    };
    let attempt = fresh.begin_refresh(&mut ticket).unwrap();
    planted.are_not_shown(&[&fresh, &ticket, &attempt]);
    let manager = TokenManager::new(RefreshPolicy::default(), None).with_state(state);
    planted.are_not_shown(&[&manager]);
    let mut manager = manager;
    planted.are_not_shown(&[&manager.poll(START), &manager.snapshot()]);

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
fn done<T>(operation: Operation<T>, answer: &Value) -> T {
    match answered(operation, json_response(200, answer)) {
        Ok(Step::Done(done)) => done,
        Ok(Step::RetryAfter(_)) => panic!("it is there"),
        Err(error) => panic!("{error}"),
    }
}

/// Types that hold nothing secret: what anybody may see, settings, times, names.
const PUBLIC: [(&str, &str); 32] = [
    ("Algorithm", "a name"),
    ("BodyFormat", "a setting"),
    ("Challenge", "what a server says to everybody"),
    (
        "ProofClaims",
        "of a proof that was presented, as its reader wants to see them",
    ),
    (
        "UnsignedRequest",
        "a step of `Unsigned`, which is looked at",
    ),
    ("Endpoint", "a URL, and none with user information"),
    ("ExpiresIn", "a setting"),
    ("RefreshFailure", "whether something is used up, and a time"),
    ("IdTokenError", "a name"),
    ("Issuer", "a URL"),
    ("Metadata", "what a server says to everybody"),
    ("Nonce", "a server's, for everybody who asks"),
    ("Origin", "what Moov calls the website of an account"),
    ("NonceOutcome", "whether a nonce was taken"),
    ("Permit", "an origin and a number"),
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
    ("StepUp", "what a resource asks for"),
    ("TokenType", "a name"),
    ("TokenTypeHint", "a name"),
    ("Admission", "an origin and a number"),
    ("NonceGate", "origins and numbers"),
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
