use std::fmt;
use std::sync::{Arc, OnceLock};

use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use ring::{agreement, signature as verifying};

use super::{Algorithm, BadJwk, JwkMembers, algorithm::KeyType, encode};
use crate::types::input::InvalidInput;

/// A public key as a JWK (RFC 7517). It caches the values derived from the key: the thumbprint and
/// the encoded header of its proofs. It can't contain private members. Cloning it is cheap.
#[derive(Clone)]
pub struct PublicJwk(Arc<JwkParts>);

struct JwkParts {
    algorithm: Algorithm,
    /// Whether the JWK has `alg`, which restricts the key to that algorithm (RFC 7517 §4.4).
    is_algorithm_named: bool,
    material: KeyMaterial,
    kid: Option<String>,
    derived: Derived,
}

/// Computed on first use: verification rarely needs them.
#[derive(Default)]
struct Derived {
    json: OnceLock<String>,
    thumbprint: OnceLock<String>,
    proof_header: OnceLock<String>,
}

/// The bytes of a public key.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum KeyMaterial {
    /// The uncompressed point (SEC 1 §2.3.3): the byte 4, x, y.
    P256([u8; 65]),
    P384([u8; 97]),
    Ed25519([u8; 32]),
    /// Big-endian, without leading zeros.
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
}

impl JwkParts {
    fn new(material: KeyMaterial, algorithm: Algorithm, kid: Option<String>) -> Self {
        Self {
            algorithm,
            is_algorithm_named: false,
            material,
            kid,
            derived: Derived::default(),
        }
    }
}

impl PublicJwk {
    /// Parses a JWK in JSON, as written by WebCrypto's `exportKey("jwk", publicKey)` and other
    /// libraries. An RSA key without `alg` is for RS256; see
    /// [`with_algorithm`](Self::with_algorithm).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `jwk` is not a JWK, the key is private, symmetric or
    /// unsupported, `use` or `key_ops` don't permit verification, the point is not on its curve, or
    /// an RSA key has less than 2048 or more than 8192 bits.
    pub fn from_json(jwk: &[u8]) -> Result<Self, InvalidInput> {
        let key = Self::from_members(&JwkMembers::parse(jwk)?)?;
        if !key.is_on_curve() {
            return Err(BadJwk::NoPoint.into());
        }
        Ok(key)
    }

    /// Creates a key from the output of WebCrypto's `exportKey("raw", publicKey)`: the uncompressed
    /// point of SEC 1 §2.3.3, or the 32 bytes of RFC 8032 §5.1.2. It must come from the holder of
    /// the private key, because this doesn't check whether a point lies on its curve.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the length or form is not the algorithm's, for an Ed25519 point
    /// of small order, and for RSA, which has no raw form.
    pub fn from_raw(algorithm: Algorithm, raw: &[u8]) -> Result<Self, InvalidInput> {
        let material = KeyMaterial::from_point(algorithm.key_type(), raw)
            .map_err(|_| InvalidInput::new("key", "must be a raw public key of its algorithm"))?;
        Ok(Self::new(material, algorithm, None))
    }

    /// Creates a key from its members. Doesn't check whether a point lies on its curve: the
    /// verification does.
    pub(crate) fn from_members(members: &JwkMembers<'_>) -> Result<Self, BadJwk> {
        if members.is_private() {
            return Err(BadJwk::Private);
        }
        let (key_type, algorithm) = members.kind("verify")?;
        let material = KeyMaterial::from_members(key_type, members)?;
        let mut parts = JwkParts::new(material, algorithm, members.kid()?);
        parts.is_algorithm_named = members.names_algorithm();
        Ok(Self(Arc::new(parts)))
    }

    pub(super) fn new(material: KeyMaterial, algorithm: Algorithm, kid: Option<String>) -> Self {
        Self(Arc::new(JwkParts::new(material, algorithm, kid)))
    }

    /// Returns the key for verifying signatures of this algorithm, or `None` if the key is for
    /// another algorithm.
    pub(crate) fn verifying_by(&self, algorithm: Algorithm) -> Option<Self> {
        let is_for_it = !self.0.is_algorithm_named || algorithm.is_same_as(self.algorithm());
        self.with_algorithm(algorithm).ok().filter(|_| is_for_it)
    }

