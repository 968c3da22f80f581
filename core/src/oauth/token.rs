//! Access tokens, and the parser of token responses.

use std::{convert::Infallible, fmt, str::FromStr, sync::Arc, sync::OnceLock, time::Duration};

use http::{HeaderMap, HeaderValue};
use serde::Serialize;

use crate::dpop::{AccessTokenHash, Jws, is_dpop_proof};
use crate::jose::PublicJwk;
use crate::oauth::grant::{Polling, Scope};
use crate::oauth::lineage::Lineage;
use crate::request::endpoint_request::EndpointRequest;
use crate::request::operation::{FlowFailure, FromResponse, SuccessResponse, sealed};
use crate::types::error::{InvalidResponseKind, ParseError};
use crate::types::{secret::Secret, text::serde_as_text, time::UnixTime};
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
        let by_date = |date| now.saturating_add(expires.saturating_since(date));
        Some(date.map_or(expires, by_date))
    }

    fn by_local_clock(self, value: f64, now: UnixTime) -> Option<UnixTime> {
        let span = Duration::try_from_secs_f64(value).ok()?;
        match self {
            _ if span.is_zero() => None,
            Self::Auto if value < 1e9 => Self::Relative.by_local_clock(value, now),
            Self::Auto if value < 1e12 => Self::AbsoluteSeconds.by_local_clock(value, now),
            Self::Auto => Self::AbsoluteMillis.by_local_clock(value, now),
            Self::Relative => Some(now.saturating_add(span)),
            Self::AbsoluteSeconds => Some(since_epoch(span)),
            // Not divided by 1000, to avoid rounding; only the whole part counts.
            Self::AbsoluteMillis => Some(UnixTime::from_millis(span.as_secs())),
        }
    }
}

/// Returns the time at which this span has elapsed since the Unix epoch.
pub(super) fn since_epoch(span: Duration) -> UnixTime {
    UnixTime::from_secs(0).saturating_add(span)
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
        let is = |known| name.eq_ignore_ascii_case(known);
        match name {
            _ if is("dpop") => Self::Dpop,
            _ if is("bearer") || is("opaque") => Self::Bearer,
            _ => Self::Other(name.to_owned()),
        }
    }

    /// Returns the type named by a response: a string, or the only element of a list. Returns
    /// `None` for names that are not an authentication scheme (RFC 9110 §11.1).
    fn named(value: JsonValue<'_>) -> Option<Self> {
        let only = || {
            let [only] = value.as_array()?.try_into().ok()?;
            JsonValue::as_str(only)
        };
        let text = value.as_str().or_else(only)?;
        let name = text.trim();
        let is_tchar =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        (!name.is_empty() && name.bytes().all(is_tchar)).then(|| Self::parse(name))
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
        let mut members = self.0.extra.iter().rev();
        Some(&members.find(|(name, _)| name == member)?.1)
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
        let TokenParts { ath, access, .. } = &*self.0;
        *ath.get_or_init(|| AccessTokenHash::new(access.expose()))
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
        // Text from the server may repeat secrets of the same response.
        let secrets = [Some(self.access_token()), self.refresh_token()];
        let secrets = Redactor::from_iter(secrets.into_iter().flatten().map(Secret::expose));
        let redact = |text: &str| secrets.redact(text);
        f.debug_struct("Token")
            .field("token_type", &redact(self.token_type().as_str()))
            .field("access_token", self.access_token())
            .field("expires_at", &self.expires_at())
            .field("refresh_token", &self.refresh_token())
            .field("scope", &self.scope().map(Scope::as_str).map(redact))
            .field("key", &self.key())
            .field("request_id", &self.request_id().map(redact))
            .finish_non_exhaustive()
    }
}

impl sealed::Sealed for Token {}

/// Parses a successful token response (RFC 6749 §5.1). Tolerates deviations of existing servers.
impl FromResponse for Token {
    type Expected = Expected;

