//! Providers, as data: where they are, what they want to be sent, what they can't do without.

pub mod moov;
pub mod treasury_prime;
