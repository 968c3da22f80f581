//! Percent-encoding and decoding.

/// Appends `text` as a value of `application/x-www-form-urlencoded` (RFC 6749 appendix B).
pub(crate) fn push_form(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b' ' => out.push(b'+'),
            b'*' | b'-' | b'.' | b'_' => out.push(byte),
            _ => push_escape(byte, out),
        }
    }
}

/// Appends `text` as one path segment (RFC 3986 §3.3). Escapes all characters except unreserved
/// ones.
pub(crate) fn push_segment(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => out.push(byte),
            _ => push_escape(byte, out),
        }
    }
}

/// Returns the name-value pairs of a form, or of a query in the same format, in order. As in
/// browsers, malformed escapes are kept as they are, and bytes that are not UTF-8 become U+FFFD.
pub(crate) fn form_pairs(form: &str) -> impl Iterator<Item = (String, String)> {
    form.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (unescaped(name), unescaped(value))
    })
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let (byte, after) = match (first, tail) {
            (b'+', _) => (b' ', tail),
            (b'%', [high, low, after @ ..]) => match (hex(*high), hex(*low)) {
                (Some(high), Some(low)) => (high << 4 | low, after),
                _ => (b'%', tail),
            },
            (other, _) => (*other, tail),
        };
        bytes.push(byte);
        rest = after;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Returns the value of a hexadecimal digit.
pub(crate) fn hex(digit: u8) -> Option<u8> {
    u8::try_from(char::from(digit).to_digit(16)?).ok()
}

/// Appends a letter or digit as it is, and escapes every other byte.
fn push_escape(byte: u8, out: &mut Vec<u8>) {
    let digit = |nibble: u8| match nibble {
        0..=9 => b'0' + nibble,
        _ => b'A' + (nibble - 10),
    };
    match byte.is_ascii_alphanumeric() {
        true => out.push(byte),
        false => out.extend([b'%', digit(byte >> 4), digit(byte & 15)]),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_form_escapes_what_rfc_6749_appendix_b_does() {
        let mut out = Vec::new();
        push_form(" %&+£€", &mut out);
        assert_eq!(out, b"+%25%26%2B%C2%A3%E2%82%AC");
    }

    #[test]
    fn a_segment_can_not_leave_its_place() {
        let mut out = Vec::new();
        push_segment("psn_1/../?x=%2F#ü", &mut out);
        assert_eq!(out, b"psn_1%2F..%2F%3Fx%3D%252F%23%C3%BC");
    }

    #[test]
    fn a_form_is_read_as_browsers_read_it() {
        let pairs: Vec<_> = form_pairs("a=+%25%26%2b%C3%bc&&b&=c&d=%4&e=%zz&f=%ff&g==%").collect();
        let expected = [
            ("a", " %&+ü"),
            ("b", ""),
            ("", "c"),
            ("d", "%4"),
            ("e", "%zz"),
            ("f", "\u{fffd}"),
            ("g", "=%"),
        ];
        assert_eq!(
            pairs,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert_eq!(form_pairs("").count(), 0);
    }

    proptest! {
        #[test]
        fn what_is_written_as_a_form_is_read_again(text in "\\PC{0,20}") {
            let mut form = b"x=".to_vec();
            push_form(&text, &mut form);
            let form = String::from_utf8(form).unwrap();
            prop_assert_eq!(form_pairs(&form).collect::<Vec<_>>(), [("x".to_owned(), text)]);
        }
    }
}
