//! The driver of the core's operations and calls, over ureq.

use std::fmt;
use std::io::{self, Read as _};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{Method, Request, Response, Uri, request};
use keybound_core::driver::{
    Admission, AuthHeaders, Body, MAX_RESPONSE, NonceGate, NonceOutcome, Permit, PreparedCall,
    PreparedRequest, ResourceCall, Role, ServerState, Step, Verdict,
};
use keybound_core::jose::Signature;
use keybound_core::{Endpoint, InvalidInput, Operation, Sent, SignRequest, Token};
use ureq::Timeout;

use crate::clock::Deadline;
use crate::event::{Event, Reason};
use crate::names::ResolvedHosts;
use crate::{Error, Signer};

/// Sends the requests of the core over ureq: token requests and other [`Operation`]s, and calls of
/// protected resources. Passes the responses to the core, and waits before retries as the core
/// requires.
///
/// For any settings of the [`ureq::Agent`], redirects are not followed, every status is returned as
/// a response, and `http` URLs are limited to loopback.
pub struct Transport {
    agent: ureq::Agent,
    signer: Option<Box<dyn Signer>>,
    servers: Mutex<ServerState>,
    queue: Mutex<GateQueue>,
    permit_released: Condvar,
    resolved_hosts: ResolvedHosts,
    timeout: Duration,
    on_event: Option<EventHandler>,
}

