//! The one shape of every exchange with an authorization server: prepare, send, receive, perhaps again.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response};

use crate::dpop::{DPOP, sensitive};
use crate::jose::PublicJwk;
use crate::jose::signing::sealed::Sealed;
use crate::jose::signing::{Resumable, SignRequest, Signing, Unsigned};
use crate::request::client_assertion::{ASSERTION_TYPE, ClientAssertion};
use crate::request::client_auth::ClientAuth;
use crate::request::correction::{CorrectionBudget, ProofContext, ProofRejection, SentProof};
use crate::request::retry::{RetrySafety, RetryState, jitter_seed};
use crate::request::server_state::{Role, ServerState};
use crate::types::endpoint::{Endpoint, HttpTarget, server_at};
use crate::types::error::{
    Error, InvalidResponse, InvalidResponseKind, NoResponse, ParseError, ResponseMeta, Sent,
    ServerError,
};
use crate::types::input::InvalidInput;
use crate::types::limits::MAX_RESPONSE;
use crate::types::secret::{Body, Secret};
use crate::types::time::{RequestContext, UnixTime};
use crate::wire::challenge::{self, Challenge};
use crate::wire::error_response::{self, Redactor, content_coding};
use crate::wire::json::{Text, strip_bom};
use crate::wire::params::{BodyFormat, Params};

/// An exchange that will end in a `T`, before its next request.
///
/// ```text
/// Operation ──prepare──▶ Signing ──finish──▶ PreparedRequest { request, pending }
///    ▲                                                         │
///    │                                        receive(response) or lost(sent)
///    └───────────── Step::RetryAfter ◀──────────────────────────┤
///                   Step::Done(T) ◀────────────────────────┘
/// ```
///
/// A nonce, a `Retry-After`, a back-off after a lost connection: all are `Again`, with a [`delay`](Self::delay)
/// that may be zero. Each [`prepare`](Self::prepare) takes fresh time and entropy, so nothing is sent twice
/// with one `jti`.
#[must_use = "an exchange does nothing until it is prepared and sent"]
pub struct Operation<T> {
    request: EndpointRequest,
    parse: ResponseParser<T>,
    retry: RetryState,
    /// How fast it may ask, whatever fails meanwhile.
    poll_interval: Duration,
    on_failure: FailureHook,
    corrections: CorrectionBudget,
}

