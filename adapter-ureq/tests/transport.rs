//! The loop over real sockets: what a server does to it, and what it does about that.

#![cfg(test)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use keybound_ureq::driver::MAX_RESPONSE;
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::{
    Client, ClientAuth, Endpoint, Error, Event, Grant, InvalidResponseKind, Retry, Secret, Sent,
    Token, Transport,
};
use ureq::config::Config;
use ureq::http::{self, Uri};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

const TOKEN: &str = r#"{"access_token":"abc","token_type":"Bearer","expires_in":60}"#;

/// A server that gives each connection the next of `answers`, whole bytes, and hands on what it was sent.
/// `None` hangs up without an answer.
fn server(answers: Vec<Option<String>>) -> (String, Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let (sent, received) = channel();
    thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = sent.send(read_request(&mut stream));
            if let Some(answer) = answer {
                // A client that has seen enough may hang up.
                let _ = stream.write_all(answer.as_bytes());
            }
        }
    });
    (url, received)
}

/// Up to the end of the head, and of the body that it announces.
fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let text = String::from_utf8_lossy(&request).to_lowercase();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .split("content-length: ")
                .nth(1)
                .and_then(|rest| rest.lines().next());
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return String::from_utf8(request).unwrap();
            }
        }
        match stream.read(&mut chunk).unwrap() {
            0 => return String::from_utf8(request).unwrap(),
            read => request.extend(&chunk[..read]),
        }
    }
}

