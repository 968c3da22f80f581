//! The authorization code grant (RFC 6749 §4.1) with PKCE (RFC 7636): a person is sent to the authorization server, and
//! comes back with a code.
//!
//! ```
//! use keybound_core::jose::{Algorithm, SigningKey};
//! use keybound_core::*;
//! use keybound_core::driver::*;
//!
//! # fn main() -> Result<(), Error> {
//! let key = SigningKey::generate(Algorithm::Es256)?;
//! let client = Client::new(Endpoint::https("https://as.example/token")?, ClientAuth::none("app")?)
//!     .authorization_endpoint(Endpoint::https("https://as.example/authorize")?)
//!     .issuer(Issuer::https("https://as.example")?)
//!     .dpop(key.public().clone());
//! let builder = client.authorization("https://app.example/callback")?.scope(Scope::new("accounts")?);
//! let AuthorizationRequest { url, pending } = builder.build([7; 32])?; // entropy, from the system
//! assert!(url.to_string().starts_with("https://as.example/authorize?response_type=code&client_id=app"));
//! let kept = pending.to_json(); // in the session, until the person is back
//!
//! let pending = PendingAuthorization::from_json(kept.expose())?;
//! let redirect = format!("https://app.example/callback?code=Splx&state={}&iss=https://as.example", pending.state());
//! let exchange = client.token(pending.receive(&redirect)?)?;
//! let now = UnixTime::from_secs(1_800_000_000);
//! let signing = exchange.prepare(&ServerState::new(), RequestContext::new(now, [1; 16]))?;
//! let PreparedRequest { request: _, pending } = signing.finish(|request| key.sign(request))?;
//! let answer = http::Response::new(r#"{"access_token":"abc","token_type":"DPoP"}"#);
//! assert!(matches!(pending.receive(answer, &mut ServerState::new(), now)?, Step::Done(_)));
//! # Ok(())
//! # }
//! ```

use std::fmt;

use http::Uri;
use ring::digest::{SHA256, digest};
use ring::hmac;
use serde::{Serialize, Serializer};
use zeroize::Zeroizing;

use crate::jose;
use crate::oauth::client::Client;
use crate::oauth::grant::{Grant, Scope, checked_resource};
use crate::oauth::issuer::Server;
use crate::oauth::step_up::StepUp;
use crate::request::operation::Operation;
use crate::request::retry::RetrySafety;
use crate::types::endpoint::{Endpoint, is_loopback, scheme};
use crate::types::error::{AuthorizationError, InvalidResponseKind, RedirectError};
use crate::types::escape::form_pairs;
use crate::types::input::InvalidInput;
use crate::types::secret::Secret;
use crate::wire::error_response::sanitize;
use crate::wire::json::{JsonObject, JsonValue};
use crate::wire::params::{BodyFormat, Params};

/// The longest redirect that is read.
const MAX_REDIRECT: usize = 64 * 1024;

impl Client {
    /// Begins an authorization request (RFC 6749 §4.1.1) with PKCE (RFC 7636, S256), and with `dpop_jkt` (RFC 9449 §10)
    /// where this client has a key. `redirect_uri` is where the person will come back, as it is registered.
    ///
    /// # Errors
    /// `InvalidInput` without an [authorization endpoint](Self::authorization_endpoint) or a client id, for a redirect URI that
    /// isn't absolute or has a fragment, and for plain `http` beyond this machine (RFC 9700 §2.6).
    pub fn authorization(&self, redirect_uri: &str) -> Result<AuthorizationBuilder, InvalidInput> {
        let endpoint = self
            .0
            .authorization_endpoint
            .clone()
            .ok_or(InvalidInput::new(
                "authorization_endpoint",
                "must be set before anybody can be sent there",
            ))?;
        let client_id = self
            .0
            .options
            .auth
            .id()
            .ok_or(InvalidInput::new("client_id", "must be known"))?;
        let redirect_uri = checked_redirect_uri(redirect_uri)?;
        let mut fields = Params::new("response_type", "code")
            .and("client_id", client_id.to_owned())
            .and("redirect_uri", redirect_uri.clone());
        if let Some(key) = &self.0.key {
            fields = fields.and("dpop_jkt", key.thumbprint().to_owned());
        }
        Ok(AuthorizationBuilder {
            client: self.clone(),
            endpoint,
            redirect_uri,
            params: fields,
            scope: None,
        })
    }
}

