//! An operation at an authorization server: one request with its retries, and what its response
//! becomes.

use std::{fmt, time::Duration};

use http::{HeaderMap, StatusCode};

use crate::request::effect::{Answer, Next};
use crate::request::exchange::{Delivered, Exchange, Subject, unexpected_answer};
use crate::request::{
    endpoint_request::EndpointRequest, retry::RetrySafety, server_state::Role, servers::Turn,
};
use crate::types::error::{
    Error, InvalidResponse, InvalidResponseKind, ParseError, ResponseMeta, ServerError,
};
use crate::types::{limits::MAX_RESPONSE, time::UnixTime};
use crate::wire::error_response::{self, content_coding};
use crate::wire::json::{Text, strip_bom};

/// An operation at an authorization server that results in a `T`: a token request, a revocation, a
/// discovery. It is plain data until a driver runs it.
///
/// A DPoP nonce, a `Retry-After` and a backoff after a lost connection all lead to another request,
/// within the operation's [timeout](Self::timeout).
#[must_use = "an operation does nothing until a driver runs it"]
#[derive(Clone, PartialEq, Eq)]
pub struct Operation<T: FromResponse> {
    exchange: Exchange,
    expected: T::Expected,
}

/// A type that is parsed from the response to an operation. Sealed: only types of this crate
/// implement it.
pub trait FromResponse: Sized + sealed::Sealed {
    /// What the response is compared with, and how the flow continues after an expected failure.
    #[doc(hidden)]
    type Expected: Clone + fmt::Debug + PartialEq + Eq;

    /// Parses a success response.
    #[doc(hidden)]
    fn parse(success: &SuccessResponse<'_>, expected: &Self::Expected) -> Result<Self, ParseError>;

    /// Returns the wait before the next request, if the failure does not end the flow. May change
    /// the next request.
    #[doc(hidden)]
    fn on_failure(
        _failure: &FlowFailure,
        _expected: &mut Self::Expected,
        _request: &mut EndpointRequest,
        _now: UnixTime,
    ) -> Option<Duration> {
        None
    }
}

pub(crate) mod sealed {
    #[expect(unnameable_types, reason = "it seals `FromResponse`")]
    pub trait Sealed {}
}

/// The reason why a response has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(unnameable_types, reason = "`FromResponse` is sealed")]
pub enum FlowFailure {
    Refusal(Box<ServerError>),
    Invalid(Box<InvalidResponse>),
}

/// A response with a 2xx status.
#[expect(
    missing_debug_implementations,
    reason = "it has the body, which has secrets"
)]
#[expect(unnameable_types, reason = "`FromResponse` is sealed")]
pub struct SuccessResponse<'a> {
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a Text<'a>,
    pub(crate) now: UnixTime,
}

impl<T: FromResponse> Operation<T> {
    pub(crate) fn new(
        request: EndpointRequest,
        safety: RetrySafety,
        expected: T::Expected,
    ) -> Self {
        let mut exchange = Exchange::new(Subject::Endpoint(request), safety);
        exchange.max_idle = safety.max_idle();
        Self { exchange, expected }
    }

    /// Sends the request over a new connection.
    pub(crate) fn over_new_connection(mut self) -> Self {
        self.exchange.max_idle = Duration::ZERO;
        self
    }

    /// Delays the first request, and sets the poll interval to the same time.
    pub(crate) fn delayed_by(mut self, wait: Duration) -> Self {
        self.exchange = self.exchange.delayed_by(wait);
        self
    }

