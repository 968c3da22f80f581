//! `call --repeat`: many requests by one session, and their statistics.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http::Request;
use indicatif::ProgressBar;
use keybound_ureq::{Event, Grant, Session};
use serde_json::json;

use crate::client::Ready;
use crate::failure::Failure;
use crate::grant::TokenOptions;
use crate::nonce_cache;
use crate::output::Stdout;
use crate::response::check_response;
use crate::trace::Trace;

/// The number of requests that were sent, including retries.
#[derive(Default)]
struct RequestCounts {
    calls: AtomicU64,
    token_requests: AtomicU64,
}

/// The results of the calls.
#[derive(Default)]
struct Tally {
    ok: u32,
    failed: u32,
    latencies: Vec<Duration>,
    /// The message of the first failure.
    first_error: Option<String>,
}

/// Sends `request` `times` times from `parallel` threads, and prints the statistics. Fails if any of the calls failed.
pub(crate) fn run(
    ready: Ready,
    grant: Grant,
    request: &Request<Vec<u8>>,
    times: u32,
    parallel: u32,
    options: &TokenOptions,
) -> Result<(), Failure> {
    let counts = Arc::new(RequestCounts::default());
    let counted = Arc::clone(&counts);
    let (url, trace, traced) = (
        request.uri().clone(),
        Trace::default(),
        options.client.trace,
    );
    let transport = ready.transport.on_event(move |event| {
        if let Event::RequestSent { uri, .. } = &event {
            let counter = if **uri == url {
                &counted.calls
            } else {
                &counted.token_requests
            };
            counter.fetch_add(1, Ordering::Relaxed);
        }
        if traced {
            trace.print(&mut io::stderr(), &event);
        }
    });
    let empty_401 = ready.empty_401;
    let session = options.session(transport, ready.client, grant)?;
    let (tally, remaining) = (Mutex::new(Tally::default()), AtomicU64::new(times.into()));
    // Drawn on stderr, and only if that is a terminal.
    let progress = ProgressBar::new(times.into());
    thread::scope(|scope| {
        for _ in 0..parallel.min(times) {
            scope.spawn(|| {
                while remaining
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |remaining| {
                        remaining.checked_sub(1)
                    })
                    .is_ok()
                {
                    let started = Instant::now();
                    let outcome = call(&session, request, empty_401);
                    tally
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .add(started.elapsed(), outcome);
                    progress.inc(1);
                }
            });
        }
    });
    progress.finish_and_clear();
    nonce_cache::store(&session.transport().server_state());
    tally
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .report(&counts)
}

/// Sends one request. The body is read to its end, so that the connection can be reused.
fn call(
    session: &Session,
    request: &Request<Vec<u8>>,
    empty_401: Option<&str>,
) -> Result<(), String> {
    let (head, body) = session
        .send(request.clone())
        .map_err(|error| error.to_string())?
        .into_parts();
    let length =
        io::copy(&mut body.into_reader(), &mut io::sink()).map_err(|error| error.to_string())?;
    check_response(request.uri(), &head, length, empty_401)
}

impl Tally {
    fn add(&mut self, latency: Duration, outcome: Result<(), String>) {
        self.latencies.push(latency);
        match outcome {
            Ok(()) => self.ok += 1,
            Err(error) => {
                self.failed += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }

    fn report(mut self, counts: &RequestCounts) -> Result<(), Failure> {
        self.latencies.sort_unstable();
        let percentile = |percent: usize| {
            let at = (self.latencies.len() * percent)
                .div_ceil(100)
                .saturating_sub(1);
            self.latencies
                .get(at)
                .map(|latency| latency.as_secs_f64() * 1000.0)
        };
        let figures = json!({
            "ok": self.ok,
            "failed": self.failed,
            "requests": counts.calls.load(Ordering::Relaxed),
            "token_requests": counts.token_requests.load(Ordering::Relaxed),
            "p50_ms": percentile(50),
            "p99_ms": percentile(99),
        });
        writeln!(Stdout, "{figures}")?;
        match self.first_error {
            Some(error) => Err(Failure::refused(format!(
                "{} of {} calls failed; the first error: {error}",
                self.failed,
                self.latencies.len()
            ))),
            None => Ok(()),
        }
    }
}
