//! Limits the token requests that resource servers cause by rejecting every token.

use std::time::Duration;

use crate::oauth::token::Token;
use crate::types::endpoint::{HttpTarget, Origin};
use crate::types::time::UnixTime;

/// The number of fresh tokens in a row that an origin may reject before its rejections cause no
/// token request for a while.
const FRESH_TOKENS: u8 = 2;

/// The duration of the hold-off: 30 s.
const HOLD_OFF: Duration = Duration::from_secs(30);

/// The maximum number of origins.
const CAPACITY: usize = 64;

/// The origins that rejected fresh tokens since they last accepted one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusals(Vec<Refusal>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Refusal {
    origin: Origin,
    /// The fresh token that it rejected last.
    token: Token,
    /// The number of different tokens that it has rejected in a row.
    tokens: u8,
    hold_until: Option<UnixTime>,
}

impl Refusals {
    /// Counts a fresh token that was rejected.
    pub(crate) fn add(&mut self, target: &HttpTarget<'_>, token: &Token, now: UnixTime) {
        let mut refusal = match self.position(target) {
            Some(at) => self.0.remove(at),
            None => Refusal {
                origin: target.origin(),
                token: token.clone(),
                tokens: 0,
                hold_until: None,
            },
        };
        // Many calls may have waited for the same token.
        if refusal.tokens == 0 || !refusal.token.is_same_as(token) {
            refusal.tokens = refusal.tokens.saturating_add(1);
            refusal.token = token.clone();
        }
        if refusal.tokens >= FRESH_TOKENS {
            refusal.hold_until = Some(now.saturating_add(HOLD_OFF));
        }
        if self.0.len() >= CAPACITY {
            self.0.remove(0);
        }
        self.0.push(refusal);
    }

    /// Returns whether a rejection by this origin causes no token request now.
    pub(crate) fn is_on_hold(&self, target: &HttpTarget<'_>, now: UnixTime) -> bool {
        let refusal = self.position(target).and_then(|at| self.0.get(at));
        refusal
            .and_then(|refusal| refusal.hold_until)
            .is_some_and(|until| until.is_pending(now, HOLD_OFF))
    }

    /// Removes the record of an origin that has accepted a token.
    pub(crate) fn clear(&mut self, target: &HttpTarget<'_>) {
        if let Some(at) = self.position(target) {
            self.0.remove(at);
        }
    }

    fn position(&self, target: &HttpTarget<'_>) -> Option<usize> {
        self.0
            .iter()
            .position(|refusal| refusal.origin.matches(target))
    }
}
