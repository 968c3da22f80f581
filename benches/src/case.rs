//! Measures two functions in alternation, so that a temporarily slow machine slows down both.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Limit, Outcome};

const PAIRS: u32 = 241;
const ROUNDS: u32 = 41;
const BATCH: Duration = Duration::from_millis(1);

/// The total cost of several iterations.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "whoever does the work fills it in"
)]
pub struct Spent {
    /// The elapsed time.
    pub time: Duration,
    /// The number of allocations.
    pub allocations: u64,
    /// The number of bytes allocated.
    pub bytes: u64,
}

/// Work that runs a given number of iterations and returns their cost.
pub type Work<'a> = Box<dyn Fn(u32) -> Outcome<Spent> + 'a>;

/// Returns work that repeats a function. Dropping its result is part of the measured time, and the
/// optimizer can't remove the call.
pub fn again<'a, T>(work: impl Fn() -> Outcome<T> + 'a) -> Work<'a> {
    Box::new(move |times| spent(|| (0..times).try_for_each(|_| done(&work))))
}

/// Returns work that consumes prepared inputs. Preparing them is not measured.
pub fn each<'a, I, T>(
    make: impl Fn() -> Outcome<I> + 'a,
    work: impl Fn(I) -> Outcome<T> + 'a,
) -> Work<'a> {
    Box::new(move |times| {
        let inputs = (0..times).map(|_| make()).collect::<Outcome<Vec<_>>>()?;
        spent(|| {
            inputs
                .into_iter()
                .try_for_each(|input| work(input).map(|made| drop(black_box(made))))
        })
    })
}

/// Returns work that several threads do at once, each with the given number of iterations. The
/// number is multiplied by ten, since the threads don't start at the same moment.
pub fn by_threads<'a, T>(threads: usize, work: impl Fn() -> Outcome<T> + Sync + 'a) -> Work<'a> {
    Box::new(move |times| {
        let all = at_once(threads, || {
            spent(|| (0..times * 10).try_for_each(|_| done(&work)))
        })?;
        let Spent {
            time,
            allocations,
            bytes,
        } = all
            .into_iter()
            .max_by_key(|one| one.time)
            .unwrap_or_default();
        Ok(Spent {
            time: time / 10,
            allocations: allocations / 10,
            bytes: bytes / 10,
        })
    })
}

/// Returns the same work, measured by a percentile of the time of one iteration.
pub fn percentile_by_threads<'a, T>(
    threads: usize,
    percent: usize,
    work: impl Fn() -> Outcome<T> + Sync + 'a,
) -> Work<'a> {
    Box::new(move |times| {
        let timed = |_| {
            let began = Instant::now();
            done(&work).map(|()| began.elapsed())
        };
        let all = at_once(threads, || {
            (0..times * 10).map(timed).collect::<Outcome<Vec<_>>>()
        })?;
        let mut all = all.concat();
        all.sort_unstable();
        let time = all
            .get(all.len() * percent / 100)
            .copied()
            .unwrap_or_default();
        Ok(Spent {
            time: time * times,
            ..Spent::default()
        })
    })
}

fn done<T>(work: impl Fn() -> Outcome<T>) -> Outcome {
    work().map(|made| drop(black_box(made)))
}

/// Runs a function in several threads that start together, and returns their results.
fn at_once<T: Send>(threads: usize, one: impl Fn() -> Outcome<T> + Sync) -> Outcome<Vec<T>> {
    let ready = Barrier::new(threads);
    let one = || {
        ready.wait();
        // An error can leave a thread only as text.
        one().map_err(|error| error.to_string())
    };
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(one)).collect();
        running
            .into_iter()
            .map(|one| Ok(one.join().map_err(|_| "a thread panicked")??))
            .collect()
    })
}

fn spent(work: impl FnOnce() -> Outcome) -> Outcome<Spent> {
    let (mut time, mut outcome) = (Duration::ZERO, Ok(()));
    let counted = allocation_counter::measure(|| {
        let began = Instant::now();
        outcome = work();
        time = began.elapsed();
    });
    outcome.map(|()| Spent {
        time,
        allocations: counted.count_total,
        bytes: counted.bytes_total,
    })
}

/// Returns the nanoseconds per iteration of each work: the median of batches that run in
/// alternation.
///
/// # Errors
/// Returns the errors of the work.
pub fn in_turns(works: &[Work<'_>]) -> Outcome<Vec<f64>> {
    let times = works
        .iter()
        .map(times_in_a_batch)
        .collect::<Outcome<Vec<_>>>()?;
    let mut batches = vec![Vec::new(); works.len()];
    for _ in 0..ROUNDS {
        for ((work, times), batches) in works.iter().zip(&times).zip(&mut batches) {
            batches.push(batch(work, *times)?);
        }
    }
    Ok(batches
        .into_iter()
        .map(|batches| median(batches.into_iter()))
        .collect())
}

/// Returns the result of a function, and the number of bytes that it holds.
///
/// # Errors
/// Returns the errors of the work.
pub fn held<T>(make: impl FnOnce() -> Outcome<T>) -> Outcome<(f64, T)> {
    let mut made = Err("nothing was made".into());
    let counted = allocation_counter::measure(|| made = make());
    Ok((i32::try_from(counted.bytes_current)?.into(), made?))
}

/// A benchmark case: keybound's implementation, and its floor, the minimum work that any
/// implementation must do.
#[expect(missing_debug_implementations, reason = "it is made of closures")]
pub struct Case<'a> {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    ours: Work<'a>,
    floor: Option<Work<'a>>,
    pub(crate) limit: Option<Limit>,
}

