//! What a resource server asks for beyond the token that it was shown (RFC 9470, RFC 6750 §3.1).

use std::time::Duration;

use http::HeaderMap;

use crate::oauth::grant::Scope;
use crate::wire::challenge::Challenge;

/// A resource server's wish for a person who has been authenticated better or more recently (RFC 9470 §3), or for a wider
/// scope (RFC 6750 §3.1, `insufficient_scope`). The token is as good as before; the call needs another.
///
/// [`AuthorizationBuilder::step_up`](crate::AuthorizationBuilder::step_up) asks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepUp {
    acr_values: Option<String>,
    max_age: Option<Duration>,
    scope: Option<Scope>,
}

impl StepUp {
    /// The wish in a response to a call, if it has one.
    pub fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let challenges = Challenge::all(headers);
        let wish = |challenge: &&Challenge| {
            matches!(
                challenge.param("error"),
                Some("insufficient_user_authentication" | "insufficient_scope")
            )
        };
        let challenge = challenges.iter().find(wish)?;
        Some(Self {
            acr_values: challenge.param("acr_values").map(str::to_owned),
            max_age: challenge
                .param("max_age")
                .and_then(|age| age.parse().ok())
                .map(Duration::from_secs),
            scope: challenge
                .param("scope")
                .and_then(|scope| Scope::new(scope).ok()),
        })
    }

    /// The authentication contexts that would do, separated by spaces, the best first.
    pub fn acr_values(&self) -> Option<&str> {
        self.acr_values.as_deref()
    }

    /// How long ago the person may have been authenticated.
    pub fn max_age(&self) -> Option<Duration> {
        self.max_age
    }

    /// The scope that the call needs.
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }
}
