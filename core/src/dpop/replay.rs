use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use ring::digest::{SHA256, digest};

use super::VerifiedProof;
use crate::types::time::UnixTime;

/// A cache of accepted proofs, which rejects replays (RFC 9449 §11.1).
///
/// Its size is bounded. It evicts a proof exactly when the proof's age alone would cause its
/// rejection, and not earlier. A cache can be shared by threads with different clocks and by
/// several verifiers, and the clock may be adjusted in both directions: a proof that may have been
/// accepted and evicted is rejected.
///
/// A full cache rejects new proofs rather than evict a proof that could still be replayed. Choose a
/// capacity for all proofs that can arrive within the longest `max_age` and leeway of its
/// verifiers.
#[derive(Clone)]
pub struct ReplayCache {
    capacity: usize,
    seen: BTreeSet<ProofId>,
    /// The same proofs by the end of their validity. The next one to evict comes first.
    expirations: BTreeSet<(UnixTime, ProofId)>,
    /// The latest end of validity of all evicted proofs.
    evicted_until: Option<UnixTime>,
    /// The longest `max_age` and leeway of all verifiers so far: each of them may verify a proof
    /// again.
    max_age: Duration,
    leeway: Duration,
}

/// The first half of the SHA-256 hash of key and `jti`. 128 bits suffice against collisions.
type ProofId = [u8; 16];

/// The reason why a [`ReplayCache`] rejects a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplayError {
    /// The proof was accepted before.
    Seen,
    /// The proof is so old that it may have been accepted and evicted.
    Expired,
    /// The cache is full, so a replay of this proof couldn't be detected.
    Full,
}

impl ReplayCache {
    /// Creates a cache for at most `capacity` proofs. Each uses about 100 bytes.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            seen: BTreeSet::new(),
            expirations: BTreeSet::new(),
            evicted_until: None,
            max_age: Duration::ZERO,
            leeway: Duration::ZERO,
        }
    }

    /// Accepts a proof and records it, unless it was accepted before.
    ///
    /// # Errors
    /// Returns [`ReplayError::Seen`] for a replay, [`ReplayError::Expired`] for a proof that may
    /// have been evicted already, and [`ReplayError::Full`] if the cache has reached its capacity.
    pub fn check_and_insert(
        &mut self,
        proof: &VerifiedProof,
        now: UnixTime,
    ) -> Result<(), ReplayError> {
        self.widen(proof);
        self.remove_expired(now);
        let (id, end) = (
            proof_id(proof),
            proof.valid_until(self.max_age, self.leeway),
        );
        if self.seen.contains(&id) {
            return Err(ReplayError::Seen);
        }
        if self
            .evicted_until
            .is_some_and(|evicted_until| end <= evicted_until)
        {
            return Err(ReplayError::Expired);
        }
        if self.seen.len() >= self.capacity {
            return Err(ReplayError::Full);
        }
        self.seen.insert(id);
        self.expirations.insert((end, id));
        Ok(())
    }

    /// Returns the number of proofs in the cache.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Returns whether the cache is empty.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Extends the validity of all proofs to the `max_age` and leeway of the verifier of this
    /// proof.
    fn widen(&mut self, proof: &VerifiedProof) {
        let by = proof
            .max_age
            .saturating_sub(self.max_age)
            .max(proof.leeway.saturating_sub(self.leeway));
        if by.is_zero() {
            return;
        }
        self.max_age = self.max_age.max(proof.max_age);
        self.leeway = self.leeway.max(proof.leeway);
        let later = |end: UnixTime| end.saturating_add(by);
        self.expirations = self
            .expirations
            .iter()
            .map(|(end, id)| (later(*end), *id))
            .collect();
        self.evicted_until = self.evicted_until.map(later);
    }

    /// Evicts expired proofs. A proof is valid up to and including the end of its validity.
    fn remove_expired(&mut self, now: UnixTime) {
        while let Some((end, id)) = self
            .expirations
            .first()
            .copied()
            .filter(|(end, _)| *end < now)
        {
            self.expirations.remove(&(end, id));
            self.seen.remove(&id);
            self.evicted_until = self.evicted_until.max(Some(end));
        }
    }
}

fn proof_id(proof: &VerifiedProof) -> ProofId {
    // All thumbprints have the same length, so the concatenation is unambiguous.
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

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seen => "the proof was used before (`jti`)",
            Self::Expired => "the proof is so old that it may have been used before",
            Self::Full => "the replay cache is full, so a replay of the proof couldn't be detected",
        })
    }
}

