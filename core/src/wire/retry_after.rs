//! The retry delay requested by a server, from `retry-after-ms`, `Retry-After` or `X-Retry-In`, in
//! this order.

use std::time::Duration;

use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName};

use super::http_date;
use crate::types::time::UnixTime;

pub(crate) const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
pub(crate) const RETRY_IN: HeaderName = HeaderName::from_static("x-retry-in");

pub(crate) fn read(headers: &HeaderMap, now: UnixTime) -> Option<Duration> {
    let text = |name: HeaderName| headers.get(name)?.to_str().ok().map(str::trim);
    let seconds_or_date = |value| seconds(value).or_else(|| until(value, headers, now));
    text(RETRY_AFTER_MS)
        .and_then(millis)
        .or_else(|| text(RETRY_AFTER).and_then(seconds_or_date))
        .or_else(|| text(RETRY_IN).and_then(|value| millis(value).or_else(|| go_duration(value))))
}

fn millis(value: &str) -> Option<Duration> {
    seconds(value).map(|span| span / 1000)
}

/// Parses digits with at most one decimal point: no sign, no exponent. Digits beyond nanoseconds
/// are ignored.
fn seconds(value: &str) -> Option<Duration> {
    let (whole, fraction) = value.split_once('.').unwrap_or((value, ""));
    let digits = whole.bytes().chain(fraction.bytes());
    if matches!(value, "" | ".") || !digits.into_iter().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    // All are digits, so parsing fails only on overflow.
    let secs = format!("0{whole}").parse().unwrap_or(u64::MAX);
    Some(Duration::new(secs, nanos))
}

/// Returns the duration until a date, measured from the server's `Date` header if present, so that
/// a wrong local clock doesn't matter.
fn until(value: &str, headers: &HeaderMap, now: UnixTime) -> Option<Duration> {
    Some(http_date::parse(value)?.saturating_since(http_date::from_headers(headers).unwrap_or(now)))
}

/// Parses the format of Go's `time.Duration`: `1m30.5s`, `250ms`.
fn go_duration(value: &str) -> Option<Duration> {
    let mut total = Duration::ZERO;
    let mut rest = value;
    let belongs_to_number = |c: char| c.is_ascii_digit() || c == '.';
    while !rest.is_empty() {
        let (number, tail) = rest.split_at(rest.find(|c| !belongs_to_number(c))?);
        let (unit, tail) = tail.split_at(tail.find(belongs_to_number).unwrap_or(tail.len()));
        let number = seconds(number)?;
        let span = match unit {
            "h" => number.checked_mul(3600)?,
            "m" => number.checked_mul(60)?,
            "s" => number,
            "ms" => number / 1_000,
            "us" | "µs" => number / 1_000_000,
            "ns" => number / 1_000_000_000,
            _ => return None,
        };
        total = total.checked_add(span)?;
        rest = tail;
    }
    (!value.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read_one(name: &'static str, value: &str) -> Option<Duration> {
        let headers = HeaderMap::from_iter([(name.parse().unwrap(), value.parse().unwrap())]);
        read(&headers, UnixTime::from_secs(784_111_777))
    }

    #[test]
    fn all_four_forms_are_read() {
        for (name, value, millis) in [
            ("retry-after", "120", Some(120_000)),
            ("retry-after", "1.5", Some(1500)),
            ("retry-after", "Sun, 06 Nov 1994 08:49:47 GMT", Some(10_000)),
            ("retry-after", "Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("retry-after-ms", "250", Some(250)),
            ("x-retry-in", "1500", Some(1500)),
            ("x-retry-in", "1m30.5s", Some(90_500)),
            ("x-retry-in", "250ms", Some(250)),
            ("retry-after", "-1", None),
            ("retry-after", "soon", None),
            ("retry-after", "inf", None),
            ("retry-after", "1e9", None),
            ("x-retry-in", "5 parsecs", None),
            ("x-retry-in", "", None),
        ] {
            assert_eq!(
                read_one(name, value),
                millis.map(Duration::from_millis),
                "{name}: {value}"
            );
        }
    }

    #[test]
    fn a_wait_that_no_number_holds_is_a_long_one() {
        for name in ["retry-after", "retry-after-ms", "x-retry-in"] {
            let wait = read_one(name, "99999999999999999999999").unwrap();
            assert!(wait > Duration::from_secs(1_000_000_000), "{name}");
        }
    }

    #[test]
    fn a_date_counts_from_the_servers_own_clock() {
        let headers = HeaderMap::from_iter([
            (
                "date".parse().unwrap(),
                "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap(),
            ),
            (
                "retry-after".parse().unwrap(),
                "Sun, 06 Nov 1994 08:49:40 GMT".parse().unwrap(),
            ),
        ]);
        assert_eq!(
            read(&headers, UnixTime::from_secs(1)),
            Some(Duration::from_secs(3))
        );
    }

    #[test]
    fn the_finest_header_wins() {
        let headers = HeaderMap::from_iter([
            ("retry-after".parse().unwrap(), "1".parse().unwrap()),
            ("retry-after-ms".parse().unwrap(), "20".parse().unwrap()),
        ]);
        assert_eq!(
            read(&headers, UnixTime::from_secs(0)),
            Some(Duration::from_millis(20))
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ -~]{0,40}") {
            for name in ["retry-after", "retry-after-ms", "x-retry-in"] {
                let _ = read_one(name, &text);
            }
        }
    }
}
