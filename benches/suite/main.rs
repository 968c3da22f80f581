//! Measures the cost of keybound by itself. `../README.md` explains how to run it and how to read
//! it.

mod loopback;
mod proof;
mod sharing;
mod token;
mod verify;

use std::path::Path;
use std::process::Command;

use keybound_benches::{Asking, Outcome, Subject, run};

fn main() -> Outcome {
    let subjects = Subject::all()?;
    let asking = Asking::new()?;
    let mut cases = Vec::new();
    for subject in &subjects {
        cases.extend(proof::cases(subject)?);
    }
    for subject in &subjects {
        cases.push(verify::case(subject)?);
    }
    cases.extend(token::cases(&asking)?);
    if let Some(subject) = subjects.first() {
        cases.extend(sharing::cases(subject)?);
        cases.extend(loopback::cases(subject)?);
    }
    // `tmp` in the target folder is the only path there that cargo provides.
    run(
        cases,
        &Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("keybound-bench.json"),
    )?;
    if cfg!(feature = "peers") {
        beside_peers()
    } else {
        Ok(())
    }
}

/// Runs the comparison with other libraries. It is a workspace of its own, so that none of their
/// crates becomes a dependency of keybound.
fn beside_peers() -> Outcome {
    let args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers"))
        .args(["bench", "--"])
        .args(args);
    if cargo.status()?.success() {
        Ok(())
    } else {
        Err("the peers' benchmarks have failed".into())
    }
}
