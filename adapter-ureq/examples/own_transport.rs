//! A session that is stored, and its driver over a `TcpStream`, without `keybound-ureq`. Ten threads
//! share one token. A second driver, which stands for another process, loads it from the storage.
//!
//! ```sh
//! cargo run -p keybound-ureq --example own_transport
//! ```

use std::collections::HashMap;
use std::error::Error as StdError;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use http::{Request, Response};
use keybound_core::driver::{
    MAX_RESPONSE, RequestContext, SessionConfig, SessionId, Shared, Step, Task, Until,
};
use keybound_core::jose::{Algorithm, SigningKey};
use keybound_core::{
    Cause, Client, ClientAuth, Endpoint, Error, Grant, Secret, SecretBytes, Sent, UnixTime,
};
use keybound_sandbox::{CLIENT_ID, CLIENT_SECRET, Options, Sandbox};
use ring::rand::{SecureRandom as _, SystemRandom};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Calls a resource from ten threads, and then from another driver with the same storage.
pub fn main() -> Result<(), BoxError> {
    let sandbox = Sandbox::start(Options::default().require_nonce(true))?;
    let key = Arc::new(SigningKey::generate(Algorithm::Es256)?);
    let auth = ClientAuth::basic(CLIENT_ID, Secret::new(CLIENT_SECRET))?;
    let endpoint = Endpoint::loopback_http(&format!("{}/token", sandbox.oauth()))?;
    let client = Client::new(endpoint, auth).dpop(key.public().clone());
    let config = SessionConfig::new(client)
        .grant(Grant::client_credentials())
        .stored_as("example");
    let storage = Arc::new(Storage::default());
    let resource = format!("{}/resource", sandbox.oauth());

    let driver = Driver::open(config.clone(), key.clone(), storage.clone());
    let call = || driver.call(Request::get(&resource).body(Vec::new())?);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..10).map(|_| scope.spawn(call)).collect();
        callers.into_iter().try_for_each(|caller| {
            let response = caller.join().map_err(|_| "a caller panicked")??;
            check(&response)
        })
    })?;
    // The first request of all brings the nonce of the authorization server.
    let sent = driver.token_requests.load(Ordering::Relaxed);
    println!("ten calls, {sent} token requests");

    let other = Driver::open(config, key, storage);
    let response = other.call(Request::get(&resource).body(Vec::new())?)?;
    check(&response)?;
    let sent_by_other = other.token_requests.load(Ordering::Relaxed);
    println!("another process, {sent_by_other} token requests");
    println!("{}", String::from_utf8_lossy(response.body()));
    match (sent, sent_by_other) {
        (2, 0) => Ok(()),
        _ => Err("the callers must share one token".into()),
    }
}

fn check(response: &Response<Vec<u8>>) -> Result<(), BoxError> {
    match response.status().is_success() {
        true => Ok(()),
        false => Err(format!("the resource server: {}", response.status()).into()),
    }
}

pub(crate) struct Driver {
    key: Arc<SigningKey>,
    storage: Arc<Storage>,
    session: SessionId,
    shared: Mutex<Shared>,
    changed: Condvar,
    token_requests: AtomicUsize,
    /// The time and the entropy of a step.
    context: fn() -> Result<RequestContext, Error>,
}

/// The application's request, and the last response to it.
#[derive(Default)]
struct Application {
    request: Request<Vec<u8>>,
    response: Response<Vec<u8>>,
}

impl Driver {
    fn open(config: SessionConfig, key: Arc<SigningKey>, storage: Arc<Storage>) -> Arc<Self> {
        let mut shared = Shared::new();
        let session = shared.open(config, now());
        Self::new(shared, session, key, storage, context)
    }

    pub(crate) fn new(
        shared: Shared,
        session: SessionId,
        key: Arc<SigningKey>,
        storage: Arc<Storage>,
        context: fn() -> Result<RequestContext, Error>,
    ) -> Arc<Self> {
        Arc::new(Self {
            key,
            storage,
            session,
            shared: Mutex::new(shared),
            changed: Condvar::new(),
            token_requests: AtomicUsize::new(0),
            context,
        })
    }

