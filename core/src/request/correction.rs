//! Makes proofs with the known state of a server, and corrects them after a rejection.

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

/// The minimum age of a proof, in seconds, at which its time may be the cause of a rejection.
/// Networks and signers take time, too.
const MIN_SKEW: u64 = 10;

/// The maximum clock offset. No proof is made for a time further away, even if a server asks for it
/// (RFC 9449 §11.2).
const MAX_SKEW: Duration = Duration::from_secs(31 * 24 * 3600);

/// A request to a server that needs a proof.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProofContext<'a> {
    pub(crate) role: Role,
    pub(crate) method: &'a Method,
    pub(crate) target: HttpTarget<'a>,
    pub(crate) ath: Option<AccessTokenHash>,
}

/// The properties of a sent proof that the server may reject.
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
    /// Returns the signing request of a proof by `key`, with the nonce that this server requires,
    /// the time of its clock, and the algorithm name that it uses.
    pub(crate) fn prove(
        &self,
        key: &PublicJwk,
        server_state: &ServerState,
        context: RequestContext,
    ) -> (SignRequest, SentProof) {
        let entry = server_state.get(self.role, &self.target);
        let key = match entry.and_then(|entry| entry.algorithm) {
            // An algorithm of another key doesn't apply to this one.
            Some(name) if name.is_same_as(key.algorithm()) => {
                key.with_algorithm(name).unwrap_or_else(|_| key.clone())
            }
            _ => key.clone(),
        };
        let nonce = entry.and_then(|entry| entry.nonce.clone());
        let iat = entry.map_or(context.now, |entry| entry.clock_offset.apply(context.now));
        let unsigned = UnsignedProof {
            method: self.method,
            target: self.target,
            nonce: nonce.as_ref(),
            ath: self.ath,
            lifetime: None,
        };
        let request = unsigned.sign_request(
            &key,
            &RequestContext {
                now: iat,
                ..context
            },
        );
        (request, SentProof { key, nonce, iat })
    }
}

/// A rejection of a request with a proof.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProofRejection<'a> {
    pub(crate) code: Option<&'a str>,
    pub(crate) description: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
}

/// The remaining corrections of one operation or call. The limit keeps a server that never accepts
/// from causing endless retries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CorrectionBudget {
    /// Corrections of the nonce: one for a proof without a nonce, two for a proof with one, since
    /// concurrent requests may use up the next nonce as well.
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
    /// Returns whether to retry with another proof, and updates `server_state` from the rejection.
    pub(crate) fn try_correct(
        &mut self,
        rejection: &ProofRejection<'_>,
        sent_proof: &SentProof,
        proof_context: (Role, &HttpTarget<'_>),
        server_state: &mut ServerState,
        now: UnixTime,
    ) -> bool {
        let (role, target) = proof_context;
        if rejection.code == Some("use_dpop_nonce") {
            let nonce = Nonce::from_headers(rejection.headers);
            let may_retry = nonce.is_some() && nonce != sent_proof.nonce && self.nonces_left > 0;
            self.nonces_left = if sent_proof.nonce.is_some() {
                self.nonces_left.saturating_sub(1)
            } else {
                0
            };
            return may_retry;
        }
        if !rejection.is_proof_error() {
            return false;
        }
        let name = server_algorithm(rejection.headers, &sent_proof.key).filter(|_| !self.name);
        if name.is_some() {
            self.name = true;
            server_state.update(role, target, now, |entry| entry.algorithm = name);
            return true;
        }
        if self.correct_clock(
            rejection.headers,
            sent_proof.iat,
            proof_context,
            server_state,
            now,
        ) {
            return true;
        }
        // The corrections had no effect: the next proof is made without them.
        if server_state.get(role, target).is_some() {
            server_state.update(role, target, now, |entry| {
                entry.algorithm = None;
                entry.clock_offset = ClockOffset::default();
            });
        }
        false
    }

    /// Returns whether to retry with another client assertion, dated by the server's clock.
    pub(crate) fn try_correct_assertion(
        &mut self,
        headers: &HeaderMap,
        iat: UnixTime,
        proof_context: (Role, &HttpTarget<'_>),
        server_state: &mut ServerState,
        now: UnixTime,
    ) -> bool {
        let (role, target) = proof_context;
        let had_corrected = self.clock;
        let corrected = self.correct_clock(headers, iat, proof_context, server_state, now);
        if had_corrected {
            // The earlier correction had no effect.
            server_state.update(role, target, now, |entry| {
                entry.clock_offset = ClockOffset::default()
            });
        }
        corrected
    }

    fn correct_clock(
        &mut self,
        headers: &HeaderMap,
        iat: UnixTime,
        (role, target): (Role, &HttpTarget<'_>),
        server_state: &mut ServerState,
        now: UnixTime,
    ) -> bool {
        let Some(clock) = offset_from_response(headers, iat, now).filter(|_| !self.clock) else {
            return false;
        };
        self.clock = true;
        server_state.update(role, target, now, |entry| entry.clock_offset = clock);
        true
    }
}

impl ProofRejection<'_> {
    /// Returns whether the proof caused the rejection: `invalid_dpop_proof` (RFC 9449 §5, §7.1), or
    /// the codes that Keycloak and others use in its place.
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

/// Returns the server's name for this key's algorithm, if it announces only the other one.
fn server_algorithm(headers: &HeaderMap, key: &PublicJwk) -> Option<Algorithm> {
    let challenges = Challenge::all(headers);
    let algs = challenges
        .iter()
        .filter(|challenge| challenge.is("DPoP"))
        .find_map(|challenge| challenge.param("algs"))?;
    let name = key.select_algorithm(algs.split(' ')).ok()?.algorithm();
    (name != key.algorithm()).then_some(name)
}

/// Returns the offset of the server's clock, if its time differs from the proof's. A response from
/// a cache is ignored.
fn offset_from_response(headers: &HeaderMap, iat: UnixTime, now: UnixTime) -> Option<ClockOffset> {
    let date = http_date::from_headers(headers)?;
    let proof_is_ahead = iat.as_secs() > date.as_secs();
    let proof_is_old = date.as_secs() > iat.as_secs().saturating_add(MIN_SKEW);
    let is_near = date.saturating_since(now) <= MAX_SKEW && now.saturating_since(date) <= MAX_SKEW;
    let is_off = !headers.contains_key(header::AGE) && is_near && (proof_is_ahead || proof_is_old);
    is_off.then(|| ClockOffset::from_date_header(date, now))
}
