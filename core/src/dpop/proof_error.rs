use std::fmt;

/// What is wrong with a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ProofError {
    /// The request has no `DPoP` header (check 1).
    ProofMissing,
    /// The request has more than one `DPoP` header (check 1).
    ProofTwice,
    /// Longer than a proof may be.
    TooLong,
    /// Not three parts of base64url, joined by dots (§4.3, check 2).
    NotJws,
    /// The header is not a JSON object that says everything once.
    HeaderMalformed,
    /// `typ` is not `dpop+jwt` (check 4).
    Typ,
    /// `alg` is missing, symmetric, `none` or not supported (check 5).
    Alg,
    /// The header has critical extensions (RFC 7515 §4.1.11).
    Crit,
    /// `jwk` is missing (check 3).
    JwkMissing,
    /// `jwk` holds a private key (check 7).
    JwkPrivate,
    /// `jwk` is no key for this `alg`.
    JwkInvalid,
    /// The signature doesn't hold (check 6).
    Signature,
    /// The payload is not a JSON object, or has a claim twice.
    PayloadMalformed,
    /// `jti` is missing, empty or longer than 1024 bytes (check 3).
    JtiMissing,
    /// `htm` is missing (check 3).
    HtmMissing,
    /// `htm` is another method (check 8).
    HtmMismatch,
    /// `htu` is missing or no absolute URL (check 3).
    HtuMissing,
    /// `htu` is another URL (check 9).
    HtuMismatch,
    /// `iat` is missing or no time (check 3).
    IatMissing,
    /// `iat` lies too far back (check 11).
    TooOld,
    /// `iat` lies ahead (check 11).
    FromTheFuture,
    /// `exp` has passed.
    Expired,
    /// `nbf` hasn't come.
    NotYetValid,
    /// `nonce` is missing (check 10).
    NonceMissing,
    /// `nonce` is another (check 10).
    NonceMismatch,
    /// `ath` is missing (check 12).
    AthMissing,
    /// `ath` is of another token (check 12).
    AthMismatch,
    /// There is an `ath`, as in the proof of a resource request.
    AthUnexpected,
    /// The key is another than the one that is expected (check 12).
    KeyMismatch,
}

impl ProofError {
    /// A stable name for programs.
    pub fn code(self) -> &'static str {
        self.code_and_sentence().0
    }

    fn code_and_sentence(self) -> (&'static str, &'static str) {
        match self {
            Self::ProofMissing => ("proof_missing", "the request has no DPoP header"),
            Self::ProofTwice => ("proof_twice", "the request has more than one DPoP header"),
            Self::TooLong => ("too_long", "the proof is longer than a proof may be"),
            Self::NotJws => (
                "not_jws",
                "the proof is not a compact JWS: three parts of base64url, joined by dots",
            ),
            Self::HeaderMalformed => (
                "header_malformed",
                "the header is not a JSON object that says everything once",
            ),
            Self::Typ => (
                "typ",
                "the header's `typ` is not `dpop+jwt`, so this is some other kind of token",
            ),
            Self::Alg => (
                "alg",
                "the header's `alg` is missing or not a supported asymmetric algorithm",
            ),
            Self::Crit => (
                "crit",
                "the header demands extensions (`crit`) that are not understood",
            ),
            Self::JwkMissing => (
                "jwk_missing",
                "the header has no `jwk`, so there is no key to check with",
            ),
            Self::JwkPrivate => (
                "jwk_private",
                "the header's `jwk` holds private key material: that key is no longer secret",
            ),
            Self::JwkInvalid => (
                "jwk_invalid",
                "the header's `jwk` is not a usable public key for its `alg`",
            ),
            Self::Signature => (
                "signature",
                "the signature was not made by the key in the header over this content",
            ),
            Self::PayloadMalformed => (
                "payload_malformed",
                "the payload is not a JSON object, or has a claim twice",
            ),
            Self::JtiMissing => (
                "jti_missing",
                "`jti` is missing, empty or over 1024 bytes, so that a replay can't be told",
            ),
            Self::HtmMissing => ("htm_missing", "`htm` (the request's method) is missing"),
            Self::HtmMismatch => ("htm_mismatch", "`htm` is not the method of this request"),
            Self::HtuMissing => (
                "htu_missing",
                "`htu` (the request's URL) is missing or not an absolute URL",
            ),
            Self::HtuMismatch => ("htu_mismatch", "`htu` is not the URL of this request"),
            Self::IatMissing => (
                "iat_missing",
                "`iat` (when the proof was made) is missing or not a time",
            ),
            Self::TooOld => (
                "too_old",
                "the proof was made too long ago (`iat`), or the maker's clock is behind",
            ),
            Self::FromTheFuture => (
                "from_the_future",
                "the proof was made in the future (`iat`): the maker's clock is ahead",
            ),
            Self::Expired => ("expired", "the proof has expired (`exp`)"),
            Self::NotYetValid => ("not_yet_valid", "the proof is not valid yet (`nbf`)"),
            Self::NonceMissing => (
                "nonce_missing",
                "`nonce` is missing, and the server asked for one",
            ),
            Self::NonceMismatch => (
                "nonce_mismatch",
                "`nonce` is not the one that the server gave",
            ),
            Self::AthMissing => (
                "ath_missing",
                "`ath` (the access token's hash) is missing, as in the proof of a token request",
            ),
            Self::AthMismatch => ("ath_mismatch", "`ath` is not the hash of this access token"),
            Self::AthUnexpected => (
                "ath_unexpected",
                "there is an `ath`: this is the proof of a resource request, not of a token request",
            ),
            Self::KeyMismatch => (
                "key_mismatch",
                "the proof is by another key than the one that the token is bound to",
            ),
        }
    }
}

impl fmt::Display for ProofError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code_and_sentence().1)
    }
}
