//! The one loop, over ureq.

use std::fmt;
use std::io::{self, Read as _};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use http::uri::{Authority, Scheme};
use http::{Method, Request, Response, Uri, request};
use keybound_core::jose::Signature;
use keybound_core::{
    AuthHeaders, Authorized, Body, Endpoint, Exchange, Judged, MAX_RESPONSE, Misuse, Origins, Outcome,
    Outgoing, Pass, Received, ResourceCall, Role, Sent, SignRequest, Token, Turn, Turns,
};
use ureq::Timeout;

use crate::clock::Clock;
use crate::event::{Event, Reason};
use crate::names::Names;
use crate::{Error, Signer};

/// Performs exchanges and calls: sends what the core makes, shows it what comes back, waits when it says so.
///
/// Whatever the [`ureq::Agent`] is set to, no redirection is followed, every status is an answer, and
/// `http` goes to this machine alone.
pub struct Transport {
    agent: ureq::Agent,
    signer: Option<Box<dyn Signer>>,
    origins: Mutex<Origins>,
    queue: Mutex<Queue>,
    turn_ended: Condvar,
    names: Names,
    budget: Duration,
    observer: Option<Observer>,
}

type Observer = Box<dyn Fn(Event<'_>) + Send + Sync>;

/// Who may send a proof, and how many wait for that.
#[derive(Default)]
struct Queue {
    turns: Turns,
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
            origins: Mutex::new(Origins::new()),
            queue: Mutex::default(),
            turn_ended: Condvar::new(),
            names: Names::default(),
            budget: Duration::from_secs(30),
            observer: None,
        }
    }

    /// Who signs: proofs, and the assertions of a client that authenticates itself so.
    #[must_use]
    pub fn signer(mut self, signer: impl Signer + 'static) -> Self {
        self.signer = Some(Box::new(signer));
        self
    }

    /// How long one [`run`](Self::run) may take, its waits and repetitions included (but for the waits between two questions
    /// whether somebody has decided, [`DeviceAuthorization`](crate::DeviceAuthorization)), and one
    /// [`call`](Self::call) until the response's head is there. Marqeta's browser SDK, for one, gives up
    /// after 5 s. While the name of a server is looked up that has answered a call within the last ten seconds, the
    /// system's own time-outs hold.
    #[must_use]
    pub fn budget(mut self, budget: Duration) -> Self {
        self.budget = budget;
        self
    }

    pub(crate) fn time(&self) -> Duration {
        self.budget
    }

    /// What has been learned of servers before, by another process.
    #[must_use]
    pub fn with_origins(self, origins: Origins) -> Self {
        *self.origins() = origins;
        self
    }

    /// What has been learned of servers up to now.
    pub fn learned(&self) -> Origins {
        self.origins().clone()
    }

    /// Shows every request and response to `observer`, with all that they carry: for traces.
    #[must_use]
    pub fn observe(mut self, observer: impl Fn(Event<'_>) + Send + Sync + 'static) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    /// Performs an exchange to its end.
    ///
    /// # Errors
    /// The core's verdict, a lost connection, or a signer that fails.
    pub fn run<T>(&self, exchange: Exchange<T>) -> Result<T, Error> {
        self.run_within(self.budget, exchange)
    }

    pub(crate) fn run_within<T>(&self, budget: Duration, exchange: Exchange<T>) -> Result<T, Error> {
        let clock = Clock::start(budget);
        let mut exchange = exchange.within(budget);
        thread::sleep(exchange.wait());
        loop {
            let ambient = clock.ambient()?;
            let signing = exchange.prepare(&self.origins(), ambient)?;
            let Outgoing { request, pending } = signing.finish(|request| self.sign(request))?;
            let uri = request.uri().clone();
            let (received, reason) = match self.exchange_once(request, pending.time_left(clock.now())) {
                Ok(response) => {
                    let reason = Reason::Answered(response.status());
                    (pending.receive(response, &mut self.origins(), clock.now())?, reason)
                }
                Err(cause) => {
                    let received = pending.lost(was_sent(&cause), clock.now());
                    (received.map_err(|error| Self::lost(error, &uri, cause))?, Reason::Lost)
                }
            };
            match received {
                Received::Done(done) => return Ok(done),
                Received::Again(again) => exchange = again,
            }
            self.wait(exchange.wait(), reason);
        }
    }

    /// Sends a request with a token: `Authorization`, and for a bound token a fresh proof. It is sent again if the
    /// server wants another proof (with its nonce, at its clock's time, or under its name for the algorithm), and
    /// after 429, 502, 503, 504 and a lost connection, as far as that can do no harm: see [`ResourceCall`]. The
    /// response is delivered whatever its status, its body unread: a refusal by the API (4xx, 5xx) is a response, not an error.
    ///
    /// # Errors
    /// `Misuse` for a URL that may not have a token (`http`, but for this machine), a lost connection, or a
    /// signer that fails.
    pub fn call<B: AsRef<[u8]>>(
        &self,
        token: &Token,
        request: Request<B>,
    ) -> Result<Response<ureq::Body>, Error> {
        let (head, body) = request.into_parts();
        let request = Repeatable::new(head, body.as_ref())?;
        let clock = Clock::start(self.budget);
        Ok(self.perform(request.call(token, clock.left())?, &request, &clock)?.response)
    }

    /// Sends a request for as long as its call goes on.
    pub(crate) fn perform(
        &self,
        call: ResourceCall,
        request: &Repeatable<'_>,
        clock: &Clock,
    ) -> Result<Performed, Error> {
        let mut send = |request: Request<&[u8]>, left: Duration| self.send(request, left, Extent::Head);
        self.perform_by(&mut send, call, request, clock)
    }

    /// The same by another's way of sending.
    pub(crate) fn perform_by(
        &self,
        send: &mut dyn FnMut(Request<&[u8]>, Duration) -> Answer,
        mut call: ResourceCall,
        request: &Repeatable<'_>,
        clock: &Clock,
    ) -> Result<Performed, Error> {
        let mut turn: Option<TakenTurn<'_>> = None;
        loop {
            if turn.is_none() && call.is_bound() {
                turn = Some(self.take_turn(request.uri(), clock)?);
            }
            let ambient = clock.ambient()?;
            let signing = call.prepare(&self.origins(), ambient)?;
            let Authorized { headers, pending } = signing.finish(|request| self.sign(request))?;
            let response = match send(request.with(headers), clock.left()) {
                Ok(response) => response,
                Err(cause) => {
                    drop(turn.take());
                    let lost = pending.lost(was_sent(&cause), clock.now());
                    call = lost.map_err(|error| Self::lost(error, request.uri(), cause))?;
                    self.wait(call.wait(), Reason::Lost);
                    continue;
                }
            };
            let (status, headers) = (response.status(), response.headers());
            self.tell(Event::Received { uri: request.uri(), status, headers, body: None });
            let outcome = pending.outcome(status, headers);
            let judged = pending.judge(status, headers, &mut self.origins(), clock.now());
            // Whoever has just learned the nonce goes again at once; where it was stale, others may be ahead.
            let goes_on = matches!(&judged, Ok(Judged::Again(again)) if again.wait().is_zero());
            if let Some(turn) = turn.take_if(|_| !goes_on || outcome == Outcome::Stale) {
                turn.end(outcome);
            }
            match judged? {
                Judged::Deliver => return Ok(Performed { response, token_is_refused: false }),
                Judged::Rejected => return Ok(Performed { response, token_is_refused: true }),
                Judged::Again(again) => call = again,
            }
            self.wait(call.wait(), Reason::Answered(status));
        }
    }

    /// Waits for the turn to call a server with a proof, for half of what is left of the budget; then it goes all the
    /// same: whoever is ahead may hang.
    fn take_turn(&self, uri: &Uri, clock: &Clock) -> Result<TakenTurn<'_>, Error> {
        let mut reserve = None;
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Turn::Go(pass) = queue.turns.take(Role::ResourceServer, uri)? {
                return Ok(TakenTurn { transport: self, pass: Some(pass) });
            }
            let left = clock.left();
            let left = left.saturating_sub(*reserve.get_or_insert(left / 2));
            if left.is_zero() {
                return Ok(TakenTurn { transport: self, pass: None });
            }
            queue.waiting += 1;
            let woken = self.turn_ended.wait_timeout(queue, left);
            queue = woken.unwrap_or_else(PoisonError::into_inner).0;
            queue.waiting -= 1;
        }
    }

    fn exchange_once(
        &self,
        request: Request<Body>,
        left: Duration,
    ) -> Result<Response<Vec<u8>>, ureq::Error> {
        let (head, body) = request.into_parts();
        let uri = head.uri.clone();
        let (head, body) =
            self.send(Request::from_parts(head, body.as_ref()), left, Extent::Whole)?.into_parts();
        // One byte beyond the limit tells the core that there is more.
        let limit = u64::try_from(MAX_RESPONSE).unwrap_or(u64::MAX).saturating_add(1);
        let mut bytes = Vec::new();
        match body.into_reader().take(limit).read_to_end(&mut bytes) {
            // A refusal is one however little of its body comes.
            Err(cut) if head.status.is_success() => {
                let cause = cut.into();
                self.tell(Event::Lost { uri: &uri, cause: &cause });
                return Err(cause);
            }
            _ => {}
        }
        let (status, headers) = (head.status, &head.headers);
        self.tell(Event::Received { uri: &uri, status, headers, body: Some(&bytes) });
        Ok(Response::from_parts(head, bytes))
    }

    /// Sends a request that may take so long.
    pub(crate) fn send(&self, request: Request<&[u8]>, left: Duration, extent: Extent) -> Answer {
        let (head, body) = request.into_parts();
        self.tell(Event::Sending { method: &head.method, uri: &head.uri, headers: &head.headers, body });
        let uri = head.uri.clone();
        let has_body = !body.is_empty() || matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        let answer = if left.is_zero() {
            Err(ureq::Error::Timeout(Timeout::Connect))
        } else if has_body {
            self.agent.run(self.configured(Request::from_parts(head, body), left, extent))
        } else {
            self.agent.run(self.configured(Request::from_parts(head, ()), left, extent))
        };
        match &answer {
            Ok(_) => self.names.found(&uri),
            Err(cause) => {
                self.names.lost(&uri);
                self.tell(Event::Lost { uri: &uri, cause });
            }
        }
        answer
    }

    fn configured<B: ureq::AsSendBody>(
        &self,
        request: Request<B>,
        left: Duration,
        extent: Extent,
    ) -> Request<B> {
        // Plain http stays on this machine: no proxy from the environment gets to see it.
        let is_plain = request.uri().scheme() == Some(&Scheme::HTTP);
        // Shorter than the rest, so that it is known when nothing was sent.
        let connecting = left - left / 16;
        let is_found = self.names.was_found_lately(request.uri());
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
            Extent::Whole => config.timeout_global(Some(left)).max_idle_age(Duration::ZERO),
            Extent::Head => config
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
        self.tell(Event::Again { wait, reason });
        thread::sleep(wait);
    }

    fn lost(error: keybound_core::Error, uri: &Uri, cause: ureq::Error) -> Error {
        match error {
            keybound_core::Error::Lost(lost) => {
                let host = uri.authority().map(Authority::to_string).unwrap_or_default();
                Error::Lost { lost, host, cause: Box::new(cause) }
            }
            other => other.into(),
        }
    }

    pub(crate) fn tell(&self, event: Event<'_>) {
        #[cfg(feature = "log")]
        crate::log::log(&event);
        if let Some(observer) = &self.observer {
            observer(event);
        }
    }

    /// Never held across IO; a panic elsewhere leaves nothing half-done in it.
    pub(crate) fn origins(&self) -> MutexGuard<'_, Origins> {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("budget", &self.budget).finish_non_exhaustive()
    }
}

