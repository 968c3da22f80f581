//! Every algorithm against RustCrypto, in both directions, and keys that are elsewhere.

use http::{Method, Uri};
use keybound_core::dpop::{Proof, ProofError, ProofVerifier};
use keybound_core::driver::{RequestContext, Resumable, Signing};
use keybound_core::jose::{Algorithm, PublicJwk, Signature, SigningKey};
use keybound_core::{Error, InvalidInput, SignRequest};
use serde_json::{Value, json};

use crate::maker::{HTU, METHOD};
use crate::rustcrypto::{
    RSA_JWK, Theirs, claims, decode, encode, ours, parse, thumbprint, verifies,
};
use crate::world::START;

const BASE64URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn unsigned(key: &PublicJwk) -> Signing<Proof> {
    let uri = Uri::from_static(HTU);
    Proof::build(key, &Method::POST, &uri)
        .unwrap()
        .prepare(RequestContext::new(START, [3; 16]))
}

fn proof(key: &SigningKey) -> String {
    unsigned(key.public())
        .finish(|request| key.sign(request))
        .unwrap()
        .as_str()
        .to_owned()
}

fn problems(proof: &str) -> Vec<ProofError> {
    let verifier = ProofVerifier::default()
        .method(METHOD)
        .url(HTU)
        .unwrap()
        .no_access_token();
    verifier.verify(proof, START).problems().to_vec()
}

fn cut(proof: &str) -> (&str, &str, &str) {
    let (input, signature) = proof.rsplit_once('.').unwrap();
    let (header, payload) = input.split_once('.').unwrap();
    (header, payload, signature)
}

/// The same proof with another header, its signature as it was.
fn with_header(proof: &str, change: impl FnOnce(&mut Value)) -> String {
    let (header, payload, signature) = cut(proof);
    let mut header = parse(header);
    change(&mut header);
    format!("{}.{payload}.{signature}", encode(header.to_string()))
}

#[test]
fn each_algorithm_has_its_name() {
    let names: Vec<&str> = Algorithm::ALL
        .iter()
        .map(|algorithm| algorithm.as_str())
        .collect();
    assert_eq!(
        names,
        ["ES256", "EdDSA", "Ed25519", "ES384", "PS256", "RS256"]
    );
    for algorithm in Algorithm::ALL {
        assert_eq!(
            Algorithm::from_alg(&algorithm.to_string()),
            Some(*algorithm)
        );
    }
    for other in [
        "", "none", "es256", "ES256K", "ES512", "HS256", "PS384", "RS512", "Ed448", "ed25519",
    ] {
        assert_eq!(Algorithm::from_alg(other), None, "{other}");
    }
}

#[test]
fn rustcrypto_verifies_our_proofs_by_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let key = ours(*algorithm);
        let proof = proof(&key);
        let (header, payload, signature) = cut(&proof);
        let input = format!("{header}.{payload}");
        let header = parse(header);
        assert_eq!(
            header.as_object().unwrap().len(),
            3,
            "typ, alg and jwk: {header}"
        );
        assert_eq!(
            (&header["typ"], &header["alg"]),
            (&json!("dpop+jwt"), &json!(algorithm.as_str()))
        );
        assert_eq!(
            header["jwk"],
            key.public().to_json().parse::<Value>().unwrap()
        );
        assert_eq!(thumbprint(&header["jwk"]), key.public().thumbprint());
        let raw = decode(signature);
        assert!(
            verifies(algorithm.as_str(), &header["jwk"], input.as_bytes(), &raw),
            "{algorithm}"
        );
        assert!(
            !verifies(algorithm.as_str(), &header["jwk"], b"another", &raw),
            "{algorithm}"
        );
    }
}

