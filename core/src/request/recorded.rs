//! The configuration and state of tasks as a recording has them: JSON, with stand-ins for secrets.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri};
use serde_json::{Value, json};

use crate::jose::{Algorithm, PublicJwk};
use crate::request::stand_ins::StandIns;
use crate::types::endpoint::{Endpoint, HttpUri};
use crate::types::{secret::Secret, time::UnixTime};

/// A value that is recorded, and restored for a replay.
pub(crate) trait Recorded: Sized {
    fn to_record(&self, stand_ins: &mut StandIns) -> Value;

    /// Returns the recorded value, or `None` if the record is malformed.
    fn from_record(record: &Value) -> Option<Self>;
}

/// Records the fields of a struct as members with their names, and an enum without fields as the name
/// of its variant.
macro_rules! recorded {
    (struct $type:ident { $($field:ident),+ $(,)? }) => {
        impl $crate::request::recorded::Recorded for $type {
            fn to_record(
                &self,
                stand_ins: &mut $crate::request::stand_ins::StandIns,
            ) -> serde_json::Value {
                serde_json::json!({
                    $(stringify!($field): $crate::request::recorded::Recorded::to_record(&self.$field, stand_ins)),+
                })
            }

            fn from_record(record: &serde_json::Value) -> Option<Self> {
                Some(Self {
                    $($field: $crate::request::recorded::Recorded::from_record(record.get(stringify!($field))?)?),+
                })
            }
        }
    };
    (enum $type:ident { $($variant:ident),+ $(,)? }) => {
        impl $crate::request::recorded::Recorded for $type {
            fn to_record(
                &self,
                _: &mut $crate::request::stand_ins::StandIns,
            ) -> serde_json::Value {
                match self {
                    $(Self::$variant => stringify!($variant).into()),+
                }
            }

            fn from_record(record: &serde_json::Value) -> Option<Self> {
                match record.as_str()? {
                    $(stringify!($variant) => Some(Self::$variant),)+
                    _ => None,
                }
            }
        }
    };
}

pub(crate) use recorded;

impl Recorded for bool {
    fn to_record(&self, _: &mut StandIns) -> Value {
        (*self).into()
    }

    fn from_record(record: &Value) -> Option<Self> {
        record.as_bool()
    }
}

impl Recorded for u8 {
    fn to_record(&self, _: &mut StandIns) -> Value {
        (*self).into()
    }

    fn from_record(record: &Value) -> Option<Self> {
        Self::try_from(record.as_u64()?).ok()
    }
}

impl Recorded for u64 {
    fn to_record(&self, _: &mut StandIns) -> Value {
        (*self).into()
    }

    fn from_record(record: &Value) -> Option<Self> {
        record.as_u64()
    }
}

/// In nanoseconds.
impl Recorded for Duration {
    fn to_record(&self, _: &mut StandIns) -> Value {
        u64::try_from(self.as_nanos()).unwrap_or(u64::MAX).into()
    }

    fn from_record(record: &Value) -> Option<Self> {
        record.as_u64().map(Self::from_nanos)
    }
}

/// In milliseconds since 1970.
impl Recorded for UnixTime {
    fn to_record(&self, _: &mut StandIns) -> Value {
        self.as_millis().into()
    }

    fn from_record(record: &Value) -> Option<Self> {
        record.as_u64().map(Self::from_millis)
    }
}

impl Recorded for Secret {
    fn to_record(&self, stand_ins: &mut StandIns) -> Value {
        stand_ins.secret(self.expose()).into()
    }

    fn from_record(record: &Value) -> Option<Self> {
        record.as_str().map(Self::new)
    }
}

impl Recorded for Endpoint {
    fn to_record(&self, stand_ins: &mut StandIns) -> Value {
        stand_ins.url(&self.to_string()).into()
    }

    fn from_record(record: &Value) -> Option<Self> {
        Self::https_or_loopback(record.as_str()?).ok()
    }
}

impl Recorded for HttpUri {
    fn to_record(&self, stand_ins: &mut StandIns) -> Value {
        stand_ins.url(&self.uri().to_string()).into()
    }

    fn from_record(record: &Value) -> Option<Self> {
        Self::new(&record.as_str()?.parse::<Uri>().ok()?).ok()
    }
}

impl Recorded for Method {
    fn to_record(&self, _: &mut StandIns) -> Value {
        self.as_str().into()
    }

    fn from_record(record: &Value) -> Option<Self> {
        record.as_str()?.parse().ok()
    }
}

impl Recorded for Algorithm {
    fn to_record(&self, _: &mut StandIns) -> Value {
        self.as_str().into()
    }

    fn from_record(record: &Value) -> Option<Self> {
        Self::from_alg(record.as_str()?)
    }
}

impl Recorded for PublicJwk {
    fn to_record(&self, _: &mut StandIns) -> Value {
        json!({ "alg": self.algorithm().as_str(), "kid": self.kid(), "jwk": self.to_json() })
    }

    fn from_record(record: &Value) -> Option<Self> {
        let key = Self::from_json(record.get("jwk")?.as_str()?.as_bytes()).ok()?;
        let algorithm = Algorithm::from_alg(record.get("alg")?.as_str()?)?;
        let key = key.with_algorithm(algorithm).ok()?;
        Some(match record.get("kid")?.as_str() {
            Some(kid) => key.with_kid(kid),
            None => key,
        })
    }
}

/// The headers of a client, all of which are secret.
impl Recorded for HeaderMap {
    fn to_record(&self, stand_ins: &mut StandIns) -> Value {
        let mut value =
            |value: &HeaderValue| stand_ins.secret(&String::from_utf8_lossy(value.as_bytes()));
        let pairs = self.iter();
        pairs
            .map(|(name, text)| json!([name.as_str(), value(text)]))
            .collect()
    }

    fn from_record(record: &Value) -> Option<Self> {
        let pair = |pair: &Value| {
            let mut value = HeaderValue::from_str(pair.get(1)?.as_str()?).ok()?;
            value.set_sensitive(true);
            Some((pair.get(0)?.as_str()?.parse::<HeaderName>().ok()?, value))
        };
        record.as_array()?.iter().map(pair).collect()
    }
}

impl<T: Recorded> Recorded for Option<T> {
    fn to_record(&self, stand_ins: &mut StandIns) -> Value {
        let record = self.as_ref().map(|value| value.to_record(stand_ins));
        record.unwrap_or_default()
    }

    fn from_record(record: &Value) -> Option<Self> {
        match record {
            Value::Null => Some(None),
            record => T::from_record(record).map(Some),
        }
    }
}

impl<T: Recorded> Recorded for Vec<T> {
    fn to_record(&self, stand_ins: &mut StandIns) -> Value {
        self.iter().map(|item| item.to_record(stand_ins)).collect()
    }

    fn from_record(record: &Value) -> Option<Self> {
        record.as_array()?.iter().map(T::from_record).collect()
    }
}
