//! Connections that servers keep or close, and the requests that are sent over them.

#![cfg(test)]

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, SystemTime};

use keybound_ureq::dpop::{Proof, ProofVerifier, VerifiedProof};
use keybound_ureq::driver::RequestContext;
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::{
    Client, ClientAuth, Endpoint, Error, Event, Grant, Operation, Secret, Sent, Token, Transport,
};
use socket2::SockRef;
use ureq::http::{Method, Uri};

/// When a server closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Closes {
    Never,
    AfterResponse,
    /// Without an answer.
    AtSecondRequest,
    /// Without an answer, and by a reset.
    ResetsAtSecondRequest,
}

struct Server {
    url: String,
    /// The number of the connection of each request, and its text in lower case.
    requests: Receiver<(usize, String)>,
    /// A message for each connection that is closed.
    closed: Receiver<()>,
}

impl Server {
    /// Starts a server whose responses begin with this status line, or more.
    fn start(head: &'static str, closes: Closes) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token", listener.local_addr().unwrap());
        let ((sender, requests), (closing, closed)) = (channel(), channel());
        thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let (sender, closing) = (sender.clone(), closing.clone());
                thread::spawn(move || {
                    serve(stream, head, closes, |request| {
                        let _ = sender.send((number, request));
                    });
                    let _: Result<(), _> = Sender::send(&closing, ());
                });
            }
        });
        Self {
            url,
            requests,
            closed,
        }
    }

    fn client(&self) -> Client {
        let auth = ClientAuth::basic("id", Secret::new("secret")).unwrap();
        Client::new(Endpoint::loopback_http(&self.url).unwrap(), auth)
    }

    fn client_credentials(&self) -> Operation<Token> {
        let grant = Grant::client_credentials();
        self.client().token(grant).unwrap()
    }

    fn refresh(&self) -> Operation<Token> {
        let grant = Grant::refresh_token(Secret::new("rt")).unwrap();
        self.client().token(grant).unwrap()
    }

    fn relay(&self) -> Operation<Token> {
        let grant = Grant::client_credentials();
        self.client().relay(grant, self.proof()).unwrap()
    }

    /// A proof with a random `jti`, as a browser makes it.
    fn proof(&self) -> VerifiedProof {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let uri: Uri = self.url.parse().unwrap();
        let now = SystemTime::now().into();
        let context = RequestContext::new(now, fastrand::u128(..).to_be_bytes());
        let proof = Proof::build(key.public(), &Method::POST, &uri)
            .unwrap()
            .prepare(context)
            .finish(|request| key.sign(request))
            .unwrap();
        let inspection = ProofVerifier::default().verify(proof.as_str(), now);
        inspection.verified().unwrap()
    }

    /// The numbers of the connections of the requests until now.
    fn connections(&self) -> Vec<usize> {
        self.requests
            .try_iter()
            .map(|(connection, _)| connection)
            .collect()
    }
}

fn serve(mut stream: TcpStream, head: &str, closes: Closes, seen: impl Fn(String)) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    for number in 0.. {
        let Some(request) = read(&mut reader) else {
            return;
        };
        let is_bound = request.contains("\r\ndpop: ");
        seen(request);
        match closes {
            Closes::AtSecondRequest if number == 1 => return,
            Closes::ResetsAtSecondRequest if number == 1 => {
                let socket = SockRef::from(&stream);
                return socket.set_linger(Some(Duration::ZERO)).unwrap();
            }
            _ => {}
        }
        let kind = if is_bound { "DPoP" } else { "Bearer" };
        let body = format!(r#"{{"access_token":"abc","token_type":"{kind}","expires_in":60}}"#);
        let length = body.len();
        let response = format!("{head}\r\nContent-Length: {length}\r\n\r\n{body}");
        stream.write_all(response.as_bytes()).unwrap();
        if closes == Closes::AfterResponse {
            return;
        }
    }
}

/// `None` if the client has closed the connection.
fn read(reader: &mut BufReader<TcpStream>) -> Option<String> {
    let mut request = String::new();
    while !request.ends_with("\r\n\r\n") {
        if reader.read_line(&mut request).ok()? == 0 {
            return None;
        }
    }
    let request = request.to_lowercase();
    let (_, length) = request.split_once("content-length: ")?;
    let length = length.lines().next()?.parse().unwrap();
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(request + &String::from_utf8(body).unwrap())
}

#[test]
fn repeatable_requests_share_a_connection() {
    let server = Server::start("HTTP/1.1 200 OK", Closes::Never);
    let transport = Transport::new();
    for _ in 0..40 {
        transport.execute(server.client_credentials()).unwrap();
    }
    assert_eq!(server.connections(), [0; 40]);
}

