//! Verification of DPoP proofs (RFC 9449 §4.3), and authorization of resource requests.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use keybound_ureq::dpop::{Inspection, Nonce, ProofError, ProofVerifier};
use keybound_ureq::jose::Algorithm;
use keybound_ureq::{InvalidInput, Secret};

use crate::reply::Reply;
use crate::state::{Access, State, now};

/// The maximum age of a proof. It is stricter than that of most servers.
const MAX_AGE: Duration = Duration::from_secs(60);
/// The maximum time by which `iat` may be in the future.
const LEEWAY: Duration = Duration::from_secs(5);

/// The description of `use_dpop_nonce` errors.
pub(crate) const NONCE_REQUIRED: &str = "this server requires a nonce in the DPoP proof";

/// The reason for which a proof is rejected.
#[derive(Debug)]
pub(crate) enum Refused {
    /// The proof is valid except for its nonce, which must be this one.
    Nonce(Nonce),
    /// The proof is invalid, with the description.
    Invalid(String),
}

/// Verifies the `DPoP` header of a request to `part` of the sandbox, and returns the thumbprint of
/// the proof's key.
pub(crate) fn verify_request(
    state: &State,
    part: &str,
    headers: &HeaderMap,
    policy: ProofVerifier,
) -> Result<String, Refused> {
    verify(state, part, policy, |policy| {
        policy.verify_headers(headers, now())
    })
}

/// Verifies a proof that was sent in a request body, and returns the thumbprint of its key.
pub(crate) fn verify_relayed(
    state: &State,
    part: &str,
    proof: &str,
    policy: ProofVerifier,
) -> Result<String, Refused> {
    verify(state, part, policy, |policy| policy.verify(proof, now()))
}

fn verify(
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
        let is_nonce_error = |error: &ProofError| {
            matches!(error, ProofError::NonceMissing | ProofError::NonceMismatch)
        };
        return Err(match newest {
            Some(nonce) if problems.iter().all(is_nonce_error) => Refused::Nonce(nonce),
            _ => {
                let problems: Vec<String> = problems.iter().map(ProofError::to_string).collect();
                Refused::Invalid(problems.join("; "))
            }
        });
    };
    // This reveals clients that invent nonces, or send them to the wrong server.
    if newest.is_none()
        && inspection
            .claims()
            .is_some_and(|claims| claims.nonce.is_some())
    {
        return Err(Refused::Invalid(
            "`nonce` is present, but this server does not issue nonces".into(),
        ));
    }
    state
        .check_and_insert(&verified)
        .map_err(|replay| Refused::Invalid(replay.to_string()))?;
    Ok(verified.key().thumbprint().to_owned())
}

/// Authorizes a resource request (RFC 9449 §7.1), and returns the authorization of its access
/// token.
///
/// # Errors
/// Returns a 401 with a `WWW-Authenticate` challenge if the token or its proof is invalid.
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
    let access = state.access(token).ok_or_else(|| {
        unauthorized(
            "invalid_token",
            "the access token is unknown, expired or revoked",
        )
    })?;
    let Some(bound) = &access.jkt else {
        return if scheme.eq_ignore_ascii_case("bearer") {
            Ok(access)
        } else {
            Err(unauthorized(
                "invalid_token",
                "the access token is not bound to a key: use the Bearer scheme",
            ))
        };
    };
    if !scheme.eq_ignore_ascii_case("dpop") {
        return Err(unauthorized(
            "invalid_token",
            "the access token is bound to a key: use the DPoP scheme",
        ));
    }
    let policy = ProofVerifier::default().access_token(&Secret::new(token));
    let checked = expect_request(policy, state, request)
        .and_then(|policy| verify_request(state, part, request.headers(), policy));
    match checked {
        Ok(jkt) if jkt == *bound => Ok(access),
        Ok(_) => Err(unauthorized(
            "invalid_token",
            "the access token is bound to another key than the one in the proof",
        )),
        Err(Refused::Nonce(nonce)) => {
            Err(unauthorized("use_dpop_nonce", NONCE_REQUIRED).with_nonce(&nonce))
        }
        Err(Refused::Invalid(why)) => Err(unauthorized("invalid_dpop_proof", &why)),
    }
}

/// Returns `policy` with the method and URL of `request` as the expected `htm` and `htu`.
pub(crate) fn expect_request(
    policy: ProofVerifier,
    state: &State,
    request: &Request<Bytes>,
) -> Result<ProofVerifier, Refused> {
    policy
        .method(request.method().as_str())
        .url(&format!("{}{}", state.base_url, request.uri().path()))
        .map_err(|invalid: InvalidInput| Refused::Invalid(invalid.to_string()))
}

/// Adds the newest nonce of `part` to `reply`, if nonces are required.
pub(crate) fn add_nonce(state: &State, part: &str, reply: Reply) -> Reply {
    match state.nonces(part).first() {
        Some(nonce) => reply.with_nonce(nonce),
        None => reply,
    }
}

/// Returns the accepted signature algorithms: all that the core supports.
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
            let verify_for =
                |part| verify_relayed(&state, part, proof.as_str(), ProofVerifier::default());
            assert!(matches!(verify_for("rs"), Err(Refused::Nonce(_))), "{at}");
            assert_eq!(verify_for("as").unwrap(), key.public().thumbprint(), "{at}");
        }
    }
}
