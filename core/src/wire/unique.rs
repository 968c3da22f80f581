//! Whether a JSON text says anything twice.

use std::collections::BTreeSet;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::object::Name;

/// Whether the text is JSON, no object of it, however deep, has a member twice (RFC 7515 §4, RFC 7519 §4), and it
/// is not nested deeper than 128 levels, which is where serde_json stops.
pub(crate) fn says_everything_once(json: &[u8]) -> bool {
    serde_json::from_slice::<Once>(json).is_ok()
}

struct Once;

impl<'de> Deserialize<'de> for Once {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Once {
    type Value = Self;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self, A::Error> {
        let mut names = BTreeSet::new();
        while let Some(name) = map.next_key::<Name<'_>>()? {
            if !names.insert(name) {
                return Err(A::Error::custom("a member stands twice"));
            }
            let Self = map.next_value()?;
        }
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self, A::Error> {
        while let Some(Self) = seq.next_element()? {}
        Ok(self)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E>(self) -> Result<Self, E> {
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_that_stands_twice_is_found_at_any_depth() {
        for json in [r#"{"a":1,"b":[{"a":{"a":null}},true,-1,0.5,"x"]}"#, "[]", "1"] {
            assert!(says_everything_once(json.as_bytes()), "{json}");
        }
        for json in [r#"{"a":1,"a":1}"#, r#"{"a":[{"b":{"c":1,"\u0063":2}}]}"#, "{", "", r#"{"a":1}x"#] {
            assert!(!says_everything_once(json.as_bytes()), "{json}");
        }
    }

    #[test]
    fn a_bomb_of_brackets_is_refused() {
        assert!(says_everything_once(("[".repeat(100) + &"]".repeat(100)).as_bytes()));
        assert!(!says_everything_once(("[".repeat(200) + &"]".repeat(200)).as_bytes()));
        assert!(!says_everything_once("[".repeat(1_000_000).as_bytes()));
    }
}
