//! A request to a server: client authentication, proofs and their correction, retries, and the
//! interpretation of the response.

pub(crate) mod attempt;
pub(crate) mod client_assertion;
pub(crate) mod client_auth;
pub(crate) mod clock_offset;
pub(crate) mod correction;
pub(crate) mod effect;
pub(crate) mod endpoint_request;
pub(crate) mod exchange;
pub(crate) mod nonce_gate;
pub(crate) mod nonce_outcome;
pub(crate) mod operation;
pub(crate) mod read_headers;
#[cfg(feature = "record")]
pub(crate) mod recorded;
pub(crate) mod retry;
pub(crate) mod server_state;
pub(crate) mod servers;
#[cfg(feature = "record")]
pub(crate) mod stand_ins;
pub(crate) mod verdict;
