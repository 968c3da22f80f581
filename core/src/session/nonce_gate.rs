//! Whose turn it is to call a server whose nonce isn't known, or changes under everybody's hands.

use http::Uri;

use crate::request::nonce_outcome::NonceOutcome;
use crate::request::server_state::Role;
use crate::types::endpoint::{HttpTarget, Origin};
use crate::types::input::InvalidInput;

/// Lets one call find out what a server wants while the others wait, and lets them go one by one where its nonce
/// changes with every answer. So twenty cold calls cost twenty-one requests, not forty.
///
/// Only calls with proofs need turns. A driver asks for one before each request, gives it back after the answer has
/// been judged (or when there is none), and then wakes whoever waits to ask again.
#[derive(Debug, Default)]
pub struct NonceGate {
    /// The one heard of last stands last.
    slots: Vec<Slot>,
}

#[derive(Debug)]
struct Slot {
    origin: Origin,
    role: Role,
    mode: Mode,
    /// How many passes are out.
    out: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Nothing has been answered yet: one goes ahead.
    Unknown,
    /// Everybody goes.
    Open,
    /// A nonce that was sent was no longer good: one at a time.
    Serial,
}

/// The right to send one request; given back by [`NonceGate::release`].
#[must_use = "others may wait for it to be given back"]
#[derive(Debug)]
pub struct Permit {
    origin: Origin,
    role: Role,
}

/// Whether a request may go out now.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
pub enum Admission {
    /// Now.
    Admitted(Permit),
    /// When another has been given back: ask again then.
    Wait,
}

impl NonceGate {
    /// How many servers are remembered; those with requests under way are never forgotten.
    const CAPACITY: usize = 64;

    /// Nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a request with a proof may go to `uri` now.
    ///
    /// # Errors
    /// `InvalidInput` for a URL that a proof can't name.
    pub fn acquire(&mut self, role: Role, uri: &Uri) -> Result<Admission, InvalidInput> {
        let target = HttpTarget::parse(uri)?;
        let mut lane = match self
            .slots
            .iter()
            .rposition(|lane| lane.role == role && lane.origin.matches(&target))
        {
            Some(at) => self.slots.remove(at),
            None => Slot {
                origin: target.origin(),
                role,
                mode: Mode::Unknown,
                out: 0,
            },
        };
        let turn = if lane.mode == Mode::Open || lane.out == 0 {
            lane.out += 1;
            Admission::Admitted(Permit {
                origin: lane.origin.clone(),
                role,
            })
        } else {
            Admission::Wait
        };
        if self.slots.len() >= Self::CAPACITY {
            if let Some(idle) = self.slots.iter().position(|lane| lane.out == 0) {
                self.slots.remove(idle);
            }
        }
        self.slots.push(lane);
        Ok(turn)
    }

    /// Gives a pass back. Waiting callers must be woken then.
    pub fn release(&mut self, pass: Permit, outcome: NonceOutcome) {
        let lane = self
            .slots
            .iter_mut()
            .find(|lane| pass.origin == lane.origin && lane.role == pass.role);
        if let Some(lane) = lane {
            lane.out = lane.out.saturating_sub(1);
            lane.mode = match (lane.mode, outcome) {
                (mode, NonceOutcome::NoResponse) => mode,
                (_, NonceOutcome::Rejected) => Mode::Serial,
                // It changes with every answer: whoever goes beside another, goes in vain.
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

    fn take(turns: &mut NonceGate, uri: &'static str) -> Option<Permit> {
        match turns.acquire(RS, &Uri::from_static(uri)).unwrap() {
            Admission::Admitted(pass) => Some(pass),
            Admission::Wait => None,
        }
    }

    #[test]
    fn the_first_goes_alone_and_then_everybody_goes() {
        for outcome in [NonceOutcome::Unchanged, NonceOutcome::Rotated] {
            let mut turns = NonceGate::new();
            let scout = take(&mut turns, "https://rs.example/a").unwrap();
            assert!(take(&mut turns, "https://RS.example:443/b").is_none());
            let elsewhere = take(&mut turns, "https://other.example/").unwrap();
            turns.release(scout, outcome);
            let all: Vec<Permit> = (0..20)
                .map(|_| take(&mut turns, "https://rs.example/b").unwrap())
                .collect();
            all.into_iter()
                .chain([elsewhere])
                .for_each(|pass| turns.release(pass, NonceOutcome::Rotated));
        }
    }

    #[test]
    fn a_scout_that_is_lost_is_followed_by_another() {
        let mut turns = NonceGate::new();
        let scout = take(&mut turns, "https://rs.example/").unwrap();
        turns.release(scout, NonceOutcome::NoResponse);
        let next = take(&mut turns, "https://rs.example/").unwrap();
        assert!(take(&mut turns, "https://rs.example/").is_none());
        turns.release(next, NonceOutcome::Unchanged);
    }

    #[test]
    fn where_a_nonce_was_stale_they_go_one_by_one_until_one_lasts() {
        let mut turns = NonceGate::new();
        let scout = take(&mut turns, "https://rs.example/").unwrap();
        turns.release(scout, NonceOutcome::Rotated);
        let first = take(&mut turns, "https://rs.example/").unwrap();
        let second = take(&mut turns, "https://rs.example/").unwrap();
        turns.release(first, NonceOutcome::Rejected);
        assert!(
            take(&mut turns, "https://rs.example/").is_none(),
            "one is still under way"
        );
        turns.release(second, NonceOutcome::Rotated);
        let alone = take(&mut turns, "https://rs.example/").unwrap();
        assert!(take(&mut turns, "https://rs.example/").is_none());
        turns.release(alone, NonceOutcome::Rotated);
        let alone = take(&mut turns, "https://rs.example/").unwrap();
        assert!(take(&mut turns, "https://rs.example/").is_none());
        turns.release(alone, NonceOutcome::Unchanged);
        let both = [
            take(&mut turns, "https://rs.example/"),
            take(&mut turns, "https://rs.example/"),
        ];
        assert!(both.iter().all(Option::is_some));
        both.into_iter()
            .flatten()
            .for_each(|pass| turns.release(pass, NonceOutcome::Unchanged));
    }

    #[test]
    fn idle_servers_are_forgotten_and_busy_ones_are_not() {
        let mut turns = NonceGate::new();
        let busy = take(&mut turns, "https://busy.example/").unwrap();
        for at in 0..200 {
            let uri: Uri = format!("https://h{at}.example/").parse().unwrap();
            let Ok(Admission::Admitted(pass)) = turns.acquire(RS, &uri) else {
                panic!("it is the first there")
            };
            turns.release(pass, NonceOutcome::Unchanged);
        }
        assert_eq!(turns.slots.len(), NonceGate::CAPACITY);
        assert!(take(&mut turns, "https://busy.example/").is_none());
        turns.release(busy, NonceOutcome::Unchanged);
    }
}
