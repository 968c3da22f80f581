//! The decision on a response that is not a success: one pure function for authorization servers
//! and resource servers.

use std::time::Duration;

use http::StatusCode;

use crate::jose::Algorithm;
use crate::request::{clock_offset::ClockOffset, retry::RetrySafety, server_state::Role};
use crate::types::nonce::Nonce;

/// What follows from a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The response belongs to the application.
    Done,
    /// Retry after this delay, or after a backoff if the server named none.
    RetryAfter(Option<Duration>),
    /// Correct this, and retry at once.
    Correct(Correction),
    /// The server rejected the token. The response belongs to the application.
    TokenRejected,
    /// The error of the server is the result.
    Fail,
}

#[cfg(feature = "record")]
impl Verdict {
    /// Returns what follows, in words.
    pub(crate) fn text(self) -> String {
        match self {
            Self::Done => "the response is the application's".to_owned(),
            Self::RetryAfter(Some(delay)) => format!("retry after {} ms", delay.as_millis()),
            Self::RetryAfter(None) => "retry after a backoff".to_owned(),
            Self::Correct(Correction::Nonce) => "send again with the server's nonce".to_owned(),
            Self::Correct(Correction::Algorithm(name)) => {
                format!("send again with the algorithm name {name}")
            }
            Self::Correct(Correction::Clock(_)) => "send again with the server's time".to_owned(),
            Self::Correct(Correction::Head) => "send again to read the headers".to_owned(),
            Self::TokenRejected => "the token is rejected".to_owned(),
            Self::Fail => "the server's error is the result".to_owned(),
        }
    }
}

/// What another attempt changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Correction {
    /// The proof gets the server's new nonce (RFC 9449 §8, §9).
    Nonce,
    /// The proof names its algorithm as the server does.
    Algorithm(Algorithm),
    /// Proof and client assertion are dated by the server's clock.
    Clock(ClockOffset),
    /// The head of the response, which the driver could not read, is read.
    Head,
}

/// All that the verdict on a response depends on.
#[derive(Clone, Debug)]
pub(crate) struct Refused<'a> {
    pub(crate) role: Role,
    pub(crate) status: StatusCode,
    pub(crate) safety: RetrySafety,
    /// The delay that the server requests.
    pub(crate) retry_after: Option<Duration>,
    /// Whether an attempt and enough time are left for a retry.
    pub(crate) may_wait: bool,
    /// The error code of the body or of a challenge.
    pub(crate) code: Option<&'a str>,
    /// Whether the description of the error mentions DPoP.
    pub(crate) blames_proof: bool,
    /// Whether there are challenges, and all are of schemes that send no access token.
    pub(crate) is_other_scheme: bool,
    /// Whether a challenge asks for a proof, or there is none that could ask for something else.
    pub(crate) may_want_proof: bool,
    /// Whether the token is that of a session.
    pub(crate) is_of_session: bool,
    /// Whether the token was there before the call, and its session may get another one.
    pub(crate) has_other_token: bool,
    /// What could be corrected in the request's proof; `None` if it had none.
    pub(crate) proof: Option<Correctable>,
    /// What could be corrected in the request's client assertion.
    pub(crate) assertion: Option<ClockOffset>,
}

/// What could be corrected in a proof, as far as the response and the budget allow.
#[derive(Clone, Debug, Default)]
pub(crate) struct Correctable {
    /// The nonce of the response, if the proof had another one or none.
    pub(crate) nonce: Option<Nonce>,
    /// Whether the proof had a nonce.
    pub(crate) had_nonce: bool,
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) clock: Option<ClockOffset>,
}

