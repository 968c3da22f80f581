use std::fmt;

use keybound_core::{Error as CoreError, Failure, Lost, Misuse, Retry};

use crate::storage::StorageError;

/// Why a request has no answer that could be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The core's verdict: a misuse, a refusal, an answer that can't be used.
    Core(keybound_core::Error),
    /// No answer came, and it isn't tried again.
    #[non_exhaustive]
    Lost {
        /// Whether the request may have been carried out.
        lost: Lost,
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
    RenewalEnded,
    /// The storage of the session failed, and without it a refresh token is not sent.
    Storage(StorageError),
    /// The token that another caller is getting did not come within the budget.
    OutOfTime,
    /// The session is over: its grant is used up, and no refresh token is good any longer.
    Reauthenticate,
}

impl Error {
    /// What to do next.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Core(error) => error.retry(),
            Self::Lost { lost, .. } => keybound_core::Error::Lost(*lost).retry(),
            Self::RenewalEnded | Self::Storage(_) | Self::OutOfTime => Retry::Later(None),
            Self::Reauthenticate => Retry::Reauthenticate,
            Self::Signer(_) | Self::NoSigner | Self::NoEntropy => Retry::No,
        }
    }

    /// What a renewal that ended in this has used up.
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::Core(error) => Failure::of(error),
            Self::Lost { lost, .. } => Failure::of(&CoreError::Lost(*lost)),
            Self::RenewalEnded => Failure::unknown(),
            Self::Signer(_)
            | Self::NoSigner
            | Self::NoEntropy
            | Self::Storage(_)
            | Self::OutOfTime
            | Self::Reauthenticate => Failure::unsent(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core(error) => error.fmt(f),
            Self::Lost { lost, host, cause } => write!(f, "{host}: {lost} ({cause})"),
            Self::Signer(error) => write!(f, "the signer failed: {error}"),
            Self::NoSigner => f.write_str("a key must sign this request, and no signer is set"),
            Self::NoEntropy => f.write_str("the system has no random numbers"),
            Self::RenewalEnded => f.write_str("the renewal of the token ended without a result"),
            Self::Storage(error) => {
                write!(f, "the session's storage failed, and a refresh token is not sent without it: {error}")
            }
            Self::OutOfTime => f.write_str("the token that is being got did not come in time"),
            Self::Reauthenticate => f.write_str("the session is over: a new grant is needed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // It says what that says.
            Self::Core(error) => error.source(),
            Self::Lost { cause, .. } => Some(cause),
            Self::Signer(error) | Self::Storage(error) => Some(&**error),
            Self::NoSigner
            | Self::NoEntropy
            | Self::RenewalEnded
            | Self::OutOfTime
            | Self::Reauthenticate => None,
        }
    }
}

impl From<keybound_core::Error> for Error {
    fn from(error: keybound_core::Error) -> Self {
        Self::Core(error)
    }
}

impl From<Misuse> for Error {
    fn from(misuse: Misuse) -> Self {
        Self::Core(misuse.into())
    }
}

/// What ureq's own functions end in: the lost connection as it was, all else inside of [`ureq::Error::Other`].
impl From<Error> for ureq::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Lost { cause, .. } => *cause,
            other => Self::Other(Box::new(other)),
        }
    }
}