type EventHandler = Box<dyn Fn(Event<'_>) + Send + Sync>;

/// The gate for requests with proofs, and the number of callers that wait for a permit.
#[derive(Default)]
struct GateQueue {
    gate: NonceGate,
    waiting: usize,
}

impl Default for Transport {
    fn default() -> Self {
        Self::new()
    }
}

impl Transport {
    /// Creates a transport with ureq's default settings and a [timeout](Self::timeout) of 30 s.
    pub fn new() -> Self {
        Self::with_agent(ureq::Agent::new_with_defaults())
    }

    /// Creates a transport with an agent of the application, for its proxy, TLS and pool settings.
    #[doc(alias("proxy", "tls", "mtls", "certificate"))]
    pub fn with_agent(agent: ureq::Agent) -> Self {
        Self {
            agent,
            signer: None,
            servers: Mutex::new(ServerState::new()),
            queue: Mutex::default(),
            permit_released: Condvar::new(),
            resolved_hosts: ResolvedHosts::default(),
            timeout: Duration::from_secs(30),
            on_event: None,
        }
    }

    /// Sets the signer of proofs, and of the assertions of a client that authenticates with
    /// `private_key_jwt`. Without a signer, a request that needs a signature fails with
    /// [`Error::NoSigner`].
    #[must_use]
    pub fn signer(mut self, signer: impl Signer + 'static) -> Self {
        self.signer = Some(Box::new(signer));
        self
    }

    /// Sets the timeout of one [`execute`](Self::execute), including its delays and retries (for a
    /// [`DeviceAuthorization`](crate::DeviceAuthorization), of each poll, without the polling
    /// interval), and of one [`send`](Self::send) until the response's headers have arrived.
    /// Default: 30 s. As an example, Marqeta's browser SDK gives up after 5 s.
    ///
    /// If the server responded within the last ten seconds, the system's own timeouts apply to the
    /// lookup of its name.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    pub(crate) fn total_timeout(&self) -> Duration {
        self.timeout
    }

    /// Replaces the known state of servers (nonces, clock offsets and algorithm names), for example
    /// by those of an earlier process.
    #[must_use]
    pub fn with_server_state(self, state: ServerState) -> Self {
        *self.servers() = state;
        self
    }

    /// Returns the known state of servers: nonces, clock offsets and algorithm names.
    pub fn server_state(&self) -> ServerState {
        self.servers().clone()
    }

    /// Sets a handler for all [`Event`]s, for traces and metrics. Requests and responses are passed
    /// with their headers and bodies, which contain secrets.
    #[must_use]
    #[doc(alias("metrics", "tracing", "observer"))]
    pub fn on_event(mut self, handler: impl Fn(Event<'_>) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Box::new(handler));
        self
    }

    /// Executes an operation and returns its result: sends its requests, and retries them where
    /// that is safe.
    ///
    /// # Errors
    /// Returns the core's [`Error`](crate::CoreError), [`Error::NoResponse`] after a lost
    /// connection, [`Error::NoSigner`] or [`Error::Signer`] if there is no signer or it failed, or
    /// [`Error::NoEntropy`].
    pub fn execute<T>(&self, operation: Operation<T>) -> Result<T, Error> {
        self.execute_within(self.timeout, operation)
    }

    pub(crate) fn execute_within<T>(
        &self,
        timeout: Duration,
        operation: Operation<T>,
    ) -> Result<T, Error> {
        let deadline = Deadline::start(timeout);
        let mut operation = operation.timeout(timeout);
        thread::sleep(operation.delay());
        loop {
            let context = deadline.request_context()?;
            let signing = operation.prepare(&self.servers(), context)?;
            let PreparedRequest { request, pending } =
                signing.finish(|request| self.sign(request))?;
            let uri = request.uri().clone();
            let (step, reason) = match self.execute_once(request, pending.time_left(deadline.now()))
            {
                Ok(response) => {
                    let reason = Reason::ServerResponse(response.status());
                    (
                        pending.receive(response, &mut self.servers(), deadline.now())?,
                        reason,
                    )
                }
                Err(cause) => {
                    let step = pending.transport_failed(was_sent(&cause), deadline.now());
                    (
                        step.map_err(|error| Self::no_response(error, &uri, cause))?,
                        Reason::NoResponse,
                    )
                }
            };
            match step {
                Step::Done(done) => return Ok(done),
                Step::RetryAfter(next) => operation = next,
            }
            self.wait(operation.delay(), reason);
        }
    }

    /// Sends a request with a token: adds the `Authorization` header, and a new proof if the token
    /// is bound.
    ///
    /// The request is retried if the server requires another proof (with its nonce, its time, or
    /// its name for the algorithm), and after 429, 502, 503, 504 and a lost connection where that
    /// is safe: see [`ResourceCall`]. The response is returned for any status, its body unread: a
    /// refusal by the API (4xx, 5xx) is a response, not an error.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] for a URL that must not get a token (`http`, except on loopback) or
    /// for a token that [can't be sent](Token::authorize), the core's
    /// [`Error::Server`](crate::CoreError::Server) if the server keeps rejecting its own nonces,
    /// [`Error::NoResponse`] after a lost connection, [`Error::NoSigner`] or [`Error::Signer`] if
    /// there is no signer or it failed, or [`Error::NoEntropy`].
    pub fn send<B: AsRef<[u8]>>(
        &self,
        token: &Token,
        request: Request<B>,
    ) -> Result<Response<ureq::Body>, Error> {
        let (head, body) = request.into_parts();
        let request = ReplayableRequest::new(head, body.as_ref())?;
        let deadline = Deadline::start(self.timeout);
        Ok(self
            .perform(request.call(token, deadline.left())?, &request, &deadline)?
            .response)
    }

    /// Sends a request and its retries.
    pub(crate) fn perform(
        &self,
        call: ResourceCall,
        request: &ReplayableRequest<'_>,
        deadline: &Deadline,
    ) -> Result<CallResult, Error> {
        let mut send = |request: Request<&[u8]>, left: Duration| {
            self.send_once(request, left, TimeoutScope::Head)
        };
        self.perform_with(&mut send, call, request, deadline)
    }

    /// Sends a request and its retries with the given `send` function.
    pub(crate) fn perform_with(
        &self,
        send: &mut dyn FnMut(Request<&[u8]>, Duration) -> AgentResult,
        mut call: ResourceCall,
        request: &ReplayableRequest<'_>,
        deadline: &Deadline,
    ) -> Result<CallResult, Error> {
        let mut permit: Option<PermitGuard<'_>> = None;
        loop {
            if permit.is_none() && call.is_bound() {
                permit = Some(self.acquire_permit(request.uri(), deadline)?);
            }
            let context = deadline.request_context()?;
            let signing = call.prepare(&self.servers(), context)?;
            let PreparedCall { headers, pending } = signing.finish(|request| self.sign(request))?;
            let response = match send(request.with(headers), deadline.left()) {
                Ok(response) => response,
                Err(cause) => {
                    drop(permit.take());
                    let lost = pending.transport_failed(was_sent(&cause), deadline.now());
                    call = lost.map_err(|error| Self::no_response(error, request.uri(), cause))?;
                    self.wait(call.delay(), Reason::NoResponse);
                    continue;
                }
            };
            let (status, headers) = (response.status(), response.headers());
            self.emit(Event::ResponseReceived {
                uri: request.uri(),
                status,
                headers,
                body: None,
            });
            let outcome = pending.nonce_outcome(status, headers);
            let verdict = pending.verdict(status, headers, &mut self.servers(), deadline.now());
            // A call that has just received the nonce keeps its permit for an immediate retry. If
            // the nonce was stale, the permit is released, since other calls may be ahead.
            let retries_now =
                matches!(&verdict, Ok(Verdict::RetryAfter(next)) if next.delay().is_zero());
            if let Some(permit) =
                permit.take_if(|_| !retries_now || outcome == NonceOutcome::Rejected)
            {
                permit.finish(outcome);
            }
            match verdict? {
                Verdict::Deliver => {
                    return Ok(CallResult {
                        response,
                        token_rejected: false,
                    });
                }
                Verdict::TokenRejected => {
                    return Ok(CallResult {
                        response,
                        token_rejected: true,
                    });
                }
                Verdict::RetryAfter(next) => call = next,
            }
            self.wait(call.delay(), Reason::ServerResponse(status));
        }
    }

    /// Waits for the permit to send a request with a proof to this server, for at most half of the
    /// time left. Then returns without a permit, because the request that holds it may hang.
    fn acquire_permit(&self, uri: &Uri, deadline: &Deadline) -> Result<PermitGuard<'_>, Error> {
        let mut reserve = None;
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Admission::Admitted(permit) = queue.gate.acquire(Role::ResourceServer, uri)? {
                return Ok(PermitGuard {
                    transport: self,
                    permit: Some(permit),
                });
            }
            let left = deadline.left();
            let left = left.saturating_sub(*reserve.get_or_insert(left / 2));
            if left.is_zero() {
                return Ok(PermitGuard {
                    transport: self,
                    permit: None,
                });
            }
            queue.waiting += 1;
            let guard = self.permit_released.wait_timeout(queue, left);
            queue = guard.unwrap_or_else(PoisonError::into_inner).0;
            queue.waiting -= 1;
        }
    }

    fn execute_once(
        &self,
        request: Request<Body>,
        left: Duration,
    ) -> Result<Response<Vec<u8>>, ureq::Error> {
        let (head, body) = request.into_parts();
        let uri = head.uri.clone();
        let (head, body) = self
            .send_once(
                Request::from_parts(head, body.as_ref()),
                left,
                TimeoutScope::Whole,
            )?
            .into_parts();
        // One byte more than the limit, so that the core can detect a longer body.
        let limit = u64::try_from(MAX_RESPONSE)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let mut bytes = Vec::new();
        match body.into_reader().take(limit).read_to_end(&mut bytes) {
            // An error response is valid even if its body is incomplete.
            Err(cut) if head.status.is_success() => {
                let cause = cut.into();
                self.emit(Event::NoResponse {
                    uri: &uri,
                    cause: &cause,
                });
                return Err(cause);
            }
            _ => {}
        }
        let (status, headers) = (head.status, &head.headers);
        self.emit(Event::ResponseReceived {
            uri: &uri,
            status,
            headers,
            body: Some(&bytes),
        });
        Ok(Response::from_parts(head, bytes))
    }

    /// Sends one request, within `left`.
    pub(crate) fn send_once(
        &self,
        request: Request<&[u8]>,
        left: Duration,
        scope: TimeoutScope,
    ) -> AgentResult {
        let (head, body) = request.into_parts();
        self.emit(Event::RequestSent {
            method: &head.method,
            uri: &head.uri,
            headers: &head.headers,
            body,
        });
        let uri = head.uri.clone();
        let has_body =
            !body.is_empty() || matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        let result = if left.is_zero() {
            Err(ureq::Error::Timeout(Timeout::Connect))
        } else if has_body {
            self.agent
                .run(self.configured(Request::from_parts(head, body), left, scope))
        } else {
            self.agent
                .run(self.configured(Request::from_parts(head, ()), left, scope))
        };
        match &result {
            Ok(_) => self.resolved_hosts.mark_reachable(&uri),
            Err(cause) => {
                self.resolved_hosts.forget(&uri);
                self.emit(Event::NoResponse { uri: &uri, cause });
            }
        }
        result
    }

    fn configured<B: ureq::AsSendBody>(
        &self,
        request: Request<B>,
        left: Duration,
        scope: TimeoutScope,
    ) -> Request<B> {
        // Plain http is for loopback only: it must not go to a proxy of the environment.
        let is_plain = request.uri().scheme() == Some(&Scheme::HTTP);
        // Shorter than the other timeouts, so that a timeout before sending is recognized as
        // `Sent::No`.
        let connect_timeout = left - left / 16;
        let is_resolved = self.resolved_hosts.is_recently_reachable(request.uri());
        let config = self
            .agent
            .configure_request(request)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .timeout_resolve((!is_resolved).then_some(connect_timeout))
            .timeout_connect(Some(connect_timeout));
        let config = match scope {
            // On a new connection: a pooled one may be closed, and it would then be unknown whether
            // the request was processed.
            TimeoutScope::Whole => config
                .timeout_global(Some(left))
                .max_idle_age(Duration::ZERO),
            TimeoutScope::Head => config
                .timeout_send_request(Some(left))
                .timeout_send_body(Some(left))
                .timeout_recv_response(Some(left)),
        };
        let config = if is_plain { config.proxy(None) } else { config };
        config.build()
    }

    fn sign(&self, request: &SignRequest) -> Result<Signature, Error> {
        let signer = self.signer.as_ref().ok_or(Error::NoSigner)?;
        signer.sign(request).map_err(Error::Signer)
    }

    fn wait(&self, wait: Duration, reason: Reason) {
        self.emit(Event::Retrying { wait, reason });
        thread::sleep(wait);
    }

    fn no_response(error: keybound_core::Error, uri: &Uri, cause: ureq::Error) -> Error {
        match error {
            keybound_core::Error::NoResponse(lost) => {
                let host = uri
                    .authority()
                    .map(Authority::to_string)
                    .unwrap_or_default();
                Error::NoResponse {
                    lost,
                    host,
                    cause: Box::new(cause),
                }
            }
            other => other.into(),
        }
    }

    pub(crate) fn emit(&self, event: Event<'_>) {
        #[cfg(feature = "log")]
        crate::log::log(&event);
        if let Some(handler) = &self.on_event {
            handler(event);
        }
    }

    /// Locks the state. The lock is never held across IO. A poisoned lock is usable: no code that
    /// can panic leaves the state inconsistent.
    pub(crate) fn servers(&self) -> MutexGuard<'_, ServerState> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// Holds a permit and releases it when dropped, also by a panic, so that the next request is