#[test]
fn relays_share_a_connection_unless_it_has_been_idle_for_a_second() {
    let server = Server::start("HTTP/1.1 200 OK", Closes::Never);
    let transport = Transport::new();
    let [first, second, third, last] = std::array::from_fn(|_| server.relay());
    for relay in [first, second, third] {
        transport.execute(relay).unwrap();
    }
    thread::sleep(Duration::from_millis(1100));
    transport.execute(last).unwrap();
    assert_eq!(server.connections(), [0, 0, 0, 1]);
}

#[test]
fn each_single_use_grant_is_sent_over_a_connection_of_its_own() {
    let server = Server::start("HTTP/1.1 200 OK", Closes::Never);
    let transport = Transport::new();
    transport.execute(server.client_credentials()).unwrap();
    for _ in 0..3 {
        transport.execute(server.refresh()).unwrap();
    }
    assert_eq!(server.connections(), [0, 1, 2, 3]);
}

#[test]
fn a_connection_that_a_server_has_closed_costs_no_request() {
    let server = Server::start("HTTP/1.1 200 OK", Closes::AfterResponse);
    let transport = Transport::new();
    for number in 0..40 {
        let operation = match number % 2 {
            0 => server.client_credentials(),
            _ => server.relay(),
        };
        transport.execute(operation).unwrap();
        server.closed.recv().unwrap();
    }
    assert_eq!(server.connections(), (0..40).collect::<Vec<_>>());
}

#[test]
fn a_connection_that_ends_with_its_response_is_not_used_again() {
    for head in [
        "HTTP/1.0 200 OK",
        "HTTP/1.1 200 OK\r\nConnection: close",
        "HTTP/1.1 200 OK\r\nConnection: Close",
    ] {
        let server = Server::start(head, Closes::Never);
        let transport = Transport::new();
        for _ in 0..5 {
            transport.execute(server.client_credentials()).unwrap();
            transport.execute(server.relay()).unwrap();
        }
        assert_eq!(
            server.connections(),
            (0..10).collect::<Vec<_>>(),
            "{head:?}"
        );
    }
}

#[test]
fn a_request_that_is_lost_with_an_idle_connection_is_retried_at_once_over_a_new_one() {
    for closes in [Closes::AtSecondRequest, Closes::ResetsAtSecondRequest] {
        let server = Server::start("HTTP/1.1 200 OK", closes);
        let (sender, retries) = channel();
        let transport = Transport::new().on_event(move |event| {
            if let Event::Retrying(retrying) = event {
                sender.send(retrying.wait).unwrap();
            }
        });
        for _ in 0..4 {
            transport.execute(server.client_credentials()).unwrap();
        }
        let expected = [0, 0, 1, 1, 2, 2, 3];
        assert_eq!(server.connections(), expected, "{closes:?}");
        let waits: Vec<_> = retries.try_iter().collect();
        assert_eq!(waits, [Duration::ZERO; 3], "{closes:?}");
    }
}

#[test]
fn a_relay_that_is_lost_with_an_idle_connection_is_not_sent_again() {
    for closes in [Closes::AtSecondRequest, Closes::ResetsAtSecondRequest] {
        let server = Server::start("HTTP/1.1 200 OK", closes);
        let transport = Transport::new();
        let results: Vec<_> = (0..10).map(|_| transport.execute(server.relay())).collect();
        for (number, result) in results.into_iter().enumerate() {
            match (number % 2, result) {
                (0, Ok(_)) => {}
                (1, Err(Error::NoResponse(lost))) => assert_eq!(lost.sent(), Sent::Maybe),
                (_, result) => panic!("{closes:?}, {number}: {result:?}"),
            }
        }
        let proofs: Vec<_> = server
            .requests
            .try_iter()
            .map(|(_, request)| {
                let (_, proof) = request.split_once("\r\ndpop: ").unwrap();
                proof.lines().next().unwrap().to_owned()
            })
            .collect();
        assert_eq!(proofs.len(), 10, "{closes:?}");
        let distinct: BTreeSet<_> = proofs.into_iter().collect();
        assert_eq!(distinct.len(), 10, "{closes:?}");
    }
}

#[test]
fn a_refresh_is_not_lost_with_an_idle_connection() {
    for closes in [
        Closes::AfterResponse,
        Closes::AtSecondRequest,
        Closes::ResetsAtSecondRequest,
    ] {
        let server = Server::start("HTTP/1.1 200 OK", closes);
        let transport = Transport::new();
        for _ in 0..10 {
            transport.execute(server.client_credentials()).unwrap();
            transport.execute(server.refresh()).unwrap();
        }
        let refreshes = server
            .requests
            .try_iter()
            .filter(|(_, request)| request.contains("grant_type=refresh_token"));
        assert_eq!(refreshes.count(), 10, "{closes:?}");
    }
}
