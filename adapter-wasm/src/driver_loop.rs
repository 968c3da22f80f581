//! The driver: one loop that performs the effects of every task of the core.

use std::{cell::RefMut, rc::Rc};

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue, Response as HttpResponse, StatusCode};
use keybound_core::driver::{
    Erased, FetchToken, MAX_RESPONSE, PreparedCall, PreparedRequest, READ_HEADERS, Running, Shared,
    Step, Task, Until,
};
use keybound_core::jose::Signature;
use keybound_core::{Call, Cause, SecretBytes, Sent, SignRequest};
use wasm_bindgen::JsCast as _;
use wasm_bindgen_futures::spawn_local;
use web_sys::{Request, RequestRedirect, Response};

use crate::platform::{self, Lock, request_context as context};
use crate::session::{self, Inner};
use crate::{CoreError, Error, Transport, error::exception, notify::within};

/// The application's request, and the response to it.
type Exchange<'a> = (&'a Request, &'a mut Option<Response>);

impl Transport {
    /// Runs a task of a session, or of none, to its end.
    pub(crate) async fn run<T: Task>(
        &self,
        task: T,
        session: Option<&Rc<Inner>>,
    ) -> Result<T::Output, Error> {
        let mut running = Running::new(task);
        self.drive(running.erase(), session, None).await?;
        // A task that has succeeded has a result.
        Ok(running.into_output().ok_or(CoreError::RefreshAborted)?)
    }

    /// Runs a call of the application to its end, and returns the response.
    pub(crate) async fn call(
        &self,
        call: Call,
        session: Option<&Rc<Inner>>,
        request: &Request,
    ) -> Result<Response, Error> {
        let (mut running, mut response) = (Running::new(call), None);
        let exchange = Some((request, &mut response));
        let ended = self.drive(running.erase(), session, exchange).await;
        match (ended.err(), response) {
            (None | Some(Error::Redirected), Some(response)) => Ok(response),
            (error, _) => Err(error.unwrap_or(Error::Redirected)),
        }
    }

    /// Performs the effects of a task, step by step.
    async fn drive(
        &self,
        task: Erased<'_>,
        session: Option<&Rc<Inner>>,
        mut exchange: Option<Exchange<'_>>,
    ) -> Result<(), Error> {
        let mut abandon = Abandon {
            transport: self,
            task: None,
        };
        // Released when it is dropped.
        let mut lock = None;
        let mut step = self.shared().start(task, context());
        loop {
            self.settle(session);
            abandon.task = step.id();
            step = match step {
                Step::Done(result) => return Ok(result?),
                Step::Send(it) => match send(&it.effect).await {
                    Ok(response) => it.received(&response, &mut self.shared(), context()),
                    Err(cause) => it.failed(was_sent(), Some(cause), &mut self.shared(), context()),
                },
                Step::Call(mut it) => match call(&mut exchange, &mut it.effect).await? {
                    Ok((status, headers)) => {
                        it.received(status, &headers, &mut self.shared(), context())
                    }
                    Err(cause) => it.failed(was_sent(), Some(cause), &mut self.shared(), context()),
                },
                Step::Sign(it) => {
                    let signature = self.sign(&it.effect).await;
                    it.signed(signature, &mut self.shared(), context())
                }
                Step::Wait(it) => {
                    self.wait(it.effect).await;
                    it.woken(&mut self.shared(), context())
                }
                Step::Lease(it) => {
                    let acquired = Lock::acquire(&it.effect.name).await;
                    let acquired = acquired.map_err(exception).map(|acquired| {
                        lock = acquired;
                        lock.is_some()
                    });
                    it.leased(acquired, &mut self.shared(), context())
                }
                Step::Load(it) => {
                    let state = load(&it.effect.name).await;
                    it.loaded(state, &mut self.shared(), context())
                }
                Step::Save(it) => {
                    let saved = save(&it.effect.name, &it.effect.state).await;
                    it.saved(saved, &mut self.shared(), context())
                }
                Step::Release(it) => {
                    lock = None;
                    it.released(&mut self.shared(), context())
                }
                Step::FetchToken(it) => {
                    let response = fetch_token(session, it.effect).await;
                    it.fetched(response, &mut self.shared(), context())
                }
            };
        }
    }

    /// Borrows the shared state, never across an `await`.
    pub(crate) fn shared(&self) -> RefMut<'_, Shared> {
        self.shared.borrow_mut()
    }

    /// Wakes the tasks that wait for a change of the shared state, and starts the refreshes that are
    /// due.
    pub(crate) fn settle(&self, session: Option<&Rc<Inner>>) {
        let mut shared = self.shared();
        while shared.next_event().is_some() {} // Nobody listens.
        let generation = shared.generation();
        if let Some((session, id)) = session.and_then(|session| Some((session, session.id()?))) {
            while let Some(refresh) = shared.next_refresh(id) {
                let session = Rc::clone(session);
                spawn_local(async move {
                    // The callers that wait for the token get the error.
                    let _ = session.run(refresh).await;
                });
            }
        }
        drop(shared);
        if self.generation.replace(generation) != generation {
            self.changed.notify_all();
        }
    }

    async fn sign(&self, request: &SignRequest) -> Result<Signature, Cause> {
        let none = "a transport without a key can't use a bound token";
        match self.key() {
            Some(key) => key.sign(request).await,
            None => Err(Cause::message(none)),
        }
    }

    /// Waits until a time, or until the shared state changes.
    async fn wait(&self, until: Until) {
        let timeout = until.time.saturating_since(platform::now());
        let is_current = |generation| self.shared().generation() == generation;
        let has_not_changed = || until.unless_generation.is_none_or(is_current);
        let notify = &self.changed;
        notify.wait_timeout_while(timeout, has_not_changed).await;
    }
}

