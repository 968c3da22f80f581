//! Issuer identifiers of authorization servers.

use std::{fmt, str::FromStr};

use serde::Serialize;

use crate::types::{endpoint::Endpoint, input::InvalidInput, text::serde_as_text};
use crate::wire::json::JsonObject;

/// An issuer identifier (RFC 8414 §2): the URL that identifies an authorization server in metadata,
/// redirects and tokens. Two identifiers are equal only if they match character by character (RFC
/// 8414 §3.3, RFC 9207 §2.4).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Issuer {
    text: String,
    endpoint: Endpoint,
}

impl Issuer {
    /// Parses an `https` URL without a query and without a fragment.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] for anything else.
    pub fn https(url: &str) -> Result<Self, InvalidInput> {
        Self::new(url, Endpoint::https(url)?)
    }

    /// Parses an `http` URL with a loopback host, for tests and local servers.
    ///
    /// # Errors
    /// As for [`https`](Self::https). Also returns [`InvalidInput`] for any other host.
    pub fn loopback_http(url: &str) -> Result<Self, InvalidInput> {
        Self::new(url, Endpoint::loopback_http(url)?)
    }

    /// Parses an `https` URL, or an `http` URL with a loopback host. For URLs from user input or
    /// configuration.
    ///
    /// # Errors
    /// As for [`https`](Self::https).
    pub fn https_or_loopback(url: &str) -> Result<Self, InvalidInput> {
        Self::new(url, Endpoint::https_or_loopback(url)?)
    }

    fn new(url: &str, endpoint: Endpoint) -> Result<Self, InvalidInput> {
        if url.contains('?') {
            return Err(InvalidInput::new("issuer", "must not have a query"));
        }
        Ok(Self {
            text: url.to_owned(),
            endpoint,
        })
    }

    /// Parses an issuer named by the server at `endpoint`, as [`Endpoint::resolve_untrusted`] does.
    pub(crate) fn from_untrusted(endpoint: &Endpoint, url: &str) -> Result<Self, InvalidInput> {
        Self::new(url, endpoint.resolve_untrusted(url)?)
    }

    /// Parses an endpoint named by this issuer, as [`Endpoint::resolve_untrusted`] does.
    pub(crate) fn endpoint(&self, url: &str) -> Result<Endpoint, InvalidInput> {
        self.endpoint.resolve_untrusted(url)
    }

    /// Returns the possible metadata URLs, in the order of RFC 8414 §3.1, OpenID Connect Discovery
    /// §4.1, and RFC 8414 §5 for the name of OpenID Connect.
    pub(crate) fn metadata_urls(&self) -> Result<[Endpoint; 3], InvalidInput> {
        let endpoint = &self.endpoint;
        let path = endpoint.uri().path();
        let path = path.strip_suffix('/').unwrap_or(path);
        Ok([
            endpoint.well_known("oauth-authorization-server", path)?,
            endpoint.join("/.well-known/openid-configuration")?,
            endpoint.well_known("openid-configuration", path)?,
        ])
    }

    /// Returns the identifier exactly as given.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

/// Parses as [`Issuer::https_or_loopback`] does.
impl FromStr for Issuer {
    type Err = InvalidInput;

    fn from_str(url: &str) -> Result<Self, InvalidInput> {
        Self::https_or_loopback(url)
    }
}

/// Parses as [`Issuer::https_or_loopback`] does.
impl TryFrom<&str> for Issuer {
    type Error = InvalidInput;

    fn try_from(url: &str) -> Result<Self, InvalidInput> {
        Self::https_or_loopback(url)
    }
}

impl AsRef<str> for Issuer {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issuer({})", self.text)
    }
}

serde_as_text!(Issuer);

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The identity of an authorization server, as known to a client or a grant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[expect(unnameable_types, reason = "`FromResponse` is sealed")]
pub struct Server {
    pub(super) issuer: Option<String>,
    pub(super) token_endpoint: String,
}

impl Server {
    /// Parses a stored server. Returns `None` if it is malformed.
    pub(crate) fn read(members: &JsonObject<'_>) -> Option<Self> {
        Some(Self {
            issuer: members.str("issuer").map(Into::into),
            token_endpoint: members.str("token_endpoint")?.into_owned(),
        })
    }

    /// Returns whether both are the same server: they have the same issuer or, if one of them has
    /// no issuer, the same token endpoint.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        match (&self.issuer, &other.issuer) {
            (Some(issuer), Some(other)) => issuer == other,
            _ => self.token_endpoint == other.token_endpoint,
        }
    }
}