/// Makes the `T` of a success.
pub(crate) type ResponseParser<T> =
    Box<dyn Fn(&SuccessResponse<'_>) -> Result<T, ParseError> + Send + Sync>;

/// Says how long to wait before asking again, where a setback isn't the end, and may change what is asked.
pub(crate) type FailureHook = Box<
    dyn FnMut(FlowFailure<'_>, &mut EndpointRequest, UnixTime) -> Option<Duration> + Send + Sync,
>;

/// Why an answer isn't what was asked for.
pub(crate) enum FlowFailure<'a> {
    Refusal(&'a ServerError),
    Unreadable(&'a InvalidResponseKind),
}

/// A response with a 2xx status.
pub(crate) struct SuccessResponse<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a Text<'a>,
    pub(crate) now: UnixTime,
}

/// What is asked, and what may be done to ask it again.
pub(crate) struct EndpointRequest {
    pub(crate) endpoint: Endpoint,
    /// Without it this is a GET, which proves nothing and authenticates nobody.
    pub(crate) client_request: Option<ClientRequest>,
    pub(crate) retry_safety: RetrySafety,
}

/// What a client posts.
pub(crate) struct ClientRequest {
    options: Arc<RequestOptions>,
    params: Params,
    /// The key that proves itself with the request.
    key: Option<PublicJwk>,
    /// What authenticates the client, where that must be signed.
    assertion: Option<ClientAssertion>,
}

/// What all requests of one client share.
#[derive(Clone, Debug)]
pub(crate) struct RequestOptions {
    pub(crate) auth: ClientAuth,
    pub(crate) format: BodyFormat,
    pub(crate) headers: HeaderMap,
    pub(crate) params: Params,
}

impl<T> Operation<T> {
    pub(crate) fn new(
        ask: EndpointRequest,
        read: impl Fn(&SuccessResponse<'_>) -> Result<T, ParseError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            request: ask,
            parse: Box::new(read),
            retry: RetryState::default(),
            poll_interval: Duration::ZERO,
            on_failure: Box::new(|_, _, _| None),
            corrections: CorrectionBudget::default(),
        }
    }

    /// Not to be sent before so long.
    pub(crate) fn delayed_by(mut self, wait: Duration) -> Self {
        self.retry.reset(wait);
        self.poll_interval = wait;
        self
    }

    /// What to do about setbacks that aren't the end.
    pub(crate) fn on_failure(
        mut self,
        go_on: impl FnMut(FlowFailure<'_>, &mut EndpointRequest, UnixTime) -> Option<Duration>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.on_failure = Box::new(go_on);
        self
    }

    /// How long the whole exchange may take, counted from its first request: no wait is begun that would
    /// end later. 30 s unless set.
    pub fn timeout(mut self, budget: Duration) -> Self {
        self.retry.set_timeout(budget);
        self
    }

    /// How often the request may fail in passing until that is the result. Proofs that are made anew on the
    /// server's wish don't count. 4 unless set.
    pub fn max_attempts(mut self, sends: u8) -> Self {
        self.retry.set_max_attempts(sends);
        self
    }

    /// How long to wait before the next request goes out. Zero at first, and after a refused proof.
    pub fn delay(&self) -> Duration {
        self.retry.delay()
    }

    /// Makes the next request, which may first have to be signed.
    ///
    /// # Errors
    /// `InvalidInput` if what was given to build it contradicts itself.
    pub fn prepare(
        mut self,
        origins: &ServerState,
        context: RequestContext,
    ) -> Result<Signing<PreparedRequest<T>>, Error> {
        self.retry.start_attempt(context.now);
        let seed = jitter_seed(&context);
        let Some(post) = &self.request.client_request else {
            let request = self.request.request(None)?;
            let pending = PendingResponse {
                operation: self,
                sent_proof: None,
                asserted_at: None,
                assertion: None,
                jitter_seed: seed,
            };
            return Ok(Signing::Ready(PreparedRequest { request, pending }));
        };
        let (role, target) = (
            Role::AuthorizationServer,
            HttpTarget::parse(self.request.endpoint.uri())?,
        );
        let assertion = post.assertion.as_ref().map(|assertion| {
            let clock = origins
                .get(role, &target)
                .map(|known| known.clock_offset)
                .unwrap_or_default();
            let iat = clock.apply(context.now);
            (assertion.sign_request(iat, &context.entropy), iat)
        });
        let (assertion, asserted_at) = assertion.unzip();
        let proof_context = ProofContext {
            role,
            method: &Method::POST,
            target,
            ath: None,
        };
        let proof = post
            .key
            .as_ref()
            .map(|key| proof_context.prove(key, origins, context));
        let (proof, said) = proof.unzip();
        let pending = PendingResponse {
            operation: self,
            sent_proof: said,
            asserted_at,
            assertion: None,
            jitter_seed: seed,
        };
        match assertion {
            Some(assertion) => Ok(Signing::Needs(Unsigned::new(
                assertion,
                UnsignedRequest::Unauthenticated { pending, proof },
            ))),
            None => pending.authenticated(proof),
        }
    }

    /// Goes on after an answer that was to be expected. The wait is the server's wish, and costs nothing of the budget.
    fn continue_after(mut self, wait: Duration) -> Self {
        self.retry.reset(wait);
        self.poll_interval = wait;
        self.corrections = CorrectionBudget::default();
        self
    }

    /// Goes on after a failure that may pass, if there is time and a try left for it.
    fn schedule_retry(
        mut self,
        error: Error,
        asked: Option<Duration>,
        now: UnixTime,
        seed: u64,
    ) -> Result<Step<T>, Error> {
        if !self
            .retry
            .schedule_retry(asked, self.poll_interval, now, seed)
        {
            return Err(error);
        }
        // What the server knew before the pause, it may have forgotten: its nonce, for one.
        self.corrections = CorrectionBudget::default();
        Ok(Step::RetryAfter(self))
    }
}

impl<T> fmt::Debug for Operation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("endpoint", &self.request.endpoint)
            .field(
                "fields",
                &self
                    .request
                    .client_request
                    .as_ref()
                    .map(|post| &post.params),
            )
            .field("tries", &self.retry)
            .finish_non_exhaustive()
    }
}

impl EndpointRequest {
    fn request(&self, assertion: Option<&Secret>) -> Result<Request<Body>, InvalidInput> {
        let mut request = Request::new(Body::new(Vec::new()));
        *request.uri_mut() = self.endpoint.uri().clone();
        request
            .headers_mut()
            .insert(ACCEPT, HeaderValue::from_static("application/json"));
        // Without it any coding would be allowed (RFC 9110 §12.5.3), and none is decoded here.
        request
            .headers_mut()
            .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(post) = &self.client_request {
            post.write(assertion, &mut request)?;
        }
        Ok(request)
    }

    /// How errors name whoever was asked; a document has a place as well. A query might hold what is secret.
    fn server(&self) -> String {
        let mut server = server_at(self.endpoint.uri());
        if self.client_request.is_none() {
            server.push_str(self.endpoint.uri().path());
        }
        server
    }

    fn secrets(&self, assertion: Option<&Secret>) -> Redactor {
        let assertion = assertion.map(Secret::expose);
        self.client_request
            .iter()
            .flat_map(ClientRequest::secrets)
            .chain(assertion)
            .collect()
    }
}

impl ClientRequest {
    /// `audience` is the server's own name, as it stands in assertions.
    pub(crate) fn new(
        settings: &Arc<RequestOptions>,
        fields: Params,
        key: Option<PublicJwk>,
        audience: &str,
    ) -> Self {
        Self {
            options: Arc::clone(settings),
            params: fields,
            key,
            assertion: settings.auth.assertion(audience),
        }
    }

    fn write(
        &self,
        assertion: Option<&Secret>,
        request: &mut Request<Body>,
    ) -> Result<(), InvalidInput> {
        let RequestOptions {
            auth,
            format,
            headers,
            params,
        } = &*self.options;
        let mut fields = self.params.clone();
        fields.append(params)?;
        auth.add_params(&mut fields)?;
        if let Some(assertion) = assertion {
            fields.push("client_assertion_type", ASSERTION_TYPE)?;
            fields.push("client_assertion", assertion.clone())?;
        }

        *request.method_mut() = Method::POST;
        *request.body_mut() = fields.encode(*format);
        let sent = request.headers_mut();
        sent.extend(headers.clone());
        sent.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(format.content_type()),
        );
        if let Some(authorization) = auth.header() {
            sent.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(())
    }

    fn secrets(&self) -> impl Iterator<Item = &str> {
        let RequestOptions {
            auth,
            headers,
            params,
            ..
        } = &*self.options;
        let headers = headers.values().filter(|value| value.is_sensitive());
        let headers = headers.filter_map(|value| value.to_str().ok());
        self.params
            .secrets()
            .chain(params.secrets())
            .chain(auth.secrets())
            .chain(headers)
    }
}

/// Adds a header that every request is to carry.
pub(crate) fn add_header(
    headers: &mut HeaderMap,
    name: &str,
    value: &str,
) -> Result<(), InvalidInput> {
    let invalid = |rule| InvalidInput::new("header", rule);
    let name = HeaderName::try_from(name).map_err(|_| invalid("must have a valid name"))?;
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| invalid("must have a value without control characters"))?;
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
        return Err(invalid("must not be one that the request has by itself"));
    }
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

