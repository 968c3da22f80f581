//! Judging proofs that somebody else made: each thing that can be wrong, alone and together.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use keybound_core::dpop::{Nonce, ProofError, ProofVerifier};
use keybound_core::jose::{Algorithm, PublicJwk};
use keybound_core::{Secret, UnixTime};
use serde_json::{Value, json};

use crate::maker::{HTU, METHOD, Maker};
use crate::world::START;

const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
/// RFC 9449 §7.1's hash of it.
const ATH: &str = "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo";

/// What a token endpoint that asks for a nonce would check.
fn verifier() -> ProofVerifier {
    ProofVerifier::default()
        .method(METHOD)
        .url(HTU)
        .unwrap()
        .nonce(Nonce::new("n-1").unwrap())
        .no_access_token()
}

fn maker() -> Maker {
    Maker::new().claim("nonce", json!("n-1"))
}

fn problems(verifier: &ProofVerifier, proof: &str) -> Vec<ProofError> {
    let inspection = verifier.verify(proof, START);
    assert_eq!(inspection.is_valid(), inspection.problems().is_empty());
    assert_eq!(inspection.is_valid(), inspection.verified().is_some());
    inspection.problems().to_vec()
}

fn secs(since: i64) -> Value {
    json!(START.as_secs().checked_add_signed(since).unwrap())
}

#[test]
fn a_valid_proof_has_no_error_and_returns_its_key_and_claims() {
    let inspection = verifier().verify(&maker().proof(), START);
    assert_eq!(inspection.problems(), []);
    let jwk = maker().header["jwk"].to_string();
    let key = PublicJwk::from_json(jwk.as_bytes()).unwrap();
    assert_eq!(
        (inspection.key(), inspection.alg()),
        (Some(&key), Some("ES256"))
    );
    assert_eq!(inspection.verified().unwrap().key(), &key);
    let claims = inspection.claims().unwrap();
    assert_eq!(claims.jti.as_deref(), Some("jti-1"));
    assert_eq!(
        (claims.htm.as_deref(), claims.htu.as_deref()),
        (Some(METHOD), Some(HTU))
    );
    assert_eq!(
        (claims.iat, claims.nonce.as_deref(), claims.ath.as_deref()),
        (Some(START), Some("n-1"), None)
    );
    let all: Value = serde_json::from_str(inspection.claims_json().unwrap()).unwrap();
    assert_eq!(all, maker().claims);
}

