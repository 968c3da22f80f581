//! The members of a JWK, as they stand (RFC 7517 §4, RFC 7518 §6, RFC 8037 §2).

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::algorithm::{Algorithm, Family};
use super::decode;
use crate::error::Misuse;

/// A JWK of any kind. Members that aren't known are ignored; a known one that stands twice is refused.
#[derive(Deserialize)]
pub(crate) struct JwkMembers<'a> {
    #[serde(borrow)]
    kty: Option<Cow<'a, str>>,
    #[serde(borrow)]
    crv: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) kid: Option<Cow<'a, str>>,
    #[serde(borrow)]
    alg: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "use")]
    usage: Option<Cow<'a, str>>,
    #[serde(borrow)]
    key_ops: Option<Vec<Cow<'a, str>>>,
    #[serde(borrow)]
    pub(super) x: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) y: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) n: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) e: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) d: Private<'a>,
    #[serde(borrow, default)]
    pub(super) p: Private<'a>,
    #[serde(borrow, default)]
    pub(super) q: Private<'a>,
    #[serde(borrow, default)]
    pub(super) dp: Private<'a>,
    #[serde(borrow, default)]
    pub(super) dq: Private<'a>,
    #[serde(borrow, default)]
    pub(super) qi: Private<'a>,
    #[serde(default)]
    oth: Present,
    #[serde(default)]
    k: Present,
}

/// What a key may be used for here (RFC 7517 §4.3).
#[derive(Clone, Copy)]
pub(crate) enum Operation {
    Sign,
    Verify,
}

impl JwkMembers<'_> {
    /// The kind of key, if it is one that is supported and meant for the operation, and its algorithm.
    pub(crate) fn kind(&self, operation: Operation) -> Result<(Family, Algorithm), BadJwk> {
        let family = match (self.kty.as_deref(), self.crv.as_deref()) {
            (None, _) => return Err(BadJwk::Malformed),
            (Some("EC"), Some("P-256")) => Family::P256,
            (Some("EC"), Some("P-384")) => Family::P384,
            (Some("OKP"), Some("Ed25519")) => Family::Ed25519,
            (Some("RSA"), _) => Family::Rsa,
            _ => return Err(BadJwk::Unsupported),
        };
        let algorithm = match self.alg.as_deref() {
            None => Some(family.usual()),
            Some(alg) => Algorithm::from_alg(alg).filter(|algorithm| algorithm.family() == family),
        };
        let needed = match operation {
            Operation::Sign => "sign",
            Operation::Verify => "verify",
        };
        let meant_for_it = self.usage.as_deref().is_none_or(|usage| usage == "sig")
            && self.key_ops.as_deref().is_none_or(|ops| ops.iter().any(|op| op == needed));
        match algorithm {
            Some(algorithm) if meant_for_it => Ok((family, algorithm)),
            _ => Err(BadJwk::Unsupported),
        }
    }

    /// Whether any private or symmetric part is there, whatever its value.
    pub(crate) fn is_private(&self) -> bool {
        let parts = [&self.d, &self.p, &self.q, &self.dp, &self.dq, &self.qi];
        parts.iter().any(|part| part.is_present()) || self.oth.0 || self.k.0
    }

    /// More than two primes, which nothing supports.
    pub(super) fn has_other_primes(&self) -> bool {
        self.oth.0
    }
}

/// The bytes of a member.
pub(super) fn bytes(member: Option<&Cow<'_, str>>) -> Result<Vec<u8>, BadJwk> {
    member.and_then(|text| decode(text)).ok_or(BadJwk::Malformed)
}

/// A private member: its text, or only that it is there.
#[derive(Default)]
pub(super) enum Private<'a> {
    #[default]
    Absent,
    Text(Cow<'a, str>),
    /// `null`, or of another type.
    Odd,
}

impl Private<'_> {
    fn is_present(&self) -> bool {
        !matches!(self, Self::Absent)
    }

    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Absent | Self::Odd => None,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Private<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Any<'a> {
            Text(#[serde(borrow)] Cow<'a, str>),
            Other(IgnoredAny),
        }
        Ok(match Any::deserialize(deserializer)? {
            Any::Text(text) => Self::Text(text),
            Any::Other(IgnoredAny) => Self::Odd,
        })
    }
}

/// Whether a member is there, whatever its value, `null` included.
#[derive(Default)]
pub(crate) struct Present(pub(crate) bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Self(true))
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
            Self::Malformed => "must be a JWK with every member that its key type requires, in base64url",
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

impl From<BadJwk> for Misuse {
    fn from(bad: BadJwk) -> Self {
        Self::new("jwk", bad.rule())
    }
}