fn answer(head: &str, body: &str) -> Option<String> {
    Some(format!(
        "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    ))
}

fn client(url: &str) -> Client {
    let auth = ClientAuth::basic("id", Secret::new("secret")).unwrap();
    Client::new(Endpoint::loopback_http(url).unwrap(), auth)
}

fn get_token(url: &str) -> Result<Token, Error> {
    Transport::new().execute(client(url).token(Grant::client_credentials()).unwrap())
}

fn refresh(url: &str) -> Result<Token, Error> {
    Transport::new().execute(
        client(url)
            .token(Grant::refresh_token(Secret::new("rt")).unwrap())
            .unwrap(),
    )
}

fn bad(result: Result<Token, Error>) -> InvalidResponseKind {
    match result.unwrap_err() {
        Error::Response(bad) => bad.kind().clone(),
        other => panic!("{other:?}"),
    }
}

fn lost(result: Result<Token, Error>) -> Sent {
    match result.unwrap_err() {
        Error::NoResponse(lost) => lost.sent(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_error_status_is_an_answer_and_every_header_passes() {
    let (url, _) = server(vec![answer(
        "400 Bad Request\r\nX-Request-Id: r-1\r\nRetry-After: 7",
        r#"{"error":"invalid_scope","error_description":"no such scope"}"#,
    )]);
    let Error::Server(error) = get_token(&url).unwrap_err() else {
        panic!()
    };
    assert_eq!(
        (error.code(), error.request_id()),
        (Some("invalid_scope"), Some("r-1"))
    );
    assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
}

#[test]
fn an_answer_that_is_cut_off_is_a_lost_one_and_observers_are_told() {
    let (url, _) = server(vec![Some(format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{TOKEN}",
        1000
    ))]);
    let told = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&told);
    let transport = Transport::new().on_event(move |event| {
        let kind = match event {
            Event::RequestSent { .. } => "sending",
            Event::NoResponse { .. } => "lost",
            _ => "other",
        };
        seen.lock().unwrap().push(kind);
    });
    let grant = Grant::refresh_token(Secret::new("rt")).unwrap();
    assert_eq!(
        lost(transport.execute(client(&url).token(grant).unwrap())),
        Sent::Maybe
    );
    assert_eq!(*told.lock().unwrap(), ["sending", "lost"]);
}

#[test]
fn no_redirection_is_followed() {
    let (elsewhere, reached) = server(vec![answer("200 OK", TOKEN)]);
    for status in [
        "301 Moved Permanently",
        "302 Found",
        "303 See Other",
        "307 Temporary Redirect",
        "308 Permanent Redirect",
    ] {
        let (url, _) = server(vec![answer(
            &format!("{status}\r\nLocation: {elsewhere}"),
            "",
        )]);
        assert_eq!(
            bad(get_token(&url)),
            InvalidResponseKind::Redirect,
            "{status}"
        );
    }
    assert!(reached.try_recv().is_err());
}

#[test]
fn a_body_over_the_limit_is_read_no_further_than_that() {
    let (url, _) = server(vec![answer("200 OK", &" ".repeat(MAX_RESPONSE + 1))]);
    assert_eq!(bad(get_token(&url)), InvalidResponseKind::TooLarge);
    let padded = format!("{TOKEN}{}", " ".repeat(MAX_RESPONSE - TOKEN.len()));
    let (url, _) = server(vec![answer("200 OK", &padded)]);
    assert!(get_token(&url).is_ok());
}

#[test]
fn a_refused_connection_has_sent_nothing() {
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let url = format!("http://{free}/token");
    let operation = client(&url)
        .token(Grant::refresh_token(Secret::new("rt")).unwrap())
        .unwrap();
    let result = Transport::new()
        .timeout(Duration::from_millis(300))
        .execute(operation);
    assert_eq!(result.as_ref().unwrap_err().retry(), Retry::Later(None));
    assert_eq!(lost(result), Sent::No);
}

#[test]
fn a_lost_answer_is_asked_for_again_only_where_that_does_no_harm() {
    let (url, requests) = server(vec![None, answer("200 OK", TOKEN)]);
    assert!(get_token(&url).is_ok());
    assert_eq!(requests.iter().count(), 2);

    let (url, requests) = server(vec![None, answer("200 OK", TOKEN)]);
    assert_eq!(lost(refresh(&url)), Sent::Maybe);
    assert_eq!(requests.try_iter().count(), 1);
}

#[test]
fn an_answer_that_is_cut_short_is_a_lost_one() {
    let cut =
        "HTTP/1.1 200 OK\r\nContent-Length: 500\r\nConnection: close\r\n\r\n{\"access_token\":";
    let (url, _) = server(vec![Some(cut.into())]);
    assert_eq!(lost(refresh(&url)), Sent::Maybe);
}

#[test]
fn a_refusal_is_one_however_little_of_its_body_comes() {
    let cut = "HTTP/1.1 400 Bad Request\r\nContent-Length: 500\r\nConnection: close\r\n\r\n{\"error\":\"invalid_grant\"}";
    let (url, _) = server(vec![Some(cut.into())]);
    let error = refresh(&url).unwrap_err();
    assert_eq!(error.retry(), Retry::Reauthenticate);
}

#[test]
fn a_post_without_a_body_says_so() {
    let (url, requests) = server(vec![answer("200 OK", TOKEN), answer("204 No Content", "")]);
    let token = get_token(&url).unwrap();
    let request = http::Request::post(url.replace("token", "things"))
        .body("")
        .unwrap();
    assert_eq!(
        Transport::new().send(&token, request).unwrap().status(),
        204
    );
    let call = requests.iter().nth(1).unwrap().to_lowercase();
    assert!(
        call.contains("\r\ncontent-length: 0\r\n") && !call.contains("transfer-encoding"),
        "{call}"
    );
}

#[test]
fn a_server_that_says_nothing_costs_the_budget_and_no_more() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/token", listener.local_addr().unwrap());
    let started = Instant::now();
    let transport = Transport::new().timeout(Duration::from_millis(300));
    let result = transport.execute(client(&url).token(Grant::client_credentials()).unwrap());
    assert_eq!(lost(result), Sent::Maybe);
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_wait_beyond_the_budget_is_not_begun() {
    let (url, _) = server(vec![answer("429 Too Many Requests\r\nRetry-After: 60", "")]);
    let error = get_token(&url).unwrap_err();
    assert_eq!(error.retry(), Retry::Later(Some(Duration::from_secs(60))));
}

#[test]
fn a_short_wait_is_waited() {
    let (url, requests) = server(vec![
        answer("429 Too Many Requests\r\nretry-after-ms: 120", ""),
        answer("200 OK", TOKEN),
    ]);
    let started = Instant::now();
    assert!(get_token(&url).is_ok());
    assert!(started.elapsed() >= Duration::from_millis(120));
    assert_eq!(requests.iter().count(), 2);
}

#[test]
fn a_bound_token_without_a_signer_is_a_clear_error() {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let client = client("http://127.0.0.1:9/token").dpop(key.public().clone());
    let result = Transport::new().execute(client.token(Grant::client_credentials()).unwrap());
    assert!(matches!(result, Err(Error::Signer(_))));
}

#[test]
fn a_closure_can_sign() {
    let (url, requests) = server(vec![answer("200 OK", &TOKEN.replace("Bearer", "DPoP"))]);
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let client = client(&url).dpop(key.public().clone());
    let transport =
        Transport::new().signer(move |request: &keybound_ureq::SignRequest| Ok(key.sign(request)?));
    transport
        .execute(client.token(Grant::client_credentials()).unwrap())
        .unwrap();
    assert!(
        requests
            .recv()
            .unwrap()
            .to_lowercase()
            .contains("\r\ndpop: ey")
    );
}

#[test]
fn a_call_sends_the_body_again_after_a_challenge_and_delivers_every_status() {
    let challenge =
        "401 Unauthorized\r\nWWW-Authenticate: DPoP error=\"use_dpop_nonce\"\r\nDPoP-Nonce: n-1";
    let (url, requests) = server(vec![
        answer("200 OK", &TOKEN.replace("Bearer", "DPoP")),
        answer(challenge, ""),
        answer("404 Not Found", "gone"),
    ]);
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let client = client(&url).dpop(key.public().clone());
    let transport = Transport::new().signer(key);
    let token = transport
        .execute(client.token(Grant::client_credentials()).unwrap())
        .unwrap();
    let request = http::Request::post(url.replace("token", "things?x=1"))
        .body("the body")
        .unwrap();
    let mut response = transport.send(&token, request).unwrap();
    assert_eq!(response.status(), 404);
    assert_eq!(response.body_mut().read_to_string().unwrap(), "gone");
    let calls: Vec<String> = requests.iter().skip(1).collect();
    assert_eq!(calls.len(), 2);
    for call in &calls {
        assert!(call.starts_with("POST /things?x=1 HTTP/1.1\r\n"));
        assert!(call.ends_with("\r\n\r\nthe body"));
    }
    assert_ne!(calls[0], calls[1]);
}

/// Notes whether a look-up may take only so long, for which ureq starts a thread.
#[derive(Debug, Default)]
struct LookUps {
    limited: Arc<Mutex<Vec<bool>>>,
    resolver: DefaultResolver,
}

impl Resolver for LookUps {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        self.limited
            .lock()
            .unwrap()
            .push(!timeout.after.is_not_happening());
        self.resolver.resolve(uri, config, timeout)
    }
}

#[test]
fn a_name_is_looked_up_within_the_budget_unless_its_server_has_just_answered() {
    let ok = || answer("200 OK", "");
    let (token_url, _) = server(vec![answer("200 OK", TOKEN), answer("200 OK", TOKEN)]);
    let (url, _) = server(vec![ok(), ok(), None, ok()]);
    let look_ups = LookUps::default();
    let limited = Arc::clone(&look_ups.limited);
    let agent = ureq::Agent::with_parts(Config::default(), DefaultConnector::default(), look_ups);
    let transport = Transport::with_agent(agent);
    let token = || {
        transport
            .execute(
                client(&token_url)
                    .token(Grant::client_credentials())
                    .unwrap(),
            )
            .unwrap()
    };
    let call = |token| {
        let request = http::Request::post(&url).body("").unwrap();
        transport
            .send(token, request)
            .map(|response| response.status().as_u16())
    };
    // What may use something up is always limited.
    token();
    let token = token();
    assert_eq!(call(&token).unwrap(), 200);
    assert_eq!(call(&token).unwrap(), 200);
    assert!(call(&token).is_err());
    assert_eq!(call(&token).unwrap(), 200);
    assert_eq!(
        *limited.lock().unwrap(),
        [true, true, true, false, false, true]
    );
}

#[test]
fn a_token_goes_to_no_plain_http_host_but_this_machine() {
    let (url, _) = server(vec![answer("200 OK", TOKEN)]);
    let token = get_token(&url).unwrap();
    let request = http::Request::get("http://rs.example/").body("").unwrap();
    let error = Transport::new().send(&token, request).unwrap_err();
    assert!(matches!(error, Error::InvalidInput(_)), "{error:?}");
}

#[test]
fn a_device_waits_for_its_person_longer_than_a_request_may_take() {
    let code = r#"{"device_code":"c","user_code":"u","verification_uri":"https://as.example/","expires_in":60,"interval":1}"#;
    let pending = || answer("400 Bad Request", r#"{"error":"authorization_pending"}"#);
    let (url, asked) = server(vec![
        answer("200 OK", code),
        pending(),
        pending(),
        answer("200 OK", TOKEN),
    ]);
    let at = Endpoint::loopback_http(&url).unwrap();
    let client =
        Client::new(at.clone(), ClientAuth::none("tv").unwrap()).device_authorization_endpoint(at);
    let transport = Transport::new().timeout(Duration::from_millis(1500));
    let began = Instant::now();
    let device = transport
        .execute(client.device_authorization(None).unwrap())
        .unwrap();
    let token = transport
        .execute(client.token(device.grant()).unwrap())
        .unwrap();
    assert_eq!(token.access_token().expose(), "abc");
    assert!(
        began.elapsed() >= Duration::from_secs(3),
        "a second before each question"
    );
    assert_eq!(asked.iter().count(), 4);
}

/// Knows no addresses but public ones: what an application needs whose users choose issuers (see SECURITY.md).
#[derive(Debug)]
struct PublicOnly(DefaultResolver);

impl Resolver for PublicOnly {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let found = self.0.resolve(uri, config, timeout)?;
        if found.iter().any(|address| address.ip().is_loopback()) {
            return Err(ureq::Error::HostNotFound);
        }
        Ok(found)
    }
}

#[test]
fn a_resolver_of_the_applications_says_where_connections_may_go() {
    let (url, requests) = server(vec![answer("200 OK", TOKEN)]);
    let agent = ureq::Agent::with_parts(
        Config::default(),
        DefaultConnector::default(),
        PublicOnly(DefaultResolver::default()),
    );
    let transport = Transport::with_agent(agent).timeout(Duration::from_secs(1));
    let error = transport
        .execute(client(&url).token(Grant::client_credentials()).unwrap())
        .unwrap_err();
    assert!(
        matches!(&error, Error::NoResponse(lost) if lost.sent() == Sent::No),
        "{error:?}"
    );
    assert!(requests.try_recv().is_err());
}
