//! The authorization code grant (RFC 6749 §4.1) with PKCE (RFC 7636).
//!
//! The application opens the authorization URL in the user's browser. The authorization server
//! redirects the browser back with an authorization code, which the client exchanges for a token.
//!
//! ```
//! use keybound_core::jose::{Algorithm, SigningKey};
//! use keybound_core::*;
//!
//! # fn main() -> Result<(), Error> {
//! let key = SigningKey::generate(Algorithm::Es256)?;
//! let client = Client::new(Endpoint::https("https://as.example/token")?, ClientAuth::none("app")?)
//!     .authorization_endpoint(Endpoint::https("https://as.example/authorize")?)
//!     .issuer(Issuer::https("https://as.example")?)
//!     .dpop(key.public().clone());
//! let builder = client.authorization("https://app.example/callback")?.scope(Scope::new("accounts")?);
//! let AuthorizationRequest { url, pending } = builder.build([7; 32])?; // 32 random bytes from the system
//! assert!(url.to_string().starts_with("https://as.example/authorize?response_type=code&client_id=app"));
//! let stored = pending.to_json(); // store it until the redirect arrives
//!
//! let pending = PendingAuthorization::from_json(stored.expose())?;
//! let redirect = format!("https://app.example/callback?code=Splx&state={}&iss=https://as.example", pending.state());
//! let operation = client.token(pending.receive(&redirect)?)?; // a driver runs it, and returns the token
//! # let _ = operation;
//! # Ok(())
//! # }
//! ```

use http::Uri;
use ring::digest::{SHA256, digest};
use ring::hmac;
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use crate::jose;
use crate::oauth::client::{Client, required};
use crate::oauth::grant::{Grant, Scope, checked_resource};
use crate::oauth::{issuer::Server, step_up::StepUp};
use crate::request::operation::{FromResponse, Operation, SuccessResponse, sealed};
use crate::types::endpoint::{Endpoint, is_loopback, scheme};
use crate::types::error::{AuthorizationError, InvalidResponseKind, ParseError, RedirectError};
use crate::types::secret::{Secret, SecretBytes};
use crate::types::{escape::form_pairs, input::InvalidInput};
use crate::wire::error_response::sanitize;
use crate::wire::json::{JsonObject, JsonValue};
use crate::wire::params::{BodyFormat, Params};

/// The maximum length of a redirect, in bytes: 64 KiB.
const MAX_REDIRECT: usize = 64 * 1024;

impl Client {
    /// Starts an authorization request (RFC 6749 §4.1.1) with PKCE (RFC 7636, method S256). If the
    /// client has a key, the request includes `dpop_jkt` (RFC 9449 §10).
    ///
    /// `redirect_uri` is the registered URI to which the authorization server redirects the user's
    /// browser.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the client has no [authorization
    /// endpoint](Self::authorization_endpoint) or no client id, or if `redirect_uri` is not
    /// absolute, has a fragment, has spaces or characters outside printable ASCII, or is plain
    /// `http` with a host other than loopback (RFC 9700 §2.6).
    #[doc(alias("pkce", "login"))]
    pub fn authorization(&self, redirect_uri: &str) -> Result<AuthorizationBuilder, InvalidInput> {
        let endpoint = self.0.authorization_endpoint.as_ref();
        let endpoint = required(endpoint, "authorization_endpoint")?;
        let missing = InvalidInput::new("client_id", "must be set for an authorization request");
        let client_id = self.0.options.auth.id().ok_or(missing)?;
        let redirect_uri = checked_redirect_uri(redirect_uri)?;
        let mut params = Params::new("response_type", "code")
            .and("client_id", client_id.to_owned())
            .and("redirect_uri", redirect_uri.clone());
        if let Some(key) = self.key() {
            params = params.and("dpop_jkt", key.thumbprint().to_owned());
        }
        Ok(AuthorizationBuilder {
            client: self.clone(),
            endpoint,
            redirect_uri,
            params,
            scope: None,
        })
    }
}

