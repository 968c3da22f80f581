//! The types for writing a driver: the tasks, their steps, and the state that tasks share.
//!
//! A driver connects the core to a clock, a random number generator, a signer, an HTTP client and a
//! storage. `keybound-ureq` and `keybound-wasm` are drivers. Applications that use one of them do not
//! need this module; `keybound-ureq` re-exports it as `keybound_ureq::driver`.
//!
//! # Tasks, steps and effects
//!
//! A [`Task`] is a procedure of the core: plain data, which does nothing by itself.
//!
//! | task | made by | result |
//! |---|---|---|
//! | [`Operation<T>`](crate::Operation) | [`Client::token`](crate::Client::token), [`Issuer::discover`](crate::Issuer::discover), … | `T` |
//! | [`Call`](crate::Call) | [`Token::authorize`](crate::Token::authorize), [`SessionId::call`] | [`Delivered`]: the last response is the application's |
//! | [`GetToken`] | [`SessionId::token`] | a usable [`Token`](crate::Token) |
//! | [`LogOut`] | [`SessionId::log_out`] | the last token, to be revoked |
//! | [`Refresh`] | [`Shared::next_refresh`] | none: the tasks that wait for the token get it, or the error |
//!
//! [`Shared::start`] returns the first [`Step`] of a task: an effect, or the result. An [`Awaiting`]
//! holds the effect, and only its methods take the answer and return the next step. So no step is
//! skipped or answered twice.
//!
//! | step | the driver | answers with |
//! |---|---|---|
//! | [`Step::Send`] | sends a request to an authorization server | the response: `received`, `failed` |
//! | [`Step::Call`] | sends the application's request with the headers | status and headers: `received`, `status_only`, `failed` |
//! | [`Step::Sign`] | signs the message with the key | `signed` |
//! | [`Step::Wait`] | waits until the time, or until the [generation](Shared::generation) moves | `woken` |
//! | [`Step::Lease`] | asks the storage for the right to refresh, without waiting for it | `leased` |
//! | [`Step::Load`], [`Step::Save`] | reads or replaces the stored state | `loaded`, `saved` |
//! | [`Step::Release`] | ends the lease | `released` |
//! | [`Step::FetchToken`] | asks the application for a token response | `fetched` |
//!
//! Only a session that is [stored](SessionConfig::stored_as) has the four steps of the storage, only one
//! that [fetches its tokens](SessionConfig::fetch_tokens) has the last, and only a `Call` has
//! `Step::Call`.
//!
//! # A driver
//!
//! One loop runs every task. This one blocks; an `async` driver is the same `match`, with `.await` after
//! each effect.
//!
//! ```
//! use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
//!
//! use http::{HeaderMap, Response, StatusCode};
//! use keybound_core::driver::*;
//! use keybound_core::jose::Signature;
//! use keybound_core::{Cause, Error, Sent, SecretBytes, SignRequest, UnixTime};
//!
//! /// The application's clock, random numbers, HTTP client, keys and storage.
//! trait Environment: Send + Sync + 'static {
//!     type Lease;
//!     fn now(&self) -> UnixTime;
//!     fn entropy(&self) -> [u8; 16];
//!     fn send(&self, effect: &mut PreparedRequest) -> Result<Response<Vec<u8>>, (Sent, Cause)>;
//!     fn sign(&self, effect: &SignRequest) -> Result<Signature, Cause>;
//!     fn lease(&self, effect: &LeaseRequest) -> Result<Option<Self::Lease>, Cause>;
//!     fn load(&self, effect: &LoadRequest) -> Result<Option<SecretBytes>, Cause>;
//!     fn save(&self, lease: Option<&Self::Lease>, effect: &SaveRequest) -> Result<bool, Cause>;
//!     fn fetch_token(&self, effect: &FetchToken) -> Result<SecretBytes, Cause>;
//! }
//!
//! /// Sends the application's request with the headers of the effect, and keeps the response.
//! type SendCall<'a> = &'a mut dyn FnMut(&mut PreparedCall) -> Result<(StatusCode, HeaderMap), (Sent, Cause)>;
//!
//! struct Driver<E> {
//!     environment: E,
//!     session: SessionId,
//!     shared: Mutex<Shared>,
//!     changed: Condvar,
//! }
//!
//! impl<E: Environment> Driver<E> {
//!     fn run<T: Task>(self: &Arc<Self>, task: T, call: SendCall<'_>) -> Result<T::Output, Error> {
//!         let environment = &self.environment;
//!         let mut step = self.lock().start(task, self.context());
//!         let _abandon = step.id().map(|id| Abandon(self, id));
//!         let mut lease = None; // dropped at the end in any case
//!         loop {
//!             self.after_step();
//!             step = match step {
//!                 Step::Done(result) => return result,
//!                 Step::Send(mut it) => match environment.send(&mut it.effect) {
//!                     Ok(response) => it.received(&response, &mut self.lock(), self.context()),
//!                     Err((sent, cause)) => it.failed(sent, Some(cause), &mut self.lock(), self.context()),
//!                 },
//!                 Step::Call(mut it) => match call(&mut it.effect) {
//!                     Ok((status, headers)) => it.received(status, &headers, &mut self.lock(), self.context()),
//!                     Err((sent, cause)) => it.failed(sent, Some(cause), &mut self.lock(), self.context()),
//!                 },
//!                 Step::Sign(it) => {
//!                     let signature = environment.sign(&it.effect);
//!                     it.signed(signature, &mut self.lock(), self.context())
//!                 }
//!                 Step::Wait(it) => {
//!                     let mut shared = self.wait(it.effect);
//!                     it.woken(&mut shared, self.context())
//!                 }
//!                 Step::Lease(it) => {
//!                     let leased = environment.lease(&it.effect);
//!                     let leased = leased.map(|acquired| { lease = acquired; lease.is_some() });
//!                     it.leased(leased, &mut self.lock(), self.context())
//!                 }
//!                 Step::Load(it) => {
//!                     let state = environment.load(&it.effect);
//!                     it.loaded(state, &mut self.lock(), self.context())
//!                 }
//!                 Step::Save(it) => {
//!                     let saved = environment.save(lease.as_ref(), &it.effect);
//!                     it.saved(saved, &mut self.lock(), self.context())
//!                 }
//!                 Step::Release(it) => {
//!                     lease = None;
//!                     it.released(&mut self.lock(), self.context())
//!                 }
//!                 Step::FetchToken(it) => {
//!                     let response = environment.fetch_token(&it.effect);
//!                     it.fetched(response, &mut self.lock(), self.context())
//!                 }
//!             };
//!         }
//!     }
//!
//!     /// Wakes the tasks that wait, and runs a refresh that is due beside them.
//!     fn after_step(self: &Arc<Self>) {
//!         self.changed.notify_all();
//!         let (refresh, events) = {
//!             let mut shared = self.lock();
//!             let events: Vec<Event> = std::iter::from_fn(|| shared.next_event()).collect();
//!             (shared.next_refresh(self.session), events)
//!         };
//!         drop(events); // or log them
//!         if let Some(refresh) = refresh {
//!             let driver = Arc::clone(self);
//!             let mut no_call = |_: &mut PreparedCall| Err((Sent::No, Cause::new("a refresh has no call")));
//!             std::thread::spawn(move || driver.run(refresh, &mut no_call));
//!         }
//!     }
//!
//!     fn wait(&self, until: Until) -> MutexGuard<'_, Shared> {
//!         let mut shared = self.lock();
//!         loop {
//!             let left = until.time.saturating_since(self.environment.now());
//!             let has_moved = until.unless_generation.is_some_and(|seen| seen != shared.generation());
//!             if left.is_zero() || has_moved {
//!                 return shared;
//!             }
//!             shared = self.changed.wait_timeout(shared, left).unwrap_or_else(PoisonError::into_inner).0;
//!         }
//!     }
//!
//!     fn lock(&self) -> MutexGuard<'_, Shared> {
//!         self.shared.lock().unwrap_or_else(PoisonError::into_inner)
//!     }
//!
//!     fn context(&self) -> RequestContext {
//!         RequestContext::new(self.environment.now(), self.environment.entropy())
//!     }
//! }
//!
//! /// Gives back what a task holds that does not end: an effect panicked. No effect after its end.
//! struct Abandon<'a, E: Environment>(&'a Driver<E>, u64);
//!
//! impl<E: Environment> Drop for Abandon<'_, E> {
//!     fn drop(&mut self) {
//!         self.0.lock().abandon(self.1, self.0.environment.now());
//!         self.0.changed.notify_all();
//!     }
//! }
//! ```
//!
//! # What a driver must do
//!
//! With its shared state:
//!
//! * Keep one [`Shared`] for all tasks, behind one lock, and never hold the lock while it performs an
//!   effect. Every step takes a [`RequestContext`] with the current time and 16 new random bytes, some of
//!   which become the `jti` of a proof. Read the time after the lock is taken, so that it doesn't go
//!   back from one step to the next.
//! * After every step, wake all tasks that wait with [`Until::unless_generation`]. Compare the
//!   generation under the lock before each wait, so that no change is missed.
//! * After every step of a session's task, and after [`Shared::open`], take the session's
//!   [`next_refresh`](Shared::next_refresh) and run it in the background: on another thread, or as another
//!   `async` task. The tasks that need the token wait for it, so running it after them would deadlock
//!   until their timeout. A driver that limits the number of refreshes asks for
//!   [`newly_due`](Shared::newly_due) instead. It must start a refresh at once only if its purpose is
//!   [`Obtain`](RefreshPurpose::Obtain): tasks wait for no other.
//! * Call [`Shared::abandon`] if a task does not reach its end, because it is cancelled or panics: a guard
//!   does both. Without it, other tasks wait until the lease, the permit or the ticket that it held has
//!   expired.
//! * Take all [events](Shared::next_event) after every step, also if it drops them: they are queued.
//!
//! With a request:
//!
//! * Send it unchanged, with its `Accept-Encoding: identity`, which no HTTP client may replace. Follow no
//!   redirects: they would forward credentials. Use `https` and verify certificates for every URL that
//!   is not on loopback; the core creates no others.
//! * Return every response, for any status. Read at most [`MAX_RESPONSE`] + 1 bytes of a body, which is
//!   enough for the core to detect one that is too large.
//! * Send a [`PreparedRequest`] over a new connection, or over one that has been idle for less than its
//!   [`max_idle`](PreparedRequest::max_idle) and that the server is not known to have closed. Don't repeat
//!   it if the connection is lost: the core does so, at once and over a new connection, where that is
//!   harmless. The application chooses the connections of calls.
//! * Apply the effect's timeout: that of a [`PreparedRequest`] to the whole response, that of a
//!   [`PreparedCall`] to its head.
//! * Report [`Sent::No`](crate::Sent::No) only if it is certain that no byte reached the server: the name
//!   was not resolved, or the connection was refused. Otherwise report
//!   [`Sent::Maybe`](crate::Sent::Maybe). The core decides with it which requests are sent again.
//! * For URLs that users choose (issuers, resources), connect to public addresses only. The core rejects
//!   internal addresses in metadata documents, but it can't resolve names.
//! * Do not log headers that are marked as sensitive. The `Debug` output of a [`Body`] is its length.
//!
//! With a storage:
//!
//! * A lease is for one task, across all processes: no other task acquires it until it is released, or
//!   until `ttl` has passed. Answer at once, with `false` if another task holds it; the core waits.
//! * Save durably before answering, and only if no later lease has saved (a fencing token). Answer
//!   `false` if one has.
//!
//! # Fewer copies
//!
//! A driver may keep the token that [`Shared::view`] returns, and give it to callers without its lock while
//! the [version](Shared::version) is the same. One that copies headers needs to copy only
//! [`READ_HEADERS`]. A driver whose loop is large when compiled for each type of task, as an `async` one is,
//! runs tasks as [`Erased`], and takes their results from [`Running`].
//!
//! # Signing elsewhere
//!
//! A [`SignRequest`](crate::SignRequest) names the [key](crate::SignRequest::key) and the
//! [message](crate::SignRequest::message), not its digest. The key may be in memory, in an HSM, in a key
//! service or in WebCrypto. A request may need more than one signature, by different keys: a client
//! assertion, then a proof. [`ProofBuilder::prepare`](crate::dpop::ProofBuilder::prepare), which works without a
//! driver, asks for its signature by [`Signing`].
//!
//! `examples/own_transport.rs` of `keybound-ureq` is such a driver over a `TcpStream`, with a storage;
//! `examples/async_driver.rs` is one over hyper.

