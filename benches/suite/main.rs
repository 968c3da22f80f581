//! What keybound costs beside ring's bare signatures. `README.md` says how to run it and how to read it.

mod floor;
mod paired;
mod proof;
mod subject;
mod verify;

use std::env;
use std::error::Error;
use std::fs;
use std::path::Path;

use paired::{Case, Row};
use serde_json::{Value, json};
use subject::Subject;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

fn main() -> Outcome {
    let Options { filter, repeat } = Options::read()?;
    let (subjects, missing) = Subject::all()?;
    let mut cases = Vec::new();
    for subject in &subjects {
        cases.extend(proof::cases(subject)?);
    }
    for subject in &subjects {
        cases.push(verify::case(subject)?);
    }
    cases.retain(|case| case.id().contains(&filter));

    if let Some(times) = repeat {
        return cases.iter().try_for_each(|case| case.repeat(times));
    }
    println!("{:<30} {:>12} {:>12} {:>8} {:>12}", "case", "ns", "ring's ns", "ratio", "allocations");
    let rows = cases.iter().map(measure).collect::<Outcome<Vec<_>>>()?;
    if let Some(missing) = missing {
        println!("{missing}");
    }
    // `tmp` in the target folder is the one path there that cargo tells.
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("keybound-bench.json");
    Ok(fs::write(file, serde_json::to_string_pretty(&rows)?)?)
}

struct Options {
    /// Only cases whose names hold this.
    filter: String,
    /// Do each so often and measure nothing, for a profiler.
    repeat: Option<u32>,
}

impl Options {
    fn read() -> Outcome<Self> {
        let mut options = Self { filter: String::new(), repeat: None };
        // Cargo itself says `--bench`.
        let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
        while let Some(argument) = arguments.next() {
            if argument == "--repeat" {
                options.repeat = Some(arguments.next().unwrap_or_default().parse()?);
            } else {
                options.filter = argument;
            }
        }
        Ok(options)
    }
}

fn measure(case: &Case<'_>) -> Outcome<Value> {
    let Row { ns, floor_ns, ratio, allocations } = case.measure()?;
    println!("{:<30} {ns:>12.0} {floor_ns:>12.0} {ratio:>8.3} {allocations:>12}", case.id());
    Ok(json!({
        "group": case.group,
        "case": case.name,
        "ns": ns,
        "ring_ns": floor_ns,
        "ratio": ratio,
        "allocations": allocations,
    }))
}
