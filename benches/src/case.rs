//! Two things measured in turns, so that a machine that is slow for a while is slow for both.

use std::hint::black_box;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Limit, Outcome};

const PAIRS: u32 = 241;
const ROUNDS: u32 = 41;
const BATCH: Duration = Duration::from_millis(1);

/// What so many times took together.
#[derive(Clone, Copy, Debug, Default)]
#[expect(
    clippy::exhaustive_structs,
    reason = "whoever does the work fills it in"
)]
pub struct Spent {
    /// On the clock.
    pub time: Duration,
    /// How often memory was asked for.
    pub allocations: u64,
    /// How much of it.
    pub bytes: u64,
}

/// Something to be done so many times.
pub type Work<'a> = Box<dyn Fn(u32) -> Outcome<Spent> + 'a>;

/// The same again and again. What it makes is dropped on its own time, and can't be optimised away.
pub fn again<'a, T>(work: impl Fn() -> Outcome<T> + 'a) -> Work<'a> {
    Box::new(move |times| spent(|| (0..times).try_for_each(|_| done(&work))))
}

/// Something that uses up what is made for it beforehand, which doesn't count.
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

/// The same by several threads at once, each so many times. Ten times as often as asked, since they don't begin
/// in the same moment.
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

/// The same again, but what counts is the time that so many percent of all stay below.
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

/// What each of several threads makes that begin together.
fn at_once<T: Send>(threads: usize, one: impl Fn() -> Outcome<T> + Sync) -> Outcome<Vec<T>> {
    let ready = Barrier::new(threads);
    let one = || {
        ready.wait();
        // What goes wrong in a thread can't leave it but as a text.
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

/// Nanoseconds for one time of each: the median of batches that are done in turns.
///
/// # Errors
/// Those of the work.
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

/// What is made, and how many bytes it holds.
///
/// # Errors
/// Those of the work.
pub fn held<T>(make: impl FnOnce() -> Outcome<T>) -> Outcome<(f64, T)> {
    let mut made = Err("nothing was made".into());
    let counted = allocation_counter::measure(|| made = make());
    Ok((i32::try_from(counted.bytes_current)?.into(), made?))
}

/// Our way of doing something, beside the least that anybody must do for it.
#[expect(missing_debug_implementations, reason = "it is made of closures")]
pub struct Case<'a> {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    ours: Work<'a>,
    floor: Option<Work<'a>>,
    pub(crate) limit: Option<Limit>,
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    /// Of our way: the median of the batches, for one time.
    pub(crate) ns: f64,
    /// How it compares.
    pub(crate) floor: Option<Floor>,
    /// Of our way, the first times left out.
    pub(crate) allocations: u64,
    /// What these have asked for.
    pub(crate) bytes: u64,
}

/// The least, measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Floor {
    /// The median of its batches, for one time.
    pub(crate) ns: f64,
    /// The median of the pairs' ratios: what the machine does to both at once is not in it.
    pub(crate) ratio: f64,
    /// The ratio of the fastest tenths: of the batches that nothing else came between.
    pub(crate) undisturbed: f64,
}

impl<'a> Case<'a> {
    /// A case, without anything to hold it against.
    pub fn new(group: &'static str, name: impl Into<String>, ours: Work<'a>) -> Self {
        Self {
            group,
            name: name.into(),
            ours,
            floor: None,
            limit: None,
        }
    }

    /// The least that anybody must do for it.
    #[must_use]
    pub fn beside(mut self, floor: Work<'a>) -> Self {
        self.floor = Some(floor);
        self
    }

    /// What it may cost at most, for CI.
    #[must_use]
    pub fn at_most(mut self, limit: impl Into<Option<Limit>>) -> Self {
        self.limit = limit.into();
        self
    }

    /// Its group and its name.
    pub fn id(&self) -> String {
        format!("{}/{}", self.group, self.name)
    }

    /// Does it so often, after a first time that may be different.
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

    /// What one time asks the allocator for, when nothing is done for the first time.
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
                // Who goes first changes as well: the second finds warmer caches, or a processor that has slowed down.
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

/// Callgrind knows it by its name.
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

/// Nanoseconds for one time.
fn batch(work: &Work<'_>, times: u32) -> Outcome<f64> {
    Ok(work(times)?.time.as_secs_f64() * 1e9 / f64::from(times))
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(values, 2)
}

/// What one in so many is below.
fn quantile(values: impl Iterator<Item = f64>, one_in: usize) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values
        .get(values.len() / one_in)
        .copied()
        .unwrap_or(f64::NAN)
}
