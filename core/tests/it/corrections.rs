//! What a refused proof teaches: the server's clock, its name for the algorithm. Each is corrected once.

use http::{HeaderMap, Method, Request, Response, Uri};
use keybound_core::driver::{
    Body, PendingResponse, PreparedCall, PreparedRequest, RequestContext, ServerState, Step,
    Verdict,
};
use keybound_core::jose::{Algorithm, SigningKey};
use keybound_core::{
    Client, ClientAuth, Endpoint, Error, Grant, Operation, Secret, Token, UnixTime,
};
use serde_json::Value;

/// 2026-11-22T00:00:00Z
const NOW: u64 = 1_795_305_600;
const DATE: &str = "Sun, 22 Nov 2026 00:00:00 GMT";

const TOKEN: &str = r#"{"access_token":"abc","token_type":"DPoP"}"#;

/// A client whose clock may be wrong, and all that it knows.
struct Skewed {
    key: SigningKey,
    client: Client,
    server_state: ServerState,
    clock: u64,
    drawn: u8,
}

impl Skewed {
    fn new(algorithm: Algorithm, clock: u64) -> Self {
        let key = SigningKey::generate(algorithm).unwrap();
        let auth = ClientAuth::basic("id", Secret::new("secret")).unwrap();
        let client = Client::new(Endpoint::https("https://as.example/token").unwrap(), auth);
        Self {
            client: client.dpop(key.public().clone()),
            key,
            server_state: ServerState::new(),
            clock,
            drawn: 0,
        }
    }

    fn now(&self) -> UnixTime {
        UnixTime::from_secs(self.clock)
    }

    fn context(&mut self) -> RequestContext {
        self.drawn += 1;
        RequestContext::new(self.now(), [self.drawn; 16])
    }

    fn operation(&self) -> Operation<Token> {
        self.client.token(Grant::client_credentials()).unwrap()
    }

    fn send(&mut self, operation: Operation<Token>) -> (Request<Body>, PendingResponse<Token>) {
        let context = self.context();
        let signing = operation.prepare(&self.server_state, context).unwrap();
        let PreparedRequest { request, pending } =
            signing.finish(|request| self.key.sign(request)).unwrap();
        (request, pending)
    }

    fn receive(
        &mut self,
        pending: PendingResponse<Token>,
        response: Response<&str>,
    ) -> Result<Step<Token>, Error> {
        let now = self.now();
        pending.receive(response, &mut self.server_state, now)
    }

    fn again(
        &mut self,
        pending: PendingResponse<Token>,
        response: Response<&str>,
    ) -> Operation<Token> {
        match self.receive(pending, response).unwrap() {
            Step::RetryAfter(operation) => operation,
            Step::Done(_) => panic!("the operation goes on"),
        }
    }

    fn token(&mut self) -> Token {
        let operation = self.operation();
        let (_, pending) = self.send(operation);
        match self.receive(pending, Response::new(TOKEN)).unwrap() {
            Step::Done(token) => token,
            Step::RetryAfter(_) => panic!("this is the token"),
        }
    }
}

