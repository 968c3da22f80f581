//! Limits concurrent requests to a server whose nonce is unknown, or changes with each response.

use std::time::Duration;

use crate::request::nonce_outcome::NonceOutcome;
use crate::types::endpoint::{HttpTarget, Origin};
use crate::types::time::UnixTime;

/// How long requests wait for a permit while none is released: 2 s. The request that holds it may
/// hang.
const PATIENCE: Duration = Duration::from_secs(2);

/// Admits one request until the server's nonce is known while the others wait, and admits requests
/// one at a time where the nonce changes with every response. Twenty concurrent calls without a
/// nonce cost twenty-one requests instead of forty.
///
/// Only requests with proofs to resource servers need a permit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct NonceGate {
    /// Ordered by last use, the latest at the end.
    slots: Vec<Slot>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Slot {
    origin: Origin,
    mode: Mode,
    /// The ids of the operations that hold permits.
    holders: Vec<u64>,
    /// When the last permit was given or released.
    active_at: UnixTime,
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

/// The result of [`NonceGate::acquire`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Send the request now.
    Admitted,
    /// Wait for the release of another permit, at most until this time.
    Wait(UnixTime),
}

impl NonceGate {
    /// The maximum number of servers. Those with requests in flight are never evicted.
    const CAPACITY: usize = 64;

    /// Gives a permit to an operation, if a request with a proof may go to this server now.
    pub(crate) fn acquire(&mut self, id: u64, target: &HttpTarget<'_>, now: UnixTime) -> Admission {
        match self.position(target) {
            // The last one stays where it is.
            Some(at) => {
                if let Some(after) = self.slots.get_mut(at..) {
                    after.rotate_left(1);
                }
            }
            None => {
                if self.slots.len() >= Self::CAPACITY {
                    let is_idle = |slot: &Slot| slot.holders.is_empty();
                    if let Some(idle) = self.slots.iter().position(is_idle) {
                        self.slots.remove(idle);
                    }
                }
                self.slots.push(Slot {
                    origin: target.origin(),
                    mode: Mode::Unknown,
                    holders: Vec::new(),
                    active_at: now,
                });
            }
        }
        match self.slots.last_mut() {
            Some(slot) => slot.acquire(id, now),
            None => Admission::Admitted,
        }
    }

    /// Takes the permit of an operation back. Returns whether others may have waited for it.
    pub(crate) fn release(
        &mut self,
        id: u64,
        target: &HttpTarget<'_>,
        outcome: NonceOutcome,
        now: UnixTime,
    ) -> bool {
        let slot = self.position(target).and_then(|at| self.slots.get_mut(at));
        slot.is_some_and(|slot| slot.release(id, outcome, now))
    }

    /// Takes all permits of an operation back that ended without a response. Returns whether others
    /// may have waited for one.
    pub(crate) fn abandon(&mut self, id: u64, now: UnixTime) -> bool {
        self.slots.iter_mut().fold(false, |any, slot| {
            any | slot.release(id, NonceOutcome::NoResponse, now)
        })
    }

    fn position(&self, target: &HttpTarget<'_>) -> Option<usize> {
        self.slots
            .iter()
            .rposition(|slot| slot.origin.matches(target))
    }
}

impl Slot {
    fn acquire(&mut self, id: u64, now: UnixTime) -> Admission {
        if self.mode != Mode::Open && !self.holders.is_empty() {
            return Admission::Wait(self.active_at.saturating_add(PATIENCE));
        }
        self.holders.push(id);
        self.active_at = now;
        Admission::Admitted
    }

    fn release(&mut self, id: u64, outcome: NonceOutcome, now: UnixTime) -> bool {
        let Some(at) = self.holders.iter().position(|holder| *holder == id) else {
            return false;
        };
        self.holders.swap_remove(at);
        self.active_at = now;
        let was_open = self.mode == Mode::Open;
        self.mode = match (self.mode, outcome) {
            (mode, NonceOutcome::NoResponse) => mode,
            (_, NonceOutcome::Rejected) => Mode::Serial,
            // The nonce changes with every response: concurrent requests would be rejected.
            (Mode::Serial, NonceOutcome::Rotated) => Mode::Serial,
            (_, NonceOutcome::Unchanged | NonceOutcome::Rotated) => Mode::Open,
        };
        !was_open
    }
}

#[cfg(test)]
mod tests {
    use http::Uri;

    use super::*;

