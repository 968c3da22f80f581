use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use ring::digest::{SHA256, digest};

use super::VerifiedProof;
use crate::types::time::UnixTime;

/// Remembers the proofs that were taken, so that none is taken twice (RFC 9449 §11.1).
///
/// Bounded: it forgets a proof at the very moment when its age alone would have it refused, and not before. Threads whose
/// clocks differ, a clock that is set ahead and back again, and several policies can share one: a proof that may have been
/// taken and forgotten is refused.
/// When it is full it refuses new proofs rather than forget one that could still be replayed; size it for the
/// proofs that can come within the longest `max_age` and leeway of its policies.
#[derive(Clone)]
pub struct ReplayCache {
    capacity: usize,
    seen: BTreeSet<ProofId>,
    /// The same proofs and their last moments, the one to be forgotten next first.
    ends: BTreeSet<(UnixTime, ProofId)>,
    /// The latest last moment of a proof that was forgotten.
    forgotten: Option<UnixTime>,
    /// The longest `max_age` and leeway of the policies so far: any of them may judge a proof again.
    max_age: Duration,
    leeway: Duration,
}

/// Half of a hash of key and `jti`: enough that nobody finds two that meet.
type ProofId = [u8; 16];

/// Why a proof is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReplayError {
    /// It was taken before.
    Seen,
    /// It is so old that it may have been taken and forgotten.
    Expired,
    /// The cache is full, so that a replay couldn't be told.
    Full,
}

impl ReplayCache {
    /// A cache for at most so many proofs, about 100 bytes each.
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            seen: BTreeSet::new(),
            ends: BTreeSet::new(),
            forgotten: None,
            max_age: Duration::ZERO,
            leeway: Duration::ZERO,
        }
    }

    /// Takes a proof, unless it was taken before.
    ///
    /// # Errors
    /// `Seen` for a replay, `Expired` for a proof that would be forgotten already, `Full` if there is no room to remember
    /// this one.
    pub fn check_and_insert(
        &mut self,
        proof: &VerifiedProof,
        now: UnixTime,
    ) -> Result<(), ReplayError> {
        self.widen(proof);
        self.remove_expired(now);
        let (print, end) = (proof_id(proof), proof.good_until(self.max_age, self.leeway));
        if self.seen.contains(&print) {
            return Err(ReplayError::Seen);
        }
        if self.forgotten.is_some_and(|forgotten| end <= forgotten) {
            return Err(ReplayError::Expired);
        }
        if self.seen.len() >= self.capacity {
            return Err(ReplayError::Full);
        }
        self.seen.insert(print);
        self.ends.insert((end, print));
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

    /// Makes every proof last as long as the policy that judged this one would have it.
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
        self.ends = self
            .ends
            .iter()
            .map(|(end, print)| (later(*end), *print))
            .collect();
        self.forgotten = self.forgotten.map(later);
    }

    /// A proof is good up to and including its last moment.
    fn remove_expired(&mut self, now: UnixTime) {
        while let Some((end, print)) = self.ends.first().copied().filter(|(end, _)| *end < now) {
            self.ends.remove(&(end, print));
            self.seen.remove(&print);
            self.forgotten = self.forgotten.max(Some(end));
        }
    }
}

