//! The one shape of every exchange with an authorization server: prepare, send, receive, perhaps again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};

use crate::client_assertion::{ASSERTION_TYPE, ClientAssertion};
use crate::client_auth::ClientAuth;
use crate::dpop::{Corrections, DPOP, Objection, Occasion, Said, sensitive};
use crate::endpoint::{Endpoint, Target, server_at};
use crate::error::{BadResponse, Envelope, Error, Lost, Misuse, Sent, ServerError, Unread, WhyBad};
use crate::jose::PublicJwk;
use crate::origins::{Origins, Role};
use crate::secret::{Body, Secret};
use crate::signing::{Assemble, SignRequest, Signing, Unsigned, sealed::Sealed};
use crate::time::{Ambient, UnixTime};
use crate::tries::{Repeat, Tries, seed};
use crate::wire::challenge::{self, Challenge};
use crate::wire::fields::{BodyFormat, Fields};
use crate::wire::json::{Text, without_mark};
use crate::wire::refusal::{self, Secrets, content_coding};

/// The longest response body that is read: 256 KiB. A driver need not read beyond one byte more.
pub const MAX_RESPONSE: usize = 256 * 1024;

/// An exchange that will end in a `T`, before its next request.
///
/// ```text
/// Exchange ──prepare──▶ Signing ──finish──▶ Outgoing { request, pending }
///    ▲                                                         │
///    │                                        receive(response) or lost(sent)
///    └───────────── Received::Again ◀──────────────────────────┤
///                   Received::Done(T) ◀────────────────────────┘
/// ```
///
/// A nonce, a `Retry-After`, a back-off after a lost connection: all are `Again`, with a [`wait`](Self::wait)
/// that may be zero. Each [`prepare`](Self::prepare) takes fresh time and entropy, so nothing is sent twice
/// with one `jti`.
#[must_use = "an exchange does nothing until it is prepared and sent"]
pub struct Exchange<T> {
    ask: Ask,
    read: Read<T>,
    tries: Tries,
    /// How fast it may ask, whatever fails meanwhile.
    pace: Duration,
    go_on: GoOn,
    corrections: Corrections,
}

