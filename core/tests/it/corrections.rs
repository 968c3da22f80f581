//! What a refused proof teaches: the server's clock, its name for the algorithm. Each is corrected once.

use http::{HeaderMap, Method, Response, StatusCode, Uri};
use keybound_core::driver::{
    Awaiting, PreparedCall, PreparedRequest, RequestContext, Shared, Step, Task,
};
use keybound_core::jose::{Algorithm, SigningKey};
use keybound_core::{
    Call, Cause, Client, ClientAuth, Endpoint, Error, Grant, Operation, Secret, Token, UnixTime,
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
    shared: Shared,
    clock: u64,
    drawn: u8,
}

type Sent = Awaiting<Box<PreparedRequest>, Operation<Token>>;

impl Skewed {
    fn new(algorithm: Algorithm, clock: u64) -> Self {
        let key = SigningKey::generate(algorithm).unwrap();
        let auth = ClientAuth::basic("id", Secret::new("secret")).unwrap();
        let client = Client::new(Endpoint::https("https://as.example/token").unwrap(), auth);
        Self {
            client: client.dpop(key.public().clone()),
            key,
            shared: Shared::new(),
            clock,
            drawn: 0,
        }
    }

    fn context(&mut self) -> RequestContext {
        self.drawn += 1;
        RequestContext::new(UnixTime::from_secs(self.clock), [self.drawn; 16])
    }

    fn start<T: Task>(&mut self, task: T) -> Step<T> {
        let context = self.context();
        let step = self.shared.start(task, context);
        self.sign(step)
    }

    /// Signs for as long as it is asked to.
    fn sign<T: Task>(&mut self, mut step: Step<T>) -> Step<T> {
        while let Step::Sign(signing) = step {
            let signature = self.key.sign(&signing.effect).map_err(Cause::new);
            let context = self.context();
            step = signing.signed(signature, &mut self.shared, context);
        }
        step
    }

    /// Starts a token request.
    fn send(&mut self) -> Sent {
        let operation = self.client.token(Grant::client_credentials()).unwrap();
        sent(self.start(operation))
    }

    fn receive(&mut self, sent: Sent, response: &Response<&str>) -> Step<Operation<Token>> {
        let context = self.context();
        let step = sent.received(response, &mut self.shared, context);
        self.sign(step)
    }

    /// The next request, which follows at once.
    fn again(&mut self, awaiting: Sent, response: &Response<&str>) -> Sent {
        sent(self.receive(awaiting, response))
    }

    fn result(&mut self, sent: Sent, response: &Response<&str>) -> Result<Token, Error> {
        match self.receive(sent, response) {
            Step::Done(result) => result,
            _ => panic!("it goes on"),
        }
    }

    fn token(&mut self) -> Token {
        let sent = self.send();
        self.result(sent, &Response::new(TOKEN)).unwrap()
    }

    /// The headers of a call, which awaits its response.
    fn call(&mut self, call: Call) -> (HeaderMap, Awaiting<PreparedCall, Call>) {
        called(self.start(call))
    }

    fn head(
        &mut self,
        call: Awaiting<PreparedCall, Call>,
        status: u16,
        headers: &HeaderMap,
    ) -> Step<Call> {
        let status = StatusCode::from_u16(status).unwrap();
        let context = self.context();
        let step = call.received(status, headers, &mut self.shared, context);
        self.sign(step)
    }
}

fn sent(step: Step<Operation<Token>>) -> Sent {
    match step {
        Step::Send(sent) => sent,
        step => panic!("the request doesn't follow at once: {step:?}"),
    }
}

fn called(step: Step<Call>) -> (HeaderMap, Awaiting<PreparedCall, Call>) {
    let Step::Call(mut call) = step else {
        panic!("the request doesn't follow at once: {step:?}")
    };
    let mut headers = HeaderMap::new();
    call.effect.headers.apply(&mut headers);
    (headers, call)
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

fn headers(sent: &Sent) -> &HeaderMap {
    sent.effect.request.headers()
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
        let sent = client.send();
        assert_eq!(iat(headers(&sent)), wrong);
        let again = client.again(sent, &refusal(BAD_PROOF, &[]));
        assert_eq!(iat(headers(&again)), NOW, "{wrong}");
        client.clock += 3;
        assert_eq!(iat(headers(&client.send())), NOW + 3, "{wrong}");
    }
}

