//! Records the processes of a schedule, and replays what they have recorded.

use keybound_core::driver::{Replay, Shared};

use super::World;

/// The recordings of the processes that have ended, if they are recorded.
pub(super) type Recordings = Option<Vec<Vec<String>>>;

/// The shared state of a new process.
pub(super) fn shared(recordings: &Recordings) -> Shared {
    match recordings {
        Some(all) => Shared::recording(&[u8::try_from(all.len() % 251).unwrap(); 32]),
        None => Shared::new(),
    }
}

/// Keeps the recording of a process that ends.
pub(super) fn keep(recordings: &mut Recordings, shared: &mut Shared) {
    if let Some(all) = recordings {
        all.push(std::iter::from_fn(|| shared.next_line()).collect());
    }
}

impl World<'_> {
    pub(crate) fn record(&mut self) {
        self.recordings = Some(Vec::new());
    }

    /// Replays all processes. Returns the number of lines.
    pub(crate) fn replay(mut self) -> usize {
        for process in &mut self.processes {
            keep(&mut self.recordings, &mut process.shared);
        }
        let all = self.recordings.unwrap_or_default();
        all.iter().map(|lines| replay(lines)).sum()
    }
}

fn replay(lines: &[String]) -> usize {
    let mut replay = Replay::new(&lines[0]).unwrap();
    for (at, line) in lines.iter().enumerate().skip(1) {
        if let Err(error) = replay.step(line) {
            panic!("{}\n\nline {}: {error}", lines[..at].join("\n"), at + 1);
        }
    }
    lines.len()
}
