//! Demonstrating Proof of Possession (RFC 9449): making proofs, and judging those that somebody else made.

mod htu;
mod inspect;
mod nonce;
mod proof;

pub use inspect::{Claims, Inspection, Policy, Problem, VerifiedProof};
pub use nonce::Nonce;
pub use proof::{Proof, ProofBuilder};

pub(crate) use inspect::calls_itself_a_proof;
pub(crate) use proof::{AccessTokenHash, Draft, sensitive};
