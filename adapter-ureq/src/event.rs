use std::{error::Error as StdError, fmt};

use http::{HeaderMap, Method, Response, StatusCode, Uri, request};
use keybound_core::driver::Retrying;
use keybound_core::{Error, Token};

/// An event of a [`Transport`](crate::Transport) or of its sessions. `Debug` shows no body, no
/// query of a URL, and no header except `x-request-id`.
#[non_exhaustive]
pub enum Event<'a> {
    /// A request is about to be sent.
    #[non_exhaustive]
    RequestSent {
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
        /// The request's URL.
        uri: &'a Uri,
        /// The response's status.
        status: StatusCode,
        /// The response's headers.
        headers: &'a HeaderMap,
        /// The response's body; `None` if the application reads it.
        body: Option<&'a [u8]>,
    },
    /// A request failed without a response.
    #[non_exhaustive]
    NoResponse {
        /// The request's URL.
        uri: &'a Uri,
        /// The error of ureq.
        cause: &'a ureq::Error,
    },
    /// The request is rebuilt, with a new proof if it has one, and retried.
    Retrying(Retrying),
    /// A session has a new token, from the authorization server or from another process.
    TokenRefreshed(&'a Token),
    /// A session could not refresh its token. A token that is still valid stays in use.
    RefreshFailed(&'a Error),
    /// A session's storage failed. This process continues without it if that is safe: a refresh
    /// token is not sent.
    StorageUnavailable(&'a (dyn StdError + 'static)),
}

impl<'a> Event<'a> {
    pub(crate) fn sent(head: &'a request::Parts, body: &'a [u8]) -> Self {
        let (method, uri, headers) = (&head.method, &head.uri, &head.headers);
        Self::RequestSent {
            method,
            uri,
            headers,
            body,
        }
    }

    pub(crate) fn received<B>(
        uri: &'a Uri,
        response: &'a Response<B>,
        body: Option<&'a [u8]>,
    ) -> Self {
        let (status, headers) = (response.status(), response.headers());
        Self::ResponseReceived {
            uri,
            status,
            headers,
            body,
        }
    }
}

impl fmt::Display for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestSent { method, uri, .. } => write!(f, "{method} {}", without_query(uri)),
            Self::ResponseReceived {
                uri,
                status,
                headers,
                ..
            } => {
                write!(f, "{status} from {}", without_query(uri))?;
                match headers.get("x-request-id").and_then(|id| id.to_str().ok()) {
                    Some(id) => write!(f, " [request id {id}]"),
                    None => Ok(()),
                }
            }
            Self::NoResponse { uri, cause } => {
                write!(f, "no response from {}: {cause}", without_query(uri))
            }
            Self::Retrying(retrying) => retrying.fmt(f),
            Self::TokenRefreshed(token) => match token.expires_at() {
                Some(at) => write!(f, "new token, expires at {} (Unix time)", at.as_secs()),
                None => f.write_str("new token, without an expiry"),
            },
            Self::RefreshFailed(error) => write!(f, "token refresh failed: {error}"),
            Self::StorageUnavailable(error) => write!(
                f,
                "the session's storage failed, this process continues without it: {error}"
            ),
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
