//! Authorization server metadata (RFC 8414, OpenID Connect Discovery 1.0).
//!
//! ```
//! use keybound_core::*;
//! # use keybound_core::driver::FromResponse;
//! # use keybound_core::jose::SigningKey;
//! # trait Driver { fn execute<T: FromResponse>(&self, operation: Operation<T>) -> Result<T, Error>; }
//!
//! # fn example(driver: impl Driver, key: SigningKey) -> Result<(), Error> {
//! let metadata = driver.execute(Issuer::https("https://as.example/tenant")?.discover()?)?;
//! let bound = metadata.dpop_key(key.public())?; // with the algorithm name that this server supports
//! let client = metadata.client(ClientAuth::none("app")?)?.dpop(bound);
//! # let _ = client;
//! # Ok(())
//! # }
//! ```

use std::{fmt, sync::Arc, time::Duration};

use crate::jose::{Algorithm, PublicJwk};
use crate::oauth::client::{Client, required};
use crate::oauth::issuer::Issuer;
use crate::request::operation::{FlowFailure, FromResponse, Operation, SuccessResponse, sealed};
use crate::request::{
    client_auth::ClientAuth, endpoint_request::EndpointRequest, retry::RetrySafety,
};
use crate::types::error::{InvalidResponseKind, ParseError};
use crate::types::{endpoint::Endpoint, input::InvalidInput, time::UnixTime};
use crate::wire::json::{JsonObject, JsonValue};
use crate::wire::json_object::OwnedJsonObject;

impl Issuer {
    /// Requests the issuer's metadata at the URL of RFC 8414 §3.1. If the server has none there,
    /// the URLs of OpenID Connect follow (Discovery 1.0 §4.1, RFC 8414 §5). The requests carry
    /// neither credentials nor a proof, and redirects are not followed.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] only if the identifier is too long to be part of a URL.
    pub fn discover(&self) -> Result<Operation<Metadata>, InvalidInput> {
        let [first, second, third] = self.metadata_urls()?;
        let mut fallbacks = vec![second, third];
        fallbacks.dedup();
        let (request, expected) = (EndpointRequest::get(first), (self.clone(), fallbacks));
        Ok(Operation::new(request, RetrySafety::Idempotent, expected))
    }
}

impl sealed::Sealed for Metadata {}

impl FromResponse for Metadata {
    /// The issuer whose metadata are requested, and the URLs that have not been tried yet.
    type Expected = (Issuer, Vec<Endpoint>);

    fn parse(success: &SuccessResponse<'_>, expected: &Self::Expected) -> Result<Self, ParseError> {
        let (issuer, _) = expected;
        let members = JsonObject::parse_response(success.body, "issuer")?;
        if members.str("issuer").as_deref() != Some(issuer.as_str()) {
            return Err(InvalidResponseKind::IssuerMismatch.into());
        }
        let mut endpoints = Vec::new();
        for name in ENDPOINTS {
            let invalid = InvalidResponseKind::InvalidMember(name);
            match members.get(name).map(JsonValue::as_str) {
                Some(Some(url)) => {
                    endpoints.push((name, issuer.endpoint(&url).map_err(|_| invalid)?));
                }
                Some(None) if name == TOKEN_ENDPOINT => return Err(invalid.into()),
                // Another endpoint that is not a string counts as missing, in case the caller never
                // needs it.
                _ => {}
            }
        }
        Ok(Self(Arc::new(MetadataParts {
            issuer: issuer.clone(),
            endpoints,
            members: OwnedJsonObject::new(&members),
        })))
    }

    fn on_failure(
        failure: &FlowFailure,
        (_, fallbacks): &mut Self::Expected,
        request: &mut EndpointRequest,
        _now: UnixTime,
    ) -> Option<Duration> {
        let is_absent = match failure {
            // Most servers answer 404, some 403 or 400.
            FlowFailure::Refusal(error) => {
                error.status().is_client_error() && !error.is_transient()
            }
            // Some servers answer every path with a page, or redirect it to a login.
            FlowFailure::Invalid(invalid) => matches!(
                invalid.kind,
                InvalidResponseKind::NotJson { .. }
                    | InvalidResponseKind::Encoded(_)
                    | InvalidResponseKind::Redirect
            ),
        };
        if !is_absent || fallbacks.is_empty() {
            return None;
        }
        request.endpoint = fallbacks.remove(0);
        Some(Duration::ZERO)
    }
}

