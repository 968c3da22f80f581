//! Judging a proof by everything that a resource server knows, against a bare verification.

use keybound_core::dpop::Policy;

use crate::Outcome;
use crate::floor::RingKey;
use crate::paired::{Case, done};
use crate::subject::{Subject, now};

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
    if !policy.inspect(&proof, now).is_valid() {
        return Err("the proof must pass".into());
    }

    let ring = RingKey::new(&subject.key)?;
    let (message, _) = proof.rsplit_once('.').ok_or("a JWS has dots")?;
    let message = message.as_bytes().to_vec();
    let signature = ring.sign(&message, <[u8]>::to_vec)?;
    Ok(Case {
        group: "verify",
        name: subject.key.public().algorithm().to_string(),
        ours: Box::new(move || done(policy.inspect(&proof, now))),
        floor: Box::new(move || ring.verify(&message, &signature)),
    })
}
