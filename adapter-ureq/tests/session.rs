//! A session under many threads: how many requests a server sees, and who waits for whom.

#![cfg(test)]

use std::collections::HashSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::storage::{Lease, MemoryStorage, Storage, StorageError};
use keybound_ureq::{
    Client, ClientAuth, CoreError, Endpoint, Error, Event, Grant, RefreshPolicy, Retry, Secret, SecretBytes,
    Session, SignRequest, Transport,
};
use serde_json::Value;
use ureq::http::{Request, Response};

/// What a request says that matters here.
struct Asked {
    path: String,
    bearer: Option<String>,
    /// The nonce in its proof.
    nonce: Option<String>,
    body: String,
}

/// Answers every request on loopback, each in a thread of its own; counts them by path.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(answer: impl Fn(&Asked) -> String + Send + Sync + 'static) -> Self {
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

    fn count(&self, path: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| *asked == path).count()
    }

    fn session(&self, policy: RefreshPolicy) -> Session {
        Session::builder(Transport::new(), self.client(), Grant::client_credentials()).policy(policy).open()
    }

    fn bound_session(&self) -> Session {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let client = self.client().dpop(key.public().clone());
        Session::new(Transport::new().signer(key), client, Grant::client_credentials())
    }

    fn client(&self) -> Client {
        let auth = ClientAuth::basic("id", Secret::new("secret")).unwrap();
        Client::new(Endpoint::loopback_http(&format!("{}/token", self.url)).unwrap(), auth)
    }

    fn call(&self, session: &Session) -> Result<Response<ureq::Body>, Arc<Error>> {
        session.run(Request::get(format!("{}/resource", self.url)).body(Vec::new()).unwrap())
    }

    /// The statuses of so many calls at once.
    fn calls_at_once(&self, session: &Session, many: usize) -> Vec<u16> {
        at_once(many, || self.call(session).unwrap().status().as_u16())
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<String>>, answer: &(impl Fn(&Asked) -> String + ?Sized)) {
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
            line.split_once(": ").filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_owned())
        };
        lines.iter().find_map(of)
    };
    let mut body = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut body).unwrap();
    let claims = header("dpop").map(|proof| {
        let json = URL_SAFE_NO_PAD.decode(proof.split('.').nth(1).unwrap()).unwrap();
        serde_json::from_slice::<Value>(&json).unwrap()
    });
    let asked = Asked {
        path: lines[0].split(' ').nth(1).unwrap().to_owned(),
        bearer: header("authorization")
            .and_then(|value| value.split_once(' ').map(|(_, token)| token.to_owned())),
        nonce: claims.and_then(|claims| claims["nonce"].as_str().map(str::to_owned)),
        body: String::from_utf8(body).unwrap(),
    };
    seen.lock().unwrap().push(asked.path.clone());
    stream.write_all(answer(&asked).as_bytes()).unwrap();
}

