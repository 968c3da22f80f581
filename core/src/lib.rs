//! OAuth access tokens bound to a key (DPoP, RFC 9449): the protocol, and nothing that touches the world.
//!
//! This crate builds [`http::Request`]s and reads [`http::Response`]s. It opens no socket, reads no clock, no
//! file and no environment, starts no thread and is not `async`: whoever drives it brings the time, 16 random
//! bytes for each request, and the signatures. The one exception is ring's own random source, which makes
//! keys and the `k` of ECDSA signatures.
//!
//! Applications that want it driven take `keybound-ureq`, which re-exports all of this.
//!
//! # Layers
//!
//! ```text
//!  a driver: keybound-ureq, keybound-wasm, your own
//!      has the clock, random numbers, sockets, locks, files. Sends, signs, waits, keeps. Decides nothing
//! ─────────────────────────────────────────────────────────────────────────────────────────────────────
//!  TokenManager · NonceGate · SessionState              many callers: one token, one renewal, one question for a nonce
//!  Operation · ResourceCall · ServerState one request: with which nonce and time, and whether to send it again
//!  Client · Grant · Issuer · provider   what is asked for, and of whom
//!  dpop · jose                       proofs, made and judged; keys, signatures, thumbprints
//!  Secret · Endpoint · Error         what must not be seen, where it may go, whose fault it was
//! ```
//!
//! Nothing here calls anything above it, and a driver is free to use no more than the lower layers: to make proofs for a
//! client of its own, [`dpop::Proof`] is enough.
//!
//! # One shape for every exchange
//!
//! ```text
//!  Client::token ─┐                        ┌─ Unsigned::request ──▶ a key, wherever it is
//!  Client::revoke ┤                        │                              │
//!  TreasuryPrime… ┘                        │        Unsigned::resume ◀────┘ Signature
//!         │                                │               │
//!         ▼                                │               ▼
//!     Operation<T> ──prepare(&ServerState, RequestContext)──▶ Signing::Needs … Signing::Ready(PreparedRequest)
//!         ▲                                                               │
//!         │ wait()                                       request ─────────┤────▶ the transport
//!         │                                                               ▼              │
//!     Step::RetryAfter ◀──────── PendingResponse::receive(response, &mut ServerState, now) ◀──────────┤
//!     Step::Done(T) ◀──────         PendingResponse::transport_failed(Sent, now) ◀──────────── no answer ┘
//! ```
//!
//! Each step is a value and is consumed by the next, so a response can't be read twice and no step can be
//! skipped. A nonce challenge, a `Retry-After` and a lost connection are all [`Step::RetryAfter`]: the exchange
//! says how long to [`delay`](Operation::delay) and is prepared anew, from fresh time and entropy, so that
//! nothing is sent twice with one `jti`. A driver is one loop, and doesn't change when a flow is added.
//!
//! Calls of protected resources go the same way, by their headers alone: [`Token::authorize`],
//! [`ResourceCall::prepare`], [`AuthHeaders::apply`], [`PendingCall::verdict`].
//!
//! # A token for many callers
//!
//! A [`TokenManager`] is asked for a token, and answers by what to do. One [`Ticket`] is out at any time.
//!
//! ```text
//!                      demand: Renew(ticket)                    settle(Ok(token))
//!   ┌── no token ───────────────────────────▶ ┌────────────┐ ─────────────────────▶ good ── demand: Use(token) ─┐
//!   │     ▲  ▲                                │  renewing  │                         │ ▲                          │
//!   │     │  │ its pause is over              │            │ ◀── Use(token, ticket) ─┤ └──────────────────────────┘
//!   │     │  │                                │ others:    │     where it is due     │
//!   │     │ pausing ◀──────── settle(Err(…)) ─│ Wait(until)│                         │
//!   │     │  demand: Pause(until)             └────────────┘                         │
//!   │     │                                     │ the ticket lapses: the next        │
//!   │     │                                     ▼ caller gets another                │
//!   │     └─────────── it expires, or a server refuses it: reject(token) ────────────┘
//!   ▼
//!  attempt(ticket) is None: nothing is left to be sent, and a person must log in
//! ```
//!
//! Whoever has a good token never waits: while one caller renews it, the others use it. A renewal that fails leaves
//! the token that is still good where it is. [`SessionState`] is what is written down, before anybody uses a new token; another
//! process's is [taken over](TokenManager::adopt). [`NonceGate`] does the like for nonces: one call asks what a server wants, the
//! others wait for its answer.
//!
//! # A whole exchange, without a network
//!
//! ```
//! use keybound_core::jose::{Algorithm, SigningKey};
//! use keybound_core::{Client, ClientAuth, Endpoint, Grant, Secret, TokenType, UnixTime};
//! use keybound_core::driver::{RequestContext, ServerState, PreparedRequest, Step};
//!
//! # fn main() -> Result<(), keybound_core::Error> {
//! let key = SigningKey::generate(Algorithm::Es256)?;
//! let auth = ClientAuth::basic("my-client", Secret::new("my secret"))?;
//! let client = Client::new(Endpoint::https("https://as.example/token")?, auth).dpop(key.public().clone());
//! let mut origins = ServerState::new();
//! let now = UnixTime::from_secs(1_800_000_000);
//!
//! let exchange = client.token(Grant::client_credentials())?;
//! let signing = exchange.prepare(&origins, RequestContext::new(now, [1; 16]))?;
//! let PreparedRequest { request, pending } = signing.finish(|request| key.sign(request))?;
//! assert!(request.headers().contains_key("dpop"));
//!
//! // The server wants a nonce first (RFC 9449 §8).
//! let challenge = http::Response::builder()
//!     .status(400)
//!     .header("DPoP-Nonce", "eyJ7S_zG")
//!     .body(r#"{"error":"use_dpop_nonce"}"#)
//!     .expect("a valid response");
//! let Step::RetryAfter(exchange) = pending.receive(challenge, &mut origins, now)? else {
//!     panic!("the core goes on by itself");
//! };
//! assert!(exchange.delay().is_zero());
//! let signing = exchange.prepare(&origins, RequestContext::new(now, [2; 16]))?;
//! let PreparedRequest { request: _, pending } = signing.finish(|request| key.sign(request))?;
//!
//! let answer = http::Response::new(r#"{"access_token":"abc","token_type":"DPoP","expires_in":3600}"#);
//! let Step::Done(token) = pending.receive(answer, &mut origins, now)? else {
//!     panic!("this is the token");
//! };
//! assert_eq!(token.token_type(), &TokenType::Dpop);
//! assert_eq!(token.expires_at(), Some(UnixTime::from_secs(1_800_003_600)));
//! # Ok(())
//! # }
//! ```
//!
//! # Where what is
//!
//! | RFC | what | here | tests (`core/tests/it`) |
//! |---|---|---|---|
//! | 6749 §2.3 | client authentication | [`ClientAuth`] | `flows`, `seeds` |
//! | 6749 §4.1, 7636 | authorization code, PKCE | [`Client::authorization`], [`PendingAuthorization`] | `authorization` |
//! | 6749 §4.4, §4.5, §6 | the other grants | [`Grant`] | `flows`, `grants` |
//! | 6749 §5.1 | token response, as real servers write it | [`Token`], [`ExpiresIn`] | `token_answers` |
//! | 6749 §5.2 | errors, in every dialect | [`ServerError`] | `seeds`, `leaks` |
//! | 6750 §2.1, §3 | bearer tokens | [`ResourceCall`] | `resources` |
//! | 7009 | revocation | [`Client::revoke`] | `flows` |
//! | 7515, 7517, 7518, 7638 | signatures, keys, thumbprints | [`jose`] | `algorithms`, `vectors`, `rfcs` |
//! | 7521, 7523 §2.2 | clients that sign | [`ClientAuth::private_key_jwt`] | `client_assertion` |
//! | 7523 §2.1, 8693 | JWTs and tokens as grants | [`Grant::jwt_bearer`], [`Grant::token_exchange`] | `grants` |
//! | 7662 | introspection | [`Client::introspect`], [`Introspection`] | `introspection` |
//! | 8414, OpenID Connect Discovery | what a server says of itself | [`Issuer::discover`], [`Metadata`] | `discovery` |
//! | 8628 | devices without a browser | [`Client::device_authorization`], [`DeviceAuthorization`] | `grants` |
//! | 8707 | resource indicators | [`Grant::resource`], [`AuthorizationBuilder::resource`] | `grants` |
//! | OpenID Connect Core §3.1.3.7 | who signed in | [`UnverifiedIdToken`], [`IdToken`] | `id_token` |
//! | 9110 §5.6.7, §10.2.3 | dates, `Retry-After` | [`ServerError::retry_after`] | `flows` |
//! | 9110 §11.6.1 | `WWW-Authenticate` | [`Challenge`] | `resources` |
//! | 9126 | authorization requests that are pushed | [`AuthorizationBuilder::push`] | `authorization` |
//! | 9207 | the issuer in redirects | [`Client::require_iss`] | `authorization` |
//! | 9449 §4.2 | proofs | [`dpop::Proof`] | `algorithms`, `vectors` |
//! | 9449 §4.3 | checking proofs | [`dpop::ProofVerifier`] | `inspect`, `limits` |
//! | 9449 §5, §7 | bound tokens | [`Client::dpop`], [`Token::authorize`] | `flows`, `resources` |
//! | 9449 §5 | proofs of somebody else's | [`Client::relay`] | `providers` |
//! | 9449 §5.1 | which algorithms a server takes | [`Metadata::dpop_key`] | `discovery` |
//! | 9449 §8, §9 | nonces | [`ServerState`] | `flows`, `resources` |
//! | 9449 §10 | codes bound to a key | [`Client::authorization`] | `authorization` |
//! | 9470 | step-up | [`StepUp`] | `authorization` |
//! | 9728 | what a resource says of itself | [`ProtectedResource`] | `introspection` |
//!
//! # Left out on purpose
//!
//! * No HTTP client trait and no signer trait: a driver has its own, in its own colour (blocking, `async`).
//! * No callbacks: what the driver must do, it is told by a value.
//! * No type parameters that configure: [`Client`] is one type.
//! * No response body and no secret in any error; serde_json's messages are not passed on, because they quote values.
//! * No comparison, display or serialisation of [`Secret`]s.

pub mod dpop;
pub mod driver;
pub mod jose;
mod oauth;
pub mod provider;
mod request;
mod session;
mod types;
mod wire;

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
pub use session::refresh_policy::RefreshPolicy;
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
