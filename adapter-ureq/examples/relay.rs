//! A backend that relays a page's proof to Treasury Prime, so that the token is bound to the page's key, which never
//! leaves the browser. The page posts its proof to `/uxt`; what it gets is the token, or the nonce to make another with.
//!
//! ```sh
//! cargo run -p keybound-ureq --features sandbox --example relay
//! ```
//!
//! It prints where it is, where the sandbox is, and what the proof must name. `tests/package.test.mjs` of adapter-wasm
//! has the page.

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use keybound_ureq::dpop::Policy;
use keybound_ureq::provider::treasury_prime::TreasuryPrime;
use keybound_ureq::sandbox::{API_KEY, Options, Sandbox};
use keybound_ureq::{ClientAuth, CoreError, Endpoint, Secret, Token, Transport, UnixTime};
use serde_json::json;

type BoxError = Box<dyn Error + Send + Sync>;

/// A proof is shorter.
const MAX_PROOF: usize = 8 * 1024;

fn main() -> Result<(), BoxError> {
    let sandbox = Sandbox::start(Options::default().require_nonce(true))?;
    let proof_url = format!("{}/oauth/token", sandbox.marqeta());
    let key = ClientAuth::bearer(Secret::new(API_KEY))?;
    let relay = Arc::new(Relay {
        provider: TreasuryPrime::at(Endpoint::https_or_loopback(&sandbox.treasury_prime())?, key),
        transport: Transport::new().budget(Duration::from_secs(5)),
        proof_url: proof_url.clone(),
    });
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        println!("{}", json!({ "url": url, "marqeta": sandbox.marqeta(), "proof_url": proof_url }));
        loop {
            let (stream, _) = listener.accept().await?;
            let relay = Arc::clone(&relay);
            tokio::spawn(async move {
                let service = service_fn(|request| respond(Arc::clone(&relay), request));
                // A connection that breaks concerns its client alone.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

async fn respond(relay: Arc<Relay>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let is_proof = request.method() == "POST" && request.uri().path() == "/uxt";
    let body = Limited::new(request.into_body(), MAX_PROOF).collect().await;
    let proof = body.ok().and_then(|body| String::from_utf8(body.to_bytes().into()).ok());
    let answer = match proof.filter(|_| is_proof) {
        // It blocks until the provider has answered.
        Some(proof) => tokio::task::spawn_blocking(move || relay.relay(&proof)).await.ok(),
        None => None,
    };
    let mut response = answer
        .unwrap_or_else(|| answer_with(StatusCode::BAD_REQUEST, &json!({ "error": "invalid_request" })));
    let headers = response.headers_mut();
    // The page of the test is another origin's; an application's own page needs none of these.
    headers.insert("access-control-allow-origin", HeaderValue::from_static("*"));
    headers.insert("access-control-expose-headers", HeaderValue::from_static("dpop-nonce"));
    Ok(response)
}

struct Relay {
    provider: TreasuryPrime,
    transport: Transport,
    proof_url: String,
}

impl Relay {
    fn relay(&self, proof: &str) -> Response<Full<Bytes>> {
        let refused = |why: &str| {
            answer_with(
                StatusCode::BAD_GATEWAY,
                &json!({ "error": "server_error", "error_description": why }),
            )
        };
        match self.token(proof) {
            Ok(Relayed::Token(token, now)) => answer_with(
                StatusCode::OK,
                &json!({
                    "access_token": token.access_token().expose(),
                    "token_type": token.token_type().as_str(),
                    "expires_in": token.expires_at().map(|at| at.saturating_since(now).as_secs()),
                }),
            ),
            Ok(Relayed::NotSound(problems)) => answer_with(
                StatusCode::BAD_REQUEST,
                &json!({ "error": "invalid_dpop_proof", "error_description": problems.join(", ") }),
            ),
            Ok(Relayed::NonceWanted(nonce)) => {
                let mut answer = answer_with(StatusCode::BAD_REQUEST, &json!({ "error": "use_dpop_nonce" }));
                match HeaderValue::from_str(&nonce) {
                    Ok(nonce) => drop(answer.headers_mut().insert("dpop-nonce", nonce)),
                    Err(_) => return refused("the provider's nonce can't be handed on"),
                }
                answer
            }
            Err(error) => refused(&error.to_string()),
        }
    }

    /// Which person the page is for, an application knows from its own session.
    fn token(&self, proof: &str) -> Result<Relayed, BoxError> {
        let now = UnixTime::from_secs(SystemTime::UNIX_EPOCH.elapsed()?.as_secs());
        let policy = Policy::default().method("POST").url(&self.proof_url)?.no_access_token();
        let inspection = policy.inspect(proof, now);
        let Some(verified) = inspection.verified() else {
            return Ok(Relayed::NotSound(
                inspection.problems().iter().map(|problem| problem.code()).collect(),
            ));
        };
        match self.transport.run(self.provider.uxt_access_token("psn_1", verified)?) {
            Ok(token) => Ok(Relayed::Token(token, now)),
            // Only the page can put the nonce into a proof.
            Err(keybound_ureq::Error::Core(CoreError::Server(refusal))) if refusal.nonce().is_some() => {
                Ok(Relayed::NonceWanted(
                    refusal.nonce().map(|nonce| nonce.as_str().to_owned()).unwrap_or_default(),
                ))
            }
            Err(error) => Err(error.into()),
        }
    }
}

enum Relayed {
    Token(Token, UnixTime),
    NotSound(Vec<&'static str>),
    NonceWanted(String),
}

fn answer_with(status: StatusCode, body: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body.to_string())));
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/json"));
    response.headers_mut().insert("cache-control", HeaderValue::from_static("no-store"));
    response
}
