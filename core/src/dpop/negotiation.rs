//! Proofs as a server wants them: made with what is known of it, and corrected by what its refusals teach.

use std::time::Duration;

use http::{HeaderMap, Method, header};

use super::Nonce;
use super::proof::{AccessTokenHash, Draft};
use crate::endpoint::Target;
use crate::jose::{Algorithm, PublicJwk};
use crate::origins::{Origins, Role};
use crate::signing::SignRequest;
use crate::time::{Ambient, UnixTime};
use crate::wire::challenge::Challenge;
use crate::wire::http_date;

/// From when on a proof's age may be what a server objects to; networks and signers take their time, too.
const SLOW: u64 = 10;

/// How wrong a clock may be; no proof is made for a time that is further away, whoever asks for it (RFC 9449 §11.2).
const WRONG_AT_MOST: Duration = Duration::from_secs(31 * 24 * 3600);

/// One request to a server, for which a proof is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occasion<'a> {
    pub(crate) role: Role,
    pub(crate) method: &'a Method,
    pub(crate) target: Target<'a>,
    pub(crate) ath: Option<AccessTokenHash>,
}

/// What a proof said that its server may object to.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    key: PublicJwk,
    nonce: Option<Nonce>,
    iat: UnixTime,
}

impl Said {
    pub(crate) fn nonce(&self) -> Option<&Nonce> {
        self.nonce.as_ref()
    }
}

impl Occasion<'_> {
    /// A proof by `key` with the nonce that this server wants, at the time that its clock shows, under the name
    /// by which it knows the algorithm.
    pub(crate) fn prove(&self, key: &PublicJwk, origins: &Origins, ambient: Ambient) -> (SignRequest, Said) {
        let known = origins.known(self.role, &self.target);
        let key = match known.and_then(|known| known.algorithm) {
            // A name that is not this key's says nothing about it.
            Some(name) if name.is_same_as(key.algorithm()) => {
                key.with_algorithm(name).unwrap_or_else(|_| key.clone())
            }
            _ => key.clone(),
        };
        let nonce = known.and_then(|known| known.nonce.clone());
        let iat = known.map_or(ambient.now, |known| known.clock.show(ambient.now));
        let draft = Draft {
            method: self.method,
            target: self.target,
            nonce: nonce.as_ref(),
            ath: self.ath,
            lifetime: None,
        };
        let request = draft.sign_request(&key, &Ambient { now: iat, ..ambient });
        (request, Said { key, nonce, iat })
    }
}

/// A refusal of a request with a proof.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Objection<'a> {
    pub(crate) code: Option<&'a str>,
    pub(crate) description: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
}

/// What may still be corrected in one exchange or call: a server that is never content is not obeyed for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Corrections {
    /// One for a proof that had no nonce; two where it had one, since others may use up the next as well.
    nonces_left: u8,
    clock: bool,
    name: bool,
}

impl Default for Corrections {
    fn default() -> Self {
        Self { nonces_left: 2, clock: false, name: false }
    }
}

