use std::fmt;

use keybound_core::{Error as CoreError, Lost, Misuse, Retry, Sent, ServerError};

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
    /// The session is over: its grant is used up, and no refresh token is good any longer.
    Reauthenticate,
}

impl Error {
    /// What to do next.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Core(error) => error.retry(),
            Self::Lost { lost, .. } => keybound_core::Error::Lost(*lost).retry(),
            Self::RenewalEnded => Retry::Later(None),
            Self::Reauthenticate => Retry::Reauthenticate,
            Self::Signer(_) | Self::NoSigner | Self::NoEntropy => Retry::No,
        }
    }

    /// How often a grant that is good for once may still be sent, after it has met with this.
    pub(crate) fn tries_left_after(&self, tries_left: u8) -> u8 {
        let is_turned_away = |error: &ServerError| matches!(error.status().as_u16(), 429 | 503);
        match self {
            // It was not sent, or turned away unread.
            Self::Signer(_) | Self::NoSigner | Self::NoEntropy => tries_left,
            Self::Core(CoreError::Misuse(_)) => tries_left,
            Self::Lost { lost, .. } if lost.sent() == Sent::No => tries_left,
            Self::Core(CoreError::Server(error)) if is_turned_away(error) => tries_left,
            // It may have been used up.
            Self::Lost { .. } | Self::RenewalEnded => tries_left.saturating_sub(1),
            _ if matches!(self.retry(), Retry::Later(_)) => tries_left.saturating_sub(1),
            // It was.
            _ => 0,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core(error) => error.fmt(f),
            Self::Lost { lost, cause } => write!(f, "{lost} ({cause})"),
            Self::Signer(error) => write!(f, "the signer failed: {error}"),
            Self::NoSigner => f.write_str("a key must sign this request, and no signer is set"),
            Self::NoEntropy => f.write_str("the system has no random numbers"),
            Self::RenewalEnded => f.write_str("the renewal of the token ended without a result"),
            Self::Reauthenticate => f.write_str("the session is over: a new grant is needed"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Core(error) => Some(error),
            Self::Lost { cause, .. } => Some(cause),
            Self::Signer(error) => Some(&**error),
            Self::NoSigner | Self::NoEntropy | Self::RenewalEnded | Self::Reauthenticate => None,
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