/// The measurements of a case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// The nanoseconds per iteration of keybound: the median of the batches.
    pub(crate) ns: f64,
    /// The comparison with the floor.
    pub(crate) floor: Option<Floor>,
    /// The number of allocations of keybound, without those of the first iteration.
    pub(crate) allocations: u64,
    /// The number of bytes of these allocations.
    pub(crate) bytes: u64,
}

/// The measurements of the floor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floor {
    /// The nanoseconds per iteration: the median of its batches.
    pub(crate) ns: f64,
    /// The median of the pairs' ratios. An effect of the machine on both cancels out.
    pub(crate) ratio: f64,
    /// The ratio of the fastest tenths: the batches that no other process interrupted.
    pub(crate) undisturbed: f64,
}

impl<'a> Case<'a> {
    /// Creates a case without a floor.
    pub fn new(group: &'static str, name: impl Into<String>, ours: Work<'a>) -> Self {
        Self {
            group,
            name: name.into(),
            ours,
            floor: None,
            limit: None,
        }
    }

    /// Sets the floor: the minimum work that any implementation must do.
    #[must_use]
    pub fn beside(mut self, floor: Work<'a>) -> Self {
        self.floor = Some(floor);
        self
    }

    /// Sets the limits that CI checks.
    #[must_use]
    pub fn with_limit(mut self, limit: impl Into<Option<Limit>>) -> Self {
        self.limit = limit.into();
        self
    }

    /// Returns the group and the name of the case.
    pub fn id(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    /// Runs the given number of iterations, after a first one that may differ.
    pub(crate) fn repeat(&self, times: u32, floor: bool) -> Outcome {
        let work = if floor {
            self.floor.as_ref().ok_or("this case has no floor")?
        } else {
            &self.ours
        };
        work(1)?;
        counted(work, times)
    }

    pub(crate) fn has_floor(&self) -> bool {
        self.floor.is_some()
    }

    /// Returns the allocations of one iteration, after a first one that may differ.
    pub(crate) fn memory(&self) -> Outcome<Spent> {
        (self.ours)(1)?;
        (self.ours)(1)
    }

    pub(crate) fn measure(&self) -> Outcome<Row> {
        let ours_times = times_in_a_batch(&self.ours)?;
        let mut ours = Vec::new();
        let mut floors = Vec::new();
        if let Some(floor) = &self.floor {
            let floor_times = times_in_a_batch(floor)?;
            for pair in 0..PAIRS {
                // The order alternates as well: the second one finds warmer caches, or a processor
                // that has slowed down.
                let ours_first = if pair % 2 == 0 {
                    Some(batch(&self.ours, ours_times)?)
                } else {
                    None
                };
                floors.push(batch(floor, floor_times)?);
                ours.push(ours_first.map_or_else(|| batch(&self.ours, ours_times), Ok)?);
            }
        } else {
            for _ in 0..PAIRS {
                ours.push(batch(&self.ours, ours_times)?);
            }
        }
        let ratios = ours.iter().zip(&floors).map(|(ours, floor)| ours / floor);
        let floor = (!floors.is_empty()).then(|| Floor {
            ns: median(floors.iter().copied()),
            ratio: median(ratios),
            undisturbed: quantile(ours.iter().copied(), 10) / quantile(floors.iter().copied(), 10),
        });
        let Spent {
            allocations, bytes, ..
        } = self.memory()?;
        Ok(Row {
            ns: median(ours.iter().copied()),
            floor,
            allocations,
            bytes,
        })
    }
}

/// Not inlined: Callgrind finds this function by its name.
#[inline(never)]
fn counted(work: &Work<'_>, times: u32) -> Outcome {
    work(times).map(drop)
}

fn times_in_a_batch(work: &Work<'_>) -> Outcome<u32> {
    let mut times = 1;
    while work(times)?.time < BATCH {
        times *= 2;
    }
    Ok(times)
}

/// Returns the nanoseconds per iteration of one batch.
fn batch(work: &Work<'_>, times: u32) -> Outcome<f64> {
    Ok(work(times)?.time.as_secs_f64() * 1e9 / f64::from(times))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(values, 2)
}

/// Returns the value below which one in `one_in` values lies.
fn quantile(values: impl Iterator<Item = f64>, one_in: usize) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
        .get(values.len() / one_in)
        .copied()
        .unwrap_or(f64::NAN)
}