impl std::error::Error for ReplayError {}

#[cfg(test)]
mod tests {
    use http::{Method, Uri};

    use super::*;
    use crate::dpop::{Proof, ProofVerifier};
    use crate::jose::signing::SignRequest;
    use crate::jose::{self, Algorithm, SigningKey};
    use crate::types::time::RequestContext;

    fn proof(key: &SigningKey, made: u64, jti: u8, verifier: &ProofVerifier) -> VerifiedProof {
        let uri: Uri = "https://rs.example/".parse().unwrap();
        let made = UnixTime::from_secs(made);
        let proof = Proof::build(key.public(), &Method::GET, &uri)
            .unwrap()
            .prepare(RequestContext::new(made, [jti; 16]))
            .finish(|request| key.sign(request))
            .unwrap();
        verifier.verify(proof.as_str(), made).verified().unwrap()
    }

    #[test]
    fn a_proof_is_taken_once_and_forgotten_when_its_age_alone_refuses_it() {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let verifier = ProofVerifier::default().max_age(Duration::from_secs(60));
        let first = proof(&key, 1000, 1, &verifier);
        let mut cache = ReplayCache::new(10);
        assert_eq!(
            cache.check_and_insert(&first, UnixTime::from_secs(1000)),
            Ok(())
        );
        for at in [1000, 1030, 1060] {
            assert_eq!(
                cache.check_and_insert(&first, UnixTime::from_secs(at)),
                Err(ReplayError::Seen),
                "{at}"
            );
        }
        assert_eq!(
            cache.check_and_insert(
                &proof(&key, 1001, 2, &verifier),
                UnixTime::from_millis(1_060_001)
            ),
            Ok(())
        );
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn another_key_may_use_the_same_jti() {
        let verifier = ProofVerifier::default();
        let mut cache = ReplayCache::new(10);
        for _ in 0..2 {
            let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
            assert_eq!(
                cache.check_and_insert(&proof(&key, 1000, 1, &verifier), UnixTime::from_secs(1000)),
                Ok(())
            );
        }
    }

    #[test]
    fn a_full_cache_refuses_and_forgets_nothing_early() {
        let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
        let verifier = ProofVerifier::default().max_age(Duration::from_secs(60));
        let mut cache = ReplayCache::new(3);
        let now = UnixTime::from_secs(1000);
        for jti in 0..3 {
            assert_eq!(
                cache.check_and_insert(&proof(&key, 1000, jti, &verifier), now),
                Ok(())
            );
        }
        assert_eq!(
            cache.check_and_insert(&proof(&key, 1000, 3, &verifier), now),
            Err(ReplayError::Full)
        );
        assert_eq!(
            cache.check_and_insert(&proof(&key, 1000, 0, &verifier), now),
            Err(ReplayError::Seen)
        );
        assert_eq!(
            cache.check_and_insert(&proof(&key, 1061, 3, &verifier), UnixTime::from_secs(1061)),
            Ok(())
        );
        assert_eq!(cache.len(), 1);
    }

    fn at(millis: u64) -> UnixTime {
        UnixTime::from_millis(millis)
    }

    #[test]
    fn a_replay_is_refused_when_a_later_request_has_the_cache_forget_the_proof_first() {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let verifier = ProofVerifier::default().max_age(Duration::from_secs(60));
        for later in [1_060_001, 1_060_500, 1_061_000, 1_500_000] {
            let mut cache = ReplayCache::new(10);
            let used = proof(&key, 1000, 1, &verifier);
            assert_eq!(cache.check_and_insert(&used, at(1_000_000)), Ok(()));
            // A concurrent request of another thread, which read the clock later but came first.
            assert_eq!(
                cache.check_and_insert(&proof(&key, 1050, 2, &verifier), at(later)),
                Ok(())
            );
            for now in [1_060_000, 1_000_000, 1_059_999, later] {
                assert!(
                    cache.check_and_insert(&used, at(now)).is_err(),
                    "{later} {now}"
                );
            }
        }
    }

    #[test]
    fn a_replay_is_refused_when_the_clock_is_read_again_for_take() {
        let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
        let verifier = ProofVerifier::default().max_age(Duration::from_secs(60));
        let used = proof(&key, 1000, 1, &verifier);
        let mut cache = ReplayCache::new(10);
        // The verifier accepted it at the end of its validity, each time.
        let taken = (0..6)
            .filter(|late| cache.check_and_insert(&used, at(1_060_001 + late)).is_ok())
            .count();
        assert!(taken <= 1, "{taken}");
    }

    #[test]
    fn a_replay_is_refused_whichever_of_several_policies_judges_it() {
        let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
        let verifier = |max_age, leeway| {
            ProofVerifier::default()
                .max_age(Duration::from_secs(max_age))
                .leeway(Duration::from_secs(leeway))
        };
        let made = |jti, exp: Option<u64>, verifier: &ProofVerifier| {
            expiring(&key, 1000, jti, exp, verifier)
        };
        for (exp, first, second, forgotten_at, replayed_at) in [
            (None, verifier(60, 30), verifier(300, 30), 1061, 1100),
            (None, verifier(60, 30), verifier(300, 30), 1061, 1061),
            (Some(1010), verifier(300, 5), verifier(300, 60), 1016, 1050),
            (Some(1010), verifier(5, 60), verifier(300, 5), 1011, 1012),
        ] {
            // The wider verifier is used for the first time with the replay, or was used before.
            for is_known in [false, true] {
                let mut cache = ReplayCache::new(10);
                if is_known {
                    assert_eq!(
                        cache.check_and_insert(&made(9, None, &second), at(1_000_000)),
                        Ok(())
                    );
                }
                assert_eq!(
                    cache.check_and_insert(&made(1, exp, &first), at(1_000_000)),
                    Ok(())
                );
                let fresh = proof(&key, forgotten_at, 2, &first);
                assert_eq!(
                    cache.check_and_insert(&fresh, UnixTime::from_secs(forgotten_at)),
                    Ok(())
                );
                let replay = made(1, exp, &second);
                let taken = cache.check_and_insert(&replay, UnixTime::from_secs(replayed_at));
                assert!(taken.is_err(), "{exp:?} {forgotten_at} {is_known}");
                // Other proofs are still accepted.
                assert_eq!(
                    cache.check_and_insert(
                        &proof(&key, replayed_at, 3, &second),
                        UnixTime::from_secs(replayed_at)
                    ),
                    Ok(())
                );
            }
        }
    }

    #[test]
    fn a_proof_is_remembered_no_longer_than_both_its_age_and_its_exp_let_it_pass() {
        let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
        let verifier = ProofVerifier::default()
            .max_age(Duration::from_secs(60))
            .leeway(Duration::from_secs(5));
        // `exp` can end the validity earlier. The client chooses `exp`, so it must not extend the
        // time in the cache.
        for (exp, expires_at) in [
            (None, 1060),
            (Some(1_000_000), 1060),
            (Some(1056), 1060),
            (Some(1030), 1035),
        ] {
            let mut cache = ReplayCache::new(10);
            assert_eq!(
                cache.check_and_insert(&expiring(&key, 1000, 1, exp, &verifier), at(1_000_000)),
                Ok(())
            );
            assert_eq!(
                cache.check_and_insert(&proof(&key, 1020, 2, &verifier), at(expires_at * 1000)),
                Ok(())
            );
            assert_eq!(cache.len(), 2, "{exp:?}");
            assert_eq!(
                cache.check_and_insert(&proof(&key, 1020, 3, &verifier), at(expires_at * 1000 + 1)),
                Ok(())
            );
            assert_eq!(cache.len(), 2, "{exp:?}");
        }
    }

    /// Returns a proof with an arbitrary `exp`, which [`Proof`] doesn't support.
    fn expiring(
        key: &SigningKey,
        made: u64,
        jti: u8,
        exp: Option<u64>,
        verifier: &ProofVerifier,
    ) -> VerifiedProof {
        let Some(exp) = exp else {
            return proof(key, made, jti, verifier);
        };
        let plain = proof(key, made, jti, &ProofVerifier::default());
        let (head, payload) = plain.proof.expose().split_once('.').unwrap();
        let payload = jose::decode(payload.split_once('.').unwrap().0).unwrap();
        let claims =
            String::from_utf8(payload)
                .unwrap()
                .replacen('{', &format!("{{\"exp\":{exp},"), 1);
        let input = format!("{head}.{}", jose::encode(claims.as_bytes()));
        let mut jws = input.into_bytes();
        let signature = key
            .sign(&SignRequest::new(jws.clone(), key.public().clone()))
            .unwrap();
        signature.append_to(&mut jws, key.public()).unwrap();
        let jws = String::from_utf8(jws).unwrap();
        verifier
            .verify(&jws, UnixTime::from_secs(made))
            .verified()
            .unwrap()
    }
}
