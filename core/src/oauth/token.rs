//! Access tokens, and the parser of token responses.

use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use serde::Serialize;

use crate::dpop::{AccessTokenHash, Jws, is_dpop_proof};
use crate::jose::PublicJwk;
use crate::oauth::grant::{Polling, Scope};
use crate::oauth::lineage::Lineage;
use crate::request::endpoint_request::EndpointRequest;
use crate::request::operation::sealed::Sealed;
use crate::request::operation::{FlowFailure, FromResponse, SuccessResponse};
use crate::types::error::{InvalidResponseKind, ParseError};
use crate::types::secret::Secret;
use crate::types::text::serde_as_text;
use crate::types::time::UnixTime;
use crate::wire::error_response::{Redactor, request_id};
use crate::wire::http_date;
use crate::wire::json::{JsonObject, JsonValue};

/// The interpretation of `expires_in`. RFC 6749 §5.1 defines it as seconds from now; some servers,
/// such as Moov's, send a Unix time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpiresIn {
    /// Determined by magnitude: below 10⁹ seconds from now, below 10¹² a Unix time in seconds,
    /// otherwise a Unix time in milliseconds.
    #[default]
    Auto,
    /// Seconds from now.
    Relative,
    /// A Unix time in seconds.
    AbsoluteSeconds,
    /// A Unix time in milliseconds.
    AbsoluteMillis,
}

impl ExpiresIn {
    /// Returns the time at which a token received at `now` expires. Returns `None`, which means
    /// unknown, for zero, negative numbers, and values that are not a number.
    ///
    /// A result in the past means that the local clock is ahead. The lifetime is then measured from
    /// the `Date` of the response.
    fn expiry(self, value: f64, headers: &HeaderMap, now: UnixTime) -> Option<UnixTime> {
        let expires = self.by_local_clock(value, now)?;
        let date = http_date::from_headers(headers).filter(|_| expires <= now);
        Some(date.map_or(expires, |date| {
            now.saturating_add(expires.saturating_since(date))
        }))
    }

    fn by_local_clock(self, value: f64, now: UnixTime) -> Option<UnixTime> {
        let span = Duration::try_from_secs_f64(value).ok()?;
        match self {
            _ if span.is_zero() => None,
            Self::Auto if value < 1e9 => Self::Relative.by_local_clock(value, now),
            Self::Auto if value < 1e12 => Self::AbsoluteSeconds.by_local_clock(value, now),
            Self::Auto => Self::AbsoluteMillis.by_local_clock(value, now),
            Self::Relative => Some(now.saturating_add(span)),
            Self::AbsoluteSeconds => Some(UnixTime::from_secs(0).saturating_add(span)),
            // Not divided by 1000, to avoid rounding; only the whole part counts.
            Self::AbsoluteMillis => Some(UnixTime::from_millis(span.as_secs())),
        }
    }
}

/// The type of a token, `token_type` (RFC 6749 §7.1). An open set, parsed without regard to case.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TokenType {
    /// A bearer token (RFC 6750). Also used if the server names no type, or the old `opaque` of
    /// Moov.
    Bearer,
    /// A token bound to a key (RFC 9449).
    Dpop,
    /// Any other type, as spelled by the server.
    Other(String),
}

/// Never fails: the set of types is open.
impl FromStr for TokenType {
    type Err = Infallible;

    fn from_str(name: &str) -> Result<Self, Infallible> {
        Ok(Self::parse(name))
    }
}

serde_as_text!(TokenType);

impl fmt::Display for TokenType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TokenType {
    fn parse(name: &str) -> Self {
        match name {
            _ if name.eq_ignore_ascii_case("dpop") => Self::Dpop,
            _ if name.eq_ignore_ascii_case("bearer") || name.eq_ignore_ascii_case("opaque") => {
                Self::Bearer
            }
            _ => Self::Other(name.to_owned()),
        }
    }

    /// Returns the type named by a response: a string, or the only element of a list. Returns
    /// `None` for names that are not an authentication scheme (RFC 9110 §11.1).
    fn named(value: JsonValue<'_>) -> Option<Self> {
        let text = value
            .as_str()
            .or_else(|| match value.as_array()?.as_slice() {
                [only] => only.as_str(),
                _ => None,
            })?;
        let name = text.trim();
        let is_scheme = !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        is_scheme.then(|| Self::parse(name))
    }

    /// Returns the type as a scheme of the `Authorization` header.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Bearer => "Bearer",
            Self::Dpop => "DPoP",
            Self::Other(name) => name,
        }
    }
}

/// An access token with the other members of its response. Cheap to clone. The `Debug` output
/// contains no secrets.
#[derive(Clone)]
pub struct Token(Arc<TokenParts>);

