//! Clients, grants and tokens in a recording.

use serde_json::{Value, json};

use crate::jose::PublicJwk;
use crate::oauth::client::Client;
use crate::oauth::grant::{Grant, Polling, Scope};
use crate::oauth::issuer::{Issuer, Server};
use crate::oauth::token::{ExpiresIn, StoredToken, Token};
use crate::request::client_auth::ClientAuth;
use crate::request::recorded::{Recorded, recorded};
use crate::request::stand_ins::StandIns;
use crate::types::{endpoint::Endpoint, secret::Secret};
use crate::wire::json::JsonObject;
use crate::wire::params::{BodyFormat, Params};

recorded!(struct Grant { params, retry_safety, refresh_token, scope, polling, server });
recorded!(struct Polling { interval, until });
recorded!(
    enum ExpiresIn {
        Auto,
        Relative,
        AbsoluteSeconds,
        AbsoluteMillis,
    }
);
recorded!(
    enum BodyFormat {
        Form,
        Json,
    }
);

/// Without the endpoints that no session uses.
impl Recorded for Client {
    fn to_record(&self, stand_ins: &mut StandIns) -> Value {
        let (parts, options) = (&self.0, &self.0.options);
        let issuer = parts.issuer.as_ref().map(Issuer::as_str);
        json!({
            "token_endpoint": parts.token_endpoint.to_record(stand_ins),
            "issuer": issuer.map(|issuer| stand_ins.url(issuer)),
            "auth": options.auth.to_record(stand_ins),
            "format": options.format.to_record(stand_ins),
            "headers": options.headers.to_record(stand_ins),
            "params": options.params.to_record(stand_ins),
            "key": parts.expected.key.to_record(stand_ins),
            "accept_bearer": parts.expected.accept_bearer,
            "expires_in": parts.expected.expires_in.to_record(stand_ins),
            "require_scope": parts.require_scope,
        })
    }

    fn from_record(record: &Value) -> Option<Self> {
        let get = |name| record.get(name);
        let endpoint = Endpoint::from_record(get("token_endpoint")?)?;
        let mut client = Self::new(endpoint, ClientAuth::from_record(get("auth")?)?)
            .body_format(Recorded::from_record(get("format")?)?)
            .headers(Recorded::from_record(get("headers")?)?)
            .expires_in(Recorded::from_record(get("expires_in")?)?);
        client.options_mut().params = Recorded::from_record(get("params")?)?;
        let parts = client.parts_mut();
        parts.issuer = match get("issuer")?.as_str() {
            Some(issuer) => Some(issuer.parse().ok()?),
            None => None,
        };
        parts.expected.key = Recorded::from_record(get("key")?)?;
        parts.expected.accept_bearer = get("accept_bearer")?.as_bool()?;
        parts.require_scope = get("require_scope")?.as_bool()?;
        Some(client)
    }
}

impl Recorded for Params {
    fn to_record(&self, stand_ins: &mut StandIns) -> Value {
        let mut value = |name, text, is_secret| match is_secret {
            true => stand_ins.secret(text),
            false => stand_ins.member(name, text),
        };
        let params = self.iter();
        params
            .map(|(name, text, is_secret)| json!([name, value(name, text, is_secret), is_secret]))
            .collect()
    }

    fn from_record(record: &Value) -> Option<Self> {
        let mut params = Self::default();
        for param in record.as_array()? {
            let (name, text) = (param.get(0)?.as_str()?, param.get(1)?.as_str()?);
            let name = name.to_owned();
            let pushed = match param.get(2)?.as_bool()? {
                true => params.push(name, Secret::new(text)),
                false => params.push(name, text.to_owned()),
            };
            pushed.ok()?;
        }
        Some(params)
    }
}

impl Recorded for Scope {
    fn to_record(&self, _: &mut StandIns) -> Value {
        self.as_str().into()
    }

    fn from_record(record: &Value) -> Option<Self> {
        Self::granted(record.as_str()?.split(' '))
    }
}

impl Recorded for Server {
    fn to_record(&self, stand_ins: &mut StandIns) -> Value {
        let issuer = self.issuer.as_ref().map(|issuer| stand_ins.url(issuer));
        json!({ "issuer": issuer, "token_endpoint": stand_ins.url(&self.token_endpoint) })
    }

    fn from_record(record: &Value) -> Option<Self> {
        Some(Self {
            issuer: record.get("issuer")?.as_str().map(str::to_owned),
            token_endpoint: record.get("token_endpoint")?.as_str()?.to_owned(),
        })
    }
}

/// As a stored state has it, and its key.
impl Recorded for Token {
    fn to_record(&self, stand_ins: &mut StandIns) -> Value {
        // Serializing strings and numbers to memory can't fail.
        let stored = serde_json::to_string(&StoredToken::new(self)).unwrap_or_default();
        let stored = stand_ins.json(&stored);
        let key = self.key().cloned().to_record(stand_ins);
        json!({ "stored": stored, "key": key })
    }

    fn from_record(record: &Value) -> Option<Self> {
        let stored = JsonObject::parse(record.get("stored")?.as_str()?.as_bytes()).ok()?;
        let key = Option::<PublicJwk>::from_record(record.get("key")?)?;
        StoredToken::restore(&stored, key.as_ref()).ok()
    }
}
