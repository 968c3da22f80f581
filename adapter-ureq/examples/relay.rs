//! A backend that relays a page's proof to Treasury Prime, so that the token is bound to the page's
//! key, which never leaves the browser. The page posts its proof to `/uxt`, in the `DPoP` header
//! (like Marqeta's SDK) or in the body. The response is the token or the provider's error, with the
//! nonce for another proof.
//!
//! ```sh
//! cargo run -p keybound-ureq --example relay -- https://the.page.example
//! ```
//!
//! It prints its URL, the sandbox's URL and the URL that the proof must name.
//! `tests/package.test.mjs` of adapter-wasm contains the page. The argument is the page's origin;
//! without it, pages of all origins are allowed.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use keybound_sandbox::{API_KEY, Options, Sandbox};
use keybound_ureq::dpop::ProofVerifier;
use keybound_ureq::provider::treasury_prime::TreasuryPrime;
use keybound_ureq::{
    ClientAuth, Endpoint, Secret, ServerError, SharedReplayCache, Transport, UnixTime,
};
use serde_json::json;

type BoxError = Box<dyn Error + Send + Sync>;
type Response = http::Response<Full<Bytes>>;

/// The maximum length of a proof.
const MAX_PROOF: usize = 8 * 1024;

fn main() -> Result<(), BoxError> {
    let sandbox = Sandbox::start(Options::default().require_nonce(true))?;
    let proof_url = format!("{}/oauth/token", sandbox.marqeta());
    let key = ClientAuth::bearer(Secret::new(API_KEY))?;
    let relay = Arc::new(Relay {
        provider: TreasuryPrime::at(Endpoint::https_or_loopback(&sandbox.treasury_prime())?, key),
        transport: Transport::new().timeout(Duration::from_secs(5)),
        verifier: ProofVerifier::default()
            .method("POST")
            .url(&proof_url)?
            .no_access_token(),
        replay_cache: SharedReplayCache::new(10_000),
        page: HeaderValue::try_from(std::env::args().nth(1).unwrap_or("*".to_owned()))?,
    });
    tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?
        .block_on(async {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
            let url = format!("http://{}", listener.local_addr()?);
            println!(
                "{}",
                json!({ "url": url, "marqeta": sandbox.marqeta(), "proof_url": proof_url })
            );
            loop {
                let (stream, _) = listener.accept().await?;
                let relay = Arc::clone(&relay);
                tokio::spawn(async move {
                    let service = service_fn(|request| respond(Arc::clone(&relay), request));
                    // A broken connection affects only its client.
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        })
}

async fn respond(relay: Arc<Relay>, request: Request<Incoming>) -> Result<Response, Infallible> {
    let (head, body) = request.into_parts();
    let (mut headers, page) = (head.headers, relay.page.clone());
    let mut response = match (head.method.as_str(), head.uri.path()) {
        ("OPTIONS", "/uxt") => preflight(&headers),
        ("POST", "/uxt") => {
            if !headers.contains_key("dpop") {
                let body = Limited::new(body, MAX_PROOF)
                    .collect()
                    .await
                    .map(|body| body.to_bytes());
                let proof = body.ok().filter(|body| !body.is_empty());
                if let Some(proof) =
                    proof.and_then(|proof| HeaderValue::from_maybe_shared(proof).ok())
                {
                    headers.insert("dpop", proof);
                }
            }
            // Blocks until the provider responds.
            let response = tokio::task::spawn_blocking(move || relay.relay(&headers)).await;
            response
                .unwrap_or_else(|panic| Err(panic.into()))
                .unwrap_or_else(|error| {
                    error_response(StatusCode::BAD_GATEWAY, "server_error", &error.to_string())
                })
        }
        _ => error_response(
            StatusCode::NOT_FOUND,
            "invalid_request",
            "unknown path or method: use POST /uxt",
        ),
    };
    // CORS, for a page of another origin. A page of this server needs none of these headers.
    let headers = response.headers_mut();
    headers.insert("access-control-allow-origin", page);
    headers.insert(
        "access-control-expose-headers",
        HeaderValue::from_static("dpop-nonce, retry-after"),
    );
    Ok(response)
}

/// Responds to a CORS preflight, which the `DPoP` header causes. All requested headers are allowed:
/// the SDK sends others.
fn preflight(request_headers: &HeaderMap) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(
        "access-control-allow-methods",
        HeaderValue::from_static("POST"),
    );
    if let Some(requested) = request_headers.get("access-control-request-headers") {
        headers.insert("access-control-allow-headers", requested.clone());
    }
    response
}

struct Relay {
    provider: TreasuryPrime,
    transport: Transport,
    verifier: ProofVerifier,
    replay_cache: SharedReplayCache,
    /// The page's origin.
    page: HeaderValue,
}

impl Relay {
    /// Relays the proof for a fixed person. A real application takes the person from its own
    /// session with the page.
    fn relay(&self, headers: &HeaderMap) -> Result<Response, BoxError> {
        let now = UnixTime::from_secs(SystemTime::UNIX_EPOCH.elapsed()?.as_secs());
        let invalid_proof =
            |why: &str| error_response(StatusCode::BAD_REQUEST, "invalid_dpop_proof", why);
        let inspection = self.verifier.verify_headers(headers, now);
        let Some(proof) = inspection.verified() else {
            let problems: Vec<_> = inspection
                .problems()
                .iter()
                .map(|error| error.code())
                .collect();
            return Ok(invalid_proof(&problems.join(", ")));
        };
        if let Err(replay) = self.replay_cache.check_and_insert(&proof, now) {
            return Ok(invalid_proof(&replay.to_string()));
        }
        match self
            .transport
            .execute(self.provider.uxt_access_token("psn_1", proof)?)
        {
            Ok(token) => Ok(json_response(
                StatusCode::OK,
                &json!({
                    "access_token": token.access_token().expose(),
                    "token_type": token.token_type().as_str(),
                    "expires_in": token.expires_at().map(|at| at.saturating_since(now).as_secs()),
                }),
            )),
            Err(keybound_ureq::Error::Server(error)) => forward_error(&error),
            Err(error) => Err(error.into()),
        }
    }
}

/// Returns the provider's error to the page. The page needs `Retry-After` for its own retry, and
/// only the page can create a proof with the nonce.
fn forward_error(error: &ServerError) -> Result<Response, BoxError> {
    // Some providers return errors with a 200.
    let status = Some(error.status()).filter(|status| !status.is_success());
    let mut response = error_response(
        status.unwrap_or(StatusCode::BAD_GATEWAY),
        error.code().unwrap_or("server_error"),
        error.description().unwrap_or_default(),
    );
    if let Some(retry_after) = error.retry_after() {
        // In whole seconds, rounded up.
        let seconds = retry_after
            .as_secs()
            .saturating_add(u64::from(retry_after.subsec_nanos() > 0));
        response.headers_mut().insert("retry-after", seconds.into());
    }
    if let Some(nonce) = error.nonce() {
        response
            .headers_mut()
            .insert("dpop-nonce", HeaderValue::from_str(nonce.as_str())?);
    }
    Ok(response)
}

fn error_response(status: StatusCode, code: &str, why: &str) -> Response {
    json_response(status, &json!({ "error": code, "error_description": why }))
}

fn json_response(status: StatusCode, body: &serde_json::Value) -> Response {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/json"));
    response
        .headers_mut()
        .insert("cache-control", HeaderValue::from_static("no-store"));
    response
}