/// Gives back what a task holds that is dropped before its end.
struct Abandon<'a> {
    transport: &'a Transport,
    task: Option<u64>,
}

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        if let Some(task) = self.task {
            self.transport.shared().abandon(task, platform::now());
            self.transport.settle(None);
        }
    }
}

async fn send(prepared: &PreparedRequest) -> Result<HttpResponse<Vec<u8>>, Cause> {
    let PreparedRequest {
        request, timeout, ..
    } = prepared;
    let text = platform::send(
        request.method().as_str(),
        &request.uri().to_string(),
        &to_lines(request.headers()),
        request.body().as_ref(),
        platform::millis(*timeout),
        MAX_RESPONSE,
    )
    .await
    .map_err(exception)?
    .as_string()
    .unwrap_or_default();
    let (head, body) = text.split_once("\n\n").unwrap_or((&text, ""));
    let head = parse_head(head).ok_or_else(|| Cause::message("the response is opaque"))?;
    let mut response = HttpResponse::new(body.as_bytes().to_vec());
    (*response.status_mut(), *response.headers_mut()) = head;
    Ok(response)
}

/// Sends the application's request. Its own signal limits the time, as with `fetch`.
async fn call(
    exchange: &mut Option<Exchange<'_>>,
    call: &mut PreparedCall,
) -> Result<Result<(StatusCode, HeaderMap), Cause>, Error> {
    let Some((request, delivered)) = exchange else {
        return Ok(Err(Cause::message("there is no request to send")));
    };
    let mut headers = HeaderMap::new();
    call.headers.apply(&mut headers);
    let response: Response = match platform::call(request, &to_lines(&headers)).await {
        Ok(response) => response.unchecked_into(),
        Err(reason) if request.signal().aborted() => return Err(Error::Aborted(reason)),
        Err(thrown) => return Ok(Err(exception(thrown))),
    };
    let head = parse_head(&platform::head(&response));
    // An application gets an opaque response if it has set `redirect: "manual"`.
    let is_delivered = head.is_some() || request.redirect() == RequestRedirect::Manual;
    **delivered = Some(response).filter(|_| is_delivered);
    let (status, received) = head.ok_or(Error::Redirected)?;
    let is_bound = headers.keys().any(|name| name.as_str() == "dpop");
    let hides = status == StatusCode::UNAUTHORIZED && !received.contains_key(WWW_AUTHENTICATE);
    if is_bound && hides {
        platform::warn_hidden(request);
    }
    Ok(Ok((status, received)))
}

async fn load(name: &str) -> Result<Option<SecretBytes>, Cause> {
    let state = platform::load(&session::storage_key(name)).await;
    Ok(state.map_err(exception)?.map(secret))
}

async fn save(name: &str, state: &SecretBytes) -> Result<bool, Cause> {
    let json =
        std::str::from_utf8(state.expose()).map_err(|_| Cause::message("the state is not text"))?;
    let saved = platform::save(&session::storage_key(name), json).await;
    // No other tab can save: the lock does not expire.
    saved.map(|()| true).map_err(exception)
}

/// Gets a token response from the page.
async fn fetch_token(
    session: Option<&Rc<Inner>>,
    FetchToken { timeout }: FetchToken,
) -> Result<SecretBytes, Cause> {
    let Some(callback) = session.and_then(|session| session.callback.as_ref()) else {
        return Err(Cause::message("the session has no token callback"));
    };
    match within(timeout, callback()).await {
        Some(json) => json.map(secret).map_err(exception),
        None => Err(Cause::message("timed out waiting for the token callback")),
    }
}

fn secret(json: String) -> SecretBytes {
    SecretBytes::new(json.into_bytes())
}

/// Returns whether a request without a response may have reached the server. `fetch` does not report
/// it, so only an offline browser counts as certain.
fn was_sent() -> Sent {
    match platform::is_offline() {
        true => Sent::No,
        false => Sent::Maybe,
    }
}

/// Formats headers as lines.
fn to_lines(headers: &HeaderMap) -> String {
    let mut lines = String::new();
    for (name, value) in headers {
        let value = value.to_str().unwrap_or_default();
        lines.extend([name.as_str(), ": ", value, "\n"]);
    }
    lines
}

/// Parses the headers that the core reads from lines.
pub(crate) fn from_lines(lines: &str) -> HeaderMap {
    let header = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        let name = READ_HEADERS.iter().find(|known| known.as_str() == name)?;
        Some((name.clone(), HeaderValue::try_from(value).ok()?))
    };
    lines.lines().filter_map(header).collect()
}

/// Parses the status and the headers of a response. Returns `None` for an opaque response.
fn parse_head(text: &str) -> Option<(StatusCode, HeaderMap)> {
    let (status, headers) = text.split_once('\n').unwrap_or((text, ""));
    let status = StatusCode::from_bytes(status.as_bytes()).ok()?;
    Some((status, from_lines(headers)))
}
