use std::fmt;

use keybound_core::driver::RefreshFailure;
use keybound_core::{
    AuthorizationError, Error as CoreError, InvalidInput, NoResponse, RedirectError, Retry,
    ServerError,
};
use serde::Serialize;
use wasm_bindgen::JsValue;

use crate::platform;

/// Why something has no result that could be used.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The core's verdict: a misuse, a refusal, an answer that can't be used.
    Core(CoreError),
    /// The server refused the proof, and the browser doesn't show the page what the server said with it.
    #[non_exhaustive]
    Hidden {
        /// The refusal.
        refusal: Box<ServerError>,
        /// The header that would have helped.
        header: &'static str,
    },
    /// No answer came, and it isn't tried again.
    #[non_exhaustive]
    NoResponse {
        /// Whether the request may have been carried out.
        lost: NoResponse,
        /// Where it went.
        host: String,
        /// What `fetch` says.
        cause: JsValue,
    },
    /// The resource answered with a redirection, which is not followed: a proof is for one URL.
    Redirected,
    /// The application's `AbortSignal` ended it; this is the signal's reason.
    Aborted(JsValue),
    /// The page's own way to a token has failed; this is what it has thrown.
    Page(JsValue),
    /// The browser can't do what is needed: a `KeyboundError` that says what.
    Browser(JsValue),
    /// The renewal that this caller waited for ended without a result.
    RefreshAborted,
    /// The session is over: its grant is used up, and no refresh token is good any longer.
    LoginRequired,
}

impl Error {
    /// What to do next.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Core(error) => error.retry(),
            Self::NoResponse { lost, .. } => CoreError::NoResponse(*lost).retry(),
            Self::RefreshAborted => Retry::Later(None),
            Self::LoginRequired => Retry::Reauthenticate,
            Self::Hidden { .. }
            | Self::Redirected
            | Self::Aborted(_)
            | Self::Page(_)
            | Self::Browser(_) => Retry::No,
        }
    }

    /// What the store is to know of a renewal that ended in this.
    pub(crate) fn refresh_failure(&self) -> RefreshFailure {
        match self {
            Self::Core(error) => RefreshFailure::from_error(error),
            Self::Hidden { refusal, .. } => {
                RefreshFailure::from_error(&CoreError::Server(refusal.clone()))
            }
            Self::NoResponse { lost, .. } => {
                RefreshFailure::from_error(&CoreError::NoResponse(*lost))
            }
            Self::RefreshAborted => RefreshFailure::aborted(),
            Self::Page(_)
            | Self::Redirected
            | Self::Aborted(_)
            | Self::Browser(_)
            | Self::LoginRequired => RefreshFailure::not_sent(),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Core(CoreError::InvalidInput(_)) => "misuse",
            Self::Core(CoreError::Response(_)) | Self::Redirected => "response",
            Self::Core(CoreError::NoResponse(_)) | Self::NoResponse { .. } => "lost",
            Self::Hidden { .. } => "hidden",
            Self::Core(CoreError::Redirect(_)) => "redirect",
            Self::Browser(_) | Self::Aborted(_) | Self::Page(_) => "browser",
            Self::RefreshAborted | Self::LoginRequired => "session",
            Self::Core(_) => "server",
        }
    }

    fn refusal(&self) -> Option<&ServerError> {
        match self {
            Self::Core(CoreError::Server(refusal)) | Self::Hidden { refusal, .. } => Some(refusal),
            _ => None,
        }
    }
}

impl Error {
    fn denial(&self) -> Option<&AuthorizationError> {
        match self {
            Self::Core(CoreError::Redirect(error)) => match &**error {
                RedirectError::Denied(denial) => Some(denial),
                _ => None,
            },
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core(error) => error.fmt(f),
            Self::Hidden { refusal, header } => write!(
                f,
                "{refusal}. The browser hides this server's `{header}` header from the page: the server must \
                 send `Access-Control-Expose-Headers: DPoP-Nonce, WWW-Authenticate, Date` with its answers"
            ),
            Self::NoResponse { lost, host, .. } => write!(
                f,
                "{lost}. {host} could not be reached, or it doesn't allow this page by CORS (its origin, and the \
                 headers `Authorization` and `DPoP`): the browser's console knows which"
            ),
            Self::Redirected => f.write_str(
                "the resource answered with a redirection. A proof is for one URL, so none is followed: call the \
                 other URL itself",
            ),
            Self::Aborted(_) => f.write_str("aborted"),
            Self::Page(_) => f.write_str("the page's own way to a token failed"),
            Self::Browser(_) => f.write_str("the browser can't do it"),
            Self::RefreshAborted => f.write_str("the renewal of the token ended without a result"),
            Self::LoginRequired => f.write_str("the session is over: a new login is needed"),
        }
    }
}

impl std::error::Error for Error {}

impl From<CoreError> for Error {
    fn from(error: CoreError) -> Self {
        Self::Core(error)
    }
}

impl From<InvalidInput> for Error {
    fn from(invalid: InvalidInput) -> Self {
        Self::Core(invalid.into())
    }
}

/// For `throw`: a `KeyboundError`, or what a signal was aborted with.
impl From<&Error> for JsValue {
    fn from(error: &Error) -> Self {
        let cause = match error {
            Error::Browser(thrown) | Error::Aborted(thrown) | Error::Page(thrown) => {
                return thrown.clone();
            }
            Error::NoResponse { cause, .. } => cause,
            _ => &Self::UNDEFINED,
        };
        let retry = error.retry();
        let (refusal, denial) = (error.refusal(), error.denial());
        let details = Details {
            kind: error.kind(),
            retry: match retry {
                Retry::Later(_) => "later",
                Retry::Reauthenticate => "reauthenticate",
                _ => "no",
            },
            retry_after: match retry {
                Retry::Later(Some(wait)) => Some(platform::millis(wait)),
                _ => None,
            },
            status: refusal.map(|refusal| refusal.status().as_u16()),
            code: refusal
                .and_then(ServerError::code)
                .or(denial.map(AuthorizationError::code)),
            description: refusal
                .and_then(ServerError::description)
                .or(denial.and_then(AuthorizationError::description)),
            nonce: refusal
                .and_then(ServerError::nonce)
                .map(|nonce| nonce.as_str()),
            request_id: refusal.and_then(ServerError::request_id),
        };
        // Strings and numbers, written to memory, can't fail.
        let details = serde_json::to_string(&details).unwrap_or_default();
        platform::fail(&error.to_string(), &details, cause)
    }
}

impl From<Error> for JsValue {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

/// The members of a `KeyboundError`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details<'a> {
    kind: &'a str,
    retry: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}
