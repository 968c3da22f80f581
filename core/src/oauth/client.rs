//! A client of one authorization server.

use std::sync::Arc;

use http::HeaderMap;

use crate::jose::PublicJwk;
use crate::oauth::issuer::{Issuer, Server};
use crate::oauth::token::{Expected, ExpiresIn, Token, TokenType};
use crate::request::endpoint_request::{
    ClientRequest, EndpointRequest, RequestOptions, add_header,
};
use crate::request::operation::{FromResponse, Operation};
use crate::request::{client_auth::ClientAuth, retry::RetrySafety};
use crate::types::{endpoint::Endpoint, input::InvalidInput};
use crate::wire::params::{BodyFormat, Params};

/// A client of one authorization server. Immutable once built, and cheap to clone.
///
/// It performs no I/O: methods such as [`token`](Self::token) and [`revoke`](Self::revoke) each
/// return an [`Operation`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Client(pub(crate) Arc<ClientParts>);

/// The data shared by all clones of a client. Each session holds a clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientParts {
    pub(super) token_endpoint: Endpoint,
    pub(crate) revocation_endpoint: Option<Endpoint>,
    pub(crate) authorization_endpoint: Option<Endpoint>,
    pub(crate) device_authorization_endpoint: Option<Endpoint>,
    pub(crate) pushed_authorization_request_endpoint: Option<Endpoint>,
    pub(crate) introspection_endpoint: Option<Endpoint>,
    pub(crate) issuer: Option<Issuer>,
    pub(crate) require_iss: bool,
    pub(crate) options: Arc<RequestOptions>,
    /// The expected properties of a token, with the key of the client's proofs.
    pub(crate) expected: Expected,
    pub(super) require_scope: bool,
}

impl Client {
    /// Creates a client that requests bearer tokens, with form-encoded bodies as in RFC 6749.
    pub fn new(token_endpoint: Endpoint, auth: ClientAuth) -> Self {
        let options = RequestOptions {
            auth,
            format: BodyFormat::default(),
            headers: HeaderMap::new(),
            params: Params::default(),
        };
        Self(Arc::new(ClientParts {
            token_endpoint,
            revocation_endpoint: None,
            authorization_endpoint: None,
            device_authorization_endpoint: None,
            pushed_authorization_request_endpoint: None,
            introspection_endpoint: None,
            issuer: None,
            require_iss: false,
            options: Arc::new(options),
            expected: Expected::default(),
            require_scope: false,
        }))
    }

    /// Requests tokens bound to this key (RFC 9449 §5): token requests then have a proof signed by
    /// it. A response with any other token is rejected, unless the client
    /// [accepts](Self::accept_bearer) bearer tokens.
    pub fn dpop(self, key: PublicJwk) -> Self {
        self.with(|parts| parts.expected.key = Some(key))
    }

    /// Returns the key to which the client's tokens are bound.
    pub fn key(&self) -> Option<&PublicJwk> {
        self.0.expected.key.as_ref()
    }

    /// Returns whether this token must be bound to the client's key, but is not.
    pub(crate) fn misses_binding(&self, token: &Token) -> bool {
        let Expected {
            key, accept_bearer, ..
        } = &self.0.expected;
        let may_be_unbound = match token.token_type() {
            TokenType::Bearer => *accept_bearer,
            TokenType::Dpop => false,
            TokenType::Other(_) => true, // no request has such a token
        };
        key.is_some() && token.key().is_none() && !may_be_unbound
    }

    pub(crate) fn token_endpoint(&self) -> &Endpoint {
        &self.0.token_endpoint
    }

    /// Accepts a bearer token even if a bound token was requested. For authorization servers that
    /// bind only the refresh token (RFC 9449 §5).
    pub fn accept_bearer(self) -> Self {
        self.with(|parts| parts.expected.accept_bearer = true)
    }

    /// Sets the encoding of request bodies. Default: [`BodyFormat::Form`].
    pub fn body_format(mut self, format: BodyFormat) -> Self {
        self.options_mut().format = format;
        self
    }

    /// Sets the interpretation of `expires_in` in token responses. Default: [`ExpiresIn::Auto`].
    pub fn expires_in(self, expires_in: ExpiresIn) -> Self {
        self.with(|parts| parts.expected.expires_in = expires_in)
    }

    /// Makes [`token`](Self::token) return [`InvalidInput`] for a client credentials grant without
    /// a scope. Moov's server rejects such requests.
    pub fn require_scope(self) -> Self {
        self.with(|parts| parts.require_scope = true)
    }