/// Returns what follows from a response with a 4xx or 5xx status, or with an error in a 200.
pub(crate) fn verdict(refused: &Refused<'_>) -> Verdict {
    let is_call = refused.role == Role::ResourceServer;
    let give_up = if is_call {
        Verdict::Done
    } else {
        Verdict::Fail
    };
    if refused
        .safety
        .allows_retry_after(refused.status, refused.retry_after)
    {
        return match refused.may_wait {
            true => Verdict::RetryAfter(refused.retry_after),
            false => give_up,
        };
    }
    if !refused.status.is_client_error() {
        return give_up;
    }
    match refused.correction() {
        None => {}
        // It may be the token after all: it is not used again, if there may be another one.
        Some(_) if refused.blames_token() && refused.has_other_token => {
            return Verdict::TokenRejected;
        }
        Some(correction) if refused.safety != RetrySafety::Never => {
            return Verdict::Correct(correction);
        }
        // A request that can be sent once is not sent again, whatever was wrong with its proof.
        Some(_) if refused.blames_token() => return Verdict::TokenRejected,
        Some(_) => return give_up,
    }
    match refused.code {
        _ if !is_call => Verdict::Fail,
        Some("use_dpop_nonce") if refused.proof.is_some() => Verdict::Fail,
        Some("invalid_token") => Verdict::TokenRejected,
        // A challenge of another scheme says nothing about the token (RFC 9110 §11.6.1).
        None if refused.status == StatusCode::UNAUTHORIZED && !refused.is_other_scheme => {
            Verdict::TokenRejected
        }
        _ => Verdict::Done,
    }
}

