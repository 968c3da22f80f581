//! Strict base64url (RFC 7515 §2). Padding, other alphabets and non-zero trailing bits are
//! rejected.

use base64::Engine as _;
use ring::digest::{SHA256, digest};

/// Uses SIMD instructions if the processor supports them: claims and headers are long enough to
/// benefit.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
static ENGINE: std::sync::LazyLock<base64::engine::Simd> = std::sync::LazyLock::new(|| {
    base64::engine::Simd::url_safe(base64::engine::general_purpose::NO_PAD)
});

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
static ENGINE: base64::engine::GeneralPurpose = base64::engine::general_purpose::URL_SAFE_NO_PAD;

pub(crate) fn encode(bytes: &[u8]) -> String {
    ENGINE.encode(bytes)
}

/// Returns the first 128 bits of the SHA-256 of these bytes.
pub(crate) fn short_hash(bytes: &[u8]) -> String {
    let hash = digest(&SHA256, bytes);
    encode(hash.as_ref().get(..16).unwrap_or_default())
}

/// Appends to a byte buffer, because signing inputs and header values are bytes.
pub(crate) fn encode_into(bytes: &[u8], out: &mut Vec<u8>) {
    let from = out.len();
    out.resize(from + encoded_len(bytes.len()), 0);
    encode_to_slice(bytes, out.get_mut(from..).unwrap_or_default());
}

/// Encodes bytes into an array. The encoded length must be `N`.
pub(crate) fn encode_array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut text = [0; N];
    encode_to_slice(bytes, &mut text);
    text
}

#[expect(
    clippy::disallowed_macros,
    reason = "only in debug builds, and the message contains a length alone"
)]
fn encode_to_slice(bytes: &[u8], out: &mut [u8]) {
    let written = ENGINE.encode_slice(bytes, out);
    debug_assert_eq!(written, Ok(encoded_len(bytes.len())));
}

/// Returns `None` for any text that is not an output of [`encode`].
pub(crate) fn decode(text: &str) -> Option<Vec<u8>> {
    ENGINE.decode(text).ok()
}

pub(crate) const fn encoded_len(bytes: usize) -> usize {
    (bytes * 4).div_ceil(3)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_encode_could_not_have_written_is_refused() {
        for text in ["AA==", "A", "AB", "A+/_", "AA\n", " AA"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
        assert_eq!(decode("AA"), Some(vec![0]));
    }

    proptest! {
        #[test]
        fn only_one_text_stands_for_any_bytes(bytes: Vec<u8>, text in "[A-Za-z0-9_-]{0,12}") {
            let encoded = encode(&bytes);
            prop_assert_eq!(encoded.len(), encoded_len(bytes.len()));
            prop_assert_eq!(decode(&encoded), Some(bytes));
            if let Some(decoded) = decode(&text) {
                prop_assert_eq!(encode(&decoded), text);
            }
        }
    }
}
