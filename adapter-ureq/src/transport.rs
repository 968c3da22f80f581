//! The one loop, over ureq.

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

/// Performs exchanges and calls: sends what the core makes, shows it what comes back, waits when it says so.
///
/// Whatever the [`ureq::Agent`] is set to, no redirection is followed, every status is an answer, and
/// `http` goes to this machine alone.
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

/// Who may send a proof, and how many wait for that.
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
    /// With ureq's own settings, and 30 s for each exchange.
    pub fn new() -> Self {
        Self::with_agent(ureq::Agent::new_with_defaults())
    }

    /// With an agent of the application's, for its proxy, TLS and pool settings.
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

    /// Who signs: proofs, and the assertions of a client that authenticates itself so.
    #[must_use]
    pub fn signer(mut self, signer: impl Signer + 'static) -> Self {
        self.signer = Some(Box::new(signer));
        self
    }

    /// How long one [`execute`](Self::execute) may take, its waits and repetitions included (but for the waits between two questions
    /// whether somebody has decided, [`DeviceAuthorization`](crate::DeviceAuthorization)), and one
    /// [`send`](Self::send_once) until the response's head is there. Marqeta's browser SDK, for one, gives up
    /// after 5 s. While the name of a server is looked up that has answered a call within the last ten seconds, the
    /// system's own time-outs hold.
    #[must_use]
    pub fn timeout(mut self, budget: Duration) -> Self {
        self.timeout = budget;
        self
    }

    pub(crate) fn total_timeout(&self) -> Duration {
        self.timeout
    }

    /// What has been learned of servers before, by another process.
    #[must_use]
    pub fn with_server_state(self, origins: ServerState) -> Self {
        *self.servers() = origins;
        self
    }

    /// What has been learned of servers up to now.
    pub fn server_state(&self) -> ServerState {
        self.servers().clone()
    }

    /// Shows every request and response to `observer`, with all that they carry: for traces.
    #[must_use]
    pub fn on_event(mut self, observer: impl Fn(Event<'_>) + Send + Sync + 'static) -> Self {
        self.on_event = Some(Box::new(observer));
        self
    }

    /// Performs an exchange to its end.
    ///
    /// # Errors
    /// The core's verdict, a lost connection, or a signer that fails.
    pub fn execute<T>(&self, exchange: Operation<T>) -> Result<T, Error> {
        self.execute_within(self.timeout, exchange)
    }

    pub(crate) fn execute_within<T>(
        &self,
        budget: Duration,
        exchange: Operation<T>,
    ) -> Result<T, Error> {
        let clock = Deadline::start(budget);
        let mut exchange = exchange.timeout(budget);
        thread::sleep(exchange.delay());
        loop {
            let context = clock.request_context()?;
            let signing = exchange.prepare(&self.servers(), context)?;
            let PreparedRequest { request, pending } =
                signing.finish(|request| self.sign(request))?;
            let uri = request.uri().clone();
            let (received, reason) =
                match self.execute_once(request, pending.time_left(clock.now())) {
                    Ok(response) => {
                        let reason = Reason::ServerResponse(response.status());
                        (
                            pending.receive(response, &mut self.servers(), clock.now())?,
                            reason,
                        )
                    }
                    Err(cause) => {
                        let received = pending.transport_failed(was_sent(&cause), clock.now());
                        (
                            received.map_err(|error| Self::no_response(error, &uri, cause))?,
                            Reason::NoResponse,
                        )
                    }
                };
            match received {
                Step::Done(done) => return Ok(done),
                Step::RetryAfter(again) => exchange = again,
            }
            self.wait(exchange.delay(), reason);
        }
    }

    /// Sends a request with a token: `Authorization`, and for a bound token a fresh proof. It is sent again if the
    /// server wants another proof (with its nonce, at its clock's time, or under its name for the algorithm), and
    /// after 429, 502, 503, 504 and a lost connection, as far as that can do no harm: see [`ResourceCall`]. The
    /// response is delivered whatever its status, its body unread: a refusal by the API (4xx, 5xx) is a response, not an error.
    ///
    /// # Errors
    /// `InvalidInput` for a URL that may not have a token (`http`, but for this machine), a lost connection, or a
    /// signer that fails.
    pub fn send<B: AsRef<[u8]>>(
        &self,
        token: &Token,
        request: Request<B>,
    ) -> Result<Response<ureq::Body>, Error> {
        let (head, body) = request.into_parts();
        let request = ReplayableRequest::new(head, body.as_ref())?;
        let clock = Deadline::start(self.timeout);
        Ok(self
            .perform(request.call(token, clock.left())?, &request, &clock)?
            .response)
    }

    /// Sends a request for as long as its call goes on.
    pub(crate) fn perform(
        &self,
        call: ResourceCall,
        request: &ReplayableRequest<'_>,
        clock: &Deadline,
    ) -> Result<CallResult, Error> {
        let mut send = |request: Request<&[u8]>, left: Duration| {
            self.send_once(request, left, TimeoutScope::Head)
        };
        self.perform_by(&mut send, call, request, clock)
    }

    /// The same by another's way of sending.
    pub(crate) fn perform_by(
        &self,
        send: &mut dyn FnMut(Request<&[u8]>, Duration) -> AgentResult,
        mut call: ResourceCall,
        request: &ReplayableRequest<'_>,
        clock: &Deadline,
    ) -> Result<CallResult, Error> {
        let mut turn: Option<PermitGuard<'_>> = None;
        loop {
            if turn.is_none() && call.is_bound() {
                turn = Some(self.acquire_permit(request.uri(), clock)?);
            }
            let context = clock.request_context()?;
            let signing = call.prepare(&self.servers(), context)?;
            let PreparedCall { headers, pending } = signing.finish(|request| self.sign(request))?;
            let response = match send(request.with(headers), clock.left()) {
                Ok(response) => response,
                Err(cause) => {
                    drop(turn.take());
                    let lost = pending.transport_failed(was_sent(&cause), clock.now());
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
            let judged = pending.verdict(status, headers, &mut self.servers(), clock.now());
            // Whoever has just learned the nonce goes again at once; where it was stale, others may be ahead.
            let goes_on =
                matches!(&judged, Ok(Verdict::RetryAfter(again)) if again.delay().is_zero());
            if let Some(turn) = turn.take_if(|_| !goes_on || outcome == NonceOutcome::Rejected) {
                turn.finish(outcome);
            }
            match judged? {
                Verdict::Deliver => {
                    return Ok(CallResult {
                        response,
                        token_is_refused: false,
                    });
                }
                Verdict::TokenRejected => {
                    return Ok(CallResult {
                        response,
                        token_is_refused: true,
                    });
                }
                Verdict::RetryAfter(again) => call = again,
            }
            self.wait(call.delay(), Reason::ServerResponse(status));
        }
    }

    /// Waits for the turn to call a server with a proof, for half of what is left of the budget; then it goes all the
    /// same: whoever is ahead may hang.
    fn acquire_permit(&self, uri: &Uri, clock: &Deadline) -> Result<PermitGuard<'_>, Error> {
        let mut reserve = None;
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Admission::Admitted(pass) = queue.gate.acquire(Role::ResourceServer, uri)? {
                return Ok(PermitGuard {
                    transport: self,
                    permit: Some(pass),
                });
            }
            let left = clock.left();
            let left = left.saturating_sub(*reserve.get_or_insert(left / 2));
            if left.is_zero() {
                return Ok(PermitGuard {
                    transport: self,
                    permit: None,
                });
            }
            queue.waiting += 1;
            let woken = self.permit_released.wait_timeout(queue, left);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
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
        // One byte beyond the limit tells the core that there is more.
        let limit = u64::try_from(MAX_RESPONSE)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        let mut bytes = Vec::new();
        match body.into_reader().take(limit).read_to_end(&mut bytes) {
            // A refusal is one however little of its body comes.
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

    /// Sends a request that may take so long.
    pub(crate) fn send_once(
        &self,
        request: Request<&[u8]>,
        left: Duration,
        extent: TimeoutScope,
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
        let answer = if left.is_zero() {
            Err(ureq::Error::Timeout(Timeout::Connect))
        } else if has_body {
            self.agent
                .run(self.configured(Request::from_parts(head, body), left, extent))
        } else {
            self.agent
                .run(self.configured(Request::from_parts(head, ()), left, extent))
        };
        match &answer {
            Ok(_) => self.resolved_hosts.mark_reachable(&uri),
            Err(cause) => {
                self.resolved_hosts.forget(&uri);
                self.emit(Event::NoResponse { uri: &uri, cause });
            }
        }
        answer
    }

    fn configured<B: ureq::AsSendBody>(
        &self,
        request: Request<B>,
        left: Duration,
        extent: TimeoutScope,
    ) -> Request<B> {
        // Plain http stays on this machine: no proxy from the environment gets to see it.
        let is_plain = request.uri().scheme() == Some(&Scheme::HTTP);
        // Shorter than the rest, so that it is known when nothing was sent.
        let connecting = left - left / 16;
        let is_found = self.resolved_hosts.is_recently_reachable(request.uri());
        let config = self
            .agent
            .configure_request(request)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .timeout_resolve((!is_found).then_some(connecting))
            .timeout_connect(Some(connecting));
        let config = match extent {
            // On a connection of its own: one from the pool may be dead, and the request then lost in doubt.
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
        if let Some(observer) = &self.on_event {
            observer(event);
        }
    }

    /// Never held across IO; a panic elsewhere leaves nothing half-done in it.
    pub(crate) fn servers(&self) -> MutexGuard<'_, ServerState> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("budget", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// A turn that was taken. However its request ends, by a panic too, the next is let in.
struct PermitGuard<'a> {
    transport: &'a Transport,
    permit: Option<Permit>,
}

impl PermitGuard<'_> {
    fn finish(mut self, outcome: NonceOutcome) {
        self.release(outcome);
    }

    fn release(&mut self, outcome: NonceOutcome) {
        if let Some(pass) = self.permit.take() {
            let mut queue = self
                .transport
                .queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            queue.gate.release(pass, outcome);
            let somebody_waits = queue.waiting > 0;
            drop(queue);
            // A system call, even where nobody does.
            if somebody_waits {
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

/// A request that can be sent several times, to where a token may go.
pub(crate) struct ReplayableRequest<'a> {
    head: request::Parts,
    body: &'a [u8],
}

impl<'a> ReplayableRequest<'a> {
    pub(crate) fn new(mut head: request::Parts, body: &'a [u8]) -> Result<Self, InvalidInput> {
        // What the proof names is what goes over the wire.
        head.uri = Endpoint::from_uri(&head.uri)?.uri().clone();
        Ok(Self { head, body })
    }

    pub(crate) fn call(
        &self,
        token: &Token,
        budget: Duration,
    ) -> Result<ResourceCall, InvalidInput> {
        let call = token.authorize(&self.head.method, &self.head.uri)?;
        Ok(call
            .detect_idempotency_key(&self.head.headers)
            .timeout(budget))
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

/// What ureq makes of a request.
pub(crate) type AgentResult = Result<Response<ureq::Body>, ureq::Error>;

/// What a call came to.
pub(crate) struct CallResult {
    pub(crate) response: Response<ureq::Body>,
    pub(crate) token_is_refused: bool,
}

/// How much of a response the budget is for.
#[derive(Clone, Copy)]
pub(crate) enum TimeoutScope {
    Whole,
    /// Its body is the application's.
    Head,
}

/// Whether anything of the request may have reached the server.
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

/// The standard library and rustls tell some of these by their words alone.
fn is_before_sending(error: &io::Error) -> bool {
    let kinds = [
        io::ErrorKind::ConnectionRefused,
        io::ErrorKind::HostUnreachable,
        io::ErrorKind::NetworkUnreachable,
        io::ErrorKind::AddrNotAvailable,
    ];
    let said = error.to_string();
    kinds.contains(&error.kind())
        || said.starts_with("failed to lookup address information")
        || said.contains("invalid peer certificate")
}
