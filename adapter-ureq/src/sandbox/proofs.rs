//! What the sandbox's servers demand of a proof (RFC 9449 §4.3).

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request};
use keybound_core::dpop::{Inspection, Nonce, Policy, Problem};
use keybound_core::{Misuse, Secret};

use super::reply::Reply;
use super::state::{Access, State, now};

/// Stricter than most: a proof lives for a minute, and may be five seconds ahead.
const MAX_AGE: Duration = Duration::from_secs(60);
const LEEWAY: Duration = Duration::from_secs(5);

/// Why a proof is refused.
#[derive(Debug)]
pub(super) enum Refused {
    /// It needs this nonce.
    Nonce(String),
    /// A sentence that says why.
    Invalid(String),
}

/// Judges the proof of a request for `part` of the sandbox, and returns its key's thumbprint.
pub(super) fn check(
    state: &State,
    part: &str,
    headers: &HeaderMap,
    policy: Policy,
) -> Result<String, Refused> {
    accept(state, part, &policy.max_age(MAX_AGE).leeway(LEEWAY).inspect_headers(headers, now()))
}

/// Judges a proof that came in a request's body.
pub(super) fn check_relayed(
    state: &State,
    part: &str,
    proof: &str,
    policy: Policy,
) -> Result<String, Refused> {
    accept(state, part, &policy.max_age(MAX_AGE).leeway(LEEWAY).inspect(proof, now()))
}

fn accept(state: &State, part: &str, inspection: &Inspection) -> Result<String, Refused> {
    let Some(verified) = inspection.verified() else {
        let problems: Vec<String> = inspection.problems().iter().map(Problem::to_string).collect();
        return Err(Refused::Invalid(problems.join("; ")));
    };
    check_nonce(state, part, inspection)?;
    state.take(&verified).map_err(|replay| Refused::Invalid(replay.to_string()))?;
    Ok(verified.key().thumbprint().to_owned())
}

fn check_nonce(state: &State, part: &str, inspection: &Inspection) -> Result<(), Refused> {
    let given = inspection.claims().and_then(|claims| claims.nonce.as_deref());
    let good = state.nonces(part);
    match given {
        _ if !state.require_nonce => match given {
            // A client that makes nonces up, or sends them to the wrong server, is told so.
            Some(_) => Err(Refused::Invalid("`nonce` was never asked for here".into())),
            None => Ok(()),
        },
        Some(given) if good.iter().any(|nonce| nonce == given) => Ok(()),
        _ => Err(Refused::Nonce(good.into_iter().next().unwrap_or_default())),
    }
}

/// Authorizes a resource request (RFC 9449 §7.1): what its token stands for, or the 401.
pub(super) fn authorize(state: &State, part: &str, request: &Request<Bytes>) -> Result<Access, Reply> {
    let unauthorized = |error: &str, description: &str| {
        let description = description.replace(['"', '\\'], "'");
        Reply::error(401, error).with(
            "www-authenticate",
            format!("Bearer, DPoP algs=\"ES256 ES384 EdDSA PS256 RS256\", error=\"{error}\", error_description=\"{description}\""),
        )
    };
    let authorization = request.headers().get("authorization").and_then(|value| value.to_str().ok());
    let (scheme, token) = authorization.and_then(|value| value.split_once(' ')).ok_or_else(|| {
        Reply::empty(401).with("www-authenticate", "Bearer, DPoP algs=\"ES256 ES384 EdDSA PS256 RS256\"")
    })?;
    let access = state
        .access(token)
        .ok_or_else(|| unauthorized("invalid_token", "the token is not good, or no longer"))?;
    let Some(bound) = &access.jkt else {
        return if scheme.eq_ignore_ascii_case("bearer") {
            Ok(access)
        } else {
            Err(unauthorized("invalid_token", "the token is not bound to a key"))
        };
    };
    if !scheme.eq_ignore_ascii_case("dpop") {
        return Err(unauthorized("invalid_token", "the token is bound to a key, and needs a proof"));
    }
    let policy = Policy::default().access_token(&Secret::new(token));
    let checked =
        for_request(policy, state, request).and_then(|policy| check(state, part, request.headers(), policy));
    match checked {
        Ok(jkt) if jkt == *bound => Ok(access),
        Ok(_) => Err(unauthorized("invalid_token", "the proof is by another key than the token's")),
        Err(Refused::Nonce(nonce)) => {
            Err(unauthorized("use_dpop_nonce", "the proof needs a nonce").with("dpop-nonce", nonce))
        }
        Err(Refused::Invalid(why)) => Err(unauthorized("invalid_dpop_proof", &why)),
    }
}

/// The policy for a proof of this very request.
pub(super) fn for_request(
    policy: Policy,
    state: &State,
    request: &Request<Bytes>,
) -> Result<Policy, Refused> {
    policy
        .method(request.method().as_str())
        .url(&format!("{}{}", state.base_url, request.uri().path()))
        .map_err(|misuse: Misuse| Refused::Invalid(misuse.to_string()))
}

/// The newest nonce for the response, where nonces are in use.
pub(super) fn announce(state: &State, part: &str, reply: Reply) -> Reply {
    match state.nonces(part).into_iter().next().and_then(|nonce| Nonce::new(&nonce).ok()) {
        Some(nonce) if state.require_nonce => reply.with("dpop-nonce", nonce.as_str()),
        _ => reply,
    }
}
