//! Arguments that break a rule.

use std::fmt;

/// An argument that breaks a rule. Neither part ever quotes what was given: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidInput {
    argument: &'static str,
    rule: &'static str,
}

impl InvalidInput {
    /// A rule that an adapter has. `rule` ends a sentence, `must …`; neither quotes what was given.
    pub const fn new(argument: &'static str, rule: &'static str) -> Self {
        Self { argument, rule }
    }

    /// Which argument it is.
    pub fn argument(&self) -> &'static str {
        self.argument
    }

    /// The rule that it breaks, as the end of a sentence: `must …`.
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

impl fmt::Display for InvalidInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.argument, self.rule)
    }
}

impl std::error::Error for InvalidInput {}
