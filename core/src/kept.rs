//! What a session keeps for the next process, or shares with others: the one place where secrets are written down.

use std::io::{self, Write};

use ring::digest::{SHA256, digest};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::client::Client;
use crate::error::Misuse;
use crate::grant::Scope;
use crate::issuer::Issuer;
use crate::jose;
use crate::jose::PublicJwk;
use crate::origins::{self, Origins};
use crate::secret::{Secret, SecretBytes};
use crate::time::UnixTime;
use crate::token::{StoredToken, Token};
use crate::wire::json::Members;

/// The state of a session: its token, how often the refresh token may still be sent, the tokens that it descends from, and
/// what is known of servers. Without a token it is a place that a login is going to take.
///
/// [`to_json`](Self::to_json) is how it is written down, to be kept where only its owner can read it.
#[derive(Clone, Debug)]
#[must_use]
pub struct Kept {
    pub(crate) token: Option<Token>,
    pub(crate) tries_left: u8,
    pub(crate) lineage: Lineage,
    origins: Origins,
}

/// How often something that is good for once may be sent by a process that dies before it hears an answer: once more after
/// that. Otherwise a process that starts again and again would send it for ever.
pub(crate) const TRIES: u8 = 2;

const VERSION: u8 = 1;

#[derive(Serialize)]
struct Stored<'a> {
    version: u8,
    tries_left: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<StoredToken<'a>>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    descends_from: &'a [String],
    origins: Vec<origins::Stored>,
}

impl Kept {
    /// The state of a session that has just got this token.
    pub fn new(token: Token) -> Self {
        Self { token: Some(token), ..Self::empty() }
    }

    pub(crate) fn with(token: Token, tries_left: u8, lineage: Lineage) -> Self {
        Self { tries_left, lineage, ..Self::new(token) }
    }

    /// The state of a session that has no token yet.
    pub(crate) fn empty() -> Self {
        Self { token: None, tries_left: TRIES, lineage: Lineage::default(), origins: Origins::new() }
    }

    /// With what is known of servers, so that whoever comes next need not be challenged for a nonce.
    pub fn with_origins(mut self, origins: Origins) -> Self {
        self.origins = origins;
        self
    }

    /// Returns the token, if the session has got one.
    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }

    /// What was known of servers.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// The state as JSON, with its secrets in clear.
    pub fn to_json(&self) -> SecretBytes {
        let Self { token, tries_left, lineage, origins } = self;
        let stored = Stored {
            version: VERSION,
            tries_left: *tries_left,
            token: token.as_ref().map(StoredToken::of),
            descends_from: &lineage.0,
            origins: origins.to_stored(),
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
    /// `Misuse` for anything else, for a version that isn't known here, and for a token that is bound to another
    /// key than the client's.
    pub fn from_json(json: &[u8], client: &Client, since: UnixTime) -> Result<Self, Misuse> {
        let misuse = |rule| Misuse::new("kept session", rule);
        let malformed = || misuse("must be what `Kept::to_json` wrote");
        let stored = Members::of(json).map_err(|_| malformed())?;
        let number = |name| stored.get(name)?.unsigned();
        if number("version").ok_or_else(malformed)? != u64::from(VERSION) {
            return Err(misuse("must be of version 1: it was written by a later keybound"));
        }
        let tries_left = number("tries_left").and_then(|tries| u8::try_from(tries).ok());
        let tries_left = tries_left.ok_or_else(malformed)?.min(TRIES);
        let token = match stored.get("token") {
            Some(token) => {
                let token = token.object().ok_or_else(malformed)?;
                if StoredToken::is_bound_elsewhere(&token, client.key()).map_err(|_| malformed())? {
                    return Err(misuse("must be of a token that is bound to this client's key"));
                }
                Some(StoredToken::restore(&token, client.key()).map_err(|_| malformed())?)
            }
            None => None,
        };
        let lineage = match stored.get("descends_from") {
            Some(hashes) => hashes.texts().ok_or_else(malformed)?.map(Into::into).collect(),
            None => Vec::new(),
        };
        let origins = stored.get("origins").and_then(|origins| Origins::from_stored(origins, since));
        let origins = origins.ok_or_else(malformed)?;
        Ok(Self { token, tries_left, lineage: Lineage(lineage), origins })
    }
}

/// The refresh tokens that led to a token, each by a hash: the one that the login began with, and the latest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lineage(Vec<String>);

impl Lineage {
    /// How many are remembered, the first among them.
    const CAPACITY: usize = 16;

    pub(crate) fn push(&mut self, ancestor: String) {
        if self.contains(&ancestor) {
            return;
        }
        if self.0.len() >= Self::CAPACITY {
            self.0.remove(1);
        }
        self.0.push(ancestor);
    }

    pub(crate) fn contains(&self, ancestor: &str) -> bool {
        self.0.iter().any(|known| known == ancestor)
    }

    /// The hash by which a refresh token, or a token without one, is known in a lineage: 128 bits, base64url.
    pub(crate) fn id(secret: &Secret) -> String {
        let hash = digest(&SHA256, secret.expose().as_bytes());
        jose::encode(hash.as_ref().first_chunk::<16>().map_or(&[], <[u8; 16]>::as_slice))
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
        let server = self.0.issuer.as_ref().map_or(endpoint.as_str(), Issuer::as_str);
        let auth = &self.0.settings.auth;
        let key = self.key().filter(|_| auth.is_public()).map(PublicJwk::thumbprint);
        let mut text = String::new();
        for list in [
            vec![server],
            auth.id().into_iter().collect(),
            scope.map(|scope| scope.iter().collect()).unwrap_or_default(),
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
        let digits = hash.as_ref().iter().take(8).flat_map(|byte| [byte >> 4, byte & 15]);
        digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
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
