//! Id tokens as RustCrypto signs them, right and wrong, and the keys of their issuer.

use keybound_core::jose::Algorithm;
use keybound_core::{
    Error, Grant, IdToken, IdTokenError, IdTokenValidation, InvalidInput, InvalidResponseKind,
    Issuer, JwkSet, Token,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha384, Sha512};

use crate::peer::{ISSUER, Peer, json_response, response};
use crate::rustcrypto::{Theirs, encode};
use crate::world::{Answered, START, World, answered};

/// The keys at the issuer's `jwks_uri`.
fn keys(document: &Value) -> Result<JwkSet, Error> {
    let mut world = World::with(Peer::bearer());
    let metadata = json!({ "issuer": ISSUER, "jwks_uri": "https://as.example/jwks" });
    world.peer.documents.insert(
        "https://as.example/.well-known/oauth-authorization-server".into(),
        metadata,
    );
    world
        .peer
        .documents
        .insert("https://as.example/jwks".into(), document.clone());
    let metadata = world.run(Issuer::https(ISSUER)?.discover()?)?;
    world.run(metadata.keys()?)
}

pub(crate) fn keys_of(issuer: &Theirs) -> JwkSet {
    keys(&json!({ "keys": [issuer.jwk()] })).unwrap()
}

fn claims() -> Value {
    let now = START.as_secs();
    json!({ "iss": ISSUER, "sub": "alice", "aud": "app", "exp": now + 60, "iat": now, "nonce": "n-1" })
}

fn with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

fn header(alg: &str) -> Value {
    json!({ "typ": "JWT", "alg": alg })
}

/// A token whose answer has this id token; the access token is `access-1`.
fn token(id_token: &str) -> Token {
    let mut world = World::with(Peer::bearer());
    world
        .peer
        .token_members
        .insert("id_token".into(), json!(id_token));
    world.token(Grant::client_credentials()).unwrap()
}

fn verify(id_token: &str, keys: &JwkSet) -> Result<IdToken, IdTokenError> {
    let expected =
        IdTokenValidation::new(&Issuer::https(ISSUER).unwrap(), "app").nonce(Some("n-1".into()));
    token(id_token)
        .id_token()
        .expect("an id token")
        .verify(&expected, keys, START)
}

fn verify_claims(claims: &Value) -> Result<IdToken, IdTokenError> {
    let issuer = Theirs::new(Algorithm::Es256);
    verify(&issuer.jws(&header("ES256"), claims), &keys_of(&issuer))
}

#[test]
fn an_id_token_by_any_algorithm_is_verified_with_its_hash_of_the_access_token() {
    let half = |hash: &[u8]| encode(&hash[..hash.len() / 2]);
    for algorithm in Algorithm::ALL {
        let issuer = Theirs::new(*algorithm);
        let at_hash = match algorithm {
            Algorithm::Es384 => half(&Sha384::digest("access-1")),
            Algorithm::EdDsa | Algorithm::Ed25519 => half(&Sha512::digest("access-1")),
            _ => half(&Sha256::digest("access-1")),
        };
        let signed = |claims| issuer.jws(&header(algorithm.as_str()), &claims);
        let keys = keys_of(&issuer);
        let person = verify(
            &signed(with(json!({ "at_hash": at_hash, "email": "a@b" }))),
            &keys,
        )
        .unwrap();
        assert_eq!(
            (person.subject(), person.text("email")),
            ("alice", Some("a@b")),
            "{algorithm}"
        );
        assert!(!format!("{person:?}").contains("alice"));
        for other in [
            json!(half(&Sha256::digest("access-2"))),
            json!(""),
            json!(7),
        ] {
            let problem = verify(&signed(with(json!({ "at_hash": other }))), &keys).unwrap_err();
            assert_eq!(problem, IdTokenError::AccessToken, "{algorithm}");
        }
    }
}

