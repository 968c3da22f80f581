//! The members of a JWK, as they stand (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).

use std::borrow::Cow;

use zeroize::Zeroizing;

use super::algorithm::{Algorithm, KeyType};
use super::decode;
use crate::types::input::InvalidInput;
use crate::wire::json::{JsonObject, JsonValue};

/// A JWK of any kind, which says nothing twice. Members that aren't known are ignored.
pub(crate) struct JwkMembers<'a>(JsonObject<'a>);

/// Of a private key, or of a symmetric one.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", OTHER_PRIMES, "k"];

const OTHER_PRIMES: &str = "oth";

/// What a key may be used for here (RFC 7517 §4.3).
#[derive(Clone, Copy)]
pub(crate) enum KeyOperation {
    Sign,
    Verify,
}

impl<'a> JwkMembers<'a> {
    pub(crate) fn parse(jwk: &'a [u8]) -> Result<Self, BadJwk> {
        JsonObject::parse(jwk)
            .map_err(|_| BadJwk::Malformed)
            .and_then(Self::from_object)
    }

    pub(crate) fn from_object(members: JsonObject<'a>) -> Result<Self, BadJwk> {
        match members.has_unique_names() {
            true => Ok(Self(members)),
            false => Err(BadJwk::Malformed),
        }
    }

    /// The kind of key, if it is one that is supported and meant for the operation, and its algorithm.
    pub(crate) fn kind(&self, operation: KeyOperation) -> Result<(KeyType, Algorithm), BadJwk> {
        let family = match (self.text("kty")?.as_deref(), self.text("crv")?.as_deref()) {
            (None, _) => return Err(BadJwk::Malformed),
            (Some("EC"), Some("P-256")) => KeyType::P256,
            (Some("EC"), Some("P-384")) => KeyType::P384,
            (Some("OKP"), Some("Ed25519")) => KeyType::Ed25519,
            (Some("RSA"), _) => KeyType::Rsa,
            _ => return Err(BadJwk::Unsupported),
        };
        let algorithm = match self.text("alg")? {
            None => Some(family.default_algorithm()),
            Some(alg) => {
                Algorithm::from_alg(&alg).filter(|algorithm| algorithm.key_type() == family)
            }
        };
        let meant_for_it =
            self.text("use")?.is_none_or(|usage| usage == "sig") && self.permits(operation)?;
        match algorithm {
            Some(algorithm) if meant_for_it => Ok((family, algorithm)),
            _ => Err(BadJwk::Unsupported),
        }
    }

    /// What `key_ops` says of it.
    fn permits(&self, operation: KeyOperation) -> Result<bool, BadJwk> {
        let Some(permitted) = self.0.get("key_ops") else {
            return Ok(true);
        };
        let permitted: Option<Vec<_>> = permitted
            .as_array()
            .and_then(|list| list.into_iter().map(JsonValue::as_str).collect());
        let needed = match operation {
            KeyOperation::Sign => "sign",
            KeyOperation::Verify => "verify",
        };
        Ok(permitted
            .ok_or(BadJwk::Malformed)?
            .iter()
            .any(|permitted| permitted == needed))
    }

    pub(crate) fn names_algorithm(&self) -> bool {
        self.0.get("alg").is_some()
    }

    pub(crate) fn kid(&self) -> Result<Option<String>, BadJwk> {
        Ok(self.text("kid")?.map(Cow::into_owned))
    }

    /// Whether any private or symmetric part is there, whatever its value.
    pub(crate) fn is_private(&self) -> bool {
        PRIVATE.iter().any(|name| self.0.has(name))
    }

    /// More than two primes, which nothing supports.
    pub(super) fn has_other_primes(&self) -> bool {
        self.0.has(OTHER_PRIMES)
    }

    /// The bytes of a public member.
    pub(super) fn bytes(&self, name: &str) -> Result<Vec<u8>, BadJwk> {
        self.text(name)?
            .and_then(|text| decode(&text))
            .ok_or(BadJwk::Malformed)
    }

    /// The bytes of a private one.
    pub(super) fn private(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, BadJwk> {
        let bytes = self.0.str(name).and_then(|text| decode(&text));
        bytes.map(Zeroizing::new).ok_or(BadJwk::NotPrivate)
    }

    /// A private number of RSA. Some write all of them in one length (.NET), against RFC 7518 §2's Base64urlUInt.
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

/// Why a JWK is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BadJwk {
    Malformed,
    Private,
    NotPrivate,
    Unsupported,
    NoPoint,
    Weak,
}

impl BadJwk {
    pub(crate) fn rule(self) -> &'static str {
        match self {
            Self::Malformed => {
                "must be a JWK with every member that its key type requires, in base64url"
            }
            Self::Private => "must not hold private or symmetric key material",
            Self::NotPrivate => "must hold the private key, with every part of it",
            Self::Unsupported => {
                "must be for signatures by ES256, ES384, EdDSA, RS256 or PS256, and say nothing to the contrary"
            }
            Self::NoPoint => "must be a point on its curve",
            Self::Weak => {
                "must be an RSA key of at least 2048 and at most 8192 bits, its exponent odd and above 2"
            }
        }
    }
}

impl From<BadJwk> for InvalidInput {
    fn from(bad: BadJwk) -> Self {
        Self::new("jwk", bad.rule())
    }
}
