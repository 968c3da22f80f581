//! The errors of callers: arguments and configuration that break a rule.

use std::fmt;

/// An argument or a configuration that breaks a rule. It never quotes the given value, which may be
/// a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidInput {
    /// The value of an argument is invalid.
    #[non_exhaustive]
    Argument {
        /// The name of the argument or parameter, such as `scope`.
        name: &'static str,
        /// The rule that the value breaks, as the end of a sentence: `must …`.
        rule: &'static str,
    },
    /// The client or the issuer's metadata have no such endpoint; the name is that of RFC 8414 §2,
    /// such as `revocation_endpoint`.
    MissingEndpoint(&'static str),
    /// The code or device code was issued by another authorization server than this client's (RFC
    /// 9700 §4.4).
    ServerMismatch,
    /// A stored state can't be restored.
    #[non_exhaustive]
    StoredState {
        /// The kind of state, such as `session state`.
        name: &'static str,
        /// The rule that it breaks, as the end of a sentence: `must …`.
        rule: &'static str,
    },
}

impl InvalidInput {
    /// Creates the error of an invalid argument. `rule` continues the sentence that `name` begins,
    /// and itself starts with `must`, such as `must not be empty`. Neither text may quote the
    /// value.
    pub const fn new(name: &'static str, rule: &'static str) -> Self {
        Self::Argument { name, rule }
    }

    /// Returns the name of the argument, endpoint or state.
    pub fn argument(&self) -> &'static str {
        match self {
            Self::Argument { name, .. }
            | Self::StoredState { name, .. }
            | Self::MissingEndpoint(name) => name,
            Self::ServerMismatch => "grant",
        }
    }

    /// Returns the rule that it breaks, as the end of a sentence: `must …`.
    pub fn rule(&self) -> &'static str {
        match self {
            Self::Argument { rule, .. } | Self::StoredState { rule, .. } => rule,
            Self::MissingEndpoint(_) => {
                "must be set: neither the client nor the issuer's metadata has this endpoint"
            }
            Self::ServerMismatch => {
                "must be redeemed at the authorization server that issued it: this client has another issuer or token endpoint"
            }
        }
    }
}

impl fmt::Display for InvalidInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.argument(), self.rule())
    }
}

impl std::error::Error for InvalidInput {}
