//! An `async` driver of `keybound-core`, over hyper and tokio, without `keybound-ureq`. Ten tasks share
//! one token.
//!
//! ```sh
//! cargo run -p keybound-ureq --example async_driver
//! ```

use std::error::Error as StdError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use keybound_core::driver::{
    MAX_RESPONSE, Refresh, RequestContext, SessionConfig, SessionId, Shared, Step, Task, Until,
};
use keybound_core::jose::{Algorithm, SigningKey};
use keybound_core::{Cause, Client, ClientAuth, Endpoint, Error, Grant, Secret, Sent, UnixTime};
use keybound_sandbox::{CLIENT_ID, CLIENT_SECRET, Options, Sandbox};
use ring::rand::{SecureRandom as _, SystemRandom};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Calls a resource from ten tasks.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let sandbox = Sandbox::start(Options::default().require_nonce(true))?;
    let key = SigningKey::generate(Algorithm::Es256)?;
    let auth = ClientAuth::basic(CLIENT_ID, Secret::new(CLIENT_SECRET))?;
    let endpoint = Endpoint::loopback_http(&format!("{}/token", sandbox.oauth()))?;
    let client = Client::new(endpoint, auth).dpop(key.public().clone());
    let config = SessionConfig::new(client).grant(Grant::client_credentials());
    let driver = Driver::open(config, key);

    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..10 {
        let (driver, resource) = (driver.clone(), format!("{}/resource", sandbox.oauth()));
        calls.spawn(async move {
            driver
                .call(Request::get(resource).body(Bytes::new())?)
                .await
        });
    }
    while let Some(response) = calls.join_next().await {
        let response = response??;
        if !response.status().is_success() {
            return Err(format!("the resource server: {}", response.status()).into());
        }
    }
    // The first request of all brings the nonce of the authorization server.
    match driver.token_requests.load(Ordering::Relaxed) {
        2 => println!("ten calls, 2 token requests"),
        sent => return Err(format!("ten calls, {sent} token requests").into()),
    }
    Ok(())
}

struct Driver {
    http: HttpClient<HttpConnector, Full<Bytes>>,
    key: SigningKey,
    session: SessionId,
    shared: Mutex<Shared>,
    /// The generation of the shared state, for the tasks that wait.
    generation: watch::Sender<u64>,
    token_requests: AtomicUsize,
}

/// The application's request, and the last response to it, with its body unread.
#[derive(Default)]
struct Application {
    request: Request<Bytes>,
    response: Option<Response<Incoming>>,
}

impl Driver {
    fn open(config: SessionConfig, key: SigningKey) -> Arc<Self> {
        let mut shared = Shared::new();
        let session = shared.open(config, now());
        Arc::new(Self {
            // Without idle connections, since `max_idle` is different for each request.
            http: HttpClient::builder(TokioExecutor::new())
                .pool_max_idle_per_host(0)
                .build_http(),
            key,
            session,
            generation: watch::Sender::new(shared.generation()),
            shared: Mutex::new(shared),
            token_requests: AtomicUsize::new(0),
        })
    }

    async fn call(
        self: &Arc<Self>,
        request: Request<Bytes>,
    ) -> Result<Response<Incoming>, BoxError> {
        let call = self.session.call(request.method(), request.uri())?;
        let response = None;
        let mut application = Application { request, response };
        self.run(call, &mut application).await?;
        Ok(application.response.ok_or("a call ends with a response")?)
    }

