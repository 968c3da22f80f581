//! Runs a whole session by a list of operations against a hostile server.

use std::collections::BTreeSet;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use keybound_core::driver::{
    RequestContext, SessionConfig, SessionId, SessionState, Shared, Step, Task,
};
use keybound_core::jose::SigningKey;
use keybound_core::{
    Cause, Client, ClientAuth, Endpoint, Error, Grant, SecretBytes, Sent, UnixTime,
};

use crate::assert_loggable;

/// One event of a session.
#[derive(Arbitrary, Debug)]
enum Operation {
    /// A caller gets a token.
    Poll,
    /// A refresh, if one is due, is dropped when it has sent its request.
    Crash,
    /// A call of the session, and the responses to it.
    Call {
        method: u8,
        peer: Vec<Peer>,
    },
    /// The clock advances, or is set back.
    Later(u32),
    Earlier(u16),
    /// The process restarts with the stored state.
    Restart,
}

/// The server's reaction to one request.
#[derive(Arbitrary, Clone, Debug)]
enum Peer {
    Token {
        life: u16,
        refresh: bool,
        bound: bool,
        nonce: Option<u8>,
    },
    ErrorResponse {
        status: u8,
        nonce: Option<u8>,
        code: u8,
        retry_after: Option<u16>,
        date: Option<u32>,
    },
    NoResponse {
        sent: bool,
    },
    Garbage(Vec<u8>),
}

const CODES: [&str; 8] = [
    "use_dpop_nonce",
    "invalid_dpop_proof",
    "invalid_token",
    "invalid_grant",
    "invalid_client",
    "temporarily_unavailable",
    "insufficient_scope",
    "",
];
const STATUSES: [u16; 12] = [200, 201, 302, 400, 401, 403, 404, 429, 500, 502, 503, 504];

/// More requests than any operation or call may send: four attempts after transient failures, each
/// with its corrections, and for a call once more with another token.
const MAX_SENDS: usize = 48;

/// More steps than any task may have. The longest one waits for a lease, every 50 ms for 30 s.
const MAX_STEPS: usize = 4_000;

pub fn session(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(peers) = Vec::<Peer>::arbitrary(&mut input) else {
        return;
    };
    let Ok(operations) = Vec::<Operation>::arbitrary(&mut input) else {
        return;
    };
    let mut world = World::new(peers);
    for operation in operations.into_iter().take(64) {
        world.perform(operation);
    }
}

struct World {
    key: SigningKey,
    client: Client,
    shared: Shared,
    session: SessionId,
    storage: Storage,
    now: UnixTime,
    drawn: u128,
    peers: Vec<Peer>,
    issued: u32,
    /// Whether the driver notices the next crash.
    notices_crash: bool,
    /// The tokens that the session gave up because the resource server rejected them.
    refused: BTreeSet<String>,
    proofs: BTreeSet<Vec<u8>>,
}

/// The storage of the session, which outlives its process.
#[derive(Default)]
struct Storage {
    state: Option<SecretBytes>,
    last_lease: u64,
    held_until: Option<UnixTime>,
}

impl World {
    fn new(peers: Vec<Peer>) -> Self {
        let key = SigningKey::from_jwk(KEY.as_bytes()).expect("a key");
        let endpoint = Endpoint::https("https://as.example/token").expect("an https URL");
        let client = Client::new(endpoint, ClientAuth::none("app").expect("an id"))
            .dpop(key.public().clone());
        let code = Grant::extension("authorization_code").expect("a name");
        let now = UnixTime::from_secs(1_700_000_000);
        let mut shared = Shared::new();
        let config = SessionConfig::new(client.clone()).stored_as("fuzz");
        let session = shared.open(config.grant(code), now);
        Self {
            key,
            client,
            shared,
            session,
            storage: Storage::default(),
            now,
            drawn: 0,
            peers,
            issued: 0,
            notices_crash: false,
            refused: BTreeSet::new(),
            proofs: BTreeSet::new(),
        }
    }