    pub(crate) fn call(
        self: &Arc<Self>,
        request: Request<Vec<u8>>,
    ) -> Result<Response<Vec<u8>>, BoxError> {
        let call = self.session.call(request.method(), request.uri())?;
        let mut application = Application {
            request,
            ..Application::default()
        };
        self.run(call, &mut application)?;
        Ok(application.response)
    }

    /// Runs any task. Only a call uses `application`.
    fn run<T: Task>(
        self: &Arc<Self>,
        task: T,
        application: &mut Application,
    ) -> Result<T::Output, Error> {
        let mut step = self.lock().start(task, (self.context)()?);
        let _abandon = step.id().map(|id| Abandon(self, id));
        let mut lease = None;
        loop {
            self.after_step();
            step = match step {
                Step::Done(result) => return result,
                Step::Send(it) => {
                    self.token_requests.fetch_add(1, Ordering::Relaxed);
                    match send(&it.effect.request, it.effect.timeout) {
                        Ok(response) => it.received(&response, &mut self.lock(), (self.context)()?),
                        Err((sent, why)) => {
                            it.failed(sent, Some(why), &mut self.lock(), (self.context)()?)
                        }
                    }
                }
                Step::Call(mut it) => {
                    it.effect.headers.apply(application.request.headers_mut());
                    match send(&application.request, it.effect.timeout) {
                        Ok(response) => {
                            application.response = response;
                            let response = &application.response;
                            let (status, headers) = (response.status(), response.headers());
                            it.received(status, headers, &mut self.lock(), (self.context)()?)
                        }
                        Err((sent, why)) => {
                            it.failed(sent, Some(why), &mut self.lock(), (self.context)()?)
                        }
                    }
                }
                Step::Sign(it) => {
                    let signature = self.key.sign(&it.effect).map_err(Cause::new);
                    it.signed(signature, &mut self.lock(), (self.context)()?)
                }
                Step::Wait(it) => {
                    let mut shared = self.wait(it.effect);
                    it.woken(&mut shared, (self.context)()?)
                }
                Step::Lease(it) => {
                    lease = self.storage.lease(&it.effect.name, it.effect.ttl);
                    it.leased(Ok(lease.is_some()), &mut self.lock(), (self.context)()?)
                }
                Step::Load(it) => {
                    let state = self.storage.load(&it.effect.name);
                    it.loaded(Ok(state), &mut self.lock(), (self.context)()?)
                }
                Step::Save(it) => {
                    let saved = self.storage.save(&it.effect.name, lease, &it.effect.state);
                    it.saved(Ok(saved), &mut self.lock(), (self.context)()?)
                }
                Step::Release(it) => {
                    self.storage.release(&it.effect.name, lease.take());
                    it.released(&mut self.lock(), (self.context)()?)
                }
                Step::FetchToken(it) => {
                    let error = Cause::new("the application has no tokens of its own");
                    it.fetched(Err(error), &mut self.lock(), (self.context)()?)
                }
            };
        }
    }

    /// Wakes the tasks that wait, and runs a refresh that is due beside them.
    fn after_step(self: &Arc<Self>) {
        self.changed.notify_all();
        let mut shared = self.lock();
        while shared.next_event().is_some() {} // for a log
        if let Some(refresh) = shared.next_refresh(self.session) {
            let driver = Arc::clone(self);
            thread::spawn(move || driver.run(refresh, &mut Application::default()));
        }
    }

