//! What a transport and its sessions report.

use std::fmt;
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Response, StatusCode, Uri, request};
use keybound_core::Sent;
use keybound_core::driver::{
    Attempt, LeaseAwaited, LoginLost, RefreshFailed, Retrying, StorageUnavailable, TokenRefreshed,
};

use crate::transport::{Transport, was_sent};

/// An event of a [`Transport`] or of its sessions. `Debug` and `Display` show no body, no query of a
/// URL, and no header except `x-request-id`. The fields of
/// [`RequestSent`](Self::RequestSent) and [`ResponseReceived`](Self::ResponseReceived) have the
/// headers and bodies, and [`TokenRefreshed`](Self::TokenRefreshed) has the token.
///
/// Each attempt to send a request ends with [`ResponseReceived`](Self::ResponseReceived) or
/// [`NoResponse`](Self::NoResponse), and each refresh that changes the token of a session or fails
/// with [`TokenRefreshed`](Self::TokenRefreshed) or [`RefreshFailed`](Self::RefreshFailed).
/// `examples/prometheus.rs` makes metrics of them, and the
/// [runbook](https://github.com/keybound/keybound/blob/main/adapter-ureq/src/guide/runbook.md) explains
/// them.
#[non_exhaustive]
pub enum Event<'a> {
    /// A request is about to be sent.
    #[non_exhaustive]
    RequestSent {
        /// The server, the number of the attempt, and the session.
        attempt: &'a Attempt,
        /// The request's method.
        method: &'a Method,
        /// The request's URL.
        uri: &'a Uri,
        /// The request's headers, without those that ureq adds.
        headers: &'a HeaderMap,
        /// The request's body.
        body: &'a [u8],
    },
    /// A response arrived.
    #[non_exhaustive]
    ResponseReceived {
        /// The server, the number of the attempt, and the session.
        attempt: &'a Attempt,
        /// The time since the request was sent: until the end of the body, or of the headers if the
        /// application reads the body.
        duration: Duration,
        /// The request's URL.
        uri: &'a Uri,
        /// The response's status.
        status: StatusCode,
        /// The response's headers; none if the application's agent has turned the status into an
        /// error.
        headers: &'a HeaderMap,
        /// The response's body; `None` if the application reads it.
        body: Option<&'a [u8]>,
    },
    /// A request failed without a response.
    #[non_exhaustive]
    NoResponse {
        /// The server, the number of the attempt, and the session.
        attempt: &'a Attempt,
        /// The time since the request was sent.
        duration: Duration,
        /// The request's URL.
        uri: &'a Uri,
        /// Whether any byte of the request may have reached the server.
        sent: Sent,
        /// The error of ureq.
        cause: &'a ureq::Error,
    },
    /// The request is rebuilt, with a new proof if it has one, and retried.
    Retrying(&'a Retrying),
    /// A session has a new token, from the authorization server or from another process.
    TokenRefreshed(&'a TokenRefreshed),
    /// A session could not refresh its token. A token that is still valid stays in use.
    RefreshFailed(&'a RefreshFailed),
    /// A session can't refresh its token any more: a new login is required.
    LoginLost(&'a LoginLost),
    /// A refresh has waited for the lease of another process.
    LeaseAwaited(&'a LeaseAwaited),
    /// A session's storage failed.
    StorageUnavailable(&'a StorageUnavailable),
}

/// An attempt whose end is reported.
pub(crate) struct Observed<'a> {
    transport: &'a Transport,
    attempt: Attempt,
    uri: Uri,
    started: Instant,
}

impl<'a> Observed<'a> {
    /// Reports a request that is about to be sent.
    pub(crate) fn start(
        transport: &'a Transport,
        attempt: Attempt,
        head: &request::Parts,
        body: &[u8],
    ) -> Self {
        transport.emit(Event::RequestSent {
            attempt: &attempt,
            method: &head.method,
            uri: &head.uri,
            headers: &head.headers,
            body,
        });
        Self {
            transport,
            attempt,
            uri: head.uri.clone(),
            started: Instant::now(),
        }
    }

    pub(crate) fn received<B>(&self, response: &Response<B>, body: Option<&[u8]>) {
        self.transport.emit(Event::ResponseReceived {
            attempt: &self.attempt,
            duration: self.started.elapsed(),
            uri: &self.uri,
            status: response.status(),
            headers: response.headers(),
            body,
        });
    }

    pub(crate) fn lost(&self, cause: &ureq::Error) {
        self.transport.emit(Event::NoResponse {
            attempt: &self.attempt,
            duration: self.started.elapsed(),
            uri: &self.uri,
            sent: was_sent(cause),
            cause,
        });
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestSent {
                attempt,
                method,
                uri,
                ..
            } => write!(f, "{method} {} [{attempt}]", without_query(uri)),
            Self::ResponseReceived {
                attempt,
                duration,
                uri,
                status,
                headers,
                ..
            } => {
                let (uri, millis) = (without_query(uri), duration.as_millis());
                write!(f, "{status} from {uri} [{attempt}, {millis} ms]")?;
                match headers.get("x-request-id").and_then(|id| id.to_str().ok()) {
                    Some(id) => write!(f, " [request id {id}]"),
                    None => Ok(()),
                }
            }
            Self::NoResponse {
                attempt,
                duration,
                uri,
                cause,
                ..
            } => {
                let (uri, millis) = (without_query(uri), duration.as_millis());
                write!(
                    f,
                    "no response from {uri} [{attempt}, {millis} ms]: {cause}"
                )
            }
            Self::Retrying(event) => event.fmt(f),
            Self::TokenRefreshed(event) => event.fmt(f),
            Self::RefreshFailed(event) => event.fmt(f),
            Self::LoginLost(event) => event.fmt(f),
            Self::LeaseAwaited(event) => event.fmt(f),
            Self::StorageUnavailable(event) => event.fmt(f),
        }
    }
}

/// Returns a URL without its query, which may contain data that must not be logged.
fn without_query(uri: &Uri) -> String {
    let scheme = uri.scheme_str().unwrap_or_default();
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    format!("{scheme}://{authority}{}", uri.path())
}

/// Formats as [`Display`](fmt::Display) does.
impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
