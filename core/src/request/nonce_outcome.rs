//! What a response means for requests that wait for a nonce.

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(
    clippy::exhaustive_enums,
    reason = "a driver hands on what it was told"
)]
pub enum NonceOutcome {
    /// It was answered, and the nonce that its proof had stays what it was.
    Unchanged,
    /// It was answered, and the server has another nonce now.
    Rotated,
    /// It was refused because the nonce that its proof had was no longer good.
    Rejected,
    /// It got no answer.
    NoResponse,
}
