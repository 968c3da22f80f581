//! One request to a server, with its retries: the state machine of operations and calls.

use std::{mem, time::Duration};

use http::{HeaderMap, HeaderValue, Method, StatusCode};

use crate::dpop::proof::AccessTokenHash;
use crate::dpop::sensitive;
use crate::jose::PublicJwk;
use crate::request::attempt::{Attempt, Reason, Retrying};
use crate::request::correction::{CorrectionBudget, ProofContext, SentProof};
use crate::request::effect::{Answer, AuthHeaders, Effect, Next, PreparedCall, PreparedRequest};
use crate::request::retry::{RetrySafety, RetryState, jitter_seed};
use crate::request::verdict::{Correction, Refused, Verdict, verdict};
use crate::request::{
    clock_offset::ClockOffset, endpoint_request::EndpointRequest, nonce_gate::Admission,
    nonce_outcome::NonceOutcome, server_state::Role, servers::Turn,
};
use crate::types::endpoint::{HttpTarget, HttpUri};
use crate::types::error::{Error, NoResponse, Sent, ServerError};
use crate::types::{
    cause::Cause, input::InvalidInput, nonce::Nonce, secret::Secret, time::UnixTime,
};
use crate::wire::challenge::{self, Challenge};
use crate::wire::error_response::{self, Redactor};
use crate::wire::retry_after;

/// A request to one server, its retries, and what is left of their limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exchange {
    pub(crate) subject: Subject,
    pub(crate) safety: RetrySafety,
    pub(crate) retry: RetryState,
    /// The maximum idle time of the connection of the next request to an endpoint.
    pub(crate) max_idle: Duration,
    /// The number of requests that were sent.
    attempts: u32,
    /// The minimum time between two requests, even after failures.
    poll_interval: Duration,
    corrections: CorrectionBudget,
    /// Whether it has the right to send a proof to the server, which it keeps until the verdict.
    has_permit: bool,
    stage: Stage,
}

/// The request itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    /// To an endpoint of an authorization server. The core builds it.
    Endpoint(EndpointRequest),
    /// To a resource server. The application has it, and gets its headers from the core.
    Call(CallRequest),
}

/// The part of an application's request that its headers depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallRequest {
    pub(crate) method: Method,
    pub(crate) uri: HttpUri,
    /// The token, as soon as there is one.
    pub(crate) token: Option<CallToken>,
}

/// The token of a call, as its headers need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallToken {
    /// The scheme and the access token.
    pub(crate) authorization: HeaderValue,
    /// The key of a bound token, and the token's hash.
    pub(crate) proof: Option<(PublicJwk, AccessTokenHash)>,
    /// Whether it is that of a session.
    pub(crate) is_of_session: bool,
    /// Whether another token can take the place of this one if it is rejected.
    pub(crate) has_other: bool,
}

impl CallRequest {
    fn proof(&self) -> Option<&(PublicJwk, AccessTokenHash)> {
        self.token.as_ref()?.proof.as_ref()
    }
}

/// The effect whose answer is awaited.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Stage {
    /// None yet.
    #[default]
    Ready,
    /// The wait before a retry.
    Delayed,
    /// The wait for a permit, at most until this time.
    Queued(UnixTime),
    /// The signature of the client assertion with this `iat`.
    Asserting(UnixTime),
    /// The signature of this proof. The assertion of the request is signed.
    Proving(SentProof, Option<Assertion>),
    /// The response.
    Sent(Option<SentProof>, Option<Assertion>),
}

/// A signed client assertion, and its `iat`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Assertion(Secret, UnixTime);

/// The result of a call: a response for the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct Delivered {
    /// Whether the server rejected the token (RFC 6750 §3.1 `invalid_token`, or a 401 without an
    /// error code).
    pub token_rejected: bool,
}

impl Exchange {
    pub(crate) fn new(subject: Subject, safety: RetrySafety) -> Self {
        Self {
            subject,
            safety,
            retry: RetryState::default(),
            max_idle: Duration::ZERO,
            attempts: 0,
            poll_interval: Duration::ZERO,
            corrections: CorrectionBudget::default(),
            has_permit: false,
            stage: Stage::Ready,
        }
    }

