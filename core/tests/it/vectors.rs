//! Proofs that others have published.

use keybound_core::dpop::{ProofError, ProofVerifier};
use keybound_core::jose::PublicJwk;
use keybound_core::{Secret, UnixTime};
use serde_json::Value;

use crate::maker::Maker;
use crate::world::START;

fn rfc_9449() -> Value {
    serde_json::from_str(include_str!("../vectors/rfc9449.json")).unwrap()
}

fn treasury_prime() -> Value {
    serde_json::from_str(include_str!("../vectors/treasury_prime.json")).unwrap()
}

fn text<'a>(vector: &'a Value, name: &str) -> &'a str {
    vector[name].as_str().unwrap()
}

/// The verifier that the vector's own claims fit, but for `ath`.
fn fitting(vector: &Value) -> ProofVerifier {
    ProofVerifier::default()
        .method(text(vector, "htm"))
        .url(text(vector, "htu"))
        .unwrap()
}

fn made_at(vector: &Value) -> UnixTime {
    UnixTime::from_secs(vector["iat"].as_u64().unwrap())
}

#[test]
fn the_proofs_of_rfc_9449_are_sound_at_their_time() {
    let file = rfc_9449();
    let token = Secret::new(text(&file, "access_token"));
    for vector in file["proofs"].as_array().unwrap() {
        let verifier = match vector["ath"].as_str() {
            Some(_) => fitting(vector).access_token(&token),
            None => fitting(vector).no_access_token(),
        };
        let inspection = verifier.verify(text(vector, "proof"), made_at(vector));
        assert_eq!(inspection.problems(), [], "{}", vector["id"]);
        let key = PublicJwk::from_json(vector["header"]["jwk"].to_string().as_bytes()).unwrap();
        assert_eq!(inspection.key(), Some(&key));
        assert_eq!(key.thumbprint(), text(&file, "jkt"));
        let claims = inspection.claims().unwrap();
        assert_eq!(claims.jti.as_deref(), Some(text(vector, "jti")));
        assert_eq!(claims.ath.as_deref(), vector["ath"].as_str());
        assert_eq!(claims.iat, Some(made_at(vector)));
    }
}

#[test]
fn the_ath_of_rfc_9449_is_the_hash_of_its_token_and_of_no_other() {
    let file = rfc_9449();
    let vector = &file["proofs"][2];
    assert_eq!(vector["ath"], file["access_token_ath"]);
    let verifier = fitting(vector).access_token(&Secret::new("another"));
    let inspection = verifier.verify(text(vector, "proof"), made_at(vector));
    assert_eq!(inspection.problems(), [ProofError::AthMismatch]);
}

#[test]
fn treasury_primes_example_is_a_sound_proof_of_a_resource_request_at_its_time() {
    let vector = treasury_prime();
    let inspection = fitting(&vector).verify(text(&vector, "proof"), made_at(&vector));
    assert_eq!(inspection.problems(), []);
    let verified = inspection.verified().unwrap();
    assert_eq!(verified.key().thumbprint(), text(&vector, "jkt"));
    let claims = inspection.claims().unwrap();
    assert_eq!(
        (claims.jti.as_deref(), claims.nonce.as_deref()),
        (Some(text(&vector, "jti")), None)
    );
    assert_eq!(
        (claims.htm.as_deref(), claims.htu.as_deref()),
        (Some("GET"), Some(text(&vector, "htu")))
    );
    assert_eq!(claims.ath.as_deref(), Some(text(&vector, "ath")));
    let all: Value = serde_json::from_str(inspection.claims_json().unwrap()).unwrap();
    assert_eq!(all["exp"], vector["exp"]);
}

#[test]
fn treasury_primes_example_would_be_relayed_by_nobody() {
    let vector = treasury_prime();
    let relay = ProofVerifier::default()
        .method("POST")
        .url("https://ux-toolkit-api-sandbox.marqeta.com/api/v1/oauth/token")
        .unwrap()
        .no_access_token();
    // The signature holds, so that it isn't among what is wrong.
    let today = relay.verify(
        text(&vector, "proof"),
        START.max(UnixTime::from_secs(1_790_000_000)),
    );
    let wrong = [
        ProofError::HtmMismatch,
        ProofError::HtuMismatch,
        ProofError::TooOld,
        ProofError::Expired,
        ProofError::AthUnexpected,
    ];
    assert_eq!(today.problems(), wrong);
    assert!(today.verified().is_none());
    // Its 60 seconds end before the 300 that a proof may be old, and the leeway of 30.
    let minutes_later = UnixTime::from_secs(1_748_905_791 + 30);
    let expired = fitting(&vector).verify(text(&vector, "proof"), minutes_later);
    assert_eq!(expired.problems(), [ProofError::Expired]);
}

#[test]
fn a_proof_with_any_one_character_changed_is_refused() {
    for proof in [
        Maker::new().proof(),
        text(&treasury_prime(), "proof").to_owned(),
    ] {
        let now = if proof.len() < 600 {
            START
        } else {
            made_at(&treasury_prime())
        };
        assert!(ProofVerifier::default().verify(&proof, now).is_valid());
        for at in 0..proof.len() {
            let mut changed = proof.clone().into_bytes();
            changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).unwrap();
            assert!(
                !ProofVerifier::default().verify(&changed, now).is_valid(),
                "{at}: {changed}"
            );
        }
    }
}

#[test]
fn bits_that_stand_for_nothing_at_the_end_of_a_part_must_be_zero() {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let proof = Maker::new().proof();
    for end in [
        proof.find('.').unwrap(),
        proof.rfind('.').unwrap(),
        proof.len(),
    ] {
        let last = ALPHABET
            .iter()
            .position(|letter| *letter == proof.as_bytes()[end - 1])
            .unwrap();
        for (other, letter) in ALPHABET
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != last)
        {
            let mut changed = proof.clone().into_bytes();
            changed[end - 1] = *letter;
            let changed = String::from_utf8(changed).unwrap();
            assert!(
                !ProofVerifier::default().verify(&changed, START).is_valid(),
                "{other} at {end}"
            );
        }
    }
}