    /// Returns the same key for another algorithm of its key type: RS256 or PS256, EdDSA or
    /// Ed25519.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the algorithm requires another key type.
    pub fn with_algorithm(&self, algorithm: Algorithm) -> Result<Self, InvalidInput> {
        if algorithm == self.algorithm() {
            return Ok(self.clone());
        }
        if algorithm.key_type() != self.algorithm().key_type() {
            return Err(InvalidInput::new(
                "algorithm",
                "must be one that the key can be used with",
            ));
        }
        let (material, kid) = (self.0.material.clone(), self.0.kid.clone());
        Ok(Self::new(material, algorithm, kid))
    }

    /// Returns the same key with the algorithm name that a server supports, from
    /// `dpop_signing_alg_values_supported` (RFC 9449 §5.1) or the `algs` of a challenge (RFC 9449
    /// §7.1). Ed25519 has two names, `EdDSA` and `Ed25519`: the key keeps its own if the server
    /// supports both. An RSA key is never changed from RS256 to PS256 or back.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the server does not support the key's algorithm.
    pub fn select_algorithm<'a>(
        &self,
        algs: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidInput> {
        let usable = algs
            .into_iter()
            .filter_map(Algorithm::from_alg)
            .filter(|alg| alg.is_same_as(self.algorithm()));
        // The own name if the server supports it, otherwise the first one.
        let chosen = usable.min_by_key(|alg| *alg != self.algorithm());
        self.with_algorithm(chosen.ok_or(InvalidInput::new(
            "key",
            "must be for an algorithm that the server supports",
        ))?)
    }

    /// Returns the algorithm of this key's signatures.
    pub fn algorithm(&self) -> Algorithm {
        self.0.algorithm
    }

    /// Returns the `kid` (RFC 7517 §4.5), if the key has one.
    pub fn kid(&self) -> Option<&str> {
        self.0.kid.as_deref()
    }

    /// Returns the same key with a `kid`, for keys from formats without one, such as PKCS#8.
    pub fn with_kid(&self, kid: &str) -> Self {
        let kid = Some(kid.to_owned());
        Self::new(self.0.material.clone(), self.0.algorithm, kid)
    }

    /// Returns the JWK as JSON: only the required members, in lexicographic order.
    pub fn to_json(&self) -> &str {
        let Derived { json, .. } = &self.0.derived;
        json.get_or_init(|| self.0.material.to_json())
    }

    /// Returns the SHA-256 thumbprint (RFC 7638) in base64url: the value of a token's `jkt` and of
    /// `dpop_jkt`.
    pub fn thumbprint(&self) -> &str {
        let Derived { thumbprint, .. } = &self.0.derived;
        thumbprint.get_or_init(|| encode(digest(&SHA256, self.to_json().as_bytes()).as_ref()))
    }

    /// Returns the base64url-encoded header of proofs signed by this key.
    pub(crate) fn proof_header(&self) -> &str {
        self.0.derived.proof_header.get_or_init(|| {
            let (alg, jwk) = (self.algorithm(), self.to_json());
            encode(format!(r#"{{"typ":"dpop+jwt","alg":"{alg}","jwk":{jwk}}}"#).as_bytes())
        })
    }

    /// Returns the length of a raw signature in bytes.
    pub(crate) fn signature_len(&self) -> usize {
        match &self.0.material {
            KeyMaterial::P256(_) | KeyMaterial::Ed25519(_) => 64,
            KeyMaterial::P384(_) => 96,
            KeyMaterial::Rsa { n, .. } => n.len(),
        }
    }

    /// Returns whether both are the same key, regardless of algorithm and `kid`. Signers with
    /// several keys can use it.
    pub fn is_same_key(&self, other: &Self) -> bool {
        self.0.material == other.0.material
    }

    /// Returns whether a raw signature (RFC 7518 §3.4 for ECDSA) is valid.
    pub(crate) fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        let is_valid = |algorithm: &'static dyn verifying::VerificationAlgorithm, key: &[u8]| {
            let key = verifying::UnparsedPublicKey::new(algorithm, key);
            key.verify(message, signature).is_ok()
        };
        match (&self.0.material, self.0.algorithm) {
            (KeyMaterial::P256(point), _) => is_valid(&verifying::ECDSA_P256_SHA256_FIXED, point),
            (KeyMaterial::P384(point), _) => is_valid(&verifying::ECDSA_P384_SHA384_FIXED, point),
            (KeyMaterial::Ed25519(point), _) => is_valid(&verifying::ED25519, point),
            (KeyMaterial::Rsa { n, e }, algorithm) => {
                let scheme = match algorithm {
                    Algorithm::Ps256 => &verifying::RSA_PSS_2048_8192_SHA256,
                    _ => &verifying::RSA_PKCS1_2048_8192_SHA256,
                };
                let key = verifying::RsaPublicKeyComponents { n, e };
                key.verify(scheme, message, signature).is_ok()
            }
        }
    }

