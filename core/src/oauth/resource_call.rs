//! Calls to protected resources: the headers of a request, and the effect of its response on the token.

use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri};

use crate::dpop::{DPOP, sensitive};
use crate::jose::signing::sealed::Sealed;
use crate::jose::signing::{Resumable, Signing, Unsigned};
use crate::oauth::token::{Token, TokenType};
use crate::request::correction::{CorrectionBudget, ProofContext, ProofRejection, SentProof};
use crate::request::nonce_outcome::NonceOutcome;
use crate::request::retry::{RetrySafety, RetryState, jitter_seed};
use crate::request::server_state::{Role, ServerState};
use crate::types::endpoint::{HttpTarget, server_at};
use crate::types::error::{Error, NoResponse, Sent};
use crate::types::input::InvalidInput;
use crate::types::nonce::Nonce;
use crate::types::time::{RequestContext, UnixTime};
use crate::wire::challenge::{self, Challenge};
use crate::wire::error_response::{self, Redactor};
use crate::wire::retry_after;

impl Token {
    /// Starts a call to a protected resource (RFC 9449 §7, RFC 6750 §2.1).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the URL can't be the target of a proof or is plain `http` with a
    /// host other than loopback, if the token type has no known authentication scheme, or if the
    /// token is bound to an unknown key.
    pub fn authorize(&self, method: &Method, uri: &Uri) -> Result<ResourceCall, InvalidInput> {
        ResourceCall::new(self, method, uri)
    }
}

/// A call to a protected resource, before its next request. The request body stays with the caller.
///
/// The call proceeds like an [`Operation`](crate::Operation): it is prepared, the caller sends the
/// request, [`PendingCall::verdict`] evaluates the response, and the call may be prepared again.
/// After 429, 502, 503, 504 and a lost connection, an idempotent request (RFC 9110 §9.2.2) is
/// retried. Any other request is retried only if nothing was sent, after 429, and after a 503 with
/// `Retry-After`.
#[must_use = "a call does nothing until it is prepared and sent"]
#[derive(Debug)]
pub struct ResourceCall {
    token: Token,
    method: Method,
    uri: Uri,
    retry_safety: RetrySafety,
    retry: RetryState,
    corrections: CorrectionBudget,
}

/// The headers by which a server distinguishes a retry from a second request
/// (draft-ietf-httpapi-idempotency-key-header). Moov and Treasury Prime use the second name.
const IDEMPOTENCY_KEYS: [HeaderName; 2] = [
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("x-idempotency-key"),
];

impl ResourceCall {
    pub(crate) fn new(token: &Token, method: &Method, uri: &Uri) -> Result<Self, InvalidInput> {
        if !HttpTarget::parse(uri)?.is_confidential() {
            return Err(InvalidInput::new(
                "url",
                "must be https://, or http:// with a loopback host",
            ));
        }
        match token.token_type() {
            TokenType::Dpop if token.key().is_none() => {
                return Err(InvalidInput::new(
                    "token",
                    "must have a known key: it is of type DPoP, so the client needs its key",
                ));
            }
            TokenType::Bearer | TokenType::Dpop => {}
            TokenType::Other(_) => {
                return Err(InvalidInput::new(
                    "token",
                    "must be of type Bearer or DPoP to authorize a request",
                ));
            }
        }
        Ok(Self {
            token: token.clone(),
            method: method.clone(),
            uri: uri.clone(),
            retry_safety: RetrySafety::for_method(method),
            retry: RetryState::default(),
            corrections: CorrectionBudget::default(),
        })
    }

    /// Permits retries as for a `GET` if `headers`, those of the application's request, contain an
    /// idempotency key (`Idempotency-Key` or `X-Idempotency-Key`). The headers themselves are not
    /// added to the call.
    pub fn detect_idempotency_key(mut self, headers: &HeaderMap) -> Self {
        if IDEMPOTENCY_KEYS
            .into_iter()
            .any(|name| headers.contains_key(name))
        {
            self.retry_safety = RetrySafety::Idempotent;
        }
        self
    }

    /// Declares that the request can be sent only once, because sending it consumes its body. It is
    /// never retried.
    pub fn single_use_body(mut self) -> Self {
        self.retry_safety = RetrySafety::Never;
        self
    }

