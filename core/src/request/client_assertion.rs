//! Authenticates a client by a signature: `private_key_jwt` (RFC 7521 §4.2, RFC 7523 §2.2).
//!
//! With a DPoP proof, one request needs two signatures by two keys. Each signing request names its
//! key.
//!
//! ```
//! use keybound_core::jose::{Algorithm, SigningKey};
//! use keybound_core::*;
//! use keybound_core::driver::*;
//!
//! # fn main() -> Result<(), Error> {
//! let client_key = SigningKey::generate(Algorithm::Es384)?; // its public half is registered with the server
//! let proof_key = SigningKey::generate(Algorithm::Es256)?;
//! let auth = ClientAuth::private_key_jwt("app", client_key.public().with_kid("2026-11"))?;
//! let client = Client::new(Endpoint::https("https://as.example/token")?, auth)
//!     .issuer(Issuer::https("https://as.example")?)
//!     .dpop(proof_key.public().clone());
//!
//! let operation = client.token(Grant::client_credentials())?;
//! let now = UnixTime::from_secs(1_800_000_000);
//! let signing = operation.prepare(&ServerState::new(), RequestContext::new(now, [1; 16]))?;
//! let keys = [client_key, proof_key];
//! let PreparedRequest { request, pending } = signing.finish(|request| {
//!     let key = keys.iter().find(|key| key.public().is_same_key(request.key()));
//!     key.unwrap_or(&keys[0]).sign(request) // or elsewhere, or both
//! })?;
//! let response = http::Response::new(r#"{"access_token":"abc","token_type":"DPoP"}"#);
//! assert!(matches!(pending.receive(response, &mut ServerState::new(), now)?, Step::Done(_)));
//! # let _ = request;
//! # Ok(())
//! # }
//! ```

use std::time::Duration;

use ring::digest::{SHA256, digest};
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
        let hash = digest(&SHA256, &[&b"client assertion "[..], entropy].concat());
        let jti = jose::encode(hash.as_ref().get(..16).unwrap_or_default());
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
