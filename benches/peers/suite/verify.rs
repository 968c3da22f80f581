//! Verifies a proof with all checks of a resource server, except replay detection.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use atproto_oauth::dpop::{DpopValidationConfig, validate_dpop_jwt};
use dpop_verifier::{DpopError, DpopVerifier, NonceMode, ReplayContext, ReplayStore};
use huskarl_crypto_native::NativeVerifierPlatform;
use huskarl_resource_server::validator::dpop_proof::DPoPProofValidator;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use keybound_benches::{Case, Outcome, Work, again, now};
use keybound_core::jose::Algorithm;

use crate::asked::{Asked, Claims};
use crate::now_or_never;
use crate::provider::Provider;

/// Longer than the whole benchmark takes.
const MAX_AGE: Duration = Duration::from_secs(600);

pub(crate) fn cases(asked: &Asked) -> Outcome<Vec<Case<'_>>> {
    let proof: Arc<str> = asked.subject.proof()?.as_str().into();
    let case = |name: &str, work| Case::new("verify", format!("{}, {name}", asked.algorithm), work);
    let mut peers = vec![
        (
            "jsonwebtoken, aws_lc_rs",
            jsonwebtoken(asked, &proof, Provider::AwsLc),
        ),
        (
            "jsonwebtoken, rust_crypto",
            jsonwebtoken(asked, &proof, Provider::RustCrypto),
        ),
        ("huskarl", huskarl(asked, &proof)),
        ("dpop-verifier", dpop_verifier(asked, &proof)),
    ];
    if asked.algorithm == Algorithm::Es256 {
        peers.push(("atproto-oauth", atproto(asked, &proof)));
    }
    let mut cases = vec![case("keybound", ours(asked, &proof)?)];
    for (name, work) in peers {
        // A rejected proof would be less work, so the first run must succeed.
        work(1)?;
        cases.push(case(name, work).beside(ours(asked, &proof)?));
    }
    Ok(cases)
}

fn ours<'a>(asked: &Asked, proof: &Arc<str>) -> Outcome<Work<'a>> {
    let (verifier, proof) = (asked.subject.verifier()?.max_age(MAX_AGE), Arc::clone(proof));
    Ok(again(move || {
        let inspection = verifier.verify(&proof, now());
        if inspection.is_valid() {
            Ok(inspection)
        } else {
            Err("the proof must pass".into())
        }
    }))
}

fn jsonwebtoken<'a>(asked: &'a Asked, proof: &Arc<str>, provider: Provider) -> Work<'a> {
    let mut validation = Validation::new(match asked.algorithm {
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        _ => jsonwebtoken::Algorithm::EdDSA,
    });
    validation.validate_exp = false;
    validation.required_spec_claims.clear();
    let proof = Arc::clone(proof);
    again(move || {
        provider.choose();
        let header = decode_header(&*proof)?;
        if header.typ.as_deref() != Some("dpop+jwt") {
            return Err("this is no proof".into());
        }
        let key = DecodingKey::from_jwk(&header.jwk.ok_or("the proof has no key")?)?;
        let Claims {
            htm,
            htu,
            iat,
            ath,
            nonce,
            ..
        } = decode::<Claims<String>>(&*proof, &key, &validation)?.claims;
        if now().as_secs().abs_diff(iat) > MAX_AGE.as_secs() {
            return Err("the proof is too old".into());
        }
        matching(asked, [&htm, &htu, &ath, &nonce])
    })
}

fn huskarl<'a>(asked: &'a Asked, proof: &Arc<str>) -> Work<'a> {
    let validator = DPoPProofValidator::builder()
        .jws_verifier_platform(Arc::new(NativeVerifierPlatform))
        .max_proof_age(MAX_AGE)
        .build();
    let proof = Arc::clone(proof);
    again(move || {
        let valid = now_or_never(validator.validate(&proof))??;
        let claims = [&valid.htm, &valid.htu, &valid.ath, &valid.nonce];
        matching(
            asked,
            claims.map(|claim| claim.as_deref().unwrap_or_default()),
        )
    })
}

fn dpop_verifier<'a>(asked: &'a Asked, proof: &Arc<str>) -> Work<'a> {
    struct NeverSeen;

    #[async_trait]
    impl ReplayStore for NeverSeen {
        async fn insert_once(
            &mut self,
            _: [u8; 32],
            _: ReplayContext<'_>,
        ) -> Result<bool, DpopError> {
            Ok(true)
        }
    }

    let verifier = DpopVerifier::new()
        .with_max_age_seconds(MAX_AGE.as_secs().cast_signed())
        .with_nonce_mode(NonceMode::RequireEqual {
            expected_nonce: asked.nonce().to_owned(),
        });
    let proof = Arc::clone(proof);
    again(move || {
        let access_token = Some(asked.access_token());
        Ok(now_or_never(verifier.verify(
            &mut NeverSeen,
            &proof,
            &asked.url,
            asked.method(),
            access_token,
        ))??)
    })
}

fn atproto<'a>(asked: &'a Asked, proof: &Arc<str>) -> Work<'a> {
    let mut config = DpopValidationConfig::for_resource_request(
        asked.method(),
        &asked.url,
        asked.access_token(),
    );
    config.expected_nonce_values = vec![asked.nonce().to_owned()];
    config.max_age_seconds = MAX_AGE.as_secs();
    let proof = Arc::clone(proof);
    again(move || Ok(validate_dpop_jwt(&proof, &config)?))
}

/// The checks that these libraries leave to the server.
fn matching(asked: &Asked, [htm, htu, ath, nonce]: [&str; 4]) -> Outcome {
    if (htm, htu, ath, nonce) == (asked.method(), &asked.url, &asked.ath, asked.nonce()) {
        Ok(())
    } else {
        Err("the proof is of another request".into())
    }
}
