//! Lazy parsing of JSON from servers.
//!
//! serde_json splits an array or object into validated raw values, and each value is converted on
//! access. Unused values cost nothing more, and unusual ones (`1e999`, deep nesting) don't affect
//! other members.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use crate::types::error::{InvalidResponseKind, ParseError};

/// A raw JSON value.
#[derive(Clone, Copy)]
pub(crate) struct JsonValue<'a>(&'a str);

impl<'a> JsonValue<'a> {
    /// Returns the value, if `json` is exactly one JSON value.
    pub(crate) fn parse(json: &'a str) -> Option<Self> {
        let raw: &RawValue = serde_json::from_str(json).ok()?;
        Some(Self(raw.get()))
    }

    /// Returns the value's JSON text.
    pub(crate) fn as_json(self) -> &'a str {
        self.0
    }

    pub(crate) fn as_str(self) -> Option<Cow<'a, str>> {
        let inside = self.0.strip_prefix('"')?.strip_suffix('"')?;
        // No early exit, so that the compiler can vectorise the loop.
        let is_escape = |any, byte| any | (byte == b'\\');
        if !inside.bytes().fold(false, is_escape) {
            return Some(Cow::Borrowed(inside));
        }
        match JsonParts::parse(self.0) {
            Ok(JsonParts::Text(text)) => Some(Cow::Owned(text)),
            _ => None,
        }
    }

    pub(crate) fn as_bool(self) -> Option<bool> {
        self.0.parse().ok()
    }

    /// Returns a number, or the number in a string (Azure AD v1, UPS, …).
    pub(crate) fn as_f64(self) -> Option<f64> {
        number(&self.as_str().unwrap_or(Cow::Borrowed(self.0)))
    }

    /// Returns a number without sign, fraction or exponent.
    pub(crate) fn as_u64(self) -> Option<u64> {
        self.0.parse().ok()
    }

    pub(crate) fn as_array(self) -> Option<Vec<JsonValue<'a>>> {
        match self.container_parts()? {
            JsonParts::List(items) => Some(items),
            _ => None,
        }
    }

    /// Returns the strings of an array. Other items are skipped.
    pub(crate) fn texts(self) -> Option<impl Iterator<Item = Cow<'a, str>>> {
        Some(self.as_array()?.into_iter().filter_map(Self::as_str))
    }

    pub(crate) fn as_object(self) -> Option<JsonObject<'a>> {
        match self.container_parts()? {
            JsonParts::Object(members) => Some(JsonObject(members)),
            _ => None,
        }
    }

    /// Returns the parts of an object or array. A string is not parsed, because that would leave an
    /// unwiped copy of a secret in memory.
    fn container_parts(self) -> Option<JsonParts<'a>> {
        let is_container = self.0.starts_with(['{', '[']);
        is_container.then(|| JsonParts::parse(self.0).ok())?
    }

    fn is_unambiguous(self, depth: u8) -> bool {
        match (self.0.as_bytes().first(), depth.checked_sub(1)) {
            (Some(b'{' | b'['), None) => false,
            (Some(b'{'), Some(depth)) => self
                .as_object()
                .is_some_and(|object| object.is_unambiguous(depth)),
            (Some(b'['), Some(depth)) => self
                .as_array()
                .is_some_and(|items| items.into_iter().all(|item| item.is_unambiguous(depth))),
            (Some(b'"'), _) => self.as_str().is_some(),
            _ => true,
        }
    }
}

/// The members of an object. If a name occurs more than once, the last value is used.
pub(crate) struct JsonObject<'a>(Vec<(Cow<'a, str>, JsonValue<'a>)>);

impl<'a> JsonObject<'a> {
    /// Parses a text that is exactly one object.
    pub(crate) fn parse(json: &'a [u8]) -> Result<Self, InvalidResponseKind> {
        let text = std::str::from_utf8(json);
        Self::parse_text(text.map_err(|error| not_json_after(json, error.valid_up_to()))?)
    }

    fn parse_text(json: &'a str) -> Result<Self, InvalidResponseKind> {
        match JsonParts::parse(json) {
            Ok(JsonParts::Object(members)) => Ok(Self(members)),
            Ok(_) => Err(InvalidResponseKind::NotAnObject),
            Err(error) => Err(InvalidResponseKind::NotJson {
                line: error.line(),
                column: error.column(),
            }),
        }
    }

    /// Parses an object [without duplicate names](Self::has_unique_names).
    pub(crate) fn parse_strict(json: &'a [u8]) -> Result<Self, InvalidResponseKind> {
        Some(Self::parse(json)?)
            .filter(Self::has_unique_names)
            .ok_or(InvalidResponseKind::NotAnObject)
    }

