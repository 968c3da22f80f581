//! Makes the proof of a resource request. Parts that a library lets its caller prepare once are
//! prepared: keys, headers, the hash of the access token. Parts that it leaves to its caller are
//! done the way keybound does them.

use std::sync::Arc;
use std::time::SystemTime;

use atproto_identity::key::{KeyType, generate_key};
use atproto_oauth::dpop::request_dpop;
use dpop::proof::codec::DPoPProofJwtCodec;
use dpop::proof::essence::DPoPProofEssence;
use dpop::proof::header::DPoPProofHeader;
use dpop::proof::payload::DPoPProofClaims;
use huskarl::core::dpop::{ResourceDPoP, ResourceServerDPoP as _};
use huskarl::core::secrets::SecretString;
use huskarl_crypto_native::asymmetric::signer::{AsymmetricAlgorithm, PrivateKey, pkcs8_der};
use jacquard_oauth::dpop::build_dpop_proof;
use josekit::jwk::Jwk as JosekitJwk;
use josekit::jws::{ES256, EdDSA, JwsHeader, JwsSigner};
use josekit::jwt::{JwtPayload, encode_with_signer};
use jsonwebtoken::{EncodingKey, Header, encode};
use jwt_simple::prelude::*;
use keybound_benches::{Case, Outcome, RingKey, again, now};
use keybound_core::dpop::{Proof, ProofError};
use keybound_core::jose::Algorithm;
use picky::jose::jwk::Jwk as PickyJwk;
use picky::jose::jws::{JwsAlg, JwsHeader as PickyHeader};
use serde::Serialize;
use serde_json::{from_str, from_value, json};
use turbomcp_dpop::{DpopKeyManager, DpopKeyPair, DpopProofGenerator};

use crate::asked::Asked;
use crate::now_or_never;
use crate::provider::Provider;
use crate::ring_signer::RingSigner;

pub(crate) fn cases(asked: &Asked) -> Outcome<Vec<Case<'_>>> {
    let ours = again(|| asked.subject.call());
    let mut cases = vec![
        Case::new("proof", format!("{}, keybound", asked.algorithm), ours),
        beside_ours(
            asked,
            "keybound, Proof::build",
            || Ok(asked.subject.proof()?),
            Proof::as_str,
            &[],
        )?,
        josekit(asked)?,
        jsonwebtoken(asked, Provider::AwsLc)?,
        jsonwebtoken(asked, Provider::RustCrypto)?,
        jwt_simple(asked)?,
        dpop(asked)?,
    ];
    cases.extend(huskarl(asked)?);
    if asked.algorithm == Algorithm::Es256 {
        cases.extend([turbomcp(asked)?, jacquard(asked)?, atproto(asked)?]);
    }
    Ok(cases)
}

/// Returns a case next to keybound's, after checking that both proofs are equivalent: the errors of
/// the peer's proof must be exactly the known ones.
fn beside_ours<'a, T>(
    asked: &'a Asked,
    name: &str,
    make: impl Fn() -> Outcome<T> + 'a,
    read: impl Fn(&T) -> &str,
    wrong: &[ProofError],
) -> Outcome<Case<'a>> {
    let inspection = asked.subject.verifier()?.verify(read(&make()?), now());
    if inspection.problems() != wrong {
        return Err(format!("the proof by {name}: {:?}", inspection.problems()).into());
    }
    let ours = again(|| asked.subject.call());
    Ok(Case::new("proof", format!("{}, {name}", asked.algorithm), again(make)).beside(ours))
}

fn josekit(asked: &Asked) -> Outcome<Case<'_>> {
    let signer: Box<dyn JwsSigner> = match asked.algorithm {
        Algorithm::Es256 => Box::new(ES256.signer_from_der(asked.pkcs8().expose())?),
        _ => Box::new(EdDSA.signer_from_der(asked.pkcs8().expose())?),
    };
    let mut header = JwsHeader::new();
    header.set_token_type("dpop+jwt");
    header.set_jwk(JosekitJwk::from_bytes(asked.jwk())?);
    let make = move || {
        let mut payload = JwtPayload::new();
        payload.set_jwt_id(asked.jti());
        payload.set_issued_at(&SystemTime::now());
        payload.set_claim("htm", Some(asked.method().into()))?;
        payload.set_claim("htu", Some(asked.url.as_str().into()))?;
        payload.set_claim("ath", Some(asked.ath.as_str().into()))?;
        payload.set_claim("nonce", Some(asked.nonce().into()))?;
        Ok(encode_with_signer(&payload, &header, &*signer)?)
    };
    beside_ours(asked, "josekit", make, String::as_str, &[])
}

fn jsonwebtoken(asked: &Asked, provider: Provider) -> Outcome<Case<'_>> {
    let (algorithm, key) = match asked.algorithm {
        Algorithm::Es256 => (
            jsonwebtoken::Algorithm::ES256,
            EncodingKey::from_ec_der(asked.pkcs8().expose()),
        ),
        _ => (
            jsonwebtoken::Algorithm::EdDSA,
            EncodingKey::from_ed_der(asked.pkcs8().expose()),
        ),
    };
    let mut header = Header::new(algorithm);
    header.typ = Some("dpop+jwt".to_owned());
    header.jwk = Some(from_str(asked.jwk())?);
    let make = move || {
        provider.choose();
        Ok(encode(&header, &asked.claims(), &key)?)
    };
    beside_ours(
        asked,
        &format!("jsonwebtoken, {}", provider.name()),
        make,
        String::as_str,
        &[],
    )
}

