//! Makes proofs with the known state of a server, and corrects them after a rejection.

use std::time::Duration;

use http::{HeaderMap, Method, header};

use crate::dpop::proof::{AccessTokenHash, UnsignedProof};
use crate::jose::signing::SignRequest;
use crate::jose::{Algorithm, PublicJwk};
use crate::request::clock_offset::ClockOffset;
use crate::request::server_state::{Role, ServerState};
use crate::request::verdict::{Correctable, Correction};
use crate::types::time::{RequestContext, UnixTime};
use crate::types::{endpoint::HttpTarget, nonce::Nonce};
use crate::wire::challenge::Challenge;
use crate::wire::http_date;

/// The minimum age of a proof, in seconds, at which its time may be the cause of a rejection. Servers
/// that allow five seconds reject a clock that is six behind, and the correction is tried only after
/// a rejection.
const MIN_SKEW: u64 = 2;

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
#[derive(Clone, Debug, PartialEq, Eq)]
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
        context: &RequestContext,
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
                entropy: context.entropy,
            },
        );
        (request, SentProof { key, nonce, iat })
    }
}

/// The remaining corrections of one operation or call. The limit keeps a server that never accepts
/// from causing endless retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CorrectionBudget {
    /// Corrections of the nonce: one for a proof without a nonce, two for a proof with one, since
    /// concurrent requests may use up the next nonce as well.
    nonces_left: u8,
    clock: bool,
    algorithm: bool,
    head: bool,
}

impl Default for CorrectionBudget {
    fn default() -> Self {
        Self {
            nonces_left: 2,
            clock: true,
            algorithm: true,
            head: true,
        }
    }
}

impl CorrectionBudget {
    /// Returns what the response allows to correct in the proof.
    pub(crate) fn correctable(
        &self,
        proof: &SentProof,
        headers: &HeaderMap,
        now: UnixTime,
    ) -> Correctable {
        let nonce = Nonce::from_headers(headers).filter(|_| self.nonces_left > 0);
        Correctable {
            had_nonce: proof.nonce.is_some(),
            nonce: nonce.filter(|nonce| Some(nonce) != proof.nonce.as_ref()),
            algorithm: server_algorithm(headers, &proof.key).filter(|_| self.algorithm),
            clock: self.clock(headers, proof.iat, now),
        }
    }

    /// Returns the offset of the server's clock, if it may be the cause of a rejection.
    pub(crate) fn clock(
        &self,
        headers: &HeaderMap,
        iat: UnixTime,
        now: UnixTime,
    ) -> Option<ClockOffset> {
        offset_from_response(headers, iat, now).filter(|_| self.clock)
    }

    /// Returns whether a head that the driver could not read may be read by another attempt.
    pub(crate) fn may_read_head(&self) -> bool {
        self.head
    }

    /// Records that the server rejected the nonce of a proof, or its absence.
    pub(crate) fn nonce_rejected(&mut self, proof: &SentProof) {
        self.nonces_left = match proof.nonce {
            Some(_) => self.nonces_left.saturating_sub(1),
            None => 0,
        };
    }

    /// Takes a correction from the budget.
    pub(crate) fn spend(&mut self, correction: Correction, is_proof_error: bool) {
        match correction {
            // A new nonce in place of `use_dpop_nonce` is tried once.
            Correction::Nonce if is_proof_error => self.nonces_left = 0,
            Correction::Nonce => {}
            Correction::Algorithm(_) => self.algorithm = false,
            Correction::Clock(_) => self.clock = false,
            Correction::Head => self.head = false,
        }
    }

    /// Returns whether the clock has been corrected.
    pub(crate) fn has_corrected_clock(&self) -> bool {
        !self.clock
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