    /// Parses a success response, which must have the member `required`. A body with `error`
    /// instead is an error response, regardless of its status.
    pub(crate) fn parse_response(
        body: &'a Text<'_>,
        required: &'static str,
    ) -> Result<Self, ParseError> {
        let members = Self::of_body(body)?;
        match members.get(required).filter(|value| value.0 != r#""""#) {
            None if members.get("error").is_some() => Err(ParseError::Refusal),
            None if !members.has(required) => Err(InvalidResponseKind::Missing(required).into()),
            _ => Ok(members),
        }
    }

    /// Parses a body. Bytes that are not UTF-8 invalidate only their member, which is then not a
    /// string.
    pub(crate) fn of_body(body: &'a Text<'_>) -> Result<Self, InvalidResponseKind> {
        let mut members = Self::parse_text(body.as_str())?;
        if let Text::Damaged(_) = body {
            for (_, value) in &mut members.0 {
                if value.0.starts_with('"') && value.0.contains(char::REPLACEMENT_CHARACTER) {
                    *value = INVALID_STRING;
                }
            }
        }
        Ok(members)
    }

    /// Returns a member's value. `null` counts as missing.
    pub(crate) fn get(&self, name: &str) -> Option<JsonValue<'a>> {
        let (_, value) = self.0.iter().rev().find(|(own, _)| own == name)?;
        Some(*value).filter(|value| value.0 != "null")
    }

    /// Returns whether a member is present, even if it is `null`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(own, _)| own == name)
    }

    /// Returns whether this object and all objects in it have unique member names (RFC 7515 §4, RFC
    /// 7519 §4), all strings are valid Unicode, and nesting is at most 32 levels deep.
    pub(crate) fn has_unique_names(&self) -> bool {
        self.is_unambiguous(32)
    }

    fn is_unambiguous(&self, depth: u8) -> bool {
        let mut names: Vec<&str> = self.0.iter().map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names.windows(2).all(|pair| pair.first() != pair.last())
            && self.0.iter().all(|(_, value)| value.is_unambiguous(depth))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, JsonValue<'a>)> {
        self.0.iter().map(|(name, value)| (&**name, *value))
    }

    pub(crate) fn str(&self, name: &str) -> Option<Cow<'a, str>> {
        self.get(name)?.as_str()
    }

    /// Returns a string member, or `None` if it is missing or empty. Returns an error if it is not
    /// a string.
    pub(crate) fn optional_str(
        &self,
        name: &'static str,
    ) -> Result<Option<Cow<'a, str>>, InvalidResponseKind> {
        let text = self.optional(name, JsonValue::as_str)?;
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// Returns a string member. Returns an error if it is missing, empty or not a string.
    pub(crate) fn required_str(
        &self,
        name: &'static str,
    ) -> Result<Cow<'a, str>, InvalidResponseKind> {
        let text = self.optional(name, |value| value.as_str().filter(|text| !text.is_empty()))?;
        text.ok_or(InvalidResponseKind::Missing(name))
    }

    pub(crate) fn optional_u64(
        &self,
        name: &'static str,
    ) -> Result<Option<u64>, InvalidResponseKind> {
        self.optional(name, JsonValue::as_u64)
    }

    fn optional<T>(
        &self,
        name: &'static str,
        read: impl Fn(JsonValue<'a>) -> Option<T>,
    ) -> Result<Option<T>, InvalidResponseKind> {
        match self.get(name).map(read) {
            Some(None) => Err(InvalidResponseKind::InvalidMember(name)),
            value => Ok(value.flatten()),
        }
    }

    /// Returns a duration in seconds, from a number or a numeric string.
    pub(crate) fn seconds(&self, name: &str) -> Option<Duration> {
        Duration::try_from_secs_f64(self.get(name)?.as_f64()?).ok()
    }
}

/// Parses a text as a JSON number.
pub(crate) fn number(text: &str) -> Option<f64> {
    text.trim().parse::<Number>().ok()?.as_f64()
}

/// The parts of a value. `Other` stands for numbers, booleans and `null`, which need no further
/// parsing.
enum JsonParts<'a> {
    Object(Vec<(Cow<'a, str>, JsonValue<'a>)>),
    List(Vec<JsonValue<'a>>),
    Text(String),
    Other,
}

impl<'a> JsonParts<'a> {
    fn parse(json: &'a str) -> serde_json::Result<Self> {
        serde_json::from_str(json)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonParts<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PartsVisitor)
    }
}

/// A member's name. It is copied only if it contains escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// Accepts every type of value. serde_json therefore needs no code for messages about unexpected
/// types, which would be most of its size in a browser build.
struct PartsVisitor;