#[test]
fn each_wrong_member_is_exactly_its_proof_error() {
    let off_curve = maker().header["jwk"]["y"].clone();
    let cases = [
        (maker().header("typ", json!("JWT")), ProofError::Typ),
        (maker().header("typ", json!("DPoP+JWT")), ProofError::Typ),
        (maker().without("typ"), ProofError::Typ),
        (maker().header("alg", json!("none")), ProofError::Alg),
        (maker().header("alg", json!("HS256")), ProofError::Alg),
        (maker().header("alg", json!("es256")), ProofError::Alg),
        (maker().without("alg"), ProofError::Alg),
        (maker().header("crit", json!(["b64"])), ProofError::Crit),
        (maker().header("crit", json!([])), ProofError::Crit),
        (maker().header("crit", json!(null)), ProofError::Crit),
        (maker().without("jwk"), ProofError::JwkMissing),
        (maker().header("jwk", json!(null)), ProofError::JwkMissing),
        (maker().jwk("d", json!("AA")), ProofError::JwkPrivate),
        (maker().jwk("k", json!(null)), ProofError::JwkPrivate),
        (maker().jwk("kty", json!("RSA")), ProofError::JwkInvalid),
        (maker().jwk("crv", json!("P-384")), ProofError::JwkInvalid),
        (maker().jwk("x", json!("AAAA")), ProofError::JwkInvalid),
        (maker().jwk("x", off_curve), ProofError::JwkInvalid),
        (maker().jwk("alg", json!("ES384")), ProofError::JwkInvalid),
        (maker().jwk("alg", json!(7)), ProofError::JwkInvalid),
        (maker().jwk("use", json!("enc")), ProofError::JwkInvalid),
        (maker().header("typ", json!(7)), ProofError::Typ),
        (maker().header("alg", json!(["ES256"])), ProofError::Alg),
        (maker().header("jwk", json!("key")), ProofError::JwkInvalid),
        (maker().jwk("x", json!(7)), ProofError::JwkInvalid),
        (maker().without("jti"), ProofError::JtiMissing),
        (maker().claim("jti", json!("")), ProofError::JtiMissing),
        (maker().claim("jti", json!(7)), ProofError::JtiMissing),
        (
            maker().claim("jti", json!("j".repeat(1025))),
            ProofError::JtiMissing,
        ),
        (maker().without("htm"), ProofError::HtmMissing),
        (maker().claim("htm", json!("")), ProofError::HtmMissing),
        (maker().claim("htm", json!("GET")), ProofError::HtmMismatch),
        (maker().claim("htm", json!("post")), ProofError::HtmMismatch),
        (maker().without("htu"), ProofError::HtuMissing),
        (
            maker().claim("htu", json!("/token")),
            ProofError::HtuMissing,
        ),
        (
            maker().claim("htu", json!("https://u:p@as.example/token")),
            ProofError::HtuMissing,
        ),
        (
            maker().claim("htu", json!("https://as.example/token/")),
            ProofError::HtuMismatch,
        ),
        (
            maker().claim("htu", json!("http://as.example/token")),
            ProofError::HtuMismatch,
        ),
        (
            maker().claim("htu", json!("https://as.example:8443/token")),
            ProofError::HtuMismatch,
        ),
        (
            maker().claim("htu", json!("https://as.example.evil/token")),
            ProofError::HtuMismatch,
        ),
        (maker().without("iat"), ProofError::IatMissing),
        (
            maker().claim("iat", json!("1700000000")),
            ProofError::IatMissing,
        ),
        (maker().claim("iat", json!(-1)), ProofError::IatMissing),
        (maker().claim("iat", json!(1e300)), ProofError::IatMissing),
        (maker().claim("iat", secs(-301)), ProofError::TooOld),
        (maker().claim("iat", json!(0)), ProofError::TooOld),
        (maker().claim("iat", secs(31)), ProofError::FromTheFuture),
        (maker().claim("exp", secs(-30)), ProofError::Expired),
        (maker().claim("exp", json!("never")), ProofError::Expired),
        (maker().claim("nbf", secs(31)), ProofError::NotYetValid),
        (
            maker().claim("nbf", json!("always")),
            ProofError::NotYetValid,
        ),
        (maker().without("nonce"), ProofError::NonceMissing),
        (
            maker().claim("nonce", json!("n-2")),
            ProofError::NonceMismatch,
        ),
        (maker().claim("nonce", json!(1)), ProofError::NonceMismatch),
        (maker().claim("ath", json!(ATH)), ProofError::AthUnexpected),
        (maker().claim("ath", json!(7)), ProofError::AthUnexpected),
    ];
    for (maker, problem) in cases {
        assert_eq!(
            problems(&verifier(), &maker.proof()),
            [problem],
            "{} {}",
            maker.header,
            maker.claims
        );
    }
}

#[test]
fn the_hash_of_the_access_token_is_checked_where_one_goes_along() {
    let with_token = ProofVerifier::default().access_token(&Secret::new(TOKEN));
    for (maker, expected) in [
        (Maker::new().claim("ath", json!(ATH)), &[][..]),
        (Maker::new(), &[ProofError::AthMissing]),
        (
            Maker::new().claim("ath", json!(ATH.to_lowercase())),
            &[ProofError::AthMismatch],
        ),
        (
            Maker::new().claim("ath", json!([ATH])),
            &[ProofError::AthMismatch],
        ),
    ] {
        assert_eq!(problems(&with_token, &maker.proof()), expected);
    }
    let unchecked = ProofVerifier::default();
    assert_eq!(
        problems(&unchecked, &Maker::new().claim("ath", json!("any")).proof()),
        []
    );
    assert_eq!(
        problems(&unchecked, &Maker::new().claim("ath", json!(7)).proof()),
        [ProofError::AthMismatch]
    );
}

