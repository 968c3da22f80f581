//! Many calls by one session.

use std::io::{self, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use http::Request;
use indicatif::ProgressBar;
use keybound_ureq::{Event, Grant, Session};
use serde_json::json;

use crate::call::judge;
use crate::client::Ready;
use crate::failure::Failure;
use crate::grant::TokenOptions;
use crate::nonce_cache;
use crate::output::Stdout;
use crate::trace::Trace;

/// What went over the wire.
#[derive(Default)]
struct RequestCounts {
    calls: AtomicU64,
    token_requests: AtomicU64,
}

/// What came of the calls.
#[derive(Default)]
struct Tally {
    ok: u32,
    failed: u32,
    took: Vec<Duration>,
    /// The first thing that went wrong, in words.
    why: Option<String>,
}

/// Calls `times` times by `parallel` threads, and prints the figures; status 0 only if all went well.
pub(crate) fn run(
    ready: Ready,
    grant: Grant,
    request: &Request<Vec<u8>>,
    times: u32,
    parallel: u32,
    options: &TokenOptions,
) -> Result<(), Failure> {
    let sent = Arc::new(RequestCounts::default());
    let counted = Arc::clone(&sent);
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
    let (tally, left) = (Mutex::new(Tally::default()), AtomicU64::new(times.into()));
    // Drawn on stderr, and only where that is a terminal.
    let progress = ProgressBar::new(times.into());
    thread::scope(|scope| {
        for _ in 0..parallel.min(times) {
            scope.spawn(|| {
                while left
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                        left.checked_sub(1)
                    })
                    .is_ok()
                {
                    let began = Instant::now();
                    let outcome = call(&session, request, empty_401);
                    tally
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .add(began.elapsed(), outcome);
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
        .report(&sent)
}

/// One call, its body read to the end, so that the connection can be used again.
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
    judge(request.uri(), &head, length, empty_401)
}

impl Tally {
    fn add(&mut self, took: Duration, outcome: Result<(), String>) {
        self.took.push(took);
        match outcome {
            Ok(()) => self.ok += 1,
            Err(why) => {
                self.failed += 1;
                self.why.get_or_insert(why);
            }
        }
    }

    fn report(mut self, sent: &RequestCounts) -> Result<(), Failure> {
        self.took.sort_unstable();
        let percentile = |percent: usize| {
            let at = (self.took.len() * percent).div_ceil(100).saturating_sub(1);
            self.took.get(at).map(|took| took.as_secs_f64() * 1000.0)
        };
        let figures = json!({
            "ok": self.ok,
            "failed": self.failed,
            "requests": sent.calls.load(Ordering::Relaxed),
            "token_requests": sent.token_requests.load(Ordering::Relaxed),
            "p50_ms": percentile(50),
            "p99_ms": percentile(99),
        });
        writeln!(Stdout, "{figures}")?;
        match self.why {
            Some(why) => Err(Failure::refused(format!(
                "{} of {} calls failed, the first so: {why}",
                self.failed,
                self.took.len()
            ))),
            None => Ok(()),
        }
    }
}