impl<'de> Visitor<'de> for PartsVisitor {
    type Value = JsonParts<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::with_capacity(8);
        while let Some(Name(name)) = map.next_key()? {
            members.push((name, JsonValue(map.next_value::<&RawValue>()?.get())));
        }
        Ok(JsonParts::Object(members))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<&RawValue>()? {
            items.push(JsonValue(item.get()));
        }
        Ok(JsonParts::List(items))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(JsonParts::Text(text.to_owned()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(JsonParts::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(JsonParts::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(JsonParts::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(JsonParts::Other)
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(JsonParts::Other)
    }
}

/// Returns a body without a leading byte order mark, which some servers send and parsers may ignore
/// (RFC 8259 §8.1).
pub(crate) fn strip_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix("\u{feff}".as_bytes()).unwrap_or(body)
}

/// The body of a response as text.
pub(crate) enum Text<'a> {
    Sound(&'a str),
    /// The bytes are not valid UTF-8; U+FFFD replaces invalid sequences.
    Damaged(Zeroizing<String>),
}

impl<'a> Text<'a> {
    pub(crate) fn of(body: &'a [u8]) -> Self {
        match std::str::from_utf8(body) {
            Ok(text) => Self::Sound(text),
            Err(_) => {
                // Each byte becomes at most three. A reallocation would leave an unwiped copy in
                // memory.
                let mut text = Zeroizing::new(String::with_capacity(body.len().saturating_mul(3)));
                for chunk in body.utf8_chunks() {
                    text.push_str(chunk.valid());
                    text.extend(
                        (!chunk.invalid().is_empty()).then_some(char::REPLACEMENT_CHARACTER),
                    );
                }
                Self::Damaged(text)
            }
        }
    }

    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Sound(text) => text,
            Self::Damaged(text) => text,
        }
    }
}

/// A JSON string that can't be decoded: a lone surrogate (RFC 8259 §8.2).
const INVALID_STRING: JsonValue<'_> = JsonValue(r#""\ud800""#);

/// Returns the error for a text whose first `good` bytes are valid UTF-8.
fn not_json_after(json: &[u8], good: usize) -> InvalidResponseKind {
    let before = json.get(..good).unwrap_or_default();
    let mut lines = before.split(|&byte| byte == b'\n');
    let column = lines.next_back().map_or(0, <[u8]>::len);
    InvalidResponseKind::NotJson {
        line: lines.count().saturating_add(1),
        column: column.saturating_add(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parses_strictly(json: &str) -> bool {
        JsonObject::parse_strict(json.as_bytes()).is_ok()
    }

    #[test]
    fn a_member_that_stands_twice_is_found_at_any_depth() {
        for json in [
            r#"{"a":1,"b":[{"a":{"a":null}},true,-1,0.5,"x"]}"#,
            "{}",
            r#"{"a":1e999}"#,
        ] {
            assert!(parses_strictly(json), "{json}");
        }
        for json in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":[{"b":{"c":1,"\u0063":2}}]}"#,
            r#"{"a":["\ud800"]}"#,
            "{",
            "",
            "[]",
            r#"{"a":1}x"#,
        ] {
            assert!(!parses_strictly(json), "{json}");
        }
    }

    #[test]
    fn a_bomb_of_brackets_is_refused() {
        let nested = |depth| format!(r#"{{"a":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(parses_strictly(&nested(32)));
        assert!(!parses_strictly(&nested(33)));
        assert!(!parses_strictly(&nested(1_000_000)));
    }

    #[test]
    fn what_is_odd_spoils_nothing_else() {
        let json = format!(
            r#"{{"odd":1e999,"deep":{}{},"good":"ü\n","n":"12.5"}}"#,
            "[".repeat(500),
            "]".repeat(500)
        );
        let members = JsonObject::parse(json.as_bytes()).unwrap_or_else(|_| panic!("it is JSON"));
        assert_eq!(members.str("good").as_deref(), Some("ü\n"));
        assert_eq!(members.seconds("n"), Some(Duration::from_millis(12_500)));
        assert!(members.get("odd").is_some_and(|odd| odd.as_f64().is_none()));
        assert!(
            members
                .get("deep")
                .is_some_and(|deep| deep.as_array().is_some())
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_told_by_their_place() {
        let not_json = |json: &[u8]| match JsonObject::parse(json) {
            Err(InvalidResponseKind::NotJson { line, column }) => (line, column),
            _ => panic!("it is JSON"),
        };
        assert_eq!(not_json(b"\xff"), (1, 1));
        assert_eq!(not_json(b"{\n \"a\":\"\xff\"}"), (2, 7));
    }
}
