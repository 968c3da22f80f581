//! The types for writing a driver: prepared requests, and the state that requests share.
//!
//! A driver connects the core to a clock, a random number generator, a signer and an HTTP client.
//! `keybound-ureq` and `keybound-wasm` are drivers. Applications that use one of them do not need this
//! module; `keybound-ureq` re-exports it as `keybound_ureq::driver`.
//!
//! # Running an operation
//!
//! One loop runs every [`Operation`](crate::Operation): token requests, revocation, discovery, device
//! codes. [`ServerState`] holds nonces and clock offsets by origin; keep one per process, or per
//! transport, and pass it to each request.
//!
//! ```
//! use http::{Request, Response};
//! use keybound_core::driver::{Body, PreparedRequest, RequestContext, ServerState, Step};
//! use keybound_core::jose::SigningKey;
//! use keybound_core::{Error, Operation, Sent, UnixTime};
//!
//! /// The application's HTTP client, clock and random number generator.
//! trait Environment {
//!     fn send(&mut self, request: Request<Body>) -> Result<Response<Vec<u8>>, Sent>;
//!     fn now(&self) -> UnixTime;
//!     fn entropy(&mut self) -> [u8; 16];
//! }
//!
//! fn execute<T>(
//!     mut operation: Operation<T>,
//!     servers: &mut ServerState,
//!     key: &SigningKey,
//!     environment: &mut impl Environment,
//! ) -> Result<T, Error> {
//!     loop {
//!         std::thread::sleep(operation.delay());
//!         let context = RequestContext::new(environment.now(), environment.entropy());
//!         let signing = operation.prepare(servers, context)?;
//!         let PreparedRequest { request, pending } = signing.finish(|request| key.sign(request))?;
//!         let step = match environment.send(request) {
//!             Ok(response) => pending.receive(response, servers, environment.now())?,
//!             Err(sent) => pending.transport_failed(sent, environment.now())?,
//!         };
//!         match step {
//!             Step::Done(result) => return Ok(result),
//!             Step::RetryAfter(retry) => operation = retry,
//!         }
//!     }
//! }
//! ```
//!
//! The driver must:
//!
//! * wait for `delay()` before each [`prepare`](crate::Operation::prepare), and pass the current time
//!   and 16 new random bytes, which become the proof's `jti`;
//! * send the request unchanged, with its `Accept-Encoding: identity`, and follow no redirects;
//! * read at most [`MAX_RESPONSE`] + 1 bytes of the body, which is enough for the core to detect that
//!   a response is too large;
//! * apply a timeout: [`PendingResponse::time_left`] returns the time that remains;
//! * report a request without a response with [`PendingResponse::transport_failed`].
//!   [`Sent::No`](crate::Sent::No) requires certainty that no byte reached the server, as after a
//!   failed DNS lookup; otherwise use [`Sent::Maybe`](crate::Sent::Maybe).
//!
//! # Signing elsewhere
//!
//! [`Signing::finish`] takes a closure for a key in memory. For a key in an HSM, in a key service or
//! in WebCrypto, match on [`Signing`]: [`Signing::Needs`] holds an [`Unsigned`] step, whose
//! [`request`](Unsigned::request) returns the message and the key, and whose
//! [`resume`](Unsigned::resume) takes the signature. A request may need more than one signature, so
//! repeat until [`Signing::Ready`].
//!
//! # Calling a resource
//!
//! [`Token::authorize`](crate::Token::authorize) starts a [`ResourceCall`]. Its loop is the same, but
//! the request and the response body belong to the application:
//!
//! 1. [`ResourceCall::prepare`] returns, once signed, a [`PreparedCall`]. [`AuthHeaders::apply`] sets
//!    `Authorization` and `DPoP` on the request.
//! 2. [`PendingCall::verdict`] takes the status and the headers of the response and returns a
//!    [`Verdict`]: deliver the response, retry, or deliver it and treat the token as rejected.
//! 3. [`PendingCall::transport_failed`] returns the call to retry, or the error.
//!
//! [`ResourceCall::single_use_body`] and [`ResourceCall::detect_idempotency_key`] set which calls may
//! be retried. For concurrent calls, acquire a [`Permit`] from a [`NonceGate`] before `prepare`, and
//! release it with the [`NonceOutcome`] of the response: then one call fetches a new nonce, and the
//! others use it.
//!
//! # Sharing a token
//!
//! A session keeps a [`TokenManager`] behind a lock. [`TokenManager::poll`] returns a [`TokenAction`]:
//! use the token, refresh it, wait for a refresh that is in flight, or back off. The holder of a
//! [`Ticket`] refreshes the token in these steps:
//!
//! 1. Acquire the lease of the shared storage, if there is one. Load the [`SessionState`] and pass it
//!    to [`TokenManager::adopt`]; if that returns a token, use it.
//! 2. Call [`TokenManager::begin_refresh`]. Persist the checkpoint of the [`RefreshAttempt`], if it has
//!    one, before sending its grant: it bounds how often a single-use token is sent after crashes.
//! 3. Run the token request. Persist the new state ([`TokenManager::snapshot_with`]) before the token is
//!    used.
//! 4. Call [`TokenManager::complete`] with the token or a [`RefreshFailure`], wake the waiting callers,
//!    and release the lease.
//!
//! `examples/own_transport.rs` of `keybound-ureq` is a complete driver over a `TcpStream`.

pub use crate::jose::signing::{Resumable, Signing, Unsigned};
pub use crate::request::effect::{
    AuthHeaders, FetchToken, LeaseRequest, LoadRequest, PreparedCall, PreparedRequest, Reason,
    ReleaseRequest, Retrying, SaveRequest, Until,
};
pub use crate::request::exchange::Delivered;
pub use crate::request::operation::FromResponse;
pub use crate::request::read_headers::READ_HEADERS;
pub use crate::request::server_state::{Role, ServerState};
pub use crate::session::call::GetToken;
pub use crate::session::log_out::LogOut;
pub use crate::session::refresh::Refresh;
pub use crate::session::session_state::SessionState;
pub use crate::session::shared::{Event, SessionConfig, SessionId, Shared};
pub use crate::session::step::{Awaiting, Erased, Running, Step, Task};
pub use crate::types::limits::MAX_RESPONSE;
pub use crate::types::secret::Body;
pub use crate::types::time::RequestContext;