/// Builds an authorization request. Returned by [`Client::authorization`].
#[derive(Clone, Debug)]
#[must_use]
pub struct AuthorizationBuilder {
    client: Client,
    endpoint: Endpoint,
    redirect_uri: String,
    params: Params,
    scope: Option<Scope>,
}

impl AuthorizationBuilder {
    /// Sets the `scope` parameter of the request (RFC 6749 §3.3). If it contains `openid`, the
    /// request also has a `nonce` (OpenID Connect Core §3.1.2.1).
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Adds a `resource` parameter (RFC 8707 §2): the absolute URI of a resource where the token
    /// will be used. It is sent in the authorization request and in the token request. Can be
    /// called more than once.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `uri` is not an absolute URI or has a fragment.
    pub fn resource(self, uri: &str) -> Result<Self, InvalidInput> {
        self.param("resource", checked_resource(uri)?)
    }

    /// Requests the authentication that a resource server requires beyond the token (RFC 9470 §4):
    /// adds its `acr_values` and `max_age`. Uses its scope too, unless a scope was already set.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `acr_values` or `max_age` was already added.
    pub fn step_up(mut self, challenge: &StepUp) -> Result<Self, InvalidInput> {
        if let Some(acr_values) = challenge.acr_values() {
            self.params.push("acr_values", acr_values.to_owned())?;
        }
        if let Some(max_age) = challenge.max_age() {
            self.params.push("max_age", max_age.as_secs().to_string())?;
        }
        self.scope = self.scope.or_else(|| challenge.scope().cloned());
        Ok(self)
    }

    /// Adds a further parameter to the request, such as `prompt`, `login_hint` or `audience`.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the name is empty, or if the parameter was already added. Only
    /// `resource` and `audience` may occur more than once.
    pub fn param(mut self, name: &str, value: &str) -> Result<Self, InvalidInput> {
        self.params.push(name.to_owned(), value.to_owned())?;
        Ok(self)
    }

    /// Returns whether the client has an endpoint for [pushed](Self::push) authorization requests.
    pub fn can_be_pushed(&self) -> bool {
        let endpoint = &self.client.0.pushed_authorization_request_endpoint;
        endpoint.is_some()
    }

    /// Returns the URL for the user's browser, and the pending authorization that validates the
    /// redirect.
    ///
    /// `entropy` is 32 fresh bytes from a cryptographically secure random source. `state`,
    /// `code_verifier` and `nonce` are derived from them.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if a [further parameter](Self::param) is one that the request sets
    /// itself, or if the URL is longer than 64 KiB.
    pub fn build(self, entropy: [u8; 32]) -> Result<AuthorizationRequest, InvalidInput> {
        let (endpoint, (params, pending)) = (self.endpoint.clone(), self.finish(entropy)?);
        let url = with_query(&endpoint, &params)?;
        Ok(AuthorizationRequest { url, pending })
    }

    /// Sends all parameters to the authorization server before the redirect (PAR, RFC 9126). The
    /// client authenticates and proves possession of its key, if it has one. The URL for the user's
    /// browser then contains only a reference to the parameters, which typically expires after
    /// about a minute.
    ///
    /// `entropy` is the same as for [`build`](Self::build).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the client has no [pushed authorization request
    /// endpoint](Client::pushed_authorization_request_endpoint), or if a [further
    /// parameter](Self::param) is one that the request sets itself.
    pub fn push(self, entropy: [u8; 32]) -> Result<Operation<AuthorizationRequest>, InvalidInput> {
        let (client, endpoint) = (self.client.clone(), self.endpoint.clone());
        let par_endpoint = client.0.pushed_authorization_request_endpoint.as_ref();
        let par_endpoint = required(par_endpoint, "pushed_authorization_request_endpoint")?;
        let (params, pending) = self.finish(entropy)?;
        let client_id = params.get("client_id").unwrap_or_default().to_owned();
        let expected = (endpoint, client_id, pending);
        Ok(client.post(par_endpoint, params, client.key(), expected))
    }