#[test]
fn a_clock_is_corrected_once_and_for_that_server_alone() {
    let mut client = Skewed::new(Algorithm::Es256, NOW + 120);
    let sent = client.send();
    let again = client.again(sent, &refusal(BAD_PROOF, &[]));
    client.clock += 500;
    assert!(matches!(
        client.result(again, &refusal(BAD_PROOF, &[])),
        Err(Error::Server(_))
    ));

    let token = client.token();
    let (method, uri) = (Method::GET, Uri::from_static("https://rs.example/"));
    let (sent, _) = client.call(token.authorize(&method, &uri).unwrap());
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
        (NOW - 2, BAD_PROOF, &[], false),
        (NOW - 3, BAD_PROOF, &[], true),
        (NOW - 10, BAD_PROOF, &[], true),
        (NOW + 1, BAD_PROOF, &[], true),
    ] {
        let mut client = Skewed::new(Algorithm::Es256, clock);
        let sent = client.send();
        let received = client.receive(sent, &refusal(body, headers));
        assert_eq!(
            matches!(received, Step::Send(_)),
            goes_on,
            "{clock} {body} {headers:?}"
        );
    }
}

#[test]
fn a_correction_that_does_not_help_is_undone() {
    // The server's `Date` is an hour behind, and what it had against the proof was something else.
    let mut client = Skewed::new(Algorithm::Es256, NOW + 3600);
    let sent = client.send();
    let again = client.again(sent, &refusal(BAD_PROOF, &[]));
    assert_eq!(iat(headers(&again)), NOW);
    assert!(matches!(
        client.result(again, &refusal(BAD_PROOF, &[])),
        Err(Error::Server(_))
    ));
    assert_eq!(iat(headers(&client.send())), NOW + 3600);
}

/// Every code by which a resource server may reject a proof, and whether it does so by a challenge for it.
const PROOF_CODES: [&str; 4] = [
    r#"DPoP error="invalid_dpop_proof""#,
    r#"DPoP error="invalid_token""#,
    r#"Bearer error="invalid_token""#,
    r#"DPoP error="invalid_token", error_description="DPoP proof has expired""#,
];

/// The response to a call, with the server's date.
fn dated(challenge: &str, nonce: Option<&str>) -> HeaderMap {
    let mut headers = challenged(challenge);
    headers.insert("date", DATE.parse().unwrap());
    if let Some(nonce) = nonce {
        headers.insert("dpop-nonce", nonce.parse().unwrap());
    }
    headers
}

fn is_rejected(step: &Step<Call>) -> bool {
    matches!(step, Step::Done(Ok(delivered)) if delivered.token_rejected)
}

#[test]
fn a_token_that_is_rejected_for_a_wrong_clock_is_sent_once_more_by_the_servers_clock() {
    let (method, uri) = (Method::GET, Uri::from_static("https://rs.example/"));
    for challenge in PROOF_CODES {
        for (clock, corrected) in [
            (NOW - 86_400, true),
            (NOW - 10, true),
            (NOW - 6, true),
            (NOW - 3, true),
            (NOW - 2, false),
            (NOW, false),
            (NOW + 1, true),
            (NOW + 5, true),
            (NOW + 3600, true),
            (NOW + 32 * 86_400, false),
        ] {
            let mut client = Skewed::new(Algorithm::Es256, clock);
            let token = client.token();
            let call = || token.authorize(&method, &uri).unwrap();
            let (sent, pending) = client.call(call());
            assert_eq!(iat(&sent), clock);
            let step = client.head(pending, 401, &dated(challenge, None));
            assert_eq!(
                matches!(step, Step::Call(_)),
                corrected,
                "{clock} {challenge}"
            );
            if !corrected {
                let rejects = challenge.contains("invalid_token");
                assert_eq!(is_rejected(&step), rejects, "{clock} {challenge}");
                continue;
            }
            let (sent, pending) = called(step);
            assert_eq!(iat(&sent), NOW, "{clock} {challenge}");
            let step = client.head(pending, 200, &HeaderMap::new());
            assert!(is_delivered(&step));
            // It is known from now on.
            let (sent, pending) = client.call(call());
            assert_eq!(iat(&sent), NOW);
            // Where it doesn't help, it is undone.
            client.clock += 3600;
            let step = client.head(pending, 401, &dated(challenge, None));
            if let Step::Call(_) = step {
                let (_, pending) = called(step);
                let step = client.head(pending, 401, &dated(challenge, None));
                assert!(matches!(step, Step::Done(_)), "once");
                let (sent, _) = client.call(call());
                assert_eq!(iat(&sent), clock + 3600, "{clock} {challenge}");
            }
        }
    }
}

