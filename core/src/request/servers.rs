//! What all requests of one driver share: the known state of servers, and the gate for nonces.

use crate::request::attempt::{HAS_EVENTS, Retrying};
use crate::request::nonce_gate::NonceGate;
use crate::request::server_state::{Role, ServerState};
use crate::request::{clock_offset::ClockOffset, nonce_outcome::NonceOutcome, verdict::Correction};
use crate::types::endpoint::HttpTarget;
use crate::types::time::{RequestContext, UnixTime};

/// The known state of servers, who may send a proof to them, and the retries to report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Servers {
    pub(crate) known: ServerState,
    pub(crate) gate: NonceGate,
    generation: u64,
    pub(crate) retries: Vec<Retrying>,
    /// The verdicts of the current step, if they are recorded.
    #[cfg(feature = "record")]
    pub(crate) judged: Option<Vec<Judged>>,
}

/// A verdict, and what it is about.
#[cfg(feature = "record")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    /// The status of the response, or that there was none.
    pub(crate) response: String,
    /// The error code of the server.
    pub(crate) code: Option<String>,
    pub(crate) verdict: String,
}

/// The inputs of one step of a task.
pub(crate) struct Turn<'a> {
    /// The id of the task.
    pub(crate) id: u64,
    pub(crate) servers: &'a mut Servers,
    pub(crate) context: &'a RequestContext,
}

impl Servers {
    /// Returns a number that moves with every change that a task may wait for.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn move_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }

    pub(crate) fn retrying(&mut self, retrying: Retrying) {
        if HAS_EVENTS {
            self.retries.push(retrying);
        }
    }

    /// Records a verdict.
    #[cfg(feature = "record")]
    pub(crate) fn judge(&mut self, response: impl ToString, code: Option<&str>, verdict: &str) {
        if let Some(judged) = &mut self.judged {
            judged.push(Judged {
                response: response.to_string(),
                code: code.map(str::to_owned),
                verdict: verdict.to_owned(),
            });
        }
    }

    /// Takes the permit of a task back.
    pub(crate) fn release(
        &mut self,
        id: u64,
        target: &HttpTarget<'_>,
        outcome: NonceOutcome,
        now: UnixTime,
    ) {
        if self.gate.release(id, target, outcome, now) {
            self.move_generation();
        }
    }

    /// Takes all permits of an operation back that has ended without a result.
    pub(crate) fn abandon(&mut self, id: u64, now: UnixTime) {
        if self.gate.abandon(id, now) {
            self.move_generation();
        }
    }

    /// Records what the next proof must change. The nonce is recorded with each response.
    pub(crate) fn correct(
        &mut self,
        role: Role,
        target: &HttpTarget<'_>,
        correction: Correction,
        now: UnixTime,
    ) {
        let known = &mut self.known;
        match correction {
            Correction::Algorithm(name) => {
                known.update(role, target, now, |entry| entry.algorithm = Some(name));
            }
            Correction::Clock(offset) => {
                known.update(role, target, now, |entry| entry.clock_offset = offset);
            }
            Correction::Nonce | Correction::Head => {}
        }
    }

    /// Forgets clock offset and algorithm name, which had no effect.
    pub(crate) fn forget_corrections(
        &mut self,
        role: Role,
        target: &HttpTarget<'_>,
        now: UnixTime,
    ) {
        if self.known.get(role, target).is_some() {
            self.known.update(role, target, now, |entry| {
                entry.algorithm = None;
                entry.clock_offset = ClockOffset::default();
            });
        }
    }
}
