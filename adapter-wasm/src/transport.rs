//! The one loop, over `fetch`.

use std::cell::RefCell;
use std::fmt;
use std::time::Duration;

use http::header::{DATE, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response as Answer, StatusCode, Uri};
use keybound_core::{
    Assemble, Authorized, Body, Endpoint, Error as CoreError, Exchange, Judged, MAX_RESPONSE, Misuse,
    Origins, Outcome, Outgoing, Pass, Received, Role, Sent, ServerError, Signing, Token, Turn, Turns,
    UnixTime,
};
use wasm_bindgen::{JsCast as _, JsValue};
use web_sys::{Request, RequestRedirect, Response};

use crate::bell::Bell;
use crate::{Error, ProofKey, platform};

/// Performs exchanges and calls: sends what the core makes, shows it what comes back, waits when it says so.
pub struct Transport {
    key: Option<ProofKey>,
    origins: RefCell<Origins>,
    turns: RefCell<Turns>,
    turn_ended: Bell,
    budget: Duration,
}

impl Transport {
    /// With 30 s for each exchange. `key` makes the proofs, where there are any.
    pub fn new(key: Option<ProofKey>) -> Self {
        Self {
            key,
            origins: RefCell::default(),
            turns: RefCell::default(),
            turn_ended: Bell::default(),
            budget: Duration::from_secs(30),
        }
    }

    /// Who makes the proofs.
    pub fn key(&self) -> Option<&ProofKey> {
        self.key.as_ref()
    }

    /// What has been learned of servers up to now.
    pub fn learned(&self) -> Origins {
        self.origins.borrow().clone()
    }

    pub(crate) fn learn_from(&self, origins: &Origins) {
        self.origins.borrow_mut().learn_from(origins);
    }

    /// Performs an exchange to its end.
    ///
    /// # Errors
    /// The core's verdict, a lost connection, or a browser that can't sign.
    pub async fn run<T>(&self, exchange: Exchange<T>) -> Result<T, Error> {
        let deadline = platform::now().saturating_add(self.budget);
        let mut exchange = exchange.within(self.budget);
        loop {
            platform::sleep(exchange.wait()).await;
            let signing = exchange.prepare(&self.origins.borrow(), platform::ambient())?;
            let Outgoing { request, pending } = self.finish(signing).await?;
            let uri = request.uri().clone();
            let received = match send(request, deadline).await {
                Ok(answer) => {
                    let seen = Seen::of(answer.headers());
                    pending
                        .receive(answer, &mut self.origins.borrow_mut(), platform::now())
                        .map_err(|error| seen.explain(error))?
                }
                Err(cause) => {
                    pending.lost(was_sent(), platform::now()).map_err(|error| lost(error, &uri, cause))?
                }
            };
            match received {
                Received::Done(done) => return Ok(done),
                Received::Again(again) => exchange = again,
            }
        }
    }

    /// Sends a request with a token: `Authorization`, and for a bound token a fresh proof. It is sent again only if
    /// the server wants another proof. The response is delivered whatever its status, its body unread.
    ///
    /// # Errors
    /// `Misuse` for a request that may not have a token or can't carry it, and as for `fetch`.
    pub async fn call(&self, token: &Token, request: &Request) -> Result<Response, Error> {
        self.perform(token, request).await.map(|called| called.response)
    }

