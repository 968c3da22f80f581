//! What a session keeps for the next process, or shares with others: the one place where secrets are written down.

use std::io::{self, Write};

use ring::digest::{SHA256, digest};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::jose::PublicJwk;
use crate::oauth::client::Client;
use crate::oauth::grant::Scope;
use crate::oauth::issuer::Issuer;
use crate::oauth::lineage::Lineage;
use crate::oauth::token::{StoredToken, Token};
use crate::request::server_state::{self, ServerState};
use crate::types::input::InvalidInput;
use crate::types::secret::SecretBytes;
use crate::types::time::UnixTime;
use crate::wire::json::JsonObject;

/// The state of a session: its token, how often the refresh token may still be sent, the tokens that it descends from, and
/// what is known of servers. Without a token it is a place that a login is going to take.
///
/// [`to_json`](Self::to_json) is how it is written down, to be kept where only its owner can read it.
#[derive(Clone, Debug)]
#[must_use]
pub struct SessionState {
    pub(crate) token: Option<Token>,
    pub(crate) attempts_left: u8,
    pub(crate) lineage: Lineage,
    server_state: ServerState,
}

/// How often something that is good for once may be sent by a process that dies before it hears an answer: once more after
/// that. Otherwise a process that starts again and again would send it for ever.
pub(crate) const MAX_SINGLE_USE_SENDS: u8 = 2;

const VERSION: u8 = 1;

#[derive(Serialize)]
struct StoredSession<'a> {
    version: u8,
    tries_left: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<StoredToken<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    descends_from: &'a [String],
    origins: Vec<server_state::StoredServer>,
}

impl SessionState {
    /// The state of a session that has just got this token.
    pub fn new(token: Token) -> Self {
        Self {
            token: Some(token),
            ..Self::empty()
        }
    }

    pub(crate) fn with(token: Token, tries_left: u8, lineage: Lineage) -> Self {
        Self {
            attempts_left: tries_left,
            lineage,
            ..Self::new(token)
        }
    }

    /// The state of a session that has no token yet.
    pub(crate) fn empty() -> Self {
        Self {
            token: None,
            attempts_left: MAX_SINGLE_USE_SENDS,
            lineage: Lineage::default(),
            server_state: ServerState::new(),
        }
    }

    /// With what is known of servers, so that whoever comes next need not be challenged for a nonce.
    pub fn with_server_state(mut self, origins: ServerState) -> Self {
        self.server_state = origins;
        self
    }

    /// Returns the token, if the session has got one.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// What was known of servers.
    pub fn server_state(&self) -> &ServerState {
        &self.server_state
    }

    /// The state as JSON, with its secrets in clear.
    pub fn to_json(&self) -> SecretBytes {
        let Self {
            token,
            attempts_left,
            lineage,
            server_state,
        } = self;
        let stored = StoredSession {
            version: VERSION,
            tries_left: *attempts_left,
            token: token.as_ref().map(StoredToken::new),
            descends_from: &lineage.0,
            origins: server_state.to_stored(),
        };
        // Measured first: a buffer that grows leaves copies behind.
        let mut length = Length(0);
        let _ = serde_json::to_writer(&mut length, &stored);
        let mut json = Zeroizing::new(Vec::with_capacity(length.0));
        // Texts and numbers, written to memory, can't fail.
        let _ = serde_json::to_writer(&mut *json, &stored);
        SecretBytes(json)
    }

    /// What [`to_json`](Self::to_json) wrote, for a session of `client`. Nonces learned before `since` are left out.
    ///
    /// # Errors
    /// `InvalidInput` for anything else, for a version that isn't known here, and for a token that is bound to another
    /// key than the client's.
    pub fn from_json(json: &[u8], client: &Client, since: UnixTime) -> Result<Self, InvalidInput> {
        let invalid = |rule| InvalidInput::new("kept session", rule);
        let malformed = || invalid("must be what `SessionState::to_json` wrote");
        let stored = JsonObject::parse(json).map_err(|_| malformed())?;
        let number = |name| stored.get(name)?.as_u64();
        if number("version").ok_or_else(malformed)? != u64::from(VERSION) {
            return Err(invalid(
                "must be of version 1: it was written by a later keybound",
            ));
        }
        let tries_left = number("tries_left").and_then(|tries| u8::try_from(tries).ok());
        let tries_left = tries_left.ok_or_else(malformed)?.min(MAX_SINGLE_USE_SENDS);
        let token = match stored.get("token") {
            Some(token) => {
                let token = token.as_object().ok_or_else(malformed)?;
                if StoredToken::is_bound_elsewhere(&token, client.key()).map_err(|_| malformed())? {
                    return Err(invalid(
                        "must be of a token that is bound to this client's key",
                    ));
                }
                Some(StoredToken::restore(&token, client.key()).map_err(|_| malformed())?)
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
        let origins = stored
            .get("origins")
            .and_then(|origins| ServerState::from_stored(origins, since));
        let origins = origins.ok_or_else(malformed)?;
        Ok(Self {
            token,
            attempts_left: tries_left,
            lineage: Lineage(lineage),
            server_state: origins,
        })
    }
}

impl Client {
    /// Returns a fingerprint of that which a stored session is for: 16 hexadecimal digits of a hash over this client's
    /// issuer, or else its token endpoint, its id, the scope and the resources (RFC 8707) as they were configured, in any
    /// order, and for a public client with DPoP the thumbprint of its key (RFC 7638).
    ///
    /// It belongs into the name under which a session is stored. A token is then never found, nor sent, nor replaced by
    /// another client or for another server (RFC 6749 §10.3).
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
            // In place of the standard library's sort, which is ten times the code.
            let mut sorted: Vec<&str> = Vec::with_capacity(list.len());
            for item in list {
                if let Err(at) = sorted.binary_search(&item) {
                    sorted.insert(at, item);
                }
            }
            // With their lengths, so that no two lists run into each other.
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

/// Counts what is written to it.
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
