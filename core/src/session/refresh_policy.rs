//! When a token is refreshed, and how long a refresh may take.

use std::time::Duration;

use crate::oauth::token::Token;
use crate::types::time::UnixTime;

/// The minimum lifetime of a token. With a shorter one, every call would cause a refresh.
const MIN_LIFETIME: Duration = Duration::from_secs(1);

/// The minimum refresh timeout. With a shorter one, no refresh could complete in time.
const MIN_REFRESH_TIMEOUT: Duration = Duration::from_millis(100);

/// The policy of a session: when its token is refreshed, how long a refresh may take, and how soon
/// a failed one is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct RefreshPolicy {
    refresh_before_expiry: Duration,
    default_lifetime: Option<Duration>,
    pub(crate) refresh_timeout: Duration,
    pub(crate) retry_interval: Duration,
}

#[cfg(feature = "record")]
crate::request::recorded::recorded!(struct RefreshPolicy { refresh_before_expiry, default_lifetime, refresh_timeout, retry_interval });

impl Default for RefreshPolicy {
    /// Refreshes 60 s before expiry, or after four fifths of a shorter lifetime. A token without an
    /// expiry is used until a server rejects it. The refresh timeout is 30 s, and the retry
    /// interval 1 s.
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
    /// Sets how long before its expiry a token is refreshed, while it is still used. Default: 60 s.
    /// The time is at most a fifth of the token's lifetime. Jitter shortens it by up to half, so
    /// that many processes don't refresh at the same moment.
    pub fn refresh_before_expiry(mut self, duration: Duration) -> Self {
        self.refresh_before_expiry = duration;
        self
    }

    /// Sets the lifetime of a token whose response has no `expires_in` (RFC 6749 §5.1). Default:
    /// none, and the token is used until it is rejected. Minimum: 1 s.
    pub fn default_lifetime(mut self, lifetime: Duration) -> Self {
        self.default_lifetime = Some(lifetime);
        self
    }

    /// Sets the time after which another caller may start a refresh, though the current one hasn't
    /// completed: its process may have crashed. Default: 30 s. Minimum: 0.1 s.
    pub fn refresh_timeout(mut self, timeout: Duration) -> Self {
        self.refresh_timeout = timeout.max(MIN_REFRESH_TIMEOUT);
        self
    }

    /// Sets the minimum time between a failed refresh and the next one. Default: 1 s. A longer
    /// `Retry-After` of the server applies instead, up to 300 s.
    pub fn retry_interval(mut self, interval: Duration) -> Self {
        self.retry_interval = interval;
        self
    }

    /// Returns when `token` is refreshed and when it expires. `seed` is random and sets the jitter.
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
        let jitter = u32::try_from(seed % 512).unwrap_or_default();
        let early = early - early / 1024 * jitter;
        Times {
            refresh_at: Some(expires.saturating_sub(early)),
            expires_at: Some(expires),
        }
    }
}

/// When a token needs a refresh, and when it expires; `None` for never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) refresh_at: Option<UnixTime>,
    pub(crate) expires_at: Option<UnixTime>,
}
