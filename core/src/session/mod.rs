//! Shares one token between many callers: its refresh, the waiting callers, and the stored state.

pub(crate) mod nonce_gate;
pub(crate) mod refresh_policy;
pub(crate) mod session_state;
pub(crate) mod token_manager;
pub(crate) mod token_refusals;
