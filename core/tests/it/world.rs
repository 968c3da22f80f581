//! Everything that one test needs: a peer, a clock that moves only when it is waited for, entropy that never
//! repeats, a storage, and the loop that a driver runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use http::{Request, Response, StatusCode};
use keybound_core::driver::{
    Awaiting, Event, FromResponse, PreparedRequest, RequestContext, Retrying, ServerState,
    SessionConfig, SessionId, Shared, Step, Task, Until,
};
use keybound_core::jose::{Algorithm, Signature, SigningKey};
use keybound_core::{
    Call, Cause, Client, ClientAuth, Endpoint, Error, Grant, Issuer, Operation, SecretBytes, Sent,
    SignRequest, Token, UnixTime,
};
use serde_json::Value;

use crate::peer::{ISSUER, Peer, ScriptedResponse};

pub(crate) const TOKEN_URL: &str = "https://as.example/token";
pub(crate) const RESOURCE_URL: &str = "https://rs.example/me?all=1";

/// 2023-11-14T22:13:20Z.
pub(crate) const START: UnixTime = UnixTime::from_secs(1_700_000_000);

pub(crate) struct World {
    pub(crate) peer: Peer,
    pub(crate) key: SigningKey,
    /// The key by which the client authenticates itself, where it does so.
    pub(crate) client_key: Option<SigningKey>,
    pub(crate) shared: Shared,
    pub(crate) now: UnixTime,
    /// Every wait that was not zero.
    pub(crate) waits: Vec<Duration>,
    /// The entropy that was handed out last.
    pub(crate) drawn: u128,
    pub(crate) storage: Storage,
    /// The token response that the application obtains itself.
    pub(crate) own_token: Option<Value>,
    /// Every retry that was reported.
    pub(crate) retries: Vec<Retrying>,
    /// Every other event.
    pub(crate) events: Vec<Event>,
    sessions: Vec<SessionId>,
    /// The status of the last response to a call.
    status: StatusCode,
}

/// The storage of the sessions of this world, which may be those of several processes.
#[derive(Default)]
pub(crate) struct Storage {
    pub(crate) states: BTreeMap<String, Vec<u8>>,
    /// The names whose leases are held, also by processes that are not in this world.
    pub(crate) leased: BTreeSet<String>,
    /// Every state that was saved.
    pub(crate) saved: Vec<Value>,
    /// Whether nothing of it works.
    pub(crate) is_down: bool,
    /// Whether it gives no leases.
    pub(crate) leases_fail: bool,
    /// Whether nothing can be saved.
    pub(crate) is_read_only: bool,
}

/// What became of a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Called {
    Delivered(StatusCode),
    Rejected,
}

impl World {
    pub(crate) fn with(peer: Peer) -> Self {
        Self {
            peer,
            key: SigningKey::generate(Algorithm::Es256).expect("random numbers"),
            client_key: None,
            shared: Shared::new(),
            now: START,
            waits: Vec::new(),
            drawn: 0,
            storage: Storage::default(),
            own_token: None,
            retries: Vec::new(),
            events: Vec::new(),
            sessions: Vec::new(),
            status: StatusCode::OK,
        }
    }

    /// A world in which the peer gives these answers first.
    pub(crate) fn scripted(
        peer: Peer,
        answers: impl IntoIterator<Item = Response<Vec<u8>>>,
    ) -> Self {
        let mut world = Self::with(peer);
        world
            .peer
            .script
            .extend(answers.into_iter().map(ScriptedResponse::Response));
        world
    }

    /// A world in which the first request is lost.
    pub(crate) fn losing(peer: Peer, sent: Sent) -> Self {
        let mut world = Self::with(peer);
        world
            .peer
            .script
            .push_back(ScriptedResponse::NoResponse(sent));
        world
    }

    /// A client of the peer, which wants its tokens bound if the peer binds them.
    pub(crate) fn client(&self) -> Client {
        let client = Client::new(endpoint(TOKEN_URL), ClientAuth::none("app").expect("an id"))
            .revocation_endpoint(endpoint("https://as.example/revoke"))
            .authorization_endpoint(endpoint("https://as.example/authorize"))
            .issuer(Issuer::https(ISSUER).expect("an issuer"));
        if self.peer.bound {
            client.dpop(self.key.public().clone())
        } else {
            client
        }
    }

    pub(crate) fn context(&mut self) -> RequestContext {
        self.drawn += 1;
        RequestContext::new(self.now, self.drawn.to_be_bytes())
    }

