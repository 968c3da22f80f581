//! Errors, their causes, and whether a retry can succeed.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::types::{cause::Cause, input::InvalidInput, nonce::Nonce, time::UnixTime};

/// The error of an operation, a call or a session. The variant identifies the party that caused it.
/// All callers that wait for one token refresh share its error.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The caller passed an invalid argument. Nothing was sent.
    InvalidInput(InvalidInput),
    /// The server returned an error response, and it could be parsed.
    Server(Box<ServerError>),
    /// The server returned a response that is neither the expected success nor an error response.
    Response(Box<InvalidResponse>),
    /// The redirect from the authorization server carries no authorization code.
    Redirect(Box<RedirectError>),
    /// No response arrived, and the request is not retried any more.
    NoResponse(Box<NoResponse>),
    /// The request needs a signature, and the signer failed, or there is none.
    Signer(Cause),
    /// The storage of the session failed. A refresh token is not sent without its storage, because
    /// another process could send it at the same time.
    Storage(Cause),
    /// The application's own source of tokens failed.
    TokenSource(Cause),
    /// The random number generator of the system failed.
    NoEntropy,
    /// The token refresh in progress did not complete within the timeout of this caller.
    Timeout,
    /// The token refresh that this caller waited for ended without a result, as after a panic.
    RefreshAborted,
    /// The session has no usable token, no unused grant and no valid refresh token, such as after a
    /// log-out. A new grant is required.
    LoginRequired,
}

/// Whether and how a caller can retry after an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[doc(alias = "backoff")]
pub enum Retry {
    /// The same request would fail again: the request or the configuration must change first.
    No,
    /// The same request may succeed later: after this duration, if the server specified one.
    Later(Option<Duration>),
    /// The grant or token is no longer valid: obtain a new grant.
    Reauthenticate,
}

impl Error {
    /// Returns whether a retry can succeed. A 5xx or 429 never means that the grant is invalid,
    /// regardless of its body: gateways echo such bodies.
    pub fn retry(&self) -> Retry {
        match self {
            Self::InvalidInput(_) | Self::Response(_) => Retry::No,
            Self::Server(error) => error.retry(),
            Self::Redirect(error) => match &**error {
                RedirectError::Denied(error) => error.retry(),
                _ => Retry::No,
            },
            Self::NoResponse(no_response) if !no_response.retryable => Retry::No,
            Self::NoResponse(_)
            | Self::Storage(_)
            | Self::TokenSource(_)
            | Self::RefreshAborted
            | Self::Timeout => Retry::Later(None),
            Self::LoginRequired => Retry::Reauthenticate,
            Self::Signer(_) | Self::NoEntropy => Retry::No,
        }
    }

    /// Returns the name of the variant, for the label of a metric: `server`, `no_response`,
    /// `login_required`, …
    pub fn kind(&self) -> &'static str {
        match self {
            Self::InvalidInput(_) => "invalid_input",
            Self::Server(_) => "server",
            Self::Response(_) => "response",
            Self::Redirect(_) => "redirect",
            Self::NoResponse(_) => "no_response",
            Self::Signer(_) => "signer",
            Self::Storage(_) => "storage",
            Self::TokenSource(_) => "token_source",
            Self::NoEntropy => "no_entropy",
            Self::Timeout => "timeout",
            Self::RefreshAborted => "refresh_aborted",
            Self::LoginRequired => "login_required",
        }
    }

    /// Returns the server's error response, if this is [`Error::Server`], with its status, code
    /// (RFC 6749 §5.2), nonce and request id.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            Self::Server(error) => Some(error),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidInput(invalid) => invalid.fmt(f),
            Self::Server(error) => error.fmt(f),
            Self::Response(response) => response.fmt(f),
            Self::Redirect(error) => error.fmt(f),
            Self::NoResponse(no_response) => no_response.fmt(f),
            Self::Signer(cause) => write!(f, "the signer failed: {cause}"),
            Self::Storage(cause) => write!(f, "the session's storage failed: {cause}"),
            Self::TokenSource(cause) => {
                write!(f, "the application's source of tokens failed: {cause}")
            }
            Self::NoEntropy => f.write_str("the system's random number generator failed"),
            Self::Timeout => f.write_str("timed out waiting for the token refresh in progress"),
            Self::RefreshAborted => f.write_str("the token refresh ended without a result"),
            Self::LoginRequired => f.write_str(
                "the session has ended: log in again, or start a session with a new grant",
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NoResponse(no_response) => no_response.client_error().map(Cause::as_error),
            Self::Signer(cause) | Self::Storage(cause) | Self::TokenSource(cause) => {
                Some(cause.as_error())
            }
            _ => None,
        }
    }
}

