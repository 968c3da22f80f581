use std::fmt;
use std::str::FromStr;

use crate::types::{input::InvalidInput, text::serde_as_text};

/// A signature algorithm (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256: the only algorithm that all known DPoP servers accept.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519 under its name in RFC 8037, which older servers support.
    EdDsa,
    /// Ed25519 under its fully-specified name (RFC 9864).
    Ed25519,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
}

/// The type of key that an algorithm requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyType {
    P256,
    P384,
    Ed25519,
    Rsa,
}

impl Algorithm {
    /// All supported algorithms, in order of preference.
    pub const ALL: &[Self] = &[
        Self::Es256,
        Self::EdDsa,
        Self::Ed25519,
        Self::Es384,
        Self::Ps256,
        Self::Rs256,
    ];

    /// Returns the `alg` value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
            Self::Es384 => "ES384",
            Self::EdDsa => "EdDSA",
            Self::Ed25519 => "Ed25519",
            Self::Rs256 => "RS256",
            Self::Ps256 => "PS256",
        }
    }

    /// Returns the algorithm of an `alg` value (case-sensitive, RFC 7515 §4.1.1), or `None` if it
    /// is not supported.
    pub fn from_alg(alg: &str) -> Option<Self> {
        let mut all = Self::ALL.iter().copied();
        all.find(|algorithm| algorithm.as_str() == alg)
    }

    pub(crate) const fn key_type(self) -> KeyType {
        match self {
            Self::Es256 => KeyType::P256,
            Self::Es384 => KeyType::P384,
            Self::EdDsa | Self::Ed25519 => KeyType::Ed25519,
            Self::Rs256 | Self::Ps256 => KeyType::Rsa,
        }
    }

    /// Returns whether both names denote the same algorithm: `EdDSA` and `Ed25519` do.
    pub(crate) fn is_same_as(self, other: Self) -> bool {
        let is_ed25519 = |algorithm: Self| algorithm.key_type() == KeyType::Ed25519;
        self == other || (is_ed25519(self) && is_ed25519(other))
    }
}

impl KeyType {
    /// Returns the algorithm of a key without `alg`.
    pub(crate) const fn default_algorithm(self) -> Algorithm {
        match self {
            Self::P256 => Algorithm::Es256,
            Self::P384 => Algorithm::Es384,
            Self::Ed25519 => Algorithm::EdDsa,
            Self::Rsa => Algorithm::Rs256,
        }
    }
}

/// Parses an `alg` value as [`Algorithm::from_alg`] does.
impl FromStr for Algorithm {
    type Err = InvalidInput;

    fn from_str(alg: &str) -> Result<Self, InvalidInput> {
        Self::from_alg(alg).ok_or(InvalidInput::new(
            "algorithm",
            "must be ES256, ES384, EdDSA, Ed25519, RS256 or PS256",
        ))
    }
}

/// Parses an `alg` value as [`Algorithm::from_alg`] does.
impl TryFrom<&str> for Algorithm {
    type Error = InvalidInput;

    fn try_from(alg: &str) -> Result<Self, InvalidInput> {
        alg.parse()
    }
}

serde_as_text!(Algorithm);

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
