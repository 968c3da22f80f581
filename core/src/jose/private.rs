//! The components of private keys, as PKCS#8, private JWKs and ring use them. Wiped on drop.

use zeroize::Zeroizing;

use super::{Algorithm, BadJwk, JwkMembers, PublicJwk, algorithm::KeyType, encode, encoded_len};
use crate::types::secret::Secret;

pub(super) type Bytes = Zeroizing<Vec<u8>>;

pub(super) enum PrivateParts {
    Ec {
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
    /// d, p, q, dp, dq and qi.
    pub(super) private: [Bytes; 6],
}

/// The names of [`RsaParts::private`] in a JWK.
const RSA_PRIVATE: [&str; 6] = ["d", "p", "q", "dp", "dq", "qi"];

impl PrivateParts {
    /// Returns the private key of a JWK, and its `alg` or the default algorithm of its key type.
    pub(super) fn from_members(members: &JwkMembers<'_>) -> Result<(Self, Algorithm), BadJwk> {
        let (key_type, algorithm) = members.kind("sign")?;
        let parts = match key_type {
            KeyType::P256 | KeyType::P384 => Self::Ec {
                point: [vec![4], members.bytes("x")?, members.bytes("y")?].concat(),
                d: members.private("d")?,
            },
            KeyType::Ed25519 => Self::Ed25519 {
                seed: members.private("d")?,
            },
            KeyType::Rsa if members.has_other_primes() => return Err(BadJwk::Unsupported),
            KeyType::Rsa => {
                let (n, e) = (members.bytes("n")?, members.bytes("e")?);
                let [d, p, q, dp, dq, qi] = RSA_PRIVATE.map(|name| members.private_number(name));
                let private = [d?, p?, q?, dp?, dq?, qi?];
                Self::Rsa(Box::new(RsaParts { n, e, private }))
            }
        };
        Ok((parts, algorithm))
    }

    /// Returns the private JWK: the members of the public JWK, `alg`, `kid` if there is one, and the
    /// private members.
    pub(super) fn to_jwk(&self, key: &PublicJwk) -> Secret {
        let numbers: Vec<(&str, &Bytes)> = match self {
            Self::Ec { d, .. } | Self::Ed25519 { seed: d } => vec![("d", d)],
            Self::Rsa(rsa) => RSA_PRIVATE.into_iter().zip(&rsa.private).collect(),
        };
        let public = key.to_json().strip_suffix('}').unwrap_or_default();
        // Serialising a string to memory can't fail.
        let kid = key
            .kid()
            .map(|kid| serde_json::to_string(kid).unwrap_or_default());
        // A reallocation would leave an unwiped copy in memory.
        let room = numbers
            .iter()
            .map(|(_, number)| encoded_len(number.len()) + 8);
        let room = room.sum::<usize>() + public.len() + kid.as_ref().map_or(0, String::len) + 32;
        let mut jwk = String::with_capacity(room);
        jwk.extend([public, r#","alg":""#, key.algorithm().as_str(), "\""]);
        if let Some(kid) = &kid {
            jwk.extend([r#","kid":"#, kid]);
        }
        for (name, number) in numbers {
            let number = Zeroizing::new(encode(number));
            jwk.extend([",\"", name, "\":\"", &number, "\""]);
        }
        jwk.push('}');
        Secret::new(jwk)
    }
}