impl From<InvalidInput> for Error {
    fn from(invalid: InvalidInput) -> Self {
        Self::InvalidInput(invalid)
    }
}

impl From<ServerError> for Error {
    fn from(error: ServerError) -> Self {
        Self::Server(Box::new(error))
    }
}

impl From<InvalidResponse> for Error {
    fn from(response: InvalidResponse) -> Self {
        Self::Response(Box::new(response))
    }
}

impl From<RedirectError> for Error {
    fn from(error: RedirectError) -> Self {
        Self::Redirect(Box::new(error))
    }
}

/// The metadata of a response that caused an error. It never contains the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResponseMeta {
    /// The server that sent the response: most applications use more than one.
    pub(crate) server: String,
    pub(crate) status: StatusCode,
    pub(crate) request_id: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) content_coding: Option<String>,
    pub(crate) nonce: Option<Nonce>,
    pub(crate) date: Option<UnixTime>,
}

/// An error response: any 4xx or 5xx status, or an error in a 200 (RFC 6749 §5.2, and the formats
/// of deployed servers).
///
/// Texts from the server are truncated to 256 characters. Control characters are removed, and
/// secrets of the request that the server echoed are redacted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    pub(crate) meta: ResponseMeta,
    pub(crate) code: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) uri: Option<String>,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) retry_after: Option<Duration>,
}

impl ServerError {
    /// Returns the HTTP status. It is 200 if the server reports errors with that status.
    pub fn status(&self) -> StatusCode {
        self.meta.status
    }

    /// Returns `error`, if it is a code (RFC 6749 §5.2): `invalid_grant`, `use_dpop_nonce`, …
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// Returns `error_description` (RFC 6749 §5.2), or the message from another member that the
    /// server uses instead.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Returns `error_uri` (RFC 6749 §5.2).
    pub fn uri(&self) -> Option<&str> {
        self.uri.as_deref()
    }

    /// Returns the messages for single fields (as in a 422), as pairs of path and text. Dots
    /// separate the parts of a path.
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// Returns `x-request-id`, which the provider's support may request.
    pub fn request_id(&self) -> Option<&str> {
        self.meta.request_id.as_deref()
    }

    /// Returns `Content-Type`. It distinguishes a gateway's HTML from the server's own response.
    pub fn content_type(&self) -> Option<&str> {
        self.meta.content_type.as_deref()
    }

    /// Returns the delay before a retry, from `Retry-After`, `retry-after-ms`, `X-Retry-In` or the
    /// message.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Returns the nonce that the next proof must contain (RFC 9449 §8), for the party that creates
    /// the proof.
    pub fn nonce(&self) -> Option<&Nonce> {
        self.meta.nonce.as_ref()
    }

    /// Returns `Date` (RFC 9110 §6.6.1), the time of the server's clock.
    pub fn date(&self) -> Option<UnixTime> {
        self.meta.date
    }

    /// Returns whether the status indicates a transient failure: 408, 425, 429, 500, 502, 503 or
    /// 504.
    pub(crate) fn is_transient(&self) -> bool {
        let status = self.meta.status.as_u16();
        matches!(status, 408 | 425 | 429 | 500 | 502 | 503 | 504)
    }

    fn retry(&self) -> Retry {
        if self.is_transient() || self.meta.status.is_server_error() {
            return Retry::Later(self.retry_after);
        }
        match self.code() {
            // RFC 6749 §5.2, RFC 6750 §3.1, RFC 8628 §3.5. Entra also returns the codes of OpenID
            // Connect Core §3.1.2.6 here.
            Some(
                "invalid_grant"
                | "invalid_token"
                | "expired_token"
                | "interaction_required"
                | "login_required"
                | "consent_required",
            ) => Retry::Reauthenticate,
            Some("use_dpop_nonce" | "temporarily_unavailable" | "server_error") => {
                Retry::Later(self.retry_after)
            }
            _ => Retry::No,
        }
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meta = &self.meta;
        write!(f, "{} refused: {}", meta.server, meta.status.as_u16())?;
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        }
        if let Some(description) = &self.description {
            write!(f, ": {description}")?;
        }
        for (path, message) in &self.fields {
            write!(f, "; {path}: {message}")?;
        }
        if self.code.is_none() && self.description.is_none() && self.fields.is_empty() {
            match (&meta.content_coding, &meta.content_type) {
                (Some(coding), _) => write!(
                    f,
                    " (its body has the content coding {coding}, which was not requested)"
                )?,
                (None, Some(kind)) => {
                    write!(f, " (its {kind} body has no error in a known format)")?
                }
                (None, None) => f.write_str(" (without a readable body)")?,
            }
        }
        if let Some(wait) = self.retry_after {
            // 64 bits: code to format 128 bits adds a kilobyte to the browser build.
            let millis = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
            write!(f, " (retry in {millis} ms)")?;
        }
        write_request_id(f, meta)
    }
}

