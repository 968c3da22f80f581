//! Metrics for Prometheus: requests, retries, refreshes, lost logins and failures of the storage. The guide's
//! runbook has alert rules for them.
//!
//! ```sh
//! cargo run -p keybound-ureq --example prometheus
//! ```

use std::error::Error;
use std::fmt;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use keybound_sandbox::{CLIENT_ID, CLIENT_SECRET, Options, Sandbox};
use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::storage::{Lease, Storage, StorageError};
use keybound_ureq::{
    Attempt, Client, ClientAuth, Endpoint, Event, Grant, Reason, Role, Secret, SecretBytes, Sent,
    Session, Transport,
};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use ureq::http::Request;

type BoxError = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), BoxError> {
    let sandbox = Sandbox::start(Options::default().require_nonce(true))?;
    let server = sandbox.oauth();
    let metrics = Metrics::default();
    let page = serve(metrics.registry())?;

    let key = SigningKey::generate(Algorithm::Es256)?;
    let auth = ClientAuth::basic(CLIENT_ID, Secret::new(CLIENT_SECRET))?;
    let endpoint = Endpoint::https_or_loopback(&format!("{server}/token"))?;
    let client = Client::new(endpoint, auth).dpop(key.public().clone());
    let transport = Transport::new()
        .signer(key)
        .on_event(move |event| metrics.observe(&event));
    let transport = Arc::new(transport);
    let session = |label, grant| {
        let session = Session::builder(Arc::clone(&transport), client.clone());
        session.grant(grant).label(label).build()
    };
    let reports = session("reports", Grant::client_credentials());
    for _ in 0..3 {
        let request = Request::get(format!("{server}/resource")).body(())?;
        let status = reports.send(request)?.status();
        if !status.is_success() {
            return Err(format!("the server responded with {status}").into());
        }
    }
    // The server does not know this login.
    let refresh_token = Grant::refresh_token(Secret::new("unknown"))?;
    if session("users", refresh_token).token().is_ok() {
        return Err("the server accepted an unknown refresh token".into());
    }

    // Without its storage, a session with a repeatable grant continues.
    let alone = Session::builder(Arc::clone(&transport), client.clone())
        .grant(Grant::client_credentials())
        .label("reports");
    alone.storage(Unavailable, "one").build().token()?;

    let page = ureq::get(&page).call()?.body_mut().read_to_string()?;
    print!("{page}");
    let base = sandbox.base_url();
    let at = |role| format!(r#"server="{base}",role="{role}""#);
    let (authorization, resource) = (at("authorization_server"), at("resource_server"));
    for line in [
        // The sandbox requires a nonce, which the first request to each role does not have.
        format!(r#"keybound_requests_total{{{authorization},outcome="200"}} 2"#),
        format!(r#"keybound_requests_total{{{authorization},outcome="400"}} 2"#),
        format!(r#"keybound_requests_total{{{resource},outcome="200"}} 3"#),
        format!(r#"keybound_requests_total{{{resource},outcome="401"}} 1"#),
        format!(r#"keybound_retries_total{{{resource},reason="401"}} 1"#),
        format!("keybound_request_duration_seconds_count{{{resource}}} 4"),
        r#"keybound_refreshes_total{session="reports",outcome="refreshed"} 2"#.into(),
        r#"keybound_refreshes_total{session="users",outcome="server"} 1"#.into(),
        r#"keybound_refresh_duration_seconds_count{session="users"} 1"#.into(),
        r#"keybound_logins_lost_total{session="users"} 1"#.into(),
        r#"keybound_storage_failures_total{session="reports"} 1"#.into(),
    ] {
        if !page.lines().any(|found| found == line) {
            return Err(format!("the metrics have no line {line}").into());
        }
    }
    // The alert rules of the runbook are about metrics that exist.
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = RUNBOOK.split(|c| !is_name(c));
    for name in names.filter(|name| name.starts_with("keybound_") && *name != "keybound_ureq") {
        if !page.contains(&format!("\n{name}{{")) {
            return Err(format!("the runbook names the metric {name}, and there is none").into());
        }
    }
    Ok(())
}

const RUNBOOK: &str = include_str!("../src/guide/runbook.md");

/// A storage that does not respond.
struct Unavailable;

impl Storage for Unavailable {
    fn lease(&self, _: &str, _: Duration) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        Err("it does not respond".into())
    }

    fn load(&self, _: &str) -> Result<Option<SecretBytes>, StorageError> {
        Err("it does not respond".into())
    }
}

type Labels = Vec<(&'static str, String)>;

/// The metrics of all transports and sessions of a process. The number of their time series is that of the
/// servers and of the labels of sessions.
#[derive(Default)]
struct Metrics {
    requests: Family<Labels, Counter>,
    request_duration: Durations,
    retries: Family<Labels, Counter>,
    refreshes: Family<Labels, Counter>,
    refresh_duration: Durations,
    lease_wait: Durations,
    logins_lost: Family<Labels, Counter>,
    storage_failures: Family<Labels, Counter>,
}

impl Metrics {
    fn registry(&self) -> Registry {
        let mut root = Registry::default();
        let registry = root.sub_registry_with_prefix("keybound");
        let requests = "Attempts of requests, by status; or not_sent, or no_response";
        registry.register("requests", requests, self.requests.clone());
        let name = "request_duration_seconds";
        let help = "Duration of attempts, without the delays between them";
        registry.register(name, help, self.request_duration.0.clone());
        registry.register("retries", "Retries of requests", self.retries.clone());
        let refreshes = "Refreshes, by outcome: refreshed, adopted, or the kind of error";
        registry.register("refreshes", refreshes, self.refreshes.clone());
        let name = "refresh_duration_seconds";
        let help = "Duration of refreshes, with delays and waits";
        registry.register(name, help, self.refresh_duration.0.clone());
        let help = "Waits for the lease of another process";
        registry.register("lease_wait_seconds", help, self.lease_wait.0.clone());
        let help = "Sessions that require a new login";
        registry.register("logins_lost", help, self.logins_lost.clone());
        let help = "Failures of the storage of sessions";
        registry.register("storage_failures", help, self.storage_failures.clone());
        root
    }

    fn observe(&self, event: &Event<'_>) {
        match event {
            Event::ResponseReceived {
                attempt,
                duration,
                status,
                ..
            } => self.request(attempt, *duration, status.as_str()),
            Event::NoResponse {
                attempt,
                duration,
                sent: Sent::No,
                ..
            } => self.request(attempt, *duration, "not_sent"),
            Event::NoResponse {
                attempt, duration, ..
            } => self.request(attempt, *duration, "no_response"),
            Event::Retrying(it) => {
                let reason = match it.reason {
                    Reason::ServerResponse(status) => status.as_str().to_owned(),
                    Reason::TokenRejected => "token_rejected".to_owned(),
                    _ => "no_response".to_owned(),
                };
                let mut labels = server(&it.attempt);
                labels.push(("reason", reason));
                self.retries.get_or_create(&labels).inc();
            }
            Event::TokenRefreshed(it) => {
                let outcome = if it.is_adopted {
                    "adopted"
                } else {
                    "refreshed"
                };
                self.refresh(session(it.session.as_ref()), outcome, it.duration);
            }
            Event::RefreshFailed(it) => {
                self.refresh(session(it.session.as_ref()), it.error.kind(), it.duration);
            }
            Event::LeaseAwaited(it) => {
                self.lease_wait
                    .observe(session(it.session.as_ref()), it.duration);
            }
            Event::LoginLost(it) => {
                let labels = session(it.session.as_ref());
                self.logins_lost.get_or_create(&labels).inc();
            }
            Event::StorageUnavailable(it) => {
                let labels = session(it.session.as_ref());
                self.storage_failures.get_or_create(&labels).inc();
            }
            _ => {}
        }
    }

    fn request(&self, attempt: &Attempt, duration: Duration, outcome: &str) {
        self.request_duration.observe(server(attempt), duration);
        let mut labels = server(attempt);
        labels.push(("outcome", outcome.to_owned()));
        self.requests.get_or_create(&labels).inc();
    }

    fn refresh(&self, session: Labels, outcome: &str, duration: Duration) {
        self.refresh_duration.observe(session.clone(), duration);
        let mut labels = session;
        labels.push(("outcome", outcome.to_owned()));
        self.refreshes.get_or_create(&labels).inc();
    }
}

/// Histograms from 5 ms to 41 s.
struct Durations(Family<Labels, Histogram>);

impl Default for Durations {
    fn default() -> Self {
        Self(Family::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.005, 2.0, 14))
        }))
    }
}

impl Durations {
    fn observe(&self, labels: Labels, duration: Duration) {
        let histogram = self.0.get_or_create(&labels);
        histogram.observe(duration.as_secs_f64());
    }
}

fn server(attempt: &Attempt) -> Labels {
    let role = match attempt.role {
        Role::AuthorizationServer => "authorization_server",
        Role::ResourceServer => "resource_server",
    };
    vec![
        ("server", attempt.server.clone()),
        ("role", role.to_owned()),
    ]
}

fn session(label: Option<&Arc<str>>) -> Labels {
    vec![("session", label.map_or("", |label| label).to_owned())]
}

/// Serves the metrics on loopback, and returns the URL of the page that Prometheus reads.
fn serve(registry: Registry) -> Result<String, BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/metrics", listener.local_addr()?);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            if let Err(error) = answer(&connection, &registry) {
                eprintln!("the metrics could not be read: {error}");
            }
        }
    });
    Ok(url)
}

fn answer(mut connection: &TcpStream, registry: &Registry) -> Result<(), BoxError> {
    connection.set_read_timeout(Some(Duration::from_secs(5)))?;
    for line in BufReader::new(connection).lines() {
        if line?.is_empty() {
            break;
        }
    }
    let mut page = String::new();
    encode(&mut page, registry).map_err(|fmt::Error| "the metrics have no text")?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let length = page.len();
    write!(
        connection,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{page}"
    )?;
    Ok(())
}
