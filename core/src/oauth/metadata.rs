//! What an authorization server says of itself (RFC 8414, OpenID Connect Discovery 1.0).
//!
//! ```
//! use keybound_core::jose::{Algorithm, SigningKey};
//! use keybound_core::*;
//! use keybound_core::driver::*;
//!
//! # fn main() -> Result<(), Error> {
//! let exchange = Issuer::https("https://as.example/tenant")?.discover()?;
//! let now = UnixTime::from_secs(1_800_000_000);
//! let Signing::Ready(out) = exchange.prepare(&ServerState::new(), RequestContext::new(now, [1; 16]))? else { panic!() };
//! assert_eq!(out.request.uri(), "https://as.example/.well-known/oauth-authorization-server/tenant");
//!
//! let answer = http::Response::new(
//!     r#"{"issuer":"https://as.example/tenant","token_endpoint":"https://as.example/tenant/token",
//!         "dpop_signing_alg_values_supported":["ES256","Ed25519"]}"#,
//! );
//! let Step::Done(metadata) = out.pending.receive(answer, &mut ServerState::new(), now)? else { panic!() };
//! let key = SigningKey::generate(Algorithm::EdDsa)?;
//! let bound = metadata.dpop_key(key.public())?; // under the name that this server knows
//! assert_eq!(bound.algorithm(), Algorithm::Ed25519);
//! let client = metadata.client(ClientAuth::none("app")?)?.dpop(bound);
//! # let _ = client;
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::jose::{Algorithm, PublicJwk};
use crate::oauth::client::Client;
use crate::oauth::issuer::Issuer;
use crate::request::client_auth::ClientAuth;
use crate::request::operation::{EndpointRequest, FlowFailure, Operation, SuccessResponse};
use crate::request::retry::RetrySafety;
use crate::types::endpoint::Endpoint;
use crate::types::error::{InvalidResponseKind, ParseError};
use crate::types::input::InvalidInput;
use crate::wire::json::JsonObject;
use crate::wire::json_object::OwnedJsonObject;

impl Issuer {
    /// Asks for the issuer's metadata: at the URL of RFC 8414 §3.1, and where nothing is there, at those of OpenID
    /// Connect (Discovery 1.0 §4.1, RFC 8414 §5). Nothing is proven and nobody authenticated; no redirection is followed.
    ///
    /// # Errors
    /// None but for an identifier too long to be part of a URL.
    pub fn discover(&self) -> Result<Operation<Metadata>, InvalidInput> {
        let [first, second, third] = self.metadata_urls()?;
        let third = Some(third).filter(|third| *third != second);
        let mut others = [Some(second), third].into_iter().flatten();
        let ask = EndpointRequest {
            endpoint: first,
            client_request: None,
            retry_safety: RetrySafety::Idempotent,
        };
        let issuer = self.clone();
        let exchange = Operation::new(ask, move |success| Metadata::read(success, &issuer));
        Ok(exchange.on_failure(move |setback, ask, _| {
            let is_absent = match setback {
                // Most say 404, some 403 or 400.
                FlowFailure::Refusal(refusal) => {
                    refusal.status().is_client_error() && !refusal.is_transient()
                }
                // Some have a page for everything, or a login before everything.
                FlowFailure::Unreadable(why) => matches!(
                    why,
                    InvalidResponseKind::NotJson { .. } | InvalidResponseKind::Redirect
                ),
            };
            if !is_absent {
                return None;
            }
            ask.endpoint = others.next()?;
            Some(Duration::ZERO)
        }))
    }
}

/// An authorization server's metadata (RFC 8414 §2). Cloning it is cheap.
#[derive(Clone)]
pub struct Metadata(Arc<MetadataParts>);