#[test]
fn we_accept_the_proofs_of_rustcrypto_by_every_algorithm() {
    for algorithm in Algorithm::ALL {
        let theirs = Theirs::new(*algorithm);
        let inspection = ProofVerifier::default().verify(&theirs.proof(), START);
        assert_eq!(inspection.problems(), [], "{algorithm}");
        assert_eq!(inspection.alg(), Some(algorithm.as_str()));
        let verified = inspection.verified().unwrap();
        assert_eq!(verified.jti(), "jti-1");
        let key = verified.key();
        assert_eq!(key.algorithm(), *algorithm);
        assert_eq!(key.thumbprint(), thumbprint(&theirs.jwk()));
        let (proof, other) = (
            theirs.proof(),
            theirs.jws(&theirs.header(), &json!({ "jti": "another" })),
        );
        let ((header, payload, _), (_, _, signature)) = (cut(&proof), cut(&other));
        let forged = format!("{header}.{payload}.{signature}");
        assert_eq!(problems(&forged), [ProofError::Signature], "{algorithm}");
    }
}

#[test]
fn signatures_by_ed25519_and_rs256_are_the_very_same_on_both_sides() {
    let seed = json!({ "d": encode([9; 32]), "alg": "EdDSA" });
    let mut jwk = Theirs::new(Algorithm::EdDsa).jwk();
    jwk.as_object_mut()
        .unwrap()
        .extend(seed.as_object().unwrap().clone());
    let ed25519 = SigningKey::from_jwk(jwk.to_string().as_bytes()).unwrap();
    for (key, algorithm) in [
        (ed25519, Algorithm::EdDsa),
        (ours(Algorithm::Rs256), Algorithm::Rs256),
    ] {
        let proof = proof(&key);
        let (input, signature) = proof.rsplit_once('.').unwrap();
        assert_eq!(
            encode(Theirs::new(algorithm).sign(input.as_bytes())),
            signature,
            "{algorithm}"
        );
    }
}

/// RFC 7517 §4.4
#[test]
fn a_key_that_names_its_algorithm_proves_by_no_other() {
    for (by, named, is_good) in [
        (Algorithm::Rs256, "RS256", true),
        (Algorithm::Rs256, "PS256", false),
        (Algorithm::Ps256, "RS256", false),
        // One algorithm by two names.
        (Algorithm::Ed25519, "EdDSA", true),
    ] {
        let theirs = Theirs::new(by);
        let mut header = theirs.header();
        header["jwk"]["alg"] = json!(named);
        let proof = theirs.jws(&header, &claims());
        let problems = ProofVerifier::default()
            .verify(&proof, START)
            .problems()
            .to_vec();
        let expected = if is_good {
            vec![]
        } else {
            vec![ProofError::JwkInvalid]
        };
        assert_eq!(problems, expected, "{by} with a key for {named}");
    }
}

/// .NET writes each number in the length that it can have.
#[test]
fn the_numbers_of_an_rsa_key_may_have_zeros_in_front() {
    let jwk: Value = serde_json::from_str(RSA_JWK).unwrap();
    for member in ["d", "p", "q", "dp", "dq", "qi"] {
        let mut longer = jwk.clone();
        longer[member] = json!(encode(
            [&[0][..], &decode(jwk[member].as_str().unwrap())].concat()
        ));
        let key = SigningKey::from_jwk(longer.to_string().as_bytes()).unwrap();
        assert_eq!(key.public().thumbprint(), thumbprint(&jwk), "{member}");
    }
}

#[test]
fn a_proof_by_any_algorithm_with_any_one_character_changed_or_left_out_is_refused() {
    for algorithm in Algorithm::ALL {
        let proof = proof(&ours(*algorithm));
        assert_eq!(problems(&proof), []);
        for at in 0..proof.len() {
            let (before, after) = (&proof[..at], &proof[at + 1..]);
            // The lowest bit, and the highest: in a part's last character the lowest stands for nothing.
            let others = match BASE64URL
                .iter()
                .position(|letter| *letter == proof.as_bytes()[at])
            {
                Some(value) => vec![BASE64URL[value ^ 1], BASE64URL[value ^ 32]],
                None => vec![b'A'],
            };
            for other in others {
                let changed = format!("{before}{}{after}", char::from(other));
                assert_ne!(problems(&changed), [], "{algorithm}, {at}: {changed}");
            }
            assert_ne!(
                problems(&format!("{before}{after}")),
                [],
                "{algorithm}, {at} left out"
            );
        }
        for extra in [".", "=", " ", "\n"] {
            assert_eq!(
                problems(&format!("{proof}{extra}")),
                [ProofError::NotJws],
                "{algorithm}, {extra:?}"
            );
        }
        assert_ne!(problems(&format!("{proof}A")), [], "{algorithm}, one more");
    }
}