#[test]
fn each_wrong_claim_is_its_id_token_error() {
    use IdTokenError::{Audience, Expired, FromTheFuture, Issuer, Malformed, Nonce};
    let now = START.as_secs();
    for (changes, expected) in [
        (json!({}), None),
        (json!({ "iss": "https://as.example/" }), Some(Issuer)),
        (json!({ "iss": null }), Some(Malformed)),
        (json!({ "sub": null }), Some(Malformed)),
        (json!({ "sub": "" }), Some(Malformed)),
        (json!({ "aud": "another" }), Some(Audience)),
        (json!({ "aud": ["app"] }), None),
        (json!({ "aud": [] }), Some(Audience)),
        (json!({ "aud": ["app", "another"] }), Some(Audience)),
        (json!({ "aud": ["app", "another"], "azp": "app" }), None),
        (
            json!({ "aud": ["app", "another"], "azp": "another" }),
            Some(Audience),
        ),
        (json!({ "azp": "another" }), Some(Audience)),
        (json!({ "azp": 7 }), Some(Audience)),
        (json!({ "aud": null }), Some(Malformed)),
        (json!({ "aud": 7 }), Some(Malformed)),
        (json!({ "exp": now - 59 }), None),
        (json!({ "exp": now - 60 }), Some(Expired)),
        (json!({ "exp": null }), Some(Malformed)),
        (json!({ "exp": "soon" }), Some(Malformed)),
        (json!({ "iat": now + 60 }), None),
        (json!({ "iat": now + 61 }), Some(FromTheFuture)),
        (json!({ "iat": null }), Some(Malformed)),
        (json!({ "nbf": now + 60 }), None),
        (json!({ "nbf": now + 61 }), Some(FromTheFuture)),
        (json!({ "nbf": "then" }), Some(Malformed)),
        (json!({ "nonce": "n-2" }), Some(Nonce)),
        (json!({ "nonce": null }), Some(Nonce)),
    ] {
        assert_eq!(
            verify_claims(&with(changes.clone())).err(),
            expected,
            "{changes}"
        );
    }
    let issuer = Theirs::new(Algorithm::Es256);
    let without = IdTokenValidation::new(&keybound_core::Issuer::https(ISSUER).unwrap(), "app");
    let token = token(&issuer.jws(&header("ES256"), &claims()));
    assert!(
        token
            .id_token()
            .unwrap()
            .verify(&without, &keys_of(&issuer), START)
            .is_ok()
    );
}

#[test]
fn an_id_token_of_somebody_else_is_refused() {
    let (issuer, other) = (Theirs::new(Algorithm::Es256), Theirs::new(Algorithm::Es384));
    let own = issuer.jws(&header("ES256"), &claims());
    assert_eq!(
        verify(&own, &keys_of(&other)).unwrap_err(),
        IdTokenError::Key
    );
    assert_eq!(
        verify(&own, &keys(&json!({ "keys": [] })).unwrap()).unwrap_err(),
        IdTokenError::Key
    );
    let (input, _) = own.rsplit_once('.').unwrap();
    let forged = with(json!({ "sub": "mallory" }));
    let (_, signature) = own.rsplit_once('.').unwrap();
    let forged = format!(
        "{}.{}.{signature}",
        encode(header("ES256").to_string()),
        encode(forged.to_string())
    );
    assert_eq!(
        verify(&forged, &keys_of(&issuer)).unwrap_err(),
        IdTokenError::Key
    );
    for (alg, problem) in [
        ("none", IdTokenError::Algorithm),
        ("HS256", IdTokenError::Algorithm),
        ("ES384", IdTokenError::Key),
        ("RS256", IdTokenError::Key),
    ] {
        let signed = issuer.jws(&header(alg), &claims());
        assert_eq!(
            verify(&signed, &keys_of(&issuer)).unwrap_err(),
            problem,
            "{alg}"
        );
    }
    let mut critical = header("ES256");
    critical["crit"] = json!(["exp"]);
    let signed = issuer.jws(&critical, &claims());
    assert_eq!(
        verify(&signed, &keys_of(&issuer)).unwrap_err(),
        IdTokenError::Algorithm
    );
    for malformed in [
        "",
        "a.b.c",
        input,
        &format!("{input}."),
        &format!("{own}.x"),
    ] {
        let problem = verify(&format!("{malformed} "), &keys_of(&issuer)).unwrap_err();
        assert_eq!(problem, IdTokenError::Malformed, "{malformed}");
    }
}

#[test]
fn a_token_of_another_kind_is_none_whoever_has_signed_it() {
    let issuer = Theirs::new(Algorithm::Es256);
    let named = |typ: Value| {
        let header = json!({ "alg": "ES256", "typ": typ });
        verify(&issuer.jws(&header, &claims()), &keys_of(&issuer)).err()
    };
    for typ in ["JWT", "jwt", "application/jwt"] {
        assert_eq!(named(json!(typ)), None, "{typ}");
    }
    for typ in [
        json!("at+jwt"),
        json!("logout+jwt"),
        json!("dpop+jwt"),
        json!(""),
        json!(7),
    ] {
        assert_eq!(named(typ.clone()), Some(IdTokenError::Type), "{typ}");
    }
    assert!(
        verify(
            &issuer.jws(&json!({ "alg": "ES256" }), &claims()),
            &keys_of(&issuer)
        )
        .is_ok()
    );
}

