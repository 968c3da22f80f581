//! Proofs as somebody else makes them, right or wrong: RustCrypto signs, and nothing is checked.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keybound_core::dpop::{ProofVerifier, VerifiedProof};
use keybound_core::provider::treasury_prime::TreasuryPrime;
use keybound_core::{ClientAuth, InvalidInput, Operation, Secret, Token};
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::{Value, json};

use crate::world::START;

pub(crate) const METHOD: &str = "POST";
pub(crate) const HTU: &str = "https://as.example/token";

/// A browser with a key, and the proof that it is about to make.
#[derive(Clone)]
pub(crate) struct Maker {
    key: SigningKey,
    pub(crate) header: Value,
    pub(crate) claims: Value,
}

impl Maker {
    /// A sound proof for a token request, made at [`START`].
    pub(crate) fn new() -> Self {
        let key = SigningKey::from_slice(&[7; 32]).expect("a scalar");
        let point = key.verifying_key().to_encoded_point(false);
        let coordinate =
            |bytes: Option<&p256::FieldBytes>| URL_SAFE_NO_PAD.encode(bytes.expect("a coordinate"));
        let jwk = json!({ "kty": "EC", "crv": "P-256", "x": coordinate(point.x()), "y": coordinate(point.y()) });
        Self {
            key,
            header: json!({ "typ": "dpop+jwt", "alg": "ES256", "jwk": jwk }),
            claims: json!({ "jti": "jti-1", "htm": METHOD, "htu": HTU, "iat": START.as_secs() }),
        }
    }

    pub(crate) fn claim(mut self, name: &str, value: Value) -> Self {
        self.claims[name] = value;
        self
    }

    pub(crate) fn header(mut self, name: &str, value: Value) -> Self {
        self.header[name] = value;
        self
    }

    pub(crate) fn jwk(mut self, name: &str, value: Value) -> Self {
        self.header["jwk"][name] = value;
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        for object in [&mut self.claims, &mut self.header] {
            object.as_object_mut().expect("an object").remove(name);
        }
        self
    }

    pub(crate) fn proof(&self) -> String {
        self.sign(&self.header.to_string(), &self.claims.to_string())
    }

    /// Signs any two texts.
    pub(crate) fn sign(&self, header: &str, payload: &str) -> String {
        let input = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header),
            URL_SAFE_NO_PAD.encode(payload)
        );
        let signature: Signature = self.key.sign(input.as_bytes());
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature.to_bytes()))
    }

    pub(crate) fn verified(&self) -> VerifiedProof {
        ProofVerifier::default()
            .verify(&self.proof(), START)
            .verified()
            .expect("a sound proof")
    }

    /// This proof on its way to Treasury Prime.
    pub(crate) fn relay(&self) -> Result<Operation<Token>, InvalidInput> {
        TreasuryPrime::sandbox(ClientAuth::basic("key_1", Secret::new("key-value"))?)
            .uxt_access_token("psn_1", self.verified())
    }
}
