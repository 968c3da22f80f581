//! The messages that the guide's runbook quotes are those of real faults.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::storage::{RedisStorage, Storage as _};
use keybound_ureq::{
    Client, ClientAuth, Endpoint, Grant, RefreshPolicy, Secret, Session, SessionBuilder, Transport,
};

use crate::server::{Redis, free_port};

#[path = "../session/server.rs"]
#[expect(dead_code, reason = "the tests `session` use the rest")]
mod provider;

use provider::{Server, response, token};

const RUNBOOK: &str = include_str!("../../src/guide/runbook.md");

#[test]
fn every_message_in_the_runbook_is_printed_by_the_fault_that_it_stands_for() {
    let printed = Lines::default();
    let lines = &printed;
    thread::scope(|scope| {
        let faults = [
            server_is_down,
            server_is_busy,
            server_hangs,
            login_is_refused,
            login_vanishes,
            storage_is_down,
            storage_is_frozen,
            holder_of_the_lease_has_crashed,
            clock_is_wrong,
            clock_is_not_corrected,
            tokens_expire_early_for_the_resource,
        ];
        for fault in faults {
            scope.spawn(move || fault(lines));
        }
    });
    let printed = printed.0.into_inner().unwrap();
    let quoted: Vec<_> = quoted(RUNBOOK).collect();
    assert!(quoted.len() > 20, "{quoted:#?}");
    let wrong: Vec<_> = quoted
        .iter()
        .filter(|line| !printed.contains(&normal(line)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?} is not in {printed:#?}");
}

/// The lines of the blocks of text.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    let blocks = page.split("```");
    let texts = blocks.filter_map(|block| block.strip_prefix("text\n"));
    texts.flat_map(str::lines)
}

/// A line without its times: milliseconds, and the time of an expiry.
fn normal(line: &str) -> String {
    let mut rest = line;
    let mut normal = String::new();
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        let (before, number) = rest.split_at(at);
        let end = number.find(|c: char| !c.is_ascii_digit());
        let (number, after) = number.split_at(end.unwrap_or(number.len()));
        normal.push_str(before);
        let is_time = after.starts_with(" ms") || after.starts_with(" (Unix time)");
        normal.push_str(if is_time { "_" } else { number });
        rest = after;
    }
    normal + rest
}

/// Everything that was printed, as the runbook would show it.
#[derive(Default)]
struct Lines(Mutex<BTreeSet<String>>);