#[test]
fn a_key_that_names_its_algorithm_is_for_no_other() {
    let issuer = Theirs::new(Algorithm::Rs256);
    let signed = issuer.jws(&header("RS256"), &claims());
    for (alg, is_good) in [("RS256", true), ("PS256", false)] {
        let mut jwk = issuer.jwk();
        jwk["alg"] = json!(alg);
        let keys = keys(&json!({ "keys": [jwk] })).unwrap();
        assert_eq!(verify(&signed, &keys).is_ok(), is_good, "{alg}");
    }
}

#[test]
fn a_claim_that_stands_twice_is_no_claim() {
    let issuer = Theirs::new(Algorithm::Es256);
    let twice = claims()
        .to_string()
        .replacen('{', r#"{"sub":"mallory","#, 1);
    let twice_typed = header("ES256")
        .to_string()
        .replacen('{', r#"{"typ":"odd","#, 1);
    for (header, claims) in [
        (header("ES256").to_string(), twice),
        (twice_typed, claims().to_string()),
    ] {
        let input = format!("{}.{}", encode(header), encode(claims));
        let signed = format!("{input}.{}", encode(issuer.sign(input.as_bytes())));
        assert_eq!(
            verify(&signed, &keys_of(&issuer)).unwrap_err(),
            IdTokenError::Malformed
        );
    }
}

#[test]
fn the_key_is_the_one_that_is_named_and_keys_of_other_kinds_are_passed_over() {
    let issuer = Theirs::new(Algorithm::Es256);
    let named = |kid: &str| {
        let mut jwk = issuer.jwk();
        jwk["kid"] = json!(kid);
        jwk
    };
    let mut header = header("ES256");
    header["kid"] = json!("a");
    let signed = issuer.jws(&header, &claims());
    let encrypting = json!({ "kty": "EC", "crv": "P-256", "use": "enc", "x": "AA", "y": "AA" });
    let odd = json!({ "kty": "oct", "k": "AA" });
    for (set, is_good) in [
        (json!([encrypting, odd, 7, named("a")]), true),
        (json!([issuer.jwk()]), true),
        (json!([named("b")]), false),
        (json!([named("b"), named("a")]), true),
        (json!([encrypting, odd, null]), false),
    ] {
        let keys = keys(&json!({ "keys": set })).unwrap();
        assert_eq!(verify(&signed, &keys).is_ok(), is_good, "{set}");
    }
    for (bad, why) in [
        (json!({}), InvalidResponseKind::Missing("keys")),
        (
            json!({ "keys": 7 }),
            InvalidResponseKind::InvalidMember("keys"),
        ),
        (
            json!({ "keys": null }),
            InvalidResponseKind::InvalidMember("keys"),
        ),
    ] {
        let Err(Error::Response(bad)) = keys(&bad) else {
            panic!("{bad}")
        };
        assert_eq!(bad.kind(), &why);
    }
}

#[test]
fn an_issuer_without_a_place_for_its_keys_has_none() {
    let operation = Issuer::https(ISSUER).unwrap().discover().unwrap();
    let Ok(Answered::Done(metadata)) =
        answered(operation, json_response(200, &json!({ "issuer": ISSUER })))
    else {
        panic!("it is there")
    };
    assert_eq!(
        metadata.keys().map(drop).unwrap_err(),
        InvalidInput::MissingEndpoint("jwks_uri")
    );
    assert!(token("x").id_token().is_some());
    let mut plain = World::scripted(Peer::bearer(), [response(200, r#"{"access_token":"a"}"#)]);
    assert!(
        plain
            .token(Grant::client_credentials())
            .unwrap()
            .id_token()
            .is_none()
    );
}

#[test]
fn nothing_shows_an_id_token() {
    let token = token("eyJ.eyJ.c2ln-secret");
    assert!(!format!("{token:?} {:?}", token.id_token()).contains("secret"));
}

proptest! {
    #[test]
    fn no_id_token_panics(text in "\\PC{0,40}", payload in "\\{\"(iss|aud|exp)\":[0-9\"a-z\\[\\]]{0,9}\\}") {
        let issuer = Theirs::new(Algorithm::Es256);
        let input = format!("{}.{}", encode(header("ES256").to_string()), encode(payload));
        let signed = format!("{input}.{}", encode(issuer.sign(input.as_bytes())));
        let keys = keys_of(&issuer);
        for id_token in [format!("x{text}"), signed] {
            prop_assert!(verify(&id_token, &keys).is_err());
        }
    }
}