    /// Sets the timeout of the whole call, measured from its first request. No delay starts that
    /// would end after the timeout. Default: 30 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.retry.set_timeout(timeout);
        self
    }

    /// Sets the maximum number of attempts, the first one included, if they end in transient
    /// failures. Retries with a corrected proof are not counted. Default: 4.
    pub fn max_attempts(mut self, max_attempts: u8) -> Self {
        self.retry.set_max_attempts(max_attempts);
        self
    }

    /// Returns whether the requests of this call have proofs.
    pub fn is_bound(&self) -> bool {
        self.token.key().is_some()
    }

    /// Returns the delay before the next request is sent. It is zero for the first request, and
    /// after a rejected proof.
    pub fn delay(&self) -> Duration {
        self.retry.delay()
    }

    /// Prepares the headers of the next request. For a bound token, a proof must be signed first.
    ///
    /// # Errors
    /// Returns no error in practice: [`Token::authorize`] has already ruled out the causes.
    pub fn prepare(
        mut self,
        server_state: &ServerState,
        context: RequestContext,
    ) -> Result<Signing<PreparedCall>, Error> {
        self.retry.start_attempt(context.now);
        let seed = jitter_seed(&context);
        let Some(key) = self.token.key() else {
            return Ok(Signing::Ready(PreparedCall::new(
                PendingCall {
                    call: self,
                    sent_proof: None,
                    jitter_seed: seed,
                },
                None,
            )));
        };
        let target = HttpTarget::parse(&self.uri)?;
        let ath = Some(self.token.ath());
        let proof_context = ProofContext {
            role: Role::ResourceServer,
            method: &self.method,
            target,
            ath,
        };
        let (to_sign, sent_proof) = proof_context.prove(key, server_state, context);
        let pending = PendingCall {
            call: self,
            sent_proof: Some(sent_proof),
            jitter_seed: seed,
        };
        Ok(Signing::Needs(Unsigned::new(to_sign, pending)))
    }

    /// Schedules a retry after a transient failure. Returns whether the call is retried.
    fn schedule_retry(&mut self, retry_after: Option<Duration>, now: UnixTime, seed: u64) -> bool {
        // The server may lose its state during the delay, such as its nonce, so corrections start
        // over.
        self.corrections = CorrectionBudget::default();
        self.retry
            .schedule_retry(retry_after, Duration::ZERO, now, seed)
    }
}

/// The headers of a request, and the state that evaluates its response.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "drivers destructure it")]
pub struct PreparedCall {
    /// The headers to add to the request.
    pub headers: AuthHeaders,
    /// Evaluates the head of the response.
    pub pending: PendingCall,
}

impl Sealed for PreparedCall {}

impl Resumable for PreparedCall {
    type Draft = PendingCall;

    fn assemble(pending: PendingCall, jws: Vec<u8>) -> Result<Signing<Self>, Error> {
        Ok(Signing::Ready(Self::new(pending, Some(sensitive(jws)))))
    }
}

impl PreparedCall {
    fn new(pending: PendingCall, proof: Option<HeaderValue>) -> Self {
        let authorization = pending.call.token.authorization().clone();
        Self {
            headers: AuthHeaders {
                authorization,
                proof,
            },
            pending,
        }
    }
}

/// The `Authorization` header and, for a bound token, the `DPoP` header. Both are marked as
/// sensitive.
#[must_use]
#[derive(Debug)]
pub struct AuthHeaders {
    authorization: HeaderValue,
    proof: Option<HeaderValue>,
}

impl AuthHeaders {
    /// Inserts the headers into those of a request, and replaces existing ones.
    pub fn apply(self, headers: &mut HeaderMap) {
        headers.insert(AUTHORIZATION, self.authorization);
        match self.proof {
            Some(proof) => headers.insert(DPOP, proof),
            None => headers.remove(DPOP),
        };
    }
}

/// A call whose request is in flight.
#[must_use]
#[derive(Debug)]
pub struct PendingCall {
    call: ResourceCall,
    /// The properties of the proof in the request.
    sent_proof: Option<SentProof>,
    /// Random seed for the backoff before a retry.
    jitter_seed: u64,
}

/// The action that follows from a response.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
pub enum Verdict {
    /// Deliver the response to the application.
    Deliver,
    /// Prepare the call and send it again, after its [`delay`](ResourceCall::delay). The server
    /// requires another proof, with its new nonce (RFC 9449 §9), with the time of its clock, or
    /// with its name for the algorithm; or it is temporarily unavailable.
    RetryAfter(ResourceCall),
    /// The server rejected the token (RFC 6750 §3.1 `invalid_token`, or a 401 without an error
    /// code). The response still belongs to the application.
    TokenRejected,
}

