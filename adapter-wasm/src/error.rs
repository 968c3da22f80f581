use std::{error::Error as _, fmt};

use keybound_core::{
    AuthorizationError, Cause, Error as CoreError, InvalidInput, RedirectError, Retry, ServerError,
};
use serde::Serialize;
use wasm_bindgen::JsValue;

use crate::platform;

/// An error of a request, a session or a key. All callers that wait for one token refresh share its
/// error.
#[derive(Clone)]
#[non_exhaustive]
pub enum Error {
    /// An error of the core: invalid input, an error response, an invalid response or none, or the
    /// end of a session.
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
    /// The resource server responded with a redirect, which is not followed: a proof is valid for one
    /// URL.
    Redirected,
    /// The application's `AbortSignal` was aborted. Contains the signal's reason.
    Aborted(JsValue),
    /// A required browser feature is missing or failed. Contains a `KeyboundError` that names it.
    Browser(JsValue),
}

/// A JavaScript exception as the [`Cause`] of an error of the core.
pub struct Exception(JsValue);

/// Returns an exception as the cause of an error of the core.
pub(crate) fn exception(thrown: JsValue) -> Cause {
    Cause::new(Exception(thrown))
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&platform::text(&self.0).unwrap_or_default())
    }
}

impl fmt::Debug for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for Exception {}

impl Error {
    /// Returns whether to retry, and when, or whether a new login is required.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Core(error) => error.retry(),
            _ => Retry::No,
        }
    }

    /// Returns the exception that caused the error: that of `fetch`, of the page's token callback or
    /// of a browser feature, or the reason of an aborted signal.
    pub fn exception(&self) -> Option<&JsValue> {
        match self {
            Self::Browser(thrown) | Self::Aborted(thrown) => Some(thrown),
            Self::Core(error) => Some(&error.source()?.downcast_ref::<Exception>()?.0),
            _ => None,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Hidden { .. } => "hidden",
            Self::Redirected => "response",
            Self::Browser(_) | Self::Aborted(_) => "browser",
            Self::Core(error) => match error {
                CoreError::InvalidInput(_) | CoreError::Signer(_) => "misuse",
                CoreError::Response(_) => "response",
                CoreError::NoResponse(_) => "lost",
                CoreError::Redirect(_) => "redirect",
                CoreError::Storage(_) | CoreError::NoEntropy => "browser",
                CoreError::TokenSource(_)
                | CoreError::Timeout
                | CoreError::RefreshAborted
                | CoreError::LoginRequired => "session",
                _ => "server",
            },
        }
    }

    fn refusal(&self) -> Option<&ServerError> {
        match self {
            Self::Core(CoreError::Server(refusal)) | Self::Hidden { refusal, .. } => Some(refusal),
            _ => None,
        }
    }

    fn authorization_error(&self) -> Option<&AuthorizationError> {
        let Self::Core(CoreError::Redirect(error)) = self else {
            return None;
        };
        match &**error {
            RedirectError::Denied(error) => Some(error),
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
            Self::Browser(error) => tuple("Browser", error),
            Self::Hidden { refusal, header } => tuple("Hidden", &(header, refusal)),
            Self::Redirected => f.write_str("Redirected"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Core(CoreError::NoResponse(lost)) => write!(
                f,
                "{lost}. {host} could not be reached, or its CORS headers don't allow this page's origin or the \
                 headers `Authorization` and `DPoP`: see the browser's console for the cause",
                host = lost.host()
            ),
            Self::Core(error) => error.fmt(f),
            Self::Hidden { refusal, header } => write!(
                f,
                "{refusal}. The browser hides this server's `{header}` header from the page: the server must \
                 send `Access-Control-Expose-Headers: DPoP-Nonce, WWW-Authenticate, Date` in its responses"
            ),
            Self::Redirected => f.write_str(
                "the resource server responded with a redirect, which is not followed because a proof is valid \
                 for one URL: call the other URL directly",
            ),
            Self::Aborted(_) => f.write_str("aborted by the application's signal"),
            Self::Browser(_) => f.write_str("a required browser feature is missing or failed"),
        }
    }
}

impl std::error::Error for Error {}

/// A rejection that could have been retried with a hidden header becomes [`Error::Hidden`].
impl From<CoreError> for Error {
    fn from(error: CoreError) -> Self {
        let CoreError::Server(refusal) = error else {
            return Self::Core(error);
        };
        let header = match refusal.code() {
            Some("use_dpop_nonce") if refusal.nonce().is_none() => "DPoP-Nonce",
            Some("invalid_dpop_proof") if refusal.date().is_none() => "Date",
            _ => return Self::Core(CoreError::Server(refusal)),
        };
        Self::Hidden { refusal, header }
    }
}

impl From<InvalidInput> for Error {
    fn from(invalid: InvalidInput) -> Self {
        Self::Core(invalid.into())
    }
}

/// Converts the error to the JavaScript value to throw: a `KeyboundError`, or the
/// [exception](Error::exception) itself. For a request without a response, the exception of `fetch` is
/// the `cause` of a `KeyboundError`.
impl From<&Error> for JsValue {
    fn from(error: &Error) -> Self {
        let cause = match (error, error.exception()) {
            (Error::Core(CoreError::NoResponse(_)), Some(cause)) => cause,
            (_, Some(thrown)) => return thrown.clone(),
            (_, None) => &Self::UNDEFINED,
        };
        let (retry, retry_after) = match error.retry() {
            Retry::Later(wait) => ("later", wait.map(platform::millis)),
            Retry::Reauthenticate => ("reauthenticate", None),
            _ => ("no", None),
        };
        let (refusal, denied) = (error.refusal(), error.authorization_error());
        let (code, description) = match denied {
            Some(denied) => (Some(denied.code()), denied.description()),
            None => refusal.map_or((None, None), |it| (it.code(), it.description())),
        };
        let details = Details {
            kind: error.kind(),
            retry,
            retry_after,
            status: refusal.map(|refusal| refusal.status().as_u16()),
            code,
            description,
            nonce: refusal.and_then(|it| Some(it.nonce()?.as_str())),
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

/// The members of a `KeyboundError`, as JSON. `platform.js` drops those that are null.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Details<'a> {
    kind: &'a str,
    retry: &'a str,
    retry_after: Option<u32>,
    status: Option<u16>,
    code: Option<&'a str>,
    description: Option<&'a str>,
    nonce: Option<&'a str>,
    request_id: Option<&'a str>,
}
