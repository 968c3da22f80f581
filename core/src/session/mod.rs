//! Shares one token between many callers: its refresh, the waiting callers, and the stored state.

pub(crate) mod call;
pub(crate) mod event;
pub(crate) mod log_out;
#[cfg(feature = "record")]
pub(crate) mod recorder;
pub(crate) mod refresh;
pub(crate) mod refresh_policy;
#[cfg(feature = "record")]
pub(crate) mod replay;
pub(crate) mod session_state;
pub(crate) mod shared;
pub(crate) mod step;
pub(crate) mod token_manager;
pub(crate) mod token_refusals;
