//! Whose turn it is to call a server whose nonce isn't known, or changes under everybody's hands.

use http::Uri;

use crate::endpoint::{Origin, Target};
use crate::error::Misuse;
use crate::origins::Role;

/// Lets one call find out what a server wants while the others wait, and lets them go one by one where its nonce
/// changes with every answer. So twenty cold calls cost twenty-one requests, not forty.
///
/// Only calls with proofs need turns. A driver asks for one before each request, gives it back after the answer has
/// been judged (or when there is none), and then wakes whoever waits to ask again.
#[derive(Debug, Default)]
pub struct Turns {
    /// The one heard of last stands last.
    lanes: Vec<Lane>,
}

#[derive(Debug)]
struct Lane {
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
    OneByOne,
}

/// The right to send one request; given back by [`Turns::give_back`].
#[must_use = "others may wait for it to be given back"]
#[derive(Debug)]
pub struct Pass {
    origin: Origin,
    role: Role,
}

/// Whether a request may go out now.
#[must_use]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
pub enum Turn {
    /// Now.
    Go(Pass),
    /// When another has been given back: ask again then.
    Wait,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_enums, reason = "a driver hands on what it was told")]
pub enum Outcome {
    /// It was answered, and the nonce that its proof had stays what it was.
    Settled,
    /// It was answered, and the server has another nonce now.
    Changed,
    /// It was refused because the nonce that its proof had was no longer good.
    Stale,
    /// It got no answer.
    Lost,
}

impl Turns {
    /// How many servers are remembered; those with requests under way are never forgotten.
    const CAPACITY: usize = 64;

    /// Nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether a request with a proof may go to `uri` now.
    ///
    /// # Errors
    /// `Misuse` for a URL that a proof can't name.
    pub fn take(&mut self, role: Role, uri: &Uri) -> Result<Turn, Misuse> {
        let target = Target::of(uri)?;
        let mut lane =
            match self.lanes.iter().rposition(|lane| lane.role == role && lane.origin.is_of(&target)) {
                Some(at) => self.lanes.remove(at),
                None => Lane { origin: target.origin(), role, mode: Mode::Unknown, out: 0 },
            };
        let turn = if lane.mode == Mode::Open || lane.out == 0 {
            lane.out += 1;
            Turn::Go(Pass { origin: lane.origin.clone(), role })
        } else {
            Turn::Wait
        };
        if self.lanes.len() >= Self::CAPACITY {
            if let Some(idle) = self.lanes.iter().position(|lane| lane.out == 0) {
                self.lanes.remove(idle);
            }
        }
        self.lanes.push(lane);
        Ok(turn)
    }

    /// Gives a pass back. Waiting callers must be woken then.
    pub fn give_back(&mut self, pass: Pass, outcome: Outcome) {
        let lane = self.lanes.iter_mut().find(|lane| pass.origin == lane.origin && lane.role == pass.role);
        if let Some(lane) = lane {
            lane.out = lane.out.saturating_sub(1);
            lane.mode = match (lane.mode, outcome) {
                (mode, Outcome::Lost) => mode,
                (_, Outcome::Stale) => Mode::OneByOne,
                // It changes with every answer: whoever goes beside another, goes in vain.
                (Mode::OneByOne, Outcome::Changed) => Mode::OneByOne,
                (_, Outcome::Settled | Outcome::Changed) => Mode::Open,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RS: Role = Role::ResourceServer;

    fn take(turns: &mut Turns, uri: &'static str) -> Option<Pass> {
        match turns.take(RS, &Uri::from_static(uri)).unwrap() {
            Turn::Go(pass) => Some(pass),
            Turn::Wait => None,
        }
    }

    #[test]
    fn the_first_goes_alone_and_then_everybody_goes() {
        for outcome in [Outcome::Settled, Outcome::Changed] {
            let mut turns = Turns::new();
            let scout = take(&mut turns, "https://rs.example/a").unwrap();
            assert!(take(&mut turns, "https://RS.example:443/b").is_none());
            let elsewhere = take(&mut turns, "https://other.example/").unwrap();
            turns.give_back(scout, outcome);
            let all: Vec<Pass> = (0..20).map(|_| take(&mut turns, "https://rs.example/b").unwrap()).collect();
            all.into_iter().chain([elsewhere]).for_each(|pass| turns.give_back(pass, Outcome::Changed));
        }
    }

    #[test]
    fn a_scout_that_is_lost_is_followed_by_another() {
        let mut turns = Turns::new();
        let scout = take(&mut turns, "https://rs.example/").unwrap();
        turns.give_back(scout, Outcome::Lost);
        let next = take(&mut turns, "https://rs.example/").unwrap();
        assert!(take(&mut turns, "https://rs.example/").is_none());
        turns.give_back(next, Outcome::Settled);
    }

    #[test]
    fn where_a_nonce_was_stale_they_go_one_by_one_until_one_lasts() {
        let mut turns = Turns::new();
        let scout = take(&mut turns, "https://rs.example/").unwrap();
        turns.give_back(scout, Outcome::Changed);
        let first = take(&mut turns, "https://rs.example/").unwrap();
        let second = take(&mut turns, "https://rs.example/").unwrap();
        turns.give_back(first, Outcome::Stale);
        assert!(take(&mut turns, "https://rs.example/").is_none(), "one is still under way");
        turns.give_back(second, Outcome::Changed);
        let alone = take(&mut turns, "https://rs.example/").unwrap();
        assert!(take(&mut turns, "https://rs.example/").is_none());
        turns.give_back(alone, Outcome::Changed);
        let alone = take(&mut turns, "https://rs.example/").unwrap();
        assert!(take(&mut turns, "https://rs.example/").is_none());
        turns.give_back(alone, Outcome::Settled);
        let both = [take(&mut turns, "https://rs.example/"), take(&mut turns, "https://rs.example/")];
        assert!(both.iter().all(Option::is_some));
        both.into_iter().flatten().for_each(|pass| turns.give_back(pass, Outcome::Settled));
    }

    #[test]
    fn idle_servers_are_forgotten_and_busy_ones_are_not() {
        let mut turns = Turns::new();
        let busy = take(&mut turns, "https://busy.example/").unwrap();
        for at in 0..200 {
            let uri: Uri = format!("https://h{at}.example/").parse().unwrap();
            let Ok(Turn::Go(pass)) = turns.take(RS, &uri) else { panic!("it is the first there") };
            turns.give_back(pass, Outcome::Settled);
        }
        assert_eq!(turns.lanes.len(), Turns::CAPACITY);
        assert!(take(&mut turns, "https://busy.example/").is_none());
        turns.give_back(busy, Outcome::Settled);
    }
}
