//! The members of a JSON document, for access by name after parsing.

use std::time::Duration;

use super::json::{JsonObject, JsonValue, number};

/// The members of an object whose values are strings, arrays of strings, numbers or booleans. If a
/// name occurs more than once, the last value is used, regardless of its type. A value of another
/// type is `None` and counts as missing.
#[derive(Clone)]
pub(crate) struct OwnedJsonObject(Vec<(String, Option<OwnedJsonValue>)>);

#[derive(Clone)]
enum OwnedJsonValue {
    Text(String),
    Texts(Vec<String>),
    Number(f64),
    Flag(bool),
}

impl OwnedJsonValue {
    fn from_value(value: JsonValue<'_>) -> Option<Self> {
        let text = value.as_str().map(|text| Self::Text(text.into_owned()));
        let flag = || value.as_bool().map(Self::Flag);
        let number = || value.as_f64().map(Self::Number);
        let texts = || Some(Self::Texts(value.texts()?.map(Into::into).collect()));
        text.or_else(flag).or_else(number).or_else(texts)
    }
}

impl OwnedJsonObject {
    pub(crate) fn new(members: &JsonObject<'_>) -> Self {
        let owned = |(name, value): (&str, _)| (name.to_owned(), OwnedJsonValue::from_value(value));
        Self(members.iter().map(owned).collect())
    }

    fn get(&self, name: &str) -> Option<&OwnedJsonValue> {
        self.0.iter().rev().find(|(own, _)| own == name)?.1.as_ref()
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            OwnedJsonValue::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn list(&self, name: &str) -> Option<impl Iterator<Item = &str>> {
        match self.get(name)? {
            OwnedJsonValue::Texts(texts) => Some(texts.iter().map(String::as_str)),
            _ => None,
        }
    }

    /// Returns whether a member is `true`. A missing member counts as `false`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some(OwnedJsonValue::Flag(true)))
    }

    /// Returns a duration in seconds, from a number or a numeric string.
    pub(crate) fn seconds(&self, name: &str) -> Option<Duration> {
        let seconds = match self.get(name)? {
            OwnedJsonValue::Number(seconds) => *seconds,
            OwnedJsonValue::Text(text) => number(text)?,
            _ => return None,
        };
        Duration::try_from_secs_f64(seconds).ok()
    }
}