#[derive(Clone)]
struct TokenParts {
    access: Secret,
    token_type: TokenType,
    /// The value of the `Authorization` header.
    authorization: HeaderValue,
    /// Computed on first use, because a bearer token needs none.
    ath: OnceLock<AccessTokenHash>,
    key: Option<PublicJwk>,
    received_at: UnixTime,
    expires_at: Option<UnixTime>,
    refresh: Option<Secret>,
    scope: Option<Scope>,
    request_id: Option<String>,
    extra: Vec<(String, Secret)>,
}

impl Token {
    /// Returns the access token. [`authorize`](Self::authorize) adds it to a request.
    pub fn access_token(&self) -> &Secret {
        &self.0.access
    }

    /// Returns the `token_type` (RFC 6749 §7.1).
    pub fn token_type(&self) -> &TokenType {
        &self.0.token_type
    }

    /// Returns the time at which the token was received.
    pub fn received_at(&self) -> UnixTime {
        self.0.received_at
    }

    /// Returns the time at which the token expires, computed when it was received. Returns `None`
    /// if the server sent no usable lifetime.
    pub fn expires_at(&self) -> Option<UnixTime> {
        self.0.expires_at
    }

    /// Returns the refresh token: the new one or, if the response has none, the one that was sent
    /// (RFC 6749 §6).
    pub fn refresh_token(&self) -> Option<&Secret> {
        self.0.refresh.as_ref()
    }

    /// Returns the granted scope. `None` means that the server granted the requested scope (RFC
    /// 6749 §5.1).
    pub fn scope(&self) -> Option<&Scope> {
        self.0.scope.as_ref()
    }

    /// Returns the key to which the token is bound (RFC 9449 §6); its thumbprint is the `jkt`.
    /// Returns `None` for a token of any type but DPoP.
    pub fn key(&self) -> Option<&PublicJwk> {
        self.0.key.as_ref()
    }

    /// Returns the `x-request-id` of the response. Returns `None` if it is missing, or if the token
    /// was restored from stored state.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// Returns a string member of the response that has no method of its own, such as
    /// `issued_token_type`. Returns `None` if it is missing or not a string.
    pub fn extra(&self, member: &str) -> Option<&Secret> {
        self.0
            .extra
            .iter()
            .rev()
            .find(|(name, _)| name == member)
            .map(|(_, text)| text)
    }

    /// Returns a copy that shares no memory with this token or its clones. Clones of one token on
    /// several processors contend for the count of them.
    pub fn detached(&self) -> Self {
        Self(Arc::new(TokenParts::clone(&self.0)))
    }

    /// Returns whether both are clones of the same token. An equal token is not enough.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns the hash that identifies the token in the lineage of a session.
    pub(crate) fn lineage_id(&self) -> String {
        Lineage::id(self.0.refresh.as_ref().unwrap_or(&self.0.access))
    }

    pub(crate) fn authorization(&self) -> &HeaderValue {
        &self.0.authorization
    }

    pub(crate) fn ath(&self) -> AccessTokenHash {
        *self
            .0
            .ath
            .get_or_init(|| AccessTokenHash::new(self.0.access.expose()))
    }
}

/// Two tokens are equal if access token and refresh token are, even if one of them was stored and
/// loaded again. A server may rotate the refresh token and repeat the access token.
impl PartialEq for Token {
    fn eq(&self, other: &Self) -> bool {
        self.is_same_as(other)
            || (self.0.access == other.0.access && self.0.refresh == other.0.refresh)
    }
}

impl Eq for Token {}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TokenParts {
            access,
            token_type,
            expires_at,
            refresh,
            scope,
            key,
            request_id,
            ..
        } = &*self.0;
        // Text from the server may repeat secrets of the same response.
        let secrets = Redactor::from_iter(
            [Some(access), refresh.as_ref()]
                .into_iter()
                .flatten()
                .map(Secret::expose),
        );
        f.debug_struct("Token")
            .field("token_type", &secrets.redact(token_type.as_str()))
            .field("access_token", access)
            .field("expires_at", expires_at)
            .field("refresh_token", refresh)
            .field(
                "scope",
                &scope.as_ref().map(|scope| secrets.redact(scope.as_str())),
            )
            .field("key", key)
            .field(
                "request_id",
                &request_id.as_ref().map(|id| secrets.redact(id)),
            )
            .finish_non_exhaustive()
    }
}

impl Sealed for Token {}

impl FromResponse for Token {
    type Expected = Expected;

    fn parse(success: &SuccessResponse<'_>, expected: &Expected) -> Result<Self, ParseError> {
        read(success, expected)
    }

