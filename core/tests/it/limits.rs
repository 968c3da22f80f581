//! The edges of what `ProofVerifier` takes, where one more is too many.

use keybound_core::dpop::{ProofError, ProofVerifier};
use serde_json::json;

use crate::maker::{METHOD, Maker};
use crate::world::START;

#[test]
fn a_proof_may_be_as_long_as_the_verifier_allows_and_no_longer() {
    let proof = Maker::new().proof();
    for (longest, expected) in [
        (proof.len() - 1, &[ProofError::TooLong][..]),
        (proof.len(), &[]),
        (proof.len() + 1, &[]),
        (0, &[ProofError::TooLong]),
    ] {
        assert_eq!(
            ProofVerifier::default()
                .max_len(longest)
                .verify(&proof, START)
                .problems(),
            expected,
            "{longest}"
        );
    }
    // What else the verifier says stays as it was.
    let verifier = ProofVerifier::default().method("GET").max_len(proof.len());
    assert_eq!(
        verifier.verify(&proof, START).problems(),
        [ProofError::HtmMismatch]
    );
    assert_eq!(
        ProofVerifier::default()
            .method(METHOD)
            .max_len(proof.len())
            .verify(&proof, START)
            .problems(),
        []
    );
}

#[test]
fn a_port_is_digits_and_nothing_else() {
    for (port, expected) in [
        ("443", &[][..]),
        ("0443", &[]),
        ("", &[]),
        ("444", &[ProofError::HtuMismatch]),
        ("65535", &[ProofError::HtuMismatch]),
        ("+443", &[ProofError::HtuMissing]),
        ("-1", &[ProofError::HtuMissing]),
        ("65536", &[ProofError::HtuMissing]),
        ("4 43", &[ProofError::HtuMissing]),
        ("x", &[ProofError::HtuMissing]),
    ] {
        let htu = format!("https://as.example:{port}/token");
        let verifier = ProofVerifier::default()
            .url("https://as.example/token")
            .unwrap();
        let proof = Maker::new().claim("htu", json!(htu)).proof();
        assert_eq!(
            verifier.verify(&proof, START).problems(),
            expected,
            "{port:?}"
        );
        assert_eq!(
            ProofVerifier::default().url(&htu).is_err(),
            expected == [ProofError::HtuMissing],
            "{port:?}"
        );
    }
}
