//! A client of one authorization server.

use std::sync::Arc;

use http::HeaderMap;

use crate::jose::PublicJwk;
use crate::oauth::issuer::{Issuer, Server};
use crate::oauth::token::ExpiresIn;
use crate::request::client_auth::ClientAuth;
use crate::request::operation::{ClientRequest, EndpointRequest, RequestOptions, add_header};
use crate::request::retry::RetrySafety;
use crate::types::endpoint::Endpoint;
use crate::types::input::InvalidInput;
use crate::wire::params::{BodyFormat, Params};

/// A client of one authorization server. Immutable once it is built, and cheap to clone.
///
/// It performs nothing: [`token`](Self::token), [`revoke`](Self::revoke) and the like make an [`Operation`] each.
#[derive(Clone, Debug)]
#[must_use]
pub struct Client(pub(crate) Arc<ClientParts>);

/// Shared by all clones: a session for each person has one.
#[derive(Clone, Debug)]
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
    pub(crate) key: Option<PublicJwk>,
    pub(super) accept_bearer: bool,
    pub(super) expires_in: ExpiresIn,
    pub(super) require_scope: bool,
}

impl Client {
    /// A client that asks for bearer tokens, by forms, as RFC 6749 has it.
    pub fn new(token_endpoint: Endpoint, auth: ClientAuth) -> Self {
        let settings = RequestOptions {
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
            options: Arc::new(settings),
            key: None,
            accept_bearer: false,
            expires_in: ExpiresIn::default(),
            require_scope: false,
        }))
    }

    /// Asks for tokens bound to this key (RFC 9449 §5). An answer with any other token is refused.
    pub fn dpop(mut self, key: PublicJwk) -> Self {
        self.parts_mut().key = Some(key);
        self
    }

    /// The key that its tokens are bound to.
    pub fn key(&self) -> Option<&PublicJwk> {
        self.0.key.as_ref()
    }

    pub(crate) fn token_endpoint(&self) -> &Endpoint {
        &self.0.token_endpoint
    }

    /// Takes a bearer token although a bound one was asked for: for servers that bind the refresh token
    /// alone (RFC 9449 §5).
    pub fn accept_bearer(mut self) -> Self {
        self.parts_mut().accept_bearer = true;
        self
    }

    /// How the body is written.
    pub fn body_format(mut self, format: BodyFormat) -> Self {
        self.options_mut().format = format;
        self
    }

    /// How `expires_in` is meant.
    pub fn expires_in(mut self, expires_in: ExpiresIn) -> Self {
        self.parts_mut().expires_in = expires_in;
        self
    }

    /// Refuses to ask for client credentials without a scope, as Moov would.
    pub fn require_scope(mut self) -> Self {
        self.parts_mut().require_scope = true;
        self
    }

    /// A header for every request.
    ///
    /// # Errors
    /// `InvalidInput` for a malformed name or value, and for a header that the request has by itself.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, InvalidInput> {
        add_header(&mut self.options_mut().headers, name, value)?;
        Ok(self)
    }

    /// These headers for every request, which a provider's own types have validated.
    pub(crate) fn headers(mut self, headers: HeaderMap) -> Self {
        self.options_mut().headers = headers;
        self
    }

    /// A parameter for every request.
    ///
    /// # Errors
    /// `InvalidInput` if it was given before.
    pub fn param(mut self, name: &str, value: &str) -> Result<Self, InvalidInput> {
        self.options_mut()
            .params
            .push(name.to_owned(), value.to_owned())?;
        Ok(self)
    }

    /// Where tokens are revoked (RFC 7009 §2).
    pub fn revocation_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.parts_mut().revocation_endpoint = Some(endpoint);
        self
    }

    /// Where people are sent to authorize this client (RFC 6749 §3.1).
    pub fn authorization_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.parts_mut().authorization_endpoint = Some(endpoint);
        self
    }

    /// Where a device begins (RFC 8628 §3.1).
    pub fn device_authorization_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.parts_mut().device_authorization_endpoint = Some(endpoint);
        self
    }

    /// Where authorization requests are pushed to (RFC 9126 §2).
    pub fn pushed_authorization_request_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.parts_mut().pushed_authorization_request_endpoint = Some(endpoint);
        self
    }

    /// Where tokens are introspected (RFC 7662 §2).
    pub fn introspection_endpoint(mut self, endpoint: Endpoint) -> Self {
        self.parts_mut().introspection_endpoint = Some(endpoint);
        self
    }

    /// Who the authorization server is. A redirect that names another is refused (RFC 9207 §2.4): set it wherever the
    /// application talks to more than one.
    pub fn issuer(mut self, issuer: Issuer) -> Self {
        self.parts_mut().issuer = Some(issuer);
        self
    }

    /// Refuses a redirect that doesn't name its issuer: for servers that always do, which say so by
    /// `authorization_response_iss_parameter_supported` (RFC 9207 §2.3).
    pub fn require_iss(mut self) -> Self {
        self.parts_mut().require_iss = true;
        self
    }

    /// Which authorization server this is a client of.
    pub(crate) fn server(&self) -> Server {
        Server::new(self.0.issuer.as_ref(), &self.0.token_endpoint)
    }

    /// What is posted to one of the server's endpoints, perhaps with a proof by `key`.
    pub(crate) fn endpoint_request(
        &self,
        endpoint: Endpoint,
        fields: Params,
        key: Option<&PublicJwk>,
        repeat: RetrySafety,
    ) -> EndpointRequest {
        let audience = match &self.0.issuer {
            Some(issuer) => issuer.to_string(),
            None => self.0.token_endpoint.to_string(),
        };
        let post = ClientRequest::new(&self.0.options, fields, key.cloned(), &audience);
        EndpointRequest {
            endpoint,
            client_request: Some(post),
            retry_safety: repeat,
        }
    }

    pub(crate) fn parts_mut(&mut self) -> &mut ClientParts {
        Arc::make_mut(&mut self.0)
    }

    pub(super) fn options_mut(&mut self) -> &mut RequestOptions {
        Arc::make_mut(&mut self.parts_mut().options)
    }
}