    /// Adds a header to every request of this client to the authorization server. A second value
    /// for the same name replaces the first. Calls to resource servers don't have the header.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the name or value is malformed, or if the request sets this
    /// header itself.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, InvalidInput> {
        add_header(&mut self.options_mut().headers, name, value)?;
        Ok(self)
    }

    /// Sets the headers of every request. A provider's own types have validated them.
    pub(crate) fn headers(mut self, headers: HeaderMap) -> Self {
        self.options_mut().headers = headers;
        self
    }

    /// Adds a parameter to the body of every request of this client to the authorization server.
    /// The authorization URL for the user's browser doesn't have it.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the name is empty, or if the parameter was already added. Only
    /// `resource` and `audience` may occur more than once. For a parameter that a request sets
    /// itself, the operation ends with the error.
    pub fn param(mut self, name: &str, value: &str) -> Result<Self, InvalidInput> {
        let params = &mut self.options_mut().params;
        params.push(name.to_owned(), value.to_owned())?;
        Ok(self)
    }

    /// Sets the endpoint at which tokens are revoked (RFC 7009 §2).
    pub fn revocation_endpoint(self, endpoint: Endpoint) -> Self {
        self.with(|parts| parts.revocation_endpoint = Some(endpoint))
    }

    /// Sets the endpoint at which users authorize this client (RFC 6749 §3.1).
    pub fn authorization_endpoint(self, endpoint: Endpoint) -> Self {
        self.with(|parts| parts.authorization_endpoint = Some(endpoint))
    }

    /// Sets the endpoint that issues device codes (RFC 8628 §3.1).
    pub fn device_authorization_endpoint(self, endpoint: Endpoint) -> Self {
        self.with(|parts| parts.device_authorization_endpoint = Some(endpoint))
    }

    /// Sets the endpoint for pushed authorization requests (RFC 9126 §2).
    pub fn pushed_authorization_request_endpoint(self, endpoint: Endpoint) -> Self {
        self.with(|parts| parts.pushed_authorization_request_endpoint = Some(endpoint))
    }

    /// Sets the endpoint at which tokens are introspected (RFC 7662 §2).
    pub fn introspection_endpoint(self, endpoint: Endpoint) -> Self {
        self.with(|parts| parts.introspection_endpoint = Some(endpoint))
    }

    /// Sets the issuer of the authorization server. A redirect that names another issuer is
    /// rejected (RFC 9207 §2.4). Set it if the application uses more than one authorization server.
    /// It is sent only as the audience of client assertions.
    pub fn issuer(self, issuer: Issuer) -> Self {
        self.with(|parts| parts.issuer = Some(issuer))
    }

    /// Rejects redirects without `iss`. For authorization servers that always include it, which
    /// announce this by `authorization_response_iss_parameter_supported` (RFC 9207 §2.3).
    pub fn require_iss(self) -> Self {
        self.with(|parts| parts.require_iss = true)
    }

    /// Returns the identity of the authorization server.
    pub(super) fn server(&self) -> Server {
        Server {
            issuer: self.0.issuer.as_ref().map(Issuer::to_string),
            token_endpoint: self.0.token_endpoint.to_string(),
        }
    }

    /// Returns an idempotent POST request to one of the server's endpoints, with a DPoP proof if
    /// `key` is given.
    pub(super) fn post<T: FromResponse>(
        &self,
        endpoint: Endpoint,
        params: Params,
        key: Option<&PublicJwk>,
        expected: T::Expected,
    ) -> Operation<T> {
        let request = self.endpoint_request(endpoint, params, key);
        Operation::new(request, RetrySafety::Idempotent, expected)
    }

    /// Returns a POST request to one of the server's endpoints, with a DPoP proof if `key` is
    /// given.
    pub(crate) fn endpoint_request(
        &self,
        endpoint: Endpoint,
        params: Params,
        key: Option<&PublicJwk>,
    ) -> EndpointRequest {
        let server = self.server();
        let audience = server.issuer.unwrap_or(server.token_endpoint);
        let client_request = ClientRequest::new(&self.0.options, params, key.cloned(), &audience);
        EndpointRequest {
            endpoint,
            client_request: Some(client_request),
        }
    }

    fn with(mut self, change: impl FnOnce(&mut ClientParts)) -> Self {
        change(self.parts_mut());
        self
    }

    pub(crate) fn parts_mut(&mut self) -> &mut ClientParts {
        Arc::make_mut(&mut self.0)
    }

    pub(super) fn options_mut(&mut self) -> &mut RequestOptions {
        Arc::make_mut(&mut self.parts_mut().options)
    }
}

/// Returns the endpoint with this name of a client or of an issuer's metadata.
pub(super) fn required(
    endpoint: Option<&Endpoint>,
    name: &'static str,
) -> Result<Endpoint, InvalidInput> {
    endpoint.cloned().ok_or(InvalidInput::MissingEndpoint(name))
}