    const NOW: UnixTime = UnixTime::from_secs(1000);
    const RS: &str = "https://rs.example/a";

    fn acquire(gate: &mut NonceGate, id: u64, uri: &str) -> bool {
        let uri: Uri = uri.parse().unwrap();
        gate.acquire(id, &HttpTarget::parse(&uri).unwrap(), NOW) == Admission::Admitted
    }

    fn release(gate: &mut NonceGate, id: u64, uri: &str, outcome: NonceOutcome) -> bool {
        let uri: Uri = uri.parse().unwrap();
        gate.release(id, &HttpTarget::parse(&uri).unwrap(), outcome, NOW)
    }

    #[test]
    fn the_first_request_goes_alone_until_the_nonce_is_known() {
        for outcome in [NonceOutcome::Unchanged, NonceOutcome::Rotated] {
            let mut gate = NonceGate::default();
            assert!(acquire(&mut gate, 1, RS));
            assert!(!acquire(&mut gate, 2, "https://RS.example:443/b"));
            assert!(acquire(&mut gate, 3, "https://other.example/"));
            assert!(release(&mut gate, 1, RS, outcome), "others have waited");
            assert!((10..30).all(|id| acquire(&mut gate, id, "https://rs.example/b")));
            assert!((10..30).all(|id| !release(&mut gate, id, RS, NonceOutcome::Rotated)));
        }
    }

    #[test]
    fn a_first_request_without_a_response_is_followed_by_another() {
        let mut gate = NonceGate::default();
        assert!(acquire(&mut gate, 1, RS));
        assert!(release(&mut gate, 1, RS, NonceOutcome::NoResponse));
        assert!(acquire(&mut gate, 2, RS));
        assert!(!acquire(&mut gate, 3, RS));
        assert!(gate.abandon(2, NOW), "as if no response had come");
        assert!(!gate.abandon(2, NOW), "it holds none any more");
        assert!(acquire(&mut gate, 3, RS));
        assert!(!acquire(&mut gate, 4, RS));
    }

    #[test]
    fn after_a_rejected_nonce_requests_go_one_by_one_until_a_nonce_lasts() {
        let mut gate = NonceGate::default();
        assert!(acquire(&mut gate, 1, RS));
        release(&mut gate, 1, RS, NonceOutcome::Rotated);
        assert!(acquire(&mut gate, 1, RS) && acquire(&mut gate, 2, RS));
        release(&mut gate, 1, RS, NonceOutcome::Rejected);
        assert!(!acquire(&mut gate, 3, RS), "one is still in flight");
        release(&mut gate, 2, RS, NonceOutcome::Rotated);
        assert!(acquire(&mut gate, 3, RS) && !acquire(&mut gate, 4, RS));
        release(&mut gate, 3, RS, NonceOutcome::Rotated);
        assert!(acquire(&mut gate, 4, RS) && !acquire(&mut gate, 5, RS));
        release(&mut gate, 4, RS, NonceOutcome::Unchanged);
        assert!(acquire(&mut gate, 5, RS) && acquire(&mut gate, 6, RS));
    }

    #[test]
    fn a_permit_that_is_not_released_is_waited_for_until_nothing_has_moved_for_two_seconds() {
        let mut gate = NonceGate::default();
        let uri = Uri::from_static(RS);
        let target = HttpTarget::parse(&uri).unwrap();
        let at = |secs| NOW.saturating_add(Duration::from_secs(secs));
        assert_eq!(gate.acquire(1, &target, at(0)), Admission::Admitted);
        assert_eq!(gate.acquire(2, &target, at(1)), Admission::Wait(at(2)));
        gate.release(1, &target, NonceOutcome::NoResponse, at(5));
        assert_eq!(gate.acquire(2, &target, at(6)), Admission::Admitted);
        assert_eq!(gate.acquire(3, &target, at(6)), Admission::Wait(at(8)));
    }

    #[test]
    fn idle_servers_are_forgotten_and_busy_ones_are_not() {
        let mut gate = NonceGate::default();
        assert!(acquire(&mut gate, 1, "https://busy.example/"));
        for at in 0..200 {
            let uri = format!("https://h{at}.example/");
            assert!(acquire(&mut gate, 2, &uri), "it is the first there");
            release(&mut gate, 2, &uri, NonceOutcome::Unchanged);
        }
        assert_eq!(gate.slots.len(), NonceGate::CAPACITY);
        assert!(!acquire(&mut gate, 3, "https://busy.example/"));
    }
}