    /// Delays the first request, and sets the poll interval to the same time. Polls are sent over new
    /// connections: after that time, many servers are about to close an idle one.
    pub(crate) fn delayed_by(mut self, wait: Duration) -> Self {
        self.max_idle = Duration::ZERO;
        self.retry.reset(wait);
        self.poll_interval = wait;
        self
    }

    /// Sets the token of a call. Its retries start anew; its time goes on.
    pub(crate) fn authorize(&mut self, token: CallToken) {
        if let Subject::Call(call) = &mut self.subject {
            call.token = Some(token);
        }
        self.corrections = CorrectionBudget::default();
        self.retry.restart();
        self.stage = Stage::Ready;
    }

    /// Returns whether the request can be repeated as it is.
    pub(crate) fn is_repeatable(&self) -> bool {
        self.safety != RetrySafety::Never
    }

    /// Takes the answer to the last effect of this request. The response of an endpoint is first
    /// parsed elsewhere, and comes here only if it is [refused](Self::refused).
    pub(crate) fn advance(&mut self, answer: Answer<'_>, turn: &mut Turn<'_>) -> Next<Delivered> {
        match (mem::take(&mut self.stage), answer) {
            (Stage::Ready, Answer::Go) => self.begin(turn),
            (Stage::Delayed, Answer::Go) => self.prepare(None, turn),
            (Stage::Queued(until), Answer::Go) => self.prepare(Some(until), turn),
            (Stage::Asserting(iat), Answer::Signed(Ok(jws))) => {
                // A JWS has only base64url characters and dots.
                let jws = Secret::new(String::from_utf8(jws).unwrap_or_default());
                self.prove(Some(Assertion(jws, iat)), turn)
            }
            (Stage::Proving(proof, assertion), Answer::Signed(Ok(jws))) => {
                let proof = Some((proof, sensitive(jws)));
                self.send(proof, assertion, turn)
            }
            (Stage::Sent(proof, _), Answer::Head { status, headers }) => {
                self.received(proof, status, headers, turn)
            }
            (Stage::Sent(..), Answer::StatusOnly(status)) => self.status_only(status, turn),
            (Stage::Sent(..), Answer::NoResponse(sent, cause)) => self.lost(sent, cause, turn),
            (_, Answer::Signed(Err(error))) => {
                self.release(NonceOutcome::NoResponse, turn);
                Next::Done(Err(error))
            }
            _ => Next::Done(Err(unexpected_answer())),
        }
    }

    /// Starts an attempt, after its delay.
    pub(crate) fn begin(&mut self, turn: &mut Turn<'_>) -> Next<Delivered> {
        let delay = self.retry.delay();
        if delay.is_zero() {
            return self.prepare(None, turn);
        }
        self.stage = Stage::Delayed;
        Next::Effect(Effect::wait_until(turn.context.now.saturating_add(delay)))
    }

    /// Continues the flow after an expected response: immediately at another metadata URL, or after
    /// the polling interval of a device code. The timeout starts anew after an interval.
    pub(crate) fn continue_after(&mut self, wait: Duration) {
        self.retry.reset(wait);
        self.poll_interval = wait;
        self.corrections = CorrectionBudget::default();
    }

    /// Waits for a permit, if the request needs one, and builds the request. `queued_until` is the
    /// end of a wait that has begun.
    fn prepare(&mut self, queued_until: Option<UnixTime>, turn: &mut Turn<'_>) -> Next<Delivered> {
        let now = turn.context.now;
        self.retry.start_attempt(now);
        if let Subject::Call(call) = &self.subject {
            if call.proof().is_some() && !self.has_permit {
                // Half of the time is left for the call itself.
                let until = queued_until
                    .unwrap_or_else(|| now.saturating_add(self.retry.time_left(now) / 2));
                match turn.servers.gate.acquire(turn.id, &call.uri.target(), now) {
                    Admission::Admitted => self.has_permit = true,
                    Admission::Wait(patience) if now < until.min(patience) => {
                        self.stage = Stage::Queued(until);
                        let generation = turn.servers.generation();
                        return Next::Effect(Effect::wait_for_change(
                            generation,
                            until.min(patience),
                        ));
                    }
                    // The request that holds the permit may hang.
                    Admission::Wait(_) => {}
                }
            }
        }
        match self.assert_client(turn) {
            Some(effect) => Next::Effect(effect),
            None => self.prove(None, turn),
        }
    }