    /// Returns whether a point lies on its curve. ring checks this in a key agreement with an
    /// ephemeral key. For Ed25519 this returns `true`: the verification of a signature checks the
    /// point.
    pub(crate) fn is_on_curve(&self) -> bool {
        let agrees = |curve: &'static agreement::Algorithm, point: &[u8]| {
            let peer = agreement::UnparsedPublicKey::new(curve, point);
            agreement::EphemeralPrivateKey::generate(curve, &SystemRandom::new())
                .and_then(|own| agreement::agree_ephemeral(own, &peer, |_| ()))
                .is_ok()
        };
        match &self.0.material {
            KeyMaterial::P256(point) => agrees(&agreement::ECDH_P256, point),
            KeyMaterial::P384(point) => agrees(&agreement::ECDH_P384, point),
            KeyMaterial::Ed25519(_) | KeyMaterial::Rsa { .. } => true,
        }
    }
}

impl PartialEq for PublicJwk {
    fn eq(&self, other: &Self) -> bool {
        self.is_same_key(other) && self.0.algorithm == other.0.algorithm
    }
}

impl Eq for PublicJwk {}

impl fmt::Debug for PublicJwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicJwk({}, {})", self.0.algorithm, self.thumbprint())
    }
}

impl KeyMaterial {
    pub(super) fn from_members(
        key_type: KeyType,
        members: &JwkMembers<'_>,
    ) -> Result<Self, BadJwk> {
        match key_type {
            KeyType::P256 | KeyType::P384 => {
                let (x, y) = (members.bytes("x")?, members.bytes("y")?);
                // Each has the length of the field, including leading zeros (RFC 7518 §6.2.1.2).
                if x.len() != y.len() {
                    return Err(BadJwk::Malformed);
                }
                Self::from_point(key_type, &[&[4], &*x, &y].concat())
            }
            KeyType::Ed25519 => Self::from_point(key_type, &members.bytes("x")?),
            KeyType::Rsa => Self::from_modulus(members.bytes("n")?, members.bytes("e")?),
        }
    }

    /// Creates a key from a point in the encoding of ring and SEC 1.
    pub(super) fn from_point(key_type: KeyType, point: &[u8]) -> Result<Self, BadJwk> {
        let key = match key_type {
            KeyType::P256 => uncompressed(point).map(Self::P256),
            KeyType::P384 => uncompressed(point).map(Self::P384),
            KeyType::Ed25519 => point.try_into().ok().map(Self::Ed25519),
            KeyType::Rsa => None,
        };
        match key.ok_or(BadJwk::Malformed)? {
            Self::Ed25519(point) if has_small_order(&point) => Err(BadJwk::NoPoint),
            key => Ok(key),
        }
    }

    /// Creates an RSA key. Rejects a modulus outside 2048 to 8192 bits (the limits of ring), an
    /// exponent that is even, less than 3 or longer than 32 bits, and leading zero bytes.
    pub(super) fn from_modulus(n: Vec<u8>, e: Vec<u8>) -> Result<Self, BadJwk> {
        let (Some(first @ 1..), Some(1..)) = (n.first(), e.first()) else {
            return Err(BadJwk::Malformed);
        };
        let is_long_enough = n.len() > 256 || (n.len() == 256 && *first >= 0x80);
        let is_odd = e.last().is_some_and(|last| last % 2 == 1);
        if !is_long_enough || n.len() > 1024 || !is_odd || e == [1] || e.len() > 4 {
            return Err(BadJwk::Weak);
        }
        Ok(Self::Rsa { n, e })
    }

