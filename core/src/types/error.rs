//! What can go wrong, whose fault it is, and what to do next.

use std::fmt;
use std::time::Duration;

use http::StatusCode;

use crate::types::input::InvalidInput;
use crate::types::nonce::Nonce;

/// Everything that a step can end in, apart from success. The variants say whose fault it is.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The caller's: an argument breaks a rule. Nothing was sent.
    InvalidInput(InvalidInput),
    /// The server refused, and its answer could be read.
    Server(Box<ServerError>),
    /// The server answered neither with what was asked for nor with a refusal.
    Response(Box<InvalidResponse>),
    /// A person was sent to the authorization server, and came back without a code.
    Redirect(Box<RedirectError>),
    /// No answer came.
    NoResponse(NoResponse),
}

/// What a caller can do about an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Retry {
    /// The same request would fail again: something has to be changed first.
    No,
    /// The same may succeed later; after so long, where the server says so.
    Later(Option<Duration>),
    /// The grant or token is no longer good: get a new one from the start.
    Reauthenticate,
}

impl Error {
    /// What to do next. A 5xx or 429 is never a verdict on a grant, whatever its body says: gateways
    /// echo such bodies.
    pub fn retry(&self) -> Retry {
        match self {
            Self::InvalidInput(_) | Self::Response(_) => Retry::No,
            Self::Server(error) => error.retry(),
            Self::Redirect(error) => error.retry(),
            Self::NoResponse(lost) if lost.retryable => Retry::Later(None),
            Self::NoResponse(_) => Retry::No,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InvalidInput(invalid) => invalid.fmt(f),
            Self::Server(error) => error.fmt(f),
            Self::Response(bad) => bad.fmt(f),
            Self::Redirect(error) => error.fmt(f),
            Self::NoResponse(lost) => lost.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

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
    fn from(bad: InvalidResponse) -> Self {
        Self::Response(Box::new(bad))
    }
}

impl From<RedirectError> for Error {
    fn from(error: RedirectError) -> Self {
        Self::Redirect(Box::new(error))
    }
}

/// What is kept of any response that ended in an error. Never its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResponseMeta {
    /// Who sent it: what an application talks to is rarely one server alone.
    pub(crate) server: String,
    pub(crate) status: StatusCode,
    pub(crate) request_id: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) content_coding: Option<String>,
    pub(crate) nonce: Option<Nonce>,
}

/// A refusal: any 4xx or 5xx status, or an error in a 200 (RFC 6749 §5.2, and the dialects of real servers).
///
/// Texts from the server are clipped to 256 characters, stripped of control characters, and whatever
/// secret of the request the server echoed is struck out.
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
    /// The HTTP status; 200 where a server reports errors so.
    pub fn status(&self) -> StatusCode {
        self.meta.status
    }

    /// `error`, where it is a code (RFC 6749 §5.2): `invalid_grant`, `use_dpop_nonce`, …
    pub fn code(&self) -> Option<&str> {
        self.code.as_deref()
    }

    /// `error_description`, or the message in whichever member this server puts it.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// `error_uri` (RFC 6749 §5.2).
    pub fn uri(&self) -> Option<&str> {
        self.uri.as_deref()
    }

    /// Messages about single fields (a 422's), path and text; a nested path is joined by dots.
    pub fn fields(&self) -> &[(String, String)] {
        &self.fields
    }

    /// `x-request-id`: what the provider's support will ask for.
    pub fn request_id(&self) -> Option<&str> {
        self.meta.request_id.as_deref()
    }

    /// `Content-Type`: tells a gateway's HTML from the server's own answer.
    pub fn content_type(&self) -> Option<&str> {
        self.meta.content_type.as_deref()
    }

    /// How long to wait, from `Retry-After`, `retry-after-ms` or `X-Retry-In`.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// The nonce that a new proof must carry (RFC 9449 §8), to be handed to whoever makes the proof.
    pub fn nonce(&self) -> Option<&Nonce> {
        self.meta.nonce.as_ref()
    }

    /// Whether the server says that it is the server, not the request: 429, 5xx and their likes.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(
            self.meta.status.as_u16(),
            408 | 425 | 429 | 500 | 502 | 503 | 504
        )
    }

    fn retry(&self) -> Retry {
        if self.is_transient() || self.meta.status.is_server_error() {
            return Retry::Later(self.retry_after);
        }
        match self.code() {
            // RFC 6749 §5.2, RFC 6750 §3.1, RFC 8628 §3.5; OpenID Connect Core §3.1.2.6, which Entra says here as well.
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
        write!(
            f,
            "{} refused: {}",
            self.meta.server,
            self.meta.status.as_u16()
        )?;
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
            match (&self.meta.content_coding, &self.meta.content_type) {
                (Some(coding), _) => write!(
                    f,
                    " (a body encoded as {coding}, although an answer without any coding was asked for)"
                )?,
                (None, Some(kind)) => {
                    write!(f, " (a {kind} body without an error that could be read)")?
                }
                (None, None) => f.write_str(" (without a body that could be read)")?,
            }
        }
        if let Some(wait) = self.retry_after {
            // In 64 bits: formatting 128 is a kilobyte of code in a browser.
            write!(
                f,
                " (retry in {} ms)",
                u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)
            )?;
        }
        write_request_id(f, &self.meta)
    }
}

