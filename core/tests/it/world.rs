//! Everything that one test needs: a peer, a clock that moves only when it is waited for, entropy that never
//! repeats, and the loop that a driver runs.

use std::time::Duration;

use http::{Request, Response, StatusCode};
use keybound_core::driver::{
    PreparedCall, PreparedRequest, RequestContext, ResourceCall, ServerState, Signing, Step,
    Verdict,
};
use keybound_core::jose::{Algorithm, Signature, SigningKey};
use keybound_core::{
    Client, ClientAuth, Endpoint, Error, Grant, Issuer, Operation, Sent, SignRequest, Token,
    UnixTime,
};

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
    pub(crate) server_state: ServerState,
    pub(crate) now: UnixTime,
    /// Every wait that was not zero.
    pub(crate) waits: Vec<Duration>,
    /// The entropy that was handed out last.
    pub(crate) drawn: u128,
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
            server_state: ServerState::new(),
            now: START,
            waits: Vec::new(),
            drawn: 0,
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

    pub(crate) fn run<T>(&mut self, mut operation: Operation<T>) -> Result<T, Error> {
        loop {
            if !operation.delay().is_zero() {
                self.waits.push(operation.delay());
                self.now = self.now.saturating_add(operation.delay());
            }
            let context = self.context();
            let signing = operation.prepare(&self.server_state, context)?;
            let PreparedRequest { request, pending } =
                signing.finish(|request| self.sign(request))?;
            let received = match self.peer.ask(&request, self.now) {
                ScriptedResponse::Response(response) => {
                    pending.receive(response, &mut self.server_state, self.now)?
                }
                ScriptedResponse::NoResponse(sent) => pending.transport_failed(sent, self.now)?,
            };
            match received {
                Step::Done(done) => return Ok(done),
                Step::RetryAfter(next) => operation = next,
            }
        }
    }

    /// By whichever key is asked for.
    fn sign(&self, request: &SignRequest) -> Result<Signature, Error> {
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
        mut call: ResourceCall,
        mut request: Request<()>,
    ) -> Result<Called, Error> {
        loop {
            if !call.delay().is_zero() {
                self.waits.push(call.delay());
                self.now = self.now.saturating_add(call.delay());
            }
            let context = self.context();
            let signing = call.prepare(&self.server_state, context)?;
            let PreparedCall { headers, pending } =
                signing.finish(|request| self.key.sign(request))?;
            headers.apply(request.headers_mut());
            let response = match self.peer.call(&request, self.now) {
                ScriptedResponse::Response(response) => response,
                ScriptedResponse::NoResponse(sent) => {
                    call = pending.transport_failed(sent, self.now)?;
                    continue;
                }
            };
            match pending.verdict(
                response.status(),
                response.headers(),
                &mut self.server_state,
                self.now,
            )? {
                Verdict::Deliver => return Ok(Called::Delivered(response.status())),
                Verdict::TokenRejected => return Ok(Called::Rejected),
                Verdict::RetryAfter(next) => call = next,
            }
        }
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

/// The first request of an exchange that proves no key, and what will read its response.
pub(crate) fn outgoing<T>(operation: Operation<T>) -> PreparedRequest<T> {
    match operation.prepare(&ServerState::new(), RequestContext::new(START, [0; 16])) {
        Ok(Signing::Ready(outgoing)) => outgoing,
        other => panic!("{:?}", other.err()),
    }
}

/// What a first response leads to.
pub(crate) fn answered<T>(
    operation: Operation<T>,
    response: Response<Vec<u8>>,
) -> Result<Step<T>, Error> {
    outgoing(operation)
        .pending
        .receive(response, &mut ServerState::new(), START)
}

pub(crate) fn endpoint(url: &str) -> Endpoint {
    Endpoint::https(url).expect("an https URL")
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
