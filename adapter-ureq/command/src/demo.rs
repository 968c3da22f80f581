//! The `demo` subcommand: every flow against a sandbox in this process, step by step.

use std::io::Write as _;

use http::{HeaderMap, Method, Request, Response, StatusCode};
use keybound_sandbox::{self as sandbox, Sandbox};
use keybound_ureq::dpop::{Nonce, Proof, ProofVerifier, VerifiedProof};
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::provider::moov::{Moov, Origin, scope};
use keybound_ureq::provider::treasury_prime::TreasuryPrime;
use keybound_ureq::{
    Client, ClientAuth, Endpoint, Grant, Scope, Secret, Token, TokenType, TokenTypeHint, Transport,
};

use crate::failure::Failure;
use crate::input;
use crate::trace::Trace;

/// Prints a line. Unlike `println!`, it does not panic if the reader has closed the pipe.
macro_rules! print_line {
    ($($text:tt)*) => {{
        let _ = writeln!(std::io::stdout(), $($text)*);
    }};
}

pub(crate) fn run() -> Result<(), Failure> {
    let sandbox = Sandbox::start(sandbox::Options::default().require_nonce(true))?;
    print_line!(
        "A sandbox listens on {}. Secrets are redacted below.",
        sandbox.base_url()
    );
    moov(&sandbox)?;
    bound_token(&sandbox)?;
    relay(&sandbox)?;
    print_line!("\nAll flows went well.");
    Ok(())
}

fn moov(sandbox: &Sandbox) -> Result<(), Failure> {
    chapter("Moov: a bearer token, an API call, a refresh, a revocation");
    let api = Moov::new(ClientAuth::basic(
        sandbox::CLIENT_ID,
        Secret::new(sandbox::CLIENT_SECRET),
    )?)
    .base_url(Endpoint::loopback_http(&sandbox.moov())?)
    .origin(Origin::new(sandbox::ORIGIN)?);
    let client = api.client()?;
    let transport = traced();

    step("Request a token with the client_credentials grant");
    let grant = Grant::client_credentials().scope(Scope::from_tokens([
        scope::ACCOUNTS_READ,
        scope::ACCOUNTS_WRITE,
    ])?);
    let token = transport.execute(client.token(grant)?)?;

    step("Call the API with the token");
    let accounts = api.endpoint("/accounts")?;
    get(&transport, &token, &accounts, api.headers())?;

    step("Refresh the token");
    let refresh_token = token
        .refresh_token()
        .cloned()
        .ok_or(Failure::refused("the server issued no refresh token"))?;
    let refreshed = transport.execute(client.token(Grant::refresh_token(refresh_token)?)?)?;

    step("Revoke the token");
    transport.execute(client.revoke(
        refreshed.access_token().clone(),
        Some(TokenTypeHint::AccessToken),
    )?)?;

    step("Check that the token is rejected");
    let response = call(&transport, &refreshed, &accounts, api.headers())?;
    expect(
        response.status() == StatusCode::UNAUTHORIZED,
        "a revoked token was accepted",
    )
}

fn bound_token(sandbox: &Sandbox) -> Result<(), Failure> {
    chapter("DPoP: a token bound to a key, from a server that requires nonces");
    let key = SigningKey::generate(Algorithm::Es256)?;
    let auth = ClientAuth::basic(sandbox::CLIENT_ID, Secret::new(sandbox::CLIENT_SECRET))?;
    let oauth = |path| Endpoint::loopback_http(&format!("{}{path}", sandbox.oauth()));
    let client = Client::new(oauth("/token")?, auth).dpop(key.public().clone());
    let transport = traced().signer(key);

    step("Request a token: the server first requires its nonce in the proof");
    let token = transport.execute(client.token(Grant::client_credentials())?)?;
    expect(
        *token.token_type() == TokenType::Dpop,
        "the token is not bound",
    )?;

    step("Call a protected resource: its server requires a nonce of its own");
    get(&transport, &token, &oauth("/resource")?, &HeaderMap::new())?;

    step("Call it again: the nonce is already known");
    get(&transport, &token, &oauth("/resource")?, &HeaderMap::new())
}

