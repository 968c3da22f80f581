//! Writes the recording of a transport and its sessions.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use keybound_core::driver::{RequestContext, ServerState, Shared};
use keybound_core::{Error, UnixTime};

use crate::{Transport, clock};

/// Where the lines of a recording go, until one can't be written.
pub(crate) struct Recording {
    writer: Mutex<Option<Box<dyn Write + Send>>>,
    /// The time and the entropy of each step, if a test sets them.
    inputs: Option<fn() -> RequestContext>,
}

impl Transport {
    /// Records all that this transport and its sessions decide on: times, entropy, responses, what
    /// signers and storages answered, the start and the end of tasks. `writer` gets JSON Lines, with
    /// stand-ins in place of secrets, and each line is flushed before the next step. The guide
    /// [Record a session](crate::guide::record_a_session) describes what a recording contains, and
    /// how to replay it.
    ///
    /// After an error of `writer`, nothing more is written. Results of [`Session::token`](crate::Session::token)
    /// that need no step are not recorded. Call it before the first session is built.
    ///
    /// # Errors
    /// Returns [`Error::NoEntropy`].
    #[doc(alias("flight recorder", "debug"))]
    pub fn record(self, writer: impl Write + Send + 'static) -> Result<Self, Error> {
        let key = clock::entropy()?;
        Ok(self.record_to(Box::new(writer), &key, None))
    }

    /// Records with a fixed key, and takes the steps with these times and this entropy. For tests.
    #[doc(hidden)]
    #[must_use]
    pub fn record_with(
        self,
        writer: impl Write + Send + 'static,
        key: [u8; 32],
        inputs: fn() -> RequestContext,
    ) -> Self {
        self.record_to(Box::new(writer), &key, Some(inputs))
    }

    fn record_to(
        mut self,
        writer: Box<dyn Write + Send>,
        key: &[u8; 32],
        inputs: Option<fn() -> RequestContext>,
    ) -> Self {
        let known = self.server_state();
        self.lock().shared = Shared::recording(key);
        self.recording = Some(Recording {
            writer: Mutex::new(Some(writer)),
            inputs,
        });
        match known == ServerState::new() {
            true => self,
            false => self.with_server_state(known),
        }
    }

    /// Returns the time and the entropy of a step, if a test has set them.
    pub(crate) fn set_inputs(&self) -> Option<RequestContext> {
        let recording = self.recording.as_ref()?;
        recording.inputs.map(|inputs| inputs())
    }

    /// Returns the time of an opened session.
    pub(crate) fn opening_time(&self) -> UnixTime {
        self.set_inputs()
            .map_or_else(clock::now, |context| context.now())
    }

    /// Writes the lines that the last steps have added. The writer is locked before the state, so
    /// that the lines of several threads stay in order.
    pub(crate) fn write_recording(&self) {
        let Some(recording) = &self.recording else {
            return;
        };
        let lock = recording.writer.lock();
        let mut writer = lock.unwrap_or_else(PoisonError::into_inner);
        while let Some(line) = self.next_line() {
            let written = writer.as_mut().map(|writer| write_line(writer, &line));
            if matches!(written, Some(Err(_))) {
                *writer = None;
            }
        }
    }

    fn next_line(&self) -> Option<String> {
        self.lock().shared.next_line()
    }
}

fn write_line(writer: &mut impl Write, line: &str) -> io::Result<()> {
    // At once, so that a full disk or a crash leaves whole lines.
    writer.write_all([line, "\n"].concat().as_bytes())?;
    writer.flush()
}
