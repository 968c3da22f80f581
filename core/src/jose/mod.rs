//! Keys, algorithms and signatures in JOSE's terms (RFC 7515, 7517, 7518, 7638).

mod algorithm;
mod base64url;
mod jwk;
mod key;
mod signature;

pub use algorithm::Algorithm;
pub use jwk::PublicJwk;
pub use key::SigningKey;
pub use signature::Signature;

pub(crate) use base64url::{decode, encode, encode_array, encode_into, encoded_len};
pub(crate) use jwk::{BadJwk, JwkMembers, Present};
