//! Access tokens: how a server's answer becomes one, and what it says about itself.

use std::borrow::Cow;
use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use serde::de::{Deserializer as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::dpop::{AccessTokenHash, Jws, calls_itself_a_proof};
use crate::error::WhyBad;
use crate::exchange::{Success, Unread};
use crate::grant::Scope;
use crate::jose::PublicJwk;
use crate::secret::{Secret, is_same};
use crate::time::UnixTime;
use crate::wire::http_date;
use crate::wire::object::{Name, number};
use crate::wire::refusal::request_id;

/// How `expires_in` is meant. RFC 6749 §5.1 says seconds from now; Moov, for one, sends a Unix time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExpiresIn {
    /// Told by its magnitude: below 10⁹ seconds from now, below 10¹² a Unix time in seconds, else in milliseconds.
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
    /// When a token received at `now` expires; `None` for zero, a negative number and what is no number:
    /// that is not known, rather than never.
    /// A point in time that is past by our clock is counted from the server's: ours must be ahead.
    fn expiry(self, value: f64, headers: &HeaderMap, now: UnixTime) -> Option<UnixTime> {
        let expires = self.by_our_clock(value, now)?;
        let date = http_date::of(headers).filter(|_| expires <= now);
        Some(date.map_or(expires, |date| now.saturating_add(expires.saturating_since(date))))
    }

    fn by_our_clock(self, value: f64, now: UnixTime) -> Option<UnixTime> {
        let span = Duration::try_from_secs_f64(value).ok()?;
        match self {
            _ if span.is_zero() => None,
            Self::Auto if value < 1e9 => Self::Relative.by_our_clock(value, now),
            Self::Auto if value < 1e12 => Self::AbsoluteSeconds.by_our_clock(value, now),
            Self::Auto => Self::AbsoluteMillis.by_our_clock(value, now),
            Self::Relative => Some(now.saturating_add(span)),
            Self::AbsoluteSeconds => Some(UnixTime::from_secs(0).saturating_add(span)),
            // Not divided by 1000, which would round: the whole part is what counts.
            Self::AbsoluteMillis => Some(UnixTime::from_millis(span.as_secs())),
        }
    }
}

/// `token_type` (RFC 6749 §7.1), an open set; case doesn't count.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenType {
    /// RFC 6750. Also where a server names no type, or Moov's old `opaque`.
    Bearer,
    /// RFC 9449: bound to a key.
    Dpop,
    /// Another one, as the server spells it.
    Other(String),
}

impl TokenType {
    fn of(name: &str) -> Self {
        match name {
            _ if name.eq_ignore_ascii_case("dpop") => Self::Dpop,
            _ if name.eq_ignore_ascii_case("bearer") || name.eq_ignore_ascii_case("opaque") => Self::Bearer,
            _ => Self::Other(name.to_owned()),
        }
    }

    /// The type as a scheme of the `Authorization` header.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Bearer => "Bearer",
            Self::Dpop => "DPoP",
            Self::Other(name) => name,
        }
    }
}

/// An access token with all that belongs to it. Cloning it is cheap; `Debug` shows no secret.
#[derive(Clone)]
pub struct Token(Arc<Parts>);

struct Parts {
    access: Secret,
    token_type: TokenType,
    /// `Authorization`, ready to be sent.
    authorization: HeaderValue,
    /// Made when it is first needed: a bearer token needs none.
    ath: OnceLock<AccessTokenHash>,
    key: Option<PublicJwk>,
    received_at: UnixTime,
    expires_at: Option<UnixTime>,
    refresh: Option<Secret>,
    scope: Option<Scope>,
    request_id: Option<String>,
    others: Vec<(String, Secret)>,
}

impl Token {
    /// The access token. [`authorize`](Self::authorize) puts it where it belongs.
    pub fn access_token(&self) -> &Secret {
        &self.0.access
    }

    /// `token_type` (RFC 6749 §7.1).
    pub fn token_type(&self) -> &TokenType {
        &self.0.token_type
    }

    /// When it came.
    pub fn received_at(&self) -> UnixTime {
        self.0.received_at
    }

    /// When it expires, absolutely, from the moment it was received; `None` if the server doesn't tell.
    pub fn expires_at(&self) -> Option<UnixTime> {
        self.0.expires_at
    }

    /// The refresh token: a new one, or the one that was sent where the answer brought none (RFC 6749 §6).
    pub fn refresh_token(&self) -> Option<&Secret> {
        self.0.refresh.as_ref()
    }

    /// What was granted; `None` if the server doesn't tell, which means what was asked for (RFC 6749 §5.1).
    pub fn scope(&self) -> Option<&Scope> {
        self.0.scope.as_ref()
    }

    /// The key that it is bound to (RFC 9449 §6); its thumbprint is the `jkt`. `None` for a bearer token.
    pub fn key(&self) -> Option<&PublicJwk> {
        self.0.key.as_ref()
    }