fn response(head: &str, body: &str) -> String {
    format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn token(name: &str, token_type: &str, life: u64) -> String {
    response(
        "200 OK",
        &format!(r#"{{"access_token":"{name}","token_type":"{token_type}","expires_in":{life}}}"#),
    )
}

fn at_once<T: Send>(many: usize, call: impl Fn() -> T + Sync) -> Vec<T> {
    let barrier = Barrier::new(many);
    thread::scope(|scope| {
        let one = || {
            barrier.wait();
            call()
        };
        let threads: Vec<_> = (0..many).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn many_threads_without_a_token_cause_one_token_request() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" => {
            thread::sleep(Duration::from_millis(50));
            token("a", "Bearer", 3600)
        }
        _ => response("200 OK", ""),
    });
    let session = server.session(RefreshPolicy::default());
    assert_eq!(server.calls_at_once(&session, 100), vec![200; 100]);
    assert_eq!(server.count("/token"), 1);
}

#[test]
fn a_renewal_that_fails_gives_all_who_waited_the_same_error() {
    let server = Server::start(|_| {
        thread::sleep(Duration::from_millis(50));
        response("400 Bad Request", r#"{"error":"invalid_scope"}"#)
    });
    let session = server.session(RefreshPolicy::default());
    let errors = at_once(20, || session.token().unwrap_err());
    assert_eq!(server.count("/token"), 1);
    for error in errors {
        let Error::Core(CoreError::Server(refusal)) = &*error else { panic!("{error:?}") };
        assert_eq!(refusal.code(), Some("invalid_scope"));
    }
}

#[test]
fn a_token_that_is_refused_is_renewed_once_and_the_call_repeated_once() {
    let made = AtomicUsize::new(0);
    let server = Server::start(move |asked| match asked.path.as_str() {
        "/token" => token(&format!("t{}", made.fetch_add(1, Ordering::Relaxed)), "Bearer", 3600),
        _ if asked.bearer.as_deref() == Some("t1") => response("200 OK", ""),
        _ => response("401 Unauthorized\r\nWWW-Authenticate: Bearer error=\"invalid_token\"", ""),
    });
    let session = server.session(RefreshPolicy::default());
    assert_eq!(server.call(&session).unwrap().status(), 200);
    assert_eq!((server.count("/token"), server.count("/resource")), (2, 2));

    let made = AtomicUsize::new(0);
    let used = Arc::new(Mutex::new(HashSet::new()));
    let seen = Arc::clone(&used);
    let never = Server::start(move |asked| match asked.path.as_str() {
        "/token" => token(&format!("t{}", made.fetch_add(1, Ordering::Relaxed)), "Bearer", 3600),
        _ => {
            assert!(seen.lock().unwrap().insert(asked.bearer.clone()), "a refused token is used again");
            response("401 Unauthorized", "")
        }
    });
    let session = never.session(RefreshPolicy::default());
    assert_eq!(never.call(&session).unwrap().status(), 401);
    assert_eq!((never.count("/token"), never.count("/resource")), (2, 2));
    // None of them is used again.
    assert_eq!(never.call(&session).unwrap().status(), 401);
    assert_eq!(used.lock().unwrap().len(), 4);
}

#[test]
fn whoever_has_a_good_token_does_not_wait_for_its_renewal() {
    let made = AtomicUsize::new(0);
    let server = Server::start(move |_| {
        let number = made.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(600 * u64::try_from(number).unwrap()));
        token(&format!("t{number}"), "Bearer", 5)
    });
    let session = server.session(RefreshPolicy::default());
    assert_eq!(session.token().unwrap().access_token().expose(), "t0");
    // Renewed a second before it expires, or up to half a second later.
    thread::sleep(Duration::from_millis(4520));
    let asked = Instant::now();
    assert_eq!(session.token().unwrap().access_token().expose(), "t0");
    assert!(asked.elapsed() < Duration::from_millis(400));
    thread::sleep(Duration::from_millis(1000));
    assert_eq!(session.token().unwrap().access_token().expose(), "t1");
    assert_eq!(server.count("/token"), 2);
}

#[test]
fn a_grant_that_is_good_once_is_followed_by_refresh_tokens() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" if asked.body.contains("refresh_token=r0") => token("second", "Bearer", 3600),
        "/token" => {
            response("200 OK", r#"{"access_token":"first","token_type":"Bearer","refresh_token":"r0"}"#)
        }
        _ if asked.bearer.as_deref() == Some("second") => response("200 OK", ""),
        _ => response("401 Unauthorized", ""),
    });
    let code = Grant::extension("authorization_code").unwrap().param("code", "c").unwrap();
    let session = Session::new(Transport::new(), server.client(), code);
    assert_eq!(server.call(&session).unwrap().status(), 200);
}

