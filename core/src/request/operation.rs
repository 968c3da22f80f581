//! A request to an authorization server: prepare, send, receive, and retry if needed.

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

/// An operation at an authorization server that results in a `T`, before its next request.
///
/// ```text
/// Operation ──prepare──▶ Signing ──finish──▶ PreparedRequest { request, pending }
///    ▲                                                                     │
///    │                             receive(response) or transport_failed(sent)
///    └───────────── Step::RetryAfter ◀─────────────────────────────────────┤
///                   Step::Done(T) ◀────────────────────────────────────────┘
/// ```
///
/// A DPoP nonce, a `Retry-After` and a backoff after a lost connection all lead to
/// [`Step::RetryAfter`], with a [`delay`](Self::delay) that may be zero. Each
/// [`prepare`](Self::prepare) takes fresh time and entropy, so no two requests have the same `jti`.
#[must_use = "an operation does nothing until it is prepared and sent"]
pub struct Operation<T> {
    request: EndpointRequest,
    parse: ResponseParser<T>,
    retry: RetryState,
    /// The minimum time between two requests, even after failures.
    poll_interval: Duration,
    on_failure: FailureHook,
    corrections: CorrectionBudget,
}

/// Parses a success response into a `T`.
pub(crate) type ResponseParser<T> =
    Box<dyn Fn(&SuccessResponse<'_>) -> Result<T, ParseError> + Send + Sync>;

/// Returns the wait before the next request, if the failure does not end the flow. May change the
/// next request.
pub(crate) type FailureHook = Box<
    dyn FnMut(FlowFailure<'_>, &mut EndpointRequest, UnixTime) -> Option<Duration> + Send + Sync,
>;

/// The reason why a response has no result.
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

/// A request to an endpoint, and its retry safety.
pub(crate) struct EndpointRequest {
    pub(crate) endpoint: Endpoint,
    /// `None` for a GET without a proof and without client authentication.
    pub(crate) client_request: Option<ClientRequest>,
    pub(crate) retry_safety: RetrySafety,
}

/// The parameters and credentials of a POST by a client.
pub(crate) struct ClientRequest {
    options: Arc<RequestOptions>,
    params: Params,
    /// The key of the DPoP proof.
    key: Option<PublicJwk>,
    /// The client assertion, if the client authenticates by a signature.
    assertion: Option<ClientAssertion>,
}

/// The options shared by all requests of one client.
#[derive(Clone, Debug)]
pub(crate) struct RequestOptions {
    pub(crate) auth: ClientAuth,
    pub(crate) format: BodyFormat,
    pub(crate) headers: HeaderMap,
    pub(crate) params: Params,
}

impl<T> Operation<T> {
    pub(crate) fn new(
        request: EndpointRequest,
        parse: impl Fn(&SuccessResponse<'_>) -> Result<T, ParseError> + Send + Sync + 'static,
    ) -> Self {
        Self {
            request,
            parse: Box::new(parse),
            retry: RetryState::default(),
            poll_interval: Duration::ZERO,
            on_failure: Box::new(|_, _, _| None),
            corrections: CorrectionBudget::default(),
        }
    }

    /// Delays the first request, and sets the poll interval to the same time.
    pub(crate) fn delayed_by(mut self, wait: Duration) -> Self {
        self.retry.reset(wait);
        self.poll_interval = wait;
        self
    }

    /// Sets the hook for failures that do not end the flow.
    pub(crate) fn on_failure(
        mut self,
        hook: impl FnMut(FlowFailure<'_>, &mut EndpointRequest, UnixTime) -> Option<Duration>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.on_failure = Box::new(hook);
        self
    }

    /// Sets the timeout of the operation, counted from its first request. A `Retry-After` counts;
    /// while a device code is polled, the timeout starts anew with each poll, and the polling
    /// interval does not count. No other wait starts that would end later. Default: 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.retry.set_timeout(timeout);
        self
    }

    /// Sets the maximum number of attempts, the first one included, if they end in transient
    /// failures. Retries for DPoP nonces and other corrections of a proof are not counted, and each
    /// poll for a device code starts the count anew. Default: 4.
    pub fn max_attempts(mut self, attempts: u8) -> Self {
        self.retry.set_max_attempts(attempts);
        self
    }

    /// Returns the delay before the next request. It is zero after a rejected proof, and at first,
    /// except for the grant of a device code: its first request waits for one polling interval.
    pub fn delay(&self) -> Duration {
        self.retry.delay()
    }

    /// Prepares the next request, which may need signatures first: of a client assertion, a proof,
    /// or both.
    ///
    /// # Errors
    /// Returns [`Error::InvalidInput`] if a parameter is set twice, such as by the client and by
    /// the grant. If the request needs a client assertion, [`Unsigned::resume`] returns this error.
    pub fn prepare(
        mut self,
        server_state: &ServerState,
        context: RequestContext,
    ) -> Result<Signing<PreparedRequest<T>>, Error> {
        self.retry.start_attempt(context.now);
        let jitter_seed = jitter_seed(&context);
        let Some(client_request) = &self.request.client_request else {
            let request = self.request.request(None)?;
            let pending = PendingResponse {
                operation: self,
                sent_proof: None,
                asserted_at: None,
                assertion: None,
                jitter_seed,
            };
            return Ok(Signing::Ready(PreparedRequest { request, pending }));
        };
        let (role, target) = (
            Role::AuthorizationServer,
            HttpTarget::parse(self.request.endpoint.uri())?,
        );
        let assertion = client_request.assertion.as_ref().map(|assertion| {
            let clock = server_state
                .get(role, &target)
                .map(|entry| entry.clock_offset)
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
        let proof = client_request
            .key
            .as_ref()
            .map(|key| proof_context.prove(key, server_state, context));
        let (proof, sent_proof) = proof.unzip();
        let pending = PendingResponse {
            operation: self,
            sent_proof,
            asserted_at,
            assertion: None,
            jitter_seed,
        };
        match assertion {
            Some(assertion) => Ok(Signing::Needs(Unsigned::new(
                assertion,
                UnsignedRequest::Unauthenticated { pending, proof },
            ))),
            None => pending.authenticated(proof),
        }
    }

    /// Continues the flow after an expected response: immediately at another metadata URL, or after
    /// the polling interval of a device code. The timeout starts anew after an interval.
    fn continue_after(mut self, wait: Duration) -> Self {
        self.retry.reset(wait);
        self.poll_interval = wait;
        self.corrections = CorrectionBudget::default();
        self
    }

    /// Schedules a retry after a transient failure, if an attempt and enough time are left.
    fn schedule_retry(
        mut self,
        error: Error,
        retry_after: Option<Duration>,
        now: UnixTime,
        jitter_seed: u64,
    ) -> Result<Step<T>, Error> {
        if !self
            .retry
            .schedule_retry(retry_after, self.poll_interval, now, jitter_seed)
        {
            return Err(error);
        }
        // The server may have changed its state during the delay, such as its nonce.
        self.corrections = CorrectionBudget::default();
        Ok(Step::RetryAfter(self))
    }
}

impl<T> fmt::Debug for Operation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Operation")
            .field("endpoint", &self.request.endpoint)
            .field(
                "params",
                &self
                    .request
                    .client_request
                    .as_ref()
                    .map(|client_request| &client_request.params),
            )
            .field("retry", &self.retry)
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
        // Without this header, any coding would be acceptable (RFC 9110 §12.5.3), and the core
        // decodes none.
        request
            .headers_mut()
            .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(client_request) = &self.client_request {
            client_request.write(assertion, &mut request)?;
        }
        Ok(request)
    }

    /// Returns the name of the server for errors, with the path if the request is for a document.
    /// The query is left out: it may hold a secret.
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
    /// `audience` identifies the server in client assertions.
    pub(crate) fn new(
        options: &Arc<RequestOptions>,
        params: Params,
        key: Option<PublicJwk>,
        audience: &str,
    ) -> Self {
        Self {
            options: Arc::clone(options),
            params,
            key,
            assertion: options.auth.assertion(audience),
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
        let mut body_params = self.params.clone();
        body_params.append(params)?;
        auth.add_params(&mut body_params)?;
        if let Some(assertion) = assertion {
            body_params.push("client_assertion_type", ASSERTION_TYPE)?;
            body_params.push("client_assertion", assertion.clone())?;
        }

        *request.method_mut() = Method::POST;
        *request.body_mut() = body_params.encode(*format);
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

/// Adds a header that every request carries.
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
        return Err(invalid("must not be one that the request sets itself"));
    }
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

/// A request, and the pending operation that receives its response.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct PreparedRequest<T> {
    /// The request to send unchanged. Redirects must not be followed.
    pub request: Request<Body>,
    /// Receives the response, or the information that none came.
    pub pending: PendingResponse<T>,
}

impl<T> Sealed for PreparedRequest<T> {}

impl<T> Resumable for PreparedRequest<T> {
    type Draft = UnsignedRequest<T>;

    fn assemble(unsigned: UnsignedRequest<T>, jws: Vec<u8>) -> Result<Signing<Self>, Error> {
        match unsigned {
            UnsignedRequest::Unauthenticated { mut pending, proof } => {
                // A JWS has only base64url characters and dots.
                pending.assertion = Some(Secret::new(String::from_utf8(jws).unwrap_or_default()));
                pending.authenticated(proof)
            }
            UnsignedRequest::Unproven(mut prepared) => {
                prepared.request.headers_mut().insert(DPOP, sensitive(jws));
                Ok(Signing::Ready(prepared))
            }
        }
    }
}

/// A request that needs a signature.
#[expect(unnameable_types, reason = "`Resumable` is sealed")]
#[allow(
    clippy::large_enum_variant,
    reason = "it is moved, and a box would cost more"
)]
#[derive(Debug)]
pub enum UnsignedRequest<T> {
    /// The request needs the client assertion, which is part of the body. A proof may be next.
    #[doc(hidden)]
    Unauthenticated {
        pending: PendingResponse<T>,
        proof: Option<SignRequest>,
    },
    /// The request needs the proof.
    #[doc(hidden)]
    Unproven(PreparedRequest<T>),
}

/// An operation whose request is in flight.
#[must_use]
#[derive(Debug)]
pub struct PendingResponse<T> {
    operation: Operation<T>,
    /// The properties of the request's proof.
    sent_proof: Option<SentProof>,
    /// The client assertion of the request, and its `iat`.
    assertion: Option<Secret>,
    asserted_at: Option<UnixTime>,
    /// Random; the jitter of a backoff that may follow.
    jitter_seed: u64,
}

/// The next step of an operation after a response.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
#[allow(
    clippy::large_enum_variant,
    reason = "it is moved once, and a box would cost more; small on wasm32"
)]
pub enum Step<T> {
    /// The operation is complete.
    Done(T),
    /// The operation continues: wait for [`Operation::delay`], and prepare the next request.
    RetryAfter(Operation<T>),
}

