use std::fmt;

use keybound_core::driver::RefreshFailure;
use keybound_core::{Error as CoreError, InvalidInput, NoResponse, Retry};

use crate::storage::StorageError;

/// Why a request has no answer that could be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The core's verdict: a misuse, a refusal, an answer that can't be used.
    Core(keybound_core::Error),
    /// No answer came, and it isn't tried again.
    #[non_exhaustive]
    NoResponse {
        /// Whether the request may have been carried out.
        lost: NoResponse,
        /// The host, and its port if that is another than usual.
        host: String,
        /// What ureq says.
        cause: Box<ureq::Error>,
    },
    /// The signer couldn't sign.
    Signer(Box<dyn std::error::Error + Send + Sync>),
    /// A key must sign, and no [`signer`](crate::Transport::signer) is set.
    NoSigner,
    /// The system has no random numbers.
    NoEntropy,
    /// The renewal that this caller waited for ended without a result: its thread panicked.
    RefreshAborted,
    /// The storage of the session failed, and without it a refresh token is not sent.
    Storage(StorageError),
    /// The token that another caller is getting did not come within the budget.
    Timeout,
    /// The session is over: its grant is used up, and no refresh token is good any longer.
    LoginRequired,
}

impl Error {
    /// What to do next.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Core(error) => error.retry(),
            Self::NoResponse { lost, .. } => keybound_core::Error::NoResponse(*lost).retry(),
            Self::RefreshAborted | Self::Storage(_) | Self::Timeout => Retry::Later(None),
            Self::LoginRequired => Retry::Reauthenticate,
            Self::Signer(_) | Self::NoSigner | Self::NoEntropy => Retry::No,
        }
    }

    /// What a renewal that ended in this has used up.
    pub(crate) fn refresh_failure(&self) -> RefreshFailure {
        match self {
            Self::Core(error) => RefreshFailure::from_error(error),
            Self::NoResponse { lost, .. } => {
                RefreshFailure::from_error(&CoreError::NoResponse(*lost))
            }
            Self::RefreshAborted => RefreshFailure::aborted(),
            Self::Signer(_)
            | Self::NoSigner
            | Self::NoEntropy
            | Self::Storage(_)
            | Self::Timeout
            | Self::LoginRequired => RefreshFailure::not_sent(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core(error) => error.fmt(f),
            Self::NoResponse { lost, host, cause } => write!(f, "{host}: {lost} ({cause})"),
            Self::Signer(error) => write!(f, "the signer failed: {error}"),
            Self::NoSigner => f.write_str("a key must sign this request, and no signer is set"),
            Self::NoEntropy => f.write_str("the system has no random numbers"),
            Self::RefreshAborted => f.write_str("the renewal of the token ended without a result"),
            Self::Storage(error) => {
                write!(
                    f,
                    "the session's storage failed, and a refresh token is not sent without it: {error}"
                )
            }
            Self::Timeout => f.write_str("the token that is being got did not come in time"),
            Self::LoginRequired => f.write_str("the session is over: a new grant is needed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // It says what that says.
            Self::Core(error) => error.source(),
            Self::NoResponse { cause, .. } => Some(cause),
            Self::Signer(error) | Self::Storage(error) => Some(&**error),
            Self::NoSigner
            | Self::NoEntropy
            | Self::RefreshAborted
            | Self::Timeout
            | Self::LoginRequired => None,
        }
    }
}

impl From<keybound_core::Error> for Error {
    fn from(error: keybound_core::Error) -> Self {
        Self::Core(error)
    }
}

impl From<InvalidInput> for Error {
    fn from(invalid: InvalidInput) -> Self {
        Self::Core(invalid.into())
    }
}

/// What ureq's own functions end in: the lost connection as it was, all else inside of [`ureq::Error::Other`].
impl From<Error> for ureq::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::NoResponse { cause, .. } => *cause,
            other => Self::Other(Box::new(other)),
        }
    }
}
