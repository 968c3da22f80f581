use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Mutex, PoisonError};

use keybound_core::UnixTime;
use keybound_core::dpop::{ReplayCache, ReplayError, VerifiedProof};

const SHARDS: u8 = 16;

/// A [`ReplayCache`] that threads can share. It consists of 16 shards with a lock each, so that
/// threads contend only for proofs of the same shard.
#[derive(Debug)]
pub struct SharedReplayCache {
    shards: Vec<Mutex<ReplayCache>>,
}

impl SharedReplayCache {
    /// Creates a cache for `capacity` proofs, rounded up to a multiple of 16. Each of the 16 shards
    /// holds the same number and rejects new proofs when it is full, even if others are not: choose
    /// a capacity with some reserve.
    pub fn new(capacity: usize) -> Self {
        let each = capacity.div_ceil(SHARDS.into());
        let shards = (0..SHARDS).map(|_| Mutex::new(ReplayCache::new(each)));
        let shards = shards.collect();
        Self { shards }
    }

    /// Accepts a proof and records it, unless it was accepted before.
    ///
    /// # Errors
    /// Returns the same errors as [`ReplayCache::check_and_insert`].
    pub fn check_and_insert(
        &self,
        proof: &VerifiedProof,
        now: UnixTime,
    ) -> Result<(), ReplayError> {
        let mut hasher = DefaultHasher::new();
        proof.jti().hash(&mut hasher);
        let shard = usize::try_from(hasher.finish() % u64::from(SHARDS)).unwrap_or_default();
        // The index is always in range. A missing shard counts as a full one, so that a replay is
        // never accepted.
        let shard = self.shards.get(shard).ok_or(ReplayError::Full)?;
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.check_and_insert(proof, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::{Algorithm, SigningKey};
    use keybound_core::dpop::{Proof, ProofVerifier};
    use keybound_core::driver::RequestContext;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;

    #[test]
    fn of_many_threads_with_the_same_proof_one_alone_goes_through() {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let now = UnixTime::from_secs(1000);
        let uri = "https://rs.example/".parse().unwrap();
        let cache = SharedReplayCache::new(1000);
        for jti in 0..20 {
            let builder = Proof::build(key.public(), &http::Method::GET, &uri).unwrap();
            let signing = builder.prepare(RequestContext::new(now, [jti; 16]));
            let proof = signing.finish(|request| key.sign(request)).unwrap();
            let verified = ProofVerifier::default()
                .verify(proof.as_str(), now)
                .verified()
                .unwrap();
            let accepted = AtomicUsize::new(0);
            thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| {
                        if cache.check_and_insert(&verified, now).is_ok() {
                            accepted.fetch_add(1, Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!(accepted.into_inner(), 1);
        }
    }

    #[test]
    fn of_many_threads_that_read_the_clock_for_themselves_none_has_a_replay_taken() {
        let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
        let uri = "https://rs.example/".parse().unwrap();
        let verified = |made: UnixTime, jti: u8| {
            let builder = Proof::build(key.public(), &http::Method::GET, &uri).unwrap();
            let signing = builder.prepare(RequestContext::new(made, [jti; 16]));
            let proof = signing.finish(|request| key.sign(request)).unwrap();
            ProofVerifier::default()
                .verify(proof.as_str(), made)
                .verified()
                .unwrap()
        };
        let made = UnixTime::from_secs(1000);
        let last = 1_300_000;
        for round in 0..20 {
            let cache = SharedReplayCache::new(10_000);
            let used = verified(made, round);
            assert!(cache.check_and_insert(&used, made).is_ok());
            // Some requests arrive in the last millisecond in which the proof is valid, others a
            // millisecond later.
            let others: Vec<_> = (100..=250)
                .map(|jti| verified(UnixTime::from_secs(1200), jti))
                .collect();
            let accepted = AtomicUsize::new(0);
            thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        for other in &others {
                            let _ = cache.check_and_insert(other, UnixTime::from_millis(last + 1));
                            if cache
                                .check_and_insert(&used, UnixTime::from_millis(last))
                                .is_ok()
                            {
                                accepted.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    });
                }
            });
            assert_eq!(accepted.into_inner(), 0, "{round}");
        }
    }
}
