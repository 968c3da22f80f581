//! Errors of subcommands, their messages and exit statuses.

use std::error::Error as StdError;
use std::io::Write as _;
use std::process::ExitCode;
use std::{fmt, io};

use keybound_ureq::{Error, InvalidInput, RedirectError};

/// The error of a subcommand, with the message for stderr.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Invalid arguments or unusable files: status 2.
    Usage(String),
    /// A server refused a request, or a check or the system failed: status 1.
    Refused(String),
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(crate) fn refused(message: impl Into<String>) -> Self {
        Self::Refused(message.into())
    }

    pub(crate) fn report(self) -> ExitCode {
        warn(&self);
        match self {
            Self::Usage(_) => ExitCode::from(2),
            Self::Refused(_) => ExitCode::from(1),
        }
    }
}

/// Prints a line on stderr. Write errors are ignored, because stderr may be closed.
pub(crate) fn warn(message: &impl fmt::Display) {
    let _ = writeln!(io::stderr(), "keybound: {message}");
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Refused(message) => f.write_str(message),
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

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::InvalidInput(invalid) => invalid.into(),
            _ => Self::Refused(error.to_string()),
        }
    }
}

/// Converts an error of stdout or of a response body.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Refused(error.to_string())
    }
}