#[test]
fn a_clock_correction_that_does_not_make_the_token_good_is_undone() {
    let (method, uri) = (Method::GET, Uri::from_static("https://rs.example/"));
    for challenge in PROOF_CODES {
        let mut client = Skewed::new(Algorithm::Es256, NOW + 3600);
        let token = client.token();
        let call = || token.authorize(&method, &uri).unwrap();
        let (_, pending) = client.call(call());
        let step = client.head(pending, 401, &dated(challenge, None));
        let (sent, pending) = called(step);
        assert_eq!(iat(&sent), NOW);
        let step = client.head(pending, 401, &dated(challenge, None));
        let rejects = challenge.contains("invalid_token");
        assert_eq!(is_rejected(&step), rejects, "{challenge}");
        let (sent, _) = client.call(call());
        assert_eq!(iat(&sent), NOW + 3600, "{challenge}");
    }
}

#[test]
fn a_clock_is_corrected_for_later_calls_though_this_one_can_not_be_sent_again() {
    let (method, uri) = (Method::POST, Uri::from_static("https://rs.example/"));
    for challenge in PROOF_CODES {
        let mut client = Skewed::new(Algorithm::Es256, NOW + 120);
        let token = client.token();
        let call = || token.authorize(&method, &uri).unwrap().single_use_body();
        let (_, pending) = client.call(call());
        let step = client.head(pending, 401, &dated(challenge, None));
        assert!(matches!(step, Step::Done(_)), "{challenge}");
        // It may have been the token's fault, unless the server says whose it was.
        let is_bare = challenge.ends_with("invalid_token\"");
        assert_eq!(is_rejected(&step), is_bare, "{challenge}");
        assert_eq!(iat(&client.call(call()).0), NOW, "{challenge}");
    }
}

#[test]
fn a_new_nonce_with_another_code_than_its_own_is_answered_once() {
    let (method, uri) = (Method::GET, Uri::from_static("https://rs.example/"));
    let nonce = |sent: &HeaderMap| part(sent, 1)["nonce"].as_str().map(str::to_owned);
    for challenge in PROOF_CODES {
        let mut client = Skewed::new(Algorithm::Es256, NOW);
        let token = client.token();
        let (sent, pending) = client.call(token.authorize(&method, &uri).unwrap());
        assert_eq!(nonce(&sent), None);
        let step = client.head(pending, 401, &dated(challenge, Some("n-1")));
        let (sent, pending) = called(step);
        assert_eq!(nonce(&sent).as_deref(), Some("n-1"), "{challenge}");
        // The server that always has another one is not asked for ever.
        let step = client.head(pending, 401, &dated(challenge, Some("n-2")));
        let rejects = challenge.contains("invalid_token");
        assert_eq!(is_rejected(&step), rejects, "{challenge}");
        assert!(matches!(step, Step::Done(Ok(_))), "{challenge}");
        let (sent, pending) = client.call(token.authorize(&method, &uri).unwrap());
        assert_eq!(nonce(&sent).as_deref(), Some("n-2"));
        // The nonce that was sent is none.
        let step = client.head(pending, 401, &dated(challenge, Some("n-2")));
        assert!(matches!(step, Step::Done(Ok(_))), "{challenge}");
    }
    for code in [
        BAD_PROOF,
        r#"{"error":"invalid_request","error_description":"invalid DPoP proof"}"#,
    ] {
        let mut client = Skewed::new(Algorithm::Es256, NOW);
        let sent = client.send();
        let again = client.again(sent, &refusal(code, &[("dpop-nonce", "n-1")]));
        assert_eq!(nonce(headers(&again)).as_deref(), Some("n-1"), "{code}");
        let end = client.result(again, &refusal(code, &[("dpop-nonce", "n-2")]));
        assert!(matches!(end, Err(Error::Server(_))), "{code}");
    }
    for code in [
        r#"{"error":"invalid_grant"}"#,
        r#"{"error":"invalid_request"}"#,
        r#"{"error":"invalid_client"}"#,
        "",
    ] {
        let mut client = Skewed::new(Algorithm::Es256, NOW);
        let sent = client.send();
        let end = client.result(sent, &refusal(code, &[("dpop-nonce", "n-1")]));
        assert!(matches!(end, Err(Error::Server(_))), "{code}");
    }
}

