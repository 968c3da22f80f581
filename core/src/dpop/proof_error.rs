use std::fmt;

/// A reason why a proof is invalid. The numbered checks are those of RFC 9449 §4.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProofError {
    /// The request has no `DPoP` header (check 1).
    ProofMissing,
    /// The request has more than one `DPoP` header (check 1).
    ProofTwice,
    /// The proof is longer than the verifier's maximum length.
    TooLong,
    /// The proof is not a compact JWS: three parts of base64url, joined by dots (check 2).
    NotJws,
    /// The header is not a JSON object, or has a duplicate member (check 2).
    HeaderMalformed,
    /// `typ` is not `dpop+jwt` (check 4).
    Typ,
    /// `alg` is missing, symmetric, `none`, not supported, or not one that the verifier
    /// [accepts](crate::dpop::ProofVerifier::algorithms) (check 5).
    Alg,
    /// The header has critical extensions (RFC 7515 §4.1.11).
    Crit,
    /// `jwk` is missing (check 3).
    JwkMissing,
    /// `jwk` contains a private key (check 7).
    JwkPrivate,
    /// `jwk` is not a valid key for this `alg`.
    JwkInvalid,
    /// The signature is invalid (check 6).
    Signature,
    /// The payload is not a JSON object, or has a duplicate claim (check 2).
    PayloadMalformed,
    /// `jti` is missing, not a string, empty or longer than 1024 bytes (check 3).
    JtiMissing,
    /// `htm` is missing, not a string or empty (check 3).
    HtmMissing,
    /// `htm` is not the request's method (check 8).
    HtmMismatch,
    /// `htu` is missing, or not an absolute `http` or `https` URL without user information (check
    /// 3).
    HtuMissing,
    /// `htu` is not the request's URL (check 9).
    HtuMismatch,
    /// `iat` is missing or not a time (check 3).
    IatMissing,
    /// `iat` is further in the past than the verifier's [maximum
    /// age](crate::dpop::ProofVerifier::max_age) (check 11).
    TooOld,
    /// `iat` is further in the future than the verifier's
    /// [leeway](crate::dpop::ProofVerifier::leeway) (check 11).
    FromTheFuture,
    /// `exp` is in the past by the leeway or more, or not a time.
    Expired,
    /// `nbf` is further in the future than the leeway, or not a time.
    NotYetValid,
    /// `nonce` is missing (check 10).
    NonceMissing,
    /// `nonce` is not the server's nonce, or not a string (check 10).
    NonceMismatch,
    /// `ath` is missing (check 12).
    AthMissing,
    /// `ath` is not the hash of the access token, or not a string (check 12).
    AthMismatch,
    /// `ath` is present, but the proof is for a token request.
    AthUnexpected,
    /// The proof's key is not the key to which the token is bound (check 12).
    KeyMismatch,
}

impl ProofError {
    /// Returns a stable, machine-readable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::ProofMissing => "proof_missing",
            Self::ProofTwice => "proof_twice",
            Self::TooLong => "too_long",
            Self::NotJws => "not_jws",
            Self::HeaderMalformed => "header_malformed",
            Self::Typ => "typ",
            Self::Alg => "alg",
            Self::Crit => "crit",
            Self::JwkMissing => "jwk_missing",
            Self::JwkPrivate => "jwk_private",
            Self::JwkInvalid => "jwk_invalid",
            Self::Signature => "signature",
            Self::PayloadMalformed => "payload_malformed",
            Self::JtiMissing => "jti_missing",
            Self::HtmMissing => "htm_missing",
            Self::HtmMismatch => "htm_mismatch",
            Self::HtuMissing => "htu_missing",
            Self::HtuMismatch => "htu_mismatch",
            Self::IatMissing => "iat_missing",
            Self::TooOld => "too_old",
            Self::FromTheFuture => "from_the_future",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::NonceMissing => "nonce_missing",
            Self::NonceMismatch => "nonce_mismatch",
            Self::AthMissing => "ath_missing",
            Self::AthMismatch => "ath_mismatch",
            Self::AthUnexpected => "ath_unexpected",
            Self::KeyMismatch => "key_mismatch",
        }
    }
}

impl fmt::Display for ProofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProofMissing => "the request has no DPoP header",
            Self::ProofTwice => "the request has more than one DPoP header",
            Self::TooLong => "the proof is longer than the maximum length",
            Self::NotJws => {
                "the proof is not a compact JWS: three parts of base64url, joined by dots"
            }
            Self::HeaderMalformed => "the header is not a JSON object, or has a member twice",
            Self::Typ => {
                "the header's `typ` is not `dpop+jwt`, so this is some other kind of token"
            }
            Self::Alg => "the header's `alg` is missing or not a supported asymmetric algorithm",
            Self::Crit => "the header requires extensions (`crit`) that are not supported",
            Self::JwkMissing => {
                "the header has no `jwk`, so there is no key to verify the signature with"
            }
            Self::JwkPrivate => {
                "the header's `jwk` holds private key material: that key is no longer secret"
            }
            Self::JwkInvalid => "the header's `jwk` is not a usable public key for its `alg`",
            Self::Signature => {
                "the signature was not made by the key in the header over this content"
            }
            Self::PayloadMalformed => "the payload is not a JSON object, or has a claim twice",
            Self::JtiMissing => {
                "`jti` is missing, empty or over 1024 bytes, so replays can't be detected"
            }
            Self::HtmMissing => "`htm` (the request's method) is missing",
            Self::HtmMismatch => "`htm` is not the method of this request",
            Self::HtuMissing => "`htu` (the request's URL) is missing or not an absolute URL",
            Self::HtuMismatch => "`htu` is not the URL of this request",
            Self::IatMissing => "`iat` (when the proof was made) is missing or not a time",
            Self::TooOld => {
                "the proof was made too long ago (`iat`), or the client's clock is behind"
            }
            Self::FromTheFuture => {
                "the proof was made in the future (`iat`): the client's clock is ahead"
            }
            Self::Expired => "the proof has expired (`exp`)",
            Self::NotYetValid => "the proof is not valid yet (`nbf`)",
            Self::NonceMissing => "`nonce` is missing, and the server requires one",
            Self::NonceMismatch => "`nonce` is not the nonce that the server issued",
            Self::AthMissing => {
                "`ath` (the access token's hash) is missing, as in the proof of a token request"
            }
            Self::AthMismatch => "`ath` is not the hash of this access token",
            Self::AthUnexpected => {
                "there is an `ath`: this is the proof of a resource request, not of a token request"
            }
            Self::KeyMismatch => {
                "the proof was signed by another key than the one to which the token is bound"
            }
        })
    }
}
