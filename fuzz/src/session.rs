//! Runs a whole session by a list of operations against a hostile server.

use std::collections::BTreeSet;
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Uri};
use keybound_core::driver::{
    Admission, NonceGate, PreparedCall, PreparedRequest, RefreshFailure, RequestContext, Role,
    ServerState, SessionState, Step, Ticket, TokenAction, TokenManager, Verdict,
};
use keybound_core::jose::SigningKey;
use keybound_core::{
    Client, ClientAuth, Endpoint, Error, Grant, RefreshPolicy, Sent, SignRequest, Token, UnixTime,
};

/// One event of a session.
#[derive(Arbitrary, Debug)]
enum Operation {
    /// A caller polls for a token, and refreshes it if it gets a ticket.
    Poll,
    /// A caller starts a refresh and crashes with the ticket.
    Crash,
    /// A call with the token, and the responses to it.
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

/// More requests than any operation may send: four attempts after transient failures, each with its
/// corrections.
const MAX_SENDS: usize = 24;

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
    manager: TokenManager,
    gate: NonceGate,
    server_state: ServerState,
    now: UnixTime,
    drawn: u128,
    peers: Vec<Peer>,
    issued: u32,
    token: Option<Token>,
    refused: BTreeSet<String>,
    proofs: BTreeSet<Vec<u8>>,
    /// Tickets of crashed callers, and when they expire.
    abandoned: Vec<(Ticket, UnixTime)>,
}

impl World {
    fn new(peers: Vec<Peer>) -> Self {
        let key = SigningKey::from_jwk(KEY.as_bytes()).expect("a key");
        let endpoint = Endpoint::https("https://as.example/token").expect("an https URL");
        let client = Client::new(endpoint, ClientAuth::none("app").expect("an id"))
            .dpop(key.public().clone());
        let code = Grant::extension("authorization_code").expect("a name");
        Self {
            key,
            client,
            manager: TokenManager::new(RefreshPolicy::default(), Some(code)),
            gate: NonceGate::new(),
            server_state: ServerState::new(),
            now: UnixTime::from_secs(1_700_000_000),
            drawn: 0,
            peers,
            issued: 0,
            token: None,
            refused: BTreeSet::new(),
            proofs: BTreeSet::new(),
            abandoned: Vec::new(),
        }
    }