    /// `x-request-id` of the response.
    pub fn request_id(&self) -> Option<&str> {
        self.0.request_id.as_deref()
    }

    /// A text member of the answer that has no method of its own, such as `issued_token_type`.
    pub fn other(&self, member: &str) -> Option<&Secret> {
        self.0.others.iter().rev().find(|(name, _)| name == member).map(|(_, text)| text)
    }

    /// Whether this is the very same token, not only an equal one.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether the access token is the same, wherever it was kept in the meantime.
    pub(crate) fn is_equal_to(&self, other: &Self) -> bool {
        is_same(self.0.access.expose().as_bytes(), other.0.access.expose().as_bytes())
    }

    pub(crate) fn authorization(&self) -> &HeaderValue {
        &self.0.authorization
    }

    pub(crate) fn ath(&self) -> AccessTokenHash {
        *self.0.ath.get_or_init(|| AccessTokenHash::of(self.0.access.expose()))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token")
            .field("token_type", &self.0.token_type)
            .field("access_token", &self.0.access)
            .field("expires_at", &self.0.expires_at)
            .field("refresh_token", &self.0.refresh)
            .field("scope", &self.0.scope)
            .field("key", &self.0.key)
            .field("request_id", &self.0.request_id)
            .finish_non_exhaustive()
    }
}

/// What is known of a token before it comes.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) key: Option<PublicJwk>,
    pub(crate) accept_bearer: bool,
    pub(crate) expires_in: ExpiresIn,
    pub(crate) refresh_token: Option<Secret>,
}

/// Reads a successful answer (RFC 6749 §5.1), and takes what real servers make of it.
pub(crate) fn read(success: &Success<'_>, expected: &Expected) -> Result<Token, Unread> {
    let wire = Wire::parse(success.body)?;
    let Some(access) = wire.access_token else {
        return Err(if wire.has_error { Unread::Refusal } else { WhyBad::Missing("access_token").into() });
    };
    if calls_itself_a_proof(access.expose()) {
        return Err(WhyBad::ProofInsteadOfToken.into());
    }
    let named = wire.token_type.as_deref().map(TokenType::of);
    let is_bearer = matches!(named, None | Some(TokenType::Bearer));
    if expected.key.is_some() && named != Some(TokenType::Dpop) && !(is_bearer && expected.accept_bearer) {
        return Err(WhyBad::NotBound.into());
    }
    let token_type = named.unwrap_or(TokenType::Bearer);
    let key = expected.key.clone().filter(|_| token_type == TokenType::Dpop);
    if key.as_ref().is_some_and(|key| names_another_key(access.expose(), key)) {
        return Err(WhyBad::BoundToAnotherKey.into());
    }
    let authorization = authorization(&token_type, &access).map_err(WhyBad::Member)?;
    Ok(Token(Arc::new(Parts {
        ath: OnceLock::new(),
        access,
        token_type,
        authorization,
        key,
        received_at: success.now,
        expires_at: wire
            .expires_in
            .and_then(|value| expected.expires_in.expiry(value, success.headers, success.now)),
        refresh: wire.refresh_token.or_else(|| expected.refresh_token.clone()),
        scope: wire.scope,
        request_id: request_id(success.headers),
        others: wire.others,
    })))
}