    fn on_failure(
        failure: &FlowFailure,
        expected: &mut Expected,
        _request: &mut EndpointRequest,
        now: UnixTime,
    ) -> Option<Duration> {
        expected.polling.as_mut()?.after(failure, now)
    }
}

/// The expected properties of a token response.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(unnameable_types, reason = "`FromResponse` is sealed")]
pub struct Expected {
    pub(crate) key: Option<PublicJwk>,
    pub(crate) accept_bearer: bool,
    pub(crate) expires_in: ExpiresIn,
    pub(crate) refresh_token: Option<Secret>,
    /// How to poll while the decision of the user is pending.
    pub(crate) polling: Option<Polling>,
}

/// Parses a successful token response (RFC 6749 §5.1). Tolerates deviations of existing servers.
pub(crate) fn read(
    success: &SuccessResponse<'_>,
    expected: &Expected,
) -> Result<Token, ParseError> {
    let response = JsonObject::parse_response(success.body, "access_token")?;
    let access = response
        .optional_str("access_token")?
        .ok_or(InvalidResponseKind::Missing("access_token"))?;
    let access = Secret::new(access);
    // RFC 6749 §A.12: no header can carry other characters.
    // The fold has no early exit, so the compiler can vectorize it.
    if !access
        .expose()
        .bytes()
        .fold(true, |good, byte| good & matches!(byte, 0x20..=0x7E))
    {
        return Err(InvalidResponseKind::InvalidMember("access_token").into());
    }
    if is_dpop_proof(access.expose()) {
        return Err(InvalidResponseKind::ProofInsteadOfToken.into());
    }
    let named = response.get("token_type").and_then(TokenType::named);
    let is_bearer = matches!(named, None | Some(TokenType::Bearer));
    let is_bound = named == Some(TokenType::Dpop);
    let may_be_unbound =
        (is_bearer && expected.accept_bearer) || is_no_access_token(named.as_ref(), &response);
    if expected.key.is_some() && !is_bound && !may_be_unbound {
        return Err(InvalidResponseKind::NotBound.into());
    }
    let token_type = named.unwrap_or(TokenType::Bearer);
    let key = expected
        .key
        .clone()
        .filter(|_| token_type == TokenType::Dpop);
    if key
        .as_ref()
        .is_some_and(|key| names_another_key(access.expose(), key))
    {
        return Err(InvalidResponseKind::KeyMismatch.into());
    }
    let authorization =
        authorization(&token_type, &access).map_err(InvalidResponseKind::InvalidMember)?;
    // Other malformed members are ignored, so that a valid access token is not lost.
    let refresh = response
        .str("refresh_token")
        .filter(|refresh| !refresh.is_empty());
    Ok(Token(Arc::new(TokenParts {
        ath: OnceLock::new(),
        access,
        token_type,
        authorization,
        key,
        received_at: success.now,
        expires_at: response
            .get("expires_in")
            .and_then(JsonValue::as_f64)
            .and_then(|value| {
                expected
                    .expires_in
                    .expiry(value, success.headers, success.now)
            }),
        refresh: refresh
            .map(Secret::new)
            .or_else(|| expected.refresh_token.clone()),
        scope: response.get("scope").and_then(scope),
        request_id: request_id(success.headers),
        extra: extra_members(&response),
    })))
}

/// Returns whether a token exchange issued another type of token, which is never sent to a resource
/// (RFC 8693 §2.2.1).
fn is_no_access_token(named: Option<&TokenType>, response: &JsonObject<'_>) -> bool {
    matches!(named, Some(TokenType::Other(other)) if other.eq_ignore_ascii_case("N_A"))
        && response
            .str("issued_token_type")
            .is_some_and(|issued| !issued.ends_with(":access_token"))
}

/// The members with a meaning of their own, in a success or an error response.
const KNOWN: [&str; 6] = [
    "access_token",
    "token_type",
    "expires_in",
    "refresh_token",
    "scope",
    "error",
];

/// Returns all other string members.
fn extra_members(response: &JsonObject<'_>) -> Vec<(String, Secret)> {
    let others = response.iter().filter(|(name, _)| !KNOWN.contains(name));
    others
        .filter_map(|(name, value)| Some((name.to_owned(), Secret::new(value.as_str()?))))
        .collect()
}

/// Returns the value of `Authorization`, or the name of the member that is invalid in it.
fn authorization(token_type: &TokenType, access: &Secret) -> Result<HeaderValue, &'static str> {
    let scheme = token_type.as_str();
    let mut value =
        HeaderValue::try_from([scheme, " ", access.expose()].concat()).map_err(|_| {
            let is_scheme_invalid = HeaderValue::from_str(scheme).is_err();
            if is_scheme_invalid {
                "token_type"
            } else {
                "access_token"
            }
        })?;
    value.set_sensitive(true);
    Ok(value)
}

