//! When a token is renewed, and how long that may take.

use std::time::Duration;

use crate::time::UnixTime;
use crate::token::Token;

/// No token is taken to live shorter: it would be renewed for every call.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);

/// Less would let no renewal end.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(100);

/// When a token is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct RefreshPolicy {
    early: Duration,
    assumed_lifetime: Option<Duration>,
    pub(crate) patience: Duration,
    pub(crate) pause: Duration,
}

impl Default for RefreshPolicy {
    /// A minute early, or at four fifths of a shorter life; a token without an expiry is good until it is refused;
    /// a renewal may take 30 s; after one that failed the next begins a second later.
    fn default() -> Self {
        Self {
            early: Duration::from_secs(60),
            assumed_lifetime: None,
            patience: Duration::from_secs(30),
            pause: Duration::from_secs(1),
        }
    }
}

impl RefreshPolicy {
    /// How long before a token expires it is renewed, while it is still used. Never more than a fifth of its
    /// life; up to half of it later, by chance, so that many processes don't come at once.
    pub fn early(mut self, early: Duration) -> Self {
        self.early = early;
        self
    }

    /// How long a token lives whose server doesn't tell.
    pub fn assumed_lifetime(mut self, lifetime: Duration) -> Self {
        self.assumed_lifetime = Some(lifetime);
        self
    }

    /// How long a renewal may take until somebody else may try: its caller may have died. A tenth of a second at
    /// least.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience.max(SHORTEST_PATIENCE);
        self
    }

    /// How long after a renewal that failed none is begun.
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// `seed` is random.
    pub(crate) fn times(&self, token: &Token, seed: u64) -> Times {
        let assumed = self.assumed_lifetime.map(|lifetime| token.received_at().saturating_add(lifetime));
        let Some(expires) = token.expires_at().or(assumed) else {
            return Times { renew: None, expires: None };
        };
        let expires = expires.max(token.received_at().saturating_add(SHORTEST_LIFE));
        let early = self.early.min(expires.saturating_since(token.received_at()) / 5);
        let chance = u32::try_from(seed % 512).unwrap_or_default();
        let early = early - early / 1024 * chance;
        Times { renew: Some(expires.saturating_sub(early)), expires: Some(expires) }
    }
}

/// When a token is to be renewed, and when it is good no longer; `None` for never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) renew: Option<UnixTime>,
    pub(crate) expires: Option<UnixTime>,
}
