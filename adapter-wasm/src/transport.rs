//! The driver's loops: operations and calls of resources over `fetch`.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use http::header::{DATE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response as HttpResponse, StatusCode, Uri};
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

/// Executes operations and calls with `fetch`: sends the core's requests, passes responses back to it,
/// and waits for the delays that it returns.
pub struct Transport {
    key: Option<ProofKey>,
    servers: RefCell<ServerState>,
    gate: RefCell<NonceGate>,
    permit_released: Notify,
    timeout: Duration,
}

impl Transport {
    /// Creates a transport with a timeout of 30 s for each operation, retries included. `key` signs the
    /// proofs; it may be `None` for bearer tokens.
    pub fn new(key: Option<ProofKey>) -> Self {
        Self {
            key,
            servers: RefCell::default(),
            gate: RefCell::default(),
            permit_released: Notify::default(),
            timeout: Duration::from_secs(30),
        }
    }

    /// Returns the key that signs the proofs.
    pub fn key(&self) -> Option<&ProofKey> {
        self.key.as_ref()
    }

    /// Returns a copy of the nonces and clock offsets that are known now.
    pub fn server_state(&self) -> ServerState {
        self.servers.borrow().clone()
    }

    pub(crate) fn merge_server_state(&self, servers: &ServerState) {
        self.servers.borrow_mut().merge(servers);
    }

    /// Runs an operation, with its retries, and returns its result.
    ///
    /// # Errors
    /// Returns [`Error::Core`] for an error response or an invalid response, [`Error::Hidden`] if a
    /// header needed for a retry is not exposed, [`Error::NoResponse`] if no response was received, and
    /// [`Error::Browser`] if WebCrypto fails to sign.
    pub async fn execute<T>(&self, operation: Operation<T>) -> Result<T, Error> {
        let deadline = platform::now().saturating_add(self.timeout);
        let mut operation = operation.timeout(self.timeout);
        loop {
            platform::sleep(operation.delay()).await;
            let signing = operation.prepare(&self.servers.borrow(), platform::request_context())?;
            let PreparedRequest { request, pending } = self.finish(signing).await?;
            let uri = request.uri().clone();
            let step = match send(request, deadline).await {
                Ok(response) => {
                    let exposed = ExposedHeaders::from_headers(response.headers());
                    pending
                        .receive(response, &mut self.servers.borrow_mut(), platform::now())
                        .map_err(|error| exposed.explain(error))?
                }
                Err(cause) => pending
                    .transport_failed(was_sent(), platform::now())
                    .map_err(|error| no_response(error, &uri, cause))?,
            };
            match step {
                Step::Done(result) => return Ok(result),
                Step::RetryAfter(retry) => operation = retry,
            }
        }
    }

    /// Sends a request with a token, and returns the response.
    ///
    /// Sets `Authorization`, and `DPoP` with a new proof if the token is bound to a key. Retries if the
    /// server requires another proof or a new nonce, and after transient failures if a retry is safe.
    /// Any status is returned as a response; the body is unread. Redirects are not followed.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the request must not or can't carry the token,
    /// [`Error::NoResponse`] if no response was received, [`Error::Redirected`] for a redirect, and
    /// [`Error::Aborted`] if the request's signal is aborted.
    pub async fn send(&self, token: &Token, request: &Request) -> Result<Response, Error> {
        self.perform(token, request)
            .await
            .map(|called| called.response)
    }

    /// Sends a request as [`send`](Self::send) does, and also returns whether the token was rejected.
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
        let mut permit: Option<PermitGuard<'_>> = None;
        loop {
            platform::sleep(call.delay()).await;
            if permit.is_none() && call.is_bound() {
                permit = Some(self.acquire_permit(&uri, deadline).await?);
            }
            let signing = call.prepare(&self.servers.borrow(), platform::request_context())?;
            let PreparedCall { headers, pending } = self.finish(signing).await?;
            let mut sent = HeaderMap::new();
            headers.apply(&mut sent);
            let response: Response = match platform::call(request, &lines(&sent)).await {
                Ok(response) => response.unchecked_into(),
                Err(cause) if request.signal().aborted() => return Err(Error::Aborted(cause)),
                Err(cause) => {
                    drop(permit.take());
                    call = pending
                        .transport_failed(was_sent(), platform::now())
                        .map_err(|error| no_response(error, &uri, cause))?;
                    continue;
                }
            };
            let Some((status, headers)) = head(&platform::head(&response)) else {
                // An opaque response: only an application that set `redirect: "manual"` gets it.
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
            let verdict = pending.verdict(
                status,
                &headers,
                &mut self.servers.borrow_mut(),
                platform::now(),
            )?;
            // A call that has just received the nonce retries at once and keeps its permit. After a stale
            // nonce it releases it, since other calls may have a newer nonce.
            let retries_now =
                matches!(&verdict, Verdict::RetryAfter(retry) if retry.delay().is_zero());
            if let Some(permit) =
                permit.take_if(|_| !retries_now || outcome == NonceOutcome::Rejected)
            {
                permit.finish(outcome);
            }
            match verdict {
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
                Verdict::RetryAfter(retry) => call = retry,
            }
        }
    }

    /// Waits for a permit to call a server with a proof. After `deadline`, the call proceeds without one.
    async fn acquire_permit(
        &self,
        uri: &Uri,
        deadline: UnixTime,
    ) -> Result<PermitGuard<'_>, Error> {
        loop {
            let left = deadline.saturating_since(platform::now());
            let admission = self.gate.borrow_mut().acquire(Role::ResourceServer, uri)?;
            match admission {
                Admission::Admitted(permit) => {
                    return Ok(PermitGuard {
                        transport: self,
                        permit: Some(permit),
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

/// A call that received a response.
pub(crate) struct Called {
    pub(crate) response: Response,
    pub(crate) uri: Uri,
    /// Whether the server rejected the token.
    pub(crate) is_refused: bool,
}

/// Releases its permit on drop, so that the next call is admitted even if this one fails.
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
            self.transport.gate.borrow_mut().release(permit, outcome);
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
) -> Result<HttpResponse<Vec<u8>>, JsValue> {
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
    let mut response = HttpResponse::new(body.as_bytes().to_vec());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

/// Formats headers as lines.
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

/// Parses the status and the headers of a response. Returns `None` for an opaque response.
fn head(text: &str) -> Option<(StatusCode, HeaderMap)> {
    let (status, headers) = text.split_once('\n').unwrap_or((text, ""));
    Some((
        StatusCode::from_bytes(status.as_bytes()).ok()?,
        read_lines(headers),
    ))
}

/// The parts of the application's request that the core needs.
struct RequestHead {
    method: Method,
    url: String,
    headers: HeaderMap,
}

impl RequestHead {
    fn new(request: &Request) -> Result<Self, InvalidInput> {
        // One call for all parts: calling into JavaScript costs more than parsing the result.
        let text = platform::request_head(request);
        let mut parts = text.splitn(4, '\n');
        let mut next = || parts.next().unwrap_or_default();
        if next() == "no-cors" {
            let rule =
                "must not be no-cors: the browser would remove the token and hide the response";
            return Err(InvalidInput::new("mode", rule));
        }
        let method = Method::from_bytes(next().as_bytes())
            .map_err(|_| InvalidInput::new("method", "must be an HTTP method"))?;
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

/// Whether the browser exposes the response headers that a retry needs (CORS).
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

    /// Converts a rejection that could have been retried with a hidden header to [`Error::Hidden`].
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

/// Returns whether a request without a response may have reached the server. `fetch` does not report
/// it, so only an offline browser counts as certain.
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
