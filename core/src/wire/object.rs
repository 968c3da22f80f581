//! JSON objects and nothing else.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::error::WhyBad;
use crate::exchange::Unread;

/// A `T` that stands as an object. serde's derived structs would take an array of their members as well.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData)).map(Self)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }
}

/// A member's name, which needs no copy unless it is spelled with escapes.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(transparent)]
pub(crate) struct Name<'a>(#[serde(borrow)] pub(crate) Cow<'a, str>);

/// The members of an answer that is one JSON object, by their names.
#[derive(Clone)]
pub(crate) struct Members(Map<String, Value>);

impl Members {
    /// An object with an `error` and without what was asked for is a refusal, whatever its status; so `wanted` is a member
    /// that no answer lacks.
    pub(crate) fn parse(body: &[u8], wanted: &'static str) -> Result<Self, Unread> {
        let Object(members): Object<Map<String, Value>> = serde_json::from_slice(body)
            .map_err(|error| WhyBad::NotJson { line: error.line(), column: error.column() })?;
        match (members.get(wanted), members.get("error")) {
            (Some(_), _) => Ok(Self(members)),
            (None, Some(_)) => Err(Unread::Refusal),
            (None, None) => Err(WhyBad::Missing(wanted).into()),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.get(name)?.as_str()
    }

    /// No, where it isn't there.
    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or_default()
    }

    pub(crate) fn list(&self, name: &str) -> Option<impl Iterator<Item = &str>> {
        Some(self.get(name)?.as_array()?.iter().filter_map(Value::as_str))
    }

    /// Seconds, as a number or as a text.
    pub(crate) fn seconds(&self, name: &str) -> Option<Duration> {
        Duration::try_from_secs_f64(number(self.get(name)?)?).ok()
    }

    pub(crate) fn required_text(&self, name: &'static str) -> Result<&str, WhyBad> {
        match self.get(name) {
            None => Err(WhyBad::Missing(name)),
            Some(Value::String(text)) if !text.is_empty() => Ok(text),
            Some(_) => Err(WhyBad::Member(name)),
        }
    }
}

/// A number, or a string that is one (Azure AD v1, UPS, …).
pub(crate) fn number(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => serde_json::from_str::<Value>(text.trim()).ok()?.as_f64(),
        _ => None,
    }
}
