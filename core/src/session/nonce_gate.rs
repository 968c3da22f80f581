//! Limits concurrent requests to a server whose nonce is unknown, or changes with each response.

use http::Uri;

use crate::request::nonce_outcome::NonceOutcome;
use crate::request::server_state::Role;
use crate::types::endpoint::{HttpTarget, Origin};
use crate::types::input::InvalidInput;

/// Admits one request until the server's nonce is known while the others wait, and admits requests
/// one at a time where the nonce changes with every response. Twenty concurrent calls without a
/// nonce cost twenty-one requests instead of forty.
///
/// Only requests with proofs need a permit. A driver acquires one before each request, releases it
/// after the verdict on the response (or when no response comes), and then wakes the waiting
/// callers, which try again.
#[derive(Debug, Default)]
pub struct NonceGate {
    /// Ordered by last use, the latest at the end.
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    origin: Origin,
    role: Role,
    mode: Mode,
    /// The number of permits in use.
    out: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// No response yet: one request is admitted.
    Unknown,
    /// All requests are admitted.
    Open,
    /// The server rejected a nonce that had been valid: one request at a time.
    Serial,
}

/// The right to send one request with a proof to one server. [`NonceGate::release`] gives it back.
#[must_use = "other requests may wait for its release"]
#[derive(Debug)]
pub struct Permit {
    origin: Origin,
    role: Role,
}

/// The result of [`NonceGate::acquire`].
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
pub enum Admission {
    /// Send the request now.
    Admitted(Permit),
    /// Try again after another permit has been released.
    Wait,
}

impl NonceGate {
    /// The maximum number of servers. Those with requests in flight are never evicted.
    const CAPACITY: usize = 64;

    /// Creates a gate that knows no server.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a permit if a request with a proof may go to `uri` now, or [`Admission::Wait`].
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if a proof can't name the URL.
    pub fn acquire(&mut self, role: Role, uri: &Uri) -> Result<Admission, InvalidInput> {
        let target = HttpTarget::parse(uri)?;
        let mut slot = match self
            .slots
            .iter()
            .rposition(|slot| slot.role == role && slot.origin.matches(&target))
        {
            Some(at) => self.slots.remove(at),
            None => Slot {
                origin: target.origin(),
                role,
                mode: Mode::Unknown,
                out: 0,
            },
        };
        let admission = if slot.mode == Mode::Open || slot.out == 0 {
            slot.out += 1;
            Admission::Admitted(Permit {
                origin: slot.origin.clone(),
                role,
            })
        } else {
            Admission::Wait
        };
        if self.slots.len() >= Self::CAPACITY {
            if let Some(idle) = self.slots.iter().position(|slot| slot.out == 0) {
                self.slots.remove(idle);
            }
        }
        self.slots.push(slot);
        Ok(admission)
    }

    /// Releases a permit. The driver must wake waiting callers afterwards.
    pub fn release(&mut self, permit: Permit, outcome: NonceOutcome) {
        let slot = self
            .slots
            .iter_mut()
            .find(|slot| permit.origin == slot.origin && slot.role == permit.role);
        if let Some(slot) = slot {
            slot.out = slot.out.saturating_sub(1);
            slot.mode = match (slot.mode, outcome) {
                (mode, NonceOutcome::NoResponse) => mode,
                (_, NonceOutcome::Rejected) => Mode::Serial,
                // The nonce changes with every response: concurrent requests would be rejected.
                (Mode::Serial, NonceOutcome::Rotated) => Mode::Serial,
                (_, NonceOutcome::Unchanged | NonceOutcome::Rotated) => Mode::Open,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RS: Role = Role::ResourceServer;

    fn acquire(gate: &mut NonceGate, uri: &'static str) -> Option<Permit> {
        match gate.acquire(RS, &Uri::from_static(uri)).unwrap() {
            Admission::Admitted(permit) => Some(permit),
            Admission::Wait => None,
        }
    }

    #[test]
    fn the_first_request_goes_alone_until_the_nonce_is_known() {
        for outcome in [NonceOutcome::Unchanged, NonceOutcome::Rotated] {
            let mut gate = NonceGate::new();
            let first_permit = acquire(&mut gate, "https://rs.example/a").unwrap();
            assert!(acquire(&mut gate, "https://RS.example:443/b").is_none());
            let elsewhere = acquire(&mut gate, "https://other.example/").unwrap();
            gate.release(first_permit, outcome);
            let all: Vec<Permit> = (0..20)
                .map(|_| acquire(&mut gate, "https://rs.example/b").unwrap())
                .collect();
            all.into_iter()
                .chain([elsewhere])
                .for_each(|permit| gate.release(permit, NonceOutcome::Rotated));
        }
    }

    #[test]
    fn a_first_request_without_a_response_is_followed_by_another() {
        let mut gate = NonceGate::new();
        let first_permit = acquire(&mut gate, "https://rs.example/").unwrap();
        gate.release(first_permit, NonceOutcome::NoResponse);
        let next = acquire(&mut gate, "https://rs.example/").unwrap();
        assert!(acquire(&mut gate, "https://rs.example/").is_none());
        gate.release(next, NonceOutcome::Unchanged);
    }

    #[test]
    fn after_a_rejected_nonce_requests_go_one_by_one_until_a_nonce_lasts() {
        let mut gate = NonceGate::new();
        let first_permit = acquire(&mut gate, "https://rs.example/").unwrap();
        gate.release(first_permit, NonceOutcome::Rotated);
        let first = acquire(&mut gate, "https://rs.example/").unwrap();
        let second = acquire(&mut gate, "https://rs.example/").unwrap();
        gate.release(first, NonceOutcome::Rejected);
        assert!(
            acquire(&mut gate, "https://rs.example/").is_none(),
            "one is still in flight"
        );
        gate.release(second, NonceOutcome::Rotated);
        let alone = acquire(&mut gate, "https://rs.example/").unwrap();
        assert!(acquire(&mut gate, "https://rs.example/").is_none());
        gate.release(alone, NonceOutcome::Rotated);
        let alone = acquire(&mut gate, "https://rs.example/").unwrap();
        assert!(acquire(&mut gate, "https://rs.example/").is_none());
        gate.release(alone, NonceOutcome::Unchanged);
        let both = [
            acquire(&mut gate, "https://rs.example/"),
            acquire(&mut gate, "https://rs.example/"),
        ];
        assert!(both.iter().all(Option::is_some));
        both.into_iter()
            .flatten()
            .for_each(|permit| gate.release(permit, NonceOutcome::Unchanged));
    }

    #[test]
    fn idle_servers_are_forgotten_and_busy_ones_are_not() {
        let mut gate = NonceGate::new();
        let busy = acquire(&mut gate, "https://busy.example/").unwrap();
        for at in 0..200 {
            let uri: Uri = format!("https://h{at}.example/").parse().unwrap();
            let Ok(Admission::Admitted(permit)) = gate.acquire(RS, &uri) else {
                panic!("it is the first there")
            };
            gate.release(permit, NonceOutcome::Unchanged);
        }
        assert_eq!(gate.slots.len(), NonceGate::CAPACITY);
        assert!(acquire(&mut gate, "https://busy.example/").is_none());
        gate.release(busy, NonceOutcome::Unchanged);
    }
}