/// The value of `Authorization`; else the member that doesn't fit into it.
fn authorization(token_type: &TokenType, access: &Secret) -> Result<HeaderValue, &'static str> {
    let scheme = token_type.as_str();
    let mut value = HeaderValue::try_from(format!("{scheme} {}", access.expose())).map_err(|_| {
        let is_schemes_fault = HeaderValue::from_str(scheme).is_err();
        if is_schemes_fault { "token_type" } else { "access_token" }
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// A token as it is written down.
#[derive(Serialize, Deserialize)]
pub(crate) struct StoredToken<'a> {
    access_token: Cow<'a, str>,
    token_type: Cow<'a, str>,
    /// The thumbprint of the key that it is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jkt: Option<Cow<'a, str>>,
    /// Milliseconds since 1970, like the next.
    received_at: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    scope: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    others: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> StoredToken<'a> {
    pub(crate) fn of(token: &'a Token) -> Self {
        let Parts { access, token_type, key, received_at, expires_at, refresh, scope, others, .. } =
            &*token.0;
        Self {
            access_token: access.expose().into(),
            token_type: token_type.as_str().into(),
            jkt: key.as_ref().map(|key| key.thumbprint().into()),
            received_at: received_at.as_millis(),
            expires_at: expires_at.map(UnixTime::as_millis),
            refresh_token: refresh.as_ref().map(|refresh| refresh.expose().into()),
            scope: scope.as_ref().map(|scope| scope.as_str().into()),
            others: others.iter().map(|(name, text)| (name.into(), text.expose().into())).collect(),
        }
    }

    /// Whether it is bound to another key than this one.
    pub(crate) fn is_bound_elsewhere(&self, key: Option<&PublicJwk>) -> bool {
        self.jkt.as_deref().is_some_and(|jkt| key.map(PublicJwk::thumbprint) != Some(jkt))
    }

    /// The token, where `key` is the one that it may be bound to; `None` if it can't have been written by
    /// [`of`](Self::of).
    pub(crate) fn restore(self, key: Option<&PublicJwk>) -> Option<Token> {
        let access = Secret::new(self.access_token);
        let token_type = TokenType::of(&self.token_type);
        let key = key.filter(|_| self.jkt.is_some()).cloned();
        let others = self.others.into_iter().map(|(name, text)| (name.into_owned(), Secret::new(text)));
        Some(Token(Arc::new(Parts {
            authorization: authorization(&token_type, &access).ok()?,
            ath: OnceLock::new(),
            access,
            token_type,
            key,
            received_at: UnixTime::from_millis(self.received_at),
            expires_at: self.expires_at.map(UnixTime::from_millis),
            refresh: self.refresh_token.map(Secret::new),
            scope: self.scope.and_then(|scope| Scope::granted(scope.split(' '))),
            request_id: None,
            others: others.collect(),
        })))
    }
}

/// Whether an access token is a JWT whose `cnf.jkt` is another key's (RFC 9449 §6.1). One that can't be looked
/// into says nothing.
fn names_another_key(access: &str, key: &PublicJwk) -> bool {
    #[derive(Deserialize)]
    struct Claims {
        cnf: Option<Confirmation>,
    }
    #[derive(Deserialize)]
    struct Confirmation {
        jkt: Option<String>,
    }
    let claims = Jws::split(access).and_then(|jws| serde_json::from_slice::<Claims>(&jws.payload).ok());
    let jkt = claims.and_then(|claims| claims.cnf?.jkt);
    jkt.is_some_and(|jkt| jkt != key.thumbprint())
}

/// The members of the answer, as they stand.
#[derive(Default)]
struct Wire {
    access_token: Option<Secret>,
    token_type: Option<String>,
    expires_in: Option<f64>,
    refresh_token: Option<Secret>,
    scope: Option<Scope>,
    has_error: bool,
    others: Vec<(String, Secret)>,
}

impl Wire {
    /// The reasons name members and places, never values: serde_json's own messages would quote them.
    fn parse(body: &[u8]) -> Result<Self, WhyBad> {
        let member = Cell::new("the answer");
        let mut json = serde_json::Deserializer::from_slice(body);
        json.deserialize_map(WireVisitor { member: &member })
            .and_then(|wire| json.end().map(|()| wire))
            .map_err(|error| match error.classify() {
                serde_json::error::Category::Data => WhyBad::Member(member.get()),
                _ => WhyBad::NotJson { line: error.line(), column: error.column() },
            })
    }
}

struct WireVisitor<'a> {
    /// The member that is being read.
    member: &'a Cell<&'static str>,
}

impl<'de> Visitor<'de> for WireVisitor<'_> {
    type Value = Wire;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Wire, A::Error> {
        let mut wire = Wire::default();
        while let Some(name) = map.next_key::<Name<'_>>()? {
            match &*name.0 {
                "access_token" => {
                    self.member.set("access_token");
                    let text: Option<String> = map.next_value()?;
                    wire.access_token = text.filter(|text| !text.is_empty()).map(Secret::new);
                }
                "token_type" => {
                    self.member.set("token_type");
                    let text: Option<String> = map.next_value()?;
                    wire.token_type = text.filter(|text| !text.is_empty());
                }
                "refresh_token" => {
                    self.member.set("refresh_token");
                    let text: Option<String> = map.next_value()?;
                    wire.refresh_token = text.filter(|text| !text.is_empty()).map(Secret::new);
                }
                // Anything at all may stand here: a good token isn't lost for it.
                "expires_in" => wire.expires_in = any(map.next_value()?).and_then(|value| number(&value)),
                "scope" => wire.scope = any(map.next_value()?).and_then(|value| scope(&value)),
                "error" => wire.has_error = map.next_value::<Option<IgnoredAny>>()?.is_some(),
                _ => {
                    if let Ok(text) = serde_json::from_str::<String>(map.next_value::<&RawValue>()?.get()) {
                        wire.others.push((name.0.into_owned(), Secret::new(text)));
                    }
                }
            }
        }
        Ok(wire)
    }
}

/// A value of whatever kind; `None` where it is more than can be read (`1e999`, brackets without end).
fn any(raw: &RawValue) -> Option<Value> {
    serde_json::from_str(raw.get()).ok()
}

/// A list separated by spaces, or by commas where there is no space (Shopify, Strava), or an array (Twitch).
pub(crate) fn scope(value: &Value) -> Option<Scope> {
    match value {
        Value::String(text) if text.contains(' ') => Scope::granted(text.split(' ')),
        Value::String(text) => Scope::granted(text.split(',')),
        Value::Array(items) => Scope::granted(items.iter().filter_map(Value::as_str)),
        _ => None,
    }
}
