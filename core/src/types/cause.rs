//! The errors of a driver's own parts, as the core passes them on.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// The error of a driver's HTTP client, signer or storage. Cheap to clone. Two causes are equal if
/// their messages are.
#[derive(Clone)]
pub struct Cause(Arc<Box<dyn Error + Send + Sync>>);

impl Cause {
    /// Creates a cause from any error, or from a message.
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Arc::new(error.into()))
    }

    /// Creates a cause that is only a message.
    pub fn message(text: impl Into<String>) -> Self {
        Self::new(Message(text.into()))
    }

    /// Returns the error itself, such as for a downcast to the error type of the HTTP client.
    pub fn as_error(&self) -> &(dyn Error + 'static) {
        &**self.0
    }

    /// Returns the error itself.
    ///
    /// # Errors
    /// Returns the cause unchanged while it has clones.
    pub fn into_inner(self) -> Result<Box<dyn Error + Send + Sync>, Self> {
        Arc::try_unwrap(self.0).map_err(Self)
    }
}

/// A message as an error. Its `Debug` output is that of `Display`.
struct Message(String);

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Message {}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl PartialEq for Cause {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.to_string() == other.to_string()
    }
}

impl Eq for Cause {}