    /// Returns all parameters of the request, and the pending authorization.
    fn finish(self, entropy: [u8; 32]) -> Result<(Params, PendingAuthorization), InvalidInput> {
        let mut params = self.params;
        let has_openid = |scope: &Scope| scope.iter().any(|token| token == "openid");
        let pending = PendingAuthorization(StoredAuthorization {
            seed: SecretBytes::new(entropy.to_vec()),
            redirect_uri: self.redirect_uri,
            server: self.client.server(),
            resources: params.all("resource").map(str::to_owned).collect(),
            require_iss: self.client.0.require_iss,
            openid: self.scope.as_ref().is_some_and(has_openid),
        });
        if let Some(scope) = self.scope {
            params.push("scope", scope.0)?;
        }
        let challenge = digest(&SHA256, pending.code_verifier().expose().as_bytes());
        params.push("state", pending.state())?;
        params.push("code_challenge", jose::encode(challenge.as_ref()))?;
        params.push("code_challenge_method", "S256")?;
        if let Some(nonce) = pending.nonce() {
            params.push("nonce", nonce)?;
        }
        Ok((params, pending))
    }
}

/// Appends the parameters to the endpoint URL. An existing query is preserved (RFC 6749 §3.1).
fn with_query(endpoint: &Endpoint, params: &Params) -> Result<Uri, InvalidInput> {
    let query = params.encode(BodyFormat::Form);
    let query = String::from_utf8_lossy(query.as_ref());
    let separator = endpoint.uri().query().map_or('?', |_| '&');
    let url = format!("{endpoint}{separator}{query}").parse();
    url.map_err(|_| InvalidInput::new("url", "must not be longer than 64 KiB"))
}

/// The URL of an authorization request, and the pending authorization that validates its redirect.
#[must_use]
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "callers destructure it")]
pub struct AuthorizationRequest {
    /// The URL for the user's browser. Navigate to it; never fetch it.
    pub url: Uri,
    /// The pending authorization. Store it until the redirect arrives: it validates the redirect
    /// and contains the `code_verifier` for the token request.
    pub pending: PendingAuthorization,
}

impl sealed::Sealed for AuthorizationRequest {}

/// Parses a response of RFC 9126 §2.2.
impl FromResponse for AuthorizationRequest {
    /// The authorization endpoint, the client id, and the pending authorization.
    type Expected = (Endpoint, String, PendingAuthorization);

    fn parse(success: &SuccessResponse<'_>, expected: &Self::Expected) -> Result<Self, ParseError> {
        let (endpoint, client_id, pending) = expected;
        let members = JsonObject::parse_response(success.body, "request_uri")?;
        let reference = members.required_str("request_uri")?.into_owned();
        let params = Params::new("client_id", client_id.clone()).and("request_uri", reference);
        let invalid = |_| InvalidResponseKind::InvalidMember("request_uri");
        let url = with_query(endpoint, &params).map_err(invalid)?;
        let pending = pending.clone();
        Ok(Self { url, pending })
    }
}

/// An authorization request that waits for its redirect. Store it as [JSON](Self::to_json) in a
/// session, or in a cookie of the user's browser (`Secure`, `HttpOnly`, `SameSite=Lax`, or `None`
/// for `response_mode=form_post`).
///
/// [`receive`](Self::receive) doesn't consume it, because anyone can forge a redirect. Discard it
/// once it has returned a grant.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingAuthorization(StoredAuthorization);

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct StoredAuthorization {
    /// The 32 bytes from which the request's random values are derived.
    #[serde(serialize_with = "serialize_seed")]
    seed: SecretBytes,
    redirect_uri: String,
    server: Server,
    /// The `resource` parameters of the token request (RFC 8707 §2.2).
    resources: Vec<String>,
    require_iss: bool,
    /// Whether the request has a `nonce`.
    openid: bool,
}

