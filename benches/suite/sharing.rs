//! Measures the state that all threads of a process share, a token and the state of servers, behind
//! the locks that drivers use.

use std::cell::Cell;
use std::hint::black_box;

use keybound_benches::{
    Case, Limit, Outcome, People, RingKey, Servers, Subject, again, by_threads,
};
use keybound_core::driver::ServerState;
use keybound_core::{Client, ClientAuth, Endpoint, Grant, Secret};
use keybound_ureq::{Session, Transport};

const THREADS: [usize; 3] = [2, 4, 8];
const PEOPLE: usize = 1_000;

pub(crate) fn cases(subject: &Subject) -> Outcome<Vec<Case<'_>>> {
    let mut cases = Vec::new();
    let proofs = |threads| by_threads(threads, || subject.call());
    let signatures = |threads| -> Outcome<_> {
        let (ring, message) = (RingKey::new(&subject.key)?, [b'a'; 480]);
        Ok(by_threads(threads, move || {
            ring.sign(&message, |signature| {
                black_box(signature);
            })
        }))
    };
    for threads in THREADS {
        cases.push(
            Case::new(
                "sharing",
                format!("proofs, {threads} threads"),
                proofs(threads),
            )
            .beside(signatures(threads)?),
        );
    }
    // With a second core, if there is one: ring's result is the maximum that the machine can reach.
    cases.push(Case::new("sharing", "proofs, 2 threads beside 1", proofs(2)).beside(proofs(1)));
    cases.push(
        Case::new("sharing", "signatures, 2 threads beside 1", signatures(2)?)
            .beside(signatures(1)?),
    );
    let session = session(subject)?;
    for threads in THREADS {
        let work = |threads| {
            let session = session.clone();
            by_threads(threads, move || Ok(session.token()?))
        };
        cases.push(
            Case::new(
                "sharing",
                format!("a session's token, {threads} threads"),
                work(threads),
            )
            .beside(work(1)),
        );
    }
    let (one, all) = (
        Servers::known_to(subject, 1)?,
        Servers::known_to(subject, ServerState::CAPACITY)?,
    );
    let in_turn = in_turn(ServerState::CAPACITY);
    cases.push(
        Case::new(
            "sharing",
            format!(
                "a call unsigned, of {} servers in turn",
                ServerState::CAPACITY
            ),
            again(move || all.call(subject, in_turn())),
        )
        .beside(again(move || one.call(subject, 0)))
        .with_limit(Limit {
            instructions: 14_900,
            allocations: 1,
        }),
    );
    let people = People::with_sessions(subject, PEOPLE)?;
    let in_turn = self::in_turn(PEOPLE);
    cases.push(
        Case::new(
            "sharing",
            format!("a token, of {PEOPLE} in a pool"),
            again(move || people.token(in_turn())),
        )
        .beside(again(move || Ok(session.token()?)))
        .with_limit(Limit {
            instructions: 1_450,
            allocations: 1,
        }),
    );
    Ok(cases)
}

/// Returns a session with the subject's token.
fn session(subject: &Subject) -> Outcome<Session> {
    let auth = ClientAuth::basic("bench", Secret::new("bench"))?;
    let client = Client::new(Endpoint::https("https://as.example.com/token")?, auth);
    let session = Session::builder(Transport::new(), client).grant(Grant::client_credentials());
    Ok(session.token(subject.token.clone()).build())
}

/// Returns the indices in order, and starts again after the last one.
fn in_turn(count: usize) -> impl Fn() -> usize {
    let next = Cell::new(0);
    move || next.replace((next.get() + 1) % count)
}
