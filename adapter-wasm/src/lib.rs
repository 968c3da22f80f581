//! OAuth access tokens bound to a key (DPoP, RFC 9449), in browsers: the exchanges of [`keybound_core`], performed
//! over `fetch`, with keys of WebCrypto's that can't be exported. The core is re-exported here, so that one crate is
//! enough.

#![cfg(target_arch = "wasm32")]

mod error;
mod key;
mod notify;
#[cfg(feature = "package")]
pub mod package;
mod platform;
mod session;
mod transport;

pub use error::Error;
pub use key::ProofKey;
pub use keybound_core::{Error as CoreError, *};
pub use session::{Session, TokenFuture, TokenSource};
pub use transport::Transport;
