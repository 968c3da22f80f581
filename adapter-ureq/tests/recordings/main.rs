//! Recordings of runs against servers on loopback, and their replays.

#![cfg(test)]

mod drivers;
#[path = "../../../core/tests/it/planted.rs"]
#[expect(dead_code, reason = "the tests of the core use the rest")]
mod planted;
mod secrets;
#[path = "../session/server.rs"]
#[expect(dead_code, reason = "the tests of sessions use the rest")]
mod server;
mod stories;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use keybound_ureq::driver::Replay;

/// A file in memory, which a crash leaves as it was flushed last.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<File>>);

#[derive(Default)]
struct File {
    written: Vec<u8>,
    flushed: usize,
    /// The number of bytes after which writing fails.
    limit: Option<usize>,
}

impl Lines {
    /// A file on a disk that is full after so many bytes.
    pub(crate) fn limited(limit: usize) -> Self {
        let lines = Self::default();
        lines.0.lock().unwrap().limit = Some(limit);
        lines
    }

    /// The lines that are safe from a crash.
    pub(crate) fn text(&self) -> String {
        let file = self.0.lock().unwrap();
        String::from_utf8(file.written[..file.flushed].to_vec()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.0.lock().unwrap();
        if file
            .limit
            .is_some_and(|limit| file.written.len() + bytes.len() > limit)
        {
            // There is room again, but a line is missing.
            file.limit = None;
            return Err(io::ErrorKind::StorageFull.into());
        }
        file.written.extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut file = self.0.lock().unwrap();
        file.flushed = file.written.len();
        Ok(())
    }
}

/// Replays a recording to its end, and returns it in words.
pub(crate) fn replay(recording: &str) -> String {
    let mut lines = recording.lines();
    let mut replay = Replay::new(lines.next().unwrap()).unwrap();
    let mut words = String::new();
    for line in lines {
        let step = replay.step(line);
        words.push_str(&step.unwrap_or_else(|error| panic!("{words}\n{error}")));
        words.push('\n');
    }
    words
}
