//! Compares keybound with other libraries for the same task. `../../README.md` explains how to run
//! it and how to read it.

mod asked;
mod proof;
mod provider;
mod ring_signer;
mod token;
mod verify;

use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use asked::Asked;
use keybound_benches::{Asking, Outcome, run};
use keybound_core::jose::Algorithm;

fn main() -> Outcome {
    provider::install()?;
    let asked = [Asked::new(Algorithm::Es256)?, Asked::new(Algorithm::EdDsa)?];
    let asking = Asking::new()?;
    let mut cases = Vec::new();
    for asked in &asked {
        cases.extend(proof::cases(asked)?);
    }
    for asked in &asked {
        cases.extend(verify::cases(asked)?);
    }
    cases.extend(token::cases(&asking)?);
    run(
        cases,
        &Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("keybound-peers.json"),
    )
}

/// Polls a future once. The peers' asynchronous functions wait for nothing here.
fn now_or_never<T>(future: impl Future<Output = T>) -> Outcome<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Ok(output),
        Poll::Pending => Err("this waits for something".into()),
    }
}
