//! What a document says, for whoever asks by name later on.

use std::time::Duration;

use super::json::{Members, Value, number};

/// An object's members, with the values that are texts, lists of texts, numbers or flags. Of two that have one name the
/// later counts, whatever it is.
#[derive(Clone)]
pub(crate) struct OwnedMembers(Vec<(String, Option<Owned>)>);

#[derive(Clone)]
enum Owned {
    Text(String),
    Texts(Vec<String>),
    Number(f64),
    Flag(bool),
}

impl Owned {
    fn of(value: Value<'_>) -> Option<Self> {
        let text = value.text().map(|text| Self::Text(text.into_owned()));
        let flag = || value.flag().map(Self::Flag);
        let number = || value.number().map(Self::Number);
        let texts = || Some(Self::Texts(value.texts()?.map(Into::into).collect()));
        text.or_else(flag).or_else(number).or_else(texts)
    }
}

impl OwnedMembers {
    pub(crate) fn of(members: &Members<'_>) -> Self {
        Self(members.iter().map(|(name, value)| (name.to_owned(), Owned::of(value))).collect())
    }

    fn get(&self, name: &str) -> Option<&Owned> {
        self.0.iter().rev().find(|(own, _)| own == name)?.1.as_ref()
    }

    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        match self.get(name)? {
            Owned::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn list(&self, name: &str) -> Option<impl Iterator<Item = &str>> {
        match self.get(name)? {
            Owned::Texts(texts) => Some(texts.iter().map(String::as_str)),
            _ => None,
        }
    }

    /// No, where it isn't there.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some(Owned::Flag(true)))
    }

    /// Seconds, as a number or as a text.
    pub(crate) fn seconds(&self, name: &str) -> Option<Duration> {
        let seconds = match self.get(name)? {
            Owned::Number(seconds) => *seconds,
            Owned::Text(text) => number(text)?,
            _ => return None,
        };
        Duration::try_from_secs_f64(seconds).ok()
    }
}