#[test]
fn a_refresh_token_that_is_used_up_is_not_sent_again() {
    for (answer, sends) in [
        (response("400 Bad Request", r#"{"error":"invalid_grant"}"#), 1),
        // Perhaps it was not used up: it is tried once more.
        (String::new(), 2),
    ] {
        let server = Server::start(move |asked| match asked.path.as_str() {
            "/token" if asked.body.contains("refresh_token=r0") => answer.clone(),
            "/token" => {
                response("200 OK", r#"{"access_token":"a","token_type":"Bearer","refresh_token":"r0"}"#)
            }
            _ => response("401 Unauthorized", ""),
        });
        let code = Grant::extension("authorization_code").unwrap().param("code", "c").unwrap();
        let policy = RefreshPolicy::default().pause(Duration::ZERO);
        let session = Session::builder(Transport::new(), server.client(), code).policy(policy).open();
        assert_eq!(server.call(&session).unwrap().status(), 401);
        for _ in 0..5 {
            assert!(session.token().is_err());
        }
        assert_eq!(session.token().unwrap_err().retry(), Retry::Reauthenticate);
        assert_eq!(server.count("/token"), 1 + sends);
    }
}

/// How a resource server treats nonces: whether it takes this one, and which it gives with the answer.
type Nonces = fn(state: &mut u32, nonce: Option<u32>) -> (bool, u32);

/// A token endpoint that wants no nonce, and a resource that does.
fn nonce_server(nonces: Nonces) -> Server {
    let state = Mutex::new(0);
    Server::start(move |asked| {
        if asked.path == "/token" {
            return token("bound", "DPoP", 3600);
        }
        let nonce = asked.nonce.as_ref().map(|nonce| nonce.trim_start_matches("n-").parse().unwrap());
        let (taken, next) = nonces(&mut state.lock().unwrap(), nonce);
        let status = if taken {
            "200 OK"
        } else {
            "401 Unauthorized\r\nWWW-Authenticate: DPoP error=\"use_dpop_nonce\""
        };
        response(&format!("{status}\r\nDPoP-Nonce: n-{next}"), "")
    })
}

#[test]
fn twenty_cold_calls_to_a_server_that_wants_a_nonce_cost_twenty_one_requests() {
    let server = nonce_server(|_, nonce| (nonce == Some(7), 7));
    let session = server.bound_session();
    assert_eq!(server.calls_at_once(&session, 20), vec![200; 20]);
    assert_eq!((server.count("/token"), server.count("/resource")), (1, 21));
}

#[test]
fn with_a_nonce_that_changes_at_every_success_all_twenty_succeed() {
    // The one before is still taken.
    let server = nonce_server(|current, nonce| {
        let taken = nonce.is_some_and(|nonce| nonce == *current || nonce + 1 == *current);
        *current += u32::from(taken);
        (taken, *current)
    });
    let session = server.bound_session();
    assert_eq!(server.calls_at_once(&session, 20), vec![200; 20]);
    assert!(server.count("/resource") <= 60, "{}", server.count("/resource"));
}

#[test]
fn with_nonces_that_are_good_once_all_twenty_succeed() {
    let server = nonce_server(|current, nonce| {
        let taken = nonce == Some(*current);
        *current += u32::from(taken);
        (taken, *current)
    });
    let session = server.bound_session();
    assert_eq!(server.calls_at_once(&session, 20), vec![200; 20]);
    assert!(server.count("/resource") <= 60, "{}", server.count("/resource"));
}

#[test]
fn a_server_that_always_wants_another_nonce_is_obeyed_three_times_at_most() {
    let server = nonce_server(|current, _| {
        *current += 1;
        (false, *current)
    });
    let session = server.bound_session();
    assert_eq!(server.call(&session).unwrap().status(), 401);
    assert_eq!(server.count("/resource"), 2);
    assert_eq!(server.call(&session).unwrap().status(), 401);
    assert_eq!(server.count("/resource"), 5);
}

#[test]
fn a_server_that_wants_no_nonce_is_called_by_all_at_once_after_the_first() {
    let under_way = AtomicUsize::new(0);
    let most = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&most);
    let server = Server::start(move |asked| {
        if asked.path == "/token" {
            return token("bound", "DPoP", 3600);
        }
        seen.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        thread::sleep(Duration::from_millis(100));
        under_way.fetch_sub(1, Ordering::SeqCst);
        response("200 OK", "")
    });
    let session = server.bound_session();
    assert_eq!(server.calls_at_once(&session, 10), vec![200; 10]);
    assert_eq!(server.count("/resource"), 10);
    assert!(most.load(Ordering::SeqCst) >= 5);
}

/// Takes its time to save, and knows when it gave its last lease.
struct SlowStorage {
    storage: MemoryStorage,
    leased: Mutex<Instant>,
}

struct SlowLease<'a>(Box<dyn Lease + 'a>);

impl Storage for SlowStorage {
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        self.storage.load(name)
    }

    fn lease(&self, name: &str, patience: Duration) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        *self.leased.lock().unwrap() = Instant::now();
        let lease = self.storage.lease(name, patience)?;
        Ok(lease.map(|lease| Box::new(SlowLease(lease)) as Box<dyn Lease + '_>))
    }
}

impl Lease for SlowLease<'_> {
    fn save(&mut self, state: &SecretBytes) -> Result<bool, StorageError> {
        thread::sleep(Duration::from_millis(400));
        self.0.save(state)
    }
}

