use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ring::digest::{SHA256, digest};

use super::VerifiedProof;
use crate::time::UnixTime;

/// Remembers the proofs that were taken, so that none is taken twice (RFC 9449 §11.1).
///
/// Bounded: it forgets a proof at the very moment when its age alone would have it refused, and not before.
/// It trusts the clock that it is given: one that is set ahead and back again has it forget too early.
/// When it is full it refuses new proofs rather than forget one that could still be replayed; size it for the
/// proofs that can come within the policy's `max_age` and leeway.
#[derive(Clone)]
pub struct ReplayCache {
    capacity: usize,
    /// Which proofs, and until when.
    seen: BTreeMap<Print, UnixTime>,
    /// The same, the one to be forgotten next first.
    ends: BTreeSet<(UnixTime, Print)>,
}

/// Half of a hash of key and `jti`: enough that nobody finds two that meet.
type Print = [u8; 16];

/// Why a proof is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replay {
    /// It was taken before.
    Seen,
    /// The cache is full, so that a replay couldn't be told.
    Full,
}

impl ReplayCache {
    /// A cache for at most so many proofs, about 100 bytes each.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, seen: BTreeMap::new(), ends: BTreeSet::new() }
    }

    /// Takes a proof, unless it was taken before.
    ///
    /// # Errors
    /// `Seen` for a replay, `Full` if there is no room to remember this one.
    pub fn take(&mut self, proof: &VerifiedProof, now: UnixTime) -> Result<(), Replay> {
        self.forget(now);
        let print = print(proof);
        if self.seen.contains_key(&print) {
            return Err(Replay::Seen);
        }
        if self.seen.len() >= self.capacity {
            return Err(Replay::Full);
        }
        self.seen.insert(print, proof.good_until);
        self.ends.insert((proof.good_until, print));
        Ok(())
    }

    /// How many proofs are remembered.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Whether none is remembered.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// A proof is good up to and including its last moment.
    fn forget(&mut self, now: UnixTime) {
        while let Some((end, print)) = self.ends.first().copied().filter(|(end, _)| *end < now) {
            self.ends.remove(&(end, print));
            self.seen.remove(&print);
        }
    }
}

fn print(proof: &VerifiedProof) -> Print {
    // A thumbprint has one length, so the two can't run into each other.
    let mut text = proof.key.thumbprint().to_owned();
    text.push_str(&proof.jti);
    let hash = digest(&SHA256, text.as_bytes());
    hash.as_ref().first_chunk().copied().unwrap_or_default()
}

impl fmt::Debug for ReplayCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReplayCache({} of {})", self.seen.len(), self.capacity)
    }
}

impl fmt::Display for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seen => "the proof was used before (`jti`)",
            Self::Full => "too many proofs are remembered to tell whether this one was used before",
        })
    }
}

impl std::error::Error for Replay {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dpop::{Policy, Proof};
    use crate::jose::{Algorithm, SigningKey};
    use crate::time::Ambient;
    use http::{Method, Uri};
    use std::time::Duration;

    fn proof(key: &SigningKey, made: u64, jti: u8, policy: &Policy) -> VerifiedProof {
        let uri: Uri = "https://rs.example/".parse().unwrap();
        let made = UnixTime::from_secs(made);
        let proof = Proof::build(key.public(), &Method::GET, &uri)
            .unwrap()
            .prepare(Ambient::new(made, [jti; 16]))
            .finish(|request| key.sign(request))
            .unwrap();
        policy.inspect(proof.as_str(), made).verified().unwrap()
    }

    #[test]
    fn a_proof_is_taken_once_and_forgotten_when_its_age_alone_refuses_it() {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let policy = Policy::default().max_age(Duration::from_secs(60));
        let first = proof(&key, 1000, 1, &policy);
        let mut cache = ReplayCache::new(10);
        assert_eq!(cache.take(&first, UnixTime::from_secs(1000)), Ok(()));
        for at in [1000, 1030, 1060] {
            assert_eq!(cache.take(&first, UnixTime::from_secs(at)), Err(Replay::Seen), "{at}");
        }
        assert_eq!(cache.take(&proof(&key, 1000, 2, &policy), UnixTime::from_millis(1_060_001)), Ok(()));
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn another_key_may_use_the_same_jti() {
        let policy = Policy::default();
        let mut cache = ReplayCache::new(10);
        for _ in 0..2 {
            let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
            assert_eq!(cache.take(&proof(&key, 1000, 1, &policy), UnixTime::from_secs(1000)), Ok(()));
        }
    }

    #[test]
    fn a_full_cache_refuses_and_forgets_nothing_early() {
        let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
        let policy = Policy::default().max_age(Duration::from_secs(60));
        let mut cache = ReplayCache::new(3);
        let now = UnixTime::from_secs(1000);
        for jti in 0..3 {
            assert_eq!(cache.take(&proof(&key, 1000, jti, &policy), now), Ok(()));
        }
        assert_eq!(cache.take(&proof(&key, 1000, 3, &policy), now), Err(Replay::Full));
        assert_eq!(cache.take(&proof(&key, 1000, 0, &policy), now), Err(Replay::Seen));
        assert_eq!(cache.take(&proof(&key, 1061, 3, &policy), UnixTime::from_secs(1061)), Ok(()));
        assert_eq!(cache.len(), 1);
    }
}
