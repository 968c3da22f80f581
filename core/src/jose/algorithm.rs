use std::fmt;

/// A signature algorithm (RFC 7518 §3.1, RFC 8037 §3.1, RFC 9864 §2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256: the only one that every DPoP server is known to take.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// Ed25519 under the name that RFC 8037 gave it, which older servers know.
    EdDsa,
    /// Ed25519 under its own name (RFC 9864).
    Ed25519,
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PSS with SHA-256.
    Ps256,
}

/// The keys that an algorithm works with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyType {
    P256,
    P384,
    Ed25519,
    Rsa,
}

impl Algorithm {
    /// All of them, in the order in which they are best offered.
    pub const ALL: &[Self] = &[
        Self::Es256,
        Self::EdDsa,
        Self::Ed25519,
        Self::Es384,
        Self::Ps256,
        Self::Rs256,
    ];

    /// The `alg` value.
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

    /// The algorithm of an `alg` value (case-sensitive, RFC 7515 §4.1.1); `None` for all that aren't supported.
    pub fn from_alg(alg: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|algorithm| algorithm.as_str() == alg)
    }

    pub(crate) const fn key_type(self) -> KeyType {
        match self {
            Self::Es256 => KeyType::P256,
            Self::Es384 => KeyType::P384,
            Self::EdDsa | Self::Ed25519 => KeyType::Ed25519,
            Self::Rs256 | Self::Ps256 => KeyType::Rsa,
        }
    }

    /// Whether both are the same under two names.
    pub(crate) fn is_same_as(self, other: Self) -> bool {
        self == other
            || (self.key_type() == KeyType::Ed25519 && other.key_type() == KeyType::Ed25519)
    }
}

impl KeyType {
    /// The algorithm of a key that doesn't say.
    pub(crate) const fn default_algorithm(self) -> Algorithm {
        match self {
            Self::P256 => Algorithm::Es256,
            Self::P384 => Algorithm::Es384,
            Self::Ed25519 => Algorithm::EdDsa,
            Self::Rsa => Algorithm::Rs256,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
