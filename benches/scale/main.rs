//! Measures the cost of many threads, servers and sessions. Draws `benches/scale.svg`, and prints
//! the same numbers. `../README.md` explains how to run it and how to read it.

mod chart;
mod memory;
mod time;

use std::fs;
use std::path::Path;

use keybound_benches::{Outcome, Subject};
use keybound_core::jose::{Algorithm, SigningKey};

fn main() -> Outcome {
    let subject = Subject::new(SigningKey::generate(Algorithm::Es256)?)?;
    let charts = [
        time::proofs(&subject)?,
        time::calls(&subject)?,
        time::sessions(&subject)?,
        memory::items(&subject)?,
    ];
    for chart in &charts {
        println!("{chart}");
    }
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("scale.svg");
    Ok(fs::write(file, chart::svg(&charts))?)
}