fn proof_id(proof: &VerifiedProof) -> ProofId {
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

impl fmt::Display for ReplayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Seen => "the proof was used before (`jti`)",
            Self::Expired => "the proof is so old that it may have been used before",
            Self::Full => "too many proofs are remembered to tell whether this one was used before",
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

    fn proof(key: &SigningKey, made: u64, jti: u8, policy: &ProofVerifier) -> VerifiedProof {
        let uri: Uri = "https://rs.example/".parse().unwrap();
        let made = UnixTime::from_secs(made);
        let proof = Proof::build(key.public(), &Method::GET, &uri)
            .unwrap()
            .prepare(RequestContext::new(made, [jti; 16]))
            .finish(|request| key.sign(request))
            .unwrap();
        policy.verify(proof.as_str(), made).verified().unwrap()
    }

    #[test]
    fn a_proof_is_taken_once_and_forgotten_when_its_age_alone_refuses_it() {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let policy = ProofVerifier::default().max_age(Duration::from_secs(60));
        let first = proof(&key, 1000, 1, &policy);
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
                &proof(&key, 1001, 2, &policy),
                UnixTime::from_millis(1_060_001)
            ),
            Ok(())
        );
        assert_eq!(cache.len(), 1);
    }

    #[test]
    fn another_key_may_use_the_same_jti() {
        let policy = ProofVerifier::default();
        let mut cache = ReplayCache::new(10);
        for _ in 0..2 {
            let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
            assert_eq!(
                cache.check_and_insert(&proof(&key, 1000, 1, &policy), UnixTime::from_secs(1000)),
                Ok(())
            );
        }
    }

    #[test]
    fn a_full_cache_refuses_and_forgets_nothing_early() {
        let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
        let policy = ProofVerifier::default().max_age(Duration::from_secs(60));
        let mut cache = ReplayCache::new(3);
        let now = UnixTime::from_secs(1000);
        for jti in 0..3 {
            assert_eq!(
                cache.check_and_insert(&proof(&key, 1000, jti, &policy), now),
                Ok(())
            );
        }
        assert_eq!(
            cache.check_and_insert(&proof(&key, 1000, 3, &policy), now),
            Err(ReplayError::Full)
        );
        assert_eq!(
            cache.check_and_insert(&proof(&key, 1000, 0, &policy), now),
            Err(ReplayError::Seen)
        );
        assert_eq!(
            cache.check_and_insert(&proof(&key, 1061, 3, &policy), UnixTime::from_secs(1061)),
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
        let policy = ProofVerifier::default().max_age(Duration::from_secs(60));
        for later in [1_060_001, 1_060_500, 1_061_000, 1_500_000] {
            let mut cache = ReplayCache::new(10);
            let used = proof(&key, 1000, 1, &policy);
            assert_eq!(cache.check_and_insert(&used, at(1_000_000)), Ok(()));
            // Another thread's request, which read the clock a little later and was faster.
            assert_eq!(
                cache.check_and_insert(&proof(&key, 1050, 2, &policy), at(later)),
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
        let policy = ProofVerifier::default().max_age(Duration::from_secs(60));
        let used = proof(&key, 1000, 1, &policy);
        let mut cache = ReplayCache::new(10);
        // The policy judged it at its last moment, each time.
        let taken = (0..6)
            .filter(|late| cache.check_and_insert(&used, at(1_060_001 + late)).is_ok())
            .count();
        assert!(taken <= 1, "{taken}");
    }

    #[test]
    fn a_replay_is_refused_whichever_of_several_policies_judges_it() {
        let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
        let policy = |max_age, leeway| {
            ProofVerifier::default()
                .max_age(Duration::from_secs(max_age))
                .leeway(Duration::from_secs(leeway))
        };
        let made =
            |jti, exp: Option<u64>, policy: &ProofVerifier| expiring(&key, 1000, jti, exp, policy);
        for (exp, first, second, forgotten_at, replayed_at) in [
            (None, policy(60, 30), policy(300, 30), 1061, 1100),
            (None, policy(60, 30), policy(300, 30), 1061, 1061),
            (Some(1010), policy(300, 5), policy(300, 60), 1016, 1050),
            (Some(1010), policy(5, 60), policy(300, 5), 1011, 1012),
        ] {
            // The wider one comes for the first time with the replay, or was there before.
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
                // Nobody else's proof is refused for it.
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
        let policy = ProofVerifier::default()
            .max_age(Duration::from_secs(60))
            .leeway(Duration::from_secs(5));
        // `exp` may end it sooner. It is whoever made the proof that says it: it keeps none here for longer.
        for (exp, ends) in [
            (None, 1060),
            (Some(1_000_000), 1060),
            (Some(1056), 1060),
            (Some(1030), 1035),
        ] {
            let mut cache = ReplayCache::new(10);
            assert_eq!(
                cache.check_and_insert(&expiring(&key, 1000, 1, exp, &policy), at(1_000_000)),
                Ok(())
            );
            assert_eq!(
                cache.check_and_insert(&proof(&key, 1020, 2, &policy), at(ends * 1000)),
                Ok(())
            );
            assert_eq!(cache.len(), 2, "{exp:?}");
            assert_eq!(
                cache.check_and_insert(&proof(&key, 1020, 3, &policy), at(ends * 1000 + 1)),
                Ok(())
            );
            assert_eq!(cache.len(), 2, "{exp:?}");
        }
    }

    /// A proof with an `exp`, which [`Proof`] doesn't make.
    fn expiring(
        key: &SigningKey,
        made: u64,
        jti: u8,
        exp: Option<u64>,
        policy: &ProofVerifier,
    ) -> VerifiedProof {
        let Some(exp) = exp else {
            return proof(key, made, jti, policy);
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
        policy
            .verify(&jws, UnixTime::from_secs(made))
            .verified()
            .unwrap()
    }
}
