//! Percent-encoding.

/// Appends `text` as a value of `application/x-www-form-urlencoded` (RFC 6749 appendix B).
pub(crate) fn push_form(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b' ' => out.push(b'+'),
            b'*' | b'-' | b'.' | b'_' => out.push(byte),
            _ if byte.is_ascii_alphanumeric() => out.push(byte),
            _ => push_escape(byte, out),
        }
    }
}

/// Appends `text` as one segment of a path (RFC 3986 §3.3): all but unreserved characters are escaped.
pub(crate) fn push_segment(text: &str, out: &mut Vec<u8>) {
    for byte in text.bytes() {
        match byte {
            b'-' | b'.' | b'_' | b'~' => out.push(byte),
            _ if byte.is_ascii_alphanumeric() => out.push(byte),
            _ => push_escape(byte, out),
        }
    }
}

fn push_escape(byte: u8, out: &mut Vec<u8>) {
    let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'A' + (nibble - 10) };
    out.extend([b'%', digit(byte >> 4), digit(byte & 15)]);
}

#[cfg(test)]
mod tests {
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
}