pub use crate::jose::signing::{Resumable, Signing, Unsigned};
pub use crate::request::attempt::{Attempt, Reason, Retrying};
pub use crate::request::effect::{
    AuthHeaders, FetchToken, LeaseRequest, LoadRequest, PreparedCall, PreparedRequest,
    ReleaseRequest, SaveRequest, Until,
};
pub use crate::request::exchange::Delivered;
pub use crate::request::operation::FromResponse;
pub use crate::request::read_headers::READ_HEADERS;
pub use crate::request::server_state::{Role, ServerState};
pub use crate::session::call::GetToken;
pub use crate::session::event::{
    Event, LeaseAwaited, LoginLost, RefreshFailed, StorageUnavailable, TokenRefreshed,
};
pub use crate::session::log_out::LogOut;
pub use crate::session::refresh::Refresh;
#[cfg(feature = "record")]
pub use crate::session::replay::{Replay, ReplayError};
pub use crate::session::session_state::SessionState;
pub use crate::session::shared::{RefreshPurpose, SessionConfig, SessionId, Shared};
pub use crate::session::step::{Awaiting, Erased, Running, Step, Task};
pub use crate::types::limits::{MAX_RESPONSE, MAX_STATE};
pub use crate::types::secret::Body;
pub use crate::types::time::RequestContext;
