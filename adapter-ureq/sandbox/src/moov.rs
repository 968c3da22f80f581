//! Moov's API, as described by its reference and by reports of its users.

use bytes::Bytes;
use http::Request;
use keybound_ureq::provider::moov::Version;
use serde_json::{Map, Value, json};

use crate::oauth::{FORM, basic, is_of_type};
use crate::reply::Reply;
use crate::state::{Access, LIFETIME, State, now, random};
use crate::{CLIENT_ID, CLIENT_SECRET, ORIGIN};

pub(crate) const PREFIX: &str = "/moov";

pub(crate) fn answer(state: &State, path: &str, request: &Request<Bytes>) -> Reply {
    let reply = if known_version(request) {
        route(state, path, request)
    } else {
        Reply::empty(404)
    };
    reply.with("x-request-id", random())
}

fn route(state: &State, path: &str, request: &Request<Bytes>) -> Reply {
    match (request.method().as_str(), path) {
        ("POST", "/oauth2/token") => token(state, request).unwrap_or_else(|refusal| refusal),
        ("POST", "/oauth2/revoke") => revoke(state, request).unwrap_or_else(|refusal| refusal),
        ("GET", "/ping") => resource(state, request, "/ping.read", Reply::empty(204)),
        ("GET", "/accounts") => resource(
            state,
            request,
            "/accounts.read",
            Reply::json(200, json!([])),
        ),
        _ => Reply::empty(404),
    }
}

/// Whether the `X-Moov-Version` header is absent or valid. Moov answers any other value with 404.
fn known_version(request: &Request<Bytes>) -> bool {
    request
        .headers()
        .get("x-moov-version")
        .is_none_or(|version| {
            version
                .to_str()
                .is_ok_and(|text| Version::new(text).is_ok())
        })
}

fn token(state: &State, request: &Request<Bytes>) -> Result<Reply, Reply> {
    if !state.within_rate() {
        return Err(Reply::empty(429).with("retry-after", "1"));
    }
    let body = Parameters::parse(request)?;
    body.authenticate(request)?;
    let access = match body.get("grant_type") {
        Some("client_credentials") => Access {
            scope: body.scope()?,
            jkt: None,
            // Moov accepts a wrong Origin here; its resources then reject the token.
            origin_known: request
                .headers()
                .get("origin")
                .is_none_or(|origin| origin == ORIGIN),
            expires_at: now().saturating_add(LIFETIME),
        },
        Some("refresh_token") => {
            let token = body.required("refresh_token")?;
            let access = state
                .refresh(token)
                .ok_or_else(|| field("refresh_token", "is not valid, or was used before"))?;
            state.revoke(token);
            Access {
                expires_at: now().saturating_add(LIFETIME),
                ..access
            }
        }
        Some(_) => return Err(Reply::error(400, "unsupported_grant_type")),
        None => return Err(Reply::error(400, "invalid_request")),
    };
    let (scope, expires_at) = (access.scope.clone(), access.expires_at);
    let (access_token, refresh_token) = state.issue(access);
    Ok(Reply::json(
        200,
        json!({
            "access_token": access_token,
            // Moov sends a Unix time in seconds, not a duration.
            "expires_in": expires_at.as_secs(),
            "refresh_token": refresh_token,
            "scope": scope,
            "token_type": "Bearer",
        }),
    ))
}

fn revoke(state: &State, request: &Request<Bytes>) -> Result<Reply, Reply> {
    let body = Parameters::parse(request)?;
    body.authenticate(request)?;
    let token = body.required("token")?;
    match body.get("token_type_hint") {
        None | Some("access_token" | "refresh_token") => {}
        Some(_) => {
            return Err(field(
                "token_type_hint",
                "must be access_token or refresh_token",
            ));
        }
    }
    state.revoke(token);
    Ok(Reply::empty(204))
}

/// Returns `success` if the access token is valid and has `scope`. Otherwise returns an empty 401
/// (token missing, invalid or with a wrong origin) or 403 (scope missing), as Moov does.
fn resource(state: &State, request: &Request<Bytes>, scope: &str, success: Reply) -> Reply {
    let authorization = request
        .headers()
        .get("authorization")
        .and_then(|value| value.to_str().ok());
    match authorization.and_then(|value| state.access(value.strip_prefix("Bearer ")?)) {
        Some(access) if !access.origin_known => Reply::empty(401),
        Some(access) if access.scope.split(' ').any(|granted| granted == scope) => success,
        Some(_) => Reply::empty(403),
        None => Reply::empty(401),
    }
}

/// Returns a 422 with an object of field names and messages, Moov's format for invalid fields.
fn field(name: &str, message: &str) -> Reply {
    Reply::json(422, json!({ name: message }))
}

/// The parameters of a request body. Moov accepts JSON and forms.
struct Parameters(Map<String, Value>);

impl Parameters {
    fn parse(request: &Request<Bytes>) -> Result<Self, Reply> {
        let invalid = || Reply::error(400, "invalid_request");
        if is_of_type(request, "application/json") {
            serde_json::from_slice(request.body())
                .map(Self)
                .map_err(|_| invalid())
        } else if is_of_type(request, FORM) {
            let pairs = form_urlencoded::parse(request.body()).into_owned();
            Ok(Self(
                pairs
                    .map(|(name, value)| (name, Value::String(value)))
                    .collect(),
            ))
        } else {
            Err(invalid())
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    }

    fn required(&self, name: &str) -> Result<&str, Reply> {
        self.get(name).ok_or_else(|| field(name, "is required"))
    }

    fn scope(&self) -> Result<String, Reply> {
        let scope = self.required("scope")?;
        if scope.split(' ').all(|token| token.starts_with('/')) {
            Ok(scope.to_owned())
        } else {
            Err(field("scope", "must be scopes such as /accounts.read"))
        }
    }

    /// Verifies the client credentials: in the `Authorization` header (Basic), in the body, or in
    /// both. Otherwise returns an empty 401.
    fn authenticate(&self, request: &Request<Bytes>) -> Result<(), Reply> {
        let in_header = basic(request);
        let in_body = self.get("client_id").zip(self.get("client_secret"));
        let header_is_valid = in_header
            .as_ref()
            .is_none_or(|(id, secret)| id == CLIENT_ID && secret == CLIENT_SECRET);
        let body_is_valid = in_body.is_none_or(|pair| pair == (CLIENT_ID, CLIENT_SECRET));
        let any = in_header.is_some() || in_body.is_some();
        if any && header_is_valid && body_is_valid {
            Ok(())
        } else {
            Err(Reply::empty(401))
        }
    }
}
