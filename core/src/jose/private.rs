//! The components of private keys, as PKCS#8, private JWKs and ring use them. Wiped on drop.

use serde::Serialize;
use zeroize::{Zeroize as _, Zeroizing};

use super::{Algorithm, BadJwk, JwkMembers, encode};
use super::{algorithm::KeyType, members::KeyOperation};
use crate::types::secret::Secret;

pub(super) type Bytes = Zeroizing<Vec<u8>>;

pub(super) enum PrivateParts {
    Ec {
        /// P-256 or P-384.
        key_type: KeyType,
        /// The private scalar, padded to the length of the field.
        d: Bytes,
        /// The public key as an uncompressed point; ring can't derive it.
        point: Vec<u8>,
    },
    Ed25519 {
        seed: Bytes,
    },
    Rsa(Box<RsaParts>),
}

/// The numbers of an RSA key (RFC 8017 §3.2), big-endian without leading zeros.
pub(super) struct RsaParts {
    pub(super) n: Vec<u8>,
    pub(super) e: Vec<u8>,
    pub(super) d: Bytes,
    pub(super) p: Bytes,
    pub(super) q: Bytes,
    pub(super) dp: Bytes,
    pub(super) dq: Bytes,
    pub(super) qi: Bytes,
}

impl PrivateParts {
    /// Returns the private key of a JWK, and its `alg` or the default algorithm of its key type.
    pub(super) fn from_members(members: &JwkMembers<'_>) -> Result<(Self, Algorithm), BadJwk> {
        let (key_type, algorithm) = members.kind(KeyOperation::Sign)?;
        let parts = match key_type {
            KeyType::P256 | KeyType::P384 => {
                let point = [vec![4], members.bytes("x")?, members.bytes("y")?].concat();
                Self::Ec {
                    key_type,
                    d: members.private("d")?,
                    point,
                }
            }
            KeyType::Ed25519 => Self::Ed25519 {
                seed: members.private("d")?,
            },
            KeyType::Rsa if members.has_other_primes() => return Err(BadJwk::Unsupported),
            KeyType::Rsa => Self::Rsa(Box::new(RsaParts {
                n: members.bytes("n")?,
                e: members.bytes("e")?,
                d: members.private_number("d")?,
                p: members.private_number("p")?,
                q: members.private_number("q")?,
                dp: members.private_number("dp")?,
                dq: members.private_number("dq")?,
                qi: members.private_number("qi")?,
            })),
        };
        Ok((parts, algorithm))
    }

    /// Returns the private JWK: the members of `public` (the public JWK in JSON, without `alg` and
    /// `kid`), `alg`, `kid` if there is one, and the private members.
    pub(super) fn to_jwk(&self, public: &str, algorithm: Algorithm, kid: Option<&str>) -> Secret {
        #[derive(Default, Serialize)]
        struct Additions<'a> {
            alg: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            kid: Option<&'a str>,
            d: String,
            #[serde(flatten)]
            primes: Option<Primes>,
        }
        #[derive(Serialize)]
        struct Primes {
            p: String,
            q: String,
            dp: String,
            dq: String,
            qi: String,
        }
        let (d, primes) = match self {
            Self::Ec { d, .. } => (d, None),
            Self::Ed25519 { seed } => (seed, None),
            Self::Rsa(parts) => {
                let [p, q, dp, dq, qi] =
                    [&parts.p, &parts.q, &parts.dp, &parts.dq, &parts.qi].map(|part| encode(part));
                (&parts.d, Some(Primes { p, q, dp, dq, qi }))
            }
        };
        let mut additions = Additions {
            alg: algorithm.as_str(),
            kid,
            d: encode(d),
            primes,
        };
        // Serialising strings to memory can't fail.
        let private = Zeroizing::new(serde_json::to_string(&additions).unwrap_or_default());
        additions.d.zeroize();
        if let Some(primes) = &mut additions.primes {
            for part in [
                &mut primes.p,
                &mut primes.q,
                &mut primes.dp,
                &mut primes.dq,
                &mut primes.qi,
            ] {
                part.zeroize();
            }
        }
        // Both are JSON objects: join them into one.
        let public = public.strip_suffix('}').unwrap_or(public);
        let private = private.strip_prefix('{').unwrap_or(&private);
        let mut jwk = String::with_capacity(public.len() + private.len() + 1);
        jwk.extend([public, ",", private]);
        Secret::new(jwk)
    }
}