/// A request, and what will read its response.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct PreparedRequest<T> {
    /// To be sent as it is, redirections not followed.
    pub request: Request<Body>,
    /// To be given the response, or told that none came.
    pub pending: PendingResponse<T>,
}

impl<T> Sealed for PreparedRequest<T> {}

impl<T> Resumable for PreparedRequest<T> {
    type Draft = UnsignedRequest<T>;

    fn assemble(draft: UnsignedRequest<T>, jws: Vec<u8>) -> Result<Signing<Self>, Error> {
        match draft {
            UnsignedRequest::Unauthenticated { mut pending, proof } => {
                // It is all base64url and dots.
                pending.assertion = Some(Secret::new(String::from_utf8(jws).unwrap_or_default()));
                pending.authenticated(proof)
            }
            UnsignedRequest::Unproven(mut outgoing) => {
                outgoing.request.headers_mut().insert(DPOP, sensitive(jws));
                Ok(Signing::Ready(outgoing))
            }
        }
    }
}

/// A request that lacks a signature.
#[expect(unnameable_types, reason = "`Assemble` is sealed")]
#[allow(
    clippy::large_enum_variant,
    reason = "it is moved, and a box would cost more"
)]
#[derive(Debug)]
pub enum UnsignedRequest<T> {
    /// The client's assertion, which is part of the body; a proof may be needed next.
    #[doc(hidden)]
    Unauthenticated {
        pending: PendingResponse<T>,
        proof: Option<SignRequest>,
    },
    /// The proof.
    #[doc(hidden)]
    Unproven(PreparedRequest<T>),
}

