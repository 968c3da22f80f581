//! A backend that relays a page's proof to Treasury Prime, so that the token is bound to the page's key, which never
//! leaves the browser. The page posts its proof to `/uxt`, as the header `DPoP` (so does Marqeta's SDK) or as the body;
//! what it gets is the token, or why not, as the provider has said it: with the nonce to make another proof with.
//!
//! ```sh
//! cargo run -p keybound-ureq --example relay -- https://the.page.example
//! ```
//!
//! It prints where it is, where the sandbox is, and what the proof must name. `tests/package.test.mjs` of adapter-wasm
//! has the page. The argument is the page's origin; without it, pages of any may come.

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
    ClientAuth, CoreError, Endpoint, Secret, ServerError, SharedReplayCache, Transport, UnixTime,
};
use serde_json::json;

type BoxError = Box<dyn Error + Send + Sync>;
type Response = http::Response<Full<Bytes>>;

/// A proof is shorter.
const MAX_PROOF: usize = 8 * 1024;

fn main() -> Result<(), BoxError> {
    let sandbox = Sandbox::start(Options::default().require_nonce(true))?;
    let proof_url = format!("{}/oauth/token", sandbox.marqeta());
    let key = ClientAuth::bearer(Secret::new(API_KEY))?;
    let relay = Arc::new(Relay {
        provider: TreasuryPrime::at(Endpoint::https_or_loopback(&sandbox.treasury_prime())?, key),
        transport: Transport::new().timeout(Duration::from_secs(5)),
        policy: ProofVerifier::default()
            .method("POST")
            .url(&proof_url)?
            .no_access_token(),
        seen: SharedReplayCache::new(10_000),
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
                    // A connection that breaks concerns its client alone.
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
            // It blocks until the provider has answered.
            let answer = tokio::task::spawn_blocking(move || relay.relay(&headers)).await;
            answer
                .unwrap_or_else(|panic| Err(panic.into()))
                .unwrap_or_else(|error| {
                    refused(StatusCode::BAD_GATEWAY, "server_error", &error.to_string())
                })
        }
        _ => refused(
            StatusCode::NOT_FOUND,
            "invalid_request",
            "there is nothing but POST /uxt",
        ),
    };
    // The page is another origin's; a page of this server's own needs none of these.
    let headers = response.headers_mut();
    headers.insert("access-control-allow-origin", page);
    headers.insert(
        "access-control-expose-headers",
        HeaderValue::from_static("dpop-nonce, retry-after"),
    );
    Ok(response)
}

/// A page asks first, because of the header `DPoP` and of others that its SDK sends: any are welcome.
fn preflight(asked: &HeaderMap) -> Response {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(
        "access-control-allow-methods",
        HeaderValue::from_static("POST"),
    );
    if let Some(wanted) = asked.get("access-control-request-headers") {
        headers.insert("access-control-allow-headers", wanted.clone());
    }
    response
}

struct Relay {
    provider: TreasuryPrime,
    transport: Transport,
    policy: ProofVerifier,
    seen: SharedReplayCache,
    /// The page's origin.
    page: HeaderValue,
}

impl Relay {
    /// Which person the page is for, an application knows from its own session.
    fn relay(&self, headers: &HeaderMap) -> Result<Response, BoxError> {
        let now = UnixTime::from_secs(SystemTime::UNIX_EPOCH.elapsed()?.as_secs());
        let not_sound = |why: &str| refused(StatusCode::BAD_REQUEST, "invalid_dpop_proof", why);
        let inspection = self.policy.verify_headers(headers, now);
        let Some(proof) = inspection.verified() else {
            let problems: Vec<_> = inspection
                .problems()
                .iter()
                .map(|problem| problem.code())
                .collect();
            return Ok(not_sound(&problems.join(", ")));
        };
        if let Err(replay) = self.seen.check_and_insert(&proof, now) {
            return Ok(not_sound(&replay.to_string()));
        }
        match self
            .transport
            .execute(self.provider.uxt_access_token("psn_1", proof)?)
        {
            Ok(token) => Ok(answer_with(
                StatusCode::OK,
                &json!({
                    "access_token": token.access_token().expose(),
                    "token_type": token.token_type().as_str(),
                    "expires_in": token.expires_at().map(|at| at.saturating_since(now).as_secs()),
                }),
            )),
            Err(keybound_ureq::Error::Core(CoreError::Server(refusal))) => handed_on(&refusal),
            Err(error) => Err(error.into()),
        }
    }
}

/// What the provider has said: the page knows best when to come back, and only the page can put a nonce into a proof.
fn handed_on(refusal: &ServerError) -> Result<Response, BoxError> {
    // An error may come in a 200.
    let status = Some(refusal.status()).filter(|status| !status.is_success());
    let mut response = refused(
        status.unwrap_or(StatusCode::BAD_GATEWAY),
        refusal.code().unwrap_or("server_error"),
        refusal.description().unwrap_or_default(),
    );
    if let Some(pause) = refusal.retry_after() {
        // Whole seconds, rounded up.
        let seconds = pause
            .as_secs()
            .saturating_add(u64::from(pause.subsec_nanos() > 0));
        response.headers_mut().insert("retry-after", seconds.into());
    }
    if let Some(nonce) = refusal.nonce() {
        response
            .headers_mut()
            .insert("dpop-nonce", HeaderValue::from_str(nonce.as_str())?);
    }
    Ok(response)
}

fn refused(status: StatusCode, code: &str, why: &str) -> Response {
    answer_with(status, &json!({ "error": code, "error_description": why }))
}

fn answer_with(status: StatusCode, body: &serde_json::Value) -> Response {
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
