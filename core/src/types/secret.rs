//! Secrets and request bodies. `Debug` redacts them, and dropping them wipes their memory.

use std::fmt;
use std::sync::LazyLock;

use ring::hmac;
use zeroize::Zeroizing;

/// A confidential text: a client secret, a token, an assertion.
///
/// `Debug` prints `[redacted]` in every build. There is no `Display` and no serialisation. Comparing
/// takes the same time wherever two secrets differ. The memory is wiped on drop.
///
/// ```compile_fail,E0277
/// # use keybound_core::Secret;
/// let shown = format!("{}", Secret::new("a"));
/// ```
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Creates a secret from a text, unchanged.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// Returns the text itself. To find every use of a secret's value, search for this method's
    /// name.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(self.0.as_bytes(), other.0.as_bytes())
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Confidential bytes, such as a private key. Otherwise like [`Secret`].
#[derive(Clone)]
pub struct SecretBytes(pub(crate) Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Creates a secret from bytes, unchanged.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl PartialEq for SecretBytes {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(&self.0, &other.0)
    }
}

impl Eq for SecretBytes {}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A request's body. It contains credentials, so `Debug` prints only its length, and the memory is
/// wiped on drop. `Default` is an empty body.
#[derive(Default)]
pub struct Body(Zeroizing<Vec<u8>>);

impl Body {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes, for transports that need to own them. They are no longer wiped on drop.
    pub fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.0)
    }
}

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Body({} bytes)", self.0.len())
    }
}

/// A tag that recognises a secret or a hash in constant time: ring compares HMACs, so the duration
/// doesn't reveal the position of a difference. All secrets and hashes are compared in this way
/// (`core/tests/repository/timing.rs`).
#[derive(Clone, Copy)]
pub(crate) struct ConstantTimeTag(hmac::Tag);

static KEY: LazyLock<hmac::Key> = LazyLock::new(|| hmac::Key::new(hmac::HMAC_SHA256, &[]));

impl ConstantTimeTag {
    pub(crate) fn new(bytes: &[u8]) -> Self {
        Self(hmac::sign(&KEY, bytes))
    }

    pub(crate) fn matches(&self, bytes: &[u8]) -> bool {
        hmac::verify(&KEY, bytes, self.0.as_ref()).is_ok()
    }
}

impl fmt::Debug for ConstantTimeTag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Returns whether two secrets or hashes are equal. Compares them in constant time.
pub(crate) fn constant_time_eq(one: &[u8], other: &[u8]) -> bool {
    ConstantTimeTag::new(one).matches(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_same_or_not() {
        for (one, other, same) in [
            ("", "", true),
            ("a", "a", true),
            ("a", "b", false),
            ("a", "", false),
            ("ab", "a", false),
        ] {
            assert_eq!(
                constant_time_eq(one.as_bytes(), other.as_bytes()),
                same,
                "{one} {other}"
            );
        }
    }
}