#[test]
fn a_proof_that_names_another_algorithm_than_it_was_signed_by_is_refused() {
    for signed in Algorithm::ALL {
        let theirs = Theirs::new(*signed);
        let proof = theirs.proof();
        let same_key = |named: Algorithm| {
            PublicJwk::from_json(theirs.jwk().to_string().as_bytes())
                .unwrap()
                .with_algorithm(named)
                .is_ok()
        };
        for named in Algorithm::ALL.iter().filter(|named| *named != signed) {
            let expected = if same_key(*named) {
                ProofError::Signature
            } else {
                ProofError::JwkInvalid
            };
            // Renamed by somebody else, and by whoever has the key.
            let renamed = with_header(&proof, |header| header["alg"] = json!(named.as_str()));
            assert_eq!(problems(&renamed), [expected], "{signed} as {named}");
            let header = parse(cut(&renamed).0);
            let names = [*signed, *named];
            let one_algorithm =
                names.contains(&Algorithm::EdDsa) && names.contains(&Algorithm::Ed25519);
            let expected = if one_algorithm {
                vec![]
            } else {
                vec![expected]
            };
            assert_eq!(
                problems(&theirs.jws(&header, &claims())),
                expected,
                "{signed} as {named}"
            );
        }
        for none in ["none", "HS256", "ES512", ""] {
            let renamed = with_header(&proof, |header| header["alg"] = json!(none));
            assert_eq!(problems(&renamed), [ProofError::Alg], "{signed} as {none}");
        }
    }
}

/// A loop as a driver with a remote key has it.
fn drive<T: Resumable>(
    mut signing: Signing<T>,
    mut remote: impl FnMut(&SignRequest) -> Result<Signature, InvalidInput>,
) -> Result<T, Error> {
    loop {
        match signing {
            Signing::Ready(ready) => return Ok(ready),
            Signing::Needs(unsigned) => {
                let signature = remote(unsigned.request())?;
                signing = unsigned.resume(signature)?;
            }
        }
    }
}

fn public(theirs: &Theirs) -> PublicJwk {
    PublicJwk::from_json(theirs.jwk().to_string().as_bytes())
        .and_then(|key| key.with_algorithm(theirs.algorithm))
        .unwrap()
}

#[test]
fn a_key_that_is_elsewhere_signs_in_its_own_encoding() {
    type Encode = fn(&Theirs, &[u8]) -> Result<Signature, InvalidInput>;
    let raw: Encode =
        |theirs, message| Signature::from_jose(theirs.algorithm, &theirs.sign(message));
    let der: Encode =
        |theirs, message| Signature::from_der(theirs.algorithm, &theirs.sign_der(message));
    for (algorithm, encodings) in [
        (Algorithm::Es256, &[raw, der][..]),
        (Algorithm::Es384, &[raw, der]),
        (Algorithm::EdDsa, &[raw]),
        (Algorithm::Ed25519, &[raw]),
        (Algorithm::Rs256, &[raw]),
        (Algorithm::Ps256, &[raw]),
    ] {
        let theirs = Theirs::new(algorithm);
        for encoding in encodings {
            let proof = drive(unsigned(&public(&theirs)), |request| {
                encoding(&theirs, request.message())
            });
            assert_eq!(problems(proof.unwrap().as_str()), [], "{algorithm}");
        }
    }
}

#[test]
fn der_taken_for_raw_or_raw_for_der_is_invalid_input() {
    for algorithm in [Algorithm::Es256, Algorithm::Es384] {
        let theirs = Theirs::new(algorithm);
        let (raw, der) = (theirs.sign(b"message"), theirs.sign_der(b"message"));
        assert_eq!(
            Signature::from_jose(algorithm, &der)
                .unwrap_err()
                .argument(),
            "signature"
        );
        assert_eq!(
            Signature::from_der(algorithm, &raw).unwrap_err().argument(),
            "signature"
        );
    }
    for algorithm in [
        Algorithm::EdDsa,
        Algorithm::Ed25519,
        Algorithm::Rs256,
        Algorithm::Ps256,
    ] {
        let der = Theirs::new(Algorithm::Es256).sign_der(b"message");
        assert_eq!(
            Signature::from_der(algorithm, &der).unwrap_err().argument(),
            "signature"
        );
    }
}

