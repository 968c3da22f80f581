//! The state of a session that is stored for the next process, or shared with others. Apart from
//! keys, only this type and `PendingAuthorization` serialize secrets.

use std::io::{self, Write};
use std::time::Duration;

use ring::digest::{SHA256, digest};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::jose::PublicJwk;
use crate::oauth::token::{StoredToken, Token};
use crate::oauth::{client::Client, grant::Scope, issuer::Issuer, lineage::Lineage};
use crate::request::server_state::{self, ServerState};
use crate::types::{input::InvalidInput, secret::SecretBytes, time::UnixTime};
use crate::wire::json::{JsonObject, JsonValue, strip_bom};

/// The state of a session: its token, the remaining sends of the refresh token, the tokens that it
/// descends from, and the known state of servers. Without a token it is a placeholder for a login
/// in progress.
///
/// [`to_json`](Self::to_json) serializes it. Store the result where only its owner can read it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct SessionState {
    pub(crate) token: Option<Token>,
    pub(crate) attempts_left: u8,
    pub(crate) lineage: Lineage,
    /// Whether it marks a log-out. The lineage then has all tokens of the login that has ended.
    pub(crate) is_logged_out: bool,
    server_state: ServerState,
}

/// The maximum number of times that a single-use token is sent without an answer: by processes that
/// crash before they read it, or whose connections are lost. Otherwise a crash loop would resend a
/// stored refresh token forever.
pub(crate) const MAX_SINGLE_USE_SENDS: u8 = 10;

/// The maximum age of a nonce that is loaded from another process.
const NONCE_LIFETIME: Duration = Duration::from_secs(300);

const VERSION: u8 = 1;

#[derive(Serialize)]
struct StoredSession<'a> {
    version: u8,
    attempts_left: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<StoredToken<'a>>,
    #[serde(skip_serializing_if = "is_false")]
    logged_out: bool,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    descends_from: &'a [String],
    server_state: Vec<server_state::StoredServer>,
}

impl SessionState {
    /// Returns the state of a session that has just obtained this token.
    pub fn new(token: Token) -> Self {
        Self {
            token: Some(token),
            ..Self::empty()
        }
    }

    pub(crate) fn with(token: Token, attempts_left: u8, lineage: Lineage) -> Self {
        Self {
            attempts_left,
            lineage,
            ..Self::new(token)
        }
    }

    /// Returns the state of a session that has no token yet.
    pub(crate) fn empty() -> Self {
        Self {
            token: None,
            attempts_left: MAX_SINGLE_USE_SENDS,
            lineage: Lineage::default(),
            is_logged_out: false,
            server_state: ServerState::new(),
        }
    }

    /// Returns the state that marks the log-out of a login with these tokens.
    pub(crate) fn logged_out(lineage: Lineage) -> Self {
        Self {
            lineage,
            is_logged_out: true,
            ..Self::empty()
        }
    }

    /// Sets the known state of servers. Its nonces are stored with the token, so that the next
    /// process need not be challenged for a nonce; clock offsets are not stored.
    pub fn with_server_state(mut self, server_state: ServerState) -> Self {
        self.server_state = server_state;
        self
    }

    /// Returns the token, if the session has one.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// Returns the known state of servers. After [`from_json`](Self::from_json) it has only nonces.
    pub fn server_state(&self) -> &ServerState {
        &self.server_state
    }

    /// Returns the session state as JSON, with its secrets in plain text.
    pub fn to_json(&self) -> SecretBytes {
        let Self {
            token,
            attempts_left,
            lineage,
            is_logged_out,
            server_state,
        } = self;
        let stored = StoredSession {
            version: VERSION,
            attempts_left: *attempts_left,
            logged_out: *is_logged_out,
            token: token.as_ref().map(StoredToken::new),
            descends_from: &lineage.0,
            server_state: server_state.to_stored(),
        };
        // The length is computed first: a buffer that grows leaves copies behind.
        let mut length = Length(0);
        let _ = serde_json::to_writer(&mut length, &stored);
        let mut json = Zeroizing::new(Vec::with_capacity(length.0));
        // Serializing strings and numbers to memory can't fail.
        let _ = serde_json::to_writer(&mut *json, &stored);
        SecretBytes(json)
    }

    /// Parses the state that another process may have stored, with its recent nonces.
    pub(crate) fn load(json: &[u8], client: &Client, now: UnixTime) -> Result<Self, InvalidInput> {
        Self::from_json(json, client, now.saturating_sub(NONCE_LIFETIME))
    }