impl StoredAuthorization {
    fn parse(json: &str) -> Option<Self> {
        let members = JsonObject::parse(json.as_bytes()).ok()?;
        let flag = |name| members.get(name).and_then(JsonValue::as_bool);
        let seed = jose::decode(&Zeroizing::new(members.str("seed")?.into_owned()));
        let seed = seed.map(SecretBytes::new);
        Some(Self {
            seed: seed.filter(|seed| seed.expose().len() == 32)?,
            redirect_uri: members.str("redirect_uri")?.into_owned(),
            server: Server::read(&members.get("server")?.as_object()?)?,
            resources: members.get("resources")?.texts()?.map(Into::into).collect(),
            require_iss: flag("require_iss")?,
            openid: flag("openid")?,
        })
    }
}

impl PendingAuthorization {
    /// Serializes the pending authorization as JSON. The result is a secret: with it, an attacker
    /// who sees the redirect can redeem the code.
    pub fn to_json(&self) -> Secret {
        // Serializing strings and booleans to memory never fails.
        Secret::new(serde_json::to_string(&self.0).unwrap_or_default())
    }

    /// Parses the JSON returned by [`to_json`](Self::to_json).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `json` is anything else.
    pub fn from_json(json: &str) -> Result<Self, InvalidInput> {
        let stored = StoredAuthorization::parse(json).map(Self);
        stored.ok_or(InvalidInput::StoredState {
            name: "authorization",
            rule: "must be the JSON that `PendingAuthorization::to_json` returned",
        })
    }

    /// Returns the `state` of the request, which distinguishes its redirect from those of other
    /// pending requests.
    pub fn state(&self) -> String {
        self.derive("state")
    }

    /// Returns the `state` of a redirect (RFC 6749 §4.1.2). An application with several pending
    /// authorizations compares it with their [`state`](Self::state) to find the matching one.
    /// `redirect` has the same forms as for [`receive`](Self::receive). Anyone can forge a
    /// redirect, so the result proves nothing.
    ///
    /// # Errors
    /// Returns [`RedirectError`] if the redirect is too long or has a duplicate parameter.
    pub fn state_of(redirect: &str) -> Result<Option<String>, RedirectError> {
        let [state, ..] = response_params(redirect)?;
        Ok(state)
    }

    /// Returns the `nonce` that the ID token must contain, or `None` if the scope `openid` was not
    /// requested.
    pub fn nonce(&self) -> Option<String> {
        self.0.openid.then(|| self.derive("nonce"))
    }

    /// Returns the issuer of the authorization server, if the client had one. [`Client::token`]
    /// accepts the grant only from a client with the same issuer. If one of the clients has no
    /// issuer, both must have the same token endpoint.
    pub fn issuer(&self) -> Option<&str> {
        self.0.server.issuer.as_deref()
    }

    /// Parses and validates a redirect: its complete URL, its query alone, or the form sent by
    /// `response_mode=form_post`.
    ///
    /// Returns the single-use grant for the token request. The grant includes the
    /// [resources](AuthorizationBuilder::resource) of the authorization request.
    ///
    /// # Errors
    /// Returns [`RedirectError::Denied`] if the authorization server reported an error. Returns
    /// another [`RedirectError`] if the redirect is too long, has a duplicate parameter, doesn't
    /// belong to this request, or has no code.
    pub fn receive(&self, redirect: &str) -> Result<Grant, RedirectError> {
        let [state, iss, error, description, uri, code] = response_params(redirect)?;
        if !state.is_some_and(|state| self.verify("state", &state)) {
            return Err(RedirectError::StateMismatch);
        }
        let is_own = |iss: String| self.issuer().is_none_or(|issuer| issuer == iss);
        if !iss.map_or(!self.0.require_iss, is_own) {
            return Err(RedirectError::IssuerMismatch);
        }
        if let Some(error) = error.filter(|error| !error.is_empty()) {
            let sanitized = |text: String| sanitize(&text);
            return Err(RedirectError::Denied(AuthorizationError {
                code: sanitized(error),
                description: description.map(sanitized),
                uri: uri.map(sanitized),
            }));
        }
        let code = code.filter(|code| !code.is_empty());
        // RFC 6749 §4.1.3, RFC 7636 §4.5.
        let mut grant = Grant::new("authorization_code")
            .with("code", Secret::new(code.ok_or(RedirectError::NoCode)?))
            .with("redirect_uri", self.0.redirect_uri.clone())
            .with("code_verifier", self.code_verifier());
        for uri in &self.0.resources {
            grant = grant.with("resource", uri.clone());
        }
        grant.server = Some(self.0.server.clone());
        Ok(grant)
    }

