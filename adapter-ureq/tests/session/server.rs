//! A server on loopback that answers as a test wants it to.

use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::{
    Client, ClientAuth, Endpoint, Error, Grant, RefreshPolicy, Secret, Session, Transport,
};
use serde_json::Value;
use ureq::http::{Request, Response};

/// What a request says that matters here.
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) bearer: Option<String>,
    pub(crate) has_proof: bool,
    /// The nonce in its proof.
    pub(crate) nonce: Option<String>,
    pub(crate) body: String,
    /// The headers that say where the body ends.
    pub(crate) framing: Vec<String>,
}

/// Answers every request on loopback, each in a thread of its own; counts them by path.
pub(crate) struct Server {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Asked) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&asked), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (seen, answer) = (Arc::clone(&seen), Arc::clone(&answer));
                thread::spawn(move || serve(stream.unwrap(), &seen, &*answer));
            }
        });
        Self { url, asked }
    }

    pub(crate) fn count(&self, path: &str) -> usize {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .filter(|asked| *asked == path)
            .count()
    }

    pub(crate) fn session(&self, policy: RefreshPolicy) -> Session {
        Session::builder(Transport::new(), self.client())
            .grant(Grant::client_credentials())
            .policy(policy)
            .build()
    }

    pub(crate) fn bound_session(&self) -> Session {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let client = self.client().dpop(key.public().clone());
        Session::builder(Transport::new().signer(key), client)
            .grant(Grant::client_credentials())
            .build()
    }

    pub(crate) fn client(&self) -> Client {
        let auth = ClientAuth::basic("id", Secret::new("secret")).unwrap();
        Client::new(
            Endpoint::loopback_http(&format!("{}/token", self.url)).unwrap(),
            auth,
        )
    }

    /// The name under which a storage has the session of this name, of this server's client.
    pub(crate) fn stored_as(&self, name: &str) -> String {
        format!("{name}-{}", self.client().session_fingerprint(None, []))
    }

    pub(crate) fn call(&self, session: &Session) -> Result<Response<ureq::Body>, Error> {
        session.send(
            Request::get(format!("{}/resource", self.url))
                .body(Vec::new())
                .unwrap(),
        )
    }

    /// The statuses of so many calls at once.
    pub(crate) fn calls_at_once(&self, session: &Session, many: usize) -> Vec<u16> {
        at_once(many, || self.call(session).unwrap().status().as_u16())
    }
}

fn serve(
    mut stream: TcpStream,
    seen: &Mutex<Vec<String>>,
    answer: &(impl Fn(&Asked) -> String + ?Sized),
) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 {
            return;
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let header = |name: &str| {
        let of = |line: &String| {
            line.split_once(": ")
                .filter(|(key, _)| key.eq_ignore_ascii_case(name))
                .map(|(_, v)| v.to_owned())
        };
        lines.iter().find_map(of)
    };
    let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    if header("transfer-encoding").is_some() {
        body = chunks(&mut reader);
    }
    let claims = header("dpop").map(|proof| {
        let json = URL_SAFE_NO_PAD
            .decode(proof.split('.').nth(1).unwrap())
            .unwrap();
        serde_json::from_slice::<Value>(&json).unwrap()
    });
    let asked = Asked {
        path: lines[0].split(' ').nth(1).unwrap().to_owned(),
        bearer: header("authorization")
            .and_then(|value| value.split_once(' ').map(|(_, token)| token.to_owned())),
        has_proof: claims.is_some(),
        nonce: claims.and_then(|claims| claims["nonce"].as_str().map(str::to_owned)),
        body: String::from_utf8(body).unwrap(),
        framing: ["content-length", "transfer-encoding"]
            .into_iter()
            .filter_map(|name| header(name).map(|value| format!("{name}: {value}")))
            .collect(),
    };
    seen.lock().unwrap().push(asked.path.clone());
    stream.write_all(answer(&asked).as_bytes()).unwrap();
}

fn chunks(reader: &mut impl BufRead) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let length = usize::from_str_radix(line.trim_end(), 16).unwrap();
        let mut chunk = vec![0; length + 2];
        reader.read_exact(&mut chunk).unwrap();
        if length == 0 {
            return body;
        }
        body.extend(&chunk[..length]);
    }
}

pub(crate) fn response(head: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

pub(crate) fn token(name: &str, token_type: &str, life: u64) -> String {
    response(
        "200 OK",
        &format!(r#"{{"access_token":"{name}","token_type":"{token_type}","expires_in":{life}}}"#),
    )
}

pub(crate) fn at_once<T: Send>(many: usize, call: impl Fn() -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(many);
    thread::scope(|scope| {
        let one = || {
            barrier.wait();
            call()
        };
        let threads: Vec<_> = (0..many).map(|_| scope.spawn(one)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    })
}

/// How a resource server treats nonces: whether it takes this one, and which it gives with the answer.
pub(crate) type Nonces = fn(state: &mut u32, nonce: Option<u32>) -> (bool, u32);

/// A token endpoint that wants no nonce, and a resource that does.
pub(crate) fn nonce_server(nonces: Nonces) -> Server {
    let state = Mutex::new(0);
    Server::start(move |asked| {
        if asked.path == "/token" {
            return token("bound", "DPoP", 3600);
        }
        let nonce = asked
            .nonce
            .as_ref()
            .map(|nonce| nonce.trim_start_matches("n-").parse().unwrap());
        let (taken, next) = nonces(&mut state.lock().unwrap(), nonce);
        let status = if taken {
            "200 OK"
        } else {
            "401 Unauthorized\r\nWWW-Authenticate: DPoP error=\"use_dpop_nonce\""
        };
        response(&format!("{status}\r\nDPoP-Nonce: n-{next}"), "")
    })
}
