//! OAuth access tokens bound to a key (DPoP, RFC 9449), and plain bearer tokens, for synchronous
//! Rust.
//!
//! This crate drives the protocol of [`keybound_core`] over [`ureq`], and re-exports the core, so
//! that no other crate is needed. It adds the parts that need IO: connections, timeouts, threads
//! and storage. All protocol decisions, such as retries, nonces and refreshes, are made by the
//! core.
//!
//! # A session
//!
//! A [`Session`] fetches a token on first use, refreshes it before it expires, and shares it
//! between threads. Concurrent callers cause a single token request. With [`SessionBuilder::dpop`]
//! its tokens are bound to a key, and each request gets a new proof; without it they are bearer
//! tokens.
//!
//! ```no_run
//! use keybound_ureq::jose::{Algorithm, SigningKey};
//! use keybound_ureq::storage::MemoryStorage;
//! use keybound_ureq::{Client, ClientAuth, Endpoint, Grant, Secret, Session, Transport};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let key = SigningKey::generate(Algorithm::Es256)?;
//! let auth = ClientAuth::basic("my-client", Secret::new(std::env::var("CLIENT_SECRET")?))?;
//! let client = Client::new(Endpoint::https("https://as.example/token")?, auth);
//! let session = Session::builder(Transport::new(), client)
//!     .grant(Grant::client_credentials())
//!     .dpop(key)
//!     .storage(MemoryStorage::new(), "accounts-api")
//!     .build();
//!
//! let mut response = session.get("https://rs.example/accounts")?;
//! if !response.status().is_success() {
//!     return Err(format!("the API refused: {}", response.status()).into());
//! }
//! println!("{}", response.body_mut().read_to_string()?);
//! # Ok(())
//! # }
//! ```
//!
//! A refusal by the API is a response, not an error: check its status. [`Error`] covers requests
//! without a response and tokens that cannot be fetched; [`Error::retry`] returns the recommended
//! next step.
//!
//! Without a session, [`Transport::execute`] runs one operation, such as [`Client::token`],
//! [`Client::revoke`] or [`Issuer::discover`], and [`Transport::send`] sends one request with a
//! token.
//!
//! # Modules and types
//!
//! | item | purpose |
//! |---|---|
//! | [`Session`], [`SessionBuilder`] | tokens that are fetched, refreshed, stored and shared; authorized requests |
//! | [`SessionPool`] | one session for each user or key, bounded |
//! | [`Authorizer`] | a ureq middleware that authorizes the requests of an existing agent |
//! | [`Transport`], [`Signer`], [`KeySigner`] | single operations and calls; keys in the process, an HSM or a key service |
//! | [`open_key`] | a signing key in a file, created on first use |
//! | [`Event`] | requests, responses, retries, refreshes and lost logins, for logs, traces and metrics |
//! | [`SharedReplayCache`] | replay protection for servers that verify proofs |
//! | [`storage`] | sessions in memory, files or Redis, optionally encrypted |
//! | [`Client`], [`Grant`], [`Issuer`], [`Token`] | OAuth: clients, grants, discovery, tokens (core) |
//! | [`dpop`], [`jose`] | proofs and their verification; keys, signatures, thumbprints (core) |
//! | [`provider`] | settings for Moov and Treasury Prime (core) |
//! | [`driver`] | the steps of an operation, for other transports (core) |
//!
//! # Features
//!
//! All features are off by default.
//!
//! | feature | adds |
//! |---|---|
//! | `file` | `storage::FileStorage`: sessions in files, for the processes of one machine |
//! | `redis` | `storage::RedisStorage`: sessions in Redis, for a fleet |
//! | `redis-tls` | `rediss://` URLs, by rustls with the platform's roots |
//! | `record` | `Transport::record`: recordings for bug reports, with stand-ins for secrets |
//! | `serde` | `Serialize` and `Deserialize` for the types that hold no secret |
//! | `log` | all events as records of the [`log`](https://docs.rs/log) crate, with the target `keybound` |
//!
//! # Guides
//!
//! * [Call Moov](guide::call_moov)
//! * [Relay a browser's proof to Treasury Prime](guide::relay_for_treasury_prime)
//! * [Keep keys in an HSM](guide::keys_in_an_hsm)
//! * [Record a session](guide::record_a_session), and replay the recording offline
//! * [Bring your own transport](guide::own_transport), also `async`
//! * [Operate it: a runbook](guide::runbook), with alert rules
//! * [From oauth2 to keybound](guide::from_oauth2)
//! * [Embed it in an application](https://github.com/keybound/keybound/blob/main/adapter-ureq/EMBEDDING.md):
//!   a script, a threaded backend, and a fleet

#![cfg_attr(not(test), warn(clippy::disallowed_macros))]
// On docs.rs, items show the feature that they require.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod authorizer;
mod clock;
mod driver_loop;
mod event;
#[cfg(any(doc, doctest))]
pub mod guide;
mod key_file;
#[cfg(feature = "log")]
mod log;
mod names;
mod pool;
#[cfg(feature = "record")]
mod recording;
mod refresher;
mod replay;
mod request;
mod session;
mod signer;
pub mod storage;
mod token_cache;
mod transport;

pub use authorizer::Authorizer;
pub use event::Event;
pub use key_file::open_key;
pub use keybound_core::driver::{
    Attempt, LeaseAwaited, LoginLost, Reason, RefreshFailed, Retrying, Role, StorageUnavailable,
    TokenRefreshed,
};
pub use keybound_core::*;
pub use pool::SessionPool;
pub use replay::SharedReplayCache;
pub use session::{Session, SessionBuilder};
pub use signer::{KeySigner, Signer};
pub use transport::Transport;

/// Compiles the examples of the package's README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;

/// Compiles the examples of the repository's README. The file is a symbolic link, so that the
/// package contains a copy.
#[cfg(doctest)]
#[doc = include_str!("repository_readme.md")]
#[derive(Debug)]
pub struct RepositoryReadme;

/// Compiles the examples of EMBEDDING.md.
#[cfg(all(doctest, feature = "file", feature = "redis"))]
#[doc = include_str!("../EMBEDDING.md")]
#[derive(Debug)]
pub struct Embedding;