    /// Asks for the signature of a client assertion, if the client authenticates by one.
    fn assert_client(&mut self, turn: &mut Turn<'_>) -> Option<Effect> {
        let Subject::Endpoint(request) = &self.subject else {
            return None;
        };
        let assertion = request.assertion()?;
        let target = request.endpoint.target();
        let entry = turn.servers.known.get(Role::AuthorizationServer, &target);
        let clock = entry.map(|entry| entry.clock_offset).unwrap_or_default();
        let iat = clock.apply(turn.context.now);
        self.stage = Stage::Asserting(iat);
        let request = assertion.sign_request(iat, &turn.context.entropy);
        Some(Effect::Sign(request))
    }

    /// Asks for the signature of a proof, if the request needs one.
    fn prove(&mut self, assertion: Option<Assertion>, turn: &mut Turn<'_>) -> Next<Delivered> {
        let proof = match &self.subject {
            Subject::Endpoint(request) => request.key().map(|key| (key, None)),
            Subject::Call(call) => call.proof().map(|(key, ath)| (key, Some(*ath))),
        };
        let Some((key, ath)) = proof else {
            return self.send(None, assertion, turn);
        };
        let (role, method, target) = self.subject.parts();
        let proof_context = ProofContext {
            role,
            method,
            target,
            ath,
        };
        let (request, proof) = proof_context.prove(key, &turn.servers.known, turn.context);
        self.stage = Stage::Proving(proof, assertion);
        Next::Effect(Effect::Sign(request))
    }

    /// Sends the request, unless its time is over: what a wait or a signature has delayed must not be
    /// sent after the lease under which it was begun.
    fn send(
        &mut self,
        proof: Option<(SentProof, HeaderValue)>,
        assertion: Option<Assertion>,
        turn: &mut Turn<'_>,
    ) -> Next<Delivered> {
        let now = turn.context.now;
        let timeout = self.retry.time_left(now);
        if self.retry.is_over(now) {
            self.release(NonceOutcome::NoResponse, turn);
            let cause = Cause::new("timed out before the request was sent");
            return self.no_response(Sent::No, true, Some(cause));
        }
        let (proof, header) = proof.unzip();
        let max_idle = match self.retry.is_last_attempt() {
            true => Duration::ZERO,
            false => self.max_idle,
        };
        let attempt = self.attempts.saturating_add(1);
        let effect = match &self.subject {
            Subject::Call(call) => {
                let Some(token) = &call.token else {
                    return Next::Done(Err(unexpected_answer()));
                };
                let headers = AuthHeaders {
                    authorization: token.authorization.clone(),
                    proof: header,
                };
                Effect::Call(PreparedCall {
                    headers,
                    timeout,
                    attempt,
                })
            }
            Subject::Endpoint(request) => {
                match request.build(assertion.as_ref().map(|Assertion(jws, _)| jws), header) {
                    Ok(request) => Effect::Send(Box::new(PreparedRequest {
                        request,
                        timeout,
                        max_idle,
                        attempt,
                    })),
                    Err(invalid) => return Next::Done(Err(invalid.into())),
                }
            }
        };
        self.attempts = attempt;
        self.stage = Stage::Sent(proof, assertion);
        Next::Effect(effect)
    }

    /// Returns the secrets of the request that awaits its response, for their redaction.
    pub(crate) fn secrets(&self) -> Redactor {
        let assertion = match &self.stage {
            Stage::Sent(_, Some(Assertion(jws, _))) => Some(jws.expose()),
            _ => None,
        };
        match &self.subject {
            Subject::Endpoint(request) => request.secrets().chain(assertion).collect(),
            Subject::Call(call) => {
                let header = call.token.as_ref().map(|token| &token.authorization);
                let text = header.and_then(|header| header.to_str().ok());
                text.unwrap_or_default().split(' ').skip(1).collect()
            }
        }
    }

