//! What a driver needs, and an application doesn't: requests ready to be sent, and the state that many requests share.
//!
//! `keybound-ureq` and `keybound-wasm` are drivers. Whoever brings another transport writes one with the types of this module;
//! `keybound-ureq` re-exports it as `keybound_ureq::driver`.

pub use crate::jose::signing::{Resumable, Signing, Unsigned};
pub use crate::oauth::resource_call::{
    AuthHeaders, PendingCall, PreparedCall, ResourceCall, Verdict,
};
pub use crate::request::nonce_outcome::NonceOutcome;
pub use crate::request::operation::{PendingResponse, PreparedRequest, Step};
pub use crate::request::server_state::{Role, ServerState};
pub use crate::session::nonce_gate::{Admission, NonceGate, Permit};
pub use crate::session::session_state::SessionState;
pub use crate::session::token_manager::{
    RefreshAttempt, RefreshFailure, Ticket, TokenAction, TokenManager,
};
pub use crate::types::limits::MAX_RESPONSE;
pub use crate::types::secret::Body;
pub use crate::types::time::RequestContext;
