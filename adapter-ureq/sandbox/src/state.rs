//! The in-memory state of a sandbox: issued tokens, proofs already used, nonces and rate limits.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keybound_ureq::UnixTime;
use keybound_ureq::dpop::{Nonce, ReplayError, VerifiedProof};
use ring::rand::{SecureRandom as _, SystemRandom};

use keybound_ureq::SharedReplayCache;

/// The lifetime of access tokens.
pub(crate) const LIFETIME: Duration = Duration::from_secs(3600);

/// The maximum number of token requests in any second, which is Moov's limit.
const RATE: usize = 40;

/// The capacity of the replay cache. It exceeds the number of proofs that arrive within their
/// maximum age of a minute.
const MAX_PROOFS: usize = 1_000_000;

pub(crate) struct State {
    pub(crate) base_url: String,
    require_nonce: bool,
    memory: Mutex<Memory>,
    proofs: SharedReplayCache,
    started: UnixTime,
    nonce_seed: String,
}

#[derive(Default)]
struct Memory {
    access: HashMap<String, Access>,
    refresh: HashMap<String, Access>,
    recent: Vec<UnixTime>,
}

/// The authorization that a token represents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) scope: String,
    /// The thumbprint of the key that the token is bound to.
    pub(crate) jkt: Option<String>,
    /// Whether the token request came from the registered origin.
    pub(crate) origin_known: bool,
    pub(crate) expires_at: UnixTime,
}

impl State {
    pub(crate) fn new(base_url: String, require_nonce: bool) -> Self {
        Self {
            base_url,
            require_nonce,
            memory: Mutex::default(),
            proofs: SharedReplayCache::new(MAX_PROOFS),
            started: now(),
            nonce_seed: random(),
        }
    }

    /// Returns a new access token and a new refresh token for `access`.
    pub(crate) fn issue(&self, access: Access) -> (String, String) {
        let (token, refresh) = (random(), random());
        let mut memory = self.memory();
        memory.access.insert(token.clone(), access.clone());
        memory.refresh.insert(refresh.clone(), access);
        (token, refresh)
    }

    /// Returns the authorization of an access token. Returns `None` if it is unknown, expired or
    /// revoked.
    pub(crate) fn access(&self, token: &str) -> Option<Access> {
        self.memory()
            .access
            .get(token)
            .filter(|access| now() < access.expires_at)
            .cloned()
    }

    /// Returns the authorization of a refresh token. The refresh token stays valid.
    pub(crate) fn refresh(&self, token: &str) -> Option<Access> {
        self.memory().refresh.get(token).cloned()
    }

    /// Revokes an access token or a refresh token.
    pub(crate) fn revoke(&self, token: &str) {
        let mut memory = self.memory();
        memory.access.remove(token);
        memory.refresh.remove(token);
    }

    /// Records a proof as used (RFC 9449 §11.1).
    pub(crate) fn check_and_insert(&self, proof: &VerifiedProof) -> Result<(), ReplayError> {
        self.proofs.check_and_insert(proof, now())
    }

    /// Counts a token request, and returns whether it is within the rate limit.
    pub(crate) fn within_rate(&self) -> bool {
        let now = now();
        let mut memory = self.memory();
        memory
            .recent
            .retain(|time| now.saturating_since(*time) < Duration::from_secs(1));
        memory.recent.push(now);
        memory.recent.len() <= RATE
    }

    /// Returns the nonces that `part` of the sandbox accepts now, the newest first. A new nonce is
    /// issued each minute, and the previous one stays valid for another minute. Returns none if
    /// nonces are not required.
    pub(crate) fn nonces(&self, part: &str) -> Vec<Nonce> {
        if !self.require_nonce {
            return Vec::new();
        }
        let minute = now().saturating_since(self.started).as_secs() / 60;
        let candidates =
            [minute + 1, minute].map(|minute| format!("{part}-{minute}-{}", self.nonce_seed));
        candidates
            .iter()
            .filter_map(|text| Nonce::new(text).ok())
            .collect()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns 256 random bits, base64url-encoded.
pub(crate) fn random() -> String {
    let mut bytes = [0; 32];
    // A system without random numbers could not generate keys for its clients either.
    let _ = SystemRandom::new().fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the current time.
pub(crate) fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime::from_secs(0).saturating_add(since.unwrap_or_default())
}
