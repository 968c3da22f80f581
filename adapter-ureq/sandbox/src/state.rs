//! What the sandbox remembers.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keybound_ureq::UnixTime;
use keybound_ureq::dpop::{Nonce, ReplayError, VerifiedProof};
use ring::rand::{SecureRandom as _, SystemRandom};

use keybound_ureq::SharedReplayCache;

/// How long access tokens live.
pub(crate) const LIFETIME: Duration = Duration::from_secs(3600);

/// How many token requests a client may make in any second; Moov allows 40.
const RATE: usize = 40;

/// How many proofs are remembered: more than come in a minute.
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

/// What a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    pub(crate) scope: String,
    /// The key that it is bound to.
    pub(crate) jkt: Option<String>,
    /// Whether it was asked for from a registered origin.
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

    /// A fresh access token and a refresh token for `access`.
    pub(crate) fn issue(&self, access: Access) -> (String, String) {
        let (token, refresh) = (random(), random());
        let mut memory = self.memory();
        memory.access.insert(token.clone(), access.clone());
        memory.refresh.insert(refresh.clone(), access);
        (token, refresh)
    }

    /// What an access token stands for, while it lives.
    pub(crate) fn access(&self, token: &str) -> Option<Access> {
        self.memory()
            .access
            .get(token)
            .filter(|access| now() < access.expires_at)
            .cloned()
    }

    /// What a refresh token stands for; it stays good.
    pub(crate) fn refresh(&self, token: &str) -> Option<Access> {
        self.memory().refresh.get(token).cloned()
    }

    /// Forgets a token of either kind.
    pub(crate) fn revoke(&self, token: &str) {
        let mut memory = self.memory();
        memory.access.remove(token);
        memory.refresh.remove(token);
    }

    /// Takes a proof, if it comes for the first time (RFC 9449 §11.1).
    pub(crate) fn take(&self, proof: &VerifiedProof) -> Result<(), ReplayError> {
        self.proofs.check_and_insert(proof, now())
    }

    /// Whether there is room for one more token request in this second.
    pub(crate) fn within_rate(&self) -> bool {
        let now = now();
        let mut memory = self.memory();
        memory
            .recent
            .retain(|at| now.saturating_since(*at) < Duration::from_secs(1));
        memory.recent.push(now);
        memory.recent.len() <= RATE
    }

    /// The nonces of a part of the sandbox that are good now, the newest first: one is made each minute, and
    /// the one before is still taken. There are none where none is demanded.
    pub(crate) fn nonces(&self, part: &str) -> Vec<Nonce> {
        if !self.require_nonce {
            return Vec::new();
        }
        let minute = now().saturating_since(self.started).as_secs() / 60;
        let texts =
            [minute + 1, minute].map(|minute| format!("{part}-{minute}-{}", self.nonce_seed));
        texts
            .iter()
            .filter_map(|text| Nonce::new(text).ok())
            .collect()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// 256 random bits.
pub(crate) fn random() -> String {
    let mut bytes = [0; 32];
    // Without random numbers no sandbox could make its keys either.
    let _ = SystemRandom::new().fill(&mut bytes);
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Returns the current time.
pub(crate) fn now() -> UnixTime {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    UnixTime::from_secs(0).saturating_add(since.unwrap_or_default())
}