/// Measures huskarl with its own signer, and with a signer around ring.
fn huskarl(asked: &Asked) -> Outcome<[Case<'_>; 2]> {
    let (algorithm, alg) = match asked.algorithm {
        Algorithm::Es256 => (AsymmetricAlgorithm::Es256, "ES256"),
        _ => (AsymmetricAlgorithm::EdDsa, "EdDSA"),
    };
    let native = PrivateKey::from_jwk(pkcs8_der(asked.pkcs8().expose(), algorithm, None)?)?;
    let ring = RingSigner::new(
        RingKey::new(&asked.subject.key)?,
        alg,
        native.as_private_jwk().public_jwk(),
    );
    let case = |name, dpop: ResourceDPoP| {
        dpop.update_nonce(&asked.subject.uri, asked.nonce().to_owned());
        let access_token = SecretString::from(asked.access_token());
        let jkt = asked.subject.key.public().thumbprint();
        let make = move || {
            let proof = dpop.proof(
                &asked.subject.method,
                &asked.subject.uri,
                &access_token,
                jkt,
            );
            now_or_never(proof)??.ok_or_else(|| "no proof".into())
        };
        beside_ours(asked, name, make, SecretString::expose_secret, &[])
    };
    Ok([
        case("huskarl", ResourceDPoP::builder().signer(native).build())?,
        case(
            "huskarl, our ring signer",
            ResourceDPoP::builder().signer(ring).build(),
        )?,
    ])
}

fn jwt_simple(asked: &Asked) -> Outcome<Case<'_>> {
    #[derive(Serialize)]
    struct Custom<'a> {
        htm: &'a str,
        htu: &'a str,
        ath: &'a str,
    }
    let metadata = KeyMetadata::default().with_public_key(asked.jwk());
    let options = HeaderOptions {
        signature_type: Some("dpop+jwt".to_owned()),
        ..HeaderOptions::default()
    };
    let claims = move || {
        let custom = Custom {
            htm: asked.method(),
            htu: &asked.url,
            ath: &asked.ath,
        };
        let mut claims = Claims::with_custom_claims(custom, Duration::from_mins(1));
        (claims.expires_at, claims.invalid_before) = (None, None);
        claims.with_jwt_id(asked.jti()).with_nonce(asked.nonce())
    };
    // Its jwk is a string that contains JSON. The library offers no other way.
    let wrong = [ProofError::JwkInvalid];
    if asked.algorithm == Algorithm::Es256 {
        let mut key = ES256KeyPair::from_der(asked.pkcs8().expose())?;
        key.attach_metadata(metadata)?;
        let make = move || Ok(key.sign_with_options(claims(), &options)?);
        beside_ours(asked, "jwt-simple", make, String::as_str, &wrong)
    } else {
        let mut key = Ed25519KeyPair::from_der(asked.pkcs8().expose())?;
        key.attach_metadata(metadata)?;
        let make = move || Ok(key.sign_with_options(claims(), &options)?);
        beside_ours(asked, "jwt-simple", make, String::as_str, &wrong)
    }
}

fn dpop(asked: &Asked) -> Outcome<Case<'_>> {
    let key = picky::key::PrivateKey::from_pkcs8(asked.pkcs8().expose())?;
    let algorithm = if asked.algorithm == Algorithm::Es256 {
        JwsAlg::ES256
    } else {
        JwsAlg::EdDSA
    };
    let mut header = PickyHeader::new(algorithm);
    header.typ = Some("dpop+jwt".to_owned());
    header.jwk = Some(PickyJwk::from_json(asked.jwk())?);
    let header = DPoPProofHeader::try_from(header).map_err(|error| error.error)?;
    // Some claims can be created only by deserializing them.
    let claims: DPoPProofClaims = from_value(json!(asked.claims()))?;
    let make = move || {
        let claims = DPoPProofClaims {
            jti: asked.jti(),
            iat: now().as_secs().cast_signed(),
            ..claims.clone()
        };
        Ok(DPoPProofJwtCodec::encode(
            DPoPProofEssence {
                header: header.clone(),
                claims,
            },
            &key,
        )?)
    };
    beside_ours(asked, "dpop", make, String::as_str, &[])
}

fn turbomcp(asked: &Asked) -> Outcome<Case<'_>> {
    let generator = DpopProofGenerator::new(Arc::new(now_or_never(DpopKeyManager::new_memory())??));
    let key = DpopKeyPair::generate_p256()?;
    let make = move || {
        // The library's default provider.
        Provider::AwsLc.choose();
        let (access_token, nonce) = (Some(asked.access_token()), Some(asked.nonce()));
        let proof = generator.generate_proof_with_params(
            asked.method(),
            &asked.url,
            access_token,
            nonce,
            Some(&key),
        );
        Ok(now_or_never(proof)??.to_jwt_string())
    };
    beside_ours(asked, "turbomcp-dpop", make, String::as_str, &[])
}

fn jacquard(asked: &Asked) -> Outcome<Case<'_>> {
    let key = from_str(asked.subject.key.to_jwk().expose())?;
    let make = move || {
        Ok(build_dpop_proof(
            &key,
            asked.method(),
            &asked.url,
            Some(asked.nonce()),
            Some(&asked.ath),
        )?)
    };
    beside_ours(asked, "jacquard-oauth", make, |proof| proof.as_str(), &[])
}

fn atproto(asked: &Asked) -> Outcome<Case<'_>> {
    let key = generate_key(KeyType::P256Private)?;
    let make = move || Ok(request_dpop(&key, asked.method(), &asked.url, asked.access_token())?.0);
    // It learns a nonce only from a rejection, and then signs a second time.
    beside_ours(
        asked,
        "atproto-oauth",
        make,
        String::as_str,
        &[ProofError::NonceMissing],
    )
}
