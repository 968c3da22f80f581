//! Deterministic simulation of the session machine: processes, their storage and their servers, in
//! virtual time. Each schedule follows from its seed, or from its path through all choices.
//!
//! A schedule is one complete run to quiescence. Only schedules with at least one fault count.
//!
//! * `SIMULATION_SEEDS=from..to` sets the seeds of the random schedules. A failing seed prints its
//!   story, step by step.

#![cfg(test)]
#![expect(
    clippy::disallowed_methods,
    reason = "the runner has a clock, threads and an environment; the simulation has none"
)]

mod choices;
mod plan;
mod servers;
mod storage;
mod tasks;
mod world;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use choices::{Choices, Path};
use plan::{Clients, Origin, Plan};
use servers::Rotation;
use world::{Coverage, Fate, Outcome, Violation, World};

/// The seeds that run by default. A build for debugging runs few of them.
const SEEDS: std::ops::Range<u64> = match cfg!(debug_assertions) {
    true => 0..3_000,
    false => 0..340_000,
};

/// Set by the first violation.
static STOP: AtomicBool = AtomicBool::new(false);

#[derive(Debug, Default)]
struct Tally {
    schedules: u64,
    with_fault: u64,
    steps: u64,
    fates: BTreeMap<Fate, u64>,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        self.schedules += 1;
        self.steps += u64::from(outcome.steps);
        if outcome.faults > 0 {
            self.with_fault += 1;
        }
        for fate in &outcome.fates {
            *self.fates.entry(*fate).or_default() += 1;
        }
    }
}

