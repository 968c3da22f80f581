//! When a token is renewed, and how long that may take.

use std::time::Duration;

use crate::oauth::token::Token;
use crate::types::time::UnixTime;

/// No token is taken to live shorter: it would be renewed for every call.
const MIN_LIFETIME: Duration = Duration::from_secs(1);

/// Less would let no renewal end.
const MIN_REFRESH_TIMEOUT: Duration = Duration::from_millis(100);

/// When a token is renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct RefreshPolicy {
    refresh_before_expiry: Duration,
    default_lifetime: Option<Duration>,
    pub(crate) refresh_timeout: Duration,
    pub(crate) retry_interval: Duration,
}

impl Default for RefreshPolicy {
    /// A minute early, or at four fifths of a shorter life; a token without an expiry is good until it is refused;
    /// a renewal may take 30 s; after one that failed the next begins a second later.
    fn default() -> Self {
        Self {
            refresh_before_expiry: Duration::from_secs(60),
            default_lifetime: None,
            refresh_timeout: Duration::from_secs(30),
            retry_interval: Duration::from_secs(1),
        }
    }
}

impl RefreshPolicy {
    /// How long before a token expires it is renewed, while it is still used. Never more than a fifth of its
    /// life; up to half of it later, by chance, so that many processes don't come at once.
    pub fn refresh_before_expiry(mut self, early: Duration) -> Self {
        self.refresh_before_expiry = early;
        self
    }

    /// How long a token lives whose server doesn't tell.
    pub fn default_lifetime(mut self, lifetime: Duration) -> Self {
        self.default_lifetime = Some(lifetime);
        self
    }

    /// How long a renewal may take until somebody else may try: its caller may have died. A tenth of a second at
    /// least.
    pub fn refresh_timeout(mut self, patience: Duration) -> Self {
        self.refresh_timeout = patience.max(MIN_REFRESH_TIMEOUT);
        self
    }

    /// How long after a renewal that failed none is begun.
    pub fn retry_interval(mut self, pause: Duration) -> Self {
        self.retry_interval = pause;
        self
    }

    /// `seed` is random.
    pub(crate) fn times(&self, token: &Token, seed: u64) -> Times {
        let assumed = self
            .default_lifetime
            .map(|lifetime| token.received_at().saturating_add(lifetime));
        let Some(expires) = token.expires_at().or(assumed) else {
            return Times {
                refresh_at: None,
                expires_at: None,
            };
        };
        let expires = expires.max(token.received_at().saturating_add(MIN_LIFETIME));
        let early = self
            .refresh_before_expiry
            .min(expires.saturating_since(token.received_at()) / 5);
        let chance = u32::try_from(seed % 512).unwrap_or_default();
        let early = early - early / 1024 * chance;
        Times {
            refresh_at: Some(expires.saturating_sub(early)),
            expires_at: Some(expires),
        }
    }
}

/// When a token is to be renewed, and when it is good no longer; `None` for never.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) refresh_at: Option<UnixTime>,
    pub(crate) expires_at: Option<UnixTime>,
}