    pub(crate) fn token(&mut self, grant: Grant) -> Result<Token, Error> {
        let operation = self.client().token(grant)?;
        self.run(operation)
    }

    /// Runs a task to its end, and the refreshes that it causes.
    pub(crate) fn run<T: Task>(&mut self, task: T) -> Result<T::Output, Error> {
        self.drive(task, &mut Request::new(()))
    }

    fn drive<T: Task>(&mut self, task: T, request: &mut Request<()>) -> Result<T::Output, Error> {
        let context = self.context();
        let mut step = self.shared.start(task, context);
        loop {
            self.look_around();
            step = match step {
                Step::Done(result) => return result,
                step => self.perform_effect(step, request),
            };
        }
    }

    /// Performs one effect of a task that makes no call.
    pub(crate) fn step<T: Task>(&mut self, step: Step<T>) -> Step<T> {
        self.perform_effect(step, &mut Request::new(()))
    }

    /// Collects the events, and runs the refreshes that are due.
    fn look_around(&mut self) {
        while let Some(event) = self.shared.next_event() {
            match event {
                Event::Retrying(retrying) => self.retries.push(retrying),
                event => self.events.push(event),
            }
        }
        for session in self.sessions.clone() {
            while let Some(refresh) = self.shared.next_refresh(session) {
                self.run(refresh).expect("its result is its callers'");
            }
        }
    }

    fn perform_effect<T: Task>(&mut self, step: Step<T>, request: &mut Request<()>) -> Step<T> {
        match step {
            Step::Send(sent) => {
                let answer = self.peer.ask(&sent.effect.request, self.now);
                let context = self.context();
                match answer {
                    ScriptedResponse::Response(response) => {
                        sent.received(&response, &mut self.shared, context)
                    }
                    ScriptedResponse::NoResponse(lost) => {
                        sent.failed(lost, None, &mut self.shared, context)
                    }
                }
            }
            Step::Call(mut call) => {
                call.effect.headers.apply(request.headers_mut());
                let answer = self.peer.call(request, self.now);
                let context = self.context();
                match answer {
                    ScriptedResponse::Response(response) => {
                        self.status = response.status();
                        call.received(
                            response.status(),
                            response.headers(),
                            &mut self.shared,
                            context,
                        )
                    }
                    ScriptedResponse::NoResponse(lost) => {
                        call.failed(lost, None, &mut self.shared, context)
                    }
                }
            }
            Step::Sign(signing) => {
                let signature = self.sign(&signing.effect).map_err(Cause::new);
                let context = self.context();
                signing.signed(signature, &mut self.shared, context)
            }
            Step::Wait(waiting) => {
                self.wait(waiting.effect);
                let context = self.context();
                waiting.woken(&mut self.shared, context)
            }
            step => self.perform_storage(step),
        }
    }

    fn perform_storage<T: Task>(&mut self, step: Step<T>) -> Step<T> {
        let context = self.context();
        let is_down = self.storage.is_down;
        let is_up = || match is_down {
            true => Err(Cause::new("the storage is down")),
            false => Ok(()),
        };
        match step {
            Step::Lease(lease) => {
                let name = lease.effect.name.clone();
                let leased = match self.storage.leases_fail {
                    true => Err(Cause::new("no leases")),
                    false => is_up().map(|()| self.storage.leased.insert(name)),
                };
                lease.leased(leased, &mut self.shared, context)
            }
            Step::Load(load) => {
                let state = self.storage.states.get(&load.effect.name).cloned();
                let state = is_up().map(|()| state.map(SecretBytes::new));
                load.loaded(state, &mut self.shared, context)
            }
            Step::Save(save) => {
                let saved = match is_up() {
                    Ok(()) if self.storage.is_read_only => Err(Cause::new("it is read-only")),
                    Ok(()) => {
                        let state = save.effect.state.expose();
                        let json = serde_json::from_slice(state).expect("JSON");
                        self.storage.saved.push(json);
                        let name = save.effect.name.clone();
                        self.storage.states.insert(name, state.to_vec());
                        Ok(true)
                    }
                    Err(cause) => Err(cause),
                };
                save.saved(saved, &mut self.shared, context)
            }
            Step::Release(release) => {
                self.storage.leased.remove(&release.effect.name);
                release.released(&mut self.shared, context)
            }
            Step::FetchToken(fetch) => {
                let json = self
                    .own_token
                    .as_ref()
                    .map(|json| json.to_string().into_bytes());
                let json = json.map(SecretBytes::new).ok_or_else(|| Cause::new("none"));
                fetch.fetched(json, &mut self.shared, context)
            }
            _ => unreachable!("performed elsewhere"),
        }
    }

