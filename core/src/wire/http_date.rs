//! Parses `HTTP-date` (RFC 9110 §5.6.7) in the three formats that a recipient must accept.

use http::{HeaderMap, header};

use crate::types::time::UnixTime;

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Returns the time of the response by the server's clock: the `Date` header (RFC 9110 §6.6.1).
pub(crate) fn from_headers(headers: &HeaderMap) -> Option<UnixTime> {
    parse(headers.get(header::DATE)?.to_str().ok()?)
}

pub(crate) fn parse(text: &str) -> Option<UnixTime> {
    let words = text.split([' ', ',', '-']);
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    let (day, month, year, clock) = match *words.as_slice() {
        // Sun, 06 Nov 1994 08:49:37 GMT; Sunday, 06-Nov-94 08:49:37 GMT
        [_, day, month, year, clock, "GMT"] => (day, month, year, clock),
        // Sun Nov  6 08:49:37 1994
        [_, month, day, clock, year] => (day, month, year, clock),
        _ => return None,
    };
    let month = MONTHS.iter().position(|name| *name == month)?;
    let (day, year) = (number(day)?, full_year(year)?);
    let mut parts = clock.splitn(3, ':').map(number);
    let (hour, minute, second) = (parts.next()??, parts.next()??, parts.next()??);
    if day < 1 || day > month_len(month, year) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let months: u64 = (0..month).map(|month| month_len(month, year)).sum();
    let days = days_before_year(year) + months + day - 1;
    let hours = days.checked_sub(days_before_year(1970))? * 24 + hour;
    Some(UnixTime::from_secs((hours * 60 + minute) * 60 + second))
}

fn number(digits: &str) -> Option<u64> {
    (digits.len() <= 4 && digits.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| digits.parse().ok())?
}

/// Interprets a year of two digits as 1970 to 2069. This approximates the RFC's rule of fifty
/// years.
fn full_year(digits: &str) -> Option<u64> {
    match (digits.len(), number(digits)?) {
        (2, year @ 70..) => Some(1900 + year),
        (2, year) => Some(2000 + year),
        (4, year @ 1..) => Some(year),
        _ => None,
    }
}

fn is_leap(year: u64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn month_len(month: usize, year: u64) -> u64 {
    match month {
        1 if is_leap(year) => 29,
        1 => 28,
        3 | 5 | 8 | 10 => 30,
        _ => 31,
    }
}

fn days_before_year(year: u64) -> u64 {
    let full = year - 1;
    full * 365 + full / 4 - full / 100 + full / 400
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_three_formats_of_rfc_9110_are_one_time() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(
                parse(text),
                Some(UnixTime::from_secs(784_111_777)),
                "{text}"
            );
        }
    }

    #[test]
    fn known_times_hold() {
        for (text, secs) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("Tue, 19 Jan 2038 03:14:08 GMT", 2_147_483_648),
            ("Mon, 02 Jun 2025 23:08:51 GMT", 1_748_905_731),
        ] {
            assert_eq!(parse(text), Some(UnixTime::from_secs(secs)), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "soon",
            "120",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 31 Feb 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 06 Nov 1969 08:49:37 GMT",
            "Sun, 06 Nov 0000 08:49:37 GMT",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*", digits in "[A-Za-z]{3}, [0-9]{1,5} [A-Z][a-z]{2} [0-9]{1,5} [0-9:]{1,9} GMT") {
            let _ = (parse(&text), parse(&digits));
        }
    }
}
