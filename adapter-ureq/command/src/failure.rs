//! How a command ends when it doesn't end well.

use std::error::Error as StdError;
use std::io::Write as _;
use std::process::ExitCode;
use std::{fmt, io};

use keybound_ureq::{Error, InvalidInput, RedirectError};

/// Whose fault it is, and the sentence for stderr.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The user's: status 2.
    Usage(String),
    /// A server's or a check's: status 1.
    Refused(String),
}

impl Failure {
    pub(crate) fn usage(why: impl Into<String>) -> Self {
        Self::Usage(why.into())
    }

    pub(crate) fn refused(why: impl Into<String>) -> Self {
        Self::Refused(why.into())
    }

    fn of(error: &Error) -> Self {
        match error {
            Error::Core(keybound_ureq::CoreError::InvalidInput(invalid)) => invalid.clone().into(),
            _ => Self::Refused(error.to_string()),
        }
    }

    pub(crate) fn report(self) -> ExitCode {
        warn(&self);
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Refused(_) => ExitCode::from(1),
        }
    }
}

/// A line on stderr; nobody may be reading it.
pub(crate) fn warn(what: &impl fmt::Display) {
    let _ = writeln!(io::stderr(), "keybound: {what}");
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(why) | Self::Refused(why) => f.write_str(why),
        }
    }
}

impl StdError for Failure {}

impl From<InvalidInput> for Failure {
    fn from(invalid: InvalidInput) -> Self {
        Self::Usage(invalid.to_string())
    }
}

impl From<RedirectError> for Failure {
    fn from(error: RedirectError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<keybound_ureq::CoreError> for Failure {
    fn from(error: keybound_ureq::CoreError) -> Self {
        Error::from(error).into()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(&error)
    }
}

/// Of stdout, or of a response's body.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Refused(error.to_string())
    }
}