    /// Decides on an error response of an endpoint.
    pub(crate) fn refused(
        &mut self,
        refusal: Box<ServerError>,
        headers: &HeaderMap,
        turn: &mut Turn<'_>,
    ) -> Next<Delivered> {
        let Stage::Sent(proof, assertion) = mem::take(&mut self.stage) else {
            return Next::Done(Err(unexpected_answer()));
        };
        let challenges = Challenge::all(headers);
        // `use_dpop_nonce` counts in the challenge as well as in the body.
        let challenged = challenge::error(&challenges).filter(|code| *code == "use_dpop_nonce");
        let clock = assertion.and_then(|Assertion(_, iat)| {
            let offset = self.corrections.clock(headers, iat, turn.context.now);
            if offset.is_none() && self.corrections.has_corrected_clock() {
                // The earlier correction had no effect.
                let (role, _, target) = self.subject.parts();
                let now = turn.context.now;
                turn.servers.forget_corrections(role, &target, now);
            }
            offset
        });
        let facts = Facts {
            status: refusal.status(),
            code: challenged.or(refusal.code()),
            description: refusal.description(),
            retry_after: refusal.retry_after(),
            challenges: &challenges,
            assertion: clock,
        };
        match self.judge(&facts, proof.as_ref(), headers, turn) {
            Verdict::RetryAfter(_) | Verdict::Correct(_) => {
                self.retry_after_response(facts.status, turn)
            }
            Verdict::Done | Verdict::TokenRejected | Verdict::Fail => {
                Next::Done(Err(Error::Server(refusal)))
            }
        }
    }

    /// Decides on the head of a call's response.
    fn received(
        &mut self,
        proof: Option<SentProof>,
        status: StatusCode,
        headers: &HeaderMap,
        turn: &mut Turn<'_>,
    ) -> Next<Delivered> {
        let now = turn.context.now;
        let (role, _, target) = self.subject.parts();
        let known = &mut turn.servers.known;
        known.record_nonce(role, &target, headers, now);
        let nonce = proof.as_ref().and_then(|proof| new_nonce(proof, headers));
        let rotated = match nonce {
            Some(_) => NonceOutcome::Rotated,
            None => NonceOutcome::Unchanged,
        };
        if !status.is_client_error() && !status.is_server_error() {
            self.release(rotated, turn);
            return delivered(false);
        }
        let challenges = Challenge::all(headers);
        let description = challenges
            .iter()
            .find_map(|challenge| challenge.param("error_description"));
        let facts = Facts {
            status,
            code: challenge::error(&challenges),
            description,
            retry_after: retry_after::read(headers, now),
            challenges: &challenges,
            assertion: None,
        };
        let had_nonce = proof.as_ref().is_some_and(|proof| proof.nonce().is_some());
        let rejects_nonce = had_nonce && nonce.is_some() && facts.refused(self).rejects_nonce();
        let outcome = match rejects_nonce {
            true => NonceOutcome::Rejected,
            false => rotated,
        };
        let verdict = self.judge(&facts, proof.as_ref(), headers, turn);
        // A call that has just received the nonce keeps its permit for an immediate retry. If the
        // nonce was stale, the permit is released, since other calls may be ahead.
        let keeps_permit =
            matches!(verdict, Verdict::Correct(_)) && outcome != NonceOutcome::Rejected;
        if !keeps_permit {
            self.release(outcome, turn);
        }
        match verdict {
            Verdict::Done => delivered(false),
            Verdict::TokenRejected => delivered(true),
            Verdict::RetryAfter(_) | Verdict::Correct(_) => self.retry_after_response(status, turn),
            Verdict::Fail => {
                let (secrets, server) = (self.secrets(), self.subject.target().authority());
                let error = error_response::read(server, status, headers, &[], &secrets, now);
                Next::Done(Err(error.into()))
            }
        }
    }