    fn parse(success: &SuccessResponse<'_>, expected: &Expected) -> Result<Self, ParseError> {
        let response = JsonObject::parse_response(success.body, "access_token")?;
        let access = response.optional_str("access_token")?;
        let access = Secret::new(access.ok_or(InvalidResponseKind::Missing("access_token"))?);
        // RFC 6749 §A.12: no header can carry other characters.
        // The fold has no early exit, so the compiler can vectorize it.
        let is_allowed = |good, byte| good & matches!(byte, 0x20..=0x7E);
        if access.expose().len() > MAX_TOKEN || !access.expose().bytes().fold(true, is_allowed) {
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
        let key = expected.key.as_ref();
        let key = key.filter(|_| token_type == TokenType::Dpop);
        if key.is_some_and(|key| names_another_key(access.expose(), key)) {
            return Err(InvalidResponseKind::KeyMismatch.into());
        }
        let authorization = authorization(&token_type, &access)?;
        // Other malformed members are ignored, so that a valid access token is not lost.
        let refresh = response.str("refresh_token");
        let refresh = refresh.filter(|refresh| (1..=MAX_TOKEN).contains(&refresh.len()));
        let refresh = refresh.map(Secret::new);
        let is_short = |scope: &Scope| scope.as_str().len() <= MAX_TOKEN;
        let lifetime = response.get("expires_in").and_then(JsonValue::as_f64);
        let (expires_in, now) = (expected.expires_in, success.now);
        Ok(Self(Arc::new(TokenParts {
            ath: OnceLock::new(),
            access,
            token_type,
            authorization,
            key: key.cloned(),
            received_at: now,
            expires_at: lifetime.and_then(|value| expires_in.expiry(value, success.headers, now)),
            refresh: refresh.or_else(|| expected.refresh_token.clone()),
            scope: response.get("scope").and_then(scope).filter(is_short),
            request_id: request_id(success.headers),
            extra: extra_members(&response),
        })))
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
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(unnameable_types, reason = "`FromResponse` is sealed")]
pub struct Expected {
    pub(crate) key: Option<PublicJwk>,
    pub(crate) accept_bearer: bool,
    pub(crate) expires_in: ExpiresIn,
    pub(crate) refresh_token: Option<Secret>,
    /// How to poll while the decision of the user is pending.
    pub(crate) polling: Option<Polling>,
}

/// Returns whether a token exchange issued another type of token, which is never sent to a resource
/// (RFC 8693 §2.2.1).
fn is_no_access_token(named: Option<&TokenType>, response: &JsonObject<'_>) -> bool {
    let issued = response.str("issued_token_type");
    matches!(named, Some(TokenType::Other(other)) if other.eq_ignore_ascii_case("N_A"))
        && issued.is_some_and(|issued| !issued.ends_with(":access_token"))
}

/// The maximum length of an access token, of a refresh token, of a scope, and of all other members
/// together: a session holds them for as long as it lives.
const MAX_TOKEN: usize = 32 * 1024;

/// The members with a meaning of their own, in a success or an error response.
const KNOWN: [&str; 6] = [
    "access_token",
    "token_type",
    "expires_in",
    "refresh_token",
    "scope",
    "error",
];

/// Returns all other string members, as far as they fit.
fn extra_members(response: &JsonObject<'_>) -> Vec<(String, Secret)> {
    let (mut extra, mut left) = (Vec::new(), MAX_TOKEN);
    for (name, value) in response.iter().filter(|(name, _)| !KNOWN.contains(name)) {
        let Some(text) = value.as_str() else { continue };
        // A member also takes the memory around its text.
        let size = name.len() + text.len() + size_of::<(String, Secret)>();
        if let Some(rest) = left.checked_sub(size) {
            left = rest;
            extra.push((name.to_owned(), Secret::new(text)));
        }
    }
    extra
}

/// Returns the value of `Authorization`.
fn authorization(
    token_type: &TokenType,
    access: &Secret,
) -> Result<HeaderValue, InvalidResponseKind> {
    let value = [token_type.as_str(), " ", access.expose()].concat();
    let invalid = |_| InvalidResponseKind::InvalidMember("access_token");
    let mut value = HeaderValue::try_from(value).map_err(invalid)?;
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
        let other = |(name, text): &'a (String, Secret)| (name.as_str(), text.expose());
        Self {
            access_token: token.access_token().expose(),
            token_type: token.token_type().as_str(),
            jkt: token.key().map(PublicJwk::thumbprint),
            received_at: token.received_at().as_millis(),
            expires_at: token.expires_at().map(UnixTime::as_millis),
            refresh_token: token.refresh_token().map(Secret::expose),
            scope: token.scope().map(Scope::as_str),
            others: token.0.extra.iter().map(other).collect(),
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
        let time = |name| Ok(stored.optional_u64(name)?.map(UnixTime::from_millis));
        let scope = stored.optional_str("scope")?;
        let other = |pair: JsonValue<'_>| {
            let [name, text] = pair.as_array()?.try_into().ok()?;
            Some((name.as_str()?.into_owned(), Secret::new(text.as_str()?)))
        };
        let others = |pairs: JsonValue<'_>| pairs.as_array()?.into_iter().map(other).collect();
        let others = stored.get("others").map_or(Some(Vec::new()), others);
        Ok(Token(Arc::new(TokenParts {
            authorization: authorization(&token_type, &access)?,
            ath: OnceLock::new(),
            access,
            token_type,
            key: key.filter(|_| stored.get("jkt").is_some()).cloned(),
            received_at: time("received_at")?.ok_or(InvalidResponseKind::Missing("received_at"))?,
            expires_at: time("expires_at")?,
            refresh: stored.optional_str("refresh_token")?.map(Secret::new),
            scope: scope.and_then(|scope| Scope::granted(scope.split(' '))),
            request_id: None,
            extra: others.ok_or(InvalidResponseKind::InvalidMember("others"))?,
        })))
    }
}

/// Returns whether the access token is a JWT whose `cnf.jkt` is the thumbprint of another key (RFC
/// 9449 §6.1). Returns `false` if it can't be parsed.
fn names_another_key(access: &str, key: &PublicJwk) -> bool {
    let jkt = Jws::split(access).and_then(|jws| bound_jkt(&JsonObject::parse(&jws.payload).ok()?));
    jkt.is_some_and(|jkt| jkt != key.thumbprint())
}

/// Returns `cnf.jkt` (RFC 9449 §6): the thumbprint of the key to which a token with these claims is
/// bound.
pub(super) fn bound_jkt(claims: &JsonObject<'_>) -> Option<String> {
    let confirmation = claims.get("cnf")?.as_object()?;
    confirmation.str("jkt").map(Into::into)
}

/// Parses a list separated by spaces, or by commas if it has no space (Shopify, Strava), or an
/// array (Twitch).
fn scope(value: JsonValue<'_>) -> Option<Scope> {
    let has_space = value.as_str().is_some_and(|text| text.contains(' '));
    Scope::from_value(value, if has_space { ' ' } else { ',' })
}
