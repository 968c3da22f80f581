use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};

use crate::types::input::InvalidInput;

/// The response header that carries a nonce (RFC 9449 §8).
pub(crate) const DPOP_NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// A server's nonce (RFC 9449 §8): 1 to 1024 NQCHARs. Cloning it is cheap.
#[derive(Clone, PartialEq, Eq)]
pub struct Nonce(Arc<str>);

impl Nonce {
    const MAX_LEN: usize = 1024;

    /// Creates a nonce from its text.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] unless `text` is 1 to 1024 characters of `%x21 / %x23-5B / %x5D-7E`
    /// (RFC 9449 §8.1).
    pub fn new(text: &str) -> Result<Self, InvalidInput> {
        let is_nqchar = |byte| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
        if (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(is_nqchar) {
            Ok(Self(text.into()))
        } else {
            Err(InvalidInput::new(
                "nonce",
                "must be 1 to 1024 printable ASCII characters, no space, quote or backslash",
            ))
        }
    }

    /// Returns the nonce of a response, if it has exactly one `DPoP-Nonce` header and its value is
    /// well-formed.
    pub(crate) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        Self::from_headers_or_known(None, headers)
    }

    /// Like [`from_headers`](Self::from_headers), but clones `known` without allocating if the
    /// nonce is unchanged.
    pub(crate) fn from_headers_or_known(known: Option<&Self>, headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(DPOP_NONCE).iter();
        let (Some(only), None) = (values.next(), values.next()) else {
            return None;
        };
        match known {
            Some(known) if only.as_bytes() == known.0.as_bytes() => Some(known.clone()),
            _ => Self::new(only.to_str().ok()?).ok(),
        }
    }

    /// Returns the nonce's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Nonce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonce({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_is_made_of_nqchars() {
        assert!(Nonce::new("!#$%&'*+.^_`|~<>?@[]{}").is_ok());
        assert!(Nonce::new(&"n".repeat(1024)).is_ok());
        for bad in ["", "a b", "a\"b", "a\\b", "ü", "a\nb", &"n".repeat(1025)] {
            assert!(Nonce::new(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn two_nonces_in_one_response_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(Nonce::from_headers(&headers), None);
        headers.append("DPoP-Nonce", "one".parse().unwrap());
        assert_eq!(
            Nonce::from_headers(&headers),
            Some(Nonce::new("one").unwrap())
        );
        headers.append("DPoP-Nonce", "two".parse().unwrap());
        assert_eq!(Nonce::from_headers(&headers), None);
    }
}