#[test]
fn a_signature_of_the_wrong_length_is_invalid_input() {
    for algorithm in Algorithm::ALL {
        let sound = Theirs::new(*algorithm).sign(b"message");
        assert!(Signature::from_jose(*algorithm, &sound).is_ok());
        for length in [0, 1, 32, 63, 65, 95, 97, 128, 255, 1025, 4096] {
            let invalid = Signature::from_jose(*algorithm, &vec![0; length]).unwrap_err();
            assert_eq!(invalid.argument(), "signature", "{algorithm} {length}");
        }
    }
    // As long as some RSA key's, though not this one's.
    for algorithm in [Algorithm::Rs256, Algorithm::Ps256] {
        for length in [257, 384, 512, 1024] {
            let signature = Signature::from_jose(algorithm, &vec![0; length]);
            let made = drive(unsigned(ours(algorithm).public()), |_| signature.clone());
            assert!(
                matches!(made, Err(Error::InvalidInput(invalid)) if invalid.argument() == "signature")
            );
        }
    }
}

#[test]
fn a_signature_of_another_algorithm_than_the_requests_is_invalid_input() {
    for asked in Algorithm::ALL {
        for brought in Algorithm::ALL {
            let raw = Theirs::new(*brought).sign(b"message");
            let signature = Signature::from_jose(*brought, &raw);
            let made = drive(unsigned(&public(&Theirs::new(*asked))), |_| {
                signature.clone()
            });
            let one_algorithm = [asked, brought]
                .iter()
                .all(|either| matches!(either, Algorithm::EdDsa | Algorithm::Ed25519));
            if asked == brought || one_algorithm {
                // Over another message; whether it holds is not looked at here.
                assert_eq!(problems(made.unwrap().as_str()), [ProofError::Signature]);
            } else {
                let invalid = made.unwrap_err();
                assert!(
                    matches!(&invalid, Error::InvalidInput(invalid) if invalid.argument() == "signature"),
                    "{brought} for {asked}: {invalid}"
                );
            }
        }
    }
}

#[test]
fn a_key_rotated_between_request_and_signature_spoils_the_proof() {
    for algorithm in [
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::EdDsa,
        Algorithm::Ed25519,
    ] {
        let (old, new) = (ours(algorithm), ours(algorithm));
        // A key in memory notices, because it is told which key is asked for.
        let by_new = unsigned(old.public()).finish(|request| new.sign(request));
        assert!(matches!(by_new, Err(Error::InvalidInput(invalid)) if invalid.argument() == "key"));
        // A remote one that doesn't look makes a proof that names the old key and doesn't hold.
        let theirs = Theirs::new(algorithm);
        let careless = drive(unsigned(old.public()), |request| {
            Signature::from_jose(algorithm, &theirs.sign(request.message()))
        });
        let inspection = ProofVerifier::default().verify(careless.unwrap().as_str(), START);
        assert_eq!(inspection.problems(), [ProofError::Signature]);
        assert_eq!(inspection.key(), Some(old.public()));
    }
}

#[test]
fn a_rotating_signer_picks_the_key_that_the_request_names() {
    let ring = [
        ours(Algorithm::Es256),
        ours(Algorithm::Es384),
        ours(Algorithm::EdDsa),
        ours(Algorithm::Ps256),
    ];
    for asked in &ring {
        let made = unsigned(asked.public()).finish(|request| {
            let named = request.key().thumbprint();
            let key = ring
                .iter()
                .find(|key| key.public().thumbprint() == named)
                .unwrap();
            assert_eq!(request.key(), key.public());
            key.sign(request)
        });
        assert_eq!(problems(made.unwrap().as_str()), []);
    }
}