    /// Returns the members required by RFC 7638 §3.2 (and RFC 8037 §2), in its order. The
    /// thumbprint is the hash of this text, and a proof's `jwk` needs no other members.
    fn to_json(&self) -> String {
        let elliptic = |curve: &str, point: &[u8]| {
            let (x, y) = point.split_at(point.len() / 2 + 1);
            let x = x.get(1..).unwrap_or_default();
            format!(
                r#"{{"crv":"{curve}","kty":"EC","x":"{}","y":"{}"}}"#,
                encode(x),
                encode(y)
            )
        };
        match self {
            Self::P256(point) => elliptic("P-256", point),
            Self::P384(point) => elliptic("P-384", point),
            Self::Ed25519(point) => {
                format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{}"}}"#, encode(point))
            }
            Self::Rsa { n, e } => {
                format!(r#"{{"e":"{}","kty":"RSA","n":"{}"}}"#, encode(e), encode(n))
            }
        }
    }
}

/// Returns an uncompressed point as an array, if it has the length of its curve.
fn uncompressed<const N: usize>(point: &[u8]) -> Option<[u8; N]> {
    let is_uncompressed = point.first() == Some(&4);
    point.try_into().ok().filter(|_| is_uncompressed)
}

/// Returns whether an Ed25519 key is a point of small order. With such a key one signature can be
/// valid for every message, and ring's verification accepts it. All encodings of these points are
/// listed, without the sign bit.
fn has_small_order(point: &[u8; 32]) -> bool {
    const ORDER_8: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef,
            0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88,
            0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10,
            0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77,
            0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    let mut y = *point;
    y[31] &= 0x7f;
    let [first, middle @ .., last] = y;
    let is_zero_or_one = first <= 1 && middle == [0; 30] && last == 0;
    // p - 1, and the non-canonical encodings of 0 and 1: p and p + 1.
    let is_near_p = first >= 0xec && middle == [0xff; 30] && last == 0x7f;
    is_zero_or_one || is_near_p || ORDER_8.contains(&y)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::jose::SigningKey;

    /// RFC 9449 §4.1's key and its thumbprint, which is §6.1's `jkt`.
    const RFC_9449: &str = r#"{"kty":"EC","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs","y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA","crv":"P-256"}"#;

    #[test]
    fn the_thumbprint_is_the_one_of_rfc_9449() {
        let key = PublicJwk::from_json(RFC_9449.as_bytes()).unwrap();
        assert_eq!(
            key.thumbprint(),
            "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
        );
        assert_eq!(PublicJwk::from_json(key.to_json().as_bytes()).unwrap(), key);
    }

    #[test]
    fn a_jwk_that_is_not_a_public_signing_key_is_refused_with_the_reason() {
        for (from, to, why) in [
            (r#""crv":"#, r#""d":"AA","crv":"#, BadJwk::Private),
            (r#""crv":"#, r#""d":null,"crv":"#, BadJwk::Private),
            (r#""crv":"#, r#""oth":[],"crv":"#, BadJwk::Private),
            (r#""kty":"EC""#, r#""kty":"oct","k":"AA""#, BadJwk::Private),
            (r#""kty":"EC""#, r#""kty":"oct""#, BadJwk::Unsupported),
            (
                r#""kty":"EC""#,
                r#""kty":"RSA","e":"AQAB","n":"AA""#,
                BadJwk::Malformed,
            ),
            (
                r#""kty":"EC""#,
                r#""kty":"RSA","e":"AQAB","n":"_w""#,
                BadJwk::Weak,
            ),
            (
                r#""kty":"EC""#,
                r#""kty":"EC","use":"enc""#,
                BadJwk::Unsupported,
            ),
            (
                r#""kty":"EC""#,
                r#""kty":"EC","key_ops":["sign"]"#,
                BadJwk::Unsupported,
            ),
            (
                r#""kty":"EC""#,
                r#""kty":"EC","alg":"ES384""#,
                BadJwk::Unsupported,
            ),
            (
                r#""kty":"EC""#,
                r#""kty":"EC","alg":"none""#,
                BadJwk::Unsupported,
            ),
            ("P-256", "P-384", BadJwk::Malformed),
            ("P-256", "secp256k1", BadJwk::Unsupported),
            (r#""kty":"EC","#, "", BadJwk::Malformed),
            (
                r#""kty":"EC","#,
                r#""kty":"EC","kty":"EC","#,
                BadJwk::Malformed,
            ),
            (r#""x":"l8"#, r#""x":"AAl8"#, BadJwk::Malformed),
            (r#"BFs""#, r#"BFs=""#, BadJwk::Malformed),
            (r#"RDA""#, r#"RDB""#, BadJwk::Malformed),
            (r#""x":"l8"#, r#""x":"l9"#, BadJwk::NoPoint),
            ("{", "", BadJwk::Malformed),
        ] {
            let jwk = RFC_9449.replacen(from, to, 1);
            assert_ne!(jwk, RFC_9449);
            assert_eq!(
                PublicJwk::from_json(jwk.as_bytes()).unwrap_err(),
                InvalidInput::from(why),
                "{jwk}"
            );
        }
        for fine in [
            r#""use":"sig","crv":"#,
            r#""key_ops":["verify"],"crv":"#,
            r#""odd":{"a":1},"crv":"#,
        ] {
            assert!(
                PublicJwk::from_json(RFC_9449.replacen(r#""crv":"#, fine, 1).as_bytes()).is_ok(),
                "{fine}"
            );
        }
    }

    #[test]
    fn rsa_has_2048_to_8192_bits_and_an_odd_exponent() {
        let modulus = |bits: usize| {
            let mut n = vec![0xff; bits.div_ceil(8)];
            n[0] >>= (8 - bits % 8) % 8;
            n
        };
        for (bits, e, sound) in [
            (2048, &[1, 0, 1][..], true),
            (8192, &[3], true),
            (2047, &[1, 0, 1], false),
            (8193, &[1, 0, 1], false),
            (2048, &[1], false),
            (2048, &[1, 0, 0], false),
            (2048, &[1, 0, 0, 0, 1], false),
            (2048, &[], false),
            (2048, &[0, 3], false),
        ] {
            let jwk = format!(
                r#"{{"kty":"RSA","n":"{}","e":"{}"}}"#,
                encode(&modulus(bits)),
                encode(e)
            );
            assert_eq!(
                PublicJwk::from_json(jwk.as_bytes()).is_ok(),
                sound,
                "{bits} {e:?}"
            );
        }
    }

    #[test]
    fn an_ed25519_key_of_small_order_is_refused() {
        let mut encodings = vec![[0; 32], [0; 32], [0xff; 32], [0xff; 32], [0xff; 32]];
        encodings[1][0] = 1;
        for (at, first) in [(2, 0xec), (3, 0xed), (4, 0xee)] {
            encodings[at][0] = first;
            encodings[at][31] = 0x7f;
        }
        for mut point in encodings {
            for sign in [0, 0x80] {
                point[31] |= sign;
                let jwk = format!(
                    r#"{{"kty":"OKP","crv":"Ed25519","x":"{}"}}"#,
                    encode(&point)
                );
                assert_eq!(
                    PublicJwk::from_json(jwk.as_bytes()).unwrap_err(),
                    BadJwk::NoPoint.into(),
                    "{point:?}"
                );
            }
        }
    }

    #[test]
    fn a_raw_key_is_the_one_of_its_jwk() {
        for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
            let key = SigningKey::generate(algorithm).unwrap().public().clone();
            let raw: &[u8] = match &key.0.material {
                KeyMaterial::P256(point) => point,
                KeyMaterial::P384(point) => point,
                KeyMaterial::Ed25519(point) => point,
                KeyMaterial::Rsa { .. } => unreachable!("RSA keys are not generated"),
            };
            let again = PublicJwk::from_raw(algorithm, raw).unwrap();
            assert_eq!(again, key);
            assert_eq!(again.to_json(), key.to_json());
            for bad in [&raw[1..], &[raw, &[0]].concat(), &[]] {
                assert_eq!(
                    PublicJwk::from_raw(algorithm, bad).unwrap_err().argument(),
                    "key"
                );
            }
            assert!(PublicJwk::from_raw(Algorithm::Rs256, raw).is_err());
        }
        let compressed = [&[2; 33][..], &[0; 32]].concat();
        assert!(PublicJwk::from_raw(Algorithm::Es256, &compressed).is_err());
    }

    #[test]
    fn ed25519_goes_by_the_name_that_the_server_announces() {
        let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
        let named = |algs: &[&'static str]| {
            key.public()
                .select_algorithm(algs.iter().copied())
                .map(|key| key.algorithm())
        };
        assert_eq!(named(&["ES256", "Ed25519"]), Ok(Algorithm::Ed25519));
        assert_eq!(named(&["Ed25519", "EdDSA"]), Ok(Algorithm::EdDsa));
        assert!(named(&["ES256", "RS256"]).is_err());
        let renamed = key.public().select_algorithm(["Ed25519"]).unwrap();
        assert_eq!(renamed.thumbprint(), key.public().thumbprint());
        let header: Value =
            serde_json::from_slice(&crate::jose::decode(renamed.proof_header()).unwrap()).unwrap();
        assert_eq!(header["alg"], "Ed25519");
    }
}
