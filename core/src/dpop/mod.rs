//! Demonstrating Proof of Possession (RFC 9449): making proofs, and judging those that somebody else made.

mod htu;
mod inspect;
mod negotiation;
mod nonce;
mod proof;
mod replay;

pub use inspect::{Claims, Inspection, Policy, Problem, VerifiedProof};
pub use nonce::Nonce;
pub use proof::{Proof, ProofBuilder};
pub use replay::{Replay, ReplayCache};

pub(crate) use inspect::Jws;
pub(crate) use inspect::calls_itself_a_proof;
pub(crate) use negotiation::{Clock, Corrections, Objection, Occasion, Said};
pub(crate) use proof::{AccessTokenHash, sensitive};
