//! Verifies a proof with all checks of a resource server, compared with a bare verification and
//! with parsing the same JSON.

use http::HeaderMap;
use keybound_benches::{Case, Limit, Outcome, RingKey, Subject, again, now};
use keybound_core::jose::{Algorithm, Signature};
use serde::Deserialize;

pub(crate) fn case(subject: &Subject) -> Outcome<Case<'_>> {
    let verifier = subject.verifier()?;
    let (ring, algorithm) = (
        RingKey::new(&subject.key)?,
        subject.key.public().algorithm(),
    );
    let (mut message, mut signature) = (Vec::new(), Vec::new());
    let input = || (now(), subject.entropy());
    let mut authorized = subject.authorized_by(&subject.shared, input, |request| {
        message = request.message().to_vec();
        signature = ring.sign(&message, <[u8]>::to_vec)?;
        Ok(Signature::from_jose(algorithm, &signature)?)
    })?;
    let mut headers = HeaderMap::new();
    authorized.effect.headers.apply(&mut headers);
    let proof = headers
        .get("dpop")
        .ok_or("a bound token has a proof")?
        .to_str()?
        .to_owned();
    let now = now();
    let inspection = verifier.verify(&proof, now);
    if !inspection.is_valid() {
        return Err("the proof must pass".into());
    }

    let jwk = subject.key.public().to_json();
    let header = format!(r#"{{"typ":"dpop+jwt","alg":"{algorithm}","jwk":{jwk}}}"#);
    let claims = inspection
        .claims_json()
        .ok_or("a valid proof has claims")?
        .to_owned();
    let floor = move || {
        ring.verify(&message, &signature)?;
        Ok((
            serde_json::from_str::<Header>(&header)?,
            serde_json::from_str::<Claims>(&claims)?,
        ))
    };

    // The instructions of ring's verification differ between signatures by a few thousand.
    let limit = (algorithm == Algorithm::Es256).then_some(Limit {
        instructions: 33_000,
        allocations: 31,
    });
    let ours = again(move || Ok(verifier.verify(&proof, now)));
    Ok(Case::new("verify", algorithm.to_string(), ours)
        .beside(again(floor))
        .with_limit(limit))
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
