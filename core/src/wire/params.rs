//! The parameters of a request's body.

use std::borrow::Cow;

use serde::ser::{Serialize, SerializeMap, Serializer};

use crate::types::secret::{Body, Secret};
use crate::types::{escape::push_form, input::InvalidInput};

/// The format of a request's parameters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyFormat {
    /// `application/x-www-form-urlencoded` (RFC 6749).
    #[default]
    Form,
    /// `application/json`: one object of strings, as Moov and Treasury Prime require.
    Json,
}

impl BodyFormat {
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Form => "application/x-www-form-urlencoded",
            Self::Json => "application/json",
        }
    }
}

/// Parameters in insertion order. Names are unique (RFC 6749 §3.2), except for the names that may
/// be repeated (RFC 8707 §2, RFC 8693 §2.1).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Params(Vec<(Cow<'static, str>, ParamValue)>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ParamValue {
    Plain(Cow<'static, str>),
    Secret(Secret),
}

impl ParamValue {
    fn expose(&self) -> &str {
        match self {
            Self::Plain(text) => text,
            Self::Secret(secret) => secret.expose(),
        }
    }
}

impl<T: Into<Cow<'static, str>>> From<T> for ParamValue {
    fn from(text: T) -> Self {
        Self::Plain(text.into())
    }
}

impl From<Secret> for ParamValue {
    fn from(secret: Secret) -> Self {
        Self::Secret(secret)
    }
}

impl Params {
    pub(crate) fn new(name: &'static str, value: impl Into<ParamValue>) -> Self {
        Self(vec![(Cow::Borrowed(name), value.into())])
    }

    /// Adds a parameter. Its name must be a constant of this crate and not be present yet.
    pub(crate) fn and(mut self, name: &'static str, value: impl Into<ParamValue>) -> Self {
        self.0.push((Cow::Borrowed(name), value.into()));
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Returns all values of a name that may be repeated.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.expose())
    }

    pub(crate) fn push(
        &mut self,
        name: impl Into<Cow<'static, str>>,
        value: impl Into<ParamValue>,
    ) -> Result<(), InvalidInput> {
        let name = name.into();
        if name.is_empty() {
            return Err(InvalidInput::new("param", "must have a name"));
        }
        if !matches!(&*name, "resource" | "audience") && self.get(&name).is_some() {
            return Err(InvalidInput::new(
                "param",
                "must not be given twice or replace a parameter that the request sets itself",
            ));
        }
        self.0.push((name, value.into()));
        Ok(())
    }

    pub(crate) fn append(&mut self, others: &Self) -> Result<(), InvalidInput> {
        others
            .0
            .iter()
            .try_for_each(|(name, value)| self.push(name.clone(), value.clone()))
    }

    /// Returns all parameters, and whether their values are secret.
    #[cfg(feature = "record")]
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str, bool)> {
        let params = self.0.iter();
        params.map(|(name, value)| {
            let is_secret = matches!(value, ParamValue::Secret(_));
            (&**name, value.expose(), is_secret)
        })
    }

    /// Returns the secret values, which must be redacted if the server echoes them.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|(_, value)| match value {
            ParamValue::Secret(secret) => Some(secret.expose()),
            ParamValue::Plain(_) => None,
        })
    }

    pub(crate) fn encode(&self, format: BodyFormat) -> Body {
        // Sufficient capacity for most requests: a reallocation would leave an unwiped copy in
        // memory.
        let room = self
            .0
            .iter()
            .map(|(name, value)| name.len() + 3 * value.expose().len() + 8)
            .sum();
        let mut out = Vec::with_capacity(room);
        match format {
            BodyFormat::Form => {
                for (name, value) in &self.0 {
                    if !out.is_empty() {
                        out.push(b'&');
                    }
                    push_form(name, &mut out);
                    out.push(b'=');
                    push_form(value.expose(), &mut out);
                }
            }
            BodyFormat::Json => {
                // Serialising a map of strings to memory can't fail.
                let _ = serde_json::to_writer(&mut out, self);
            }
        }
        Body::new(out)
    }
}

/// Serialises one member for each name, and an array for a repeated name.
impl Serialize for Params {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (at, (name, _)) in self.0.iter().enumerate() {
            if self.0.iter().take(at).any(|(known, _)| known == name) {
                continue;
            }
            let values: Vec<&str> = self.all(name).collect();
            match values.as_slice() {
                [value] => map.serialize_entry(name, value)?,
                _ => map.serialize_entry(name, &values)?,
            }
        }
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params() -> Params {
        let mut params = Params::default();
        params.push("grant_type", "refresh_token").unwrap();
        params
            .push("refresh_token", Secret::new("a b\"/&="))
            .unwrap();
        params
    }

    #[test]
    fn both_formats_carry_the_same() {
        assert_eq!(
            params().encode(BodyFormat::Form).as_ref(),
            b"grant_type=refresh_token&refresh_token=a+b%22%2F%26%3D"
        );
        assert_eq!(
            params().encode(BodyFormat::Json).as_ref(),
            br#"{"grant_type":"refresh_token","refresh_token":"a b\"/&="}"#
        );
    }

    #[test]
    fn a_resource_may_stand_more_than_once() {
        let mut params = Params::new("resource", "a").and("x", "y");
        params.push("resource", "b").unwrap();
        assert_eq!(
            params.encode(BodyFormat::Form).as_ref(),
            b"resource=a&x=y&resource=b"
        );
        assert_eq!(
            params.encode(BodyFormat::Json).as_ref(),
            br#"{"resource":["a","b"],"x":"y"}"#
        );
    }

    #[test]
    fn a_parameter_stands_once() {
        assert_eq!(
            params().push("grant_type", "x").unwrap_err().argument(),
            "param"
        );
        assert!(params().push("", "x").is_err());
    }
}