    /// Waits until the time has come, or the generation has moved.
    fn wait(&self, until: Until) -> MutexGuard<'_, Shared> {
        let mut shared = self.lock();
        loop {
            let left = until.time.saturating_since(now());
            let seen = until.unless_generation;
            if left.is_zero() || seen.is_some_and(|seen| seen != shared.generation()) {
                return shared;
            }
            let woken = self.changed.wait_timeout(shared, left);
            shared = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives back what a task holds that ends without a result.
struct Abandon<'a>(&'a Driver, u64);

impl Drop for Abandon<'_> {
    fn drop(&mut self) {
        self.0.lock().abandon(self.1, now());
        self.0.changed.notify_all();
    }
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

/// The stored sessions by name. This one is in memory; a real one is shared by processes.
#[derive(Default)]
pub(crate) struct Storage(Mutex<HashMap<String, Entry>>);

#[derive(Default)]
struct Entry {
    state: Option<SecretBytes>,
    /// The number of the last lease, and its end while somebody holds it.
    last_lease: u64,
    held_until: Option<Instant>,
    /// The lease under which the state was saved.
    saved_by: u64,
}

impl Storage {
    /// Returns the number of the new lease, unless another task holds one.
    fn lease(&self, name: &str, ttl: Duration) -> Option<u64> {
        let now = Instant::now();
        self.with(name, |entry| {
            if entry.held_until.is_some_and(|end| now < end) {
                return None;
            }
            entry.last_lease += 1;
            entry.held_until = Some(now + ttl);
            Some(entry.last_lease)
        })
    }

    fn load(&self, name: &str) -> Option<SecretBytes> {
        self.with(name, |entry| entry.state.clone())
    }

    /// Saves, unless a later lease has saved already. An expired lease alone is no obstacle.
    fn save(&self, name: &str, lease: Option<u64>, state: &SecretBytes) -> bool {
        self.with(name, |entry| match lease {
            Some(lease) if lease >= entry.saved_by => {
                entry.saved_by = lease;
                entry.state = Some(state.clone());
                true
            }
            _ => false,
        })
    }

    fn release(&self, name: &str, lease: Option<u64>) {
        self.with(name, |entry| {
            if lease == Some(entry.last_lease) {
                entry.held_until = None;
            }
        });
    }

    fn with<R>(&self, name: &str, run: impl FnOnce(&mut Entry) -> R) -> R {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        run(entries.entry(name.to_owned()).or_default())
    }
}

/// Sends one request over a new plain-text connection, for servers on loopback. A real transport
/// needs TLS.
fn send(
    request: &Request<impl AsRef<[u8]>>,
    timeout: Duration,
) -> Result<Response<Vec<u8>>, (Sent, Cause)> {
    let stream = connect(request, timeout).map_err(|error| (Sent::No, Cause::new(error)))?;
    exchange(stream, request).map_err(|error| (Sent::Maybe, Cause::new(error)))
}

fn connect<B>(request: &Request<B>, timeout: Duration) -> io::Result<TcpStream> {
    let authority = request.uri().authority().map_or("", |host| host.as_str());
    let mut addresses = authority.to_socket_addrs()?;
    let address = addresses.next().ok_or(io::ErrorKind::NotFound)?;
    let stream = TcpStream::connect_timeout(&address, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    Ok(stream)
}

fn exchange(
    mut stream: TcpStream,
    request: &Request<impl AsRef<[u8]>>,
) -> io::Result<Response<Vec<u8>>> {
    let (uri, body) = (request.uri(), request.body().as_ref());
    let host = uri.authority().map_or("", |host| host.as_str());
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let method = request.method();
    let mut bytes = format!("{method} {path} HTTP/1.0\r\nhost: {host}\r\n").into_bytes();
    for (name, value) in request.headers() {
        bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).into_bytes());
    bytes.extend(body);
    stream.write_all(&bytes)?;

    // The head and one byte more of the body than the core accepts.
    let limit = u64::try_from(MAX_RESPONSE + 16 * 1024).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    stream.take(limit).read_to_end(&mut bytes)?;
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(&bytes).map_err(io::Error::other)? else {
        return Err(io::ErrorKind::UnexpectedEof.into());
    };
    let mut response = Response::builder().status(parsed.code.unwrap_or_default());
    for header in parsed.headers.iter() {
        response = response.header(header.name, header.value);
    }
    let body = bytes.split_off(length);
    response.body(body).map_err(io::Error::other)
}