fn refusal(code: &'static str, headers: &[(&str, &str)]) -> Response<&'static str> {
    let mut response = Response::builder().status(400).header("date", DATE);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(code).unwrap()
}

const BAD_PROOF: &str = r#"{"error":"invalid_dpop_proof"}"#;

fn part(headers: &HeaderMap, at: usize) -> Value {
    use base64::Engine as _;
    let part = headers["dpop"]
        .to_str()
        .unwrap()
        .split('.')
        .nth(at)
        .unwrap();
    let json = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(part)
        .unwrap();
    serde_json::from_slice(&json).unwrap()
}

fn iat(headers: &HeaderMap) -> u64 {
    part(headers, 1)["iat"].as_u64().unwrap()
}

fn alg(headers: &HeaderMap) -> String {
    part(headers, 0)["alg"].as_str().unwrap().to_owned()
}

#[test]
fn a_clock_that_is_wrong_is_corrected_by_the_refusal_and_stays_so() {
    for wrong in [NOW - 86_400, NOW - 120, NOW + 2, NOW + 120, NOW + 86_400] {
        let mut client = Skewed::new(Algorithm::Es256, wrong);
        let operation = client.operation();
        let (request, pending) = client.send(operation);
        assert_eq!(iat(request.headers()), wrong);
        let operation = client.again(pending, refusal(BAD_PROOF, &[]));
        assert!(operation.delay().is_zero());
        client.clock += 3;
        let (request, _) = client.send(operation);
        assert_eq!(iat(request.headers()), NOW + 3, "{wrong}");
        let next = client.operation();
        assert_eq!(iat(client.send(next).0.headers()), NOW + 3, "{wrong}");
    }
}

#[test]
fn a_clock_is_corrected_once_and_for_that_server_alone() {
    let mut client = Skewed::new(Algorithm::Es256, NOW + 120);
    let operation = client.operation();
    let (_, pending) = client.send(operation);
    let operation = client.again(pending, refusal(BAD_PROOF, &[]));
    client.clock += 500;
    let (_, pending) = client.send(operation);
    assert!(matches!(
        client.receive(pending, refusal(BAD_PROOF, &[])),
        Err(Error::Server(_))
    ));

    let token = client.token();
    let (method, uri) = (Method::GET, Uri::from_static("https://rs.example/"));
    let context = client.context();
    let signing = token
        .authorize(&method, &uri)
        .unwrap()
        .prepare(&client.server_state, context)
        .unwrap();
    let PreparedCall { headers, .. } = signing.finish(|request| client.key.sign(request)).unwrap();
    let mut sent = HeaderMap::new();
    headers.apply(&mut sent);
    assert_eq!(iat(&sent), NOW + 620);
}

#[test]
fn a_refusal_that_is_not_the_clocks_fault_teaches_no_time() {
    let keycloak = r#"{"error":"invalid_request","error_description":"DPoP proof is not active"}"#;
    let other = r#"{"error":"invalid_request","error_description":"scope is odd"}"#;
    for (clock, body, headers, goes_on) in [
        (NOW + 120, keycloak, &[][..], true),
        (NOW + 120, other, &[], false),
        (NOW + 120, r#"{"error":"invalid_grant"}"#, &[], false),
        (NOW + 120, BAD_PROOF, &[("age", "120")], false),
        (NOW, BAD_PROOF, &[], false),
        (NOW - 10, BAD_PROOF, &[], false),
        (NOW - 11, BAD_PROOF, &[], true),
        (NOW + 1, BAD_PROOF, &[], true),
    ] {
        let mut client = Skewed::new(Algorithm::Es256, clock);
        let operation = client.operation();
        let (_, pending) = client.send(operation);
        let received = client.receive(pending, refusal(body, headers));
        assert_eq!(
            matches!(received, Ok(Step::RetryAfter(_))),
            goes_on,
            "{clock} {body} {headers:?}"
        );
    }
}

#[test]
fn a_correction_that_does_not_help_is_undone() {
    // The server's `Date` is an hour behind, and what it had against the proof was something else.
    let mut client = Skewed::new(Algorithm::Es256, NOW + 3600);
    let operation = client.operation();
    let (_, pending) = client.send(operation);
    let operation = client.again(pending, refusal(BAD_PROOF, &[]));
    let (request, pending) = client.send(operation);
    assert_eq!(iat(request.headers()), NOW);
    assert!(matches!(
        client.receive(pending, refusal(BAD_PROOF, &[])),
        Err(Error::Server(_))
    ));
    let next = client.operation();
    assert_eq!(iat(client.send(next).0.headers()), NOW + 3600);
}

#[test]
fn no_server_gets_a_proof_for_the_far_future() {
    let mut client = Skewed::new(Algorithm::Es256, NOW - 32 * 86_400);
    let operation = client.operation();
    let (_, pending) = client.send(operation);
    assert!(matches!(
        client.receive(pending, refusal(BAD_PROOF, &[])),
        Err(Error::Server(_))
    ));
}

#[test]
fn nonce_and_clock_may_both_have_to_be_corrected() {
    let mut client = Skewed::new(Algorithm::Es256, NOW + 120);
    let operation = client.operation();
    let (_, pending) = client.send(operation);
    let nonce = refusal(r#"{"error":"use_dpop_nonce"}"#, &[("dpop-nonce", "n-1")]);
    let operation = client.again(pending, nonce);
    let (_, pending) = client.send(operation);
    let operation = client.again(pending, refusal(BAD_PROOF, &[]));
    let (request, pending) = client.send(operation);
    assert_eq!(
        (iat(request.headers()), &part(request.headers(), 1)["nonce"]),
        (NOW, &"n-1".into())
    );
    assert!(matches!(
        client.receive(pending, Response::new(TOKEN)),
        Ok(Step::Done(_))
    ));
}

#[test]
fn ed25519_goes_by_the_name_that_a_challenge_announces_from_then_on() {
    for (named, announced, goes_on) in [
        (Algorithm::EdDsa, "ES256 Ed25519", Some("Ed25519")),
        (Algorithm::Ed25519, "ES256 EdDSA", Some("EdDSA")),
        (Algorithm::EdDsa, "EdDSA Ed25519", None),
        (Algorithm::EdDsa, "ES256 RS256", None),
        (Algorithm::Es256, "Ed25519", None),
    ] {
        let mut client = Skewed::new(named, NOW);
        let token = client.token();
        let (method, uri) = (Method::GET, Uri::from_static("https://rs.example/"));
        let challenge = format!("Bearer, DPoP algs=\"{announced}\", error=\"invalid_dpop_proof\"");
        let refusal = HeaderMap::from_iter([(
            "www-authenticate".parse().unwrap(),
            challenge.parse().unwrap(),
        )]);

        let send = |client: &mut Skewed, call: keybound_core::driver::ResourceCall| {
            let context = client.context();
            let signing = call.prepare(&client.server_state, context).unwrap();
            let PreparedCall { headers, pending } =
                signing.finish(|request| client.key.sign(request)).unwrap();
            let mut sent = HeaderMap::new();
            headers.apply(&mut sent);
            (alg(&sent), pending)
        };
        let (name, pending) = send(&mut client, token.authorize(&method, &uri).unwrap());
        assert_eq!(name, named.as_str());
        let now = client.now();
        let judged = pending
            .verdict(
                http::StatusCode::UNAUTHORIZED,
                &refusal,
                &mut client.server_state,
                now,
            )
            .unwrap();
        match (judged, goes_on) {
            (Verdict::RetryAfter(call), Some(other)) => {
                let (name, pending) = send(&mut client, call);
                assert_eq!(name, other);
                let taken = pending.verdict(
                    http::StatusCode::OK,
                    &HeaderMap::new(),
                    &mut client.server_state,
                    now,
                );
                assert!(matches!(taken, Ok(Verdict::Deliver)));
                let (name, pending) = send(&mut client, token.authorize(&method, &uri).unwrap());
                assert_eq!(name, other);
                // Where it doesn't help either, the name is ours again.
                let odd = HeaderMap::from_iter([(
                    "www-authenticate".parse().unwrap(),
                    "DPoP error=\"invalid_dpop_proof\"".parse().unwrap(),
                )]);
                let refused = pending.verdict(
                    http::StatusCode::UNAUTHORIZED,
                    &odd,
                    &mut client.server_state,
                    now,
                );
                assert!(matches!(refused, Ok(Verdict::Deliver)));
                assert_eq!(
                    send(&mut client, token.authorize(&method, &uri).unwrap()).0,
                    named.as_str()
                );
            }
            (Verdict::Deliver, None) => {}
            (judged, _) => panic!("{named} {announced}: {judged:?}"),
        }
    }
}

#[test]
fn a_jwt_that_is_bound_to_another_key_is_refused() {
    use base64::Engine as _;
    let encode = |json: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(json);
    let mut client = Skewed::new(Algorithm::Es256, NOW);
    let own = client.key.public().thumbprint().to_owned();
    for (claims, bound) in [
        (format!(r#"{{"cnf":{{"jkt":"{own}"}}}}"#), true),
        (
            r#"{"cnf":{"jkt":"0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"}}"#.into(),
            false,
        ),
        (r#"{"cnf":{"x5t#S256":"x"}}"#.into(), true),
        (r#"{"sub":"me"}"#.into(), true),
        ("not JSON".into(), true),
    ] {
        let jwt = format!(
            "{}.{}.AA",
            encode(r#"{"alg":"ES256","typ":"at+jwt"}"#),
            encode(&claims)
        );
        let answer = TOKEN.replace("abc", &jwt);
        let operation = client.operation();
        let (_, pending) = client.send(operation);
        match client.receive(pending, Response::new(&answer)) {
            Ok(Step::Done(_)) => assert!(bound, "{claims}"),
            Err(Error::Response(bad)) => {
                assert!(
                    !bound && *bad.kind() == keybound_core::InvalidResponseKind::KeyMismatch,
                    "{claims}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}
