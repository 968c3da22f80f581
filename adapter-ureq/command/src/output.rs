//! The standard output.

use std::io::{self, Write};

/// A writer to stdout whose errors name stdout in their message.
pub(crate) struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        io::stdout().write(bytes).map_err(with_name)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stdout().flush().map_err(with_name)
    }
}

fn with_name(error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("stdout can't be written: {error}"))
}
