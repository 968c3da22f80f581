//! Secrets and request bodies: redacted wherever they are printed, wiped when they are dropped.

use std::fmt;
use std::sync::LazyLock;

use ring::hmac;
use zeroize::Zeroizing;

/// A text that must not be seen: a client secret, a token, an assertion.
///
/// `Debug` shows `[redacted]` in every build; there is no `Display`, no comparison and no serialisation.
/// The memory is wiped on drop.
///
/// ```compile_fail,E0369
/// # use keybound_core::Secret;
/// let is_same = Secret::new("a") == Secret::new("a");
/// ```
///
/// ```compile_fail,E0277
/// # use keybound_core::Secret;
/// let shown = format!("{}", Secret::new("a"));
/// ```
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes the text as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself. Search for this word to find every place where a secret is read.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// Bytes that must not be seen: a private key. Otherwise like [`Secret`].
///
/// ```compile_fail,E0369
/// # use keybound_core::SecretBytes;
/// let is_same = SecretBytes::new(vec![1]) == SecretBytes::new(vec![1]);
/// ```
#[derive(Clone)]
pub struct SecretBytes(pub(crate) Zeroizing<Vec<u8>>);

impl SecretBytes {
    /// Takes the bytes as they are.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// A request's body. It carries credentials, so `Debug` shows its length alone; wiped on drop.
pub struct Body(Zeroizing<Vec<u8>>);

impl Body {
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes, for transports that want to own them; from here on nothing wipes them.
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

/// By what a secret or a hash is recognised, in a time that says nothing about where another one differs: it is HMACs that
/// are compared, by ring. They are compared in no other way (`core/tests/repository/timing.rs`).
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

/// Whether two secrets or hashes are the same.
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