/// An authorization request in the making.
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
    /// `scope` (RFC 6749 §3.3). With `openid` in it, the request has a `nonce` (OpenID Connect Core §3.1.2.1).
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// `resource` (RFC 8707 §2): where the token is to be used, as an absolute URI. There may be several.
    ///
    /// # Errors
    /// `InvalidInput` for anything else, and for a fragment.
    pub fn resource(self, uri: &str) -> Result<Self, InvalidInput> {
        self.param("resource", checked_resource(uri)?)
    }

    /// What a resource server asks for beyond the token (RFC 9470 §4): `acr_values` and `max_age`, and the scope that it
    /// names where none is set here.
    ///
    /// # Errors
    /// `InvalidInput` if one of them was given before.
    pub fn step_up(mut self, wanted: &StepUp) -> Result<Self, InvalidInput> {
        if let Some(acr_values) = wanted.acr_values() {
            self.params.push("acr_values", acr_values.to_owned())?;
        }
        if let Some(max_age) = wanted.max_age() {
            self.params.push("max_age", max_age.as_secs().to_string())?;
        }
        self.scope = self.scope.or_else(|| wanted.scope().cloned());
        Ok(self)
    }

    /// A further parameter: `prompt`, `login_hint`, `audience`, …
    ///
    /// # Errors
    /// `InvalidInput` if it was given before.
    pub fn param(mut self, name: &str, value: &str) -> Result<Self, InvalidInput> {
        self.params.push(name.to_owned(), value.to_owned())?;
        Ok(self)
    }

    /// The URL for the person's browser, and what will read the redirect. `entropy` is 32 fresh bytes from a
    /// cryptographically secure source: state, verifier and nonce are derived from them.
    ///
    /// # Errors
    /// `InvalidInput` if a further parameter is one that the request has by itself, or the URL is longer than 64 KiB.
    pub fn build(self, entropy: [u8; 32]) -> Result<AuthorizationRequest, InvalidInput> {
        let (endpoint, (fields, pending)) = (self.endpoint.clone(), self.finish(entropy)?);
        Ok(AuthorizationRequest {
            url: with_query(&endpoint, &fields)?,
            pending,
        })
    }

    /// The same, but all parameters go to the server first (PAR, RFC 9126), where the client authenticates itself and
    /// proves its key; the person's browser gets no more than a reference to them, which is good for a minute or so.
    ///
    /// # Errors
    /// `InvalidInput` without a [pushed authorization request endpoint](Client::pushed_authorization_request_endpoint), or if a
    /// further parameter is one that the request has by itself.
    pub fn push(self, entropy: [u8; 32]) -> Result<Operation<AuthorizationRequest>, InvalidInput> {
        let pushed_to = self.client.0.pushed_authorization_request_endpoint.clone();
        let pushed_to = pushed_to.ok_or(InvalidInput::new(
            "pushed_authorization_request_endpoint",
            "must be set for this",
        ))?;
        let (client, endpoint) = (self.client.clone(), self.endpoint.clone());
        let (fields, pending) = self.finish(entropy)?;
        let client_id = fields.get("client_id").unwrap_or_default().to_owned();
        let ask = client.endpoint_request(
            pushed_to,
            fields,
            client.0.key.as_ref(),
            RetrySafety::Idempotent,
        );
        Ok(Operation::new(ask, move |success| {
            let members = JsonObject::parse_response(success.body, "request_uri")?;
            let reference = members.required_str("request_uri")?.into_owned();
            let fields = Params::new("client_id", client_id.clone()).and("request_uri", reference);
            let url = with_query(&endpoint, &fields)
                .map_err(|_| InvalidResponseKind::InvalidMember("request_uri"))?;
            Ok(AuthorizationRequest {
                url,
                pending: pending.clone(),
            })
        }))
    }

    /// All parameters, and what must be kept of them.
    fn finish(self, entropy: [u8; 32]) -> Result<(Params, PendingAuthorization), InvalidInput> {
        let Self {
            client,
            redirect_uri,
            mut params,
            scope,
            ..
        } = self;
        let pending = PendingAuthorization(StoredAuthorization {
            seed: Seed(Zeroizing::new(entropy)),
            redirect_uri,
            server: client.server(),
            resources: params.all("resource").map(str::to_owned).collect(),
            iss_required: client.0.require_iss,
            openid: scope
                .as_ref()
                .is_some_and(|scope| scope.iter().any(|token| token == "openid")),
        });
        if let Some(scope) = scope {
            params.push("scope", scope.0)?;
        }
        pending.add_to(&mut params)?;
        Ok((params, pending))
    }
}