    /// Runs any task. Only a call uses `application`.
    async fn run<T: Task>(
        self: &Arc<Self>,
        task: T,
        application: &mut Application,
    ) -> Result<T::Output, Error> {
        let mut step = self.lock().start(task, context()?);
        let _abandon = step.id().map(|id| Abandon(self, id));
        loop {
            self.after_step();
            step = match step {
                Step::Done(result) => return result,
                Step::Send(mut it) => {
                    self.token_requests.fetch_add(1, Ordering::Relaxed);
                    let request = std::mem::take(&mut it.effect.request);
                    let request = request.map(|body| Bytes::from(body.into_vec()));
                    match within(it.effect.timeout, self.send_and_read(request)).await {
                        Ok(response) => it.received(&response, &mut self.lock(), context()?),
                        Err((sent, why)) => {
                            it.failed(sent, Some(why), &mut self.lock(), context()?)
                        }
                    }
                }
                Step::Call(mut it) => {
                    let mut request = application.request.clone();
                    it.effect.headers.apply(request.headers_mut());
                    match within(it.effect.timeout, self.send(request)).await {
                        Ok(response) => {
                            let response = application.response.insert(response);
                            let (status, headers) = (response.status(), response.headers());
                            it.received(status, headers, &mut self.lock(), context()?)
                        }
                        Err((sent, why)) => {
                            it.failed(sent, Some(why), &mut self.lock(), context()?)
                        }
                    }
                }
                Step::Sign(it) => {
                    let signature = self.key.sign(&it.effect).map_err(Cause::new);
                    it.signed(signature, &mut self.lock(), context()?)
                }
                Step::Wait(it) => {
                    self.wait(it.effect).await;
                    it.woken(&mut self.lock(), context()?)
                }
                // This session is neither stored nor fetches its tokens.
                _ => return Err(Error::Storage(Cause::new("there is no storage"))),
            };
        }
    }

    /// Wakes the tasks that wait, and runs a refresh that is due beside them.
    fn after_step(self: &Arc<Self>) {
        let mut shared = self.lock();
        self.generation.send_replace(shared.generation());
        while shared.next_event().is_some() {} // for a log
        if let Some(refresh) = shared.next_refresh(self.session) {
            let driver = Arc::clone(self);
            tokio::spawn(async move { driver.refresh(refresh).await });
        }
    }

    async fn refresh(self: &Arc<Self>, refresh: Refresh) {
        // The callers that wait for the token get the error.
        let _ = self.run(refresh, &mut Application::default()).await;
    }

    /// Waits until the time has come, or the generation has moved.
    async fn wait(&self, until: Until) {
        let wait = sleep(until.time.saturating_since(now()));
        let Some(seen) = until.unless_generation else {
            return wait.await;
        };
        let mut generation = self.generation.subscribe();
        tokio::select! {
            () = wait => {}
            _ = generation.wait_for(|generation| *generation != seen) => {}
        }
    }

    async fn send(&self, request: Request<Bytes>) -> Result<Response<Incoming>, (Sent, Cause)> {
        let sending = self.http.request(request.map(Full::new));
        sending.await.map_err(|error| match error.is_connect() {
            true => (Sent::No, Cause::new(error)),
            false => (Sent::Maybe, Cause::new(error)),
        })
    }

    /// Sends a request, and reads one byte more of the body than the core accepts.
    async fn send_and_read(
        &self,
        request: Request<Bytes>,
    ) -> Result<Response<Vec<u8>>, (Sent, Cause)> {
        let (head, mut body) = self.send(request).await?.into_parts();
        let mut bytes = Vec::new();
        while bytes.len() <= MAX_RESPONSE {
            let Some(frame) = body.frame().await else {
                break;
            };
            let frame = frame.map_err(|error| (Sent::Maybe, Cause::new(error)))?;
            bytes.extend(frame.into_data().unwrap_or_default());
        }
        Ok(Response::from_parts(head, bytes))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives back what a task holds that is cancelled.
struct Abandon<'a>(&'a Driver, u64);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        let mut shared = self.0.lock();
        shared.abandon(self.1, now());
        self.0.generation.send_replace(shared.generation());
    }
}

async fn within<T>(
    limit: Duration,
    sending: impl Future<Output = Result<T, (Sent, Cause)>>,
) -> Result<T, (Sent, Cause)> {
    let timed_out = |error| Err((Sent::Maybe, Cause::new(error)));
    timeout(limit, sending).await.unwrap_or_else(timed_out)
}

fn now() -> UnixTime {
    SystemTime::now().into()
}

fn context() -> Result<RequestContext, Error> {
    let mut entropy = [0; 16];
    let filled = SystemRandom::new().fill(&mut entropy);
    filled.map_err(|_| Error::NoEntropy)?;
    Ok(RequestContext::new(now(), entropy))
}
