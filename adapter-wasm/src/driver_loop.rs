//! The driver: one loop that performs the effects of every task of the core.

use std::cell::RefMut;
use std::rc::Rc;

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue, Response as HttpResponse, StatusCode};
use keybound_core::driver::{
    Delivered, Erased, FetchToken, MAX_RESPONSE, PreparedCall, PreparedRequest, READ_HEADERS,
    Running, Shared, Step, Task, Until,
};
use keybound_core::jose::Signature;
use keybound_core::{Cause, SecretBytes, Sent, SignRequest};
use wasm_bindgen::JsCast as _;
use wasm_bindgen_futures::spawn_local;
use web_sys::{Request, RequestRedirect, Response};

use crate::error::exception;
use crate::notify::within;
use crate::platform::{self, Lock, request_context as context};
use crate::session::{self, Inner};
use crate::{CoreError, Error, Transport};

/// What a task is run with, beside the transport.
#[derive(Default)]
pub(crate) struct Run<'a> {
    /// The session whose task it is.
    pub(crate) session: Option<&'a Rc<Inner>>,
    /// The application's request.
    pub(crate) request: Option<&'a Request>,
    /// The response to it.
    pub(crate) response: Option<Response>,
}

impl Transport {
    /// Runs a task to its end.
    pub(crate) async fn run<T: Task>(
        &self,
        task: T,
        run: &mut Run<'_>,
    ) -> Result<T::Output, Error> {
        let mut running = Running::new(task);
        self.drive(running.erase(), run).await?;
        // A task that has succeeded has a result.
        Ok(running.into_output().ok_or(CoreError::RefreshAborted)?)
    }

    /// Performs the effects of a task, step by step.
    async fn drive(&self, task: Erased<'_>, run: &mut Run<'_>) -> Result<(), Error> {
        let mut abandon = Abandon {
            transport: self,
            task: None,
        };
        // Released when it is dropped.
        let mut lock = None;
        let mut step = self.shared().start(task, context());
        loop {
            self.settle(run.session);
            abandon.task = step.id();
            step = match step {
                Step::Done(result) => return Ok(result?),
                Step::Send(awaiting) => match send(&awaiting.effect).await {
                    Ok(response) => awaiting.received(&response, &mut self.shared(), context()),
                    Err(cause) => {
                        awaiting.failed(was_sent(), Some(cause), &mut self.shared(), context())
                    }
                },
                Step::Call(mut awaiting) => match run.call(&mut awaiting.effect).await? {
                    Ok((status, headers)) => {
                        awaiting.received(status, &headers, &mut self.shared(), context())
                    }
                    Err(cause) => {
                        awaiting.failed(was_sent(), Some(cause), &mut self.shared(), context())
                    }
                },
                Step::Sign(awaiting) => {
                    let signature = self.sign(&awaiting.effect).await;
                    awaiting.signed(signature, &mut self.shared(), context())
                }
                Step::Wait(awaiting) => {
                    self.wait(awaiting.effect).await;
                    awaiting.woken(&mut self.shared(), context())
                }
                Step::Lease(awaiting) => {
                    let acquired = Lock::acquire(&awaiting.effect.name).await;
                    let acquired = acquired.map_err(exception).map(|acquired| {
                        lock = acquired;
                        lock.is_some()
                    });
                    awaiting.leased(acquired, &mut self.shared(), context())
                }
                Step::Load(awaiting) => {
                    let state = load(&awaiting.effect.name).await;
                    awaiting.loaded(state, &mut self.shared(), context())
                }
                Step::Save(awaiting) => {
                    let saved = save(&awaiting.effect.name, &awaiting.effect.state).await;
                    awaiting.saved(saved, &mut self.shared(), context())
                }
                Step::Release(awaiting) => {
                    lock = None;
                    awaiting.released(&mut self.shared(), context())
                }
                Step::FetchToken(awaiting) => {
                    let response = fetch_token(run.session, awaiting.effect).await;
                    awaiting.fetched(response, &mut self.shared(), context())
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
        match self.key() {
            Some(key) => key.sign(request).await,
            None => Err(Cause::message(
                "a transport without a key can't use a bound token",
            )),
        }
    }

    /// Waits until a time, or until the shared state changes.
    async fn wait(&self, until: Until) {
        let timeout = until.time.saturating_since(platform::now());
        let has_not_changed = || {
            until
                .unless_generation
                .is_none_or(|generation| self.shared().generation() == generation)
        };
        self.changed
            .wait_timeout_while(timeout, has_not_changed)
            .await;
    }
}

impl Run<'_> {
    /// Sends the application's request. Its own signal limits the time, as with `fetch`.
    async fn call(
        &mut self,
        call: &mut PreparedCall,
    ) -> Result<Result<(StatusCode, HeaderMap), Cause>, Error> {
        let Some(request) = self.request else {
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
        self.response = Some(response).filter(|_| is_delivered);
        let Some((status, received)) = head else {
            return Err(Error::Redirected);
        };
        let is_bound = headers.keys().any(|name| name.as_str() == "dpop");
        let hides = status == StatusCode::UNAUTHORIZED && !received.contains_key(WWW_AUTHENTICATE);
        if is_bound && hides {
            platform::warn_hidden(request);
        }
        Ok(Ok((status, received)))
    }

    /// Returns the response of a call that has ended.
    pub(crate) fn deliver(self, result: Result<Delivered, Error>) -> Result<Response, Error> {
        match (result.err(), self.response) {
            (None | Some(Error::Redirected), Some(response)) => Ok(response),
            (error, _) => Err(error.unwrap_or(Error::Redirected)),
        }
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
    let PreparedRequest { request, timeout } = prepared;
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

async fn load(name: &str) -> Result<Option<SecretBytes>, Cause> {
    let state = platform::load(&session::storage_key(name)).await;
    state
        .map(|state| state.map(|json| SecretBytes::new(json.into_bytes())))
        .map_err(exception)
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
        Some(json) => json
            .map(|json| SecretBytes::new(json.into_bytes()))
            .map_err(exception),
        None => Err(Cause::message("timed out waiting for the token callback")),
    }
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
        lines.push_str(name.as_str());
        lines.push_str(": ");
        lines.push_str(value.to_str().unwrap_or_default());
        lines.push('\n');
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
    Some((
        StatusCode::from_bytes(status.as_bytes()).ok()?,
        from_lines(headers),
    ))
}
