//! Treasury Prime's endpoint that relays a browser's proof to Marqeta, and returns the token.

use bytes::Bytes;
use http::Request;
use keybound_ureq::dpop::ProofVerifier;
use serde_json::{Value, json};

use crate::oauth::basic;
use crate::proofs::{self, Refused};
use crate::reply::Reply;
use crate::state::{Access, LIFETIME, State, now};
use crate::{API_KEY, CLIENT_ID, CLIENT_SECRET, marqeta};

pub(crate) const PREFIX: &str = "/treasury-prime";

pub(crate) fn answer(state: &State, path: &str, request: &Request<Bytes>) -> Reply {
    let person = path
        .strip_prefix("/person/")
        .and_then(|rest| rest.strip_suffix("/uxt_access_token"));
    match (request.method().as_str(), person) {
        ("POST", Some(person)) => relay(state, person, request).unwrap_or_else(|refusal| refusal),
        _ => Reply::error(404, "Not found"),
    }
}

fn relay(state: &State, person: &str, request: &Request<Bytes>) -> Result<Reply, Reply> {
    if !authenticated(request) {
        return Err(Reply::error(401, "Invalid API key"));
    }
    if !person.starts_with("psn_") {
        return Err(Reply::error(400, "Invalid id person_id"));
    }
    let body: Value = serde_json::from_slice(request.body())
        .map_err(|_| Reply::error(400, "The body must be JSON"))?;
    let proof = body
        .get("dpop")
        .and_then(Value::as_str)
        .ok_or_else(|| Reply::error(400, "Parameter 'dpop' is required"))?;

    let policy = marqeta::token_urls(state, request.uri().path())
        .iter()
        .try_fold(
            ProofVerifier::default().method("POST").no_access_token(),
            |policy, url| policy.url(url),
        )
        .map_err(|invalid| Reply::error(500, &invalid.to_string()))?;
    let jkt =
        proofs::verify_relayed(state, marqeta::PART, proof, policy).map_err(
            |refused| match refused {
                Refused::Nonce(nonce) => Reply::error(400, "use_dpop_nonce").with_nonce(&nonce),
                Refused::Invalid(why) => Reply::oauth_error(400, "invalid_dpop_proof", &why),
            },
        )?;
    let (access_token, _) = state.issue(Access {
        scope: person.to_owned(),
        jkt: Some(jkt),
        origin_known: true,
        expires_at: now().saturating_add(LIFETIME),
    });
    Ok(Reply::json(
        200,
        json!({ "access_token": access_token, "expires_in": LIFETIME.as_secs(), "token_type": "DPoP" }),
    ))
}

/// Whether the request is authenticated by the `basicAuth` or the `apiKey` scheme.
fn authenticated(request: &Request<Bytes>) -> bool {
    let bearer = request
        .headers()
        .get("authorization")
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    bearer == Some(API_KEY)
        || basic(request).is_some_and(|(id, secret)| id == CLIENT_ID && secret == CLIENT_SECRET)
}