impl std::error::Error for ServerError {}

/// A response that is not an error response but can't be used. It contains no part of the body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidResponse {
    pub(crate) meta: ResponseMeta,
    pub(crate) kind: InvalidResponseKind,
}

/// The reason why an [`InvalidResponse`] can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidResponseKind {
    /// The body of a success is longer than [`MAX_RESPONSE`](crate::types::limits::MAX_RESPONSE).
    TooLarge,
    /// The response is a redirection. Redirections are not followed, because they could lead to any
    /// server.
    Redirect,
    /// The body is not JSON; the fields give the position of the error.
    #[non_exhaustive]
    NotJson {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// The body is not JSON, and has a content coding that was not requested (RFC 9110 §8.4):
    /// `gzip`, `br`, …
    Encoded(String),
    /// A required member is missing.
    Missing(&'static str),
    /// The body is JSON, but not an object.
    NotAnObject,
    /// A member has the wrong type, or a value outside its range.
    InvalidMember(&'static str),
    /// A DPoP-bound token was requested, but the token is not bound (RFC 9449 §5). A thief could
    /// use such a token.
    NotBound,
    /// The token is bound to a key other than the proof's (RFC 9449 §6).
    KeyMismatch,
    /// The metadata's `issuer` differs from the requested issuer (RFC 8414 §3.3).
    IssuerMismatch,
    /// The metadata's `resource` differs from the requested resource (RFC 9728 §3.3).
    ResourceMismatch,
    /// The `access_token` is a DPoP proof (its `typ` is `dpop+jwt`), not an access token.
    ProofInsteadOfToken,
}

/// The reason why the body of a success can't be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(unnameable_types, reason = "`FromResponse` is sealed")]
pub enum ParseError {
    /// The body is an error response: an error in a 200.
    Refusal,
    Bad(InvalidResponseKind),
}

impl From<InvalidResponseKind> for ParseError {
    fn from(kind: InvalidResponseKind) -> Self {
        Self::Bad(kind)
    }
}

impl InvalidResponse {
    /// Returns the HTTP status.
    pub fn status(&self) -> StatusCode {
        self.meta.status
    }

    /// Returns `x-request-id`.
    pub fn request_id(&self) -> Option<&str> {
        self.meta.request_id.as_deref()
    }

    /// Returns `Content-Type`.
    pub fn content_type(&self) -> Option<&str> {
        self.meta.content_type.as_deref()
    }

    /// Returns the reason why the response can't be used.
    pub fn kind(&self) -> &InvalidResponseKind {
        &self.kind
    }
}

impl fmt::Display for InvalidResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (server, status) = (&self.meta.server, self.meta.status.as_u16());
        write!(f, "invalid response from {server} ({status}")?;
        if let Some(kind) = &self.meta.content_type {
            write!(f, ", {kind}")?;
        }
        f.write_str("): ")?;
        match &self.kind {
            InvalidResponseKind::TooLarge => write!(f, "the body is longer than {} bytes", crate::types::limits::MAX_RESPONSE)?,
            InvalidResponseKind::Redirect => f.write_str("it is a redirection, and redirections are not followed")?,
            InvalidResponseKind::NotJson { line, column } => write!(f, "the body is not JSON at line {line}, column {column}")?,
            InvalidResponseKind::Encoded(coding) => write!(f, "the body has the content coding {coding}, which was not requested")?,
            InvalidResponseKind::NotAnObject => f.write_str("the body is JSON, but not an object")?,
            InvalidResponseKind::Missing(member) => write!(f, "`{member}` is missing")?,
            InvalidResponseKind::InvalidMember(member) => write!(f, "`{member}` has a wrong type or value")?,
            InvalidResponseKind::NotBound => f.write_str(
                "a DPoP-bound token was requested, but the server issued a token that is not bound to a key; \
                 set `accept_bearer` only if this server is expected to issue bearer tokens",
            )?,
            InvalidResponseKind::KeyMismatch => f.write_str("the token is bound to another key (`cnf.jkt`)")?,
            InvalidResponseKind::IssuerMismatch => f.write_str(
                "the metadata's `issuer` differs from the requested issuer; both must be identical, \
                 including a trailing slash",
            )?,
            InvalidResponseKind::ResourceMismatch => f.write_str("the metadata's `resource` differs from the requested resource")?,
            InvalidResponseKind::ProofInsteadOfToken => f.write_str("`access_token` is a DPoP proof (its `typ` is dpop+jwt), not an access token")?,
        }
        write_request_id(f, &self.meta)
    }
}

impl std::error::Error for InvalidResponse {}