/// A query that the endpoint has by itself stays (RFC 6749 §3.1).
fn with_query(endpoint: &Endpoint, fields: &Params) -> Result<Uri, InvalidInput> {
    let query = fields.encode(BodyFormat::Form);
    let query = String::from_utf8_lossy(query.as_ref());
    let joint = if endpoint.uri().query().is_some() {
        '&'
    } else {
        '?'
    };
    let url = format!("{endpoint}{joint}{query}").parse();
    url.map_err(|_| InvalidInput::new("url", "must not be longer than 64 KiB"))
}

/// Where to send the person, and what will read the redirect that brings them back.
#[must_use]
#[derive(Clone, Debug)]
#[expect(
    clippy::exhaustive_structs,
    reason = "whoever sends the person takes it apart"
)]
pub struct AuthorizationRequest {
    /// For the person's browser: to be navigated to, never fetched.
    pub url: Uri,
    /// To be kept until the person is back.
    pub pending: PendingAuthorization,
}

/// An authorization request whose person is away. It can wait in a session, or in a cookie of the person's browser
/// (`Secure`, `HttpOnly`, `SameSite=Lax`), as [JSON](Self::to_json).
///
/// It is not consumed by a redirect, since that may be anybody's; forget it when it has brought a grant.
#[must_use]
#[derive(Clone)]
pub struct PendingAuthorization(StoredAuthorization);

#[derive(Clone, Debug, Serialize)]
struct StoredAuthorization {
    seed: Seed,
    redirect_uri: String,
    server: Server,
    /// Where the token is to be used (RFC 8707 §2.2).
    resources: Vec<String>,
    iss_required: bool,
    /// Whether there is a `nonce`.
    openid: bool,
}

impl StoredAuthorization {
    fn read(members: &JsonObject<'_>) -> Option<Self> {
        let flag = |name| members.get(name).and_then(JsonValue::as_bool);
        Some(Self {
            seed: Seed::read(&Zeroizing::new(members.str("seed")?.into_owned()))?,
            redirect_uri: members.str("redirect_uri")?.into_owned(),
            server: Server::read(&members.get("server")?.as_object()?)?,
            resources: members.get("resources")?.texts()?.map(Into::into).collect(),
            iss_required: flag("iss_required")?,
            openid: flag("openid")?,
        })
    }
}

impl PendingAuthorization {
    /// All of it as JSON. A secret: whoever has it and sees the redirect can take the code.
    pub fn to_json(&self) -> Secret {
        // Texts and flags, written to memory, can't fail.
        Secret::new(serde_json::to_string(&self.0).unwrap_or_default())
    }

    /// What [`to_json`](Self::to_json) wrote.
    ///
    /// # Errors
    /// `InvalidInput` for anything else.
    pub fn from_json(json: &str) -> Result<Self, InvalidInput> {
        let kept = JsonObject::parse(json.as_bytes())
            .ok()
            .and_then(|members| StoredAuthorization::read(&members));
        kept.map(Self).ok_or(InvalidInput::new(
            "authorization",
            "must be what `PendingAuthorization::to_json` wrote",
        ))
    }

    /// `state`: by it a redirect is told from those of other requests that are pending.
    pub fn state(&self) -> String {
        self.0.seed.derive("state")
    }

    /// `nonce`, which the id token must carry; where `openid` was asked for.
    pub fn nonce(&self) -> Option<String> {
        self.0.openid.then(|| self.0.seed.derive("nonce"))
    }

    /// The issuer that was asked. [`Client::token`] takes the grant from a client of the same issuer alone, or of the same
    /// token endpoint where one of the clients names no issuer.
    pub fn issuer(&self) -> Option<&str> {
        self.0.server.issuer()
    }