/// An exchange whose request is under way.
#[must_use]
#[derive(Debug)]
pub struct PendingResponse<T> {
    operation: Operation<T>,
    /// What the request's proof says.
    sent_proof: Option<SentProof>,
    /// What authenticates the client in it, and the time that it says.
    assertion: Option<Secret>,
    asserted_at: Option<UnixTime>,
    /// Random, for the pause that may follow.
    jitter_seed: u64,
}

/// What a response leads to.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
#[allow(
    clippy::large_enum_variant,
    reason = "it is moved once, and a box would cost more; small on wasm32"
)]
pub enum Step<T> {
    /// It is what was asked for.
    Done(T),
    /// The exchange goes on: wait for [`Operation::delay`], and prepare the next request.
    RetryAfter(Operation<T>),
}

impl<T> PendingResponse<T> {
    /// The request, whose proof may still have to be signed.
    fn authenticated(
        self,
        proof: Option<SignRequest>,
    ) -> Result<Signing<PreparedRequest<T>>, Error> {
        let request = self.operation.request.request(self.assertion.as_ref())?;
        let outgoing = PreparedRequest {
            request,
            pending: self,
        };
        Ok(match proof {
            Some(proof) => {
                Signing::Needs(Unsigned::new(proof, UnsignedRequest::Unproven(outgoing)))
            }
            None => Signing::Ready(outgoing),
        })
    }

    /// How long a driver should wait for the response: until the time for the whole exchange is over, waits that were
    /// the server's wish not counted.
    pub fn time_left(&self, now: UnixTime) -> Duration {
        self.operation.retry.time_left(now)
    }

