use std::fmt;

use keybound_core::driver::RefreshFailure;
use keybound_core::{Error as CoreError, InvalidInput, NoResponse, Retry, ServerError};

use crate::storage::StorageError;

/// An error of a request, of a token refresh or of a session's storage.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// An error of the core: invalid input, an error response of the server, or a response that
    /// cannot be used.
    Core(keybound_core::Error),
    /// The request got no response, and it is not retried any more.
    #[non_exhaustive]
    NoResponse {
        /// Whether the server may have processed the request.
        lost: NoResponse,
        /// The host, and its port if it is not the default port.
        host: String,
        /// The error of ureq.
        cause: Box<ureq::Error>,
    },
    /// The [`Signer`](crate::Signer) failed.
    Signer(Box<dyn std::error::Error + Send + Sync>),
    /// The request needs a signature, and the transport has no
    /// [`signer`](crate::Transport::signer).
    NoSigner,
    /// The random number generator of the system failed.
    NoEntropy,
    /// The token refresh that this caller waited for ended without a result: its thread panicked or
    /// could not be started.
    RefreshAborted,
    /// The storage of the session failed. A refresh token is not sent without its storage, because
    /// another process could send it at the same time.
    Storage(StorageError),
    /// The token refresh in progress did not complete within the
    /// [timeout](crate::Transport::timeout) of this caller.
    Timeout,
    /// The session has no usable token, no unused grant and no valid refresh token, such as after a
    /// [log-out](crate::Session::log_out). A new grant is required.
    LoginRequired,
}

impl Error {
    /// Returns the recommended next step.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Core(error) => error.retry(),
            Self::NoResponse { lost, .. } => keybound_core::Error::NoResponse(*lost).retry(),
            Self::RefreshAborted | Self::Storage(_) | Self::Timeout => Retry::Later(None),
            Self::LoginRequired => Retry::Reauthenticate,
            Self::Signer(_) | Self::NoSigner | Self::NoEntropy => Retry::No,
        }
    }

    /// Returns the outcome of a token refresh that ended in this error: whether its single-use
    /// grant was consumed.
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

impl Error {
    /// Returns the server's refusal, if that is the error: its status, code (RFC 6749 §5.2), nonce
    /// and request id.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            Self::Core(error) => error.server_error(),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core(error) => error.fmt(f),
            Self::NoResponse { lost, host, cause } => write!(f, "{host}: {lost} ({cause})"),
            Self::Signer(error) => write!(f, "the signer failed: {error}"),
            Self::NoSigner => f.write_str("the request needs a signature, but the transport has no signer: set `Transport::signer`"),
            Self::NoEntropy => f.write_str("the system's random number generator failed"),
            Self::RefreshAborted => f.write_str("the token refresh ended without a result"),
            Self::Storage(error) => {
                write!(
                    f,
                    "the session's storage failed: {error}"
                )
            }
            Self::Timeout => f.write_str("timed out waiting for the token refresh in progress"),
            Self::LoginRequired => f.write_str(
                "the session has ended: log in again, or start a session with a new grant",
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // `Display` prints the core's error itself, so its source is the next one.
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

/// Converts into the error of ureq's own functions. [`NoResponse`](Error::NoResponse) becomes its
/// `cause`; other errors are wrapped in [`ureq::Error::Other`].
impl From<Error> for ureq::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::NoResponse { cause, .. } => *cause,
            other => Self::Other(Box::new(other)),
        }
    }
}
