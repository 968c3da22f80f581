//! An authorization server that issues DPoP-bound tokens (RFC 9449 §5), and a protected resource
//! that accepts them.

use bytes::Bytes;
use http::Request;
use keybound_ureq::dpop::ProofVerifier;
use serde_json::json;

use crate::proofs::{self, NONCE_REQUIRED, Refused};
use crate::reply::Reply;
use crate::state::{Access, LIFETIME, State, now};
use crate::{CLIENT_ID, CLIENT_SECRET};

pub(crate) const PREFIX: &str = "/oauth";
/// The path of the metadata document (RFC 8414 §3.1).
pub(crate) const METADATA: &str = "/.well-known/oauth-authorization-server/oauth";

const AS: &str = "as";
const RS: &str = "rs";

pub(crate) fn answer(state: &State, path: &str, request: &Request<Bytes>) -> Reply {
    match (request.method().as_str(), path) {
        ("POST", "/token") => proofs::add_nonce(
            state,
            AS,
            token(state, request).unwrap_or_else(|refusal| refusal),
        ),
        ("POST", "/revoke") => revoke(state, request).unwrap_or_else(|refusal| refusal),
        ("POST", "/introspect") => introspect(state, request).unwrap_or_else(|refusal| refusal),
        (_, "/resource") => {
            let reply = proofs::authorize(state, RS, request).map(|access| {
                let method = request.method().as_str();
                Reply::json(
                    200,
                    json!({ "method": method, "scope": access.scope, "jkt": access.jkt }),
                )
            });
            proofs::add_nonce(state, RS, reply.unwrap_or_else(|refusal| refusal))
        }
        (_, "/token" | "/revoke" | "/introspect") => Reply::empty(405),
        _ => Reply::error(404, "not found"),
    }
}

pub(crate) fn metadata(state: &State) -> Reply {
    let issuer = format!("{}{PREFIX}", state.base_url);
    Reply::json(
        200,
        json!({
            "issuer": issuer,
            "token_endpoint": format!("{issuer}/token"),
            "revocation_endpoint": format!("{issuer}/revoke"),
            "introspection_endpoint": format!("{issuer}/introspect"),
            "grant_types_supported": ["client_credentials", "refresh_token"],
            "response_types_supported": [],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "dpop_signing_alg_values_supported": proofs::algorithms(),
        }),
    )
}

fn token(state: &State, request: &Request<Bytes>) -> Result<Reply, Reply> {
    let form = Form::parse(request)?;
    form.authenticate(request)?;
    let jkt = verify_proof(state, request)?;
    let access = match form.get("grant_type") {
        Some("client_credentials") => Access {
            scope: form.get("scope").unwrap_or("default").to_owned(),
            jkt,
            origin_known: true,
            expires_at: now().saturating_add(LIFETIME),
        },
        Some("refresh_token") => {
            let token = form.get("refresh_token").unwrap_or_default();
            let invalid = |why| Reply::oauth_error(400, "invalid_grant", why);
            let access = state
                .refresh(token)
                .ok_or_else(|| invalid("the refresh token is unknown, already used or revoked"))?;
            if access.jkt != jkt {
                return Err(invalid("the refresh token is bound to another key"));
            }
            state.revoke(token);
            Access {
                expires_at: now().saturating_add(LIFETIME),
                ..access
            }
        }
        Some(_) => {
            return Err(Reply::oauth_error(
                400,
                "unsupported_grant_type",
                "the supported grants are client_credentials and refresh_token",
            ));
        }
        None => {
            return Err(Reply::oauth_error(
                400,
                "invalid_request",
                "grant_type is missing",
            ));
        }
    };
    let token_type = if access.jkt.is_some() {
        "DPoP"
    } else {
        "Bearer"
    };
    let scope = access.scope.clone();
    let (access_token, refresh_token) = state.issue(access);
    Ok(Reply::json(
        200,
        json!({
            "access_token": access_token,
            "token_type": token_type,
            "expires_in": LIFETIME.as_secs(),
            "refresh_token": refresh_token,
            "scope": scope,
        }),
    )
    .with("cache-control", "no-store"))
}

/// Verifies the request's proof, and returns the thumbprint of its key. Returns `None` if the
/// request has no proof.
fn verify_proof(state: &State, request: &Request<Bytes>) -> Result<Option<String>, Reply> {
    if !request.headers().contains_key("dpop") {
        return Ok(None);
    }
    let checked =
        proofs::expect_request(ProofVerifier::default().no_access_token(), state, request)
            .and_then(|policy| proofs::verify_request(state, AS, request.headers(), policy));
    checked.map(Some).map_err(|refused| match refused {
        Refused::Nonce(nonce) => {
            Reply::oauth_error(400, "use_dpop_nonce", NONCE_REQUIRED).with_nonce(&nonce)
        }
        Refused::Invalid(why) => Reply::oauth_error(400, "invalid_dpop_proof", &why),
    })
}