    fn perform(&mut self, operation: Operation) {
        match operation {
            Operation::Poll => {
                let task = self.session.token(Duration::from_secs(30));
                if let Ok(token) = self.run(task) {
                    self.assert_not_refused(token.access_token().expose());
                }
            }
            Operation::Crash => self.crash(),
            Operation::Call { method, peer } => {
                self.peers.splice(0..0, peer);
                let method =
                    [Method::GET, Method::POST, Method::PUT][usize::from(method) % 3].clone();
                let uri = Uri::from_static("https://rs.example/me");
                let call = self.session.call(&method, &uri).expect("a call");
                let _ = self.run(call);
            }
            Operation::Later(millis) => {
                self.now = self
                    .now
                    .saturating_add(Duration::from_millis(millis.into()));
            }
            Operation::Earlier(seconds) => {
                self.now = self.now.saturating_sub(Duration::from_secs(seconds.into()));
            }
            Operation::Restart => self.restart(),
        }
        assert!(
            self.shared.next_refresh(self.session).is_none(),
            "it was run"
        );
    }

    /// Runs a task, and the refreshes that become due with it. Returns its result.
    fn run<T: Task>(&mut self, task: T) -> Result<T::Output, Error> {
        let context = self.context();
        let mut step = self.shared.start(task, context);
        let (mut lease, mut sends) = (0, 0);
        for _ in 0..MAX_STEPS {
            if let Some(refresh) = self.shared.next_refresh(self.session) {
                let _ = self.run(refresh);
            }
            while self.shared.next_event().is_some() {}
            sends += usize::from(matches!(step, Step::Send(_) | Step::Call(_)));
            assert!(sends <= MAX_SENDS, "the task sends without end");
            step = match step {
                Step::Done(result) => {
                    return result.inspect_err(assert_loggable);
                }
                step => self.advance(step, &mut lease),
            };
        }
        panic!("the task never ends");
    }

    /// Performs an effect.
    fn advance<T: Task>(&mut self, step: Step<T>, lease: &mut u64) -> Step<T> {
        let context = self.context();
        match step {
            Step::Send(it) => {
                self.record_proof(it.effect.request.headers());
                match self.next_response(true) {
                    Ok(response) => it.received(&response, &mut self.shared, context),
                    Err(sent) => it.failed(sent, None, &mut self.shared, context),
                }
            }
            Step::Call(mut it) => {
                let mut headers = HeaderMap::new();
                it.effect.headers.apply(&mut headers);
                self.record_proof(&headers);
                let authorization = headers.get("authorization").expect("a token").to_str();
                let (_, token) = authorization
                    .ok()
                    .and_then(|value| value.split_once(' '))
                    .expect("a token");
                self.assert_not_refused(token);
                let is_cached = |world: &Self| {
                    let view = world.shared.view(world.session, world.now);
                    view.is_some_and(|(_, cached, _)| cached.access_token().expose() == token)
                };
                let was_cached = is_cached(self);
                let step = match self.next_response(false) {
                    Ok(response) => {
                        let (status, headers) = (response.status(), response.headers());
                        it.received(status, headers, &mut self.shared, context)
                    }
                    Err(sent) => it.failed(sent, None, &mut self.shared, context),
                };
                if was_cached && !is_cached(self) {
                    self.refused.insert(token.to_owned());
                }
                step
            }
            Step::Sign(it) => {
                let signature = self.key.sign(&it.effect).map_err(Cause::new);
                it.signed(signature, &mut self.shared, context)
            }
            Step::Wait(it) => {
                let seen = it.effect.unless_generation;
                if seen.is_none_or(|seen| seen == self.shared.generation()) {
                    assert!(it.effect.time > self.now, "it waits for nothing");
                    self.now = it.effect.time;
                }
                let context = self.context();
                it.woken(&mut self.shared, context)
            }
            Step::Lease(it) => {
                let is_free = self.storage.held_until.is_none_or(|end| end <= self.now);
                if is_free {
                    self.storage.last_lease += 1;
                    self.storage.held_until = Some(self.now.saturating_add(it.effect.ttl));
                    *lease = self.storage.last_lease;
                }
                it.leased(Ok(is_free), &mut self.shared, context)
            }
            Step::Load(it) => {
                let state = self.storage.state.clone();
                it.loaded(Ok(state), &mut self.shared, context)
            }
            Step::Save(it) => {
                let state = it.effect.state.expose();
                let parsed = SessionState::from_json(state, &self.client, UnixTime::from_secs(0))
                    .expect("serialized state can be parsed");
                assert_eq!(parsed.to_json().expose(), state);
                let is_latest = *lease == self.storage.last_lease;
                if is_latest {
                    self.storage.state = Some(it.effect.state.clone());
                }
                it.saved(Ok(is_latest), &mut self.shared, context)
            }
            Step::Release(it) => {
                if *lease == self.storage.last_lease {
                    self.storage.held_until = None;
                }
                it.released(&mut self.shared, context)
            }
            Step::FetchToken(_) | Step::Done(_) => panic!("the session requests its tokens"),
        }
    }