    fn wait(&mut self, until: Until) {
        let is_over = until
            .unless_generation
            .is_some_and(|generation| generation != self.shared.generation());
        if !is_over && self.now < until.time {
            self.waits.push(until.time.saturating_since(self.now));
            self.now = until.time;
        }
    }

    pub(crate) fn server_state(&self) -> &ServerState {
        self.shared.server_state()
    }

    /// Opens a session, whose refreshes run beside each task of this world.
    pub(crate) fn open(&mut self, config: SessionConfig) -> SessionId {
        let session = self.shared.open(config, self.now);
        self.sessions.push(session);
        self.look_around();
        session
    }

    pub(crate) fn sleep(&mut self, secs: u64) {
        self.now = self.now.saturating_add(Duration::from_secs(secs));
    }

    /// By whichever key is asked for.
    pub(crate) fn sign(&self, request: &SignRequest) -> Result<Signature, Error> {
        let client_key = self
            .client_key
            .as_ref()
            .filter(|key| key.public().is_same_key(request.key()));
        client_key.unwrap_or(&self.key).sign(request)
    }

    pub(crate) fn call(&mut self, token: &Token, uri: &str) -> Called {
        let request = Request::get(uri).body(()).expect("a request");
        let call = token
            .authorize(request.method(), request.uri())
            .expect("a call");
        self.perform(call, request).expect("an answer")
    }

    /// Sends a request for as long as its call goes on.
    pub(crate) fn perform(
        &mut self,
        call: Call,
        mut request: Request<()>,
    ) -> Result<Called, Error> {
        let delivered = self.drive(call, &mut request)?;
        Ok(match delivered.token_rejected {
            true => Called::Rejected,
            false => Called::Delivered(self.status),
        })
    }

    /// The nonce of each proof that the peer has seen.
    pub(crate) fn nonces_seen(&self) -> Vec<Option<&str>> {
        self.peer
            .requests
            .iter()
            .map(|request| request.nonce.as_deref())
            .collect()
    }
}

/// The step of a task that is a request to an authorization server.
pub(crate) fn sent<T: Task>(step: Step<T>) -> Awaiting<Box<PreparedRequest>, T> {
    match step {
        Step::Send(sent) => sent,
        _ => panic!("it is another step"),
    }
}

/// The first request of an operation that proves no key.
pub(crate) fn outgoing<T: FromResponse>(operation: Operation<T>) -> PreparedRequest {
    *sent(Shared::new().start(operation, context())).effect
}

/// What a first response leads to: the result, or a retry after this delay.
#[derive(Debug)]
pub(crate) enum Answered<T> {
    Done(T),
    Again(Duration),
}

pub(crate) fn answered<T: FromResponse>(
    operation: Operation<T>,
    response: Response<Vec<u8>>,
) -> Result<Answered<T>, Error> {
    let mut shared = Shared::new();
    let sent = sent(shared.start(operation, context()));
    match sent.received(&response, &mut shared, context()) {
        Step::Done(result) => result.map(Answered::Done),
        Step::Wait(waiting) => Ok(Answered::Again(waiting.effect.time.saturating_since(START))),
        _ => Ok(Answered::Again(Duration::ZERO)),
    }
}

/// What an operation results in that gets this response for ever.
pub(crate) fn always_answered<T: FromResponse>(
    operation: Operation<T>,
    response: &Response<Vec<u8>>,
) -> Result<T, Error> {
    let mut shared = Shared::new();
    let mut step = shared.start(operation, context());
    loop {
        step = match step {
            Step::Send(sent) => sent.received(response, &mut shared, context()),
            Step::Wait(waiting) => waiting.woken(&mut shared, context()),
            Step::Done(result) => return result,
            _ => panic!("it proves no key"),
        };
    }
}

/// How long a task waits before its first request.
pub(crate) fn first_wait<T: Task>(task: T) -> Duration {
    match Shared::new().start(task, context()) {
        Step::Wait(waiting) => waiting.effect.time.saturating_since(START),
        _ => Duration::ZERO,
    }
}

fn context() -> RequestContext {
    RequestContext::new(START, [0; 16])
}

pub(crate) fn endpoint(url: &str) -> Endpoint {
    Endpoint::https(url).expect("an https URL")
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
