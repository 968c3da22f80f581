//! The events of sessions and requests, for traces and metrics.

use std::{fmt, sync::Arc, time::Duration};

use crate::oauth::token::Token;
use crate::request::attempt::Retrying;
use crate::types::{cause::Cause, error::Error};

/// An event of a session or of a request, for traces and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A request is built anew, with a new proof if it has one, and sent again.
    Retrying(Retrying),
    /// A session has a new token.
    TokenRefreshed(TokenRefreshed),
    /// A session could not refresh its token. A token that is still valid stays in use.
    RefreshFailed(RefreshFailed),
    /// A session can't refresh its token any more.
    LoginLost(LoginLost),
    /// A refresh has waited for another process.
    LeaseAwaited(LeaseAwaited),
    /// A session's storage failed.
    StorageUnavailable(StorageUnavailable),
}

/// A refresh that has ended with a new token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenRefreshed {
    /// The [label](crate::driver::SessionConfig::label) of the session.
    pub session: Option<Arc<str>>,
    /// The new token.
    pub token: Token,
    /// Whether another process obtained the token, and this one loaded it from the storage.
    pub is_adopted: bool,
    /// The number of token requests that this process sent for it.
    pub attempts: u32,
    /// The time from the first need for a refresh, in milliseconds: waits for the lease and delays
    /// before retries count.
    pub duration: Duration,
}

/// A refresh that has ended without a token.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RefreshFailed {
    /// The [label](crate::driver::SessionConfig::label) of the session.
    pub session: Option<Arc<str>>,
    /// The error, which all callers that wait for the token get.
    pub error: Error,
    /// The number of token requests that this process sent. Zero if the refresh was
    /// [aborted](Error::RefreshAborted).
    pub attempts: u32,
    /// The time from the first need for a refresh, in milliseconds: waits for the lease and delays
    /// before retries count.
    pub duration: Duration,
}

/// The end of a session's login: there is neither a grant nor a refresh token that can be sent, and
/// once the token has expired, every call fails. Reported once for each login. A log-out is none.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoginLost {
    /// The [label](crate::driver::SessionConfig::label) of the session.
    pub session: Option<Arc<str>>,
    /// The error of the refresh: the refusal of the server, or [`Error::LoginRequired`] if the stored
    /// state was removed or can't be read.
    pub error: Error,
}

/// A refresh that has waited for the lease of another process, and then got the lease, a token, or an
/// error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LeaseAwaited {
    /// The [label](crate::driver::SessionConfig::label) of the session.
    pub session: Option<Arc<str>>,
    /// The time of the wait, in milliseconds.
    pub duration: Duration,
}

/// A failure of a session's storage. A process with a [repeatable](crate::Grant::is_repeatable) grant
/// continues without the storage; a refresh token is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StorageUnavailable {
    /// The [label](crate::driver::SessionConfig::label) of the session.
    pub session: Option<Arc<str>>,
    /// The error of the storage, or the place of a stored state that can't be read.
    pub cause: Cause,
}

impl fmt::Display for TokenRefreshed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.is_adopted {
            true => "new token of another process",
            false => "new token",
        })?;
        match self.token.expires_at() {
            Some(at) => write!(f, ", expires at {} (Unix time)", at.as_secs())?,
            None => f.write_str(", without an expiry")?,
        }
        write_refresh(f, self.attempts, self.duration, self.session.as_deref())
    }
}

impl fmt::Display for RefreshFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("token refresh failed")?;
        write_refresh(f, self.attempts, self.duration, self.session.as_deref())?;
        write!(f, ": {}", self.error)
    }
}

impl fmt::Display for LoginLost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("login lost")?;
        write_session(f, self.session.as_deref())?;
        write!(f, ": {}", self.error)
    }
}

impl fmt::Display for LeaseAwaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let waited = self.duration.as_millis();
        write!(f, "waited {waited} ms for the lease of another process")?;
        write_session(f, self.session.as_deref())
    }
}

impl fmt::Display for StorageUnavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the session's storage failed")?;
        write_session(f, self.session.as_deref())?;
        write!(f, ": {}", self.cause)
    }
}

fn write_refresh(
    f: &mut fmt::Formatter<'_>,
    attempts: u32,
    duration: Duration,
    session: Option<&str>,
) -> fmt::Result {
    write!(f, " [requests: {attempts}, {} ms", duration.as_millis())?;
    match session {
        Some(session) => write!(f, ", session {session}]"),
        None => f.write_str("]"),
    }
}

fn write_session(f: &mut fmt::Formatter<'_>, session: Option<&str>) -> fmt::Result {
    match session {
        Some(session) => write!(f, " [session {session}]"),
        None => Ok(()),
    }
}