/// Makes the `T` of a success.
pub(crate) type Read<T> = Box<dyn Fn(&Success<'_>) -> Result<T, Unread> + Send + Sync>;

/// Says how long to wait before asking again, where a setback isn't the end, and may change what is asked.
pub(crate) type GoOn = Box<dyn FnMut(Setback<'_>, &mut Ask, UnixTime) -> Option<Duration> + Send + Sync>;

/// Why an answer isn't what was asked for.
pub(crate) enum Setback<'a> {
    Refusal(&'a ServerError),
    Unreadable(&'a WhyBad),
}

/// A response with a 2xx status.
pub(crate) struct Success<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a Text<'a>,
    pub(crate) now: UnixTime,
}

/// What is asked, and what may be done to ask it again.
pub(crate) struct Ask {
    pub(crate) endpoint: Endpoint,
    /// Without it this is a GET, which proves nothing and authenticates nobody.
    pub(crate) post: Option<Post>,
    pub(crate) repeat: Repeat,
}

/// What a client posts.
pub(crate) struct Post {
    settings: Arc<Settings>,
    fields: Fields,
    /// The key that proves itself with the request.
    key: Option<PublicJwk>,
    /// What authenticates the client, where that must be signed.
    assertion: Option<ClientAssertion>,
}

/// What all requests of one client share.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) auth: ClientAuth,
    pub(crate) format: BodyFormat,
    pub(crate) headers: HeaderMap,
    pub(crate) params: Fields,
}

impl<T> Exchange<T> {
    pub(crate) fn new(
        ask: Ask,
        read: impl Fn(&Success<'_>) -> Result<T, Unread> + Send + Sync + 'static,
    ) -> Self {
        Self {
            ask,
            read: Box::new(read),
            tries: Tries::default(),
            pace: Duration::ZERO,
            go_on: Box::new(|_, _, _| None),
            corrections: Corrections::default(),
        }
    }

    /// Not to be sent before so long.
    pub(crate) fn after(mut self, wait: Duration) -> Self {
        self.tries.go_on(wait);
        self.pace = wait;
        self
    }

    /// What to do about setbacks that aren't the end.
    pub(crate) fn going_on(
        mut self,
        go_on: impl FnMut(Setback<'_>, &mut Ask, UnixTime) -> Option<Duration> + Send + Sync + 'static,
    ) -> Self {
        self.go_on = Box::new(go_on);
        self
    }

    /// How long the whole exchange may take, counted from its first request: no wait is begun that would
    /// end later. 30 s unless set.
    pub fn within(mut self, budget: Duration) -> Self {
        self.tries.within(budget);
        self
    }

    /// How often the request may fail in passing until that is the result. Proofs that are made anew on the
    /// server's wish don't count. 4 unless set.
    pub fn at_most(mut self, sends: u8) -> Self {
        self.tries.at_most(sends);
        self
    }

    /// How long to wait before the next request goes out. Zero at first, and after a refused proof.
    pub fn wait(&self) -> Duration {
        self.tries.wait()
    }

    /// Makes the next request, which may first have to be signed.
    ///
    /// # Errors
    /// `Misuse` if what was given to build it contradicts itself.
    pub fn prepare(mut self, origins: &Origins, ambient: Ambient) -> Result<Signing<Outgoing<T>>, Error> {
        self.tries.begin(ambient.now);
        let seed = seed(&ambient);
        let Some(post) = &self.ask.post else {
            let request = self.ask.request(None)?;
            let pending = Pending { exchange: self, said: None, asserted_at: None, assertion: None, seed };
            return Ok(Signing::Ready(Outgoing { request, pending }));
        };
        let (role, target) = (Role::AuthorizationServer, Target::of(self.ask.endpoint.uri())?);
        let assertion = post.assertion.as_ref().map(|assertion| {
            let clock = origins.known(role, &target).map(|known| known.clock).unwrap_or_default();
            let iat = clock.show(ambient.now);
            (assertion.sign_request(iat, &ambient.entropy), iat)
        });
        let (assertion, asserted_at) = assertion.unzip();
        let occasion = Occasion { role, method: &Method::POST, target, ath: None };
        let proof = post.key.as_ref().map(|key| occasion.prove(key, origins, ambient));
        let (proof, said) = proof.unzip();
        let pending = Pending { exchange: self, said, asserted_at, assertion: None, seed };
        match assertion {
            Some(assertion) => {
                Ok(Signing::Needs(Unsigned::new(assertion, Draft::Unauthenticated { pending, proof })))
            }
            None => pending.authenticated(proof),
        }
    }

    /// Goes on after an answer that was to be expected. The wait is the server's wish, and costs nothing of the budget.
    fn next(mut self, wait: Duration) -> Self {
        self.tries.go_on(wait);
        self.pace = wait;
        self.corrections = Corrections::default();
        self
    }

    /// Goes on after a failure that may pass, if there is time and a try left for it.
    fn again(
        mut self,
        error: Error,
        asked: Option<Duration>,
        now: UnixTime,
        seed: u64,
    ) -> Result<Received<T>, Error> {
        if !self.tries.again(asked, self.pace, now, seed) {
            return Err(error);
        }
        // What the server knew before the pause, it may have forgotten: its nonce, for one.
        self.corrections = Corrections::default();
        Ok(Received::Again(self))
    }
}

impl<T> fmt::Debug for Exchange<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("endpoint", &self.ask.endpoint)
            .field("fields", &self.ask.post.as_ref().map(|post| &post.fields))
            .field("tries", &self.tries)
            .finish_non_exhaustive()
    }
}

impl Ask {
    fn request(&self, assertion: Option<&Secret>) -> Result<Request<Body>, Misuse> {
        let mut request = Request::new(Body::new(Vec::new()));
        *request.uri_mut() = self.endpoint.uri().clone();
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        // Without it any coding would be allowed (RFC 9110 §12.5.3), and none is decoded here.
        request.headers_mut().insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(post) = &self.post {
            post.write(assertion, &mut request)?;
        }
        Ok(request)
    }

    /// How errors name whoever was asked; a document has a place as well. A query might hold what is secret.
    fn server(&self) -> String {
        let mut server = server_at(self.endpoint.uri());
        if self.post.is_none() {
            server.push_str(self.endpoint.uri().path());
        }
        server
    }

    fn secrets(&self, assertion: Option<&Secret>) -> Secrets {
        let assertion = assertion.map(Secret::expose);
        self.post.iter().flat_map(Post::secrets).chain(assertion).collect()
    }
}

impl Post {
    /// `audience` is the server's own name, as it stands in assertions.
    pub(crate) fn new(
        settings: &Arc<Settings>,
        fields: Fields,
        key: Option<PublicJwk>,
        audience: &str,
    ) -> Self {
        Self { settings: Arc::clone(settings), fields, key, assertion: settings.auth.assertion(audience) }
    }

    fn write(&self, assertion: Option<&Secret>, request: &mut Request<Body>) -> Result<(), Misuse> {
        let Settings { auth, format, headers, params } = &*self.settings;
        let mut fields = self.fields.clone();
        fields.append(params)?;
        auth.add_fields(&mut fields)?;
        if let Some(assertion) = assertion {
            fields.push("client_assertion_type", ASSERTION_TYPE)?;
            fields.push("client_assertion", assertion.clone())?;
        }

        *request.method_mut() = Method::POST;
        *request.body_mut() = fields.encode(*format);
        let sent = request.headers_mut();
        sent.extend(headers.clone());
        sent.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
        if let Some(authorization) = auth.header() {
            sent.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(())
    }

    fn secrets(&self) -> impl Iterator<Item = &str> {
        let Settings { auth, headers, params, .. } = &*self.settings;
        let headers = headers.values().filter(|value| value.is_sensitive());
        let headers = headers.filter_map(|value| value.to_str().ok());
        self.fields.secrets().chain(params.secrets()).chain(auth.secrets()).chain(headers)
    }
}

/// Adds a header that every request is to carry.
pub(crate) fn add_header(headers: &mut HeaderMap, name: &str, value: &str) -> Result<(), Misuse> {
    let misuse = |rule| Misuse::new("header", rule);
    let name = HeaderName::try_from(name).map_err(|_| misuse("must have a valid name"))?;
    let mut value =
        HeaderValue::try_from(value).map_err(|_| misuse("must have a value without control characters"))?;
    if matches!(
        name.as_str(),
        "accept"
            | "accept-encoding"
            | "authorization"
            | "connection"
            | "content-length"
            | "content-type"
            | "dpop"
            | "host"
            | "transfer-encoding"
    ) {
        return Err(misuse("must not be one that the request has by itself"));
    }
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

/// A request, and what will read its response.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct Outgoing<T> {
    /// To be sent as it is, redirections not followed.
    pub request: Request<Body>,
    /// To be given the response, or told that none came.
    pub pending: Pending<T>,
}

impl<T> Sealed for Outgoing<T> {}

impl<T> Assemble for Outgoing<T> {
    type Draft = Draft<T>;

    fn assemble(draft: Draft<T>, jws: Vec<u8>) -> Result<Signing<Self>, Error> {
        match draft {
            Draft::Unauthenticated { mut pending, proof } => {
                // It is all base64url and dots.
                pending.assertion = Some(Secret::new(String::from_utf8(jws).unwrap_or_default()));
                pending.authenticated(proof)
            }
            Draft::Unproven(mut outgoing) => {
                outgoing.request.headers_mut().insert(DPOP, sensitive(jws));
                Ok(Signing::Ready(outgoing))
            }
        }
    }
}

/// A request that lacks a signature.
#[expect(unnameable_types, reason = "`Assemble` is sealed")]
#[allow(clippy::large_enum_variant, reason = "it is moved, and a box would cost more")]
#[derive(Debug)]
pub enum Draft<T> {
    /// The client's assertion, which is part of the body; a proof may be needed next.
    #[doc(hidden)]
    Unauthenticated { pending: Pending<T>, proof: Option<SignRequest> },
    /// The proof.
    #[doc(hidden)]
    Unproven(Outgoing<T>),
}

/// An exchange whose request is under way.
#[must_use]
#[derive(Debug)]
pub struct Pending<T> {
    exchange: Exchange<T>,
    /// What the request's proof says.
    said: Option<Said>,
    /// What authenticates the client in it, and the time that it says.
    assertion: Option<Secret>,
    asserted_at: Option<UnixTime>,
    /// Random, for the pause that may follow.
    seed: u64,
}

/// What a response leads to.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
#[allow(clippy::large_enum_variant, reason = "it is moved once, and a box would cost more; small on wasm32")]
pub enum Received<T> {
    /// It is what was asked for.
    Done(T),
    /// The exchange goes on: wait for [`Exchange::wait`], and prepare the next request.
    Again(Exchange<T>),
}

impl<T> Pending<T> {
    /// The request, whose proof may still have to be signed.
    fn authenticated(self, proof: Option<SignRequest>) -> Result<Signing<Outgoing<T>>, Error> {
        let request = self.exchange.ask.request(self.assertion.as_ref())?;
        let outgoing = Outgoing { request, pending: self };
        Ok(match proof {
            Some(proof) => Signing::Needs(Unsigned::new(proof, Draft::Unproven(outgoing))),
            None => Signing::Ready(outgoing),
        })
    }

    /// How long a driver should wait for the response: until the time for the whole exchange is over, waits that were
    /// the server's wish not counted.
    pub fn time_left(&self, now: UnixTime) -> Duration {
        self.exchange.tries.time_left(now)
    }

    /// Takes the response, whatever its status, with all its headers. `now` is when it came.
    ///
    /// # Errors
    /// `Server` for a refusal that nothing can be done about here, `Response` for a success that isn't one.
    pub fn receive<B: AsRef<[u8]>>(
        self,
        response: Response<B>,
        origins: &mut Origins,
        now: UnixTime,
    ) -> Result<Received<T>, Error> {
        let Self { mut exchange, said, assertion, asserted_at, seed } = self;
        let (status, headers) = (response.status(), response.headers());
        let mut body = without_mark(response.body().as_ref());
        let uri = exchange.ask.endpoint.uri().clone();
        let (role, target) = (Role::AuthorizationServer, Target::of(&uri)?);
        // Whoever serves a document need not be the one that takes proofs.
        if exchange.ask.post.is_some() {
            origins.hear(role, &target, headers, now);
        }
        let is_too_large = body.len() > MAX_RESPONSE;
        let unread = if status.is_redirection() {
            Unread::Bad(WhyBad::Redirect)
        } else if !status.is_success() {
            Unread::Refusal
        } else if is_too_large {
            Unread::Bad(WhyBad::TooLarge)
        } else {
            match (exchange.read)(&Success { headers, body: &Text::of(body), now }) {
                Ok(done) => return Ok(Received::Done(done)),
                Err(unread) => unread,
            }
        };
        let secrets = exchange.ask.secrets(assertion.as_ref());
        let server = exchange.ask.server();
        if let Unread::Bad(why) = unread {
            if let Some(wait) = (exchange.go_on)(Setback::Unreadable(&why), &mut exchange.ask, now) {
                return Ok(Received::Again(exchange.next(wait)));
            }
            let why = match (why, content_coding(headers)) {
                (WhyBad::NotJson { .. }, Some(coding)) => WhyBad::Encoded(secrets.tidy(&coding)),
                (why, _) => why,
            };
            return Err(BadResponse { envelope: Envelope::of(server, status, headers, &secrets), why }.into());
        }
        if is_too_large {
            // Some gateway's page. The status and the headers are still good.
            body = &[];
        }
        let refusal = refusal::read(server, status, headers, body, &secrets, now);
        // First of all: what a flow has its own answer to, some say with the status of a failure that passes (Auth0's 429
        // for `slow_down`).
        if let Some(wait) = (exchange.go_on)(Setback::Refusal(&refusal), &mut exchange.ask, now) {
            return Ok(Received::Again(exchange.next(wait)));
        }
        let asked = refusal.retry_after();
        if exchange.ask.repeat.after(status, asked) {
            return exchange.again(refusal.into(), asked, now, seed);
        }
        // A wish for a nonce counts wherever it stands.
        let challenges = Challenge::all(headers);
        let challenged = challenge::error(&challenges).filter(|code| *code == "use_dpop_nonce");
        let code = challenged.or(refusal.code());
        let objection = Objection { code, description: refusal.description(), headers };
        let answered = said.filter(|_| status.is_client_error()).is_some_and(|said| {
            exchange.corrections.answer(&objection, &said, (role, &target), origins, now)
        });
        let answered = answered
            || asserted_at.filter(|_| code == Some("invalid_client")).is_some_and(|iat| {
                exchange.corrections.answer_assertion(headers, iat, (role, &target), origins, now)
            });
        if answered {
            exchange.tries.at_once();
            return Ok(Received::Again(exchange));
        }
        Err(refusal.into())
    }

    /// Says that no response came, and whether anything may have been sent.
    ///
    /// # Errors
    /// `Lost` where the request isn't sent again by itself.
    pub fn lost(self, sent: Sent, now: UnixTime) -> Result<Received<T>, Error> {
        let repeat = self.exchange.ask.repeat;
        let repeatable = repeat.after_loss(sent);
        let error = Error::Lost(Lost { sent, repeatable });
        if repeatable && repeat != Repeat::Never {
            return self.exchange.again(error, None, now, self.seed);
        }
        Err(error)
    }
}
