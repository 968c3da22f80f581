//! Protected resource metadata (RFC 9728), such as the authorization servers that a resource trusts.
//!
//! ```
//! use keybound_core::*;
//! # use keybound_core::driver::FromResponse;
//! # trait Driver { fn execute<T: FromResponse>(&self, operation: Operation<T>) -> Result<T, Error>; }
//!
//! # fn example(driver: impl Driver, rejection: http::Response<()>) -> Result<(), Error> {
//! // The resource rejected a call. Its challenge contains the URL of the metadata:
//! // WWW-Authenticate: DPoP resource_metadata="https://rs.example/.well-known/oauth-protected-resource/api"
//! let discovery = ProtectedResource::discover_from_challenge(rejection.headers(), "https://rs.example/api");
//! if let Some(operation) = discovery {
//!     let resource = driver.execute(operation?)?;
//!     println!("bound tokens required: {}", resource.flag("dpop_bound_access_tokens_required"));
//!     for issuer in resource.authorization_servers() {
//!         let metadata = driver.execute(issuer.discover()?)?;
//!         # let _ = metadata;
//!     }
//! }
//! # Ok(())
//! # }
//! ```

use std::fmt;

use http::HeaderMap;

use crate::jose::PublicJwk;
use crate::oauth::{issuer::Issuer, metadata::DPOP_ALGS};
use crate::request::operation::{FromResponse, Operation, SuccessResponse, sealed};
use crate::request::{endpoint_request::EndpointRequest, retry::RetrySafety};
use crate::types::error::{InvalidResponseKind, ParseError};
use crate::types::{endpoint::Endpoint, input::InvalidInput};
use crate::wire::json::{JsonObject, JsonValue};
use crate::wire::{challenge::Challenge, json_object::OwnedJsonObject};

/// The metadata of a protected resource (RFC 9728 §2).
#[derive(Clone)]
pub struct ProtectedResource {
    authorization_servers: Vec<Issuer>,
    members: OwnedJsonObject,
}

impl ProtectedResource {
    /// Requests the metadata of a resource from its well-known URL (RFC 9728 §3.1). `resource` is
    /// an `https` URL, or an `http` URL with a loopback host.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] for any other URL, and for a URL with a fragment or user
    /// information.
    pub fn discover(resource: &str) -> Result<Operation<Self>, InvalidInput> {
        let known = Endpoint::https_or_loopback(resource)?;
        // A path of only a slash doesn't count (RFC 9728 §3.1).
        let path = Some(known.uri().path()).filter(|path| *path != "/");
        let url = known.well_known("oauth-protected-resource", path.unwrap_or_default())?;
        Ok(Self::request(url, known, resource))
    }

    /// Requests the metadata of a resource from the URL in its challenge (`resource_metadata`, RFC
    /// 9728 §5.1). Returns `None` if the challenge has no URL.
    ///
    /// The URL may belong to any host, but the metadata must name exactly this resource (§3.3).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `resource` is invalid, as for [`discover`](Self::discover). Also
    /// returns it if the URL is not `https`, or is internal, while the resource is not: a challenge
    /// must not cause requests that its author can't send (SSRF protection, RFC 9728 §7.7).
    pub fn discover_from_challenge(
        headers: &HeaderMap,
        resource: &str,
    ) -> Option<Result<Operation<Self>, InvalidInput>> {
        let challenges = Challenge::all(headers);
        let url = challenges
            .iter()
            .find_map(|challenge| challenge.param("resource_metadata"))?;
        let known = Endpoint::https_or_loopback(resource);
        Some(known.and_then(|known| {
            let metadata_url = known.resolve_untrusted(url)?;
            Ok(Self::request(metadata_url, known, resource))
        }))
    }

    fn request(metadata_url: Endpoint, known: Endpoint, resource: &str) -> Operation<Self> {
        let request = EndpointRequest::get(metadata_url);
        let expected = (known, resource.to_owned());
        Operation::new(request, RetrySafety::Idempotent, expected)
    }

    /// Returns the authorization servers whose tokens the resource accepts. Invalid issuers are
    /// omitted.
    pub fn authorization_servers(&self) -> impl Iterator<Item = &Issuer> {
        self.authorization_servers.iter()
    }

    /// Returns the key with the algorithm name that this resource supports
    /// (`dpop_signing_alg_values_supported`). Returns the key unchanged if the metadata list no
    /// algorithms.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the resource supports none of the key's algorithms.
    pub fn dpop_key(&self, key: &PublicJwk) -> Result<PublicJwk, InvalidInput> {
        let algs = self.list(DPOP_ALGS);
        algs.map_or_else(|| Ok(key.clone()), |algs| key.select_algorithm(algs))
    }

    /// Returns a list of strings, such as `scopes_supported` or `bearer_methods_supported`. Returns
    /// `None` if it is missing or not an array. Items that are not strings are skipped.
    pub fn list(&self, member: &str) -> Option<impl Iterator<Item = &str>> {
        self.members.list(member)
    }

    /// Returns a string member, without validation. In particular, a URL is not checked. Returns
    /// `None` if it is missing or not a string.
    pub fn text(&self, member: &str) -> Option<&str> {
        self.members.text(member)
    }

    /// Returns a boolean member such as `dpop_bound_access_tokens_required`, or `false` if it is
    /// missing or not a boolean.
    pub fn flag(&self, member: &str) -> bool {
        self.members.flag(member)
    }
}

impl fmt::Debug for ProtectedResource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtectedResource")
            .field("authorization_servers", &self.authorization_servers)
            .finish_non_exhaustive()
    }
}

impl sealed::Sealed for ProtectedResource {}

/// Parses a response of RFC 9728 §3.2.
impl FromResponse for ProtectedResource {
    /// The URL of the resource whose metadata are requested, from which other URLs are judged, and
    /// the same URL exactly as given.
    type Expected = (Endpoint, String);

    fn parse(success: &SuccessResponse<'_>, expected: &Self::Expected) -> Result<Self, ParseError> {
        let (known, resource) = expected;
        let members = JsonObject::parse_response(success.body, "resource")?;
        if members.str("resource").as_deref() != Some(resource) {
            return Err(InvalidResponseKind::ResourceMismatch.into());
        }
        let servers = members.get("authorization_servers");
        let servers = servers.and_then(JsonValue::texts).into_iter().flatten();
        Ok(Self {
            authorization_servers: servers
                .filter_map(|url| Issuer::from_untrusted(known, &url).ok())
                .collect(),
            members: OwnedJsonObject::new(&members),
        })
    }
}
