//! Demonstrating Proof of Possession (RFC 9449): creating proofs, and verifying the proofs of
//! clients.
//!
//! # The checks of RFC 9449 §4.3
//!
//! | check | requirement | [`ProofError::code`] | test (`core/tests/it`) |
//! |---|---|---|---|
//! | 1 | there is exactly one `DPoP` header | `proof_missing`, `proof_twice` | `inspect::a_request_has_exactly_one_proof` |
//! | 2 | it is one well-formed JWT | `too_long`, `not_jws`, `header_malformed`, `payload_malformed` | `inspect::what_is_no_jws_of_two_objects_is_refused_for_its_form` |
//! | 3 | every required claim is present | `jti_missing`, `htm_missing`, `htu_missing`, `iat_missing`, `jwk_missing` | `inspect::each_wrong_member_is_exactly_its_proof_error` |
//! | 4 | `typ` is exactly `dpop+jwt` | `typ` | the same |
//! | 5 | `alg` is asymmetric, supported and allowed; there are no critical extensions | `alg`, `crit` | the same |
//! | 6 | the signature is valid under `jwk` | `signature`, `jwk_invalid` | `inspect::a_signature_over_anything_else_is_refused`, `vectors::a_proof_with_any_one_character_changed_is_refused` |
//! | 7 | `jwk` has no private members | `jwk_private` | `inspect::each_wrong_member_is_exactly_its_proof_error` |
//! | 8 | `htm` is the request's method | `htm_mismatch` | the same |
//! | 9 | `htu` is the request's URL without query and fragment | `htu_mismatch` | the same |
//! | 10 | `nonce` is the nonce that the server issued | `nonce_missing`, `nonce_mismatch` | the same |
//! | 11 | `iat`, `exp` and `nbf` are within the permitted time | `too_old`, `from_the_future`, `expired`, `not_yet_valid` | the same |
//! | 12 | `ath` is the access token's hash, and the token is bound to the proof's key | `ath_missing`, `ath_mismatch`, `ath_unexpected`, `key_mismatch` | `inspect::the_hash_of_the_access_token_is_checked_where_one_goes_along`, `inspect::the_key_must_be_the_one_that_the_token_is_bound_to` |
//! | §11.1 | the proof was not used before | [`ReplayError`] | those of [`ReplayCache`] |
//!
//! Decisions on cases that the RFC leaves open:
//!
//! | case | decision |
//! |---|---|
//! | a fraction in `iat`, `exp`, `nbf` | accepted (RFC 7519 §2: a `NumericDate` may have one) |
//! | `exp` and `nbf` | not required; enforced if present |
//! | a duplicate member, at any depth of header or payload | rejected |
//! | unknown members of header, `jwk` or payload | ignored |
//! | `jwk` with `use` or `key_ops` that don't permit verification, or another `alg` | rejected |
//! | base64url with padding, another alphabet, white space or non-zero trailing bits | rejected |
//! | JSON nested deeper than 32 levels, a proof over 8 KiB | rejected before verification |
//! | `typ` in another case, or with the prefix `application/` | rejected |
//! | an equivalent `htu` (case of scheme and host, default port, dot segments, escapes) | accepted as the same URL (RFC 3986 §6.2.2, §6.2.3) |
//! | `htm` in another case | rejected as another method (RFC 9110 §9.1) |
//! | points off the curve, Ed25519 keys of small order, RSA below 2048 or above 8192 bits | rejected |

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

/// The request header that carries a proof (RFC 9449 §4.1).
pub(crate) const DPOP: http::HeaderName = http::HeaderName::from_static("dpop");
