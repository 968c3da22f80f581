//! The members of a JWK, before conversion to a key (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).

use std::borrow::Cow;

use zeroize::Zeroizing;

use super::algorithm::{Algorithm, KeyType};
use super::decode;
use crate::types::input::InvalidInput;
use crate::wire::json::{JsonObject, JsonValue};

/// A JWK of any key type, without duplicate members. Unknown members are ignored.
pub(crate) struct JwkMembers<'a>(JsonObject<'a>);

/// The members of private and symmetric keys.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", OTHER_PRIMES, "k"];

const OTHER_PRIMES: &str = "oth";

impl<'a> JwkMembers<'a> {
    pub(crate) fn parse(jwk: &'a [u8]) -> Result<Self, BadJwk> {
        JsonObject::parse(jwk)
            .map_err(|_| BadJwk::Malformed)
            .and_then(Self::from_object)
    }

    pub(crate) fn from_object(members: JsonObject<'a>) -> Result<Self, BadJwk> {
        let members = Some(members).filter(JsonObject::has_unique_names);
        members.map(Self).ok_or(BadJwk::Malformed)
    }

    /// Returns the key type and the algorithm, if both are supported and the JWK permits the
    /// operation: `sign` or `verify` (RFC 7517 §4.3).
    pub(crate) fn kind(&self, operation: &str) -> Result<(KeyType, Algorithm), BadJwk> {
        let key_type = match (self.text("kty")?.as_deref(), self.text("crv")?.as_deref()) {
            (None, _) => return Err(BadJwk::Malformed),
            (Some("EC"), Some("P-256")) => KeyType::P256,
            (Some("EC"), Some("P-384")) => KeyType::P384,
            (Some("OKP"), Some("Ed25519")) => KeyType::Ed25519,
            (Some("RSA"), _) => KeyType::Rsa,
            _ => return Err(BadJwk::Unsupported),
        };
        let algorithm = match self.text("alg")? {
            None => Some(key_type.default_algorithm()),
            Some(alg) => Algorithm::from_alg(&alg),
        };
        let is_permitted =
            self.text("use")?.is_none_or(|usage| usage == "sig") && self.permits(operation)?;
        match algorithm {
            Some(algorithm) if is_permitted && algorithm.key_type() == key_type => {
                Ok((key_type, algorithm))
            }
            _ => Err(BadJwk::Unsupported),
        }
    }

    /// Returns whether `key_ops` permits the operation. A missing `key_ops` permits all.
    fn permits(&self, operation: &str) -> Result<bool, BadJwk> {
        let Some(permitted) = self.0.get("key_ops") else {
            return Ok(true);
        };
        let permitted = permitted.as_array().ok_or(BadJwk::Malformed)?.into_iter();
        let permitted: Option<Vec<_>> = permitted.map(JsonValue::as_str).collect();
        let permitted = permitted.ok_or(BadJwk::Malformed)?;
        Ok(permitted.iter().any(|permitted| permitted == operation))
    }

    pub(crate) fn names_algorithm(&self) -> bool {
        self.0.get("alg").is_some()
    }

    pub(crate) fn kid(&self) -> Result<Option<String>, BadJwk> {
        Ok(self.text("kid")?.map(Cow::into_owned))
    }

    /// Returns whether any private or symmetric member is present, regardless of its value.
    pub(crate) fn is_private(&self) -> bool {
        PRIVATE.iter().any(|name| self.0.has(name))
    }

    /// Returns whether an RSA key has more than two primes, which is not supported.
    pub(super) fn has_other_primes(&self) -> bool {
        self.0.has(OTHER_PRIMES)
    }

    /// Returns the bytes of a public member.
    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>, BadJwk> {
        self.text(name)?
            .and_then(|text| decode(&text))
            .ok_or(BadJwk::Malformed)
    }

    /// Returns the bytes of a private member.
    pub(super) fn private(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, BadJwk> {
        let bytes = self.0.str(name).and_then(|text| decode(&text));
        bytes.map(Zeroizing::new).ok_or(BadJwk::NotPrivate)
    }

    /// Returns a private number of an RSA key, without leading zeros. Some libraries (.NET) pad the
    /// numbers to one length, contrary to Base64urlUInt (RFC 7518 §2).
    pub(super) fn private_number(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, BadJwk> {
        let mut bytes = self.private(name)?;
        let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
        bytes.drain(..zeros);
        Ok(bytes)
    }

    fn text(&self, name: &str) -> Result<Option<Cow<'a, str>>, BadJwk> {
        self.0
            .get(name)
            .map(|value| value.as_str().ok_or(BadJwk::Malformed))
            .transpose()
    }
}

/// The reason why a JWK is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadJwk {
    Malformed,
    Private,
    NotPrivate,
    Unsupported,
    NoPoint,
    Weak,
}

impl From<BadJwk> for InvalidInput {
    fn from(bad: BadJwk) -> Self {
        let rule = match bad {
            BadJwk::Malformed => {
                "must be a JWK with every member that its key type requires, in base64url"
            }
            BadJwk::Private => "must not hold private or symmetric key material",
            BadJwk::NotPrivate => "must hold the private key, with every part of it",
            BadJwk::Unsupported => {
                "must be for signatures by ES256, ES384, EdDSA, RS256 or PS256, and its `alg`, `use` and `key_ops` must permit that"
            }
            BadJwk::NoPoint => "must be a point on its curve",
            BadJwk::Weak => {
                "must be an RSA key of at least 2048 and at most 8192 bits, its exponent odd and above 2"
            }
        };
        Self::new("jwk", rule)
    }
}