fn relay(sandbox: &Sandbox) -> Result<(), Failure> {
    chapter("Treasury Prime: relay a browser's proof");
    let key = SigningKey::generate(Algorithm::Es256)?;
    let token_url = Endpoint::loopback_http(&format!("{}/oauth/token", sandbox.marqeta()))?;
    let api = TreasuryPrime::at(
        Endpoint::loopback_http(&sandbox.treasury_prime())?,
        ClientAuth::basic(sandbox::CLIENT_ID, Secret::new(sandbox::CLIENT_SECRET))?,
    );
    let policy = ProofVerifier::default()
        .method("POST")
        .url(&token_url.to_string())?
        .no_access_token();

    step("The browser creates a proof; the backend verifies it and relays it once");
    let proof = verified(&policy, &browser_proof(&key, &token_url, None)?)?;
    let first = traced().execute(api.uxt_access_token(PERSON, proof)?);
    let Err(keybound_ureq::Error::Server(refusal)) = first else {
        return Err(Failure::refused("the server did not require a nonce"));
    };
    let nonce = refusal
        .nonce()
        .ok_or(Failure::refused("the server sent no nonce"))?;
    print_line!(
        "  The server requires a nonce, which only the browser can include in a proof: {}",
        nonce.as_str()
    );

    step("The browser creates another proof, with the nonce");
    let proof = verified(&policy, &browser_proof(&key, &token_url, Some(nonce))?)?;
    let token = traced().execute(api.uxt_access_token(PERSON, proof)?)?;

    step("The browser calls Marqeta with the token, which is bound to the browser's key");
    let resource = Endpoint::loopback_http(&format!(
        "{}/api/v1/auth/program-short-code",
        sandbox.marqeta()
    ))?;
    get(&traced().signer(key), &token, &resource, &HeaderMap::new())
}

const PERSON: &str = "psn_11gqs8hr";

/// Creates the browser's proof for Marqeta's token endpoint, signed with the browser's key.
fn browser_proof(
    key: &SigningKey,
    url: &Endpoint,
    nonce: Option<&Nonce>,
) -> Result<Proof, Failure> {
    let mut builder = Proof::build(key.public(), &Method::POST, url.uri())?;
    if let Some(nonce) = nonce {
        builder = builder.nonce(nonce);
    }
    Ok(builder
        .prepare(input::request_context()?)
        .finish(|request| key.sign(request))?)
}

/// Verifies the proof, as the backend does before it relays it.
fn verified(policy: &ProofVerifier, proof: &Proof) -> Result<VerifiedProof, Failure> {
    let inspection = policy.verify(proof.as_str(), input::now());
    if let Some(key) = inspection.key() {
        print_line!(
            "  The proof was verified: {} errors, jkt {}",
            inspection.problems().len(),
            key.thumbprint()
        );
    }
    inspection
        .verified()
        .ok_or(Failure::refused("the proof is not valid"))
}

fn get(
    transport: &Transport,
    token: &Token,
    url: &Endpoint,
    headers: &HeaderMap,
) -> Result<(), Failure> {
    let mut response = call(transport, token, url, headers)?;
    expect(
        response.status().is_success(),
        "the resource server refused the request",
    )?;
    print_line!(
        "    {}",
        response
            .body_mut()
            .read_to_string()
            .map_err(|error| Failure::refused(error.to_string()))?
    );
    Ok(())
}

fn call(
    transport: &Transport,
    token: &Token,
    url: &Endpoint,
    headers: &HeaderMap,
) -> Result<Response<ureq::Body>, Failure> {
    let mut request = Request::new(Vec::new());
    *request.uri_mut() = url.uri().clone();
    *request.headers_mut() = headers.clone();
    Ok(transport.send(token, request)?)
}

fn traced() -> Transport {
    let trace = Trace::default();
    Transport::new().on_event(move |event| trace.print(&mut std::io::stdout(), &event))
}

fn chapter(title: &str) {
    print_line!("\n{title}\n{}", "=".repeat(title.chars().count()));
}

fn step(description: &str) {
    print_line!("\n• {description}");
}

fn expect(condition: bool, message: &str) -> Result<(), Failure> {
    if condition {
        Ok(())
    } else {
        Err(Failure::refused(message))
    }
}