#[test]
fn no_server_gets_a_proof_for_the_far_future() {
    let mut client = Skewed::new(Algorithm::Es256, NOW - 32 * 86_400);
    let sent = client.send();
    assert!(matches!(
        client.result(sent, &refusal(BAD_PROOF, &[])),
        Err(Error::Server(_))
    ));
}

#[test]
fn nonce_and_clock_may_both_have_to_be_corrected() {
    let mut client = Skewed::new(Algorithm::Es256, NOW + 120);
    let sent = client.send();
    let nonce = refusal(r#"{"error":"use_dpop_nonce"}"#, &[("dpop-nonce", "n-1")]);
    let again = client.again(sent, &nonce);
    let again = client.again(again, &refusal(BAD_PROOF, &[]));
    assert_eq!(
        (iat(headers(&again)), &part(headers(&again), 1)["nonce"]),
        (NOW, &"n-1".into())
    );
    assert!(client.result(again, &Response::new(TOKEN)).is_ok());
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
        let call = || token.authorize(&method, &uri).unwrap();
        let (sent, pending) = client.call(call());
        assert_eq!(alg(&sent), named.as_str());
        match (client.head(pending, 401, &challenged(&challenge)), goes_on) {
            (step @ Step::Call(_), Some(other)) => {
                let (sent, pending) = called(step);
                assert_eq!(alg(&sent), other);
                let taken = client.head(pending, 200, &HeaderMap::new());
                assert!(is_delivered(&taken));
                let (sent, pending) = client.call(call());
                assert_eq!(alg(&sent), other);
                // Where it doesn't help either, the name is ours again.
                let odd = challenged("DPoP error=\"invalid_dpop_proof\"");
                assert!(is_delivered(&client.head(pending, 401, &odd)));
                assert_eq!(alg(&client.call(call()).0), named.as_str());
            }
            (step, None) => assert!(is_delivered(&step)),
            (step, _) => panic!("{named} {announced}: {step:?}"),
        }
    }
}

fn challenged(challenge: &str) -> HeaderMap {
    let name = "www-authenticate".parse().unwrap();
    HeaderMap::from_iter([(name, challenge.parse().unwrap())])
}

/// Whether the response is the application's, and no refusal of its token.
fn is_delivered(step: &Step<Call>) -> bool {
    matches!(step, Step::Done(Ok(delivered)) if !delivered.token_rejected)
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
        let sent = client.send();
        match client.result(sent, &Response::new(&answer)) {
            Ok(_) => assert!(bound, "{claims}"),
            Err(Error::Response(bad)) => {
                assert!(
                    !bound && *bad.kind() == keybound_core::InvalidResponseKind::KeyMismatch,
                    "{claims}"
                );
            }
            Err(other) => panic!("{other}"),
        }
    }
}