/// The lines of one fault, whose servers have these names in the runbook.
#[derive(Clone)]
struct Fault {
    servers: Vec<(String, &'static str)>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Fault {
    /// `servers` are URLs on loopback, and the hosts that stand for them.
    fn new(servers: &[(&str, &'static str)]) -> Self {
        let own = |(url, name): &(&str, &'static str)| ((*url).to_owned(), *name);
        Self {
            servers: servers.iter().map(own).collect(),
            lines: Arc::default(),
        }
    }

    fn print(&self, line: &str) {
        let mut line = normal(line);
        for (url, name) in &self.servers {
            let authority = url.trim_start_matches("http://");
            line = line.replace(url, &format!("https://{name}"));
            line = line.replace(authority, name);
        }
        self.lines.lock().unwrap().push(line);
    }

    fn transport(&self) -> Transport {
        let fault = self.clone();
        Transport::new().on_event(move |event| fault.print(&event.to_string()))
    }

    fn session(&self, client: Client, label: &str) -> SessionBuilder {
        Session::builder(self.transport(), client)
            .label(label)
            .policy(RefreshPolicy::default().refresh_timeout(Duration::from_secs(5)))
    }

    /// Adds the lines to those of all faults.
    fn end(self, lines: &Lines) {
        let mut own = self.lines.lock().unwrap();
        lines.0.lock().unwrap().extend(own.drain(..));
    }
}

fn refresh_token() -> Grant {
    Grant::refresh_token(Secret::new("r0")).unwrap()
}

/// Prints the error of a call.
fn fails(fault: &Fault, session: &Session) {
    fault.print(&session.token().unwrap_err().to_string());
}

fn tokens(life: u64) -> String {
    let token = r#"{"access_token":"a","token_type":"Bearer","refresh_token":"r1","expires_in":"#;
    response("200 OK", &format!("{token}{life}}}"))
}

fn server_is_down(lines: &Lines) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let fault = Fault::new(&[(&url, "as.example")]);
    let endpoint = Endpoint::loopback_http(&format!("{url}/token")).unwrap();
    let client = Client::new(endpoint, ClientAuth::none("app").unwrap());
    let session = fault.session(client, "reports");
    fails(&fault, &session.grant(Grant::client_credentials()).build());
    fault.end(lines);
}

fn server_is_busy(lines: &Lines) {
    let server = Server::start(|_| response("503 Service Unavailable", ""));
    let fault = Fault::new(&[(&server.url, "as.example")]);
    let session = fault.session(server.client(), "users");
    fails(&fault, &session.grant(refresh_token()).build());
    fault.end(lines);
}

fn server_hangs(lines: &Lines) {
    let server = Server::start(|_| {
        thread::sleep(Duration::from_secs(10));
        String::new()
    });
    let fault = Fault::new(&[(&server.url, "as.example")]);
    let session = fault.session(server.client(), "users");
    let policy = RefreshPolicy::default().refresh_timeout(Duration::from_secs(2));
    fails(
        &fault,
        &session.grant(refresh_token()).policy(policy).build(),
    );
    fault.end(lines);
}

fn login_is_refused(lines: &Lines) {
    let server = Server::start(|_| {
        let refusal =
            r#"{"error":"invalid_grant","error_description":"the refresh token is revoked"}"#;
        response("400 Bad Request", refusal)
    });
    let fault = Fault::new(&[(&server.url, "as.example")]);
    let session = fault.session(server.client(), "users");
    let policy = RefreshPolicy::default().retry_interval(Duration::ZERO);
    let session = session.grant(refresh_token()).policy(policy).build();
    fails(&fault, &session);
    fails(&fault, &session);
    fault.end(lines);
}

fn storage(redis: &str) -> RedisStorage {
    RedisStorage::new(redis::Client::open(redis).unwrap(), "my-app:")
}

/// A session that continues on its own, and one that does not.
fn use_storage(redis: &str, lines: &Lines) {
    let server = Server::start(|_| tokens(3600));
    let fault = Fault::new(&[(&server.url, "as.example")]);
    let reports = fault.session(server.client(), "reports");
    let reports = reports.grant(Grant::client_credentials());
    reports
        .storage(storage(redis), "one")
        .build()
        .token()
        .unwrap();
    let users = fault
        .session(server.client(), "users")
        .grant(refresh_token());
    fails(&fault, &users.storage(storage(redis), "one").build());
    fault.end(lines);
}

fn storage_is_down(lines: &Lines) {
    use_storage(&format!("redis://127.0.0.1:{}/", free_port()), lines);
}

fn storage_is_frozen(lines: &Lines) {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start(folder.path());
    redis.freeze();
    use_storage(&redis.url(), lines);
}

fn holder_of_the_lease_has_crashed(lines: &Lines) {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start(folder.path());
    let server = Server::start(|_| tokens(3600));
    let fault = Fault::new(&[(&server.url, "as.example")]);
    let (crashed, name) = (storage(&redis.url()), server.stored_as("one"));
    let lease = crashed.lease(&name, Duration::from_secs(1)).unwrap();
    let session = fault
        .session(server.client(), "users")
        .grant(refresh_token());
    let session = session.storage(storage(&redis.url()), "one").build();
    session.token().unwrap();
    drop(lease);
    // Another process has the token from there.
    let other = fault.session(server.client(), "users");
    let other = other.storage(storage(&redis.url()), "one").build();
    other.token().unwrap();
    fault.end(lines);
}

/// The stored state of a process that has loaded it is removed.
fn login_vanishes(lines: &Lines) {
    let folder = tempfile::tempdir().unwrap();
    let redis = Redis::start(folder.path());
    let server = Server::start(|_| tokens(1));
    let fault = Fault::new(&[(&server.url, "as.example")]);
    let session = fault
        .session(server.client(), "users")
        .grant(refresh_token());
    let session = session.storage(storage(&redis.url()), "one").build();
    for _ in 0..2 {
        session.token().unwrap();
        thread::sleep(Duration::from_millis(1100));
    }
    redis.tell(&["FLUSHALL"]).unwrap();
    fails(&fault, &session);
    fault.end(lines);
}

/// A session whose proofs a server verifies.
fn bound(fault: &Fault, server: &Server) -> Session {
    let session = fault
        .session(server.client(), "users")
        .grant(refresh_token());
    session
        .dpop(SigningKey::generate(Algorithm::Es256).unwrap())
        .build()
}

const INVALID_PROOF: &str =
    r#"{"error":"invalid_dpop_proof","error_description":"the proof is too old"}"#;

fn clock_is_wrong(lines: &Lines) {
    let date = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(3600));
    let is_first = AtomicBool::new(true);
    let server = Server::start(move |_| match is_first.swap(false, Ordering::SeqCst) {
        true => response(&format!("400 Bad Request\r\nDate: {date}"), INVALID_PROOF),
        false => token("a", "DPoP", 3600),
    });
    let fault = Fault::new(&[(&server.url, "as.example")]);
    bound(&fault, &server).token().unwrap();
    fault.end(lines);
}

fn clock_is_not_corrected(lines: &Lines) {
    let server = Server::start(|_| response("400 Bad Request", INVALID_PROOF));
    let fault = Fault::new(&[(&server.url, "as.example")]);
    fails(&fault, &bound(&fault, &server));
    fault.end(lines);
}

/// A resource whose clock is ahead of that of the authorization server.
fn tokens_expire_early_for_the_resource(lines: &Lines) {
    let server = Server::start(|_| tokens(3600));
    let resource = Server::start(|_| {
        response(
            "401 Unauthorized\r\nWWW-Authenticate: Bearer error=\"invalid_token\"",
            "",
        )
    });
    let names = [(&*server.url, "as.example"), (&*resource.url, "rs.example")];
    let fault = Fault::new(&names);
    let session = fault
        .session(server.client(), "users")
        .grant(refresh_token());
    let session = session.build();
    session.token().unwrap();
    assert_eq!(resource.call(&session).unwrap().status(), 401);
    fault.end(lines);
}