    /// Sets the timeout of the operation, counted from its first request. A `Retry-After` counts;
    /// while a device code is polled, the timeout starts anew with each poll, and the polling
    /// interval does not count. No other wait starts that would end later. Default: 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.exchange.retry.set_timeout(timeout);
        self
    }

    /// Sets the maximum number of attempts, the first one included, if they end in transient
    /// failures. Retries for DPoP nonces and other corrections of a proof are not counted, and each
    /// poll for a device code starts the count anew. Default: 4.
    pub fn max_attempts(mut self, attempts: u8) -> Self {
        self.exchange.retry.set_max_attempts(attempts);
        self
    }

    /// Returns the number of requests that were sent.
    pub(crate) fn attempts(&self) -> u32 {
        self.exchange.attempts()
    }

    /// Takes the answer to the last effect.
    pub(crate) fn advance(&mut self, answer: Answer<'_>, turn: &mut Turn<'_>) -> Next<T> {
        let next = match (&self.exchange.subject, answer) {
            (
                Subject::Endpoint(request),
                Answer::Response {
                    status,
                    headers,
                    body,
                },
            ) => {
                let received = (status, headers, body);
                match self.read(request, received, turn) {
                    Ok(result) => return Next::Done(Ok(result)),
                    Err(failure) => self.failed(failure, headers, turn),
                }
            }
            (_, answer) => self.exchange.advance(answer, turn),
        };
        // An operation has no result but that of its response.
        next.then(|result| Next::Done(Err(result.err().unwrap_or_else(unexpected_answer))))
    }

    fn read(
        &self,
        request: &EndpointRequest,
        (status, headers, body): (StatusCode, &HeaderMap, &[u8]),
        turn: &mut Turn<'_>,
    ) -> Result<T, FlowFailure> {
        let now = turn.context.now;
        let body = strip_bom(body);
        let received = Received {
            status,
            headers,
            body,
        };
        let parsed = received.check(request, turn).and_then(|()| {
            let body = &Text::of(body);
            T::parse(&SuccessResponse { headers, body, now }, &self.expected)
        });
        parsed.map_err(|error| received.failure(error, request, &self.exchange, now))
    }

    /// Continues the flow after a failure that it expects, or else retries or ends it.
    fn failed(
        &mut self,
        failure: FlowFailure,
        headers: &HeaderMap,
        turn: &mut Turn<'_>,
    ) -> Next<Delivered> {
        // The flow comes first: some servers send an expected error with the status of a transient
        // failure (Auth0 sends `slow_down` with 429).
        let wait = match &mut self.exchange.subject {
            Subject::Endpoint(request) => {
                T::on_failure(&failure, &mut self.expected, request, turn.context.now)
            }
            Subject::Call(_) => None,
        };
        self.exchange.go_on(wait, failure, headers, turn)
    }
}

impl Exchange {
    /// Continues a flow after this wait, or else retries or ends it.
    fn go_on(
        &mut self,
        wait: Option<Duration>,
        failure: FlowFailure,
        headers: &HeaderMap,
        turn: &mut Turn<'_>,
    ) -> Next<Delivered> {
        match (wait, failure) {
            (Some(wait), _) => {
                self.continue_after(wait);
                self.begin(turn)
            }
            (None, FlowFailure::Refusal(refusal)) => self.refused(refusal, headers, turn),
            (None, FlowFailure::Invalid(invalid)) => Next::Done(Err(Error::Response(invalid))),
        }
    }
}

/// A response, for the parts that are the same for all results: they are compiled once.
struct Received<'a> {
    status: StatusCode,
    headers: &'a HeaderMap,
    body: &'a [u8],
}

impl Received<'_> {
    /// Records the nonce of the response, and returns an error unless it may be parsed as a success.
    fn check(&self, request: &EndpointRequest, turn: &mut Turn<'_>) -> Result<(), ParseError> {
        // The server of a metadata document need not be one that accepts proofs.
        if request.client_request.is_some() {
            let (target, now) = (request.endpoint.target(), turn.context.now);
            let known = &mut turn.servers.known;
            known.record_nonce(Role::AuthorizationServer, &target, self.headers, now);
        }
        if self.status.is_redirection() {
            return Err(InvalidResponseKind::Redirect.into());
        }
        if !self.status.is_success() {
            return Err(ParseError::Refusal);
        }
        match self.body.len() > MAX_RESPONSE {
            true => Err(InvalidResponseKind::TooLarge.into()),
            false => Ok(()),
        }
    }

    fn failure(
        &self,
        parse_error: ParseError,
        request: &EndpointRequest,
        exchange: &Exchange,
        now: UnixTime,
    ) -> FlowFailure {
        let (status, headers) = (self.status, self.headers);
        let (secrets, server) = (exchange.secrets(), request.server());
        let kind = match (parse_error, content_coding(headers)) {
            (ParseError::Refusal, _) => {
                // A longer one is probably the error page of a gateway. The status and the headers
                // are still usable.
                let body = match self.body.len() > MAX_RESPONSE {
                    true => &[],
                    false => self.body,
                };
                let refusal = error_response::read(server, status, headers, body, &secrets, now);
                return FlowFailure::Refusal(Box::new(refusal));
            }
            (ParseError::Bad(InvalidResponseKind::NotJson { .. }), Some(coding)) => {
                InvalidResponseKind::Encoded(secrets.redact(&coding))
            }
            (ParseError::Bad(kind), _) => kind,
        };
        let meta = ResponseMeta::new(server, status, headers, &secrets);
        FlowFailure::Invalid(Box::new(InvalidResponse { meta, kind }))
    }
}

impl<T: FromResponse> fmt::Debug for Operation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Operation").field(&self.exchange).finish()
    }
}
