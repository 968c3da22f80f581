//! Every target over its corpus, and over what becomes of it by chance: by any compiler, the same each time.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use fastrand::Rng;
use keybound_fuzz::TARGETS;

const MUTANTS: usize = 10_000;

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(name);
    let mut paths: Vec<_> = fs::read_dir(folder)
        .expect(name)
        .map(|entry| entry.expect(name).path())
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| fs::read(path).expect(name))
        .collect()
}

fn run(name: &str, target: fn(&[u8]), input: &[u8]) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target(input))) {
        eprintln!("{name}, of \"{}\"", input.escape_ascii());
        resume_unwind(panic);
    }
}

#[test]
fn the_corpus_breaks_nothing() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name} has no corpus");
        for input in corpus {
            run(name, target, &input);
        }
    }
}

#[test]
fn what_becomes_of_the_corpus_by_chance_breaks_nothing() {
    for (name, target) in TARGETS {
        let (corpus, mut rng) = (corpus(name), Rng::with_seed(9449));
        for _ in 0..MUTANTS {
            let mut input = rng.choice(&corpus).cloned().unwrap_or_default();
            for _ in 0..rng.usize(1..5) {
                mutate(&mut input, &corpus, &mut rng);
            }
            run(name, target, &input);
        }
    }
}

/// Changes a byte, leaves some out, repeats some, or puts a piece of another input in their place.
fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], rng: &mut Rng) {
    let piece = |of: &[u8], rng: &mut Rng| {
        let from = rng.usize(..=of.len());
        from..rng.usize(from..=of.len().min(from + 32))
    };
    let place = piece(input, rng);
    match rng.u8(..4) {
        0 if !input.is_empty() => {
            let at = rng.usize(..input.len());
            input[at] = rng.u8(..);
        }
        0 | 1 => drop(input.drain(place)),
        2 => input.extend_from_within(place),
        _ => {
            let other = rng.choice(corpus).cloned().unwrap_or_default();
            let range = piece(&other, rng);
            drop(input.splice(place, other[range].iter().copied()));
        }
    }
}
