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

/// A file in memory.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
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
