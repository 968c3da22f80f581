//! A minimal driver of `keybound-core` over a `TcpStream`, without `keybound-ureq`. The server is a
//! sandbox.
//!
//! ```sh
//! cargo run -p keybound-ureq --example own_transport
//! ```

use std::error::Error;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::SystemTime;

use http::{Request, Response};
use keybound_core::driver::{
    PreparedCall, PreparedRequest, RequestContext, ServerState, Step, Verdict,
};
use keybound_core::jose::{Algorithm, SigningKey};
use keybound_core::{Client, ClientAuth, Endpoint, Grant, Operation, Secret, Token, UnixTime};
use keybound_sandbox::{CLIENT_ID, CLIENT_SECRET, Options, Sandbox};
use ring::rand::{SecureRandom as _, SystemRandom};

type BoxResult<T> = Result<T, Box<dyn Error>>;

/// Requests a token from a server that requires nonces, and sends a request with it.
pub fn main() -> BoxResult<()> {
    let sandbox = Sandbox::start(Options::default().require_nonce(true))?;
    let (key, mut state) = (SigningKey::generate(Algorithm::Es256)?, ServerState::new());
    let auth = ClientAuth::basic(CLIENT_ID, Secret::new(CLIENT_SECRET))?;
    let client = Client::new(
        Endpoint::loopback_http(&format!("{}/token", sandbox.oauth()))?,
        auth,
    );
    let operation = client
        .dpop(key.public().clone())
        .token(Grant::client_credentials())?;
    let token = run(operation, &key, &mut state)?;
    let request = Request::get(format!("{}/resource", sandbox.oauth())).body(Vec::new())?;
    let response = call(&token, request, &key, &mut state)?;
    println!(
        "{} {}",
        response.status(),
        String::from_utf8_lossy(response.body())
    );
    if response.status().is_success() {
        Ok(())
    } else {
        Err("the resource server refused the request".into())
    }
}

/// Executes any operation and returns its result.
fn run<T>(mut operation: Operation<T>, key: &SigningKey, state: &mut ServerState) -> BoxResult<T> {
    loop {
        std::thread::sleep(operation.delay());
        let signing = operation.prepare(state, context()?)?;
        let PreparedRequest { request, pending } = signing.finish(|request| key.sign(request))?;
        match pending.receive(send(&request)?, state, now()?)? {
            Step::Done(done) => return Ok(done),
            Step::RetryAfter(next) => operation = next,
        }
    }
}

/// Calls a protected resource. The core needs only the headers of the request and the response, not
/// their bodies.
fn call(
    token: &Token,
    mut request: Request<Vec<u8>>,
    key: &SigningKey,
    state: &mut ServerState,
) -> BoxResult<Response<Vec<u8>>> {
    let mut call = token.authorize(request.method(), request.uri())?;
    loop {
        std::thread::sleep(call.delay());
        let PreparedCall { headers, pending } = call
            .prepare(state, context()?)?
            .finish(|request| key.sign(request))?;
        headers.apply(request.headers_mut());
        let response = send(&request)?;
        match pending.verdict(response.status(), response.headers(), state, now()?)? {
            Verdict::RetryAfter(next) => call = next,
            Verdict::Deliver | Verdict::TokenRejected => return Ok(response),
        }
    }
}

fn now() -> BoxResult<UnixTime> {
    Ok(UnixTime::from_secs(
        SystemTime::UNIX_EPOCH.elapsed()?.as_secs(),
    ))
}

fn context() -> BoxResult<RequestContext> {
    let mut entropy = [0; 16];
    SystemRandom::new()
        .fill(&mut entropy)
        .map_err(|_| "no random numbers")?;
    Ok(RequestContext::new(now()?, entropy))
}

/// Sends one request over a new plain-text connection, for servers on loopback. A real transport
/// needs TLS and timeouts.
fn send(request: &Request<impl AsRef<[u8]>>) -> BoxResult<Response<Vec<u8>>> {
    let (uri, body) = (request.uri(), request.body().as_ref());
    let authority = uri.authority().ok_or("no host")?.as_str();
    let mut head = format!(
        "{} {} HTTP/1.0\r\nhost: {authority}\r\n",
        request.method(),
        uri.path()
    )
    .into_bytes();
    for (name, value) in request.headers() {
        head.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    head.extend(format!("content-length: {}\r\n\r\n", body.len()).into_bytes());

    let mut stream = TcpStream::connect(authority)?;
    stream.write_all(&[&head, body].concat())?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;

    let mut headers = [httparse::EMPTY_HEADER; 32];
    let mut parsed = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = parsed.parse(&bytes)? else {
        return Err("the response is incomplete".into());
    };
    let mut response = Response::builder().status(parsed.code.unwrap_or_default());
    for header in parsed.headers.iter() {
        response = response.header(header.name, header.value);
    }
    Ok(response.body(bytes.split_off(length))?)
}
