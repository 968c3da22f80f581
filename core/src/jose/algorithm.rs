use std::fmt;

/// A signature algorithm (RFC 7518 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Algorithm {
    /// ECDSA on P-256 with SHA-256: the only one that every DPoP server is known to take.
    Es256,
}

impl Algorithm {
    /// The `alg` value.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Es256 => "ES256",
        }
    }

    /// The algorithm of an `alg` value (case-sensitive, RFC 7515 §4.1.1); `None` for all that aren't supported.
    pub fn from_alg(alg: &str) -> Option<Self> {
        match alg {
            "ES256" => Some(Self::Es256),
            _ => None,
        }
    }

    /// How many bytes a signature has.
    pub(crate) const fn signature_len(self) -> usize {
        match self {
            Self::Es256 => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