/// A turn that was taken. However its request ends, by a panic too, the next is let in.
struct TakenTurn<'a> {
    transport: &'a Transport,
    pass: Option<Pass>,
}

impl TakenTurn<'_> {
    fn end(mut self, outcome: Outcome) {
        self.give_back(outcome);
    }

    fn give_back(&mut self, outcome: Outcome) {
        if let Some(pass) = self.pass.take() {
            let mut queue = self.transport.queue.lock().unwrap_or_else(PoisonError::into_inner);
            queue.turns.give_back(pass, outcome);
            let somebody_waits = queue.waiting > 0;
            drop(queue);
            // A system call, even where nobody does.
            if somebody_waits {
                self.transport.turn_ended.notify_all();
            }
        }
    }
}

impl Drop for TakenTurn<'_> {
    fn drop(&mut self) {
        self.give_back(Outcome::Lost);
    }
}

/// A request that can be sent several times, to where a token may go.
pub(crate) struct Repeatable<'a> {
    head: request::Parts,
    body: &'a [u8],
}

impl<'a> Repeatable<'a> {
    pub(crate) fn new(mut head: request::Parts, body: &'a [u8]) -> Result<Self, Misuse> {
        // What the proof names is what goes over the wire.
        head.uri = Endpoint::of(&head.uri)?.uri().clone();
        Ok(Self { head, body })
    }

    pub(crate) fn call(&self, token: &Token, budget: Duration) -> Result<ResourceCall, Misuse> {
        let call = token.authorize(&self.head.method, &self.head.uri)?;
        Ok(call.with_headers(&self.head.headers).within(budget))
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
pub(crate) type Answer = Result<Response<ureq::Body>, ureq::Error>;

/// What a call came to.
pub(crate) struct Performed {
    pub(crate) response: Response<ureq::Body>,
    pub(crate) token_is_refused: bool,
}

/// How much of a response the budget is for.
#[derive(Clone, Copy)]
pub(crate) enum Extent {
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