    /// Decides on a call's response without its headers. It could be about the proof or about the
    /// token: the headers of another response tell, if the request may be repeated.
    fn status_only(&mut self, status: StatusCode, turn: &mut Turn<'_>) -> Next<Delivered> {
        let is_bound = matches!(&self.subject, Subject::Call(call) if call.proof().is_some());
        let is_rejection = status == StatusCode::UNAUTHORIZED;
        // A 400 can concern only a proof.
        let is_unclear = is_rejection || (is_bound && status == StatusCode::BAD_REQUEST);
        if is_unclear && self.safety == RetrySafety::Idempotent && self.corrections.may_read_head()
        {
            self.corrections.spend(Correction::Head, false);
            self.retry.retry_now();
            return self.retry_after_response(status, turn);
        }
        self.release(NonceOutcome::Unchanged, turn);
        // Without its headers, a rejection may be that of the proof.
        delivered(is_rejection && !is_bound)
    }

    /// Decides on a request without a response.
    fn lost(&mut self, sent: Sent, cause: Option<Cause>, turn: &mut Turn<'_>) -> Next<Delivered> {
        self.release(NonceOutcome::NoResponse, turn);
        let retryable = self.safety.allows_retry_without_response(sent);
        #[cfg(feature = "record")]
        turn.servers.judge(
            match sent {
                Sent::No => "not sent",
                Sent::Maybe => "no response",
            },
            None,
            match retryable {
                true => "retry while attempts and time are left",
                false => "not sent again: it may have been processed",
            },
        );
        // If its connection may have been idle, a retry over a new one needs no delay.
        let may_be_idle = !mem::take(&mut self.max_idle).is_zero()
            && sent == Sent::Maybe
            && !self.retry.time_left(turn.context.now).is_zero();
        let delay = may_be_idle.then_some(Duration::ZERO);
        if retryable && self.is_repeatable() && self.schedule_retry(delay, turn) {
            self.corrections = CorrectionBudget::default();
            turn.servers.retrying(self.retrying(Reason::NoResponse));
            return self.begin(turn);
        }
        self.no_response(sent, retryable, cause)
    }

    fn no_response(&self, sent: Sent, retryable: bool, cause: Option<Cause>) -> Next<Delivered> {
        Next::Done(Err(Error::NoResponse(Box::new(NoResponse {
            sent,
            retryable,
            host: self.subject.target().authority(),
            cause,
        }))))
    }

    /// Returns the verdict on a response, and applies it to this request and to what is known of
    /// the server.
    fn judge(
        &mut self,
        facts: &Facts<'_>,
        proof: Option<&SentProof>,
        headers: &HeaderMap,
        turn: &mut Turn<'_>,
    ) -> Verdict {
        let now = turn.context.now;
        let mut refused = facts.refused(self);
        if self
            .safety
            .allows_retry_after(facts.status, facts.retry_after)
        {
            refused.may_wait = self.schedule_retry(facts.retry_after, turn);
        }
        refused.proof = proof.map(|proof| self.corrections.correctable(proof, headers, now));
        let (verdict, correction) = (verdict(&refused), refused.correction());
        #[cfg(feature = "record")]
        (turn.servers).judge(facts.status.as_u16(), facts.code, &verdict.text());
        // Was the proof rejected, perhaps by the code for the token?
        let is_proof_error = refused.is_proof_error()
            || (refused.blames_token() && self.corrections.has_corrected_clock());
        let (role, _, target) = self.subject.parts();
        if let Some(proof) = proof.filter(|_| refused.rejects_nonce()) {
            self.corrections.nonce_rejected(proof);
        }
        match verdict {
            Verdict::RetryAfter(_) => {
                // The server may change its state during the delay, such as its nonce.
                self.corrections = CorrectionBudget::default();
                return verdict;
            }
            Verdict::Correct(correction) => {
                self.corrections.spend(correction, !refused.rejects_nonce());
                self.retry.retry_now();
            }
            _ => {}
        }
        match correction {
            // Also if this request itself can't be sent again.
            Some(correction) => turn.servers.correct(role, &target, correction, now),
            // The corrections had no effect: the next proof is made without them.
            None if is_proof_error && proof.is_some() => {
                turn.servers.forget_corrections(role, &target, now);
            }
            None => {}
        }
        verdict
    }

