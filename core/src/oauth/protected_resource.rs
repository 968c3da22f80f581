//! What a resource server says of itself (RFC 9728): which authorization servers it trusts, for one.
//!
//! ```
//! use keybound_core::*;
//! use keybound_core::driver::*;
//!
//! # fn main() -> Result<(), Error> {
//! // A call was refused, and the refusal tells where to look.
//! let refusal = http::Response::builder()
//!     .header("WWW-Authenticate", r#"DPoP resource_metadata="https://rs.example/.well-known/oauth-protected-resource/api""#)
//!     .body(())
//!     .expect("valid");
//! let exchange = ProtectedResource::discover_from_challenge(refusal.headers(), "https://rs.example/api").expect("it tells")?;
//! let now = UnixTime::from_secs(1_800_000_000);
//! let Signing::Ready(out) = exchange.prepare(&ServerState::new(), RequestContext::new(now, [1; 16]))? else { panic!() };
//! let answer = http::Response::new(
//!     r#"{"resource":"https://rs.example/api","authorization_servers":["https://as.example"],
//!         "dpop_bound_access_tokens_required":true}"#,
//! );
//! let Step::Done(resource) = out.pending.receive(answer, &mut ServerState::new(), now)? else { panic!() };
//! assert!(resource.flag("dpop_bound_access_tokens_required"));
//! let exchange = resource.authorization_servers().next().expect("there is one").discover()?;
//! # let _ = exchange;
//! # Ok(())
//! # }
//! ```

use std::fmt;

use http::HeaderMap;

use crate::jose::PublicJwk;
use crate::oauth::issuer::Issuer;
use crate::request::operation::{EndpointRequest, Operation};
use crate::request::retry::RetrySafety;
use crate::types::endpoint::Endpoint;
use crate::types::error::InvalidResponseKind;
use crate::types::input::InvalidInput;
use crate::wire::challenge::Challenge;
use crate::wire::json::{JsonObject, JsonValue};
use crate::wire::json_object::OwnedJsonObject;

/// A protected resource's metadata (RFC 9728 §2).
#[derive(Clone)]
pub struct ProtectedResource {
    authorization_servers: Vec<Issuer>,
    members: OwnedJsonObject,
}

impl ProtectedResource {
    /// Asks for the metadata of a resource, `https` or on this machine, at its well-known URL (RFC 9728 §3.1).
    ///
    /// # Errors
    /// `InvalidInput` for any other URL, and for a fragment.
    pub fn discover(resource: &str) -> Result<Operation<Self>, InvalidInput> {
        let known = Endpoint::https_or_loopback(resource)?;
        // The slash after the host alone doesn't count (RFC 9728 §3.1).
        let path = Some(known.uri().path())
            .filter(|path| *path != "/")
            .unwrap_or_default();
        Self::request(
            &known.well_known("oauth-protected-resource", path)?,
            known,
            resource,
        )
    }

    /// Asks for the metadata of a resource where its refusal says that they are (`resource_metadata`, RFC 9728 §5.1);
    /// `None` where it doesn't say.
    ///
    /// # Errors
    /// `InvalidInput` for a resource as above, and for a place that is not `https` or is internal where the resource is not: a
    /// refusal must not have requests sent where its author can't send any (RFC 9728 §7.7). Any other may hold the
    /// metadata, which must be of this very resource (§3.3).
    pub fn discover_from_challenge(
        headers: &HeaderMap,
        resource: &str,
    ) -> Option<Result<Operation<Self>, InvalidInput>> {
        let challenges = Challenge::all(headers);
        let at = challenges
            .iter()
            .find_map(|challenge| challenge.param("resource_metadata"))?;
        let known = Endpoint::https_or_loopback(resource);
        Some(known.and_then(|known| Self::request(&known.resolve_untrusted(at)?, known, resource)))
    }

    fn request(
        at: &Endpoint,
        known: Endpoint,
        resource: &str,
    ) -> Result<Operation<Self>, InvalidInput> {
        let resource = resource.to_owned();
        let ask = EndpointRequest {
            endpoint: at.clone(),
            client_request: None,
            retry_safety: RetrySafety::Idempotent,
        };
        Ok(Operation::new(ask, move |success| {
            let members = JsonObject::parse_response(success.body, "resource")?;
            if members.str("resource").as_deref() != Some(resource.as_str()) {
                return Err(InvalidResponseKind::ResourceMismatch.into());
            }
            let servers = members
                .get("authorization_servers")
                .and_then(JsonValue::texts);
            let servers = servers.into_iter().flatten();
            let authorization_servers = servers
                .filter_map(|url| Issuer::from_untrusted(&known, &url).ok())
                .collect();
            Ok(Self {
                authorization_servers,
                members: OwnedJsonObject::new(&members),
            })
        }))
    }

    /// The authorization servers whose tokens it takes; what is no issuer is left out.
    pub fn authorization_servers(&self) -> impl Iterator<Item = &Issuer> {
        self.authorization_servers.iter()
    }

    /// The key under the name that this resource has for its algorithm (`dpop_signing_alg_values_supported`); as it is,
    /// where the resource doesn't tell.
    ///
    /// # Errors
    /// `InvalidInput` if the resource takes proofs by none of the key's algorithms.
    pub fn dpop_key(&self, key: &PublicJwk) -> Result<PublicJwk, InvalidInput> {
        match self.list("dpop_signing_alg_values_supported") {
            Some(algs) => key.select_algorithm(algs),
            None => Ok(key.clone()),
        }
    }

    /// A list of texts: `scopes_supported`, `bearer_methods_supported`, …; `None` where it isn't there.
    pub fn list(&self, member: &str) -> Option<impl Iterator<Item = &str>> {
        self.members.list(member)
    }

    /// A text. It is the server's word, and no more: not a checked URL, for one.
    pub fn text(&self, member: &str) -> Option<&str> {
        self.members.text(member)
    }

    /// A yes or no, such as `dpop_bound_access_tokens_required`; no where it isn't there.
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
