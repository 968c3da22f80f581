//! What the sandbox's servers demand of a proof (RFC 9449 §4.3).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use keybound_ureq::dpop::{Inspection, Nonce, ProofError, ProofVerifier};
use keybound_ureq::jose::Algorithm;
use keybound_ureq::{InvalidInput, Secret};

use crate::reply::Reply;
use crate::state::{Access, State, now};

/// Stricter than most: a proof lives for a minute, and may be five seconds ahead.
const MAX_AGE: Duration = Duration::from_secs(60);
const LEEWAY: Duration = Duration::from_secs(5);

/// Why a proof is refused.
#[derive(Debug)]
pub(crate) enum Refused {
    /// It needs this nonce.
    Nonce(Nonce),
    /// A sentence that says why.
    Invalid(String),
}

/// Judges the proof of a request for `part` of the sandbox, and returns its key's thumbprint.
pub(crate) fn check(
    state: &State,
    part: &str,
    headers: &HeaderMap,
    policy: ProofVerifier,
) -> Result<String, Refused> {
    judge(state, part, policy, |policy| {
        policy.verify_headers(headers, now())
    })
}

/// Judges a proof that came in a request's body.
pub(crate) fn check_relayed(
    state: &State,
    part: &str,
    proof: &str,
    policy: ProofVerifier,
) -> Result<String, Refused> {
    judge(state, part, policy, |policy| policy.verify(proof, now()))
}

fn judge(
    state: &State,
    part: &str,
    policy: ProofVerifier,
    inspect: impl FnOnce(&ProofVerifier) -> Inspection,
) -> Result<String, Refused> {
    let nonces = state.nonces(part);
    let policy = policy.max_age(MAX_AGE).leeway(LEEWAY);
    let inspection = inspect(&nonces.iter().cloned().fold(policy, ProofVerifier::nonce));
    let newest = nonces.into_iter().next();
    let Some(verified) = inspection.verified() else {
        let problems = inspection.problems();
        let of_nonce = |problem: &ProofError| {
            matches!(
                problem,
                ProofError::NonceMissing | ProofError::NonceMismatch
            )
        };
        return Err(match newest {
            Some(nonce) if problems.iter().all(of_nonce) => Refused::Nonce(nonce),
            _ => {
                let problems: Vec<String> = problems.iter().map(ProofError::to_string).collect();
                Refused::Invalid(problems.join("; "))
            }
        });
    };
    // A client that makes nonces up, or sends them to the wrong server, is told so.
    if newest.is_none()
        && inspection
            .claims()
            .is_some_and(|claims| claims.nonce.is_some())
    {
        return Err(Refused::Invalid("`nonce` was never asked for here".into()));
    }
    state
        .take(&verified)
        .map_err(|replay| Refused::Invalid(replay.to_string()))?;
    Ok(verified.key().thumbprint().to_owned())
}

/// Authorizes a resource request (RFC 9449 §7.1): what its token stands for, or the 401.
pub(crate) fn authorize(
    state: &State,
    part: &str,
    request: &Request<Bytes>,
) -> Result<Access, Reply> {
    let algs = algorithms();
    let challenge = format!("Bearer, DPoP algs=\"{}\"", algs.join(" "));
    let unauthorized = |error: &str, description: &str| {
        let description = description.replace(['"', '\\'], "'");
        Reply::error(401, error).with(
            "www-authenticate",
            format!("{challenge}, error=\"{error}\", error_description=\"{description}\""),
        )
    };
    let authorization = request
        .headers()
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    let (scheme, token) = authorization
        .and_then(|value| value.split_once(' '))
        .ok_or_else(|| Reply::empty(401).with("www-authenticate", &*challenge))?;
    let access = state
        .access(token)
        .ok_or_else(|| unauthorized("invalid_token", "the token is not good, or no longer"))?;
    let Some(bound) = &access.jkt else {
        return if scheme.eq_ignore_ascii_case("bearer") {
            Ok(access)
        } else {
            Err(unauthorized(
                "invalid_token",
                "the token is not bound to a key",
            ))
        };
    };
    if !scheme.eq_ignore_ascii_case("dpop") {
        return Err(unauthorized(
            "invalid_token",
            "the token is bound to a key, and needs a proof",
        ));
    }
    let policy = ProofVerifier::default().access_token(&Secret::new(token));
    let checked = for_request(policy, state, request)
        .and_then(|policy| check(state, part, request.headers(), policy));
    match checked {
        Ok(jkt) if jkt == *bound => Ok(access),
        Ok(_) => Err(unauthorized(
            "invalid_token",
            "the proof is by another key than the token's",
        )),
        Err(Refused::Nonce(nonce)) => {
            Err(unauthorized("use_dpop_nonce", "the proof needs a nonce").with_nonce(&nonce))
        }
        Err(Refused::Invalid(why)) => Err(unauthorized("invalid_dpop_proof", &why)),
    }
}

/// The policy for a proof of this very request.
pub(crate) fn for_request(
    policy: ProofVerifier,
    state: &State,
    request: &Request<Bytes>,
) -> Result<ProofVerifier, Refused> {
    policy
        .method(request.method().as_str())
        .url(&format!("{}{}", state.base_url, request.uri().path()))
        .map_err(|invalid: InvalidInput| Refused::Invalid(invalid.to_string()))
}

/// The newest nonce for the response, where nonces are in use.
pub(crate) fn announce(state: &State, part: &str, reply: Reply) -> Reply {
    match state.nonces(part).first() {
        Some(nonce) => reply.with_nonce(nonce),
        None => reply,
    }
}

/// Those by which proofs are taken: all.
pub(crate) fn algorithms() -> Vec<&'static str> {
    Algorithm::ALL
        .iter()
        .map(|algorithm| algorithm.as_str())
        .collect()
}

#[cfg(test)]
mod tests {
    use http::{Method, Uri};
    use keybound_ureq::dpop::Proof;
    use keybound_ureq::driver::RequestContext;
    use keybound_ureq::jose::SigningKey;

    use super::*;

    #[test]
    fn the_nonce_before_the_newest_is_still_taken() {
        let state = State::new("http://127.0.0.1".into(), true);
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let uri = Uri::from_static("http://127.0.0.1/token");
        for (at, nonce) in state.nonces("as").iter().enumerate() {
            let proof = Proof::build(key.public(), &Method::POST, &uri)
                .unwrap()
                .nonce(nonce);
            let entropy = [u8::try_from(at).unwrap(); 16];
            let proof = proof
                .prepare(RequestContext::new(now(), entropy))
                .finish(|request| key.sign(request))
                .unwrap();
            let judged =
                |part| check_relayed(&state, part, proof.as_str(), ProofVerifier::default());
            assert!(matches!(judged("rs"), Err(Refused::Nonce(_))), "{at}");
            assert_eq!(judged("as").unwrap(), key.public().thumbprint(), "{at}");
        }
    }
}
