//! JOSE keys, algorithms and signatures (RFC 7515, 7517, 7518, 7638, 8037, 9864).
//!
//! | `alg` | signs | verifies | keys |
//! |---|---|---|---|
//! | ES256, ES384 | yes | yes | generated; PKCS#8, private JWK |
//! | EdDSA, Ed25519 | yes | yes | generated; PKCS#8, private JWK. Two names of one algorithm |
//! | RS256, PS256 | yes, 2048 to 4096 bits | yes, 2048 to 8192 bits | PKCS#8, private JWK. ring can't generate RSA keys |
//!
//! All other algorithms and keys are rejected: `none`, HMAC and symmetric keys, ES256K, ES512,
//! other curves, RSA below 2048 bits.

mod algorithm;
mod base64url;
mod der;
mod jwk;
mod key;
mod members;
mod pkcs8;
mod private;
mod signature;
pub(crate) mod signing;
mod vectors;

pub use algorithm::Algorithm;
pub use jwk::PublicJwk;
pub use key::SigningKey;
pub use signature::Signature;

pub(crate) use base64url::{decode, encode, encode_array, encode_into, encoded_len, short_hash};
pub(crate) use members::{BadJwk, JwkMembers};
