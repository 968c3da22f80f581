//! Measures that don't depend on the load of the machine: instructions, counted by valgrind, and
//! allocations.

use std::env;
use std::process::Command;

use crate::Outcome;
use crate::case::Case;

/// The limits of a case.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "it is written down where the case is"
)]
pub struct Limit {
    /// The maximum number of instructions beyond those of the floor.
    pub instructions: u64,
    /// The maximum number of allocations.
    pub allocations: u64,
}

const TIMES: u32 = 100;

/// Counts every case that has a limit, and compares it with that limit.
pub(crate) fn all(cases: &[Case<'_>]) -> Outcome {
    let columns = ["instructions", "at most", "allocations", "at most"];
    println!(
        "{:<44}{}",
        "case",
        columns.map(|column| format!("{column:>14}")).concat()
    );
    let mut broken = Vec::new();
    for case in cases {
        let Some(limit) = case.limit else { continue };
        let instructions = beside_the_floor(case)?;
        let allocations = case.memory()?.allocations;
        println!(
            "{:<44}{instructions:>14}{:>14}{allocations:>14}{:>14}",
            case.id(),
            limit.instructions,
            limit.allocations
        );
        if instructions > limit.instructions || allocations > limit.allocations {
            broken.push(case.id());
        }
    }
    if broken.is_empty() {
        Ok(())
    } else {
        Err(format!("over the limit: {}", broken.join(", ")).into())
    }
}

fn beside_the_floor(case: &Case<'_>) -> Outcome<u64> {
    let floor = if case.has_floor() {
        executed("--repeat-floor", case)?
    } else {
        0
    };
    Ok(executed("--repeat", case)?.saturating_sub(floor))
}

/// Returns the number of instructions of one iteration of a case.
fn executed(task: &str, case: &Case<'_>) -> Outcome<u64> {
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--toggle-collect=*::case::counted*",
        ])
        .arg(env::current_exe()?)
        .args([task, &TIMES.to_string(), &case.id()])
        .output()
        .map_err(|error| format!("valgrind, which counts instructions, can't be run: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text
        .lines()
        .find_map(|line| line.split("Collected : ").nth(1));
    let collected: u64 = collected
        .ok_or_else(|| format!("valgrind counted nothing: {text}"))?
        .trim()
        .parse()?;
    Ok(collected / u64::from(TIMES))
}