impl Refused<'_> {
    /// Returns what a later request corrects, if the rejection may be due to it.
    pub(crate) fn correction(&self) -> Option<Correction> {
        if !self.status.is_client_error() {
            return None;
        }
        if let Some(proof) = &self.proof {
            let nonce = proof.nonce.as_ref().map(|_| Correction::Nonce);
            if self.wants_nonce() {
                return nonce;
            }
            let clock = proof.clock.map(Correction::Clock);
            if self.is_proof_error() {
                let algorithm = proof.algorithm.map(Correction::Algorithm);
                // A new nonce without `use_dpop_nonce` is an error of the server (RFC 9449 §8).
                return algorithm.or(clock).or(nonce);
            }
            // Servers that verify the proof with the token blame the token for it.
            if self.blames_token() {
                // A nonce that changes with each response says nothing about the fault.
                let nonce = nonce.filter(|_| !(self.is_of_session && proof.had_nonce));
                return clock.or(nonce);
            }
        }
        let assertion = self
            .assertion
            .filter(|_| self.code == Some("invalid_client"));
        assertion.map(Correction::Clock)
    }

    /// Returns whether a resource server rejected the token (RFC 6750 §3.1), and not the proof by
    /// the same code.
    pub(crate) fn blames_token(&self) -> bool {
        let is_call = self.role == Role::ResourceServer;
        is_call && self.code == Some("invalid_token") && !self.is_proof_error()
    }

    /// Returns whether the server requires a nonce (RFC 9449 §8, §9). Some resource servers do so
    /// with a 401 alone.
    fn wants_nonce(&self) -> bool {
        match self.code {
            Some(code) => code == "use_dpop_nonce",
            None => {
                self.role == Role::ResourceServer
                    && self.status == StatusCode::UNAUTHORIZED
                    && self.may_want_proof
            }
        }
    }

    /// Returns whether the server rejected the nonce in the proof, and not another part of it.
    pub(crate) fn rejects_nonce(&self) -> bool {
        self.status.is_client_error() && self.wants_nonce()
    }

    /// Returns whether the proof caused the rejection: `invalid_dpop_proof` (RFC 9449 §5, §7.1), or
    /// the codes that Keycloak and others use in its place.
    pub(crate) fn is_proof_error(&self) -> bool {
        match self.code {
            Some("invalid_dpop_proof") => true,
            Some("invalid_request" | "invalid_token") => self.blames_proof,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::time::UnixTime;

    const ALL: [RetrySafety; 4] = [
        RetrySafety::Idempotent,
        RetrySafety::SingleUse,
        RetrySafety::NonIdempotent,
        RetrySafety::Never,
    ];

    /// An error response to an idempotent request with a proof, in which nothing can be corrected.
    fn to(role: Role, status: u16, code: &'static str) -> Refused<'static> {
        Refused {
            role,
            status: StatusCode::from_u16(status).unwrap(),
            safety: RetrySafety::Idempotent,
            retry_after: None,
            may_wait: true,
            is_of_session: false,
            has_other_token: false,
            code: Some(code).filter(|code| !code.is_empty()),
            blames_proof: false,
            is_other_scheme: false,
            may_want_proof: true,
            proof: Some(Correctable::default()),
            assertion: None,
        }
    }

    fn endpoint(status: u16, code: &'static str) -> Refused<'static> {
        to(Role::AuthorizationServer, status, code)
    }

    fn call(status: u16, code: &'static str) -> Refused<'static> {
        to(Role::ResourceServer, status, code)
    }

    fn nonce() -> Option<Nonce> {
        Some(Nonce::new("new").unwrap())
    }

    fn clock() -> ClockOffset {
        ClockOffset::from_date_header(UnixTime::from_secs(9), UnixTime::from_secs(1))
    }

    impl Refused<'static> {
        fn safety(self, safety: RetrySafety) -> Self {
            Self { safety, ..self }
        }

        fn asks_to_wait(self, secs: u64) -> Self {
            let retry_after = Some(Duration::from_secs(secs));
            Self {
                retry_after,
                ..self
            }
        }

        fn too_late(self) -> Self {
            Self {
                may_wait: false,
                ..self
            }
        }

        fn blaming_the_proof(self) -> Self {
            Self {
                blames_proof: true,
                ..self
            }
        }

        /// All challenges are of schemes other than `Bearer` and `DPoP`.
        fn of_other_schemes(self) -> Self {
            Self {
                is_other_scheme: true,
                may_want_proof: false,
                ..self
            }
        }

        /// The challenges are of the scheme `Bearer` alone.
        fn of_bearer(self) -> Self {
            Self {
                may_want_proof: false,
                ..self
            }
        }

        fn without_proof(self) -> Self {
            Self {
                has_other_token: false,
                proof: None,
                ..self
            }
        }

        fn with(self, correct: impl Fn(&mut Correctable)) -> Self {
            let mut proof = self.proof.clone().unwrap_or_default();
            correct(&mut proof);
            Self {
                proof: Some(proof),
                ..self
            }
        }

        fn new_nonce(self) -> Self {
            self.with(|proof| proof.nonce = nonce())
        }

        fn wrong_clock(self) -> Self {
            self.with(|proof| proof.clock = Some(clock()))
        }

        fn other_algorithm(self) -> Self {
            self.with(|proof| proof.algorithm = Some(Algorithm::Ed25519))
        }

        fn wrong_assertion_clock(self) -> Self {
            Self {
                assertion: Some(clock()),
                ..self
            }
        }
    }

    const NONCE: Verdict = Verdict::Correct(Correction::Nonce);
    const ALGORITHM: Verdict = Verdict::Correct(Correction::Algorithm(Algorithm::Ed25519));

    fn clock_corrected() -> Verdict {
        Verdict::Correct(Correction::Clock(clock()))
    }

    fn holds(table: impl IntoIterator<Item = (Refused<'static>, Verdict)>) {
        for (refused, expected) in table {
            assert_eq!(verdict(&refused), expected, "{refused:?}");
        }
    }

    /// DESIGN.md has this table.
    #[test]
    fn the_verdict_on_each_response_is_that_of_the_table() {
        let done = Verdict::Done;
        let (fail, rejected) = (Verdict::Fail, Verdict::TokenRejected);
        holds([
            // The nonce: the code counts, at resource servers also a 401 without one.
            (endpoint(400, "use_dpop_nonce").new_nonce(), NONCE),
            (endpoint(401, "use_dpop_nonce").new_nonce(), NONCE),
            (endpoint(400, "use_dpop_nonce"), fail),
            (endpoint(400, "use_dpop_nonce").without_proof(), fail),
            (endpoint(400, "").new_nonce(), fail),
            (endpoint(401, "").new_nonce(), fail),
            (call(401, "use_dpop_nonce").new_nonce(), NONCE),
            (call(400, "use_dpop_nonce").new_nonce(), NONCE),
            (call(401, "use_dpop_nonce").of_bearer().new_nonce(), NONCE),
            (call(401, "use_dpop_nonce"), fail),
            (call(401, "use_dpop_nonce").without_proof(), done),
            (call(401, "").new_nonce(), NONCE),
            (call(400, "").new_nonce(), done),
            (call(403, "").new_nonce(), done),
            (call(401, "").of_bearer().new_nonce(), rejected),
            (call(401, "").of_other_schemes().new_nonce(), done),
            (call(401, ""), rejected),
            // The proof: the algorithm first, then the clock, then a nonce without its code.
            (endpoint(400, "invalid_dpop_proof"), fail),
            (endpoint(400, "invalid_dpop_proof").new_nonce(), NONCE),
            (
                endpoint(400, "invalid_dpop_proof")
                    .new_nonce()
                    .wrong_clock(),
                clock_corrected(),
            ),
            (
                endpoint(400, "invalid_dpop_proof")
                    .wrong_clock()
                    .other_algorithm(),
                ALGORITHM,
            ),
            (endpoint(400, "invalid_request").wrong_clock(), fail),
            (
                endpoint(400, "invalid_request")
                    .blaming_the_proof()
                    .wrong_clock(),
                clock_corrected(),
            ),
            (
                endpoint(400, "invalid_request")
                    .blaming_the_proof()
                    .new_nonce(),
                NONCE,
            ),
            (
                endpoint(400, "invalid_grant")
                    .blaming_the_proof()
                    .new_nonce()
                    .wrong_clock()
                    .other_algorithm(),
                fail,
            ),
            (
                endpoint(400, "use_dpop_nonce")
                    .wrong_clock()
                    .other_algorithm(),
                fail,
            ),
            (call(401, "invalid_dpop_proof"), done),
            (call(400, "invalid_dpop_proof"), done),
            (call(401, "invalid_dpop_proof").new_nonce(), NONCE),
            (
                call(401, "invalid_dpop_proof").new_nonce().wrong_clock(),
                clock_corrected(),
            ),
            (
                call(401, "invalid_dpop_proof")
                    .wrong_clock()
                    .other_algorithm(),
                ALGORITHM,
            ),
            (call(401, "invalid_dpop_proof").without_proof(), done),
            // The token: servers that verify the proof with it blame it for the proof.
            (call(401, "invalid_token"), rejected),
            (call(400, "invalid_token"), rejected),
            (call(403, "invalid_token"), rejected),
            (call(401, "invalid_token").without_proof(), rejected),
            (call(401, "invalid_token").of_bearer(), rejected),
            (call(401, "invalid_token").new_nonce(), NONCE),
            (
                call(401, "invalid_token").new_nonce().wrong_clock(),
                clock_corrected(),
            ),
            (call(401, "invalid_token").other_algorithm(), rejected),
            (
                call(401, "invalid_token")
                    .blaming_the_proof()
                    .other_algorithm(),
                ALGORITHM,
            ),
            (call(401, "invalid_token").blaming_the_proof(), rejected),
            (endpoint(401, "invalid_token").wrong_clock(), fail),
            (endpoint(401, "invalid_token").new_nonce(), fail),
            // A bare 401 rejects the token, unless it is a challenge for other credentials.
            (call(401, "").without_proof(), rejected),
            (call(401, "").of_bearer(), rejected),
            (call(401, "").of_other_schemes(), done),
            (call(401, "").wrong_clock(), rejected),
            (call(403, ""), done),
            (call(404, ""), done),
            (call(403, "insufficient_scope").wrong_clock(), done),
            (call(401, "insufficient_scope"), done),
            (call(401, "invalid_request"), done),
            // The client assertion.
            (
                endpoint(401, "invalid_client").wrong_assertion_clock(),
                clock_corrected(),
            ),
            (
                endpoint(401, "invalid_client")
                    .without_proof()
                    .wrong_assertion_clock(),
                clock_corrected(),
            ),
            (endpoint(401, "invalid_client").wrong_clock(), fail),
            (endpoint(400, "invalid_grant").wrong_assertion_clock(), fail),
            // The rest is the result.
            (endpoint(200, "invalid_grant"), fail),
            (endpoint(400, "invalid_grant"), fail),
            (endpoint(404, ""), fail),
        ]);
    }

    #[test]
    fn a_transient_failure_is_retried_where_the_request_was_not_processed_or_may_be_repeated() {
        // Idempotent, single-use, non-idempotent, and non-idempotent with `Retry-After`.
        let table = [
            (429, [true, true, true, true]),
            (503, [true, true, false, true]),
            (502, [true, false, false, false]),
            (504, [true, false, false, false]),
            (500, [false; 4]),
            (501, [false; 4]),
            (408, [false; 4]),
            (425, [false; 4]),
            (409, [false; 4]),
        ];
        for (status, retried) in table {
            for (response, given_up) in [
                (endpoint(status, "use_dpop_nonce"), Verdict::Fail),
                (endpoint(status, ""), Verdict::Fail),
                (call(status, ""), Verdict::Done),
                (call(status, "").without_proof(), Verdict::Done),
            ] {
                let safeties = [ALL[0], ALL[1], ALL[2], ALL[2]];
                for (at, (safety, retried)) in safeties.into_iter().zip(retried).enumerate() {
                    let mut response = response.clone().safety(safety);
                    if at == 3 {
                        response = response.asks_to_wait(7);
                    }
                    let expected = match retried {
                        true => Verdict::RetryAfter(response.retry_after),
                        false => given_up,
                    };
                    holds([
                        (response.clone(), expected),
                        (response.clone().too_late(), given_up),
                        (response.safety(RetrySafety::Never), given_up),
                    ]);
                }
            }
        }
    }

    /// A server that blames the token may mean the proof, but the token is not sent to it again.
    #[test]
    fn a_token_that_may_be_replaced_is_not_used_again_after_it_was_blamed() {
        let replaceable = |response: Refused<'static>| Refused {
            has_other_token: true,
            ..response
        };
        for response in [
            call(401, "invalid_token"),
            call(401, "invalid_token").new_nonce(),
            call(401, "invalid_token").wrong_clock(),
            call(401, "invalid_token").new_nonce().wrong_clock(),
        ] {
            holds([(replaceable(response), Verdict::TokenRejected)]);
        }
        // A new token of a session, too, unless its proof may have lacked the nonce.
        for (had_nonce, verdict) in [(true, Verdict::TokenRejected), (false, NONCE)] {
            let mut response = call(401, "invalid_token").new_nonce();
            response.is_of_session = true;
            response.proof.as_mut().unwrap().had_nonce = had_nonce;
            holds([(response, verdict)]);
        }
        // The proof is blamed by name: the token is good.
        let blamed = call(401, "invalid_token").blaming_the_proof();
        holds([
            (replaceable(blamed.new_nonce()), NONCE),
            (replaceable(call(401, "use_dpop_nonce").new_nonce()), NONCE),
            (
                replaceable(call(401, "invalid_dpop_proof").wrong_clock()),
                clock_corrected(),
            ),
        ]);
    }

    #[test]
    fn a_server_that_asks_for_time_gets_no_correction_at_once() {
        for code in ["use_dpop_nonce", "invalid_dpop_proof", "invalid_token", ""] {
            for (response, given_up) in [
                (endpoint(429, code), Verdict::Fail),
                (call(429, code), Verdict::Done),
            ] {
                let response = response.new_nonce().wrong_clock();
                holds([
                    (response.clone(), Verdict::RetryAfter(None)),
                    (response.too_late(), given_up),
                ]);
            }
        }
    }

    #[test]
    fn a_server_error_corrects_nothing_and_rejects_no_token_whatever_its_code() {
        for status in [500, 501, 502, 503, 504, 520, 200, 302] {
            for code in [
                "use_dpop_nonce",
                "invalid_dpop_proof",
                "invalid_token",
                "invalid_client",
                "",
            ] {
                let wrong = |response: Refused<'static>| {
                    let wrong = response.new_nonce().wrong_clock().other_algorithm();
                    wrong.wrong_assertion_clock().blaming_the_proof().too_late()
                };
                holds([
                    (wrong(endpoint(status, code)), Verdict::Fail),
                    (wrong(call(status, code)), Verdict::Done),
                ]);
            }
        }
    }

    #[test]
    fn a_request_that_can_be_sent_once_is_not_sent_again_whatever_was_wrong() {
        for safety in ALL {
            let table = [
                (endpoint(400, "use_dpop_nonce").new_nonce(), Verdict::Fail),
                (
                    endpoint(400, "invalid_dpop_proof").wrong_clock(),
                    Verdict::Fail,
                ),
                (
                    endpoint(401, "invalid_client").wrong_assertion_clock(),
                    Verdict::Fail,
                ),
                (call(401, "use_dpop_nonce").new_nonce(), Verdict::Done),
                (call(401, "").new_nonce(), Verdict::Done),
                (
                    call(401, "invalid_token").blaming_the_proof().wrong_clock(),
                    Verdict::Done,
                ),
                // The token is not used again, in case that it was its fault.
                (
                    call(401, "invalid_token").wrong_clock(),
                    Verdict::TokenRejected,
                ),
                (
                    call(401, "invalid_token").new_nonce(),
                    Verdict::TokenRejected,
                ),
                (
                    call(401, "invalid_dpop_proof").other_algorithm(),
                    Verdict::Done,
                ),
            ];
            for (response, given_up) in table {
                let found = verdict(&response.safety(safety));
                match safety {
                    RetrySafety::Never => assert_eq!(found, given_up),
                    _ => assert!(matches!(found, Verdict::Correct(_)), "{safety:?} {found:?}"),
                }
            }
        }
    }
}
