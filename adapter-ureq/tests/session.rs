//! A session under many threads: how many requests a server sees, and who waits for whom.

#![cfg(test)]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::{
    Client, ClientAuth, CoreError, Endpoint, Error, Grant, Pool, RefreshPolicy, Retry, Secret, Session,
    Transport,
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

    let never = Server::start(|asked| match asked.path.as_str() {
        "/token" => token("t", "Bearer", 3600),
        _ => response("401 Unauthorized", ""),
    });
    let session = never.session(RefreshPolicy::default());
    assert_eq!(never.call(&session).unwrap().status(), 401);
    assert_eq!((never.count("/token"), never.count("/resource")), (2, 2));
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

/// An agent of an application's, whose requests to the server are authorised.
fn agent(server: &Server, session: &Session, status_as_error: bool) -> ureq::Agent {
    let config = ureq::Agent::config_builder().user_agent("the-app").http_status_as_error(status_as_error);
    config.middleware(session.authorizer([server.url.as_str()]).unwrap()).build().new_agent()
}

#[test]
fn an_agent_authorises_its_requests_by_a_session_and_repeats_them_with_their_bodies() {
    for status_as_error in [false, true] {
        let made = AtomicUsize::new(0);
        let server = Server::start(move |asked| match (asked.path.as_str(), asked.bearer.as_deref()) {
            ("/token", _) => token(&format!("t{}", made.fetch_add(1, Ordering::Relaxed)), "Bearer", 3600),
            (_, Some("t1")) => response("200 OK", &asked.body),
            _ => response("401 Unauthorized\r\nWWW-Authenticate: Bearer error=\"invalid_token\"", ""),
        });
        let session = server.session(RefreshPolicy::default());
        let agent = agent(&server, &session, status_as_error);
        let url = format!("{}/resource", server.url);
        let mut answer = agent.post(&url).send("a body").unwrap();
        assert_eq!(answer.body_mut().read_to_string().unwrap(), "a body");
        assert_eq!(
            (server.count("/token"), server.count("/resource")),
            (2, 2 + usize::from(status_as_error))
        );
        let mut answer = agent.put(&url).send_empty().unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.body_mut().read_to_string().unwrap(), "");
    }
}

#[test]
fn an_agent_learns_nonces_whether_it_makes_errors_of_statuses_or_not() {
    for status_as_error in [false, true] {
        let server = nonce_server(|current, nonce| {
            let taken = nonce == Some(*current);
            *current += u32::from(taken);
            (taken, *current)
        });
        let session = server.bound_session();
        let agent = agent(&server, &session, status_as_error);
        let url = format!("{}/resource", server.url);
        for calls in 1..=3 {
            assert_eq!(agent.get(&url).call().unwrap().status(), 200);
            assert_eq!(server.count("/resource"), 1 + calls + usize::from(status_as_error));
        }
    }
}

#[test]
fn a_refusal_reaches_the_application_as_its_agent_has_it() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" => token("t", "Bearer", 3600),
        "/forbidden" => response("403 Forbidden", "why"),
        "/elsewhere" => response("302 Found\r\nLocation: /resource", ""),
        _ => response("401 Unauthorized", "who are you?"),
    });
    let session = server.session(RefreshPolicy::default());
    let get = |status_as_error, path: &str| {
        agent(&server, &session, status_as_error).get(format!("{}{path}", server.url)).call()
    };
    for (path, status) in [("/forbidden", 403), ("/resource", 401)] {
        assert_eq!(get(false, path).unwrap().status(), status);
        assert!(matches!(get(true, path), Err(ureq::Error::StatusCode(code)) if code == status), "{path}");
    }
    assert_eq!(get(false, "/forbidden").unwrap().body_mut().read_to_string().unwrap(), "why");
    assert_eq!(get(true, "/elsewhere").unwrap().status(), 302);
}

#[test]
fn an_agent_gives_its_token_to_the_origins_that_it_was_told_and_to_no_other() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&seen);
    let other = Server::start(move |asked| {
        heard.lock().unwrap().push(asked.bearer.clone());
        response("200 OK", "")
    });
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" => token("t", "Bearer", 3600),
        _ => response("200 OK", asked.bearer.as_deref().unwrap_or_default()),
    });
    let session = server.session(RefreshPolicy::default());
    let agent = agent(&server, &session, true);
    agent.get(&other.url).call().unwrap();
    assert_eq!(*seen.lock().unwrap(), [None]);
    assert_eq!(server.count("/token"), 0);
    let own = agent.get(&server.url).header("authorization", "Bearer own").call().unwrap();
    assert_eq!(own.into_body().read_to_string().unwrap(), "own");
    let got = agent.get(server.url.to_uppercase().replace("HTTP", "http")).call().unwrap();
    assert_eq!(got.into_body().read_to_string().unwrap(), "t");
    assert!(session.authorizer(["http://rs.example"]).is_err());
}

#[test]
fn a_body_that_is_too_long_to_be_kept_is_sent_once_and_whole() {
    const LENGTH: usize = 11 * 1024 * 1024;
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" => token("t", "Bearer", 3600),
        "/busy" => response("429 Too Many Requests", ""),
        _ => response("200 OK", &asked.body.len().to_string()),
    });
    let session = server.session(RefreshPolicy::default());
    let agent = agent(&server, &session, true);
    let send = |path: &str| {
        let request =
            agent.post(format!("{}{path}", server.url)).header("content-length", LENGTH.to_string());
        request.send(ureq::SendBody::from_reader(
            &mut std::io::repeat(b'x').take(u64::try_from(LENGTH).unwrap()),
        ))
    };
    assert_eq!(send("/").unwrap().into_body().read_to_string().unwrap(), LENGTH.to_string());
    assert!(matches!(send("/busy"), Err(ureq::Error::StatusCode(429))));
    assert_eq!((server.count("/"), server.count("/busy")), (1, 1));
}

#[test]
fn a_pool_closes_the_session_that_was_asked_for_longest_ago_unless_it_is_held() {
    let server = Server::start(|_| token("t", "Bearer", 3600));
    let opened = Arc::new(Mutex::new(Vec::new()));
    let (seen, client) = (Arc::clone(&opened), server.client());
    let transport = Arc::new(Transport::new());
    let pool = Pool::new(2, move |person: &u32| {
        seen.lock().unwrap().push(*person);
        Session::new(Arc::clone(&transport), client.clone(), Grant::client_credentials())
    });
    let held = pool.session(&1);
    for person in [2, 1, 3, 1, 3, 2, 1] {
        pool.session(&person).token().unwrap();
        assert_eq!(pool.len(), 2);
    }
    // 1 is held all the time, so 2 and 3 make room for each other.
    assert_eq!(*opened.lock().unwrap(), [1, 2, 3, 2]);
    drop(held);
    pool.session(&3).token().unwrap();
    assert_eq!(*opened.lock().unwrap(), [1, 2, 3, 2, 3]);
    pool.close(&3);
    assert_eq!(pool.len(), 1);
    let all: Vec<Session> = (10..15).map(|person| pool.session(&person)).collect();
    assert_eq!((all.len(), pool.len()), (5, 5));
    drop(all);
    let _ = pool.session(&99);
    assert_eq!(pool.len(), 2);
}