impl std::error::Error for ServerError {}

/// A response that is no refusal and can't be used. Nothing of its body is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidResponse {
    pub(crate) meta: ResponseMeta,
    pub(crate) kind: InvalidResponseKind,
}

/// Why a [`InvalidResponse`] can't be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum InvalidResponseKind {
    /// The body of a success is longer than [`MAX_RESPONSE`](crate::types::limits::MAX_RESPONSE).
    TooLarge,
    /// A redirection. None is followed: it could lead anywhere.
    Redirect,
    /// The body is not JSON; where it stops being so.
    #[non_exhaustive]
    NotJson {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// The body is not JSON, and has a content coding although none was asked for (RFC 9110 §8.4): `gzip`, `br`, …
    Encoded(String),
    /// A member is missing.
    Missing(&'static str),
    /// JSON, but no object.
    NotAnObject,
    /// A member is not of its type, or not in its range.
    InvalidMember(&'static str),
    /// A DPoP-bound token was asked for, and another came (RFC 9449 §5): it would be good for whoever steals it.
    NotBound,
    /// The token is bound to another key than the proof's (RFC 9449 §6).
    KeyMismatch,
    /// The metadata is another issuer's than the one that was asked for (RFC 8414 §3.3).
    IssuerMismatch,
    /// The metadata are another resource's than the one that was asked for (RFC 9728 §3.3).
    ResourceMismatch,
    /// The `access_token` is itself a DPoP proof (its `typ` is `dpop+jwt`), so it is no token.
    ProofInsteadOfToken,
}

/// Why a success can't be read.
pub(crate) enum ParseError {
    /// It is a refusal after all: an error in a 200.
    Refusal,
    Bad(InvalidResponseKind),
}

impl From<InvalidResponseKind> for ParseError {
    fn from(why: InvalidResponseKind) -> Self {
        Self::Bad(why)
    }
}

impl InvalidResponse {
    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.meta.status
    }

    /// `x-request-id`.
    pub fn request_id(&self) -> Option<&str> {
        self.meta.request_id.as_deref()
    }

    /// `Content-Type`.
    pub fn content_type(&self) -> Option<&str> {
        self.meta.content_type.as_deref()
    }

    /// What is wrong with it.
    pub fn kind(&self) -> &InvalidResponseKind {
        &self.kind
    }
}

impl fmt::Display for InvalidResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the answer of {} ({}",
            self.meta.server,
            self.meta.status.as_u16()
        )?;
        if let Some(kind) = &self.meta.content_type {
            write!(f, ", {kind}")?;
        }
        f.write_str(") can't be used: ")?;
        match &self.kind {
            InvalidResponseKind::TooLarge => write!(f, "it is longer than {} bytes", crate::types::limits::MAX_RESPONSE)?,
            InvalidResponseKind::Redirect => f.write_str("it is a redirection, and none is followed")?,
            InvalidResponseKind::NotJson { line, column } => write!(f, "it is not JSON at line {line}, column {column}")?,
            InvalidResponseKind::Encoded(coding) => {
                write!(
                    f,
                    "its body is encoded as {coding}, although an answer without any coding was asked for"
                )?;
            }
            InvalidResponseKind::NotAnObject => f.write_str("it is JSON, but no object")?,
            InvalidResponseKind::Missing(member) => write!(f, "`{member}` is missing")?,
            InvalidResponseKind::InvalidMember(member) => write!(f, "`{member}` has a wrong type or value")?,
            InvalidResponseKind::NotBound => f.write_str(
                "a token bound to the key was asked for (DPoP), and one came that is bound to none; \
                 accept it by `accept_bearer` only if the server is meant to do so",
            )?,
            InvalidResponseKind::KeyMismatch => f.write_str("the token is bound to another key (`cnf.jkt`)")?,
            InvalidResponseKind::IssuerMismatch => f.write_str(
                "it is the metadata of another `issuer` than the one that was asked for, to the letter: \
                 a closing slash counts",
            )?,
            InvalidResponseKind::ResourceMismatch => {
                f.write_str("it is the metadata of another `resource` than the one that was asked for")?;
            }
            InvalidResponseKind::ProofInsteadOfToken => {
                f.write_str("`access_token` is a DPoP proof (its `typ` is dpop+jwt), not an access token")?;
            }
        }
        write_request_id(f, &self.meta)
    }
}

