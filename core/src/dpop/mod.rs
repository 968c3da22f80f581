//! Demonstrating Proof of Possession (RFC 9449): making proofs, and judging those that somebody else made.
//!
//! # The checks of RFC 9449 §4.3
//!
//! | check | what must hold | [`ProofError::code`] | test (`core/tests/it`) |
//! |---|---|---|---|
//! | 1 | there is exactly one `DPoP` header | `proof_missing`, `proof_twice` | `inspect::a_request_has_exactly_one_proof` |
//! | 2 | it is one well-formed JWT | `too_long`, `not_jws`, `header_malformed`, `payload_malformed` | `inspect::what_is_no_jws_of_two_objects_is_refused_for_its_form` |
//! | 3 | every required claim is there | `jti_missing`, `htm_missing`, `htu_missing`, `iat_missing`, `jwk_missing` | `inspect::each_wrong_member_is_exactly_its_problem` |
//! | 4 | `typ` is `dpop+jwt`, to the letter | `typ` | the same |
//! | 5 | `alg` is asymmetric, supported and allowed; nothing critical is unknown | `alg`, `crit` | the same |
//! | 6 | the signature holds under `jwk` | `signature`, `jwk_invalid` | `inspect::a_signature_over_anything_else_is_refused`, `vectors::a_proof_with_any_one_character_changed_is_refused` |
//! | 7 | `jwk` has no private part | `jwk_private` | `inspect::each_wrong_member_is_exactly_its_problem` |
//! | 8 | `htm` is the request's method | `htm_mismatch` | the same |
//! | 9 | `htu` is the request's URL without query and fragment | `htu_mismatch` | the same |
//! | 10 | `nonce` is the one that the server gave | `nonce_missing`, `nonce_mismatch` | the same |
//! | 11 | it was made neither too long ago nor ahead of time | `too_old`, `from_the_future`, `expired`, `not_yet_valid` | the same |
//! | 12 | `ath` is the access token's hash, and the key the one it is bound to | `ath_missing`, `ath_mismatch`, `ath_unexpected`, `key_mismatch` | `inspect::the_hash_of_the_access_token_is_checked_where_one_goes_along`, `inspect::the_key_must_be_the_one_that_the_token_is_bound_to` |
//! | §11.1 | it was not used before | [`ReplayError`] | the cache's own |
//!
//! Where the RFC leaves it open, this is decided:
//!
//! | what | decision |
//! |---|---|
//! | a fraction in `iat`, `exp`, `nbf` | taken (RFC 7519 §2: a `NumericDate` may have one) |
//! | `exp` and `nbf` | not asked for; enforced where they stand |
//! | a member that stands twice, at any depth of header or payload | refused |
//! | unknown members of header, `jwk` or payload | ignored |
//! | `jwk` with `use` or `key_ops` against signatures, or another `alg` | refused |
//! | base64url with padding, another alphabet, white space or stray bits at the end | refused |
//! | JSON nested deeper than 32 levels, a proof over 8 KiB | refused before anything is verified |
//! | `typ` in another case, or with `application/` before it | refused |
//! | `htu` spelled otherwise (case of scheme and host, default port, dot segments, escapes) | the same URL (RFC 3986 §6.2.2, §6.2.3) |
//! | `htm` in another case | another method (RFC 9110 §9.1) |
//! | points off the curve, Ed25519 keys of small order, RSA below 2048 or above 8192 bits | refused |

mod htu;
pub(crate) mod proof;
mod proof_error;
mod replay;
mod verifier;

pub use crate::types::nonce::Nonce;
pub use proof::{Proof, ProofBuilder};
pub use proof_error::ProofError;
pub use replay::{ReplayCache, ReplayError};
pub use verifier::{Inspection, ProofClaims, ProofVerifier, VerifiedProof};

pub(crate) use proof::{AccessTokenHash, sensitive};
pub(crate) use verifier::Jws;
pub(crate) use verifier::is_dpop_proof;

/// The header that carries a proof (RFC 9449 §4.1).
pub(crate) const DPOP: http::HeaderName = http::HeaderName::from_static("dpop");
