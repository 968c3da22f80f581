//! The decision on a response that is not a success: one pure function for authorization servers
//! and resource servers.

use std::time::Duration;

use http::StatusCode;

use crate::jose::Algorithm;
use crate::request::clock_offset::ClockOffset;
use crate::request::retry::RetrySafety;
use crate::request::server_state::Role;
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
    if refused.may_wait
        && refused
            .safety
            .allows_retry_after(refused.status, refused.retry_after)
    {
        return Verdict::RetryAfter(refused.retry_after);
    }
    if !refused.status.is_client_error() {
        return give_up;
    }
    if let Some(correction) = correction(refused) {
        // A request that can be sent once is not sent again, whatever was wrong with its proof.
        return match refused.safety {
            RetrySafety::Never => give_up,
            _ => Verdict::Correct(correction),
        };
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

fn correction(refused: &Refused<'_>) -> Option<Correction> {
    if let Some(proof) = &refused.proof {
        let nonce = proof.nonce.as_ref().map(|_| Correction::Nonce);
        if refused.wants_nonce() {
            return nonce;
        }
        let clock = proof.clock.map(Correction::Clock);
        if refused.is_proof_error() {
            let algorithm = proof.algorithm.map(Correction::Algorithm);
            // A new nonce without `use_dpop_nonce` is an error of the server (RFC 9449 §8).
            return algorithm.or(clock).or(nonce);
        }
        // Servers that verify the proof with the token blame the token for it.
        if refused.role == Role::ResourceServer && refused.code == Some("invalid_token") {
            return clock.or(nonce);
        }
    }
    let assertion = refused
        .assertion
        .filter(|_| refused.code == Some("invalid_client"));
    assertion.map(Correction::Clock)
}

impl Refused<'_> {
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