fn write_request_id(f: &mut fmt::Formatter<'_>, meta: &ResponseMeta) -> fmt::Result {
    match &meta.request_id {
        Some(id) => write!(f, " [request id {id}]"),
        None => Ok(()),
    }
}

/// A redirect that carries no authorization code (RFC 6749 §4.1.2). Any site can send the user
/// agent here with a forged redirect. All variants but [`Denied`](Self::Denied) may therefore be
/// forged, and the pending request stays valid.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedirectError {
    /// The authorization server or the resource owner denied the request (RFC 6749 §4.1.2.1).
    Denied(AuthorizationError),
    /// `state` is missing or differs from the request's: the redirect doesn't belong to this
    /// request (RFC 6749 §10.12).
    StateMismatch,
    /// `iss` names a different authorization server than the request's, or is missing although this
    /// server always sends it (RFC 9207 §2.4).
    IssuerMismatch,
    /// This parameter occurs more than once (RFC 6749 §3.1).
    DuplicateParameter(&'static str),
    /// The redirect has neither `code` nor `error`.
    NoCode,
    /// The redirect is longer than 64 KiB.
    TooLong,
}

impl fmt::Display for RedirectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(error) => error.fmt(f),
            Self::StateMismatch => {
                f.write_str("the redirect doesn't belong to this authorization request: its `state` is missing or different")
            }
            Self::IssuerMismatch => f.write_str(
                "the redirect doesn't come from the authorization server of this request: its `iss` is missing or different",
            ),
            Self::DuplicateParameter(name) => write!(f, "the redirect has more than one `{name}`"),
            Self::NoCode => f.write_str("the redirect has neither `code` nor `error`"),
            Self::TooLong => f.write_str("the redirect is longer than 64 KiB"),
        }
    }
}

impl std::error::Error for RedirectError {}

/// The error that an authorization server returns instead of a code. Its texts are truncated to 256
/// characters, and control characters are removed. Compare the code in programs, and show the texts
/// as plain text only, never as HTML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationError {
    pub(crate) code: String,
    pub(crate) description: Option<String>,
    pub(crate) uri: Option<String>,
}

impl AuthorizationError {
    /// Returns `error` (RFC 6749 §4.1.2.1): `access_denied`, `invalid_scope`, `login_required`, …
    pub fn code(&self) -> &str {
        &self.code
    }

    /// Returns `error_description` (RFC 6749 §4.1.2.1).
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Returns `error_uri` (RFC 6749 §4.1.2.1).
    pub fn uri(&self) -> Option<&str> {
        self.uri.as_deref()
    }

    /// OpenID Connect Core §3.1.2.6 defines the codes for requests without user interaction
    /// (`prompt=none`).
    fn retry(&self) -> Retry {
        match self.code() {
            "temporarily_unavailable" | "server_error" => Retry::Later(None),
            "login_required"
            | "interaction_required"
            | "consent_required"
            | "account_selection_required" => Retry::Reauthenticate,
            _ => Retry::No,
        }
    }
}

impl fmt::Display for AuthorizationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = &self.code;
        write!(f, "the authorization server denied the request: {code}")?;
        match &self.description {
            Some(description) => write!(f, ": {description}"),
            None => Ok(()),
        }
    }
}

/// Whether any byte of a request may have reached the server before the connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sent {
    /// No byte was sent: the name wasn't resolved, or the connection was refused.
    No,
    /// Part or all of the request may have been sent.
    Maybe,
}

/// A request that received no response and is not retried automatically.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoResponse {
    pub(crate) sent: Sent,
    pub(crate) retryable: bool,
    pub(crate) host: String,
    pub(crate) cause: Option<Cause>,
}

impl NoResponse {
    /// Returns whether the server may have processed the request. With [`Sent::Maybe`] the outcome
    /// is ambiguous: a rotated refresh token or a relayed proof may have been consumed.
    pub fn sent(&self) -> Sent {
        self.sent
    }

    /// Returns the host, with its port if it is not the default port.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the error of the HTTP client.
    pub fn client_error(&self) -> Option<&Cause> {
        self.cause.as_ref()
    }

    /// Returns the error of the HTTP client itself.
    pub fn into_client_error(self) -> Option<Cause> {
        self.cause
    }
}

impl fmt::Display for NoResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.host)?;
        f.write_str(match (self.sent, self.retryable) {
            (Sent::No, _) => "the server could not be reached; nothing was sent",
            (Sent::Maybe, true) => "the connection was lost before a response arrived",
            (Sent::Maybe, false) => {
                "the connection was lost before a response arrived; the request may have been processed, \
                 so it is not sent again"
            }
        })?;
        match &self.cause {
            Some(cause) => write!(f, " ({cause})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for NoResponse {}
