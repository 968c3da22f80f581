//! Project Wycheproof's attacks on signatures and keys. See `tests/vectors/README.md` for where they come from.

use serde_json::Value;

use super::{PublicJwk, SigningKey, decode, encode};

/// Each test of a file with its group.
fn tests(file: &str) -> Vec<(Value, Value)> {
    let file: Value = serde_json::from_str(file).unwrap();
    let mut tests = Vec::new();
    for group in file["testGroups"].as_array().unwrap() {
        let cases = group["tests"].as_array().unwrap();
        tests.extend(cases.iter().map(|case| (group.clone(), case.clone())));
    }
    assert_eq!(file["numberOfTests"], tests.len());
    tests
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn jwk(json: &Value) -> Option<PublicJwk> {
    PublicJwk::from_json(json.to_string().as_bytes()).ok()
}

/// The number of tests that hold and don't, after each did what it should.
fn raw_signatures(file: &str, key: impl Fn(&Value) -> PublicJwk) -> (usize, usize) {
    let mut counts = (0, 0);
    for (group, case) in tests(file) {
        let key = key(&group);
        if !group["publicKeyJwk"].is_null() {
            assert_eq!(jwk(&group["publicKeyJwk"]), Some(key.clone()), "{case}");
        }
        let holds = key.verify(&hex(&case["msg"]), &hex(&case["sig"]));
        // None of these files has an `acceptable` test, which might go either way.
        assert!(holds && case["result"] == "valid" || !holds && case["result"] == "invalid", "{case}");
        if holds { counts.0 += 1 } else { counts.1 += 1 }
    }
    counts
}

/// Some groups have no JWK, all have the point.
fn elliptic(curve: &str, group: &Value) -> PublicJwk {
    let point = hex(&group["publicKey"]["uncompressed"]);
    let (x, y) = point[1..].split_at(point.len() / 2);
    let json = serde_json::json!({ "kty": "EC", "crv": curve, "x": encode(x), "y": encode(y) });
    jwk(&json).unwrap()
}

#[test]
fn ecdsa_on_p_256_is_verified_as_wycheproof_wants() {
    let file = include_str!("../../tests/vectors/wycheproof/ecdsa_secp256r1_sha256_p1363_test.json");
    assert_eq!(raw_signatures(file, |group| elliptic("P-256", group)), (173, 89));
}

#[test]
fn ecdsa_on_p_384_is_verified_as_wycheproof_wants() {
    let file = include_str!("../../tests/vectors/wycheproof/ecdsa_secp384r1_sha384_p1363_test.json");
    assert_eq!(raw_signatures(file, |group| elliptic("P-384", group)), (193, 87));
}

#[test]
fn ed25519_is_verified_as_wycheproof_wants() {
    let file = include_str!("../../tests/vectors/wycheproof/ed25519_test.json");
    assert_eq!(raw_signatures(file, |group| jwk(&group["publicKeyJwk"]).unwrap()), (88, 63));
}

#[test]
fn pss_is_verified_as_wycheproof_wants() {
    let file = include_str!("../../tests/vectors/wycheproof/rsa_pss_2048_sha256_mgf1_32_test.json");
    assert_eq!(raw_signatures(file, |group| jwk(&group["publicKeyJwk"]).unwrap()), (63, 45));
}

/// RFC 7515 §5.2 with a given key, whose algorithm the header must name: how `Policy::inspect` does it,
/// which takes its key from the header.
fn holds(key: &PublicJwk, jws: &str) -> bool {
    let parts: Vec<&str> = jws.split('.').collect();
    let [header, payload, signature] = parts[..] else { return false };
    let Some(header_json) = decode(header) else { return false };
    let Ok(members) = serde_json::from_slice::<Value>(&header_json) else { return false };
    let (Some(_), Some(raw)) = (decode(payload), decode(signature)) else { return false };
    members["alg"] == key.algorithm().as_str() && key.verify(format!("{header}.{payload}").as_bytes(), &raw)
}

/// The group's one key, private where it has no public half.
fn key_of(group: &Value) -> &Value {
    let key = if group["public"].is_null() { &group["private"] } else { &group["public"] };
    if key["keys"].is_null() { key } else { &key["keys"][0] }
}

#[derive(Debug, Default, PartialEq)]
struct Outcomes {
    held: usize,
    refused: usize,
    /// Valid, but by an algorithm, or with a key, that isn't supported: the key is refused.
    unsupported: usize,
}

fn compact_signatures(file: &str, left_out: impl Fn(&Value, &Value) -> bool) -> Outcomes {
    let mut outcomes = Outcomes::default();
    for (group, case) in tests(file).into_iter().filter(|(group, case)| !left_out(group, case)) {
        let json = key_of(&group);
        let key = jwk(json);
        let valid = case["result"] == "valid";
        assert!(valid || case["result"] == "invalid");
        match (key, valid) {
            (Some(key), _) => {
                assert_eq!(holds(&key, case["jws"].as_str().unwrap()), valid, "{case}");
                if valid { outcomes.held += 1 } else { outcomes.refused += 1 }
            }
            (None, false) => outcomes.refused += 1,
            (None, true) => {
                let alg = json["alg"].as_str().unwrap();
                let ours = ["ES256", "ES384", "EdDSA", "RS256", "PS256"].contains(&alg);
                assert!(!ours, "{case}");
                outcomes.unsupported += 1;
            }
        }
        if json["kty"] == "oct" {
            assert!(SigningKey::from_jwk(json.to_string().as_bytes()).is_err(), "{case}");
        }
    }
    outcomes
}

/// All 401 but two: tests 346 and 350 hold a PS384 signature (RFC 7520 §4.2) to be valid under a key that says
/// `"alg":"PS256"`. The key says no (RFC 7517 §4.4), and so do we.
///
/// The 29 unsupported ones are HS256 (groups hs256, rfc7520, base64: 10), RS384 and RS512 (8), PS384 and
/// PS512 (8), ES512 (rfc7520: 2).
#[test]
fn compact_signatures_are_verified_as_wycheproof_wants() {
    let file = include_str!("../../tests/vectors/wycheproof/json_web_signature_test.json");
    let contradictory = |group: &Value, case: &Value| {
        let jws = case["jws"].as_str().unwrap();
        key_of(group)["alg"] == "PS256" && case["result"] == "valid" && jws.starts_with("eyJhbGciOiJQUzM4NCI")
    };
    let outcomes = compact_signatures(file, contradictory);
    assert_eq!(outcomes, Outcomes { held: 16, refused: 355, unsupported: 28 });
}

/// 21 of 26. Left out are four tests of key sets (mixed, of two keys, with one `kid` twice), because nothing here
/// takes a key set, and test 7, a modulus with the weakness of ROCA (CVE-2017-15361): a proof's key is its
/// maker's own, and a weak one puts no other at risk; ring doesn't look for it either.
#[test]
fn keys_are_refused_as_wycheproof_wants() {
    let file = include_str!("../../tests/vectors/wycheproof/json_web_key_test.json");
    let is_set = |group: &Value| group["private"]["keys"].as_array().unwrap().len() > 1;
    let is_roca = |group: &Value| group["comment"] == "jws_rsa_roca_key";
    let outcomes = compact_signatures(file, |group, _| is_set(group) || is_roca(group));
    assert_eq!(outcomes, Outcomes { held: 1, refused: 17, unsupported: 3 });
    let left_out = tests(file).iter().filter(|(group, _)| is_set(group) || is_roca(group)).count();
    assert_eq!(left_out, 5);
}
