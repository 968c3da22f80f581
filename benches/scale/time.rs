//! The time of a call from several threads, to many servers or for many users.

use std::cell::Cell;
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use keybound_benches::{Outcome, People, RingKey, Servers, Subject, Work, by_threads, in_turns};

use crate::chart::{Chart, Line};

const THREADS: [usize; 4] = [1, 2, 4, 8];

/// Measures proofs, with a driver's lock around the state of servers.
pub(crate) fn proofs(subject: &Subject) -> Outcome<Chart> {
    let mut works = Vec::new();
    for threads in THREADS {
        works.push(by_threads(threads, || subject.call()));
    }
    for threads in THREADS {
        let (ring, message) = (RingKey::new(&subject.key)?, [b'a'; 480]);
        works.push(by_threads(threads, move || {
            ring.sign(&message, |signature| {
                black_box(signature);
            })
        }));
    }
    let names = ["a proof", "ring's signature alone"].map(str::to_owned);
    chart("A proof by ES256", names, &works)
}

/// Measures a call without its signature: looks up a nonce, and records the one of the response.
pub(crate) fn calls(subject: &Subject) -> Outcome<Chart> {
    let counts = [1, 64, 10_000];
    let mut works = Vec::new();
    for count in counts {
        for threads in THREADS {
            let servers = Servers::known_to(subject, count)?;
            works.push(by_threads(threads, move || {
                servers.call(subject, next() % count)
            }));
        }
    }
    chart(
        "A call, without its signature",
        counts.map(|count| counted(count, "server")),
        &works,
    )
}

/// Measures how an application gets a session's token for each request that it serves.
pub(crate) fn sessions(subject: &Subject) -> Outcome<Chart> {
    let counts = [1, 1_000, 100_000];
    let mut works = Vec::new();
    for count in counts {
        let people = Arc::new(People::with_sessions(subject, count)?);
        for threads in THREADS {
            let people = Arc::clone(&people);
            works.push(by_threads(threads, move || people.token(next() % count)));
        }
    }
    chart(
        "A session's token, from a pool",
        counts.map(|count| counted(count, "session")),
        &works,
    )
}

fn chart<const N: usize>(
    title: &'static str,
    names: [String; N],
    works: &[Work<'_>],
) -> Outcome<Chart> {
    let cores = thread::available_parallelism()?.get();
    let nanoseconds = in_turns(works)?;
    let lines = names.into_iter().zip(nanoseconds.chunks(THREADS.len()));
    // With more threads than cores, a call takes longer, but not more time of a core.
    let share = |threads: usize| small(threads.min(cores)) / small(threads);
    let line = |values: &[f64]| {
        values
            .iter()
            .zip(THREADS)
            .map(|(ns, threads)| Some(ns * share(threads)))
            .collect()
    };
    Ok(Chart {
        title,
        unit: "nanoseconds of a core for each",
        steps_are: "threads",
        steps: THREADS
            .iter()
            .filter_map(|threads| u32::try_from(*threads).ok())
            .collect(),
        lines: lines
            .map(|(name, values)| Line(name, line(values)))
            .collect(),
    })
}

/// Returns another index for each call and each thread.
fn next() -> usize {
    static THREAD: AtomicUsize = AtomicUsize::new(1);
    thread_local!(static AT: Cell<usize> = Cell::new(THREAD.fetch_add(1, Ordering::Relaxed) * 12_347));
    AT.with(|at| at.replace(at.get().wrapping_add(7_919)))
}

fn small(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::NAN, f64::from)
}

fn counted(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        1_000.. => format!("{},000 {what}s", count / 1000),
        _ => format!("{count} {what}s"),
    }
}
