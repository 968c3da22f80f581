//! The one loop, over `fetch`.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use http::header::{DATE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response as Answer, StatusCode, Uri};
use keybound_core::driver::{
    Admission, Body, MAX_RESPONSE, NonceGate, NonceOutcome, Permit, PreparedCall, PreparedRequest,
    Resumable, Role, ServerState, Signing, Step, Verdict,
};
use keybound_core::{
    Endpoint, Error as CoreError, InvalidInput, Operation, Sent, ServerError, Token, UnixTime,
};
use wasm_bindgen::{JsCast as _, JsValue};
use web_sys::{Request, RequestRedirect, Response};

use crate::notify::Notify;
use crate::{Error, ProofKey, platform};

/// Performs exchanges and calls: sends what the core makes, shows it what comes back, waits when it says so.
pub struct Transport {
    key: Option<ProofKey>,
    servers: RefCell<ServerState>,
    gate: RefCell<NonceGate>,
    permit_released: Notify,
    timeout: Duration,
}

impl Transport {
    /// With 30 s for each exchange. `key` makes the proofs, where there are any.
    pub fn new(key: Option<ProofKey>) -> Self {
        Self {
            key,
            servers: RefCell::default(),
            gate: RefCell::default(),
            permit_released: Notify::default(),
            timeout: Duration::from_secs(30),
        }
    }

    /// Who makes the proofs.
    pub fn key(&self) -> Option<&ProofKey> {
        self.key.as_ref()
    }

    /// What has been learned of servers up to now.
    pub fn server_state(&self) -> ServerState {
        self.servers.borrow().clone()
    }

    pub(crate) fn merge_server_state(&self, origins: &ServerState) {
        self.servers.borrow_mut().merge(origins);
    }

    /// Performs an exchange to its end.
    ///
    /// # Errors
    /// The core's verdict, a lost connection, or a browser that can't sign.
    pub async fn execute<T>(&self, exchange: Operation<T>) -> Result<T, Error> {
        let deadline = platform::now().saturating_add(self.timeout);
        let mut exchange = exchange.timeout(self.timeout);
        loop {
            platform::sleep(exchange.delay()).await;
            let signing = exchange.prepare(&self.servers.borrow(), platform::request_context())?;
            let PreparedRequest { request, pending } = self.finish(signing).await?;
            let uri = request.uri().clone();
            let received = match send(request, deadline).await {
                Ok(answer) => {
                    let seen = ExposedHeaders::from_headers(answer.headers());
                    pending
                        .receive(answer, &mut self.servers.borrow_mut(), platform::now())
                        .map_err(|error| seen.explain(error))?
                }
                Err(cause) => pending
                    .transport_failed(was_sent(), platform::now())
                    .map_err(|error| no_response(error, &uri, cause))?,
            };
            match received {
                Step::Done(done) => return Ok(done),
                Step::RetryAfter(again) => exchange = again,
            }
        }
    }

    /// Sends a request with a token: `Authorization`, and for a bound token a fresh proof. It is sent again only if
    /// the server wants another proof. The response is delivered whatever its status, its body unread.
    ///
    /// # Errors
    /// `InvalidInput` for a request that may not have a token or can't carry it, and as for `fetch`.
    pub async fn send(&self, token: &Token, request: &Request) -> Result<Response, Error> {
        self.perform(token, request)
            .await
            .map(|called| called.response)
    }