    /// Schedules a retry after a transient failure. Returns whether an attempt and enough time are
    /// left.
    fn schedule_retry(&mut self, retry_after: Option<Duration>, turn: &Turn<'_>) -> bool {
        self.retry.schedule_retry(
            retry_after,
            self.poll_interval,
            turn.context.now,
            jitter_seed(turn.context),
        )
    }

    fn retry_after_response(&mut self, status: StatusCode, turn: &mut Turn<'_>) -> Next<Delivered> {
        let reason = Reason::ServerResponse(status);
        turn.servers.retrying(self.retrying(reason));
        self.begin(turn)
    }

    /// Returns the event of the retry that follows the last attempt.
    pub(crate) fn retrying(&self, reason: Reason) -> Retrying {
        let (role, _, target) = self.subject.parts();
        Retrying {
            attempt: Attempt::at(target.base(), role, self.attempts),
            wait: self.retry.delay(),
            reason,
        }
    }

    /// Returns the number of requests that were sent.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    fn release(&mut self, outcome: NonceOutcome, turn: &mut Turn<'_>) {
        if mem::take(&mut self.has_permit) {
            let now = turn.context.now;
            let target = self.subject.target();
            turn.servers.release(turn.id, &target, outcome, now);
        }
    }
}

impl Subject {
    pub(crate) fn target(&self) -> HttpTarget<'_> {
        self.parts().2
    }

    pub(crate) fn parts(&self) -> (Role, &Method, HttpTarget<'_>) {
        match self {
            Self::Endpoint(request) => (
                Role::AuthorizationServer,
                request.method(),
                request.endpoint.target(),
            ),
            Self::Call(call) => (Role::ResourceServer, &call.method, call.uri.target()),
        }
    }
}

/// The parts of a response that the verdict depends on.
struct Facts<'a> {
    status: StatusCode,
    code: Option<&'a str>,
    description: Option<&'a str>,
    retry_after: Option<Duration>,
    challenges: &'a [Challenge],
    assertion: Option<ClockOffset>,
}

impl<'a> Facts<'a> {
    fn refused(&self, exchange: &Exchange) -> Refused<'a> {
        let sends_token = |challenge: &Challenge| challenge.is("DPoP") || challenge.is("Bearer");
        let is_dpop = |challenge: &Challenge| challenge.is("DPoP");
        let token = match &exchange.subject {
            Subject::Call(call) => call.token.as_ref(),
            Subject::Endpoint(_) => None,
        };
        Refused {
            role: exchange.subject.parts().0,
            status: self.status,
            safety: exchange.safety,
            retry_after: self.retry_after,
            may_wait: false,
            code: self.code,
            blames_proof: self
                .description
                .is_some_and(|text| text.to_ascii_lowercase().contains("dpop")),
            is_other_scheme: !self.challenges.is_empty()
                && !self.challenges.iter().any(sends_token),
            may_want_proof: self.challenges.is_empty() || self.challenges.iter().any(is_dpop),
            is_of_session: token.is_some_and(|token| token.is_of_session),
            has_other_token: token.is_some_and(|token| token.has_other),
            proof: None,
            assertion: self.assertion,
        }
    }
}

/// Returns the nonce of a response, if the proof had another one or none.
fn new_nonce(proof: &SentProof, headers: &HeaderMap) -> Option<Nonce> {
    Nonce::from_headers_or_known(proof.nonce(), headers)
        .filter(|nonce| Some(nonce) != proof.nonce())
}

fn delivered(token_rejected: bool) -> Next<Delivered> {
    Next::Done(Ok(Delivered { token_rejected }))
}

/// The error of a driver that answered another effect than the one it was given.
pub(crate) fn unexpected_answer() -> Error {
    InvalidInput::new("answer", "must be that to the effect of the step").into()
}
