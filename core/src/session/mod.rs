//! One token for many callers: when it is refreshed, who waits, and what is stored.

pub(crate) mod nonce_gate;
pub(crate) mod refresh_policy;
pub(crate) mod session_state;
pub(crate) mod token_manager;
pub(crate) mod token_refusals;
