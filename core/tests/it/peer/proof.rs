//! Checking a proof by RustCrypto's P-256 and by what stands here, and by nothing of keybound's.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::{EncodedPoint, FieldBytes};
use serde_json::{Map, Value};

/// How old a proof may be. In virtual time it is made in the very second in which it arrives.
const MAX_AGE: u64 = 5;

/// What a proof must say of the request that it came with.
pub(crate) struct Expected<'a> {
    pub(crate) method: &'a str,
    pub(crate) htu: String,
    pub(crate) now: u64,
    /// The access token; at a resource server only.
    pub(crate) token: Option<&'a str>,
}

/// What is left to judge when all that follows from the request has been found right.
pub(crate) struct Claims {
    pub(crate) jti: String,
    pub(crate) iat: u64,
    pub(crate) nonce: Option<String>,
    /// The members of the key, as they stand.
    pub(crate) key: Value,
}

/// Panics unless the proof is all that RFC 9449 §4.2 and §4.3 ask for, and no more.
pub(crate) fn check(proof: &str, expected: &Expected<'_>) -> Claims {
    let parts: Vec<&str> = proof.split('.').collect();
    let [header, payload, signature] = parts[..] else {
        panic!("a proof of {} parts", parts.len())
    };
    let signed = &proof[..header.len() + 1 + payload.len()];
    let (header, payload) = (object(header), object(payload));

    assert_eq!(names(&header), ["alg", "jwk", "typ"]);
    assert_eq!(
        (&header["typ"], &header["alg"]),
        (&"dpop+jwt".into(), &"ES256".into())
    );
    let jwk = header["jwk"].as_object().expect("a jwk");
    assert_eq!(names(jwk), ["crv", "kty", "x", "y"]);
    assert_eq!((&jwk["kty"], &jwk["crv"]), (&"EC".into(), &"P-256".into()));
    let coordinate = |name: &str| -> FieldBytes {
        <[u8; 32]>::try_from(decode(text(&jwk[name])))
            .expect("32 bytes")
            .into()
    };
    let point = EncodedPoint::from_affine_coordinates(&coordinate("x"), &coordinate("y"), false);
    let signature = Signature::from_slice(&decode(signature)).expect("R and S");
    VerifyingKey::from_encoded_point(&point)
        .expect("a point on P-256")
        .verify(signed.as_bytes(), &signature)
        .expect("the signature holds");

    let known = BTreeSet::from(["ath", "htm", "htu", "iat", "jti", "nonce"]);
    assert!(
        names(&payload).iter().all(|name| known.contains(name)),
        "a claim too many: {payload:?}"
    );
    assert_eq!(payload["htm"], expected.method);
    assert_eq!(payload["htu"], *expected.htu);
    let iat = payload["iat"].as_u64().expect("a whole number of seconds");
    assert!(
        iat <= expected.now,
        "iat {iat} lies ahead of {}",
        expected.now
    );
    assert!(
        expected.now - iat <= MAX_AGE,
        "iat {iat} is stale at {}",
        expected.now
    );
    let ath = expected
        .token
        .map(|token| URL_SAFE_NO_PAD.encode(sha256(token)));
    assert_eq!(payload.get("ath").map(text), ath.as_deref(), "ath");
    let jti = text(&payload["jti"]).to_owned();
    assert!(decode(&jti).len() >= 16, "a jti of too few bits");

    Claims {
        jti,
        iat,
        nonce: payload.get("nonce").map(|nonce| text(nonce).to_owned()),
        key: header["jwk"].clone(),
    }
}

fn object(part: &str) -> Map<String, Value> {
    serde_json::from_slice(&decode(part)).expect("a JSON object")
}

fn names(object: &Map<String, Value>) -> Vec<&str> {
    let mut names: Vec<&str> = object.keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

fn decode(part: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD
        .decode(part)
        .expect("base64url without padding")
}

fn sha256(text: &str) -> Vec<u8> {
    use p256::ecdsa::signature::PrehashSignature;
    use p256::ecdsa::signature::digest::Digest as _;
    <Signature as PrehashSignature>::Digest::digest(text.as_bytes()).to_vec()
}
