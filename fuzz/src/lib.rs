//! The functions that process untrusted bytes, and their invariants. The targets of `cargo fuzz`
//! and the replay of the corpus both call these functions.

mod session;

use http::{HeaderMap, HeaderValue, Response, StatusCode};
use keybound_core::dpop::{Nonce, ProofVerifier};
use keybound_core::driver::{
    FromResponse, RequestContext, ServerState, SessionState, Shared, Step,
};
use keybound_core::jose::{Algorithm, PublicJwk, Signature, SigningKey};
use keybound_core::{
    Challenge, Client, ClientAuth, Endpoint, Error, Grant, Issuer, Operation, PendingAuthorization,
    Scope, Secret, UnixTime,
};

pub use session::session;

/// A fuzz target, which accepts any input.
pub type Target = fn(&[u8]);

/// All targets, by name.
pub const TARGETS: [(&str, Target); 12] = [
    ("token_response", token_response),
    ("error_response", error_response),
    ("www_authenticate", www_authenticate),
    ("proof", proof),
    ("jwk", jwk),
    ("pkcs8", pkcs8),
    ("der_signature", der_signature),
    ("url", url),
    ("metadata", metadata),
    ("session_state", session_state),
    ("redirect", redirect),
    ("session", session),
];

const NOW: UnixTime = UnixTime::from_secs(1_700_000_000);

/// A planted secret. No response of a server may make it appear in an error.
const PLANTED: &str = "planted-secret-7f3a";

const ALGORITHMS: [Algorithm; 6] = [
    Algorithm::Es256,
    Algorithm::Es384,
    Algorithm::EdDsa,
    Algorithm::Ed25519,
    Algorithm::Rs256,
    Algorithm::Ps256,
];

fn client() -> Client {
    let endpoint = Endpoint::https("https://as.example/token").expect("an https URL");
    Client::new(
        endpoint,
        ClientAuth::basic("app", Secret::new(PLANTED)).expect("an id"),
    )
}

/// Returns the result of an operation without signatures after one response, or `None` if it
/// retries. It sends no second request.
fn receive<T: FromResponse>(
    operation: Operation<T>,
    response: Response<&[u8]>,
) -> Option<Result<T, Error>> {
    let mut shared = Shared::new();
    let context = |entropy| RequestContext::new(NOW, [entropy; 16]);
    let Step::Send(awaiting) = shared.start(operation, context(7)) else {
        panic!("no key signs");
    };
    match awaiting.received(&response, &mut shared, context(8)) {
        Step::Done(result) => Some(result),
        _ => None,
    }
}

/// Asserts that an error is safe to log: no secret, no control characters, and a bounded length.
fn assert_loggable(error: &Error) {
    let text = format!("{error} {error:?}");
    assert!(!text.contains(PLANTED), "{text}");
    assert!(
        !error.to_string().chars().any(char::is_control),
        "{error:?}"
    );
    assert!(text.len() < 400_000, "{}", text.len());
}

pub fn token_response(body: &[u8]) {
    match receive(
        client()
            .token(Grant::client_credentials())
            .expect("a request"),
        Response::new(body),
    ) {
        Some(Ok(token)) => {
            let text = token.access_token().expose();
            assert!(text.len() < 12 || !format!("{token:?}").contains(text));
            let json = SessionState::new(token).to_json();
            let stored = SessionState::from_json(json.expose(), &client(), NOW)
                .expect("serialized data can be parsed");
            assert_eq!(stored.to_json().expose(), json.expose());
        }
        Some(Err(error)) => assert_loggable(&error),
        None => {}
    }
}