#[test]
fn no_refresh_token_is_under_way_when_its_lease_has_lapsed() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" if asked.body.contains("refresh_token=r0") => {
            thread::sleep(Duration::from_secs(5));
            String::new()
        }
        "/token" => response("200 OK", r#"{"access_token":"a","token_type":"Bearer","refresh_token":"r0"}"#),
        _ => response("401 Unauthorized", ""),
    });
    let storage = Arc::new(SlowStorage { storage: MemoryStorage::new(), leased: Mutex::new(Instant::now()) });
    let ended = Arc::new(Mutex::new(None));
    let seen = Arc::clone(&ended);
    let transport = Transport::new().observe(move |event| {
        if matches!(event, Event::Lost { .. }) {
            *seen.lock().unwrap() = Some(Instant::now());
        }
    });
    let code = Grant::extension("authorization_code").unwrap().param("code", "c").unwrap();
    let policy = RefreshPolicy::default().patience(Duration::from_secs(1));
    let kept_in = Arc::clone(&storage) as Arc<dyn Storage>;
    let session =
        Session::builder(transport, server.client(), code).policy(policy).kept_in(kept_in, "s").open();
    assert_eq!(server.call(&session).unwrap().status(), 401);
    let held = ended.lock().unwrap().unwrap() - *storage.leased.lock().unwrap();
    assert!(held < Duration::from_millis(1200), "{held:?}");
}

#[test]
fn a_signer_that_panics_fails_its_own_renewal_and_blocks_nobody() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" => token("bound", "DPoP", 3600),
        _ => response("200 OK", ""),
    });
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let client = server.client().dpop(key.public().clone());
    let panics = AtomicUsize::new(1);
    let transport = Transport::new().signer(move |request: &SignRequest| {
        if panics.swap(0, Ordering::SeqCst) == 1 {
            // Until all the others wait.
            thread::sleep(Duration::from_millis(200));
            panic!("the signer panics, as it should");
        }
        Ok(key.sign(request)?)
    });
    let policy = RefreshPolicy::default().pause(Duration::from_millis(300));
    let session = Session::builder(transport, client, Grant::client_credentials()).policy(policy).open();
    let began = Instant::now();
    let results = at_once(20, || catch_unwind(AssertUnwindSafe(|| session.token())));
    assert!(began.elapsed() < Duration::from_millis(1000), "{:?}", began.elapsed());
    let (panicked, others): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_err);
    assert_eq!((panicked.len(), others.len()), (1, 19));
    for error in others.into_iter().flatten() {
        assert!(matches!(&*error.unwrap_err(), Error::RenewalEnded));
    }
    thread::sleep(Duration::from_millis(400));
    assert_eq!(server.call(&session).unwrap().status(), 200);
}
