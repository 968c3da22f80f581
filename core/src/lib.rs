//! OAuth access tokens bound to a key (DPoP, RFC 9449): the protocol without any IO.
//!
//! This crate builds [`http::Request`]s and parses [`http::Response`]s. It opens no socket, reads no
//! clock, file or environment variable, starts no thread and is not `async`. The caller, called the
//! driver, supplies the time, 16 random bytes per step, and the signatures. The only exception is
//! ring's random number generator, used to generate keys and the nonce `k` of ECDSA signatures.
//!
//! Applications usually depend on `keybound-ureq`, which is a driver and re-exports this crate.
//!
//! # Layers
//!
//! Each folder of `core/src` is a layer. A layer uses only the layers below it.
//!
//! ```text
//!  driver     keybound-ureq, keybound-wasm, or your own    clock, randomness, sockets, locks, files: sends,
//!                                                          signs, waits and stores; makes no decisions
//! ───────────────────────────────────────────────────────────────────────────────────────────────────────
//!  provider   Moov · TreasuryPrime                         endpoints and settings of known providers
//!  session    Shared · Step · Call · Refresh · LogOut      one token, one refresh, one storage for many callers
//!  oauth      Client · Grant · Issuer · Token              OAuth's flows and tokens
//!  request    Operation · ServerState · ClientAuth         one request: its nonce, its time, its retries
//!  dpop       Proof · ProofVerifier · ReplayCache          DPoP proofs, created and verified
//!  jose       SigningKey · PublicJwk · Signature           keys, signatures, thumbprints
//!  wire       BodyFormat · Challenge                       forms, JSON bodies, header fields
//!  types      Secret · Endpoint · UnixTime · Error         secrets, URLs, time, errors
//! ```
//!
//! A driver may use the lower layers alone. To add DPoP proofs to an existing HTTP client,
//! [`dpop::Proof`] is enough. The [`driver`] module describes how to write a driver.
//!
//! # One shape for every operation
//!
//! Everything that takes more than one step is a [`Task`]: a token request, a discovery, a call of a
//! protected resource, the refresh of a session's token with its storage, a log-out. A task is plain
//! data. It asks for one effect at a time, and the driver answers.
//!
//! ```text
//!  Client::token, Issuer::discover, … ──▶ Operation<T> ─┐
//!  Token::authorize, SessionId::call ───▶ Call ─────────┤
//!  SessionId::token, log_out ───────────▶ GetToken, … ──┤
//!  Shared::next_refresh ────────────────▶ Refresh ──────┘
//!                                              │
//!                                              ▼
//!                 Shared::start(task, RequestContext)
//!                                              │
//!                                              ▼    the driver performs      and answers with
//!                        ┌──▶ Step ──┬─ Send        a request                received · failed
//!                        │           ├─ Call        one with these headers   received · failed
//!                        │           ├─ Sign        a message                signed
//!                        │           ├─ Wait        until a time             woken
//!                        │           ├─ Lease, Load, Save, Release           leased · loaded · saved · released
//!                        │           ├─ FetchToken                           fetched
//!                        │           │                                          │
//!                        │           └─ Done(Result<T, Error>)                  │
//!                        └──────────────── the next step ◀──────────────────────┘
//! ```
//!
//! Only the value that holds an effect takes its answer, so no response is parsed twice and no step is
//! skipped. A nonce challenge, a `Retry-After` header and a lost connection all lead to further steps of
//! the same task: the core decides whether and when another request is sent, and each has a proof with a
//! new `jti`, because every step takes a fresh time and fresh entropy. A driver is a single loop, which
//! does not change when a flow is added. Effects own their data, so it may block or be `async`.
//!
//! # One token for many callers
//!
//! All tasks of a driver share a [`Shared`], behind the driver's lock. It has the sessions, and what is
//! known about servers: nonces, clock offsets. A session has one token for all its callers, and at most
//! one refresh at a time.
//!
//! ```text
//!  caller: SessionId::call                   Shared                     background: next_refresh
//!
//!    valid token ───────────────────────▶ use it
//!    valid token, refresh due ──────────▶ use it ─────────────────────▶ Refresh
//!    no valid token ────────────────────▶ Step::Wait ─────────────────▶ Refresh
//!                                             │                            │ Lease    one process at a time
//!                                             │                            │ Load     has another a new token?
//!                                             │                            │ Save     count a single-use token
//!                                             │                            │ Send     the token request
//!                                             │                            │ Save     the token, before its use
//!    all callers get the token, ◀─────────────┴─ the generation moves ◀────┤
//!    or the same error                                                     └ Release
//! ```
//!
//! A caller with a valid token never waits for a refresh. A failed refresh leaves a token that is still
//! valid in place, and its error is that of all callers that waited for it; the next refresh starts after
//! a backoff. If no grant and no refresh token is left, calls return [`Error::LoginRequired`]. The nonces of
//! resource servers are shared in the same way: one call fetches a nonce, and concurrent calls wait for
//! it.
//!
//! # A complete token request, without a network
//!
//! ```
//! use keybound_core::driver::{RequestContext, Shared, Step};
//! use keybound_core::jose::{Algorithm, SigningKey};
//! use keybound_core::{Cause, Client, ClientAuth, Endpoint, Grant, Secret, TokenType, UnixTime};
//!
//! # fn main() -> Result<(), keybound_core::Error> {
//! let key = SigningKey::generate(Algorithm::Es256)?;
//! let auth = ClientAuth::basic("my-client", Secret::new("my secret"))?;
//! let client = Client::new(Endpoint::https("https://as.example/token")?, auth).dpop(key.public().clone());
//!
//! let now = UnixTime::from_secs(1_800_000_000);
//! let mut random_bytes = (1..).map(|byte| [byte; 16]); // from the system
//! let mut context = || RequestContext::new(now, random_bytes.next().unwrap_or_default());
//! let mut shared = Shared::new();
//!
//! let operation = client.token(Grant::client_credentials())?;
//! let Step::Sign(sign) = shared.start(operation, context()) else {
//!     panic!("the request has a proof, which needs a signature");
//! };
//! let signature = key.sign(&sign.effect).map_err(Cause::new);
//! let Step::Send(send) = sign.signed(signature, &mut shared, context()) else {
//!     panic!("the request is complete");
//! };
//! assert!(send.effect.request.headers().contains_key("dpop"));
//!
//! // The server requires a nonce (RFC 9449 §8).
//! let challenge = http::Response::builder()
//!     .status(400)
//!     .header("DPoP-Nonce", "eyJ7S_zG")
//!     .body(r#"{"error":"use_dpop_nonce"}"#)
//!     .expect("a valid response");
//! let Step::Sign(sign) = send.received(&challenge, &mut shared, context()) else {
//!     panic!("another proof, with the nonce");
//! };
//! let signature = key.sign(&sign.effect).map_err(Cause::new);
//! let Step::Send(send) = sign.signed(signature, &mut shared, context()) else {
//!     panic!("the request is complete");
//! };
//!
//! let response = http::Response::new(r#"{"access_token":"abc","token_type":"DPoP","expires_in":3600}"#);
//! let Step::Done(token) = send.received(&response, &mut shared, context()) else {
//!     panic!("the response contains the token");
//! };
//! let token = token?;
//! assert_eq!(token.token_type(), &TokenType::Dpop);
//! assert_eq!(token.expires_at(), Some(UnixTime::from_secs(1_800_003_600)));
//! # Ok(())
//! # }
//! ```
//!
//! # Supported RFCs
//!
//! | RFC | feature | API | tests (`core/tests/it`) |
//! |---|---|---|---|
//! | 6749 §2.3 | client authentication | [`ClientAuth`] | `flows`, `seeds` |
//! | 6749 §4.1, 7636 | authorization code, PKCE | [`Client::authorization`], [`PendingAuthorization`] | `authorization` |
//! | 6749 §4.4, §4.5, §6 | client credentials, extension grants, refresh tokens | [`Grant`] | `flows`, `grants` |
//! | 6749 §5.1 | token responses, including common deviations | [`Token`], [`ExpiresIn`] | `token_answers` |
//! | 6749 §5.2 | error responses, including common deviations | [`ServerError`] | `seeds`, `leaks` |
//! | 6750 §2.1, §3 | bearer tokens | [`Call`] | `resources` |
//! | 7009 | token revocation | [`Client::revoke`] | `flows` |
//! | 7515, 7517, 7518, 7638 | signatures, keys, thumbprints | [`jose`] | `algorithms`, `vectors`, `rfcs` |
//! | 7521, 7523 §2.2 | client authentication by a signed JWT | [`ClientAuth::private_key_jwt`] | `client_assertion` |
//! | 7523 §2.1, 8693 | JWT bearer grant, token exchange | [`Grant::jwt_bearer`], [`Grant::token_exchange`] | `grants` |
//! | 7662 | token introspection | [`Client::introspect`], [`Introspection`] | `introspection` |
//! | 8414, OpenID Connect Discovery | authorization server metadata | [`Issuer::discover`], [`Metadata`] | `discovery` |
//! | 8628 | device authorization grant | [`Client::device_authorization`], [`DeviceAuthorization`] | `grants` |
//! | 8707 | resource indicators | [`Grant::resource`], [`AuthorizationBuilder::resource`] | `grants` |
//! | OpenID Connect Core §3.1.3.7 | ID token validation | [`UnverifiedIdToken`], [`IdToken`] | `id_token` |
//! | 9110 §5.6.7, §10.2.3 | HTTP dates, `Retry-After` | [`ServerError::retry_after`] | `flows` |
//! | 9110 §11.6.1 | `WWW-Authenticate` | [`Challenge`] | `resources` |
//! | 9126 | pushed authorization requests (PAR) | [`AuthorizationBuilder::push`] | `authorization` |
//! | 9207 | issuer identification in redirects | [`Client::require_iss`] | `authorization` |
//! | 9449 §4.2 | DPoP proofs | [`dpop::Proof`] | `algorithms`, `vectors` |
//! | 9449 §4.3 | proof verification | [`dpop::ProofVerifier`] | `inspect`, `limits` |
//! | 9449 §5, §7 | key-bound tokens | [`Client::dpop`], [`Token::authorize`] | `flows`, `resources` |
//! | 9449 §5 | relayed proofs of another party, such as a browser | [`Client::relay`] | `providers` |
//! | 9449 §5.1 | choice of a proof algorithm that the server supports | [`Metadata::dpop_key`] | `discovery` |
//! | 9449 §8, §9 | nonces | [`ServerState`] | `flows`, `resources` |
//! | 9449 §10 | authorization codes bound to a key | [`Client::authorization`] | `authorization` |
//! | 9470 | step-up authentication | [`StepUp`] | `authorization` |
//! | 9728 | protected resource metadata | [`ProtectedResource`] | `introspection` |
//!
//! # Deliberate omissions
//!
//! * No HTTP client trait and no signer trait. A driver brings its own, blocking or `async`.
//! * No callbacks. The driver's next step is a returned value.
//! * No type parameters for configuration: [`Client`] is a single type.
//! * No response body and no secret in any error. Messages of serde_json are not passed on, because
//!   they quote values.
//! * No display and no serialization of [`Secret`]s. Comparing two takes constant time.
//!
//! [`ServerState`]: driver::ServerState
//! [`Shared`]: driver::Shared
//! [`Task`]: driver::Task