    /// Takes the response, whatever its status, with all its headers. `now` is when it came.
    ///
    /// # Errors
    /// `Server` for a refusal that nothing can be done about here, `Response` for a success that isn't one.
    pub fn receive<B: AsRef<[u8]>>(
        self,
        response: Response<B>,
        origins: &mut ServerState,
        now: UnixTime,
    ) -> Result<Step<T>, Error> {
        let Self {
            mut operation,
            sent_proof,
            assertion,
            asserted_at,
            jitter_seed,
        } = self;
        let (status, headers) = (response.status(), response.headers());
        let mut body = strip_bom(response.body().as_ref());
        let uri = operation.request.endpoint.uri().clone();
        let (role, target) = (Role::AuthorizationServer, HttpTarget::parse(&uri)?);
        // Whoever serves a document need not be the one that takes proofs.
        if operation.request.client_request.is_some() {
            origins.record_nonce(role, &target, headers, now);
        }
        let is_too_large = body.len() > MAX_RESPONSE;
        let unread = if status.is_redirection() {
            ParseError::Bad(InvalidResponseKind::Redirect)
        } else if !status.is_success() {
            ParseError::Refusal
        } else if is_too_large {
            ParseError::Bad(InvalidResponseKind::TooLarge)
        } else {
            match (operation.parse)(&SuccessResponse {
                headers,
                body: &Text::of(body),
                now,
            }) {
                Ok(done) => return Ok(Step::Done(done)),
                Err(unread) => unread,
            }
        };
        let secrets = operation.request.secrets(assertion.as_ref());
        let server = operation.request.server();
        if let ParseError::Bad(why) = unread {
            if let Some(wait) =
                (operation.on_failure)(FlowFailure::Unreadable(&why), &mut operation.request, now)
            {
                return Ok(Step::RetryAfter(operation.continue_after(wait)));
            }
            let why = match (why, content_coding(headers)) {
                (InvalidResponseKind::NotJson { .. }, Some(coding)) => {
                    InvalidResponseKind::Encoded(secrets.redact(&coding))
                }
                (why, _) => why,
            };
            return Err(InvalidResponse {
                meta: ResponseMeta::new(server, status, headers, &secrets),
                kind: why,
            }
            .into());
        }
        if is_too_large {
            // Some gateway's page. The status and the headers are still good.
            body = &[];
        }
        let refusal = error_response::read(server, status, headers, body, &secrets, now);
        // First of all: what a flow has its own answer to, some say with the status of a failure that passes (Auth0's 429
        // for `slow_down`).
        if let Some(wait) =
            (operation.on_failure)(FlowFailure::Refusal(&refusal), &mut operation.request, now)
        {
            return Ok(Step::RetryAfter(operation.continue_after(wait)));
        }
        let asked = refusal.retry_after();
        if operation
            .request
            .retry_safety
            .allows_retry_after(status, asked)
        {
            return operation.schedule_retry(refusal.into(), asked, now, jitter_seed);
        }
        // A wish for a nonce counts wherever it stands.
        let challenges = Challenge::all(headers);
        let challenged = challenge::error(&challenges).filter(|code| *code == "use_dpop_nonce");
        let code = challenged.or(refusal.code());
        let rejection = ProofRejection {
            code,
            description: refusal.description(),
            headers,
        };
        let answered = sent_proof
            .filter(|_| status.is_client_error())
            .is_some_and(|said| {
                operation
                    .corrections
                    .try_correct(&rejection, &said, (role, &target), origins, now)
            });
        let answered = answered
            || asserted_at
                .filter(|_| code == Some("invalid_client"))
                .is_some_and(|iat| {
                    operation.corrections.try_correct_assertion(
                        headers,
                        iat,
                        (role, &target),
                        origins,
                        now,
                    )
                });
        if answered {
            operation.retry.retry_now();
            return Ok(Step::RetryAfter(operation));
        }
        Err(refusal.into())
    }

    /// Says that no response came, and whether anything may have been sent.
    ///
    /// # Errors
    /// `NoResponse` where the request isn't sent again by itself.
    pub fn transport_failed(self, sent: Sent, now: UnixTime) -> Result<Step<T>, Error> {
        let repeat = self.operation.request.retry_safety;
        let repeatable = repeat.allows_retry_without_response(sent);
        let error = Error::NoResponse(NoResponse {
            sent,
            retryable: repeatable,
        });
        if repeatable && repeat != RetrySafety::Never {
            return self
                .operation
                .schedule_retry(error, None, now, self.jitter_seed);
        }
        Err(error)
    }
}
