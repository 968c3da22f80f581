//! Marqeta: the resource that a browser calls with the relayed token, which is bound to its key.

use bytes::Bytes;
use http::Request;
use serde_json::json;

use crate::proofs;
use crate::reply::Reply;
use crate::state::State;

pub(crate) const PREFIX: &str = "/marqeta";

/// The name of the part whose nonces are used.
pub(crate) const PART: &str = "marqeta";

pub(crate) fn answer(state: &State, path: &str, request: &Request<Bytes>) -> Reply {
    match (request.method().as_str(), path) {
        ("GET", "/api/v1/auth/program-short-code") => {
            let reply = proofs::authorize(state, PART, request)
                .map(|_| Reply::json(200, json!({ "program_short_code": "sandbox" })));
            proofs::add_nonce(state, PART, reply.unwrap_or_else(|refusal| refusal))
        }
        _ => Reply::error(404, "not found"),
    }
}

/// Returns the URLs that are accepted as `htu` of a browser's proof: the sandbox's token endpoint,
/// the relay's URL, and Marqeta's token endpoints of two generations. Marqeta's documentation does
/// not define which one is used.
pub(crate) fn token_urls(state: &State, relay_path: &str) -> [String; 5] {
    [
        format!("{}{PREFIX}/oauth/token", state.base_url),
        format!("{}{relay_path}", state.base_url),
        "https://ux-toolkit-api-sandbox.marqeta.com/oauth/token".into(),
        "https://ux-toolkit-api-sandbox.marqeta.com/api/v1/oauth/token".into(),
        "https://secure-sandbox.marqeta.com/oauth/token".into(),
    ]
}
