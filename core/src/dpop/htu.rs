//! Normalises URLs, to compare the `htu` of a proof with a request's URL (RFC 9449 §4.3; RFC 3986
//! §6.2.2 and §6.2.3).

use crate::types::escape::hex;

/// Returns the normal form of a URL, without query and fragment. Equivalent URLs have the same
/// normal form. Returns `None` if `url` is not an absolute `http` or `https` URL, or contains user
/// information.
pub(crate) fn normalise(url: &str) -> Option<String> {
    let url = url.split(['?', '#']).next()?;
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "https" => 443,
        "http" => 80,
        _ => return None,
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = split_port(authority)?;
    let mut normal = format!("{scheme}://{}", host.to_ascii_lowercase());
    if let Some(port) = port.filter(|port| *port != default_port) {
        normal.push_str(&format!(":{port}"));
    }
    push_without_dot_segments(&normalise_escapes(path)?, &mut normal);
    Some(normal)
}

/// Returns the host and port of an authority. An empty port counts as missing.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let end_of_literal = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    let colon = authority.get(end_of_literal..)?.find(':');
    let end_of_host = colon.map_or(authority.len(), |colon| end_of_literal + colon);
    let (host, port) = authority.split_at(end_of_host);
    let port = port.strip_prefix(':').unwrap_or_default();
    let is_excluded = |byte: u8| byte.is_ascii_control() || b" @\\\"".contains(&byte);
    let is_sound = !host.is_empty() && !host.bytes().any(is_excluded);
    match port {
        "" if is_sound => Some((host, None)),
        digits if is_sound && digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((host, Some(digits.parse().ok()?)))
        }
        _ => None,
    }
}

/// Normalises percent-encoding: unreserved characters are unescaped, other escapes are in upper
/// case, and bytes outside ASCII are escaped.
fn normalise_escapes(path: &str) -> Option<String> {
    let mut normal = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'%' => {
                let decoded = hex(bytes.next()?)? << 4 | hex(bytes.next()?)?;
                if decoded.is_ascii_alphanumeric() || matches!(decoded, b'-' | b'.' | b'_' | b'~') {
                    normal.push(char::from(decoded));
                } else {
                    normal.push_str(&format!("%{decoded:02X}"));
                }
            }
            0x21..=0x7E => normal.push(char::from(byte)),
            0x80.. => normal.push_str(&format!("%{byte:02X}")),
            _ => return None,
        }
    }
    Some(normal)
}

/// Appends a path without dot segments (RFC 3986 §5.2.4). The path must be empty or begin with a
/// slash.
fn push_without_dot_segments(path: &str, out: &mut String) {
    let mut segments: Vec<&str> = Vec::new();
    let mut trailing_slash = true;
    for segment in path.split('/').skip(1) {
        trailing_slash = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    out.extend(segments.iter().flat_map(|segment| ["/", segment]));
    if trailing_slash || segments.is_empty() {
        out.push('/');
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn equivalent_urls_have_one_spelling() {
        for (url, normal) in [
            ("HTTPS://API.Example.com:443/a", "https://api.example.com/a"),
            ("http://h:80", "http://h/"),
            ("http://h:443/", "http://h:443/"),
            ("https://h:/x?q#f", "https://h/x"),
            (
                "https://h/a/./b/../c/%7euser/%2f",
                "https://h/a/c/~user/%2F",
            ),
            ("https://h/a/%2E%2e/b", "https://h/b"),
            ("https://h/../..", "https://h/"),
            ("https://h/a/..", "https://h/"),
            ("https://h/a/b/..", "https://h/a/"),
            ("https://h/a//b", "https://h/a//b"),
            ("https://h/ü", "https://h/%C3%BC"),
            ("https://[2001:DB8::1]:443/", "https://[2001:db8::1]/"),
            ("https://[::1]:8443", "https://[::1]:8443/"),
            ("https://h#f/x", "https://h/"),
        ] {
            assert_eq!(normalise(url).as_deref(), Some(normal), "{url}");
        }
    }

    #[test]
    fn what_names_no_resource_has_no_spelling() {
        for url in [
            "",
            "/a",
            "h/a",
            "ftp://h/",
            "https://",
            "https:///a",
            "https://u:p@h/",
            "https://h:x/",
            "https://h:99999/",
            "https://h/%zz",
            "https://h/%2",
            "https://h/a b",
            "https://h\\x/",
        ] {
            assert_eq!(normalise(url), None, "{url}");
        }
    }

    proptest! {
        #[test]
        fn normalising_twice_changes_nothing(url in "https?://[a-zA-Z0-9.:\\[\\]-]{1,12}(/[a-zA-Z0-9%./~ü-]{0,8}){0,5}") {
            if let Some(once) = normalise(&url) {
                prop_assert_eq!(normalise(&once), Some(once.clone()));
            }
        }

        #[test]
        fn spelling_a_character_as_an_escape_changes_nothing(path in "[a-z0-9._~-]{1,12}", at in 0usize..12, upper: bool) {
            let at = at % path.len();
            let (before, rest) = path.split_at(at);
            let (one, after) = rest.split_at(1);
            let byte = one.as_bytes()[0];
            let escape = if upper { format!("%{byte:02X}") } else { format!("%{byte:02x}") };
            prop_assert_eq!(
                normalise(&format!("https://h/{before}{escape}{after}")),
                normalise(&format!("https://h/{path}"))
            );
        }

        #[test]
        fn no_text_panics(text in "\\PC*") {
            let _ = normalise(&text);
        }
    }
}
