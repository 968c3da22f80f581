//! OAuth access tokens bound to a key (DPoP, RFC 9449), in browsers.
//!
//! This crate is a driver of [`keybound_core`]: it sends requests with `fetch`, signs proofs with
//! non-extractable WebCrypto keys, stores tokens in IndexedDB, and synchronizes tabs with Web Locks.
//! [`Session`] provides a token and authorized calls, [`Transport`] runs single operations, and
//! [`ProofKey`] is the key. The core is re-exported, so applications depend on this crate alone.

#![cfg(target_arch = "wasm32")]
#![cfg_attr(not(test), warn(clippy::disallowed_macros))]

mod driver_loop;
mod error;
mod key;
mod notify;
#[cfg(feature = "package")]
pub mod package;
mod platform;
mod session;
mod transport;

pub use error::{Error, Exception};
pub use key::ProofKey;
pub use keybound_core::{Error as CoreError, *};
pub use session::{Session, TokenFuture, TokenSource};
pub use transport::Transport;
