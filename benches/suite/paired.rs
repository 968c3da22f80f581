//! Two things measured in turns, so that a machine that is slow for a while is slow for both.

use std::hint::black_box;
use std::time::{Duration, Instant};

use crate::Outcome;

const PAIRS: u32 = 241;
const BATCH: Duration = Duration::from_millis(1);

/// Something to be done again and again. It hands its result to [`done`].
pub(crate) type Work<'a> = Box<dyn Fn() -> Outcome + 'a>;

/// Takes a result, so that the compiler can't leave out what made it.
pub(crate) fn done<T>(result: T) -> Outcome {
    black_box(result);
    Ok(())
}

/// Our way of doing something, beside the least that anybody must do for it.
pub(crate) struct Case<'a> {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    pub(crate) ours: Work<'a>,
    pub(crate) floor: Work<'a>,
}

/// What was measured.
pub(crate) struct Row {
    /// Of our way: the median of the batches, for one time.
    pub(crate) ns: f64,
    /// The same of the floor.
    pub(crate) floor_ns: f64,
    /// The median of the pairs' ratios: what the machine does to both at once is not in it.
    pub(crate) ratio: f64,
    /// Of our way; ring makes none.
    pub(crate) allocations: u64,
}

impl Case<'_> {
    pub(crate) fn id(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    pub(crate) fn repeat(&self, times: u32) -> Outcome {
        (0..times).try_for_each(|_| (self.ours)())
    }

    pub(crate) fn measure(&self) -> Outcome<Row> {
        let (ours_times, floor_times) = (times_in_a_batch(&self.ours)?, times_in_a_batch(&self.floor)?);
        let mut batches = Vec::new();
        for pair in 0..PAIRS {
            // Who goes first changes as well: the second finds warmer caches, or a processor that has slowed down.
            let ours_first = if pair % 2 == 0 { Some(batch(&self.ours, ours_times)?) } else { None };
            let floor = batch(&self.floor, floor_times)?;
            let ours = ours_first.map_or_else(|| batch(&self.ours, ours_times), Ok)?;
            batches.push((ours, floor));
        }
        Ok(Row {
            ns: median(batches.iter().map(|(ours, _)| *ours)),
            floor_ns: median(batches.iter().map(|(_, floor)| *floor)),
            ratio: median(batches.iter().map(|(ours, floor)| ours / floor)),
            allocations: self.allocations()?,
        })
    }

    fn allocations(&self) -> Outcome<u64> {
        let mut outcome = Ok(());
        let counted = allocation_counter::measure(|| outcome = (self.ours)());
        outcome.map(|()| counted.count_total)
    }
}

fn times_in_a_batch(work: &Work<'_>) -> Outcome<u32> {
    let mut times = 1;
    loop {
        let ns = batch(work, times)? * f64::from(times);
        if Duration::from_secs_f64(ns / 1e9) >= BATCH {
            return Ok(times);
        }
        times *= 2;
    }
}

/// Nanoseconds for one time.
fn batch(work: &Work<'_>, times: u32) -> Outcome<f64> {
    let began = Instant::now();
    (0..times).try_for_each(|_| work())?;
    Ok(began.elapsed().as_secs_f64() * 1e9 / f64::from(times))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