    /// Returns the `code_verifier` (RFC 7636 §4.1): 43 characters that encode 256 bits.
    fn code_verifier(&self) -> Secret {
        Secret::new(self.derive("code_verifier"))
    }

    /// Returns a random value of the request: an HMAC keyed with the seed, so it can't be derived
    /// from the other values.
    fn derive(&self, name: &str) -> String {
        jose::encode(hmac::sign(&self.key(), name.as_bytes()).as_ref())
    }

    /// Returns whether `value` equals the result of [`derive`](Self::derive) for `name`. Compares
    /// in constant time.
    fn verify(&self, name: &str, value: &str) -> bool {
        let tag = jose::decode(value);
        tag.is_some_and(|tag| hmac::verify(&self.key(), name.as_bytes(), &tag).is_ok())
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, self.0.seed.expose())
    }
}

fn serialize_seed<S: Serializer>(seed: &SecretBytes, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&Zeroizing::new(jose::encode(seed.expose())))
}

/// The parameters of a redirect (RFC 6749 §4.1.2, RFC 9207 §2).
const RESPONSE_PARAMS: [&str; 6] = [
    "state",
    "iss",
    "error",
    "error_description",
    "error_uri",
    "code",
];

/// Returns the values of [`RESPONSE_PARAMS`] in a redirect, in that order.
fn response_params(redirect: &str) -> Result<[Option<String>; 6], RedirectError> {
    if redirect.len() > MAX_REDIRECT {
        return Err(RedirectError::TooLong);
    }
    let mut params = <[Option<String>; 6]>::default();
    for (name, value) in form_pairs(query(redirect)) {
        let mut slots = RESPONSE_PARAMS.iter().zip(&mut params);
        let Some((known, slot)) = slots.find(|(known, _)| **known == name) else {
            continue;
        };
        if slot.replace(value).is_some() {
            return Err(RedirectError::DuplicateParameter(known));
        }
    }
    Ok(params)
}

/// Returns the query of a URL or of a path. Any other text is already a query and is returned
/// unchanged.
fn query(redirect: &str) -> &str {
    let redirect = redirect.split('#').next().unwrap_or_default();
    let is_url = redirect.starts_with('/') || scheme(redirect).is_some();
    match redirect.split_once('?') {
        Some((before, query)) if is_url || before.is_empty() => query,
        None if is_url => "",
        _ => redirect,
    }
}

/// Validates a redirect URI: `https`, loopback `http`, and private-use schemes (RFC 8252 §7).
fn checked_redirect_uri(uri: &str) -> Result<String, InvalidInput> {
    let invalid = |rule| Err(InvalidInput::new("redirect_uri", rule));
    if uri.contains('#') {
        return invalid("must not have a fragment");
    }
    if uri.bytes().any(|byte| !matches!(byte, 0x21..=0x7E)) {
        return invalid("must be made of printable ASCII without spaces");
    }
    match scheme(uri) {
        None => invalid("must be an absolute URI"),
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => match uri.parse::<Uri>() {
            Ok(parsed) if parsed.host().is_some_and(is_loopback) => Ok(uri.to_owned()),
            _ => invalid("must not be http:// unless the host is loopback"),
        },
        Some(_) => Ok(uri.to_owned()),
    }
}