    /// [`call`](Self::call), with what a session wants to know of it.
    pub(crate) async fn perform(&self, token: &Token, request: &Request) -> Result<Called, Error> {
        let RequestHead { method, url, headers } = RequestHead::of(request)?;
        let uri = Endpoint::https_or_loopback(url.split('#').next().unwrap_or_default())?.uri().clone();
        let deadline = platform::now().saturating_add(self.budget);
        let mut call = token.authorize(&method, &uri)?.with_headers(&headers).within(self.budget);
        let mut turn: Option<TakenTurn<'_>> = None;
        loop {
            platform::sleep(call.wait()).await;
            if turn.is_none() && call.is_bound() {
                turn = Some(self.take_turn(&uri, deadline).await?);
            }
            let signing = call.prepare(&self.origins.borrow(), platform::ambient())?;
            let Authorized { headers, pending } = self.finish(signing).await?;
            let mut sent = HeaderMap::new();
            headers.apply(&mut sent);
            let response: Response = match platform::call(request, &lines(&sent)).await {
                Ok(response) => response.unchecked_into(),
                Err(cause) if request.signal().aborted() => return Err(Error::Aborted(cause)),
                Err(cause) => {
                    drop(turn.take());
                    call = pending
                        .lost(was_sent(), platform::now())
                        .map_err(|error| lost(error, &uri, cause))?;
                    continue;
                }
            };
            let Some((status, headers)) = head(&platform::head(&response)) else {
                // An opaque answer to `redirect: "manual"`: whoever asked for it gets it.
                return match request.redirect() {
                    RequestRedirect::Manual => Ok(Called { response, uri, is_refused: false }),
                    _ => Err(Error::Redirected),
                };
            };
            let outcome = pending.outcome(status, &headers);
            let judged = pending.judge(status, &headers, &mut self.origins.borrow_mut(), platform::now())?;
            // Whoever has just learned the nonce goes again at once; where it was stale, others may be ahead.
            let goes_on = matches!(&judged, Judged::Again(again) if again.wait().is_zero());
            if let Some(turn) = turn.take_if(|_| !goes_on || outcome == Outcome::Stale) {
                turn.end(outcome);
            }
            match judged {
                Judged::Deliver => return Ok(Called { response, uri, is_refused: false }),
                Judged::Rejected => {
                    if token.key().is_some() && !headers.contains_key(WWW_AUTHENTICATE) {
                        platform::warn_hidden(&url);
                    }
                    return Ok(Called { response, uri, is_refused: true });
                }
                Judged::Again(again) => call = again,
            }
        }
    }

    /// Waits for the turn to call a server with a proof, until `deadline`; then it goes without.
    async fn take_turn(&self, uri: &Uri, deadline: UnixTime) -> Result<TakenTurn<'_>, Error> {
        loop {
            let left = deadline.saturating_since(platform::now());
            let turn = self.turns.borrow_mut().take(Role::ResourceServer, uri)?;
            match turn {
                Turn::Go(pass) => return Ok(TakenTurn { transport: self, pass: Some(pass) }),
                Turn::Wait if left.is_zero() => return Ok(TakenTurn { transport: self, pass: None }),
                Turn::Wait => self.turn_ended.rung_within(left).await,
            }
        }
    }

    async fn finish<T: Assemble>(&self, signing: Signing<T>) -> Result<T, Error> {
        match (&self.key, signing) {
            (_, Signing::Ready(ready)) => Ok(ready),
            (Some(key), signing) => key.finish(signing).await,
            (None, _) => Err(Misuse::new("key", "must be given where a token is bound to one").into()),
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("key", &self.key).finish_non_exhaustive()
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
            self.transport.turns.borrow_mut().give_back(pass, outcome);
            self.transport.turn_ended.ring();
        }
    }
}

impl Drop for TakenTurn<'_> {
    fn drop(&mut self) {
        self.give_back(Outcome::Lost);
    }
}

async fn send(request: http::Request<Body>, deadline: UnixTime) -> Result<Answer<Vec<u8>>, JsValue> {
    let (method, url, headers) = (request.method(), request.uri().to_string(), lines(request.headers()));
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
    Some((StatusCode::from_bytes(status.as_bytes()).ok()?, read_lines(headers)))
}

/// What of the application's request decides.
struct RequestHead {
    method: Method,
    url: String,
    headers: HeaderMap,
}

impl RequestHead {
    fn of(request: &Request) -> Result<Self, Misuse> {
        // At once, since each question to the browser costs more than all that is done with its answer.
        let text = platform::request_head(request);
        let mut parts = text.splitn(4, '\n');
        let mut next = || parts.next().unwrap_or_default();
        if next() == "no-cors" {
            let rule = "must not be no-cors: the browser would strip the token, and hide the answer";
            return Err(Misuse::new("mode", rule));
        }
        let method = Method::from_bytes(next().as_bytes())
            .map_err(|_| Misuse::new("method", "must be a method of HTTP"))?;
        Ok(Self { method, url: next().to_owned(), headers: read_lines(next()) })
    }
}

fn read_lines(lines: &str) -> HeaderMap {
    let header = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    };
    lines.lines().filter_map(header).collect()
}

/// Which of an answer's headers the browser lets the page see.
struct Seen {
    nonce: bool,
    date: bool,
}

impl Seen {
    fn of(headers: &HeaderMap) -> Self {
        Self { nonce: headers.contains_key("dpop-nonce"), date: headers.contains_key(DATE) }
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
    if platform::is_offline() { Sent::No } else { Sent::Maybe }
}

fn lost(error: CoreError, uri: &Uri, cause: JsValue) -> Error {
    match error {
        CoreError::Lost(lost) => {
            let host = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
            Error::Lost { lost, host: host.to_owned(), cause }
        }
        other => other.into(),
    }
}
