//! An application's own agent, whose requests a session authorises.

use std::io::Read as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use keybound_ureq::{RefreshPolicy, Session};

use crate::server::{Server, nonce_server, response, token};

/// An agent of an application's, whose requests to the server are authorised.
fn agent(server: &Server, session: &Session, status_as_error: bool) -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .user_agent("the-app")
        .http_status_as_error(status_as_error);
    config
        .middleware(session.authorizer([server.url.as_str()]).unwrap())
        .build()
        .new_agent()
}

#[test]
fn an_agent_authorizes_its_requests_by_a_session_and_retries_them_with_their_bodies() {
    for status_as_error in [false, true] {
        let made = AtomicUsize::new(0);
        let server =
            Server::start(
                move |asked| match (asked.path.as_str(), asked.bearer.as_deref()) {
                    ("/token", _) => token(
                        &format!("t{}", made.fetch_add(1, Ordering::Relaxed)),
                        "Bearer",
                        3600,
                    ),
                    (_, Some("t1")) => response("200 OK", &asked.body),
                    _ => response(
                        "401 Unauthorized\r\nWWW-Authenticate: Bearer error=\"invalid_token\"",
                        "",
                    ),
                },
            );
        let session = server.session(RefreshPolicy::default());
        session.token().unwrap();
        let agent = agent(&server, &session, status_as_error);
        let url = format!("{}/resource", server.url);
        // Without the headers of the refusal, only a request that may be repeated is.
        let post = agent.post(&url).header("x-idempotency-key", "1");
        let mut answer = post.send("a body").unwrap();
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
fn a_post_whose_refusal_has_no_headers_is_sent_once_and_the_next_has_another_token() {
    let made = AtomicUsize::new(0);
    let server = Server::start(
        move |asked| match (asked.path.as_str(), asked.bearer.as_deref()) {
            ("/token", _) => token(
                &format!("t{}", made.fetch_add(1, Ordering::Relaxed)),
                "Bearer",
                3600,
            ),
            (_, Some("t1")) => response("200 OK", &asked.body),
            _ => response("401 Unauthorized", ""),
        },
    );
    let session = server.session(RefreshPolicy::default());
    session.token().unwrap();
    let agent = agent(&server, &session, true);
    let post = || {
        agent
            .post(format!("{}/payments", server.url))
            .send("amount=1")
    };
    assert!(matches!(post(), Err(ureq::Error::StatusCode(401))));
    assert_eq!((server.count("/token"), server.count("/payments")), (1, 1));
    assert_eq!(post().unwrap().status(), 200);
    assert_eq!((server.count("/token"), server.count("/payments")), (2, 2));
}

#[test]
fn a_post_that_a_server_has_refused_with_400_is_sent_once() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" => token("t", "Bearer", 3600),
        _ => response("400 Bad Request", "no such account"),
    });
    let agent = agent(&server, &server.session(RefreshPolicy::default()), true);
    let refused = agent
        .post(format!("{}/payments", server.url))
        .send("amount=1");
    assert!(matches!(refused, Err(ureq::Error::StatusCode(400))));
    assert_eq!(server.count("/payments"), 1);
}

#[test]
fn a_body_has_the_framing_that_it_would_have_without_a_session() {
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" => token("t", "Bearer", 3600),
        _ => response("200 OK", &asked.framing.join(", ")),
    });
    let plain = ureq::Agent::new_with_defaults();
    let agent = agent(&server, &server.session(RefreshPolicy::default()), true);
    let url = server.url.as_str();
    let framing = |answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>| {
        answer.unwrap().into_body().read_to_string().unwrap()
    };
    type Send = fn(&ureq::Agent, &str) -> Result<ureq::http::Response<ureq::Body>, ureq::Error>;
    let cases: [(&str, Send); 5] = [
        ("an empty POST", |agent, url| agent.post(url).send_empty()),
        ("an empty PUT", |agent, url| agent.put(url).send("")),
        ("a text", |agent, url| agent.post(url).send("text")),
        ("a GET", |agent, url| agent.get(url).call()),
        ("a DELETE with a body", |agent, url| {
            agent.delete(url).force_send_body().send("text")
        }),
    ];
    for (case, send) in cases {
        assert_eq!(
            framing(send(&agent, url)),
            framing(send(&plain, url)),
            "{case}"
        );
    }
    // Never two framings in one request (RFC 9112 §6.2).
    let chunked = agent
        .post(url)
        .header("transfer-encoding", "chunked")
        .send("text");
    assert!(!framing(chunked).contains(", "));
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
            assert_eq!(
                server.count("/resource"),
                1 + calls + usize::from(status_as_error)
            );
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
        agent(&server, &session, status_as_error)
            .get(format!("{}{path}", server.url))
            .call()
    };
    for (path, status) in [("/forbidden", 403), ("/resource", 401)] {
        assert_eq!(get(false, path).unwrap().status(), status);
        assert!(
            matches!(get(true, path), Err(ureq::Error::StatusCode(code)) if code == status),
            "{path}"
        );
    }
    assert_eq!(
        get(false, "/forbidden")
            .unwrap()
            .body_mut()
            .read_to_string()
            .unwrap(),
        "why"
    );
    assert_eq!(get(true, "/elsewhere").unwrap().status(), 302);
}

#[test]
fn an_agent_sends_its_token_to_the_configured_origins_and_to_no_other() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let recorded = Arc::clone(&seen);
    let other = Server::start(move |asked| {
        recorded.lock().unwrap().push(asked.bearer.clone());
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
    let own = agent
        .get(&server.url)
        .header("authorization", "Bearer own")
        .call()
        .unwrap();
    assert_eq!(own.into_body().read_to_string().unwrap(), "own");
    let got = agent
        .get(server.url.to_uppercase().replace("HTTP", "http"))
        .call()
        .unwrap();
    assert_eq!(got.into_body().read_to_string().unwrap(), "t");
    assert!(session.authorizer(["http://rs.example"]).is_err());
}

#[test]
fn a_body_that_is_too_long_to_be_buffered_is_sent_once_and_whole() {
    const LENGTH: usize = 11 * 1024 * 1024;
    let server = Server::start(|asked| match asked.path.as_str() {
        "/token" => token("t", "Bearer", 3600),
        "/busy" => response("429 Too Many Requests", ""),
        _ => response("200 OK", &asked.body.len().to_string()),
    });
    let session = server.session(RefreshPolicy::default());
    let agent = agent(&server, &session, true);
    let send = |path: &str| {
        let request = agent
            .post(format!("{}{path}", server.url))
            .header("content-length", LENGTH.to_string());
        request.send(ureq::SendBody::from_reader(
            &mut std::io::repeat(b'x').take(u64::try_from(LENGTH).unwrap()),
        ))
    };
    assert_eq!(
        send("/").unwrap().into_body().read_to_string().unwrap(),
        LENGTH.to_string()
    );
    assert!(matches!(send("/busy"), Err(ureq::Error::StatusCode(429))));
    assert_eq!((server.count("/"), server.count("/busy")), (1, 1));
}