    fn perform(&mut self, operation: Operation) {
        match operation {
            Operation::Poll => {
                if let Some(ticket) = self.poll() {
                    self.refresh_token(ticket);
                }
            }
            Operation::Crash => {
                if let Some(mut ticket) = self.poll() {
                    let _ = self.manager.begin_refresh(&mut ticket);
                    let expires_at = self.now.saturating_add(self.manager.refresh_timeout());
                    self.abandoned.push((ticket, expires_at));
                }
            }
            Operation::Call { method, peer } => {
                self.peers.splice(0..0, peer);
                self.call(method);
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
    }

    fn poll(&mut self) -> Option<Ticket> {
        match self.manager.poll(self.now) {
            TokenAction::Use(token, ticket) => {
                assert!(
                    !self.refused.contains(token.access_token().expose()),
                    "it was rejected"
                );
                self.token = Some(token);
                ticket
            }
            TokenAction::Refresh(ticket) => Some(ticket),
            TokenAction::WaitUntil(until) | TokenAction::BackOffUntil(until) => {
                assert!(until > self.now);
                None
            }
        }
    }

    fn refresh_token(&mut self, mut ticket: Ticket) {
        let result = match self.manager.begin_refresh(&mut ticket) {
            Some(attempt) => self.request_token(attempt.grant),
            None => Err(RefreshFailure::not_sent()),
        };
        let _ = self.manager.complete(ticket, result, self.now, 0);
    }

    fn request_token(&mut self, grant: Grant) -> Result<Token, RefreshFailure> {
        let mut operation = self.client.token(grant).expect("a request");
        for _ in 0..MAX_SENDS {
            self.now = self.now.saturating_add(operation.delay());
            let context = self.context();
            let signing = operation
                .prepare(&self.server_state, context)
                .expect("a request");
            let PreparedRequest { request, pending } = signing
                .finish(|request| self.sign(request))
                .expect("a signature");
            self.record_proof(request.headers());
            let received = match self.next_response(true) {
                Ok(response) => pending.receive(response, &mut self.server_state, self.now),
                Err(sent) => pending.transport_failed(sent, self.now),
            };
            match received {
                Ok(Step::Done(token)) => return Ok(token),
                Ok(Step::RetryAfter(again)) => operation = again,
                Err(error) => return Err(RefreshFailure::from_error(&error)),
            }
        }
        panic!("the operation never ends");
    }

    fn call(&mut self, method: u8) {
        let Some(token) = self.token.clone() else {
            return;
        };
        if token.key().is_none() {
            return;
        }
        let method = [Method::GET, Method::POST, Method::PUT][usize::from(method) % 3].clone();
        let uri = Uri::from_static("https://rs.example/me");
        let mut call = token.authorize(&method, &uri).expect("a call");
        for _ in 0..MAX_SENDS {
            self.now = self.now.saturating_add(call.delay());
            let Admission::Admitted(permit) = self
                .gate
                .acquire(Role::ResourceServer, &uri)
                .expect("a URL")
            else {
                panic!("no other request is in flight");
            };
            let context = self.context();
            let signing = call.prepare(&self.server_state, context).expect("headers");
            let PreparedCall { headers, pending } = signing
                .finish(|request| self.sign(request))
                .expect("a signature");
            let mut sent = HeaderMap::new();
            headers.apply(&mut sent);
            self.record_proof(&sent);
            let response = match self.next_response(false) {
                Ok(response) => response,
                Err(sent) => {
                    self.gate
                        .release(permit, keybound_core::driver::NonceOutcome::NoResponse);
                    match pending.transport_failed(sent, self.now) {
                        Ok(again) => call = again,
                        Err(_) => return,
                    }
                    continue;
                }
            };
            let (status, headers) = (response.status(), response.headers());
            self.gate
                .release(permit, pending.nonce_outcome(status, headers));
            let verdict = match pending.verdict(status, headers, &mut self.server_state, self.now) {
                Ok(verdict) => verdict,
                // The only possible error: the server accepted no nonce.
                Err(error) => {
                    let Error::Server(refusal) = &error else {
                        panic!("a verdict: {error}")
                    };
                    assert_eq!(refusal.code(), Some("use_dpop_nonce"));
                    return;
                }
            };
            match verdict {
                Verdict::Deliver => return,
                Verdict::TokenRejected => {
                    // The token is older than this call, so another one is requested, unless the
                    // origin rejects every token.
                    if !self.manager.token_rejected(
                        &token,
                        &uri,
                        self.manager.generation(),
                        self.now,
                    ) {
                        return;
                    }
                    // A refresh may return the same access token again; this server never does.
                    self.refused
                        .insert(token.access_token().expose().to_owned());
                    self.token = None;
                    return;
                }
                Verdict::RetryAfter(again) => call = again,
            }
        }
        panic!("the call never ends");
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

    fn restart(&mut self) {
        let manager = std::mem::replace(
            &mut self.manager,
            TokenManager::new(RefreshPolicy::default(), None),
        );
        self.abandoned.clear();
        self.token = None;
        if let Some(stored) = manager.snapshot() {
            let json = stored
                .with_server_state(self.server_state.clone())
                .to_json();
            let stored =
                SessionState::from_json(json.expose(), &self.client, UnixTime::from_secs(0))
                    .expect("serialized state can be parsed");
            self.server_state = stored.server_state().clone();
            // Rejections are not stored: the next process detects them itself.
            self.refused.clear();
            self.manager = TokenManager::new(RefreshPolicy::default(), None).with_state(stored);
        }
    }

    fn context(&mut self) -> RequestContext {
        self.drawn += 1;
        RequestContext::new(self.now, self.drawn.to_be_bytes())
    }

    fn sign(
        &self,
        request: &SignRequest,
    ) -> Result<keybound_core::jose::Signature, keybound_core::Error> {
        self.key.sign(request)
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
