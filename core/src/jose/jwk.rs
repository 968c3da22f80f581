use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use ring::agreement;
use ring::digest::{SHA256, digest};
use ring::rand::SystemRandom;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{Algorithm, decode, encode};
use crate::error::Misuse;
use crate::wire::object::Object;

/// A public key as a JWK (RFC 7517), with what is derived from it once: the thumbprint, and the encoded
/// header of its proofs. It can't hold a private member. Cloning it is cheap.
#[derive(Clone)]
pub struct PublicJwk(Arc<Parts>);

struct Parts {
    algorithm: Algorithm,
    /// The uncompressed point of SEC 1 §2.3.3: 4, x, y.
    point: [u8; 65],
    json: String,
    thumbprint: String,
    proof_header: String,
}

impl PublicJwk {
    /// The key in `jwk`'s JSON, as WebCrypto's `exportKey("jwk", publicKey)` and other libraries write it.
    ///
    /// # Errors
    /// `Misuse` for private or symmetric keys, unsupported ones, points off the curve, and for what is no JWK.
    pub fn from_json(jwk: &[u8]) -> Result<Self, Misuse> {
        let Object(members): Object<JwkMembers<'_>> =
            serde_json::from_slice(jwk).map_err(|_| BadJwk::Malformed)?;
        let key = Self::from_members(&members)?;
        if !key.is_on_curve() {
            return Err(BadJwk::OffCurve.into());
        }
        Ok(key)
    }

    /// The key of these members. Whether the point lies on the curve is left to whoever verifies with it.
    pub(crate) fn from_members(members: &JwkMembers<'_>) -> Result<Self, BadJwk> {
        if members.is_private() {
            return Err(BadJwk::Private);
        }
        match (members.kty.as_deref(), members.crv.as_deref()) {
            (Some("EC"), Some("P-256")) => {}
            (None, _) => return Err(BadJwk::Malformed),
            _ => return Err(BadJwk::Unsupported),
        }
        let usable = members.alg.as_deref().is_none_or(|alg| alg == Algorithm::Es256.as_str())
            && members.usage.as_deref().is_none_or(|usage| usage == "sig");
        if !usable {
            return Err(BadJwk::Unsupported);
        }
        let coordinate = |member: &Option<Cow<'_, str>>| -> Option<[u8; 32]> {
            decode(member.as_deref()?)?.try_into().ok()
        };
        match (coordinate(&members.x), coordinate(&members.y)) {
            (Some(x), Some(y)) => Ok(Self::p256(&x, &y)),
            _ => Err(BadJwk::Malformed),
        }
    }

    /// The key of an uncompressed P-256 point, as ring writes it.
    pub(super) fn from_point(point: &[u8]) -> Result<Self, BadJwk> {
        match point.split_first() {
            Some((4, xy)) => match (xy.first_chunk::<32>(), xy.last_chunk::<32>()) {
                (Some(x), Some(y)) if xy.len() == 64 => Ok(Self::p256(x, y)),
                _ => Err(BadJwk::Malformed),
            },
            _ => Err(BadJwk::Malformed),
        }
    }

    fn p256(x: &[u8; 32], y: &[u8; 32]) -> Self {
        let algorithm = Algorithm::Es256;
        let mut point = [4; 65];
        for (to, from) in point.iter_mut().skip(1).zip(x.iter().chain(y)) {
            *to = *from;
        }
        // The members that RFC 7638 §3.2 requires, in its order: this is what the thumbprint hashes,
        // and there is nothing else that a proof's `jwk` needs.
        let json = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, encode(x), encode(y));
        let thumbprint = encode(digest(&SHA256, json.as_bytes()).as_ref());
        let header = format!(r#"{{"typ":"dpop+jwt","alg":"{algorithm}","jwk":{json}}}"#);
        let proof_header = encode(header.as_bytes());
        Self(Arc::new(Parts { algorithm, point, json, thumbprint, proof_header }))
    }

    /// The algorithm that this key signs by.
    pub fn algorithm(&self) -> Algorithm {
        self.0.algorithm
    }

    /// The JWK's JSON: the required members alone, in lexical order.
    pub fn to_json(&self) -> &str {
        &self.0.json
    }

    /// The SHA-256 thumbprint (RFC 7638), base64url: a token's `jkt`, and `dpop_jkt`.
    pub fn thumbprint(&self) -> &str {
        &self.0.thumbprint
    }

    /// The encoded header of a proof by this key.
    pub(crate) fn proof_header(&self) -> &str {
        &self.0.proof_header
    }

    pub(crate) fn point(&self) -> &[u8] {
        &self.0.point
    }

    /// Whether the point lies on the curve. ring tells by agreeing on a throw-away key with it.
    pub(crate) fn is_on_curve(&self) -> bool {
        agreement::EphemeralPrivateKey::generate(&agreement::ECDH_P256, &SystemRandom::new())
            .and_then(|ephemeral| {
                let peer = agreement::UnparsedPublicKey::new(&agreement::ECDH_P256, self.point());
                agreement::agree_ephemeral(ephemeral, &peer, |_| ())
            })
            .is_ok()
    }
}