impl Corrections {
    /// Whether another proof may fare better, now that `origins` knows more of the server.
    pub(crate) fn answer(
        &mut self,
        objection: &Objection<'_>,
        said: &Said,
        occasion: (Role, &Target<'_>),
        origins: &mut Origins,
        now: UnixTime,
    ) -> bool {
        let (role, target) = occasion;
        if objection.code == Some("use_dpop_nonce") {
            let nonce = Nonce::of(objection.headers);
            let may_go_on = nonce.is_some() && nonce != said.nonce && self.nonces_left > 0;
            self.nonces_left = if said.nonce.is_some() { self.nonces_left.saturating_sub(1) } else { 0 };
            return may_go_on;
        }
        if !objection.is_about_the_proof() {
            return false;
        }
        let name = other_name(objection.headers, &said.key).filter(|_| !self.name);
        if name.is_some() {
            self.name = true;
            origins.note(role, target, now, |known| known.algorithm = name);
            return true;
        }
        if self.correct_clock(objection.headers, said.iat, occasion, origins, now) {
            return true;
        }
        // What was learned hasn't helped: the next proof is made as if nothing had been.
        if origins.known(role, target).is_some() {
            origins.note(role, target, now, |known| {
                known.algorithm = None;
                known.clock = Clock::default();
            });
        }
        false
    }

    /// Whether a client's assertion, which was refused, may fare better at the time that the server's clock shows.
    pub(crate) fn answer_assertion(
        &mut self,
        headers: &HeaderMap,
        iat: UnixTime,
        occasion: (Role, &Target<'_>),
        origins: &mut Origins,
        now: UnixTime,
    ) -> bool {
        let (role, target) = occasion;
        let had_corrected = self.clock;
        let corrected = self.correct_clock(headers, iat, occasion, origins, now);
        if had_corrected {
            // It hasn't helped.
            origins.note(role, target, now, |known| known.clock = Clock::default());
        }
        corrected
    }

    fn correct_clock(
        &mut self,
        headers: &HeaderMap,
        iat: UnixTime,
        (role, target): (Role, &Target<'_>),
        origins: &mut Origins,
        now: UnixTime,
    ) -> bool {
        let Some(clock) = other_clock(headers, iat, now).filter(|_| !self.clock) else { return false };
        self.clock = true;
        origins.note(role, target, now, |known| known.clock = clock);
        true
    }
}

impl Objection<'_> {
    /// `invalid_dpop_proof` (RFC 9449 §5, §7.1), and what Keycloak and others say in its place.
    fn is_about_the_proof(&self) -> bool {
        match self.code {
            Some("invalid_dpop_proof") => true,
            Some("invalid_request" | "invalid_token") => {
                self.description.is_some_and(|text| text.to_ascii_lowercase().contains("dpop"))
            }
            _ => false,
        }
    }
}

/// The name that the server has for this key's algorithm, if it announces the other one alone.
fn other_name(headers: &HeaderMap, key: &PublicJwk) -> Option<Algorithm> {
    let challenges = Challenge::all(headers);
    let algs = challenges
        .iter()
        .filter(|challenge| challenge.is("DPoP"))
        .find_map(|challenge| challenge.param("algs"))?;
    let name = key.announced(algs.split(' ')).ok()?.algorithm();
    (name != key.algorithm()).then_some(name)
}

/// The server's clock, if it shows another time than the proof did. A response out of a cache doesn't tell.
fn other_clock(headers: &HeaderMap, iat: UnixTime, now: UnixTime) -> Option<Clock> {
    let date = http_date::of(headers)?;
    let proof_is_ahead = iat.as_secs() > date.as_secs();
    let proof_is_old = date.as_secs() > iat.as_secs().saturating_add(SLOW);
    let is_near = date.saturating_since(now) <= WRONG_AT_MOST && now.saturating_since(date) <= WRONG_AT_MOST;
    let told = !headers.contains_key(header::AGE) && is_near && (proof_is_ahead || proof_is_old);
    told.then(|| Clock::showing(date, now))
}

/// How far a server's clock is ahead of ours, or behind. The server dated its answer before it came, in whole
/// seconds rounded down: so what is shown is never ahead of what it shows itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    ahead_millis: u64,
    behind_millis: u64,
}

impl Clock {
    fn showing(theirs: UnixTime, ours: UnixTime) -> Self {
        Self {
            ahead_millis: theirs.as_millis().saturating_sub(ours.as_millis()),
            behind_millis: ours.as_millis().saturating_sub(theirs.as_millis()),
        }
    }

    pub(crate) fn show(self, ours: UnixTime) -> UnixTime {
        UnixTime::from_millis(
            ours.as_millis().saturating_add(self.ahead_millis).saturating_sub(self.behind_millis),
        )
    }
}