fn revoke(state: &State, request: &Request<Bytes>) -> Result<Reply, Reply> {
    let form = Form::parse(request)?;
    form.authenticate(request)?;
    let token = form
        .get("token")
        .ok_or_else(|| Reply::oauth_error(400, "invalid_request", "token is missing"))?;
    state.revoke(token);
    Ok(Reply::empty(200))
}

/// Returns the introspection response (RFC 7662 §2.2).
fn introspect(state: &State, request: &Request<Bytes>) -> Result<Reply, Reply> {
    let form = Form::parse(request)?;
    form.authenticate(request)?;
    let token = form
        .get("token")
        .ok_or_else(|| Reply::oauth_error(400, "invalid_request", "token is missing"))?;
    Ok(Reply::json(
        200,
        match state.access(token) {
            Some(Access {
                scope,
                jkt,
                expires_at,
                ..
            }) => json!({
                "active": true,
                "scope": scope,
                "client_id": CLIENT_ID,
                "exp": expires_at.as_secs(),
                "cnf": jkt.map(|jkt| json!({ "jkt": jkt })),
            }),
            None => json!({ "active": false }),
        },
    ))
}

/// The parameters that may be repeated (RFC 8707 §2, RFC 8693 §2.1).
const REPEATABLE: [&str; 2] = ["resource", "audience"];

/// The parameters of a form body. Only [`REPEATABLE`] parameters may be repeated (RFC 6749 §3.2).
struct Form(Vec<(String, String)>);

impl Form {
    fn parse(request: &Request<Bytes>) -> Result<Self, Reply> {
        if !is_of_type(request, FORM) {
            return Err(Reply::oauth_error(
                400,
                "invalid_request",
                "the body must be a form",
            ));
        }
        let pairs: Vec<(String, String)> = form_urlencoded::parse(request.body())
            .into_owned()
            .collect();
        let has_repeated = pairs.iter().enumerate().any(|(at, (name, _))| {
            !REPEATABLE.contains(&name.as_str())
                && pairs.iter().take(at).any(|(known, _)| known == name)
        });
        if has_repeated {
            return Err(Reply::oauth_error(
                400,
                "invalid_request",
                "a parameter is repeated",
            ));
        }
        Ok(Self(pairs))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }

    /// Verifies the client credentials: in the `Authorization` header (Basic) or in the body, but
    /// not in both (RFC 6749 §2.3).
    fn authenticate(&self, request: &Request<Bytes>) -> Result<(), Reply> {
        let in_body = self.get("client_id").zip(self.get("client_secret"));
        let in_header = basic(request);
        let unauthorized = |why| {
            Reply::oauth_error(401, "invalid_client", why)
                .with("www-authenticate", "Basic realm=\"sandbox\"")
        };
        match (in_header, in_body) {
            (Some(_), Some(_)) => Err(Reply::oauth_error(
                400,
                "invalid_request",
                "the request uses more than one client authentication method",
            )),
            (Some((id, secret)), None) if id == CLIENT_ID && secret == CLIENT_SECRET => Ok(()),
            (None, Some((CLIENT_ID, CLIENT_SECRET))) => Ok(()),
            _ => Err(unauthorized("the client ID or the client secret is wrong")),
        }
    }
}

/// The media type of a form body.
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

/// Whether the request's `Content-Type` is `media_type`. Case and parameters are ignored
/// (RFC 9110 §8.3.1).
pub(crate) fn is_of_type(request: &Request<Bytes>, media_type: &str) -> bool {
    let content_type = request
        .headers()
        .get("content-type")
        .and_then(|value| value.to_str().ok());
    content_type
        .and_then(|value| value.split(';').next())
        .is_some_and(|essence| essence.trim().eq_ignore_ascii_case(media_type))
}

/// Returns the client ID and secret from `Authorization: Basic`, form-decoded (RFC 6749 §2.3.1).
pub(crate) fn basic(request: &Request<Bytes>) -> Option<(String, String)> {
    use base64::Engine as _;
    let value = request.headers().get("authorization")?.to_str().ok()?;
    let (scheme, encoded) = value.split_once(' ')?;
    let pair = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .ok()?;
    let (id, secret) = std::str::from_utf8(&pair).ok()?.split_once(':')?;
    let decoded = |text: &str| {
        form_urlencoded::parse(format!("x={text}").as_bytes())
            .next()
            .map(|(_, value)| value.into_owned())
    };
    scheme
        .eq_ignore_ascii_case("basic")
        .then_some((decoded(id)?, decoded(secret)?))
}