    /// [`send`](Self::send), with what a session wants to know of it.
    pub(crate) async fn perform(&self, token: &Token, request: &Request) -> Result<Called, Error> {
        let RequestHead {
            method,
            url,
            headers,
        } = RequestHead::new(request)?;
        let uri = Endpoint::https_or_loopback(url.split('#').next().unwrap_or_default())?
            .uri()
            .clone();
        let deadline = platform::now().saturating_add(self.timeout);
        let mut call = token
            .authorize(&method, &uri)?
            .detect_idempotency_key(&headers)
            .timeout(self.timeout);
        let mut turn: Option<PermitGuard<'_>> = None;
        loop {
            platform::sleep(call.delay()).await;
            if turn.is_none() && call.is_bound() {
                turn = Some(self.acquire_permit(&uri, deadline).await?);
            }
            let signing = call.prepare(&self.servers.borrow(), platform::request_context())?;
            let PreparedCall { headers, pending } = self.finish(signing).await?;
            let mut sent = HeaderMap::new();
            headers.apply(&mut sent);
            let response: Response = match platform::call(request, &lines(&sent)).await {
                Ok(response) => response.unchecked_into(),
                Err(cause) if request.signal().aborted() => return Err(Error::Aborted(cause)),
                Err(cause) => {
                    drop(turn.take());
                    call = pending
                        .transport_failed(was_sent(), platform::now())
                        .map_err(|error| no_response(error, &uri, cause))?;
                    continue;
                }
            };
            let Some((status, headers)) = head(&platform::head(&response)) else {
                // An opaque answer to `redirect: "manual"`: whoever asked for it gets it.
                return match request.redirect() {
                    RequestRedirect::Manual => Ok(Called {
                        response,
                        uri,
                        is_refused: false,
                    }),
                    _ => Err(Error::Redirected),
                };
            };
            let outcome = pending.nonce_outcome(status, &headers);
            let judged = pending.verdict(
                status,
                &headers,
                &mut self.servers.borrow_mut(),
                platform::now(),
            )?;
            // Whoever has just learned the nonce goes again at once; where it was stale, others may be ahead.
            let goes_on = matches!(&judged, Verdict::RetryAfter(again) if again.delay().is_zero());
            if let Some(turn) = turn.take_if(|_| !goes_on || outcome == NonceOutcome::Rejected) {
                turn.finish(outcome);
            }
            match judged {
                Verdict::Deliver => {
                    return Ok(Called {
                        response,
                        uri,
                        is_refused: false,
                    });
                }
                Verdict::TokenRejected => {
                    if token.key().is_some() && !headers.contains_key(WWW_AUTHENTICATE) {
                        platform::warn_hidden(&url);
                    }
                    return Ok(Called {
                        response,
                        uri,
                        is_refused: true,
                    });
                }
                Verdict::RetryAfter(again) => call = again,
            }
        }
    }

    /// Waits for the turn to call a server with a proof, until `deadline`; then it goes without.
    async fn acquire_permit(
        &self,
        uri: &Uri,
        deadline: UnixTime,
    ) -> Result<PermitGuard<'_>, Error> {
        loop {
            let left = deadline.saturating_since(platform::now());
            let turn = self.gate.borrow_mut().acquire(Role::ResourceServer, uri)?;
            match turn {
                Admission::Admitted(pass) => {
                    return Ok(PermitGuard {
                        transport: self,
                        permit: Some(pass),
                    });
                }
                Admission::Wait if left.is_zero() => {
                    return Ok(PermitGuard {
                        transport: self,
                        permit: None,
                    });
                }
                Admission::Wait => self.permit_released.wait_timeout(left).await,
            }
        }
    }

    async fn finish<T: Resumable>(&self, signing: Signing<T>) -> Result<T, Error> {
        match (&self.key, signing) {
            (_, Signing::Ready(ready)) => Ok(ready),
            (Some(key), signing) => key.finish(signing).await,
            (None, _) => {
                Err(InvalidInput::new("key", "must be given where a token is bound to one").into())
            }
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// A call that was answered.
pub(crate) struct Called {
    pub(crate) response: Response,
    pub(crate) uri: Uri,
    /// The server has refused the token.
    pub(crate) is_refused: bool,
}

/// A turn that was taken. However its request ends, the next is let in.
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
            self.transport.gate.borrow_mut().release(pass, outcome);
            self.transport.permit_released.notify_all();
        }
    }
}

impl Drop for PermitGuard<'_> {
    fn drop(&mut self) {
        self.release(NonceOutcome::NoResponse);
    }
}