impl std::error::Error for InvalidResponse {}

fn write_request_id(f: &mut fmt::Formatter<'_>, envelope: &ResponseMeta) -> fmt::Result {
    match &envelope.request_id {
        Some(id) => write!(f, " [request id {id}]"),
        None => Ok(()),
    }
}

/// A redirect that brings no code (RFC 6749 §4.1.2). Anybody can send a person here with a redirect of their own making,
/// so all but [`Denied`](Self::Denied) may be forged, and the request that was begun stays good.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedirectError {
    /// The authorization server says no, or the person does (RFC 6749 §4.1.2.1).
    Denied(AuthorizationError),
    /// `state` is missing, or another than the request's: this redirect answers no request of ours (RFC 6749 §10.12).
    StateMismatch,
    /// It comes from another authorization server than the one that was asked, or doesn't say from which although it
    /// always should (RFC 9207 §2.4).
    IssuerMismatch,
    /// This parameter stands twice (RFC 6749 §3.1).
    DuplicateParameter(&'static str),
    /// There is neither a code nor an error.
    NoCode,
    /// It is longer than 64 KiB.
    TooLong,
}

impl RedirectError {
    fn retry(&self) -> Retry {
        match self {
            Self::Denied(denial) => denial.retry(),
            _ => Retry::No,
        }
    }
}

impl fmt::Display for RedirectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(denial) => denial.fmt(f),
            Self::StateMismatch => {
                f.write_str("the redirect answers no request of ours: its `state` is missing or another")
            }
            Self::IssuerMismatch => f.write_str(
                "the redirect comes from another authorization server than the one that was asked (`iss`)",
            ),
            Self::DuplicateParameter(name) => write!(f, "the redirect has `{name}` twice"),
            Self::NoCode => f.write_str("the redirect has neither `code` nor `error`"),
            Self::TooLong => f.write_str("the redirect is longer than 64 KiB"),
        }
    }
}

impl std::error::Error for RedirectError {}

/// What an authorization server says in place of a code. Its texts are clipped to 256 characters and stripped of
/// control characters; it is for programs to compare and for people to read, never to be shown as HTML.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationError {
    pub(crate) code: String,
    pub(crate) description: Option<String>,
    pub(crate) uri: Option<String>,
}

impl AuthorizationError {
    /// `error`: `access_denied`, `invalid_scope`, `login_required`, …
    pub fn code(&self) -> &str {
        &self.code
    }

    /// `error_description`.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// `error_uri`.
    pub fn uri(&self) -> Option<&str> {
        self.uri.as_deref()
    }

    /// OpenID Connect Core §3.1.2.6 has the codes for a request that a person was not to be bothered with.
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
        write!(
            f,
            "the authorization server sent the person back without a code: {}",
            self.code
        )?;
        match &self.description {
            Some(description) => write!(f, ": {description}"),
            None => Ok(()),
        }
    }
}

/// Whether any byte of a request may have reached the server before the connection was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Sent {
    /// Certainly none: the name wasn't resolved, or the connection was refused.
    No,
    /// Perhaps all of it.
    Maybe,
}

/// A request that got no answer, and isn't sent again by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoResponse {
    pub(crate) sent: Sent,
    pub(crate) retryable: bool,
}

impl NoResponse {
    /// Whether the server may have acted on the request. With [`Sent::Maybe`] the outcome is ambiguous: a
    /// rotated refresh token or a relayed proof may be used up.
    pub fn sent(&self) -> Sent {
        self.sent
    }
}

impl fmt::Display for NoResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.sent, self.retryable) {
            (Sent::No, _) => "the server could not be reached; nothing was sent",
            (Sent::Maybe, true) => "the connection was lost before an answer came",
            (Sent::Maybe, false) => {
                "the connection was lost before an answer came; the request may have been carried out, \
                 and what it used up is not sent again"
            }
        })
    }
}

impl std::error::Error for NoResponse {}
