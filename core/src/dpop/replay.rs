use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use ring::digest::{SHA256, digest};

use super::VerifiedProof;
use crate::types::time::UnixTime;

/// A cache of accepted proofs, which rejects replays (RFC 9449 §11.1).
///
/// Its size is bounded. It evicts a proof on a later insertion, and only once every verifier so far
/// would reject the proof for its age or its `exp`. A cache can be shared by threads with different
/// clocks and by several verifiers, and the clock may be adjusted in both directions: a proof that
/// may have been accepted and evicted is rejected.
///
/// A full cache rejects new proofs rather than evict a proof that could still be replayed. Choose a
/// capacity for all proofs that can arrive within the longest `max_age` plus leeway of its
/// verifiers.
#[derive(Clone)]
pub struct ReplayCache {
    capacity: usize,
    seen: BTreeSet<ProofId>,
    /// The proofs whose validity ends by their age, by `iat`.
    by_iat: EvictionQueue,
    /// The proofs whose validity ends earlier than by their age, by `exp`.
    by_exp: EvictionQueue,
    /// The longest `max_age` and leeway of all verifiers so far: each of them may verify a proof
    /// again.
    max_age: Duration,
    leeway: Duration,
}

/// Proofs by one of their claims, `iat` or `exp`. The next one to evict comes first.
///
/// The claims don't depend on a verifier's policy or on the clock, so neither a change of policy nor
/// an adjustment of the clock invalidates `last_evicted`.
#[derive(Clone, Default)]
struct EvictionQueue {
    proofs: BTreeSet<(UnixTime, ProofId)>,
    /// The latest claim of all evicted proofs.
    last_evicted: Option<UnixTime>,
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
            by_iat: EvictionQueue::default(),
            by_exp: EvictionQueue::default(),
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
        self.max_age = self.max_age.max(proof.max_age);
        self.leeway = self.leeway.max(proof.leeway);
        self.by_iat.evict(self.max_age, now, &mut self.seen);
        self.by_exp.evict(self.leeway, now, &mut self.seen);
        let id = proof_id(proof);
        if self.seen.contains(&id) {
            return Err(ReplayError::Seen);
        }
        let may_have_evicted_exp = |exp| self.by_exp.may_have_evicted(exp);
        if self.by_iat.may_have_evicted(proof.iat) || proof.exp.is_some_and(may_have_evicted_exp) {
            return Err(ReplayError::Expired);
        }
        if self.seen.len() >= self.capacity {
            return Err(ReplayError::Full);
        }
        let age_limit = proof.iat.saturating_add(self.max_age);
        let is_earlier = |exp: &UnixTime| exp.saturating_add(self.leeway) < age_limit;
        let earlier_exp = proof.exp.filter(is_earlier);
        self.seen.insert(id);
        match earlier_exp {
            Some(exp) => self.by_exp.proofs.insert((exp, id)),
            None => self.by_iat.proofs.insert((proof.iat, id)),
        };
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
}

impl EvictionQueue {
    /// Evicts the proofs whose claim plus `validity` is past. A proof is valid up to and including
    /// that time.
    fn evict(&mut self, validity: Duration, now: UnixTime, seen: &mut BTreeSet<ProofId>) {
        while let Some((claim, id)) = self.proofs.first().copied() {
            if claim.saturating_add(validity) >= now {
                return;
            }
            self.proofs.pop_first();
            seen.remove(&id);
            self.last_evicted = self.last_evicted.max(Some(claim));
        }
    }

    /// Returns whether a proof with this claim may have been evicted.
    fn may_have_evicted(&self, claim: UnixTime) -> bool {
        self.last_evicted.is_some_and(|last| claim <= last)
    }
}