    /// Parses the output of [`to_json`](Self::to_json), for a session of `client`. Nonces of
    /// servers last updated before `since` are dropped.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the input is anything else, if its version isn't known here, or
    /// if the token is bound to another key than the client's.
    pub fn from_json(json: &[u8], client: &Client, since: UnixTime) -> Result<Self, InvalidInput> {
        let invalid = |rule| InvalidInput::StoredState {
            name: "session state",
            rule,
        };
        let malformed = || invalid("must be JSON that `SessionState::to_json` wrote");
        let stored = JsonObject::parse(strip_bom(json)).map_err(|_| malformed())?;
        let number = |name| stored.get(name)?.as_u64();
        if number("version").ok_or_else(malformed)? != u64::from(VERSION) {
            return Err(invalid(
                "must have version 1: a later keybound wrote this one",
            ));
        }
        let attempts_left = number("attempts_left").and_then(|left| u8::try_from(left).ok());
        let attempts_left = attempts_left
            .ok_or_else(malformed)?
            .min(MAX_SINGLE_USE_SENDS);
        let token = match stored.get("token") {
            Some(token) => {
                let token = token.as_object().ok_or_else(malformed)?;
                if StoredToken::is_bound_elsewhere(&token, client.key()).map_err(|_| malformed())? {
                    return Err(invalid(
                        "must have a token that is bound to this client's key",
                    ));
                }
                let token = StoredToken::restore(&token, client.key()).map_err(|_| malformed())?;
                if client.misses_binding(&token) {
                    return Err(invalid(
                        "must have a token that is bound to this client's key, not a bearer token",
                    ));
                }
                Some(token)
            }
            None => None,
        };
        let lineage = match stored.get("descends_from") {
            Some(hashes) => hashes
                .texts()
                .ok_or_else(malformed)?
                .map(Into::into)
                .collect(),
            None => Vec::new(),
        };
        let server_state = stored
            .get("server_state")
            .and_then(|servers| ServerState::from_stored(servers, since));
        let server_state = server_state.ok_or_else(malformed)?;
        let is_logged_out = stored.get("logged_out").and_then(JsonValue::as_bool);
        Ok(Self {
            token,
            attempts_left,
            lineage: Lineage(lineage),
            is_logged_out: is_logged_out.unwrap_or_default(),
            server_state,
        })
    }
}

impl Client {
    /// Returns a fingerprint of the grant that a stored session belongs to: 16 hexadecimal digits
    /// of a hash over this client's issuer, or else its token endpoint, its id, the scope and the
    /// resources (RFC 8707) as they were configured, in any order, and for a public client with
    /// DPoP the thumbprint of its key (RFC 7638).
    ///
    /// Make it part of the name under which a session is stored. A token is then never found, sent
    /// or replaced by another client or for another server (RFC 6749 §10.3).
    pub fn session_fingerprint<'a>(
        &self,
        scope: Option<&Scope>,
        resources: impl IntoIterator<Item = &'a str>,
    ) -> String {
        let endpoint = self.token_endpoint().to_string();
        let server = self
            .0
            .issuer
            .as_ref()
            .map_or(endpoint.as_str(), Issuer::as_str);
        let auth = &self.0.options.auth;
        let key = self
            .key()
            .filter(|_| auth.is_public())
            .map(PublicJwk::thumbprint);
        let mut text = String::new();
        for list in [
            vec![server],
            auth.id().into_iter().collect(),
            scope
                .map(|scope| scope.iter().collect())
                .unwrap_or_default(),
            resources.into_iter().collect(),
            key.into_iter().collect(),
        ] {
            // A binary insertion, because the standard library's sort is ten times the code.
            let mut sorted: Vec<&str> = Vec::with_capacity(list.len());
            for item in list {
                if let Err(at) = sorted.binary_search(&item) {
                    sorted.insert(at, item);
                }
            }
            // Each list and item is prefixed with its length, so that different lists never hash
            // alike.
            text.extend([sorted.len().to_string(), ":".into()]);
            for item in sorted {
                text.extend([item.len().to_string(), ":".into(), item.to_owned()]);
            }
        }
        let hash = digest(&SHA256, text.as_bytes());
        let digits = hash
            .as_ref()
            .iter()
            .take(8)
            .flat_map(|byte| [byte >> 4, byte & 15]);
        digits
            .filter_map(|digit| char::from_digit(digit.into(), 16))
            .collect()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// A writer that counts the bytes written to it.
struct Length(usize);

impl Write for Length {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self.0.saturating_add(bytes.len());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