    /// Reads a redirect: its whole URL, its query alone, or the form that `response_mode=form_post` sends. What comes
    /// of it is the grant for the token request, good for once. It has the [resources](AuthorizationBuilder::resource) of the
    /// authorization request.
    ///
    /// # Errors
    /// Why there is no code: the server's word for it, or that the redirect isn't this request's answer.
    pub fn receive(&self, redirect: &str) -> Result<Grant, RedirectError> {
        let answer = AuthorizationResponse::read(redirect)?;
        if !answer
            .state
            .is_some_and(|state| self.0.seed.is_behind("state", &state))
        {
            return Err(RedirectError::StateMismatch);
        }
        let issuer_is_right = match (answer.iss.as_deref(), self.issuer()) {
            (Some(iss), Some(issuer)) => iss == issuer,
            (Some(_), None) => true,
            (None, _) => !self.0.iss_required,
        };
        if !issuer_is_right {
            return Err(RedirectError::IssuerMismatch);
        }
        if let Some(error) = answer.error.filter(|error| !error.is_empty()) {
            let tidy = |text: String| sanitize(&text);
            return Err(RedirectError::Denied(AuthorizationError {
                code: tidy(error),
                description: answer.error_description.map(tidy),
                uri: answer.error_uri.map(tidy),
            }));
        }
        let code = answer
            .code
            .filter(|code| !code.is_empty())
            .ok_or(RedirectError::NoCode)?;
        let StoredAuthorization {
            redirect_uri,
            server,
            resources,
            ..
        } = &self.0;
        let grant = Grant::authorization_code(
            Secret::new(code),
            redirect_uri.clone(),
            self.code_verifier(),
        );
        let mut grant = grant.begun_at(server.clone());
        for uri in resources {
            grant.params = grant.params.and("resource", uri.clone());
        }
        Ok(grant)
    }

    /// What the authorization request says of this.
    fn add_to(&self, fields: &mut Params) -> Result<(), InvalidInput> {
        let challenge = digest(&SHA256, self.code_verifier().expose().as_bytes());
        fields.push("state", self.state())?;
        fields.push("code_challenge", jose::encode(challenge.as_ref()))?;
        fields.push("code_challenge_method", "S256")?;
        self.nonce()
            .map_or(Ok(()), |nonce| fields.push("nonce", nonce))
    }

    /// `code_verifier` (RFC 7636 §4.1): 43 characters with 256 bits.
    fn code_verifier(&self) -> Secret {
        Secret::new(self.0.seed.derive("code_verifier"))
    }
}

impl fmt::Debug for PendingAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("PendingAuthorization")
            .field(&self.0)
            .finish()
    }
}

/// Where the request's random values come from. Nobody can guess one of them who doesn't know this, even if they
/// know the others.
#[derive(Clone)]
struct Seed(Zeroizing<[u8; 32]>);

impl Seed {
    fn derive(&self, name: &str) -> String {
        jose::encode(hmac::sign(&self.key(), name.as_bytes()).as_ref())
    }

    /// Whether this is what [`derive`](Self::derive) makes of the name, told in constant time.
    fn is_behind(&self, name: &str, value: &str) -> bool {
        jose::decode(value)
            .is_some_and(|tag| hmac::verify(&self.key(), name.as_bytes(), &tag).is_ok())
    }

    fn read(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(jose::decode(text)?);
        Some(Self(Zeroizing::new(bytes.as_slice().try_into().ok()?)))
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &*self.0)
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Seed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&Zeroizing::new(jose::encode(&*self.0)))
    }
}

/// The parameters of a redirect (RFC 6749 §4.1.2, RFC 9207 §2).
#[derive(Default)]
struct AuthorizationResponse {
    code: Option<String>,
    state: Option<String>,
    iss: Option<String>,
    error: Option<String>,
    error_description: Option<String>,
    error_uri: Option<String>,
}

impl AuthorizationResponse {
    fn read(redirect: &str) -> Result<Self, RedirectError> {
        if redirect.len() > MAX_REDIRECT {
            return Err(RedirectError::TooLong);
        }
        let mut answer = Self::default();
        for (name, value) in form_pairs(query(redirect)) {
            let (name, slot) = match name.as_str() {
                "code" => ("code", &mut answer.code),
                "state" => ("state", &mut answer.state),
                "iss" => ("iss", &mut answer.iss),
                "error" => ("error", &mut answer.error),
                "error_description" => ("error_description", &mut answer.error_description),
                "error_uri" => ("error_uri", &mut answer.error_uri),
                _ => continue,
            };
            if slot.replace(value).is_some() {
                return Err(RedirectError::DuplicateParameter(name));
            }
        }
        Ok(answer)
    }
}

/// The query of a URL or of a path; any other text is a query already.
fn query(redirect: &str) -> &str {
    let redirect = redirect
        .split_once('#')
        .map_or(redirect, |(before, _)| before);
    let is_url = redirect.starts_with('/') || scheme(redirect).is_some();
    match redirect.split_once('?') {
        Some((before, query)) if is_url || before.is_empty() => query,
        None if is_url => "",
        _ => redirect,
    }
}

/// Web, loopback and private-use URIs (RFC 8252 §7).
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
            _ => invalid("must not be http:// but for a loopback host"),
        },
        Some(_) => Ok(uri.to_owned()),
    }
}
