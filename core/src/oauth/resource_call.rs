//! Calls of protected resources: headers for anybody's request, and what its response means for the token.

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
    /// Begins a call of a protected resource (RFC 9449 §7, RFC 6750 §2.1).
    ///
    /// # Errors
    /// `InvalidInput` for a URL that a proof can't name, plain `http` beyond this machine, a token whose type has no
    /// known scheme, and a bound token whose key isn't known.
    pub fn authorize(&self, method: &Method, uri: &Uri) -> Result<ResourceCall, InvalidInput> {
        ResourceCall::new(self, method, uri)
    }
}

/// A call of a protected resource, before its next request. Its body never passes through here.
///
/// It goes the way of an [`Operation`](crate::Operation): prepared, sent by whoever has the request, judged,
/// perhaps prepared again. After 429, 502, 503, 504 and a lost connection an idempotent request (RFC 9110 §9.2.2)
/// is sent again; any other only if nothing was sent, after 429, and after a 503 that names a time to come back.
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

/// By one of these the server tells a repetition from a second request (draft-ietf-httpapi-idempotency-key-header;
/// the other is the name that Moov and Treasury Prime have for it).
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
                    "must be bound to a key that is known here: it is of type DPoP",
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

    /// Looks at the request's own headers: with an `Idempotency-Key` it may be repeated like a `GET`.
    pub fn detect_idempotency_key(mut self, headers: &HeaderMap) -> Self {
        if IDEMPOTENCY_KEYS
            .into_iter()
            .any(|name| headers.contains_key(name))
        {
            self.retry_safety = RetrySafety::Idempotent;
        }
        self
    }

    /// Says that the request can't be sent a second time, because its body is used up by the first.
    pub fn single_use_body(mut self) -> Self {
        self.retry_safety = RetrySafety::Never;
        self
    }

    /// How long the whole call may take, counted from its first request: no wait is begun that would end later.
    /// 30 s unless set.
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

    /// Whether its requests have proofs.
    pub fn is_bound(&self) -> bool {
        self.token.key().is_some()
    }

    /// How long to wait before the next request goes out. Zero at first, and after a refused proof.
    pub fn delay(&self) -> Duration {
        self.retry.delay()
    }

    /// Makes the headers of the next request; for a bound token they must be signed.
    ///
    /// # Errors
    /// None that [`Token::authorize`] has not ruled out.
    pub fn prepare(
        mut self,
        origins: &ServerState,
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
        let (to_sign, said) = proof_context.prove(key, origins, context);
        let pending = PendingCall {
            call: self,
            sent_proof: Some(said),
            jitter_seed: seed,
        };
        Ok(Signing::Needs(Unsigned::new(to_sign, pending)))
    }

    /// Whether it goes on after a failure that may pass.
    fn schedule_retry(&mut self, asked: Option<Duration>, now: UnixTime, seed: u64) -> bool {
        // What the server knew before the pause, it may have forgotten: its nonce, for one.
        self.corrections = CorrectionBudget::default();
        self.retry.schedule_retry(asked, Duration::ZERO, now, seed)
    }
}

/// The headers for a request, and what will judge its response.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct PreparedCall {
    /// To be applied to the request.
    pub headers: AuthHeaders,
    /// To be shown the response's head.
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

/// `Authorization`, and `DPoP` for a bound token; both marked sensitive.
#[must_use]
#[derive(Debug)]
pub struct AuthHeaders {
    authorization: HeaderValue,
    proof: Option<HeaderValue>,
}

impl AuthHeaders {
    /// Puts them among a request's headers, in place of any that were there.
    pub fn apply(self, headers: &mut HeaderMap) {
        headers.insert(AUTHORIZATION, self.authorization);
        match self.proof {
            Some(proof) => headers.insert(DPOP, proof),
            None => headers.remove(DPOP),
        };
    }
}

/// A call whose request is under way.
#[must_use]
#[derive(Debug)]
pub struct PendingCall {
    call: ResourceCall,
    /// What the request's proof says.
    sent_proof: Option<SentProof>,
    /// Random, for the pause that may follow.
    jitter_seed: u64,
}

/// What a response means for the token.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
pub enum Verdict {
    /// Nothing: it is the application's.
    Deliver,
    /// Prepare the call and send it again, after its [`delay`](ResourceCall::delay): the server wants another proof, with
    /// its new nonce (RFC 9449 §9), at its clock's time, or under its name for the algorithm; or it is busy.
    RetryAfter(ResourceCall),
    /// The token is refused (RFC 6750 §3.1 `invalid_token`, or a bare 401). The response is the application's
    /// all the same.
    TokenRejected,
}

impl PendingCall {
    /// Says that no response came, and whether anything may have been sent.
    ///
    /// # Errors
    /// `NoResponse` where the request isn't sent again by itself.
    pub fn transport_failed(self, sent: Sent, now: UnixTime) -> Result<ResourceCall, Error> {
        let Self {
            mut call,
            jitter_seed: seed,
            ..
        } = self;
        let repeatable = call.retry_safety.allows_retry_without_response(sent);
        if repeatable
            && call.retry_safety != RetrySafety::Never
            && call.schedule_retry(None, now, seed)
        {
            return Ok(call);
        }
        Err(Error::NoResponse(NoResponse {
            sent,
            retryable: repeatable,
        }))
    }

    /// What the head of a response means for the calls that wait for their [turn](crate::driver::NonceGate).
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

    /// Takes the head of the response, whatever its status.
    ///
    /// # Errors
    /// `Server`, with the code `use_dpop_nonce`, where a server is content with no nonce.
    pub fn verdict(
        self,
        status: StatusCode,
        headers: &HeaderMap,
        origins: &mut ServerState,
        now: UnixTime,
    ) -> Result<Verdict, Error> {
        let Self {
            mut call,
            sent_proof,
            jitter_seed,
        } = self;
        let uri = call.uri.clone();
        let (role, target) = (Role::ResourceServer, HttpTarget::parse(&uri)?);
        origins.record_nonce(role, &target, headers, now);
        if !status.is_client_error() && !status.is_server_error() {
            return Ok(Verdict::Deliver);
        }
        let asked = retry_after::read(headers, now);
        if call.retry_safety.allows_retry_after(status, asked)
            && call.schedule_retry(asked, now, jitter_seed)
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
        let answered = sent_proof.is_some_and(|said| {
            call.corrections
                .try_correct(&rejection, &said, (role, &target), origins, now)
        });
        if answered {
            call.retry.retry_now();
            // It was the proof's fault, not the token's.
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

/// The error of a refusal. Some servers challenge by the nonce alone, without a word of it.
fn code(status: StatusCode, challenges: &[Challenge]) -> Option<&str> {
    let speechless =
        challenges.is_empty() || challenges.iter().any(|challenge| challenge.is("DPoP"));
    let meant = if status == StatusCode::UNAUTHORIZED && speechless {
        Some("use_dpop_nonce")
    } else {
        None
    };
    challenge::error(challenges).or(meant)
}