async fn send(
    request: http::Request<Body>,
    deadline: UnixTime,
) -> Result<Answer<Vec<u8>>, JsValue> {
    let (method, url, headers) = (
        request.method(),
        request.uri().to_string(),
        lines(request.headers()),
    );
    let left = platform::millis(deadline.saturating_since(platform::now()));
    let body = request.body().as_ref();
    let text = platform::send(method.as_str(), &url, &headers, body, left, MAX_RESPONSE).await?;
    let text = text.as_string().unwrap_or_default();
    let (first, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let (status, headers) = head(first).ok_or(JsValue::UNDEFINED)?;
    let mut answer = Answer::new(body.as_bytes().to_vec());
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    Ok(answer)
}

/// A line for each header.
fn lines(headers: &HeaderMap) -> String {
    let mut lines = String::new();
    for (name, value) in headers {
        lines.push_str(name.as_str());
        lines.push_str(": ");
        lines.push_str(value.to_str().unwrap_or_default());
        lines.push('\n');
    }
    lines
}

/// Status and headers of an answer; `None` for one that the browser keeps to itself.
fn head(text: &str) -> Option<(StatusCode, HeaderMap)> {
    let (status, headers) = text.split_once('\n').unwrap_or((text, ""));
    Some((
        StatusCode::from_bytes(status.as_bytes()).ok()?,
        read_lines(headers),
    ))
}

/// What of the application's request decides.
struct RequestHead {
    method: Method,
    url: String,
    headers: HeaderMap,
}

impl RequestHead {
    fn new(request: &Request) -> Result<Self, InvalidInput> {
        // At once, since each question to the browser costs more than all that is done with its answer.
        let text = platform::request_head(request);
        let mut parts = text.splitn(4, '\n');
        let mut next = || parts.next().unwrap_or_default();
        if next() == "no-cors" {
            let rule =
                "must not be no-cors: the browser would strip the token, and hide the answer";
            return Err(InvalidInput::new("mode", rule));
        }
        let method = Method::from_bytes(next().as_bytes())
            .map_err(|_| InvalidInput::new("method", "must be a method of HTTP"))?;
        Ok(Self {
            method,
            url: next().to_owned(),
            headers: read_lines(next()),
        })
    }
}

fn read_lines(lines: &str) -> HeaderMap {
    let header = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((
            HeaderName::try_from(name).ok()?,
            HeaderValue::try_from(value).ok()?,
        ))
    };
    lines.lines().filter_map(header).collect()
}

/// Which of an answer's headers the browser lets the page see.
struct ExposedHeaders {
    nonce: bool,
    date: bool,
}

impl ExposedHeaders {
    fn from_headers(headers: &HeaderMap) -> Self {
        Self {
            nonce: headers.contains_key("dpop-nonce"),
            date: headers.contains_key(DATE),
        }
    }

    /// What was refused for want of a header that is hidden.
    fn explain(&self, error: CoreError) -> Error {
        let hidden = |refusal: &ServerError| match refusal.code() {
            Some("use_dpop_nonce") if !self.nonce => Some("DPoP-Nonce"),
            Some("invalid_dpop_proof") if !self.date => Some("Date"),
            _ => None,
        };
        match error {
            CoreError::Server(refusal) => match hidden(&refusal) {
                Some(header) => Error::Hidden { refusal, header },
                None => CoreError::Server(refusal).into(),
            },
            other => other.into(),
        }
    }
}

/// Whether a request that got no answer may have reached the server: `fetch` doesn't tell.
fn was_sent() -> Sent {
    if platform::is_offline() {
        Sent::No
    } else {
        Sent::Maybe
    }
}

fn no_response(error: CoreError, uri: &Uri, cause: JsValue) -> Error {
    match error {
        CoreError::NoResponse(lost) => {
            let host = uri
                .authority()
                .map(http::uri::Authority::as_str)
                .unwrap_or_default();
            Error::NoResponse {
                lost,
                host: host.to_owned(),
                cause,
            }
        }
        other => other.into(),
    }
}
