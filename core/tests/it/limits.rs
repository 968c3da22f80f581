//! The edges of what `Policy` takes, where one more is too many.

use keybound_core::dpop::{Policy, Problem};
use serde_json::json;

use crate::maker::{METHOD, Maker};
use crate::world::START;

#[test]
fn a_proof_may_be_as_long_as_the_policy_says_and_no_longer() {
    let proof = Maker::new().proof();
    for (longest, expected) in [
        (proof.len() - 1, &[Problem::TooLong][..]),
        (proof.len(), &[]),
        (proof.len() + 1, &[]),
        (0, &[Problem::TooLong]),
    ] {
        assert_eq!(
            Policy::default().max_len(longest).inspect(&proof, START).problems(),
            expected,
            "{longest}"
        );
    }
    // What else the policy says stays as it was.
    let policy = Policy::default().method("GET").max_len(proof.len());
    assert_eq!(policy.inspect(&proof, START).problems(), [Problem::HtmMismatch]);
    assert_eq!(Policy::default().method(METHOD).max_len(proof.len()).inspect(&proof, START).problems(), []);
}

#[test]
fn a_port_is_digits_and_nothing_else() {
    for (port, expected) in [
        ("443", &[][..]),
        ("0443", &[]),
        ("", &[]),
        ("444", &[Problem::HtuMismatch]),
        ("65535", &[Problem::HtuMismatch]),
        ("+443", &[Problem::HtuMissing]),
        ("-1", &[Problem::HtuMissing]),
        ("65536", &[Problem::HtuMissing]),
        ("4 43", &[Problem::HtuMissing]),
        ("x", &[Problem::HtuMissing]),
    ] {
        let htu = format!("https://as.example:{port}/token");
        let policy = Policy::default().url("https://as.example/token").unwrap();
        let proof = Maker::new().claim("htu", json!(htu)).proof();
        assert_eq!(policy.inspect(&proof, START).problems(), expected, "{port:?}");
        assert_eq!(Policy::default().url(&htu).is_err(), expected == [Problem::HtuMissing], "{port:?}");
    }
}