impl Tally {
    fn merge(&mut self, other: Self) {
        self.schedules += other.schedules;
        self.with_fault += other.with_fault;
        self.steps += other.steps;
        for (fate, count) in other.fates {
            *self.fates.entry(fate).or_default() += count;
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(text) = std::env::var("SIMULATION_SEEDS") else {
        return SEEDS;
    };
    let (from, to) = text.split_once("..").expect("SIMULATION_SEEDS=from..to");
    from.parse().unwrap()..to.parse().unwrap()
}

fn run_seed(
    seed: u64,
    clients: &Clients,
    coverage: &mut Coverage,
    tells: bool,
) -> (Result<Outcome, Violation>, String) {
    let mut choices = Choices::random(seed);
    let plan = Plan::random(&mut choices);
    let mut world = World::new(plan, clients, choices, coverage, tells);
    let result = world.run();
    let story = world.story();
    (result, story)
}

/// Runs every seed of the range that has this remainder.
fn run_seeds(remainder: u64, divisor: u64) -> (Tally, Coverage) {
    let (clients, mut coverage) = (Clients::new(), Coverage::new(false));
    let mut tally = Tally::default();
    for seed in seeds().filter(|seed| seed % divisor == remainder) {
        if STOP.load(Ordering::Relaxed) {
            break;
        }
        match run_seed(seed, &clients, &mut coverage, false).0 {
            Ok(outcome) => tally.add(&outcome),
            Err(violation) => {
                STOP.store(true, Ordering::Relaxed);
                let (_, story) = run_seed(seed, &clients, &mut coverage, true);
                panic!(
                    "{story}\n\nSEED {seed}, step {}, {} ms: {}: {}",
                    violation.step, violation.time, violation.rule, violation.text
                );
            }
        }
    }
    (tally, coverage)
}

#[test]
fn random_schedules_of_large_worlds_break_no_invariant() {
    let start = Instant::now();
    let divisor = std::thread::available_parallelism().map_or(1, usize::from);
    let divisor = u64::try_from(divisor).unwrap();
    let (mut tally, mut coverage) = (Tally::default(), Coverage::new(false));
    let threads = (0..divisor).map(|part| std::thread::spawn(move || run_seeds(part, divisor)));
    for thread in threads.collect::<Vec<_>>() {
        let (part, reached) = thread.join().unwrap();
        tally.merge(part);
        coverage.merge(&reached);
    }
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{} schedules with a fault, of {}, {} steps, in {seconds:.1} s; logins: {:?}; {} pairs of effect and answer",
        tally.with_fault,
        tally.schedules,
        tally.steps,
        tally.fates,
        coverage.pairs.iter().filter(|pair| **pair).count()
    );
}

fn explore(plan: &Plan, faults: u32, switches: u32, coverage: &mut Coverage) -> Tally {
    let clients = Clients::new();
    let mut tally = Tally::default();
    let mut path = Some(Path::default());
    while let Some(next) = path {
        let choices = Choices::recorded(next, faults, switches);
        let mut world = World::new(plan.clone(), &clients, choices, coverage, false);
        let result = world.run();
        let next = world.choices.into_path();
        match result {
            Ok(outcome) => tally.add(&outcome),
            Err(violation) => {
                let name = next.name();
                let choices = Choices::recorded(next.rewound(), faults, switches);
                let mut world = World::new(plan.clone(), &clients, choices, coverage, true);
                let _ = world.run();
                panic!(
                    "{}\n\nSCHEDULE {name}, step {}: {}: {}",
                    world.story(),
                    violation.step,
                    violation.rule,
                    violation.text
                );
            }
        }
        path = next.next();
    }
    tally
}

#[test]
fn all_schedules_of_small_worlds_break_no_invariant() {
    let start = Instant::now();
    let mut coverage = Coverage::new(true);
    let rotation = |grace, detects_reuse| Rotation {
        rotates: true,
        grace,
        detects_reuse,
    };
    let worlds = match cfg!(debug_assertions) {
        true => vec![(1, 1, 0)],
        false => vec![(1, 1, 1), (1, 2, 0), (2, 1, 1)],
    };
    for (processes, faults, switches) in worlds {
        for origin in [Origin::Stored, Origin::Grant, Origin::Given] {
            for rotation in [rotation(0, false), rotation(0, true), rotation(2000, true)] {
                // The other worlds with two faults are as large as all the rest together.
                if faults > 1 && !matches!(origin, Origin::Stored) {
                    continue;
                }
                let plan = Plan::small(processes, rotation, origin);
                let tally = explore(&plan, faults, switches, &mut coverage);
                println!(
                    "{processes} processes, {origin:?}, {rotation:?}, {faults} faults, {switches} switches: {} schedules, {} with a fault; logins: {:?}",
                    tally.schedules, tally.with_fault, tally.fates
                );
            }
        }
    }
    // The random schedules reach every answer to every effect that these schedules have reached.
    let (clients, mut random) = (Clients::new(), Coverage::new(false));
    let is_missing = |random: &Coverage| {
        let mut pairs = coverage.pairs.iter().zip(&random.pairs);
        pairs.any(|(small, large)| *small && !large)
    };
    let mut seeds = SEEDS;
    while is_missing(&random) {
        let seed = seeds.next().expect("the random schedules reach less");
        assert!(run_seed(seed, &clients, &mut random, false).0.is_ok());
    }
    println!(
        "the first {} random schedules reach every pair that these reach",
        seeds.start
    );
    println!(
        "{} distinct states, {} pairs of effect and answer, {:.1} s",
        coverage.states.as_ref().map_or(0, |states| states.len()),
        coverage.pairs.iter().filter(|pair| **pair).count(),
        start.elapsed().as_secs_f64()
    );
}

/// The seeds that are recorded.
#[cfg(feature = "record")]
const RECORDED: std::ops::Range<u64> = match cfg!(debug_assertions) {
    true => 0..300,
    false => 0..3_000,
};

#[cfg(feature = "record")]
#[test]
fn the_replay_of_any_recorded_schedule_takes_the_same_steps() {
    let (clients, mut coverage) = (Clients::new(), Coverage::new(false));
    let mut lines = 0;
    for seed in RECORDED {
        let mut choices = Choices::random(seed);
        let plan = Plan::random(&mut choices);
        let mut world = World::new(plan, &clients, choices, &mut coverage, false);
        world.record();
        assert!(world.run().is_ok(), "{seed}");
        lines += world.replay();
    }
    println!("{lines} lines of {} schedules", RECORDED.end);
}

#[test]
fn a_schedule_tells_its_story() {
    let (clients, mut coverage) = (Clients::new(), Coverage::new(false));
    for seed in 0..300 {
        let (result, story) = run_seed(seed, &clients, &mut coverage, true);
        assert!(result.is_ok(), "{seed}");
        assert!(story.contains("process 0 starts"), "{seed}: {story}");
        assert!(story.contains("LATER, without faults"), "{seed}: {story}");
    }
}
