//! Every algorithm as RustCrypto has it: signatures of ours verified, and proofs made for us to judge.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::Signer as _;
use keybound_core::jose::{Algorithm, SigningKey};
use rsa::pkcs1v15;
use rsa::pss;
use rsa::rand_core::OsRng;
use rsa::signature::{RandomizedSigner as _, SignatureEncoding as _, Verifier as _};
use rsa::{BigUint, RsaPrivateKey, RsaPublicKey};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::maker::{HTU, METHOD};
use crate::world::START;

/// RFC 7520 §3.4, for neither side makes RSA keys in a moment.
pub(crate) const RSA_JWK: &str = include_str!("../vectors/jwk/3_4.rsa_private_key.json");

pub(crate) fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn decode(part: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD
        .decode(part)
        .expect("base64url without padding")
}

pub(crate) fn parse(part: &str) -> Value {
    serde_json::from_slice(&decode(part)).expect("JSON")
}

fn member(jwk: &Value, name: &str) -> Vec<u8> {
    decode(jwk[name].as_str().expect("a member of the key"))
}

fn number(jwk: &Value, name: &str) -> BigUint {
    BigUint::from_bytes_be(&member(jwk, name))
}

/// One of our keys.
pub(crate) fn ours(algorithm: Algorithm) -> SigningKey {
    match algorithm {
        Algorithm::Rs256 | Algorithm::Ps256 => SigningKey::from_jwk(RSA_JWK.as_bytes())
            .and_then(|key| key.with_algorithm(algorithm))
            .expect("RFC 7520's key"),
        _ => SigningKey::generate(algorithm).expect("random numbers"),
    }
}

