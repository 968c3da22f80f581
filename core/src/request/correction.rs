//! Proofs as a server wants them: made with what is known of it, and corrected by what its refusals teach.

use std::time::Duration;

use http::{HeaderMap, Method, header};

use crate::dpop::proof::{AccessTokenHash, UnsignedProof};
use crate::jose::signing::SignRequest;
use crate::jose::{Algorithm, PublicJwk};
use crate::request::clock_offset::ClockOffset;
use crate::request::server_state::{Role, ServerState};
use crate::types::endpoint::HttpTarget;
use crate::types::nonce::Nonce;
use crate::types::time::{RequestContext, UnixTime};
use crate::wire::challenge::Challenge;
use crate::wire::http_date;

/// From when on a proof's age may be what a server objects to; networks and signers take their time, too.
const MIN_SKEW: u64 = 10;

/// How wrong a clock may be; no proof is made for a time that is further away, whoever asks for it (RFC 9449 §11.2).
const MAX_SKEW: Duration = Duration::from_secs(31 * 24 * 3600);

/// One request to a server, for which a proof is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProofContext<'a> {
    pub(crate) role: Role,
    pub(crate) method: &'a Method,
    pub(crate) target: HttpTarget<'a>,
    pub(crate) ath: Option<AccessTokenHash>,
}

/// What a proof said that its server may object to.
#[derive(Clone, Debug)]
pub(crate) struct SentProof {
    key: PublicJwk,
    nonce: Option<Nonce>,
    iat: UnixTime,
}

impl SentProof {
    pub(crate) fn nonce(&self) -> Option<&Nonce> {
        self.nonce.as_ref()
    }
}

impl ProofContext<'_> {
    /// A proof by `key` with the nonce that this server wants, at the time that its clock shows, under the name
    /// by which it knows the algorithm.
    pub(crate) fn prove(
        &self,
        key: &PublicJwk,
        origins: &ServerState,
        context: RequestContext,
    ) -> (SignRequest, SentProof) {
        let known = origins.get(self.role, &self.target);
        let key = match known.and_then(|known| known.algorithm) {
            // A name that is not this key's says nothing about it.
            Some(name) if name.is_same_as(key.algorithm()) => {
                key.with_algorithm(name).unwrap_or_else(|_| key.clone())
            }
            _ => key.clone(),
        };
        let nonce = known.and_then(|known| known.nonce.clone());
        let iat = known.map_or(context.now, |known| known.clock_offset.apply(context.now));
        let draft = UnsignedProof {
            method: self.method,
            target: self.target,
            nonce: nonce.as_ref(),
            ath: self.ath,
            lifetime: None,
        };
        let request = draft.sign_request(
            &key,
            &RequestContext {
                now: iat,
                ..context
            },
        );
        (request, SentProof { key, nonce, iat })
    }
}

/// A refusal of a request with a proof.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProofRejection<'a> {
    pub(crate) code: Option<&'a str>,
    pub(crate) description: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
}

/// What may still be corrected in one exchange or call: a server that is never content is not obeyed for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CorrectionBudget {
    /// One for a proof that had no nonce; two where it had one, since others may use up the next as well.
    nonces_left: u8,
    clock: bool,
    name: bool,
}

impl Default for CorrectionBudget {
    fn default() -> Self {
        Self {
            nonces_left: 2,
            clock: false,
            name: false,
        }
    }
}

impl CorrectionBudget {
    /// Whether another proof may fare better, now that `origins` knows more of the server.
    pub(crate) fn try_correct(
        &mut self,
        rejection: &ProofRejection<'_>,
        said: &SentProof,
        proof_context: (Role, &HttpTarget<'_>),
        origins: &mut ServerState,
        now: UnixTime,
    ) -> bool {
        let (role, target) = proof_context;
        if rejection.code == Some("use_dpop_nonce") {
            let nonce = Nonce::from_headers(rejection.headers);
            let may_go_on = nonce.is_some() && nonce != said.nonce && self.nonces_left > 0;
            self.nonces_left = if said.nonce.is_some() {
                self.nonces_left.saturating_sub(1)
            } else {
                0
            };
            return may_go_on;
        }
        if !rejection.is_proof_error() {
            return false;
        }
        let name = server_algorithm(rejection.headers, &said.key).filter(|_| !self.name);
        if name.is_some() {
            self.name = true;
            origins.update(role, target, now, |known| known.algorithm = name);
            return true;
        }
        if self.correct_clock(rejection.headers, said.iat, proof_context, origins, now) {
            return true;
        }
        // What was learned hasn't helped: the next proof is made as if nothing had been.
        if origins.get(role, target).is_some() {
            origins.update(role, target, now, |known| {
                known.algorithm = None;
                known.clock_offset = ClockOffset::default();
            });
        }
        false
    }

    /// Whether a client's assertion, which was refused, may fare better at the time that the server's clock shows.
    pub(crate) fn try_correct_assertion(
        &mut self,
        headers: &HeaderMap,
        iat: UnixTime,
        proof_context: (Role, &HttpTarget<'_>),
        origins: &mut ServerState,
        now: UnixTime,
    ) -> bool {
        let (role, target) = proof_context;
        let had_corrected = self.clock;
        let corrected = self.correct_clock(headers, iat, proof_context, origins, now);
        if had_corrected {
            // It hasn't helped.
            origins.update(role, target, now, |known| {
                known.clock_offset = ClockOffset::default()
            });
        }
        corrected
    }

    fn correct_clock(
        &mut self,
        headers: &HeaderMap,
        iat: UnixTime,
        (role, target): (Role, &HttpTarget<'_>),
        origins: &mut ServerState,
        now: UnixTime,
    ) -> bool {
        let Some(clock) = offset_from_response(headers, iat, now).filter(|_| !self.clock) else {
            return false;
        };
        self.clock = true;
        origins.update(role, target, now, |known| known.clock_offset = clock);
        true
    }
}

impl ProofRejection<'_> {
    /// `invalid_dpop_proof` (RFC 9449 §5, §7.1), and what Keycloak and others say in its place.
    fn is_proof_error(&self) -> bool {
        match self.code {
            Some("invalid_dpop_proof") => true,
            Some("invalid_request" | "invalid_token") => self
                .description
                .is_some_and(|text| text.to_ascii_lowercase().contains("dpop")),
            _ => false,
        }
    }
}

/// The name that the server has for this key's algorithm, if it announces the other one alone.
fn server_algorithm(headers: &HeaderMap, key: &PublicJwk) -> Option<Algorithm> {
    let challenges = Challenge::all(headers);
    let algs = challenges
        .iter()
        .filter(|challenge| challenge.is("DPoP"))
        .find_map(|challenge| challenge.param("algs"))?;
    let name = key.select_algorithm(algs.split(' ')).ok()?.algorithm();
    (name != key.algorithm()).then_some(name)
}

/// The server's clock, if it shows another time than the proof did. A response out of a cache doesn't tell.
fn offset_from_response(headers: &HeaderMap, iat: UnixTime, now: UnixTime) -> Option<ClockOffset> {
    let date = http_date::from_headers(headers)?;
    let proof_is_ahead = iat.as_secs() > date.as_secs();
    let proof_is_old = date.as_secs() > iat.as_secs().saturating_add(MIN_SKEW);
    let is_near = date.saturating_since(now) <= MAX_SKEW && now.saturating_since(date) <= MAX_SKEW;
    let told = !headers.contains_key(header::AGE) && is_near && (proof_is_ahead || proof_is_old);
    told.then(|| ClockOffset::from_date_header(date, now))
}