/// Parses the status and a header from the first bytes. The rest is the body.
pub fn error_response(data: &[u8]) {
    let Some((head, body)) = data.split_at_checked(3) else {
        return;
    };
    let status = 100 + u16::from(head[0]) + u16::from(head[1]);
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let line = body.split(|byte| *byte == b'\n').next().unwrap_or_default();
    // A nonce is passed on unchanged, so it is excluded from the echoed values.
    if let Some(value) = HeaderValue::from_bytes(line)
        .ok()
        .filter(|_| !contains(line, PLANTED))
    {
        let names = [
            "retry-after",
            "retry-after-ms",
            "x-retry-in",
            "date",
            "dpop-nonce",
            "x-request-id",
        ];
        let name = names[usize::from(head[2]) % names.len()];
        response.headers_mut().insert(name, value);
    }
    // A server that echoes the client's request.
    let echo = [body, PLANTED.as_bytes()].concat();
    let echoing = response.clone().map(|_| echo.as_slice());
    for response in [response, echoing] {
        let operation = client()
            .token(Grant::client_credentials())
            .expect("a request");
        if let Some(Err(error)) = receive(operation, response) {
            assert_loggable(&error);
            let _ = error.retry();
        }
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

pub fn www_authenticate(data: &[u8]) {
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(value) = HeaderValue::from_bytes(line) {
            headers.append("www-authenticate", value);
        }
    }
    for challenge in Challenge::all(&headers) {
        assert!(!challenge.scheme().is_empty());
        assert!(challenge.is(challenge.scheme()));
        let _ = (
            challenge.param("error"),
            challenge.param("nonce"),
            challenge.token68(),
        );
    }
}

pub fn proof(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let verifier = ProofVerifier::default()
        .method("POST")
        .url("https://rs.example/me")
        .expect("a URL")
        .nonce(Nonce::new("n-0S6").expect("a nonce"))
        .access_token(&Secret::new("at"));
    for verifier in [ProofVerifier::default(), verifier] {
        let inspection = verifier.verify(text, NOW);
        assert_eq!(inspection.is_valid(), inspection.problems().is_empty());
        assert_eq!(inspection.is_valid(), inspection.verified().is_some());
        for problem in inspection.problems() {
            assert!(!problem.code().is_empty() && !problem.to_string().is_empty());
        }
    }
}

pub fn jwk(json: &[u8]) {
    if let Ok(key) = PublicJwk::from_json(json) {
        let again =
            PublicJwk::from_json(key.to_json().as_bytes()).expect("serialized data can be parsed");
        assert_eq!(again.thumbprint(), key.thumbprint());
        assert_eq!(again.to_json(), key.to_json());
        assert!(!key.to_json().contains("\"d\""));
    }
    if let Ok(key) = SigningKey::from_jwk(json) {
        let again = SigningKey::from_jwk(key.to_jwk().expose().as_bytes())
            .expect("serialized data can be parsed");
        assert_eq!(again.public().thumbprint(), key.public().thumbprint());
    }
}

pub fn pkcs8(data: &[u8]) {
    let keys = [
        SigningKey::from_pkcs8_der(data).ok(),
        std::str::from_utf8(data)
            .ok()
            .and_then(|pem| SigningKey::from_pkcs8_pem(pem).ok()),
    ];
    for key in keys.into_iter().flatten() {
        let der = key.to_pkcs8_der();
        let again =
            SigningKey::from_pkcs8_der(der.expose()).expect("serialized data can be parsed");
        assert_eq!(again.to_pkcs8_der().expose(), der.expose());
    }
}

pub fn der_signature(data: &[u8]) {
    for algorithm in ALGORITHMS {
        let _ = (
            Signature::from_der(algorithm, data),
            Signature::from_jose(algorithm, data),
        );
    }
}

pub fn url(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    for endpoint in [Endpoint::https(text), Endpoint::loopback_http(text)]
        .into_iter()
        .flatten()
    {
        let url = endpoint.uri().to_string();
        let again = Endpoint::https(&url).or_else(|_| Endpoint::loopback_http(&url));
        assert_eq!(
            again.expect("a normalized URL can be parsed").uri(),
            endpoint.uri()
        );
        let authority = endpoint
            .uri()
            .authority()
            .map_or("", |authority| authority.as_str());
        assert!(!authority.contains('@'));
    }
    if let (Ok(issuer), Ok(_)) = (Issuer::https(text), ProofVerifier::default().url(text)) {
        assert_eq!(
            issuer.as_str(),
            text,
            "an issuer is compared as it is written"
        );
    }
}

pub fn metadata(body: &[u8]) {
    let operation = Issuer::https("https://as.example")
        .and_then(|issuer| issuer.discover())
        .expect("an issuer");
    match receive(operation, Response::new(body)) {
        Some(Ok(metadata)) => {
            assert_eq!(metadata.issuer().as_str(), "https://as.example");
            let _ = (
                metadata.dpop_algorithms(),
                metadata
                    .client(ClientAuth::none("app").expect("an id"))
                    .is_ok(),
            );
        }
        Some(Err(error)) => assert_loggable(&error),
        None => {}
    }
}

pub fn session_state(json: &[u8]) {
    if let Ok(stored) = SessionState::from_json(json, &client(), NOW) {
        let written = stored.to_json();
        let again = SessionState::from_json(written.expose(), &client(), NOW)
            .expect("serialized data can be parsed");
        assert_eq!(again.to_json().expose(), written.expose());
    }
    if let Ok(text) = std::str::from_utf8(json) {
        let _ = ServerState::from_json(text, NOW);
        let _ = PendingAuthorization::from_json(text);
    }
}

pub fn redirect(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let endpoint = Endpoint::https("https://as.example/authorize").expect("an https URL");
    let request = client()
        .authorization_endpoint(endpoint)
        .authorization("https://app.example/callback")
        .expect("a URL")
        .scope(Scope::new("openid").expect("a scope"))
        .build([9; 32])
        .expect("a request");
    let pending = request.pending;
    for redirect in [text.to_owned(), format!("{text}&state={}", pending.state())] {
        if let Err(error) = pending.receive(&redirect) {
            assert!(!error.to_string().chars().any(char::is_control), "{error}");
        }
    }
}