/// The metadata of an authorization server (RFC 8414 §2). Cheap to clone.
#[derive(Clone)]
pub struct Metadata(Arc<MetadataParts>);

struct MetadataParts {
    issuer: Issuer,
    endpoints: Vec<(&'static str, Endpoint)>,
    members: OwnedJsonObject,
}

const TOKEN_ENDPOINT: &str = "token_endpoint";

/// The members that must be valid URLs, because credentials, keys or users may be sent there.
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
    /// Creates a client of this server, with all endpoints and the issuer from the metadata.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the metadata have no token endpoint.
    pub fn client(&self, auth: ClientAuth) -> Result<Client, InvalidInput> {
        let endpoint = |name| self.endpoint(name).cloned();
        let token_endpoint = required(self.endpoint(TOKEN_ENDPOINT), TOKEN_ENDPOINT)?;
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

    /// Returns the key with the algorithm name that this server supports
    /// (`dpop_signing_alg_values_supported`, RFC 9449 §5.1). Returns the key unchanged if the
    /// metadata have no such list.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the server does not support the key's algorithm, or its list is
    /// empty.
    pub fn dpop_key(&self, key: &PublicJwk) -> Result<PublicJwk, InvalidInput> {
        let algs = self.list(DPOP_ALGS);
        algs.map_or_else(|| Ok(key.clone()), |algs| key.select_algorithm(algs))
    }

    /// Returns the proof algorithms that both this server and this library support, in this
    /// library's order of preference. Returns `None` if the metadata list no algorithms.
    pub fn dpop_algorithms(&self) -> Option<Vec<Algorithm>> {
        let supported: Vec<&str> = self.list(DPOP_ALGS)?.collect();
        let is_supported = |algorithm: &Algorithm| supported.contains(&algorithm.as_str());
        let all = Algorithm::ALL.iter().copied();
        Some(all.filter(is_supported).collect())
    }

    /// Returns the issuer, which is exactly the one that was requested.
    pub fn issuer(&self) -> &Issuer {
        &self.0.issuer
    }

    /// Returns an endpoint by the name of its member, such as `token_endpoint`,
    /// `introspection_endpoint` or `jwks_uri`. Returns `None` if it is missing or unknown to this
    /// library: [`text`](Self::text) returns the URL of any other member.
    pub fn endpoint(&self, member: &str) -> Option<&Endpoint> {
        let mut endpoints = self.0.endpoints.iter();
        Some(&endpoints.find(|(name, _)| *name == member)?.1)
    }

    /// Returns a list of strings, such as `token_endpoint_auth_methods_supported` or
    /// `scopes_supported`. Returns `None` if it is missing or not an array. Items that are not
    /// strings are skipped.
    pub fn list(&self, member: &str) -> Option<impl Iterator<Item = &str>> {
        self.0.members.list(member)
    }

    /// Returns any string member, without validation. In particular, a URL is not checked. Returns
    /// `None` if it is missing or not a string.
    pub fn text(&self, member: &str) -> Option<&str> {
        self.0.members.text(member)
    }

    /// Returns a boolean member, or `false` if it is missing or not a boolean.
    pub fn flag(&self, member: &str) -> bool {
        self.0.members.flag(member)
    }
}

/// The member that lists the algorithms of proofs (RFC 9449 §5.1, RFC 9728 §2).
pub(super) const DPOP_ALGS: &str = "dpop_signing_alg_values_supported";

impl fmt::Debug for Metadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metadata")
            .field("issuer", &self.0.issuer)
            .field("endpoints", &self.0.endpoints)
            .finish_non_exhaustive()
    }
}