/// admitted.
struct PermitGuard<'a> {
    transport: &'a Transport,
    permit: Option<Permit>,
}

impl PermitGuard<'_> {
    fn finish(mut self, outcome: NonceOutcome) {
        self.release(outcome);
    }

    fn release(&mut self, outcome: NonceOutcome) {
        if let Some(permit) = self.permit.take() {
            let mut queue = self
                .transport
                .queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            queue.gate.release(permit, outcome);
            let has_waiters = queue.waiting > 0;
            drop(queue);
            // `notify_all` is a system call, even if no thread waits.
            if has_waiters {
                self.transport.permit_released.notify_all();
            }
        }
    }
}

impl Drop for PermitGuard<'_> {
    fn drop(&mut self) {
        self.release(NonceOutcome::NoResponse);
    }
}

/// A request that can be sent several times. Its URL is one to which a token may be sent: `https`,
/// or `http` on loopback.
pub(crate) struct ReplayableRequest<'a> {
    head: request::Parts,
    body: &'a [u8],
}

impl<'a> ReplayableRequest<'a> {
    pub(crate) fn new(mut head: request::Parts, body: &'a [u8]) -> Result<Self, InvalidInput> {
        // The proof and the request must have the same URL.
        head.uri = Endpoint::from_uri(&head.uri)?.uri().clone();
        Ok(Self { head, body })
    }