/// RFC 7638 §3: the hash of the required members, in lexical order.
pub(crate) fn thumbprint(jwk: &Value) -> String {
    let required: &[&str] = match jwk["kty"].as_str() {
        Some("EC") => &["crv", "kty", "x", "y"],
        Some("OKP") => &["crv", "kty", "x"],
        Some("RSA") => &["e", "kty", "n"],
        _ => panic!("a key of no known type: {jwk}"),
    };
    let members: Vec<String> = required
        .iter()
        .map(|name| format!(r#""{name}":{}"#, jwk[*name]))
        .collect();
    encode(Sha256::digest(format!("{{{}}}", members.join(","))))
}

/// Whether a JOSE signature holds.
pub(crate) fn verifies(alg: &str, jwk: &Value, message: &[u8], raw: &[u8]) -> bool {
    let point = || [&[4][..], &member(jwk, "x"), &member(jwk, "y")].concat();
    let rsa = || RsaPublicKey::new(number(jwk, "n"), number(jwk, "e")).expect("an RSA key");
    match (alg, jwk["kty"].as_str(), jwk["crv"].as_str()) {
        ("ES256", Some("EC"), Some("P-256")) => {
            let key =
                p256::ecdsa::VerifyingKey::from_sec1_bytes(&point()).expect("a point on P-256");
            p256::ecdsa::Signature::from_slice(raw)
                .is_ok_and(|raw| key.verify(message, &raw).is_ok())
        }
        ("ES384", Some("EC"), Some("P-384")) => {
            let key =
                p384::ecdsa::VerifyingKey::from_sec1_bytes(&point()).expect("a point on P-384");
            p384::ecdsa::Signature::from_slice(raw)
                .is_ok_and(|raw| key.verify(message, &raw).is_ok())
        }
        ("EdDSA" | "Ed25519", Some("OKP"), Some("Ed25519")) => {
            let key = member(jwk, "x").try_into().expect("32 bytes");
            let key = ed25519_dalek::VerifyingKey::from_bytes(&key).expect("a point on Curve25519");
            ed25519_dalek::Signature::from_slice(raw)
                .is_ok_and(|raw| key.verify_strict(message, &raw).is_ok())
        }
        ("RS256", Some("RSA"), None) => {
            let key = pkcs1v15::VerifyingKey::<Sha256>::new(rsa());
            pkcs1v15::Signature::try_from(raw).is_ok_and(|raw| key.verify(message, &raw).is_ok())
        }
        ("PS256", Some("RSA"), None) => {
            let key = pss::VerifyingKey::<Sha256>::new(rsa());
            pss::Signature::try_from(raw).is_ok_and(|raw| key.verify(message, &raw).is_ok())
        }
        other => panic!("no key for the algorithm: {other:?}"),
    }
}

/// One of their keys.
pub(crate) struct Theirs {
    pub(crate) algorithm: Algorithm,
    pair: Pair,
}

enum Pair {
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
    Ed25519(ed25519_dalek::SigningKey),
    Rsa(RsaPrivateKey),
}

impl Theirs {
    /// The same at each call, except that signatures by PSS are random.
    pub(crate) fn new(algorithm: Algorithm) -> Self {
        let pair = match algorithm {
            Algorithm::Es256 => {
                Pair::P256(p256::ecdsa::SigningKey::from_slice(&[9; 32]).expect("a scalar"))
            }
            Algorithm::Es384 => {
                Pair::P384(p384::ecdsa::SigningKey::from_slice(&[9; 48]).expect("a scalar"))
            }
            Algorithm::EdDsa | Algorithm::Ed25519 => {
                Pair::Ed25519(ed25519_dalek::SigningKey::from_bytes(&[9; 32]))
            }
            _ => {
                let jwk = serde_json::from_str(RSA_JWK).expect("JSON");
                let [n, e, d, p, q] = ["n", "e", "d", "p", "q"].map(|name| number(&jwk, name));
                Pair::Rsa(RsaPrivateKey::from_components(n, e, d, vec![p, q]).expect("an RSA key"))
            }
        };
        Self { algorithm, pair }
    }

    /// The public key.
    pub(crate) fn jwk(&self) -> Value {
        let elliptic = |curve: &str, point: &[u8]| {
            let (x, y) = point[1..].split_at(point.len() / 2);
            json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) })
        };
        match &self.pair {
            Pair::P256(key) => elliptic(
                "P-256",
                key.verifying_key().to_encoded_point(false).as_bytes(),
            ),
            Pair::P384(key) => elliptic(
                "P-384",
                key.verifying_key().to_encoded_point(false).as_bytes(),
            ),
            Pair::Ed25519(key) => {
                json!({ "kty": "OKP", "crv": "Ed25519", "x": encode(key.verifying_key().as_bytes()) })
            }
            Pair::Rsa(_) => {
                let private: Value = serde_json::from_str(RSA_JWK).expect("JSON");
                json!({ "kty": "RSA", "n": private["n"], "e": private["e"] })
            }
        }
    }

    /// A signature as JOSE writes it.
    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.pair {
            Pair::P256(key) => {
                p256::ecdsa::signature::Signer::<p256::ecdsa::Signature>::sign(key, message)
                    .to_bytes()
                    .to_vec()
            }
            Pair::P384(key) => {
                p384::ecdsa::signature::Signer::<p384::ecdsa::Signature>::sign(key, message)
                    .to_bytes()
                    .to_vec()
            }
            Pair::Ed25519(key) => key.sign(message).to_vec(),
            Pair::Rsa(key) if self.algorithm == Algorithm::Ps256 => {
                pss::SigningKey::<Sha256>::new(key.clone())
                    .sign_with_rng(&mut OsRng, message)
                    .to_vec()
            }
            Pair::Rsa(key) => pkcs1v15::SigningKey::<Sha256>::new(key.clone())
                .sign(message)
                .to_vec(),
        }
    }

    /// An ECDSA signature as key services write it.
    pub(crate) fn sign_der(&self, message: &[u8]) -> Vec<u8> {
        let raw = self.sign(message);
        match &self.pair {
            Pair::P256(_) => p256::ecdsa::Signature::from_slice(&raw)
                .expect("R and S")
                .to_der()
                .as_bytes()
                .to_vec(),
            Pair::P384(_) => p384::ecdsa::Signature::from_slice(&raw)
                .expect("R and S")
                .to_der()
                .as_bytes()
                .to_vec(),
            Pair::Ed25519(_) | Pair::Rsa(_) => {
                panic!("{} has no signatures in DER", self.algorithm)
            }
        }
    }

    /// A JWS of the two texts.
    pub(crate) fn jws(&self, header: &Value, payload: &Value) -> String {
        let input = format!(
            "{}.{}",
            encode(header.to_string()),
            encode(payload.to_string())
        );
        let signature = self.sign(input.as_bytes());
        format!("{input}.{}", encode(signature))
    }

    /// The header of a sound proof.
    pub(crate) fn header(&self) -> Value {
        json!({ "typ": "dpop+jwt", "alg": self.algorithm.as_str(), "jwk": self.jwk() })
    }

    /// A sound proof, made at [`START`].
    pub(crate) fn proof(&self) -> String {
        self.jws(&self.header(), &claims())
    }
}

/// The claims of a sound proof for a token request.
pub(crate) fn claims() -> Value {
    json!({ "jti": "jti-1", "htm": METHOD, "htu": HTU, "iat": START.as_secs() })
}