/// The serialized form of a token.
#[derive(Serialize)]
pub(crate) struct StoredToken<'a> {
    access_token: &'a str,
    token_type: &'a str,
    /// The thumbprint of the key to which the token is bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    jkt: Option<&'a str>,
    /// Milliseconds since the Unix epoch, as is `expires_at`.
    received_at: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<&'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    others: Vec<(&'a str, &'a str)>,
}

impl<'a> StoredToken<'a> {
    pub(crate) fn new(token: &'a Token) -> Self {
        let TokenParts {
            access,
            token_type,
            key,
            received_at,
            expires_at,
            refresh,
            scope,
            extra: others,
            ..
        } = &*token.0;
        Self {
            access_token: access.expose(),
            token_type: token_type.as_str(),
            jkt: key.as_ref().map(PublicJwk::thumbprint),
            received_at: received_at.as_millis(),
            expires_at: expires_at.map(UnixTime::as_millis),
            refresh_token: refresh.as_ref().map(Secret::expose),
            scope: scope.as_ref().map(Scope::as_str),
            others: others
                .iter()
                .map(|(name, text)| (name.as_str(), text.expose()))
                .collect(),
        }
    }

    /// Returns whether the stored token is bound to a key other than `key`.
    pub(crate) fn is_bound_elsewhere(
        stored: &JsonObject<'_>,
        key: Option<&PublicJwk>,
    ) -> Result<bool, InvalidResponseKind> {
        let jkt = stored.optional_str("jkt")?;
        Ok(jkt.is_some_and(|jkt| key.map(PublicJwk::thumbprint) != Some(&*jkt)))
    }

    /// Restores a stored token. `key` is the key to which it may be bound.
    pub(crate) fn restore(
        stored: &JsonObject<'_>,
        key: Option<&PublicJwk>,
    ) -> Result<Token, InvalidResponseKind> {
        let access = Secret::new(stored.required_str("access_token")?);
        let token_type = TokenType::parse(&stored.required_str("token_type")?);
        let received_at = stored
            .optional_u64("received_at")?
            .ok_or(InvalidResponseKind::Missing("received_at"))?;
        let scope = stored.optional_str("scope")?;
        let others = match stored.get("others") {
            Some(pairs) => pairs
                .as_array()
                .ok_or(InvalidResponseKind::InvalidMember("others"))?,
            None => Vec::new(),
        };
        let other = |pair: JsonValue<'_>| {
            let [name, text] = pair.as_array()?.try_into().ok()?;
            Some((name.as_str()?.into_owned(), Secret::new(text.as_str()?)))
        };
        let others = others
            .into_iter()
            .map(|pair| other(pair).ok_or(InvalidResponseKind::InvalidMember("others")));
        Ok(Token(Arc::new(TokenParts {
            authorization: authorization(&token_type, &access)
                .map_err(InvalidResponseKind::InvalidMember)?,
            ath: OnceLock::new(),
            access,
            token_type,
            key: key.filter(|_| stored.get("jkt").is_some()).cloned(),
            received_at: UnixTime::from_millis(received_at),
            expires_at: stored
                .optional_u64("expires_at")?
                .map(UnixTime::from_millis),
            refresh: stored.optional_str("refresh_token")?.map(Secret::new),
            scope: scope.and_then(|scope| Scope::granted(scope.split(' '))),
            request_id: None,
            extra: others.collect::<Result<_, _>>()?,
        })))
    }
}

/// Returns whether the access token is a JWT whose `cnf.jkt` is the thumbprint of another key (RFC
/// 9449 §6.1). Returns `false` if it can't be parsed.
fn names_another_key(access: &str, key: &PublicJwk) -> bool {
    let Some(jws) = Jws::split(access) else {
        return false;
    };
    let Ok(claims) = JsonObject::parse(&jws.payload) else {
        return false;
    };
    let confirmation = claims.get("cnf").and_then(JsonValue::as_object);
    let jkt = confirmation.and_then(|confirmation| confirmation.str("jkt"));
    jkt.is_some_and(|jkt| jkt != key.thumbprint())
}

/// Parses a list separated by spaces, or by commas if it has no space (Shopify, Strava), or an
/// array (Twitch).
fn scope(value: JsonValue<'_>) -> Option<Scope> {
    match value.as_str() {
        Some(text) if text.contains(' ') => Scope::granted(text.split(' ')),
        Some(text) => Scope::granted(text.split(',')),
        None => Scope::granted(value.texts()?),
    }
}