    /// Drops a refresh after it has sent its request. Only every second time its driver notices.
    fn crash(&mut self) {
        let context = self.context();
        let caller = self
            .shared
            .start(self.session.token(Duration::ZERO), context);
        if let Some(refresh) = self.shared.next_refresh(self.session) {
            let context = self.context();
            let mut step = self.shared.start(refresh, context);
            let (id, mut lease) = (step.id(), 0);
            for _ in 0..MAX_STEPS {
                if matches!(step, Step::Send(_) | Step::Done(_)) {
                    break;
                }
                step = self.advance(step, &mut lease);
            }
            if let Some(id) = id.filter(|_| self.notices_crash) {
                self.shared.abandon(id, self.now);
            }
            self.notices_crash = !self.notices_crash;
        }
        if let Some(id) = caller.id() {
            self.shared.abandon(id, self.now);
        }
    }

    fn restart(&mut self) {
        self.shared = Shared::new();
        let config = SessionConfig::new(self.client.clone()).stored_as("fuzz");
        self.session = self.shared.open(config, self.now);
        // Rejections are not stored: the next process detects them itself.
        self.refused.clear();
    }

    fn assert_not_refused(&self, token: &str) {
        assert!(!self.refused.contains(token), "it was rejected");
    }

    /// Returns the server's response to the next request, or an error if none comes.
    fn next_response(&mut self, is_token_request: bool) -> Result<Response<Vec<u8>>, Sent> {
        let peer = if self.peers.is_empty() {
            None
        } else {
            Some(self.peers.remove(0))
        };
        let mut response = Response::new(Vec::new());
        match peer {
            Some(Peer::NoResponse { sent }) => {
                return Err(if sent { Sent::Maybe } else { Sent::No });
            }
            Some(Peer::Garbage(body)) => *response.body_mut() = body,
            Some(Peer::ErrorResponse {
                status,
                nonce,
                code,
                retry_after,
                date,
            }) => {
                let status = STATUSES[usize::from(status) % STATUSES.len()];
                *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
                let code = CODES[usize::from(code) % CODES.len()];
                *response.body_mut() = format!(r#"{{"error":"{code}"}}"#).into_bytes();
                let headers = response.headers_mut();
                insert(
                    headers,
                    "www-authenticate",
                    Some(format!(r#"DPoP error="{code}""#)),
                );
                insert(
                    headers,
                    "dpop-nonce",
                    nonce.map(|nonce| format!("n{nonce}")),
                );
                insert(
                    headers,
                    "retry-after",
                    retry_after.map(|seconds| seconds.to_string()),
                );
                insert(
                    headers,
                    "date",
                    date.map(|at| {
                        format!(
                            "Tue, 14 Nov 2023 {:02}:{:02}:{:02} GMT",
                            at % 24,
                            at / 24 % 60,
                            at / 1440 % 60
                        )
                    }),
                );
            }
            Some(Peer::Token {
                life,
                refresh,
                bound,
                nonce,
            }) if is_token_request => {
                self.issued += 1;
                let number = self.issued;
                let refresh = if refresh {
                    format!(r#","refresh_token":"r{number}""#)
                } else {
                    String::new()
                };
                let kind = if bound { "DPoP" } else { "Bearer" };
                *response.body_mut() = format!(
                    r#"{{"access_token":"t{number}","token_type":"{kind}","expires_in":{life}{refresh}}}"#
                )
                .into_bytes();
                insert(
                    response.headers_mut(),
                    "dpop-nonce",
                    nonce.map(|nonce| format!("n{nonce}")),
                );
            }
            Some(Peer::Token { .. }) | None => {}
        }
        Ok(response)
    }

    fn context(&mut self) -> RequestContext {
        self.drawn += 1;
        RequestContext::new(self.now, self.drawn.to_be_bytes())
    }

    /// Records a proof, and asserts that no proof is sent twice.
    fn record_proof(&mut self, headers: &HeaderMap) {
        let proof = headers.get("dpop").expect("each request has a proof");
        assert!(
            self.proofs.insert(proof.as_bytes().to_vec()),
            "a proof was sent twice"
        );
    }
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: Option<String>) {
    if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
        headers.insert(name, value);
    }
}

/// The example key of RFC 7517 §A.2, which is public.
const KEY: &str = r#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","d":"870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE"}"#;
