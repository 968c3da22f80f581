//! The attempts of a request, as traces and metrics see them.

use std::{fmt, sync::Arc, time::Duration};

use http::{StatusCode, Uri};

use crate::request::server_state::Role;
use crate::types::endpoint::HttpTarget;

/// Whether events are queued. Not in browsers: nobody listens there, and every byte of the module
/// counts.
pub(crate) const HAS_EVENTS: bool = cfg!(not(target_arch = "wasm32"));

/// One attempt to send a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Attempt {
    /// The [label](crate::driver::SessionConfig::label) of the session that sends the request.
    pub session: Option<Arc<str>>,
    /// The origin of the server, such as `https://as.example`; with the port, unless it is the
    /// default one.
    pub server: String,
    /// The role of the server.
    pub role: Role,
    /// The number of the attempt within its operation or call, from 1. Retries, corrected proofs and
    /// polls count.
    pub number: u32,
}

impl Attempt {
    /// Creates an attempt, without the label of a session. `uri` is the URL of the request.
    pub fn new(uri: &Uri, role: Role, number: u32) -> Self {
        let target = HttpTarget::parse(uri);
        Self::at(
            target.map(|target| target.base()).unwrap_or_default(),
            role,
            number,
        )
    }

    /// Creates an attempt at the server with this origin.
    pub(crate) fn at(server: String, role: Role, number: u32) -> Self {
        Self {
            session: None,
            server,
            role,
            number,
        }
    }

    /// Sets the label of the session.
    #[must_use]
    pub fn session(self, session: Option<Arc<str>>) -> Self {
        Self { session, ..self }
    }
}

/// Formats as in `attempt 2, session users`.
impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "attempt {}", self.number)?;
        match &self.session {
            Some(session) => write!(f, ", session {session}"),
            None => Ok(()),
        }
    }
}

/// A retry that is about to happen, for traces and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Retrying {
    /// The attempt that failed.
    pub attempt: Attempt,
    /// The delay before the retry; zero if the server requires another proof.
    pub wait: Duration,
    /// The reason for the retry.
    pub reason: Reason,
}

/// The reason for a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// The server responded with this status: it is busy, or it requires another proof.
    ServerResponse(StatusCode),
    /// The request got no response.
    NoResponse,
    /// The server rejected the token, and the session has a new one.
    TokenRejected,
}

impl fmt::Display for Retrying {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wait = u64::try_from(self.wait.as_millis()).unwrap_or(u64::MAX);
        let Attempt { server, .. } = &self.attempt;
        write!(f, "retrying in {wait} ms, ")?;
        match self.reason {
            Reason::ServerResponse(status) => write!(f, "after {} from {server}", status.as_u16())?,
            Reason::NoResponse => write!(f, "after no response from {server}")?,
            Reason::TokenRejected => write!(f, "with a new token, at {server}")?,
        }
        write!(f, " [{}]", self.attempt)
    }
}
