//! Access tokens: how a server's answer becomes one, and what it says about itself.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::{HeaderMap, HeaderValue};
use serde::Serialize;

use crate::dpop::{AccessTokenHash, Jws, is_dpop_proof};
use crate::jose::PublicJwk;
use crate::oauth::grant::Scope;
use crate::oauth::lineage::Lineage;
use crate::request::operation::SuccessResponse;
use crate::types::error::{InvalidResponseKind, ParseError};
use crate::types::secret::{Secret, constant_time_eq};
use crate::types::time::UnixTime;
use crate::wire::error_response::{Redactor, request_id};
use crate::wire::http_date;
use crate::wire::json::{JsonObject, JsonValue};

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
        let date = http_date::from_headers(headers).filter(|_| expires <= now);
        Some(date.map_or(expires, |date| {
            now.saturating_add(expires.saturating_since(date))
        }))
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
    fn parse(name: &str) -> Self {
        match name {
            _ if name.eq_ignore_ascii_case("dpop") => Self::Dpop,
            _ if name.eq_ignore_ascii_case("bearer") || name.eq_ignore_ascii_case("opaque") => {
                Self::Bearer
            }
            _ => Self::Other(name.to_owned()),
        }
    }

    /// The type that an answer names: a text, or the only one of a list. What is no authentication scheme (RFC 9110 §11.1)
    /// is no type.
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
pub struct Token(Arc<TokenParts>);

struct TokenParts {
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
    extra: Vec<(String, Secret)>,
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
    pub fn extra(&self, member: &str) -> Option<&Secret> {
        self.0
            .extra
            .iter()
            .rev()
            .find(|(name, _)| name == member)
            .map(|(_, text)| text)
    }

    /// Whether this is the very same token, not only an equal one.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether the access token is the same, wherever it was kept in the meantime.
    pub(crate) fn is_equal_to(&self, other: &Self) -> bool {
        constant_time_eq(
            self.0.access.expose().as_bytes(),
            other.0.access.expose().as_bytes(),
        )
    }

    /// The hash by which it is known in the lineage of a session.
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
        // The server's words, which may hold what it has sent beside them.
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

/// What is known of a token before it comes.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) key: Option<PublicJwk>,
    pub(crate) accept_bearer: bool,
    pub(crate) expires_in: ExpiresIn,
    pub(crate) refresh_token: Option<Secret>,
}

/// Reads a successful answer (RFC 6749 §5.1), and takes what real servers make of it.
pub(crate) fn read(
    success: &SuccessResponse<'_>,
    expected: &Expected,
) -> Result<Token, ParseError> {
    let answer = JsonObject::parse_response(success.body, "access_token")?;
    let access = answer
        .optional_str("access_token")?
        .ok_or(InvalidResponseKind::Missing("access_token"))?;
    let access = Secret::new(access);
    // RFC 6749 §A.12: what no header can carry.
    // To the end whatever comes: so it goes by vectors of bytes.
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
    let named = answer.get("token_type").and_then(TokenType::named);
    let is_bearer = matches!(named, None | Some(TokenType::Bearer));
    let is_bound = named == Some(TokenType::Dpop);
    let may_be_unbound =
        (is_bearer && expected.accept_bearer) || is_no_access_token(named.as_ref(), &answer);
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
    // What stands beside the access token may be anything at all: a good one isn't lost for it.
    let refresh = answer
        .str("refresh_token")
        .filter(|refresh| !refresh.is_empty());
    Ok(Token(Arc::new(TokenParts {
        ath: OnceLock::new(),
        access,
        token_type,
        authorization,
        key,
        received_at: success.now,
        expires_at: answer
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
        scope: answer.get("scope").and_then(scope),
        request_id: request_id(success.headers),
        extra: others(&answer),
    })))
}

/// Whether an exchange has brought something else, which is shown to no resource (RFC 8693 §2.2.1).
fn is_no_access_token(named: Option<&TokenType>, answer: &JsonObject<'_>) -> bool {
    matches!(named, Some(TokenType::Other(other)) if other.eq_ignore_ascii_case("N_A"))
        && answer
            .str("issued_token_type")
            .is_some_and(|issued| !issued.ends_with(":access_token"))
}

/// The members that have a meaning of their own, here or as an error's.
const KNOWN: [&str; 6] = [
    "access_token",
    "token_type",
    "expires_in",
    "refresh_token",
    "scope",
    "error",
];

/// The texts among all other members.
fn others(answer: &JsonObject<'_>) -> Vec<(String, Secret)> {
    let others = answer.iter().filter(|(name, _)| !KNOWN.contains(name));
    others
        .filter_map(|(name, value)| Some((name.to_owned(), Secret::new(value.as_str()?))))
        .collect()
}

/// The value of `Authorization`; else the member that doesn't fit into it.
fn authorization(token_type: &TokenType, access: &Secret) -> Result<HeaderValue, &'static str> {
    let scheme = token_type.as_str();
    let mut value =
        HeaderValue::try_from([scheme, " ", access.expose()].concat()).map_err(|_| {
            let is_schemes_fault = HeaderValue::from_str(scheme).is_err();
            if is_schemes_fault {
                "token_type"
            } else {
                "access_token"
            }
        })?;
    value.set_sensitive(true);
    Ok(value)
}

/// A token as it is written down.
#[derive(Serialize)]
pub(crate) struct StoredToken<'a> {
    access_token: &'a str,
    token_type: &'a str,
    /// The thumbprint of the key that it is bound to.
    #[serde(skip_serializing_if = "Option::is_none")]
    jkt: Option<&'a str>,
    /// Milliseconds since 1970, like the next.
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

    /// Whether the token is bound to another key than this one.
    pub(crate) fn is_bound_elsewhere(
        stored: &JsonObject<'_>,
        key: Option<&PublicJwk>,
    ) -> Result<bool, InvalidResponseKind> {
        let jkt = stored.optional_str("jkt")?;
        Ok(jkt.is_some_and(|jkt| key.map(PublicJwk::thumbprint) != Some(&*jkt)))
    }

    /// The token, where `key` is the one that it may be bound to.
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

/// Whether an access token is a JWT whose `cnf.jkt` is another key's (RFC 9449 §6.1). One that can't be looked
/// into says nothing.
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

/// A list separated by spaces, or by commas where there is no space (Shopify, Strava), or an array (Twitch).
fn scope(value: JsonValue<'_>) -> Option<Scope> {
    match value.as_str() {
        Some(text) if text.contains(' ') => Scope::granted(text.split(' ')),
        Some(text) => Scope::granted(text.split(',')),
        None => Scope::granted(value.texts()?),
    }
}