struct MetadataParts {
    issuer: Issuer,
    endpoints: Vec<(&'static str, Endpoint)>,
    members: OwnedJsonObject,
}

const TOKEN_ENDPOINT: &str = "token_endpoint";

/// The members that must be URLs to which credentials, keys or people may go.
const ENDPOINTS: [&str; 8] = [
    "authorization_endpoint",
    TOKEN_ENDPOINT,
    "revocation_endpoint",
    "introspection_endpoint",
    "device_authorization_endpoint",
    "pushed_authorization_request_endpoint",
    "userinfo_endpoint",
    "jwks_uri",
];

impl Metadata {
    /// A client of this server, which knows all its endpoints and who it is.
    ///
    /// # Errors
    /// `InvalidInput` if the server has no token endpoint.
    pub fn client(&self, auth: ClientAuth) -> Result<Client, InvalidInput> {
        let endpoint = |name| self.endpoint(name).cloned();
        let token_endpoint = endpoint(TOKEN_ENDPOINT).ok_or(InvalidInput::new(
            "issuer",
            "must have a token endpoint; its metadata name none",
        ))?;
        let mut client = Client::new(token_endpoint, auth).issuer(self.0.issuer.clone());
        let parts = client.parts_mut();
        parts.authorization_endpoint = endpoint("authorization_endpoint");
        parts.revocation_endpoint = endpoint("revocation_endpoint");
        parts.introspection_endpoint = endpoint("introspection_endpoint");
        parts.device_authorization_endpoint = endpoint("device_authorization_endpoint");
        parts.pushed_authorization_request_endpoint =
            endpoint("pushed_authorization_request_endpoint");
        parts.require_iss = self.flag("authorization_response_iss_parameter_supported");
        Ok(client)
    }

    /// The key under the name that this server has for its algorithm (`dpop_signing_alg_values_supported`, RFC 9449
    /// §5.1); as it is, where the server doesn't tell.
    ///
    /// # Errors
    /// `InvalidInput` if the server takes proofs by none of the key's algorithms.
    pub fn dpop_key(&self, key: &PublicJwk) -> Result<PublicJwk, InvalidInput> {
        match self.list(DPOP_ALGS) {
            Some(algs) => key.select_algorithm(algs),
            None => Ok(key.clone()),
        }
    }

    /// The algorithms by which this server takes proofs and for which there are keys here, the best to offer first;
    /// `None` where the server doesn't tell.
    pub fn dpop_algorithms(&self) -> Option<Vec<Algorithm>> {
        let taken: Vec<&str> = self.list(DPOP_ALGS)?.collect();
        Some(
            Algorithm::ALL
                .iter()
                .copied()
                .filter(|algorithm| taken.contains(&algorithm.as_str()))
                .collect(),
        )
    }

    /// Who it is: exactly the issuer that was asked for.
    pub fn issuer(&self) -> &Issuer {
        &self.0.issuer
    }

    /// An endpoint, by the name of its member: `token_endpoint`, `introspection_endpoint`, `jwks_uri`, …
    pub fn endpoint(&self, member: &str) -> Option<&Endpoint> {
        self.0
            .endpoints
            .iter()
            .find(|(name, _)| *name == member)
            .map(|(_, endpoint)| endpoint)
    }

    /// A list of texts: `token_endpoint_auth_methods_supported`, `scopes_supported`, …; `None` where it isn't there.
    pub fn list(&self, member: &str) -> Option<impl Iterator<Item = &str>> {
        self.0.members.list(member)
    }

    /// A text, whatever it is about. It is the server's word, and no more: not a checked URL, for one.
    pub fn text(&self, member: &str) -> Option<&str> {
        self.0.members.text(member)
    }

    /// A yes or no; no where it isn't there.
    pub fn flag(&self, member: &str) -> bool {
        self.0.members.flag(member)
    }

    fn read(success: &SuccessResponse<'_>, issuer: &Issuer) -> Result<Self, ParseError> {
        let members = JsonObject::parse_response(success.body, "issuer")?;
        if members.str("issuer").as_deref() != Some(issuer.as_str()) {
            return Err(InvalidResponseKind::IssuerMismatch.into());
        }
        let mut endpoints = Vec::new();
        for name in ENDPOINTS {
            let Some(value) = members.get(name) else {
                continue;
            };
            match value.as_str() {
                Some(url) => {
                    endpoints.push((
                        name,
                        issuer
                            .endpoint(&url)
                            .map_err(|_| InvalidResponseKind::InvalidMember(name))?,
                    ));
                }
                // One that is no text is none, and costs nothing where nobody needs it.
                None if name != TOKEN_ENDPOINT => {}
                None => return Err(InvalidResponseKind::InvalidMember(name).into()),
            }
        }
        let members = OwnedJsonObject::new(&members);
        Ok(Self(Arc::new(MetadataParts {
            issuer: issuer.clone(),
            endpoints,
            members,
        })))
    }
}

const DPOP_ALGS: &str = "dpop_signing_alg_values_supported";

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata")
            .field("issuer", &self.0.issuer)
            .field("endpoints", &self.0.endpoints)
            .finish_non_exhaustive()
    }
}
