//! The parts of the benchmarks: cases, their measurement, and their input. `README.md` explains how
//! to run them and how to read their output.

mod asking;
mod case;
mod count;
mod floor;
mod many;
mod responder;
mod subject;

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

use case::Row;
use serde_json::{Value, json};

pub use asking::Asking;
pub use case::{Case, Spent, Work, again, by_threads, each, held, in_turns, percentile_by_threads};
pub use count::Limit;
pub use floor::RingKey;
pub use many::{People, Servers};
pub use responder::Responder;
pub use subject::{Subject, now};

/// The result of a benchmark. Errors are not handled: a benchmark reports the first one and ends.
pub type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// Runs the cases as the command line requires. The measurements are also written to `file`, as
/// JSON.
///
/// # Errors
/// Returns any error of a case. Fails if a case exceeds its limit.
pub fn run(mut cases: Vec<Case<'_>>, file: &Path) -> Outcome {
    let Options { filter, task } = Options::read()?;
    cases.retain(|case| case.id().contains(&filter));
    match task {
        Task::Measure => measure(&cases, file),
        Task::Count => count::all(&cases),
        Task::Repeat { times, floor } => {
            cases.iter().try_for_each(|case| case.repeat(times, floor))
        }
    }
}

enum Task {
    Measure,
    /// Count instructions and allocations, and compare them with the limits.
    Count,
    /// Run the given number of iterations and measure nothing, for a profiler.
    Repeat {
        times: u32,
        floor: bool,
    },
}

struct Options {
    /// Runs only cases whose names contain this text.
    filter: String,
    task: Task,
}

impl Options {
    fn read() -> Outcome<Self> {
        let mut options = Self {
            filter: String::new(),
            task: Task::Measure,
        };
        // Cargo itself passes `--bench`.
        let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                "--count" => options.task = Task::Count,
                "--repeat" | "--repeat-floor" => {
                    let times = arguments.next().unwrap_or_default().parse()?;
                    options.task = Task::Repeat {
                        times,
                        floor: argument == "--repeat-floor",
                    };
                }
                _ => options.filter = argument,
            }
        }
        Ok(options)
    }
}

fn measure(cases: &[Case<'_>], file: &Path) -> Outcome {
    let columns = [
        "ns",
        "floor's ns",
        "ratio",
        "undisturbed",
        "allocations",
        "bytes",
    ];
    println!(
        "{:<44}{}",
        "case",
        columns.map(|column| format!("{column:>12}")).concat()
    );
    let mut rows = Vec::new();
    for case in cases {
        let row = case.measure()?;
        let floor_ns = row
            .floor
            .map_or("-".to_owned(), |floor| format!("{:.0}", floor.ns));
        let ratio = row
            .floor
            .map_or("-".to_owned(), |floor| format!("{:.3}", floor.ratio));
        let undisturbed = row
            .floor
            .map_or("-".to_owned(), |floor| format!("{:.3}", floor.undisturbed));
        let Row {
            ns,
            allocations,
            bytes,
            ..
        } = row;
        println!(
            "{:<44}{ns:>12.0}{floor_ns:>12}{ratio:>12}{undisturbed:>12}{allocations:>12}{bytes:>12}",
            case.id()
        );
        rows.push(json(case, &row));
    }
    Ok(fs::write(file, serde_json::to_string_pretty(&rows)?)?)
}

fn json(case: &Case<'_>, row: &Row) -> Value {
    json!({
        "group": case.group,
        "case": case.name,
        "median_ns": row.ns,
        "floor_median_ns": row.floor.map(|floor| floor.ns),
        "ratio": row.floor.map(|floor| floor.ratio),
        "ratio_undisturbed": row.floor.map(|floor| floor.undisturbed),
        "allocations": row.allocations,
        "bytes": row.bytes,
    })
}
