//! Authenticates a client by a signature: `private_key_jwt` (RFC 7521 §4.2, RFC 7523 §2.2).
//!
//! With a DPoP proof, one request needs two signatures by two keys. Each signing request names its
//! key.
//!
//! ```
//! use keybound_core::driver::{RequestContext, Shared, Step};
//! use keybound_core::jose::{Algorithm, SigningKey};
//! use keybound_core::*;
//!
//! # fn main() -> Result<(), Error> {
//! let client_key = SigningKey::generate(Algorithm::Es384)?; // its public half is registered with the server
//! let proof_key = SigningKey::generate(Algorithm::Es256)?;
//! let auth = ClientAuth::private_key_jwt("app", client_key.public().with_kid("2026-11"))?;
//! let client = Client::new(Endpoint::https("https://as.example/token")?, auth)
//!     .issuer(Issuer::https("https://as.example")?)
//!     .dpop(proof_key.public().clone());
//!
//! let keys = [client_key, proof_key];
//! let mut random_bytes = (1..).map(|byte| [byte; 16]); // from the system
//! let mut context = || RequestContext::new(UnixTime::from_secs(1_800_000_000), random_bytes.next().unwrap_or_default());
//! let mut shared = Shared::new();
//! let mut step = shared.start(client.token(Grant::client_credentials())?, context());
//! while let Step::Sign(sign) = step {
//!     let key = keys.iter().find(|key| key.public().is_same_key(sign.effect.key()));
//!     let signature = key.unwrap_or(&keys[0]).sign(&sign.effect).map_err(Cause::new);
//!     step = sign.signed(signature, &mut shared, context());
//! }
//! let Step::Send(send) = step else { panic!("both signatures are complete") };
//! assert!(send.effect.request.headers().contains_key("dpop"));
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use serde::Serialize;

use crate::jose::signing::SignRequest;
use crate::jose::{self, PublicJwk};
use crate::types::time::UnixTime;

/// `client_assertion_type` (RFC 7523 §2.2).
pub(crate) const ASSERTION_TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The lifetime of an assertion. Some servers reject assertions that are valid for more than two
/// minutes.
const LIFETIME: Duration = Duration::from_secs(60);

/// The content of an assertion, except its time and its `jti`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientAssertion {
    pub(crate) client_id: String,
    pub(crate) key: PublicJwk,
    pub(crate) audience: String,
}

#[derive(Serialize)]
struct AssertionHeader<'a> {
    typ: &'static str,
    alg: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    kid: Option<&'a str>,
}

/// The claims of RFC 7523 §3.
#[derive(Serialize)]
struct AssertionClaims<'a> {
    iss: &'a str,
    sub: &'a str,
    aud: &'a str,
    jti: &'a str,
    iat: u64,
    exp: u64,
}

impl ClientAssertion {
    /// Returns the assertion to sign. Its `jti` differs from that of the DPoP proof in the same
    /// request, because a server may keep both in one replay cache.
    pub(crate) fn sign_request(&self, now: UnixTime, entropy: &[u8; 16]) -> SignRequest {
        let jti = jose::short_hash(&[&b"client assertion "[..], entropy].concat());
        let header = AssertionHeader {
            typ: "JWT",
            alg: self.key.algorithm().as_str(),
            kid: self.key.kid(),
        };
        let claims = AssertionClaims {
            iss: &self.client_id,
            sub: &self.client_id,
            aud: &self.audience,
            jti: &jti,
            iat: now.as_secs(),
            exp: now.saturating_add(LIFETIME).as_secs(),
        };
        let mut input = Vec::new();
        jose::encode_into(&json(&header), &mut input);
        input.push(b'.');
        jose::encode_into(&json(&claims), &mut input);
        SignRequest::new(input, self.key.clone())
    }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Serializing strings and numbers to memory can't fail.
    serde_json::to_vec(value).unwrap_or_default()
}
