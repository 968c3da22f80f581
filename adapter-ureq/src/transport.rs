//! Sends requests over ureq, and holds what the tasks of one agent share.

use std::fmt;
use std::io::{self, Read as _};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::uri::Scheme;
use http::{Method, Request, Response, request};
use keybound_core::driver::{FromResponse, MAX_RESPONSE, PreparedRequest, ServerState, Shared};
use keybound_core::{AuthorizationBuilder, AuthorizationRequest, Error, Operation, Sent, Token};
use ureq::{AsSendBody, Timeout};

use crate::Signer;
use crate::clock::entropy;
use crate::driver_loop::Run;
use crate::event::Event;
use crate::names::ResolvedHosts;
use crate::request::ReplayableRequest;

/// Sends the requests of the core over ureq: token requests and other [`Operation`]s, and calls of
/// protected resources. Passes the responses to the core, and waits before retries as the core
/// requires.
///
/// For any settings of the [`ureq::Agent`], redirects are not followed, every status is returned as
/// a response, and `http` URLs are limited to loopback.
pub struct Transport {
    agent: ureq::Agent,
    pub(crate) signer: Option<Box<dyn Signer>>,
    state: Mutex<State>,
    /// Notified when the shared state has changed.
    pub(crate) changed: Condvar,
    resolved_hosts: ResolvedHosts,
    timeout: Duration,
    on_event: Option<EventHandler>,
}

type EventHandler = Box<dyn Fn(Event<'_>) + Send + Sync>;

/// The state of all tasks, and the callers that wait for a change.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) shared: Shared,
    /// The generation that the waiting callers know of.
    pub(crate) notified: u64,
    pub(crate) waiting: usize,
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
            state: Mutex::default(),
            changed: Condvar::new(),
            resolved_hosts: ResolvedHosts::default(),
            timeout: Duration::from_secs(30),
            on_event: None,
        }
    }

    /// Sets the signer of proofs, and of the assertions of a client that authenticates with
    /// `private_key_jwt`. Without a signer, a request that needs a signature fails with
    /// [`Error::Signer`].
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
        self.lock().shared.set_server_state(state);
        self
    }

    /// Returns the known state of servers: nonces, clock offsets and algorithm names.
    pub fn server_state(&self) -> ServerState {
        self.lock().shared.server_state().clone()
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
    /// Returns [`Error::Server`] if the server refused the request, [`Error::Response`] if its
    /// response can't be used, [`Error::NoResponse`] after a lost connection, [`Error::Signer`] if
    /// there is no signer or it failed, or [`Error::NoEntropy`].
    pub fn execute<T: FromResponse>(&self, operation: Operation<T>) -> Result<T, Error> {
        self.run(operation.timeout(self.timeout), &mut Run::default())
    }

    /// Starts an authorization: draws its random values, and pushes the request to the authorization
    /// server first if the client has an endpoint for it (RFC 9126).
    ///
    /// # Errors
    /// Returns [`InvalidInput`](crate::InvalidInput) for a request that can't be made, the errors of
    /// [`execute`](Self::execute), or [`Error::NoEntropy`].
    pub fn authorization(
        &self,
        request: AuthorizationBuilder,
    ) -> Result<AuthorizationRequest, Error> {
        match request.can_be_pushed() {
            true => self.execute(request.push(entropy()?)?),
            false => Ok(request.build(entropy()?)?),
        }
    }

    /// Sends a request with a token: adds the `Authorization` header, and a new proof if the token
    /// is bound.
    ///
    /// The request is retried if the server requires another proof (with its nonce, its time, or
    /// its name for the algorithm), and after 429, 502, 503, 504 and a lost connection where that
    /// is safe: see [`Call`](crate::Call). A body of more than 10 MiB is not buffered, so its
    /// request is never retried. The response is returned for any status, its body unread: a refusal
    /// by the API (4xx, 5xx) is a response, not an error.
    ///
    /// # Errors
    /// Returns [`InvalidInput`](crate::InvalidInput) for a URL that must not get a token (`http`,
    /// except on loopback) or for a token that [can't be sent](Token::authorize), [`Error::Server`]
    /// if the server keeps rejecting its own nonces, [`Error::NoResponse`] after a lost connection,
    /// [`Error::Signer`] if there is no signer or it failed, or [`Error::NoEntropy`].
    pub fn send<B: AsSendBody>(
        &self,
        token: &Token,
        request: Request<B>,
    ) -> Result<Response<ureq::Body>, Error> {
        let (head, mut body) = request.into_parts();
        let request = ReplayableRequest::new(head, body.as_body())?;
        let call = token.authorize(request.method(), request.uri())?;
        request.send(self, None, call)
    }

    /// Sends a request to an authorization server, and reads its response.
    pub(crate) fn exchange(
        &self,
        effect: &mut PreparedRequest,
    ) -> Result<Response<Vec<u8>>, ureq::Error> {
        let (head, body) = std::mem::take(&mut effect.request).into_parts();
        let uri = head.uri.clone();
        let request = Request::from_parts(head, body);
        let (head, body) = self
            .send_once(request, effect.timeout, TimeoutScope::Whole)?
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
    pub(crate) fn send_once<B: AsRef<[u8]>>(
        &self,
        request: Request<B>,
        left: Duration,
        scope: TimeoutScope,
    ) -> AgentResult {
        let (head, body) = request.into_parts();
        let body = body.as_ref();
        // These methods have a `Content-Length` even without a body.
        let has_body =
            !body.is_empty() || matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        match has_body {
            true => self.send_body(head, body, body, left, scope),
            false => self.send_body(head, (), body, left, scope),
        }
    }

    /// Sends one request with any body, of which events show `shown`.
    pub(crate) fn send_body<B: AsSendBody>(
        &self,
        head: request::Parts,
        body: B,
        shown: &[u8],
        left: Duration,
        scope: TimeoutScope,
    ) -> AgentResult {
        self.emit(Event::RequestSent {
            method: &head.method,
            uri: &head.uri,
            headers: &head.headers,
            body: shown,
        });
        let uri = head.uri.clone();
        let result = match left.is_zero() {
            true => Err(ureq::Error::Timeout(Timeout::Connect)),
            false => {
                let request = Request::from_parts(head, body);
                self.agent.run(self.configured(request, left, scope))
            }
        };
        match &result {
            Ok(response) => {
                self.resolved_hosts.mark_reachable(&uri);
                if let TimeoutScope::Head = scope {
                    self.emit(Event::ResponseReceived {
                        uri: &uri,
                        status: response.status(),
                        headers: response.headers(),
                        body: None,
                    });
                }
            }
            Err(cause) => {
                self.resolved_hosts.forget(&uri);
                self.emit(Event::NoResponse { uri: &uri, cause });
            }
        }
        result
    }

    fn configured<B: AsSendBody>(
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

    pub(crate) fn emit(&self, event: Event<'_>) {
        #[cfg(feature = "log")]
        crate::log::log(&event);
        if let Some(handler) = &self.on_event {
            handler(event);
        }
    }

    /// Locks the state. The lock is never held across IO. A poisoned lock is usable: no code that
    /// can panic leaves the state inconsistent.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// The result of sending a request with ureq.
pub(crate) type AgentResult = Result<Response<ureq::Body>, ureq::Error>;

/// The part of a response that a timeout covers.
#[derive(Clone, Copy)]
pub(crate) enum TimeoutScope {
    Whole,
    /// Without the body, which the application reads.
    Head,
}

/// Returns whether any part of the request may have reached the server.
pub(crate) fn was_sent(cause: &ureq::Error) -> Sent {
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
