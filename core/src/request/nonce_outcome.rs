//! The effect of a response on requests that wait for a nonce.

/// The outcome of a request for the nonce of its proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a driver passes every case on")]
pub enum NonceOutcome {
    /// A response came, and the nonce of the proof is still the server's newest.
    Unchanged,
    /// A response came with another nonce.
    Rotated,
    /// The server rejected the request because the nonce of its proof was no longer valid.
    Rejected,
    /// No response came.
    NoResponse,
}