fn proof_id(proof: &VerifiedProof) -> ProofId {
    // All thumbprints have the same length, so the concatenation is unambiguous.
    let text = [proof.key.thumbprint(), &proof.jti].concat();
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

    fn policy(max_age: u64, leeway: u64) -> ProofVerifier {
        ProofVerifier::default()
            .max_age(Duration::from_secs(max_age))
            .leeway(Duration::from_secs(leeway))
    }

    #[test]
    fn fresh_proofs_are_accepted_after_a_verifier_with_a_longer_max_age_or_leeway_joins() {
        let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
        for (first, second, exp) in [
            // The evicted proof expired by its age, then by its `exp`.
            ((60, 5), (60, 300), None),
            ((60, 5), (60, 300), Some(1010)),
            ((60, 5), (300, 5), Some(1010)),
            ((5, 60), (300, 60), None),
            ((5, 60), (300, 300), Some(1010)),
            ((60, 300), (60, 5), None),
        ] {
            let (first, second) = (&policy(first.0, first.1), &policy(second.0, second.1));
            let mut cache = ReplayCache::new(100);
            assert_eq!(
                cache.check_and_insert(&expiring(&key, 1000, 0, exp, first), at(1_000_000)),
                Ok(())
            );
            assert_eq!(
                cache.check_and_insert(&proof(&key, 1100, 1, first), at(1_100_000)),
                Ok(())
            );
            for step in 0..10 {
                let now = 1100 + 30 * u64::from(step);
                for (jti, exp) in [(0, None), (1, Some(now)), (2, Some(now + 10))] {
                    for (verifier, second) in [(second, 0), (first, 1)] {
                        let jti = 2 + 6 * step + 2 * jti + second;
                        assert_eq!(
                            cache.check_and_insert(
                                &expiring(&key, now, jti, exp, verifier),
                                UnixTime::from_secs(now)
                            ),
                            Ok(()),
                            "{now} {exp:?}"
                        );
                    }
                }
                for verifier in [first, second] {
                    let replay = expiring(&key, 1000, 0, exp, verifier);
                    assert_eq!(
                        cache.check_and_insert(&replay, UnixTime::from_secs(now)),
                        Err(ReplayError::Expired)
                    );
                }
            }
        }
    }

    #[test]
    fn no_proof_is_accepted_twice_by_any_policies_and_clocks_and_no_fresh_one_is_refused() {
        let key = SigningKey::generate(Algorithm::EdDsa).unwrap();
        let template = proof(&key, 1000, 0, &policy(60, 5));
        for seed in 0..400_u64 {
            let mut state = seed;
            let mut random = |below: u64| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % below
            };
            let is_monotonic = seed % 2 == 0;
            let mut cache = ReplayCache::new(1000);
            let mut proofs: Vec<VerifiedProof> = Vec::new();
            let mut accepted = BTreeSet::new();
            let mut now = 1000;
            for step in 0..200 {
                now = if is_monotonic {
                    now + random(20)
                } else {
                    1000 + random(800)
                };
                let is_new = proofs.is_empty() || random(3) == 0;
                let mut sent = if is_new {
                    let proof = VerifiedProof {
                        jti: step.to_string(),
                        iat: UnixTime::from_secs(now),
                        exp: (random(2) == 0).then(|| UnixTime::from_secs(now + random(400))),
                        ..template.clone()
                    };
                    proofs.push(proof.clone());
                    proof
                } else {
                    let at = random(u64::try_from(proofs.len()).unwrap());
                    proofs[usize::try_from(at).unwrap()].clone()
                };
                // Policies with a longer validity join later.
                let policies = [5, 60, 60, 300];
                let known = step / 50 + 1;
                sent.max_age =
                    Duration::from_secs(policies[usize::try_from(random(known)).unwrap()]);
                sent.leeway =
                    Duration::from_secs(policies[usize::try_from(random(known)).unwrap()]);
                let time = UnixTime::from_secs(now);
                let is_valid = time <= sent.iat.saturating_add(sent.max_age)
                    && sent
                        .exp
                        .is_none_or(|exp| time < exp.saturating_add(sent.leeway));
                if !is_valid {
                    continue;
                }
                let result = cache.check_and_insert(&sent, time);
                if result.is_ok() {
                    assert!(accepted.insert(sent.jti.clone()), "{seed} {step}");
                }
                if is_new && is_monotonic {
                    assert_eq!(result, Ok(()), "{seed} {step}");
                }
            }
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
