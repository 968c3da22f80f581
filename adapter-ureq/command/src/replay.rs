//! `keybound replay`: repeats a recorded session, step by step.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;

use clap::Args;
use keybound_ureq::driver::{Replay, ReplayError};

use crate::failure::Failure;
use crate::output::Stdout;

#[derive(Args)]
pub(crate) struct Options {
    /// The recording, as `Transport::record` wrote it.
    file: PathBuf,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let path = options.file.display();
    let unusable = |error: &dyn std::fmt::Display| Failure::usage(format!("{path}: {error}"));
    let file = File::open(&options.file).map_err(|error| unusable(&error))?;
    let mut lines = BufReader::new(file).lines();
    let first = lines.next().transpose().map_err(|error| unusable(&error))?;
    let first = first.unwrap_or_default();
    let mut replay = Replay::new(&first).map_err(|error| unusable(&error))?;
    let mut steps = 0_u64;
    for (line, number) in lines.zip(2_u64..) {
        let line = line.map_err(|error| unusable(&error))?;
        let in_line = |error: ReplayError| match error {
            ReplayError::Differs { .. } => {
                Failure::refused(format!("{path}, line {number}: {error}"))
            }
            _ => Failure::usage(format!("{path}, line {number}: {error}")),
        };
        let step = replay.step(&line).map_err(in_line)?;
        writeln!(Stdout, "{step}")?;
        steps += 1;
    }
    writeln!(Stdout, "{steps} lines, each as it was recorded")?;
    Ok(())
}