    pub(crate) fn call(
        &self,
        token: &Token,
        timeout: Duration,
    ) -> Result<ResourceCall, InvalidInput> {
        let call = token.authorize(&self.head.method, &self.head.uri)?;
        Ok(call
            .detect_idempotency_key(&self.head.headers)
            .timeout(timeout))
    }

    pub(crate) fn uri(&self) -> &Uri {
        &self.head.uri
    }

    pub(crate) fn with(&self, headers: AuthHeaders) -> Request<&'a [u8]> {
        let mut head = self.head.clone();
        headers.apply(&mut head.headers);
        Request::from_parts(head, self.body)
    }
}

/// The result of sending a request with ureq.
pub(crate) type AgentResult = Result<Response<ureq::Body>, ureq::Error>;

/// The final response of a call.
pub(crate) struct CallResult {
    pub(crate) response: Response<ureq::Body>,
    pub(crate) token_rejected: bool,
}

/// The part of a response that a timeout covers.
#[derive(Clone, Copy)]
pub(crate) enum TimeoutScope {
    Whole,
    /// Without the body, which the application reads.
    Head,
}

/// Returns whether any part of the request may have reached the server.
fn was_sent(cause: &ureq::Error) -> Sent {
    match cause {
        ureq::Error::HostNotFound
        | ureq::Error::ConnectionFailed
        | ureq::Error::ConnectProxyFailed(_)
        | ureq::Error::Tls(_)
        | ureq::Error::Timeout(Timeout::Resolve | Timeout::Connect) => Sent::No,
        ureq::Error::Io(error) if is_before_sending(error) => Sent::No,
        _ => Sent::Maybe,
    }
}

/// Whether an IO error occurred before anything was sent. Some errors of the standard library and
/// of rustls can only be recognized by their messages.
fn is_before_sending(error: &io::Error) -> bool {
    let kinds = [
        io::ErrorKind::ConnectionRefused,
        io::ErrorKind::HostUnreachable,
        io::ErrorKind::NetworkUnreachable,
        io::ErrorKind::AddrNotAvailable,
    ];
    let message = error.to_string();
    kinds.contains(&error.kind())
        || message.starts_with("failed to lookup address information")
        || message.contains("invalid peer certificate")
}
