//! Judging a proof by everything that a resource server knows, against a bare verification and the reading of the
//! same JSON.

use keybound_benches::{Case, Limit, Outcome, RingKey, Subject, again, now};
use keybound_core::dpop::Policy;
use keybound_core::jose::Algorithm;
use serde::Deserialize;

pub(crate) fn case(subject: &Subject) -> Outcome<Case<'_>> {
    let policy = Policy::default()
        .method(subject.method.as_str())
        .url(&subject.uri.to_string())?
        .nonce(subject.nonce.clone())
        .access_token(subject.token.access_token());
    let mut headers = http::HeaderMap::new();
    subject.authorized()?.headers.apply(&mut headers);
    let proof = headers.get("dpop").ok_or("a bound token has a proof")?.to_str()?.to_owned();
    let now = now();
    let inspection = policy.inspect(&proof, now);
    if !inspection.is_valid() {
        return Err("the proof must pass".into());
    }

    let ring = RingKey::new(&subject.key)?;
    let (message, _) = proof.rsplit_once('.').ok_or("a JWS has dots")?;
    let message = message.as_bytes().to_vec();
    let signature = ring.sign(&message, <[u8]>::to_vec)?;
    let jwk = subject.key.public().to_json();
    let header = format!(r#"{{"typ":"dpop+jwt","alg":"{}","jwk":{jwk}}}"#, subject.key.public().algorithm());
    let claims = inspection.claims_json().ok_or("a valid proof has claims")?.to_owned();
    let floor = move || {
        ring.verify(&message, &signature)?;
        Ok((serde_json::from_str::<Header>(&header)?, serde_json::from_str::<Claims>(&claims)?))
    };

    let algorithm = subject.key.public().algorithm();
    let limit = (algorithm == Algorithm::Es256).then_some(Limit { instructions: 39_000, allocations: 51 });
    let ours = again(move || Ok(policy.inspect(&proof, now)));
    Ok(Case::new("verify", algorithm.to_string(), ours).beside(again(floor)).at_most(limit))
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "it is read, and that is what counts")]
struct Header {
    typ: String,
    alg: String,
    jwk: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "it is read, and that is what counts")]
struct Claims {
    jti: String,
    htm: String,
    htu: String,
    iat: u64,
    ath: String,
    nonce: String,
}
