use std::fmt;

use keybound_core::driver::RefreshFailure;
use keybound_core::{
    AuthorizationError, Error as CoreError, InvalidInput, NoResponse, RedirectError, Retry,
    ServerError,
};
use serde::Serialize;
use wasm_bindgen::JsValue;

use crate::platform;

/// An error of a request, a session or a key.
#[non_exhaustive]
pub enum Error {
    /// An error of the core: invalid input, an error response of a server, or an invalid response.
    Core(CoreError),
    /// The server rejected the proof, and the browser hides the response header that is needed for a
    /// retry, because the server does not expose it with `Access-Control-Expose-Headers`.
    #[non_exhaustive]
    Hidden {
        /// The server's error response.
        refusal: Box<ServerError>,
        /// The name of the hidden header.
        header: &'static str,
    },
    /// No response was received, and the request is not retried.
    #[non_exhaustive]
    NoResponse {
        /// Whether the server may have processed the request.
        lost: NoResponse,
        /// The host and port of the request.
        host: String,
        /// The exception that `fetch` threw.
        cause: JsValue,
    },
    /// The resource server responded with a redirect, which is not followed: a proof is valid for one
    /// URL.
    Redirected,
    /// The application's `AbortSignal` was aborted. Contains the signal's reason.
    Aborted(JsValue),
    /// The page's token callback failed. Contains the exception that it threw.
    Callback(JsValue),
    /// A required browser feature is missing or failed. Contains a `KeyboundError` that names it.
    Browser(JsValue),
    /// The refresh that this caller waited for ended without a result.
    RefreshAborted,
    /// The session has ended: its grant is used, and it has no valid refresh token.
    LoginRequired,
}

impl Error {
    /// Returns whether to retry, and when, or whether a new login is required.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Core(error) => error.retry(),
            Self::NoResponse { lost, .. } => CoreError::NoResponse(*lost).retry(),
            Self::RefreshAborted => Retry::Later(None),
            Self::LoginRequired => Retry::Reauthenticate,
            Self::Hidden { .. }
            | Self::Redirected
            | Self::Aborted(_)
            | Self::Callback(_)
            | Self::Browser(_) => Retry::No,
        }
    }

    /// Returns the failure to pass to `TokenManager::complete` for a refresh that ended in this error.
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
            Self::Callback(_)
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
            Self::Browser(_) | Self::Aborted(_) | Self::Callback(_) => "browser",
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
    fn authorization_error(&self) -> Option<&AuthorizationError> {
        match self {
            Self::Core(CoreError::Redirect(error)) => match &**error {
                RedirectError::Denied(error) => Some(error),
                _ => None,
            },
            _ => None,
        }
    }
}

/// Consists of the core's errors and of the browser's exceptions; `package.test.mjs` searches both for secrets.
impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut tuple =
            |name: &str, field: &dyn fmt::Debug| f.debug_tuple(name).field(field).finish();
        match self {
            Self::Core(error) => tuple("Core", error),
            Self::Aborted(reason) => tuple("Aborted", reason),
            Self::Callback(thrown) => tuple("Callback", thrown),
            Self::Browser(error) => tuple("Browser", error),
            Self::Hidden { refusal, header } => f
                .debug_struct("Hidden")
                .field("refusal", refusal)
                .field("header", header)
                .finish(),
            Self::NoResponse { lost, host, cause } => f
                .debug_struct("NoResponse")
                .field("lost", lost)
                .field("host", host)
                .field("cause", cause)
                .finish(),
            Self::Redirected => f.write_str("Redirected"),
            Self::RefreshAborted => f.write_str("RefreshAborted"),
            Self::LoginRequired => f.write_str("LoginRequired"),
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
                 send `Access-Control-Expose-Headers: DPoP-Nonce, WWW-Authenticate, Date` in its responses"
            ),
            Self::NoResponse { lost, host, .. } => write!(
                f,
                "{lost}. {host} could not be reached, or its CORS headers don't allow this page's origin or the \
                 headers `Authorization` and `DPoP`: see the browser's console for the cause"
            ),
            Self::Redirected => f.write_str(
                "the resource server responded with a redirect, which is not followed because a proof is valid \
                 for one URL: call the other URL directly",
            ),
            Self::Aborted(_) => f.write_str("aborted by the application's signal"),
            Self::Callback(_) => f.write_str("the page's token callback failed"),
            Self::Browser(_) => f.write_str("a required browser feature is missing or failed"),
            Self::RefreshAborted => f.write_str("the token refresh ended without a result"),
            Self::LoginRequired => f.write_str("the session has ended: a new login is required"),
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

/// Converts the error to the JavaScript value to throw: a `KeyboundError`, the reason of an aborted
/// signal, or the exception of the page's token callback.
impl From<&Error> for JsValue {
    fn from(error: &Error) -> Self {
        let cause = match error {
            Error::Browser(thrown) | Error::Aborted(thrown) | Error::Callback(thrown) => {
                return thrown.clone();
            }
            Error::NoResponse { cause, .. } => cause,
            _ => &Self::UNDEFINED,
        };
        let retry = error.retry();
        let (refusal, denied) = (error.refusal(), error.authorization_error());
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
                .or(denied.map(AuthorizationError::code)),
            description: refusal
                .and_then(ServerError::description)
                .or(denied.and_then(AuthorizationError::description)),
            nonce: refusal
                .and_then(ServerError::nonce)
                .map(|nonce| nonce.as_str()),
            request_id: refusal.and_then(ServerError::request_id),
        };
        // Serializing strings and numbers to memory can't fail.
        let details = serde_json::to_string(&details).unwrap_or_default();
        platform::fail(&error.to_string(), &details, cause)
    }
}

impl From<Error> for JsValue {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

/// The members of a `KeyboundError`, as JSON.
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
