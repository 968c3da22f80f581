//! OAuth access tokens bound to a key (DPoP, RFC 9449), for synchronous programs: the exchanges of
//! [`keybound_core`], performed over [`ureq`]. The core is re-exported here, so that one crate is enough.
//!
//! A [`Transport`] performs; everything that is decided, is decided in the core. A [page for each task](guide): Moov, Treasury
//! Prime, a transport of one's own, keys in an HSM, and coming from `oauth2`.
//!
//! ```no_run
//! use keybound_ureq::jose::{Algorithm, SigningKey};
//! use keybound_ureq::{Client, ClientAuth, Endpoint, Grant, Secret, Transport};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = SigningKey::generate(Algorithm::Es256)?;
//! let auth = ClientAuth::basic("my-client", Secret::new(std::env::var("CLIENT_SECRET")?))?;
//! let client = Client::new(Endpoint::https("https://as.example/token")?, auth).dpop(key.public().clone());
//! let transport = Transport::new().signer(key);
//!
//! let token = transport.execute(client.token(Grant::client_credentials())?)?;
//! let request = ureq::http::Request::get("https://rs.example/accounts").body(Vec::new())?;
//! let response = transport.send(&token, request)?;
//! # Ok(())
//! # }
//! ```

// On docs.rs, whatever wants a feature says so.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod authorizer;
mod clock;
mod error;
mod event;
#[cfg(any(doc, doctest))]
pub mod guide;
#[cfg(feature = "log")]
mod log;
mod names;
mod pool;
mod refresh;
mod replay;
mod session;
mod signer;
pub mod storage;
mod transport;

pub use authorizer::Authorizer;
pub use error::Error;
pub use event::{Event, Reason};
pub use keybound_core::{Error as CoreError, *};
pub use pool::SessionPool;
pub use replay::SharedReplayCache;
pub use session::{Session, SessionBuilder};
pub use signer::Signer;
pub use transport::Transport;

/// The README's examples, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;

/// The examples of the page on embedding, compiled.
#[cfg(all(doctest, feature = "file", feature = "redis"))]
#[doc = include_str!("../EMBEDDING.md")]
#[derive(Debug)]
pub struct Embedding;
