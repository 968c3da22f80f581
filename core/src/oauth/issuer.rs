//! Who an authorization server is.

use std::fmt;

use serde::Serialize;

use crate::types::endpoint::Endpoint;
use crate::types::input::InvalidInput;
use crate::wire::json::JsonObject;

/// An issuer identifier (RFC 8414 §2): the URL by which an authorization server is known, in metadata, in redirects
/// and in tokens. Two are equal only if they are the same character by character (RFC 8414 §3.3, RFC 9207 §2.4).
#[derive(Clone, PartialEq, Eq)]
pub struct Issuer {
    text: String,
    endpoint: Endpoint,
}

impl Issuer {
    /// An `https` URL without a query and without a fragment.
    ///
    /// # Errors
    /// `InvalidInput` for anything else.
    pub fn https(url: &str) -> Result<Self, InvalidInput> {
        Self::new(url, Endpoint::https(url)?)
    }

    /// An `http` URL of this machine, for tests and local servers.
    ///
    /// # Errors
    /// As for [`https`](Self::https), and for any other host.
    pub fn loopback_http(url: &str) -> Result<Self, InvalidInput> {
        Self::new(url, Endpoint::loopback_http(url)?)
    }

    /// An `https` URL, or an `http` URL of this machine: for what somebody types or configures.
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

    /// An issuer that whoever is at an endpoint names.
    pub(crate) fn from_untrusted(endpoint: &Endpoint, url: &str) -> Result<Self, InvalidInput> {
        Self::new(url, endpoint.resolve_untrusted(url)?)
    }

    /// An endpoint that this issuer names.
    pub(crate) fn endpoint(&self, url: &str) -> Result<Endpoint, InvalidInput> {
        self.endpoint.resolve_untrusted(url)
    }

    /// Where its metadata are: as RFC 8414 §3.1 has it, as OpenID Connect Discovery §4.1 has it, and as RFC 8414 §5 would
    /// have that.
    pub(crate) fn metadata_urls(&self) -> Result<[Endpoint; 3], InvalidInput> {
        let path = self.endpoint.uri().path();
        let path = path.strip_suffix('/').unwrap_or(path);
        Ok([
            self.endpoint
                .well_known("oauth-authorization-server", path)?,
            self.endpoint.join("/.well-known/openid-configuration")?,
            self.endpoint.well_known("openid-configuration", path)?,
        ])
    }

    /// The identifier as it was given.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Issuer({})", self.text)
    }
}

impl fmt::Display for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// An authorization server, as far as a client or a grant knows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Server {
    issuer: Option<String>,
    token_endpoint: String,
}

impl Server {
    pub(crate) fn new(issuer: Option<&Issuer>, token_endpoint: &Endpoint) -> Self {
        Self {
            issuer: issuer.map(Issuer::to_string),
            token_endpoint: token_endpoint.to_string(),
        }
    }

    /// What was written of one.
    pub(crate) fn read(members: &JsonObject<'_>) -> Option<Self> {
        Some(Self {
            issuer: members.str("issuer").map(Into::into),
            token_endpoint: members.str("token_endpoint")?.into_owned(),
        })
    }

    pub(crate) fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// Whether this is the other: it has the same issuer, or the same token endpoint where one of them names no issuer.
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        match (&self.issuer, &other.issuer) {
            (Some(issuer), Some(other)) => issuer == other,
            _ => self.token_endpoint == other.token_endpoint,
        }
    }
}