#![cfg_attr(not(test), warn(clippy::disallowed_macros))]

pub mod dpop;
#[doc(alias("async", "transport"))]
pub mod driver;
pub mod jose;
mod oauth;
pub mod provider;
mod request;
mod session;
mod types;
mod wire;

/// The `http` crate, whose types are in this API.
pub use http;
pub use jose::signing::SignRequest;
pub use oauth::authorization_code::{
    AuthorizationBuilder, AuthorizationRequest, PendingAuthorization,
};
pub use oauth::client::Client;
pub use oauth::device::DeviceAuthorization;
pub use oauth::grant::{Grant, Scope};
pub use oauth::id_token::{IdToken, IdTokenError, IdTokenValidation, JwkSet, UnverifiedIdToken};
pub use oauth::introspection::Introspection;
pub use oauth::issuer::Issuer;
pub use oauth::metadata::Metadata;
pub use oauth::protected_resource::ProtectedResource;
pub use oauth::revocation::{Revoked, TokenTypeHint};
pub use oauth::step_up::StepUp;
pub use oauth::token::{ExpiresIn, Token, TokenType};
pub use request::client_auth::ClientAuth;
pub use request::operation::Operation;
pub use session::call::Call;
pub use session::refresh_policy::RefreshPolicy;
pub use types::cause::Cause;
pub use types::endpoint::Endpoint;
pub use types::error::{
    AuthorizationError, Error, InvalidResponse, InvalidResponseKind, NoResponse, RedirectError,
    Retry, Sent, ServerError,
};
pub use types::input::InvalidInput;
pub use types::secret::{Secret, SecretBytes};
pub use types::time::UnixTime;
pub use wire::challenge::Challenge;
pub use wire::params::BodyFormat;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
#[derive(Debug)]
pub struct Readme;
