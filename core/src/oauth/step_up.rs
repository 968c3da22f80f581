//! Requirements of a resource server beyond a valid token (RFC 9470, RFC 6750 §3.1).

use std::time::Duration;

use http::HeaderMap;

use crate::oauth::grant::Scope;
use crate::wire::challenge::Challenge;

/// A resource server's requirement for stronger or more recent user authentication (RFC 9470 §3),
/// or for a wider scope (RFC 6750 §3.1, `insufficient_scope`). The token remains valid, but the
/// call needs another one.
///
/// [`AuthorizationBuilder::step_up`](crate::AuthorizationBuilder::step_up) requests it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepUp {
    acr_values: Option<String>,
    max_age: Option<Duration>,
    scope: Option<Scope>,
}

impl StepUp {
    /// Parses the challenges of a response. Returns `None` if none of them has such a requirement.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let challenges = Challenge::all(headers);
        let is_step_up = |error: &str| {
            matches!(
                error,
                "insufficient_user_authentication" | "insufficient_scope"
            )
        };
        let challenge = challenges
            .iter()
            .find(|challenge| challenge.param("error").is_some_and(is_step_up))?;
        let (max_age, scope) = (challenge.param("max_age"), challenge.param("scope"));
        Some(Self {
            acr_values: challenge.param("acr_values").map(str::to_owned),
            max_age: max_age.and_then(|age| age.parse().ok().map(Duration::from_secs)),
            scope: scope.and_then(|scope| Scope::new(scope).ok()),
        })
    }

    /// Returns the acceptable authentication context classes, separated by spaces, in order of
    /// preference. Returns `None` if the challenge has none.
    pub fn acr_values(&self) -> Option<&str> {
        self.acr_values.as_deref()
    }

    /// Returns the maximum time since the user's last authentication. Returns `None` if the
    /// challenge has none.
    pub fn max_age(&self) -> Option<Duration> {
        self.max_age
    }

    /// Returns the scope that the call requires. Returns `None` if the challenge has no valid one.
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }
}
