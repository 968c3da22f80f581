//! Keys and thumbprints that RFCs have published. Their signatures are checked beside the code.

use http::{Method, Uri};
use keybound_core::dpop::{Proof, ProofVerifier};
use keybound_core::driver::RequestContext;
use keybound_core::jose::{Algorithm, PublicJwk, SigningKey};
use serde_json::Value;

use crate::rustcrypto::{RSA_JWK, decode, parse, thumbprint, verifies};
use crate::world::START;

fn rfcs() -> Value {
    serde_json::from_str(include_str!("../vectors/jose-rfcs.json")).unwrap()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

/// Whether proofs by this key hold, by our judgement and by RustCrypto's.
fn signs(key: &SigningKey) -> bool {
    let uri = Uri::from_static("https://as.example/token");
    let proof = Proof::build(key.public(), &Method::POST, &uri)
        .unwrap()
        .prepare(RequestContext::new(START, [5; 16]))
        .finish(|request| key.sign(request))
        .unwrap();
    let (input, signature) = proof.as_str().rsplit_once('.').unwrap();
    let header = parse(input.split('.').next().unwrap());
    ProofVerifier::default()
        .verify(proof.as_str(), START)
        .is_valid()
        && verifies(
            header["alg"].as_str().unwrap(),
            &header["jwk"],
            input.as_bytes(),
            &decode(signature),
        )
}

#[test]
fn the_thumbprints_of_rfc_7638_8037_and_9449_are_ours() {
    for vector in list(&rfcs()["thumbprints"]) {
        let key = PublicJwk::from_json(vector["jwk"].to_string().as_bytes()).unwrap();
        assert_eq!(vector["sha256"], key.thumbprint(), "{}", vector["id"]);
        assert_eq!(thumbprint(&vector["jwk"]), key.thumbprint());
        assert_eq!(vector["jwk"]["kid"].as_str(), key.kid());
    }
}

#[test]
fn the_private_keys_of_rfcs_are_taken_and_sign() {
    for vector in list(&rfcs()["jws"]) {
        let jwk = vector["key"].to_string();
        let key = SigningKey::from_jwk(jwk.as_bytes());
        // P-521 is not supported.
        if vector["id"] == "rfc7515-A.4" {
            assert_eq!(key.unwrap_err().argument(), "jwk");
            continue;
        }
        let key = key.unwrap();
        assert_eq!(vector["alg"], key.public().algorithm().as_str());
        assert_eq!(key.public().thumbprint(), thumbprint(&vector["key"]));
        assert!(signs(&key), "{}", vector["id"]);
        // A private key is nothing that can be public.
        assert!(PublicJwk::from_json(jwk.as_bytes()).is_err());
    }
}

#[test]
fn the_public_key_of_rfc_8037_a_2_is_the_one_of_a_1() {
    let (file, vectors) = (rfcs(), include_str!("../vectors/curve25519/jws.json"));
    let cookbook: Value = serde_json::from_str(vectors).unwrap();
    let private = SigningKey::from_jwk(cookbook["input"]["key"].to_string().as_bytes()).unwrap();
    let public =
        PublicJwk::from_json(file["thumbprints"][1]["jwk"].to_string().as_bytes()).unwrap();
    assert_eq!(private.public(), &public);
}

#[test]
fn the_rsa_key_of_rfc_7520_goes_through_every_form_by_both_algorithms() {
    let imported = || SigningKey::from_jwk(RSA_JWK.as_bytes()).unwrap();
    let public = include_bytes!("../vectors/jwk/3_3.rsa_public_key.json");
    assert_eq!(imported().public(), &PublicJwk::from_json(public).unwrap());
    assert_eq!(
        imported().public().kid(),
        Some("bilbo.baggins@hobbiton.example")
    );
    assert_eq!(imported().public().algorithm(), Algorithm::Rs256);
    for algorithm in [Algorithm::Rs256, Algorithm::Ps256] {
        let key = imported().with_algorithm(algorithm).unwrap();
        assert!(signs(&key), "{algorithm}");
        assert_eq!(key.public().thumbprint(), imported().public().thumbprint());

        let from_jwk = SigningKey::from_jwk(key.to_jwk().expose().as_bytes()).unwrap();
        assert_eq!(from_jwk.public(), key.public());
        assert_eq!(from_jwk.public().kid(), key.public().kid());
        assert!(signs(&from_jwk), "{algorithm}");

        // PKCS#8 says neither `alg` nor `kid`.
        let from_pem = SigningKey::from_pkcs8_pem(key.to_pkcs8_pem().expose()).unwrap();
        assert_eq!(from_pem.public(), imported().public());
        assert_eq!(from_pem.public().kid(), None);
        let from_der = SigningKey::from_pkcs8_der(key.to_pkcs8_der().expose())
            .unwrap()
            .with_algorithm(algorithm)
            .unwrap();
        assert_eq!(from_der.public(), key.public());
        assert!(signs(&from_der), "{algorithm}");
        assert_eq!(
            from_der.to_pkcs8_der().expose(),
            key.to_pkcs8_der().expose()
        );
    }
    for algorithm in [
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
        Algorithm::Ed25519,
    ] {
        assert_eq!(
            imported().with_algorithm(algorithm).unwrap_err().argument(),
            "algorithm"
        );
        assert!(imported().public().with_algorithm(algorithm).is_err());
    }
}

#[test]
fn rustcrypto_reads_our_pkcs8_and_writes_the_same() {
    use rsa::pkcs8::{DecodePrivateKey as _, EncodePrivateKey as _};
    let key = SigningKey::from_jwk(RSA_JWK.as_bytes()).unwrap();
    let theirs = rsa::RsaPrivateKey::from_pkcs8_der(key.to_pkcs8_der().expose()).unwrap();
    assert_eq!(
        theirs.to_pkcs8_der().unwrap().as_bytes(),
        key.to_pkcs8_der().expose()
    );
    let pem = theirs.to_pkcs8_pem(rsa::pkcs8::LineEnding::LF).unwrap();
    assert_eq!(pem.as_str(), key.to_pkcs8_pem().expose());
    let windows = theirs.to_pkcs8_pem(rsa::pkcs8::LineEnding::CRLF).unwrap();
    assert_eq!(
        SigningKey::from_pkcs8_pem(&windows).unwrap().public(),
        key.public()
    );
}

#[test]
fn an_rsa_key_with_any_part_missing_or_another_keys_is_refused() {
    let jwk: Value = serde_json::from_str(RSA_JWK).unwrap();
    for part in ["n", "e", "d", "p", "q", "dp", "dq", "qi"] {
        let mut without = jwk.clone();
        without.as_object_mut().unwrap().remove(part);
        assert!(
            SigningKey::from_jwk(without.to_string().as_bytes()).is_err(),
            "{part}"
        );
        let mut other = jwk.clone();
        other[part] = jwk[if part == "p" { "q" } else { "p" }].clone();
        assert!(
            SigningKey::from_jwk(other.to_string().as_bytes()).is_err(),
            "{part}"
        );
    }
}

#[test]
fn the_symmetric_and_p_521_keys_of_rfc_7520_are_refused() {
    for (name, jwk) in [
        (
            "§3.1",
            include_str!("../vectors/jwk/3_1.ec_public_key.json"),
        ),
        (
            "§3.2",
            include_str!("../vectors/jwk/3_2.ec_private_key.json"),
        ),
        (
            "§3.5",
            include_str!("../vectors/jwk/3_5.symmetric_key_mac_computation.json"),
        ),
        (
            "§3.6",
            include_str!("../vectors/jwk/3_6.symmetric_key_encryption.json"),
        ),
    ] {
        let invalid = SigningKey::from_jwk(jwk.as_bytes()).unwrap_err();
        assert_eq!(invalid.argument(), "jwk", "{name}");
        assert!(
            invalid
                .rule()
                .starts_with("must be for signatures by ES256"),
            "{name}: {invalid}"
        );
        let invalid = PublicJwk::from_json(jwk.as_bytes()).unwrap_err();
        let rule = if name == "§3.1" {
            "must be for signatures by ES256"
        } else {
            "must not hold private"
        };
        assert!(invalid.rule().starts_with(rule), "{name}: {invalid}");
    }
}
