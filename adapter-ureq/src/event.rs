use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, Uri};
use keybound_core::Token;

use crate::Error;

/// What happens on the wire, and in sessions. `Debug` shows no body, no header, and no query of a URL.
#[non_exhaustive]
pub enum Event<'a> {
    /// A request goes out.
    #[non_exhaustive]
    RequestSent {
        /// Its method.
        method: &'a Method,
        /// Its URL.
        uri: &'a Uri,
        /// Its headers, but for those that ureq adds.
        headers: &'a HeaderMap,
        /// Its body.
        body: &'a [u8],
    },
    /// A response came.
    #[non_exhaustive]
    ResponseReceived {
        /// The request's URL.
        uri: &'a Uri,
        /// Its status.
        status: StatusCode,
        /// Its headers.
        headers: &'a HeaderMap,
        /// Its body; `None` where it is left to the application.
        body: Option<&'a [u8]>,
    },
    /// None came.
    #[non_exhaustive]
    NoResponse {
        /// The request's URL.
        uri: &'a Uri,
        /// What ureq says.
        cause: &'a ureq::Error,
    },
    /// The request is made anew and sent again.
    #[non_exhaustive]
    Retrying {
        /// After so long; zero where the server wants another proof.
        wait: Duration,
        /// Why.
        reason: Reason,
    },
    /// A session has another token, from its server or from another process.
    TokenRefreshed(&'a Token),
    /// A session could not renew its token. One that is still good stays in use.
    RefreshFailed(&'a Error),
    /// A session's storage failed. This process goes on by itself, as far as it can.
    StorageUnavailable(&'a (dyn StdError + 'static)),
}

/// Why a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// It was answered by this: the server is busy, or wants another proof.
    ServerResponse(StatusCode),
    /// It got no answer.
    NoResponse,
    /// The token was refused, and another has been got.
    TokenRejected,
}

impl fmt::Debug for Event<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestSent { method, uri, .. } => write!(f, "{method} {}", place(uri)),
            Self::ResponseReceived {
                uri,
                status,
                headers,
                ..
            } => {
                write!(f, "{status} from {}", place(uri))?;
                match headers.get("x-request-id").and_then(|id| id.to_str().ok()) {
                    Some(id) => write!(f, " [request id {id}]"),
                    None => Ok(()),
                }
            }
            Self::NoResponse { uri, cause } => write!(f, "no answer from {}: {cause}", place(uri)),
            Self::Retrying { wait, reason } => {
                let wait = wait.as_millis();
                match reason {
                    Reason::ServerResponse(status) => {
                        write!(f, "again in {wait} ms, after {}", status.as_u16())
                    }
                    Reason::NoResponse => write!(f, "again in {wait} ms, after a lost connection"),
                    Reason::TokenRejected => write!(f, "again in {wait} ms, with another token"),
                }
            }
            Self::TokenRefreshed(token) => match token.expires_at() {
                Some(at) => write!(f, "a token that expires at {} (Unix time)", at.as_secs()),
                None => f.write_str("a token without an expiry"),
            },
            Self::RefreshFailed(error) => write!(f, "no new token: {error}"),
            Self::StorageUnavailable(error) => write!(
                f,
                "the storage failed, and this process goes on alone: {error}"
            ),
        }
    }
}

/// A URL without its query, which may tell more than a log should.
fn place(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    format!(
        "{}://{authority}{}",
        uri.scheme_str().unwrap_or_default(),
        uri.path()
    )
}
