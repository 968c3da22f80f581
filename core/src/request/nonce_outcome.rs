//! The effect of a response on requests that wait for a nonce.

/// The effect of a response on the nonce in the request's proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NonceOutcome {
    /// A response came, with no nonce or with the nonce of the proof.
    Unchanged,
    /// A response came with another nonce, or with one although the proof had none.
    Rotated,
    /// The server rejected the request because the nonce of its proof was no longer valid.
    Rejected,
    /// No response came.
    NoResponse,
}
