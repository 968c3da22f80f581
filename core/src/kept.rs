//! What a session keeps for the next process, or shares with others: the one place where secrets are written down.

use std::io::{self, Write};

use serde::Serialize;
use zeroize::Zeroizing;

use crate::client::Client;
use crate::error::Misuse;
use crate::origins::{self, Origins};
use crate::secret::SecretBytes;
use crate::time::UnixTime;
use crate::token::{StoredToken, Token};
use crate::wire::json::{Members, Value};

/// The state of a session: its token, how often the refresh token may still be sent, and what is known of servers.
///
/// [`to_json`](Self::to_json) is how it is written down, to be kept where only its owner can read it.
#[derive(Clone, Debug)]
#[must_use]
pub struct Kept {
    pub(crate) token: Token,
    pub(crate) tries_left: u8,
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
    token: StoredToken<'a>,
    origins: Vec<origins::Stored>,
}

impl Kept {
    /// The state of a session that has just got this token.
    pub fn new(token: Token) -> Self {
        Self::with_tries(token, TRIES)
    }

    pub(crate) fn with_tries(token: Token, tries_left: u8) -> Self {
        Self { token, tries_left, origins: Origins::new() }
    }

    /// With what is known of servers, so that whoever comes next need not be challenged for a nonce.
    pub fn with_origins(mut self, origins: Origins) -> Self {
        self.origins = origins;
        self
    }

    /// The token.
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// What was known of servers.
    pub fn origins(&self) -> &Origins {
        &self.origins
    }

    /// The state as JSON, with its secrets in clear.
    pub fn to_json(&self) -> SecretBytes {
        let Self { token, tries_left, origins } = self;
        let stored = Stored {
            version: VERSION,
            tries_left: *tries_left,
            token: StoredToken::of(token),
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
        let token = stored.get("token").and_then(Value::object).ok_or_else(malformed)?;
        if StoredToken::is_bound_elsewhere(&token, client.key()).map_err(|_| malformed())? {
            return Err(misuse("must be of a token that is bound to this client's key"));
        }
        let token = StoredToken::restore(&token, client.key()).map_err(|_| malformed())?;
        let origins = stored.get("origins").and_then(|origins| Origins::from_stored(origins, since));
        Ok(Self { token, tries_left, origins: origins.ok_or_else(malformed)? })
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