impl<T> PendingResponse<T> {
    /// Builds the request, which may still need the signature of its proof.
    fn authenticated(
        self,
        proof: Option<SignRequest>,
    ) -> Result<Signing<PreparedRequest<T>>, Error> {
        let request = self.operation.request.request(self.assertion.as_ref())?;
        let prepared = PreparedRequest {
            request,
            pending: self,
        };
        Ok(match proof {
            Some(proof) => {
                Signing::Needs(Unsigned::new(proof, UnsignedRequest::Unproven(prepared)))
            }
            None => Signing::Ready(prepared),
        })
    }

    /// Returns how long a driver should wait for the response: until the operation's
    /// [timeout](Operation::timeout). A `Retry-After` counts; while a device code is polled, the
    /// timeout starts anew with each poll.
    pub fn time_left(&self, now: UnixTime) -> Duration {
        self.operation.retry.time_left(now)
    }

    /// Receives the response, with any status and with all its headers. `now` is the time at which
    /// it arrived. Records the nonce of the response in `server_state`.
    ///
    /// # Errors
    /// Returns [`Error::Server`] if the server refused the request and no retry is possible, and
    /// [`Error::Response`] if a success response is invalid or the response is a redirection.
    pub fn receive<B: AsRef<[u8]>>(
        self,
        response: Response<B>,
        server_state: &mut ServerState,
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
        // The server of a metadata document need not be one that accepts proofs.
        if operation.request.client_request.is_some() {
            server_state.record_nonce(role, &target, headers, now);
        }
        let is_too_large = body.len() > MAX_RESPONSE;
        let parse_error = if status.is_redirection() {
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
                Err(parse_error) => parse_error,
            }
        };
        let secrets = operation.request.secrets(assertion.as_ref());
        let server = operation.request.server();
        if let ParseError::Bad(why) = parse_error {
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
            // Probably the error page of a gateway. The status and the headers are still usable.
            body = &[];
        }
        let refusal = error_response::read(server, status, headers, body, &secrets, now);
        // The hook comes first: some servers send an expected error of a flow with the status of a
        // transient failure (Auth0 sends `slow_down` with 429).
        if let Some(wait) =
            (operation.on_failure)(FlowFailure::Refusal(&refusal), &mut operation.request, now)
        {
            return Ok(Step::RetryAfter(operation.continue_after(wait)));
        }
        let retry_after = refusal.retry_after();
        if operation
            .request
            .retry_safety
            .allows_retry_after(status, retry_after)
        {
            return operation.schedule_retry(refusal.into(), retry_after, now, jitter_seed);
        }
        // `use_dpop_nonce` counts in the challenge as well as in the body.
        let challenges = Challenge::all(headers);
        let challenged = challenge::error(&challenges).filter(|code| *code == "use_dpop_nonce");
        let code = challenged.or(refusal.code());
        let rejection = ProofRejection {
            code,
            description: refusal.description(),
            headers,
        };
        let corrected = sent_proof
            .filter(|_| status.is_client_error())
            .is_some_and(|sent_proof| {
                operation.corrections.try_correct(
                    &rejection,
                    &sent_proof,
                    (role, &target),
                    server_state,
                    now,
                )
            });
        let corrected = corrected
            || asserted_at
                .filter(|_| code == Some("invalid_client"))
                .is_some_and(|iat| {
                    operation.corrections.try_correct_assertion(
                        headers,
                        iat,
                        (role, &target),
                        server_state,
                        now,
                    )
                });
        if corrected {
            operation.retry.retry_now();
            return Ok(Step::RetryAfter(operation));
        }
        Err(refusal.into())
    }

    /// Continues after a request without a response. `sent` is whether any of it may have been
    /// sent.
    ///
    /// # Errors
    /// Returns [`Error::NoResponse`] if the request isn't retried automatically.
    pub fn transport_failed(self, sent: Sent, now: UnixTime) -> Result<Step<T>, Error> {
        let retry_safety = self.operation.request.retry_safety;
        let retryable = retry_safety.allows_retry_without_response(sent);
        let error = Error::NoResponse(NoResponse { sent, retryable });
        if retryable && retry_safety != RetrySafety::Never {
            return self
                .operation
                .schedule_retry(error, None, now, self.jitter_seed);
        }
        Err(error)
    }
}