#[test]
fn what_is_no_jws_of_two_objects_is_refused_for_its_form() {
    let good = maker();
    let (header, claims) = (good.header.to_string(), good.claims.to_string());
    let proof = good.proof();
    let in_a_row = |object: &Value, names: &[&str]| {
        Value::from_iter(
            names
                .iter()
                .map(|name| object.get(*name).cloned().unwrap_or_default()),
        )
        .to_string()
    };
    let header_row = in_a_row(&good.header, &["typ", "alg", "jwk", "crit"]);
    let claims_row = in_a_row(
        &good.claims,
        &["jti", "htm", "htu", "iat", "exp", "nbf", "nonce", "ath"],
    );
    let jwk_row = in_a_row(&good.header["jwk"], &["kty", "crv", "x", "y", "alg", "use"])
        .parse::<Value>()
        .unwrap();
    for (proof, problem) in [
        (String::new(), ProofError::NotJws),
        ("..".into(), ProofError::HeaderMalformed),
        ("a.b".into(), ProofError::NotJws),
        (format!("{proof}.x"), ProofError::NotJws),
        (format!("{proof}="), ProofError::NotJws),
        (format!(" {proof}"), ProofError::NotJws),
        (proof.replacen('.', "", 1), ProofError::NotJws),
        (format!("DPoP {proof}"), ProofError::NotJws),
        (good.sign(&header_row, &claims), ProofError::HeaderMalformed),
        (
            good.sign(&header.replacen('{', r#"{"typ":"dpop+jwt","#, 1), &claims),
            ProofError::HeaderMalformed,
        ),
        (good.sign("null", &claims), ProofError::HeaderMalformed),
        (
            good.clone().header("jwk", jwk_row).proof(),
            ProofError::JwkInvalid,
        ),
        (
            good.sign(&header, &claims_row),
            ProofError::PayloadMalformed,
        ),
        (
            good.sign(&header, &claims.replacen('{', r#"{"htm":"POST","#, 1)),
            ProofError::PayloadMalformed,
        ),
        (good.sign(&header, "null"), ProofError::PayloadMalformed),
        (good.sign(&header, ""), ProofError::PayloadMalformed),
        (
            good.sign(&header, &format!("{claims} x")),
            ProofError::PayloadMalformed,
        ),
    ] {
        let found = problems(&verifier(), &proof);
        assert_eq!(found.first(), Some(&problem), "{proof}");
        assert!(found.len() == 1 || proof == "..", "{found:?}");
    }
}

#[test]
fn a_proof_over_8_kib_is_not_even_read() {
    let padded = |length: usize| maker().claim("pad", json!("x".repeat(length))).proof();
    let overhead = padded(0).len();
    let mut fits = (8 * 1024 - overhead) * 3 / 4;
    while padded(fits).len() > 8 * 1024 {
        fits -= 1;
    }
    assert_eq!(problems(&verifier(), &padded(fits)), []);
    assert_eq!(
        problems(&verifier(), &padded(fits + 2)),
        [ProofError::TooLong]
    );
}

#[test]
fn a_signature_over_anything_else_is_refused() {
    let other = maker().claim("jti", json!("jti-2")).proof();
    let (signed, _) = other.rsplit_once('.').unwrap();
    let proof = maker().proof();
    let (_, signature) = proof.rsplit_once('.').unwrap();
    for forged in [
        format!("{signed}.{signature}"),
        format!("{signed}."),
        format!("{signed}.AAAA"),
    ] {
        assert_eq!(problems(&verifier(), &forged), [ProofError::Signature]);
    }
}

#[test]
fn several_proof_errors_are_all_returned_in_the_order_of_the_checks() {
    let proof = maker()
        .header("typ", json!("JWT"))
        .header("crit", json!(["exp"]))
        .without("jti")
        .claim("htm", json!("GET"))
        .claim("htu", json!("https://rs.example/"))
        .claim("iat", secs(-4000))
        .claim("exp", secs(-3940))
        .claim("nbf", secs(4000))
        .claim("nonce", json!("old"))
        .claim("ath", json!(ATH))
        .proof();
    let cut = format!("{}A", &proof[..proof.len() - 1]);
    let all = [
        ProofError::Typ,
        ProofError::Crit,
        ProofError::JtiMissing,
        ProofError::HtmMismatch,
        ProofError::HtuMismatch,
        ProofError::TooOld,
        ProofError::Expired,
        ProofError::NotYetValid,
        ProofError::NonceMismatch,
        ProofError::AthUnexpected,
    ];
    assert_eq!(problems(&verifier(), &proof), all);
    assert_ne!(cut, proof);
    let (signed, _) = proof.rsplit_once('.').unwrap();
    let unsigned = format!("{signed}.{}", "A".repeat(86));
    assert_eq!(
        problems(&verifier(), &unsigned),
        [&all[..], &[ProofError::Signature]].concat()
    );
}

#[test]
fn what_is_at_the_very_edge_of_its_window_passes() {
    for maker in [
        maker().claim("iat", secs(-300)),
        maker().claim("iat", secs(30)),
        maker().claim("iat", json!(1_699_999_999.5)),
        maker().claim("exp", secs(-29)),
        maker().claim("nbf", secs(30)),
        maker().claim("jti", json!("j".repeat(1024))),
        maker().claim("htu", json!("HTTPS://AS.example:443/a/../%74oken?q#f")),
        maker().claim("unknown", json!({ "any": [1] })),
        maker().header("kid", json!("k")),
        maker()
            .jwk("use", json!("sig"))
            .jwk("alg", json!("ES256"))
            .jwk("kid", json!("k")),
    ] {
        assert_eq!(
            problems(&verifier(), &maker.proof()),
            [],
            "{} {}",
            maker.header,
            maker.claims
        );
    }
    let strict = verifier()
        .max_age(Duration::from_secs(10))
        .leeway(Duration::ZERO);
    for (iat, expected) in [
        (-10, &[][..]),
        (-11, &[ProofError::TooOld]),
        (0, &[]),
        (1, &[ProofError::FromTheFuture]),
    ] {
        assert_eq!(
            problems(&strict, &maker().claim("iat", secs(iat)).proof()),
            expected,
            "{iat}"
        );
    }
}

#[test]
fn one_of_several_methods_and_urls_is_enough() {
    let either = ProofVerifier::default()
        .method("PUT")
        .method("POST")
        .url("https://x.example/")
        .unwrap();
    assert_eq!(
        problems(&either, &Maker::new().proof()),
        [ProofError::HtuMismatch]
    );
    assert_eq!(
        problems(
            &either.url("https://AS.example:443/token?x").unwrap(),
            &Maker::new().proof()
        ),
        []
    );
}

#[test]
fn the_nonce_before_the_newest_is_still_good() {
    let rotated = verifier().nonce(Nonce::new("n-2").unwrap());
    for (maker, expected) in [
        (maker(), &[][..]),
        (maker().claim("nonce", json!("n-2")), &[]),
        (
            maker().claim("nonce", json!("n-3")),
            &[ProofError::NonceMismatch],
        ),
        (
            maker().claim("nonce", json!(1)),
            &[ProofError::NonceMismatch],
        ),
        (Maker::new(), &[ProofError::NonceMissing]),
    ] {
        assert_eq!(
            problems(&rotated, &maker.proof()),
            expected,
            "{}",
            maker.claims
        );
    }
}

#[test]
fn a_verifier_for_a_url_that_no_proof_can_name_is_refused() {
    for url in ["", "/token", "ftp://as.example/", "https://u@as.example/"] {
        assert_eq!(
            ProofVerifier::default().url(url).unwrap_err().argument(),
            "url",
            "{url}"
        );
    }
}

#[test]
fn a_clock_that_stands_at_zero_or_at_the_end_of_time_is_no_danger() {
    for now in [UnixTime::from_secs(0), UnixTime::from_millis(u64::MAX)] {
        assert!(
            !verifier()
                .verify(&maker().claim("exp", secs(0)).proof(), now)
                .is_valid()
        );
    }
}

#[test]
fn each_proof_error_has_a_code_and_a_sentence_of_its_own() {
    let every = [
        ProofError::TooLong,
        ProofError::NotJws,
        ProofError::HeaderMalformed,
        ProofError::Typ,
        ProofError::Alg,
        ProofError::Crit,
        ProofError::JwkMissing,
        ProofError::JwkPrivate,
        ProofError::JwkInvalid,
        ProofError::Signature,
        ProofError::PayloadMalformed,
        ProofError::JtiMissing,
        ProofError::HtmMissing,
        ProofError::HtmMismatch,
        ProofError::HtuMissing,
        ProofError::HtuMismatch,
        ProofError::IatMissing,
        ProofError::TooOld,
        ProofError::FromTheFuture,
        ProofError::Expired,
        ProofError::NotYetValid,
        ProofError::NonceMissing,
        ProofError::NonceMismatch,
        ProofError::AthMissing,
        ProofError::AthMismatch,
        ProofError::AthUnexpected,
    ];
    let codes: std::collections::BTreeSet<_> = every.iter().map(|problem| problem.code()).collect();
    let sentences: std::collections::BTreeSet<_> = every.iter().map(ToString::to_string).collect();
    assert_eq!((codes.len(), sentences.len()), (every.len(), every.len()));
    assert!(codes.iter().all(|code| {
        code.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    }));
}

#[test]
fn a_request_has_exactly_one_proof() {
    let proof = maker().proof();
    for (proofs, problems) in [
        (&[][..], &[ProofError::ProofMissing][..]),
        (&[&proof], &[]),
        (&[&proof, &proof], &[ProofError::ProofTwice]),
    ] {
        let headers = proofs
            .iter()
            .map(|proof| (HeaderName::from_static("dpop"), proof.parse().unwrap()));
        let mut map = HeaderMap::new();
        headers.for_each(|(name, proof)| {
            map.append(name, proof);
        });
        assert_eq!(verifier().verify_headers(&map, START).problems(), problems);
    }
    let not_ascii = http::HeaderValue::from_bytes(b"\xff").unwrap();
    let not_ascii = HeaderMap::from_iter([(HeaderName::from_static("dpop"), not_ascii)]);
    assert_eq!(
        verifier().verify_headers(&not_ascii, START).problems(),
        [ProofError::NotJws]
    );
}

#[test]
fn the_key_must_be_the_one_that_the_token_is_bound_to() {
    let proof = maker().proof();
    let own = verifier()
        .verify(&proof, START)
        .key()
        .unwrap()
        .thumbprint()
        .to_owned();
    assert_eq!(problems(&verifier().bound_to(&own), &proof), []);
    assert_eq!(
        problems(
            &verifier().bound_to("0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"),
            &proof
        ),
        [ProofError::KeyMismatch]
    );
}

#[test]
fn a_verifier_may_leave_algorithms_out() {
    let proof = maker().proof();
    assert_eq!(
        problems(
            &verifier().algorithms(&[Algorithm::EdDsa, Algorithm::Es256]),
            &proof
        ),
        []
    );
    assert_eq!(
        problems(&verifier().algorithms(&[Algorithm::Ps256]), &proof),
        [ProofError::Alg]
    );
}

#[test]
fn members_that_stand_twice_are_refused_even_where_nobody_knows_them() {
    let good = maker();
    let (header, claims) = (good.header.to_string(), good.claims.to_string());
    let twice = |json: &str| json.replacen('{', r#"{"x":{"y":1,"y":1},"#, 1);
    assert_eq!(
        problems(&verifier(), &good.sign(&twice(&header), &claims)),
        [ProofError::HeaderMalformed]
    );
    assert_eq!(
        problems(&verifier(), &good.sign(&header, &twice(&claims))),
        [ProofError::PayloadMalformed]
    );
    let bomb = claims.replacen(
        '{',
        &format!(r#"{{"x":{}{},"#, "[".repeat(200), "]".repeat(200)),
        1,
    );
    assert_eq!(
        problems(&verifier(), &good.sign(&header, &bomb)),
        [ProofError::PayloadMalformed]
    );
}