impl PartialEq for PublicJwk {
    fn eq(&self, other: &Self) -> bool {
        self.0.point == other.0.point && self.0.algorithm == other.0.algorithm
    }
}

impl Eq for PublicJwk {}

impl fmt::Debug for PublicJwk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicJwk({}, {})", self.0.algorithm, self.0.thumbprint)
    }
}

/// The members of a JWK that matter here (RFC 7517 §4, RFC 7518 §6). Others are ignored; a member that
/// stands twice is refused.
#[derive(Deserialize)]
pub(crate) struct JwkMembers<'a> {
    #[serde(borrow)]
    kty: Option<Cow<'a, str>>,
    #[serde(borrow)]
    crv: Option<Cow<'a, str>>,
    #[serde(borrow)]
    x: Option<Cow<'a, str>>,
    #[serde(borrow)]
    y: Option<Cow<'a, str>>,
    #[serde(borrow)]
    alg: Option<Cow<'a, str>>,
    #[serde(borrow, rename = "use")]
    usage: Option<Cow<'a, str>>,
    #[serde(default)]
    d: Present,
    #[serde(default)]
    k: Present,
    #[serde(default)]
    p: Present,
    #[serde(default)]
    q: Present,
    #[serde(default)]
    dp: Present,
    #[serde(default)]
    dq: Present,
    #[serde(default)]
    qi: Present,
    #[serde(default)]
    oth: Present,
}

impl JwkMembers<'_> {
    /// Whether any member of any key type's private or symmetric part is there (RFC 7518 §6).
    fn is_private(&self) -> bool {
        [&self.d, &self.k, &self.p, &self.q, &self.dp, &self.dq, &self.qi, &self.oth]
            .into_iter()
            .any(|member| member.0)
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
    Unsupported,
    OffCurve,
}

impl BadJwk {
    pub(crate) fn rule(self) -> &'static str {
        match self {
            Self::Malformed => "must be a JWK with every member that its key type requires",
            Self::Private => "must not hold private or symmetric key material",
            Self::Unsupported => "must be an EC key on P-256, meant for ES256 signatures",
            Self::OffCurve => "must be a point on its curve",
        }
    }
}

impl From<BadJwk> for Misuse {
    fn from(bad: BadJwk) -> Self {
        Self::new("jwk", bad.rule())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9449 §4.1's key and its thumbprint, which is §6.1's `jkt`.
    const RFC_9449: &str = r#"{"kty":"EC","x":"l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs","y":"9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA","crv":"P-256"}"#;

    #[test]
    fn the_thumbprint_is_the_one_of_rfc_9449() {
        let key = PublicJwk::from_json(RFC_9449.as_bytes()).unwrap();
        assert_eq!(key.thumbprint(), "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I");
        assert_eq!(PublicJwk::from_json(key.to_json().as_bytes()).unwrap(), key);
    }

    #[test]
    fn a_jwk_that_is_not_a_public_signing_key_is_refused_with_the_reason() {
        for (from, to, why) in [
            (r#""crv":"#, r#""d":"AA","crv":"#, BadJwk::Private),
            (r#""crv":"#, r#""d":null,"crv":"#, BadJwk::Private),
            (r#""kty":"EC""#, r#""kty":"oct","k":"AA""#, BadJwk::Private),
            (r#""kty":"EC""#, r#""kty":"RSA","e":"AQAB","n":"AA""#, BadJwk::Unsupported),
            (r#""kty":"EC""#, r#""kty":"EC","use":"enc""#, BadJwk::Unsupported),
            (r#""kty":"EC""#, r#""kty":"EC","alg":"ES384""#, BadJwk::Unsupported),
            ("P-256", "P-384", BadJwk::Unsupported),
            (r#""kty":"EC","#, "", BadJwk::Malformed),
            (r#""kty":"EC","#, r#""kty":"EC","kty":"EC","#, BadJwk::Malformed),
            (r#""x":"l8"#, r#""x":"AAl8"#, BadJwk::Malformed),
            (r#"BFs""#, r#"BFs=""#, BadJwk::Malformed),
            (r#"RDA""#, r#"RDB""#, BadJwk::Malformed),
            (r#""x":"l8"#, r#""x":"l9"#, BadJwk::OffCurve),
            ("{", "", BadJwk::Malformed),
            ("{", "[{", BadJwk::Malformed),
        ] {
            let jwk = RFC_9449.replacen(from, to, 1);
            assert_ne!(jwk, RFC_9449);
            assert_eq!(PublicJwk::from_json(jwk.as_bytes()).unwrap_err(), Misuse::from(why), "{jwk}");
        }
    }
}