impl PendingCall {
    /// Reports that no response was received, and whether the request may have been sent. Returns
    /// the call to retry.
    ///
    /// # Errors
    /// Returns [`Error::NoResponse`] if the request is not retried automatically.
    pub fn transport_failed(self, sent: Sent, now: UnixTime) -> Result<ResourceCall, Error> {
        let Self {
            mut call,
            jitter_seed: seed,
            ..
        } = self;
        let retryable = call.retry_safety.allows_retry_without_response(sent);
        if retryable
            && call.retry_safety != RetrySafety::Never
            && call.schedule_retry(None, now, seed)
        {
            return Ok(call);
        }
        Err(Error::NoResponse(NoResponse { sent, retryable }))
    }

    /// Returns the effect of a response head on the calls that wait for a permit of the
    /// [`NonceGate`](crate::driver::NonceGate).
    pub fn nonce_outcome(&self, status: StatusCode, headers: &HeaderMap) -> NonceOutcome {
        let sent = self.sent_proof.as_ref().and_then(SentProof::nonce);
        let nonce = Nonce::from_headers_or_known(sent, headers);
        match nonce {
            Some(nonce) if sent != Some(&nonce) => match sent {
                Some(_) if code(status, &Challenge::all(headers)) == Some("use_dpop_nonce") => {
                    NonceOutcome::Rejected
                }
                _ => NonceOutcome::Rotated,
            },
            _ => NonceOutcome::Unchanged,
        }
    }

    /// Evaluates the status and headers of a response: whether to deliver it to the application, to
    /// send the call again, or to replace the token. Records its nonce in `server_state`.
    ///
    /// # Errors
    /// Returns [`Error::Server`] with the code `use_dpop_nonce` if the server keeps rejecting its
    /// own nonces.
    pub fn verdict(
        self,
        status: StatusCode,
        headers: &HeaderMap,
        server_state: &mut ServerState,
        now: UnixTime,
    ) -> Result<Verdict, Error> {
        let Self {
            mut call,
            sent_proof,
            jitter_seed,
        } = self;
        let uri = call.uri.clone();
        let (role, target) = (Role::ResourceServer, HttpTarget::parse(&uri)?);
        server_state.record_nonce(role, &target, headers, now);
        if !status.is_client_error() && !status.is_server_error() {
            return Ok(Verdict::Deliver);
        }
        let retry_after = retry_after::read(headers, now);
        if call.retry_safety.allows_retry_after(status, retry_after)
            && call.schedule_retry(retry_after, now, jitter_seed)
        {
            return Ok(Verdict::RetryAfter(call));
        }
        if !status.is_client_error() {
            return Ok(Verdict::Deliver);
        }
        let challenges = Challenge::all(headers);
        let code = code(status, &challenges);
        let description = challenges
            .iter()
            .find_map(|challenge| challenge.param("error_description"));
        let rejection = ProofRejection {
            code,
            description,
            headers,
        };
        let is_bound = sent_proof.is_some();
        let corrected = sent_proof.is_some_and(|sent_proof| {
            call.corrections.try_correct(
                &rejection,
                &sent_proof,
                (role, &target),
                server_state,
                now,
            )
        });
        if corrected {
            call.retry.retry_now();
            // The server rejected the proof, not the token.
            return Ok(if call.retry_safety == RetrySafety::Never {
                Verdict::Deliver
            } else {
                Verdict::RetryAfter(call)
            });
        }
        match challenge::error(&challenges) {
            Some("use_dpop_nonce") if is_bound => {
                let secrets = Redactor::from_iter([call.token.access_token().expose()]);
                Err(
                    error_response::read(server_at(&call.uri), status, headers, &[], &secrets, now)
                        .into(),
                )
            }
            Some("invalid_token") => Ok(Verdict::TokenRejected),
            None if status == StatusCode::UNAUTHORIZED => Ok(Verdict::TokenRejected),
            _ => Ok(Verdict::Deliver),
        }
    }
}

/// Returns the error code of a rejection. Some servers demand a nonce with a bare 401, without the
/// error code `use_dpop_nonce`: it is assumed for them.
fn code(status: StatusCode, challenges: &[Challenge]) -> Option<&str> {
    let may_lack_code =
        challenges.is_empty() || challenges.iter().any(|challenge| challenge.is("DPoP"));
    let assumed = if status == StatusCode::UNAUTHORIZED && may_lack_code {
        Some("use_dpop_nonce")
    } else {
        None
    };
    challenge::error(challenges).or(assumed)
}
