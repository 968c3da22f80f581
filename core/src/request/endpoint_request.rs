//! The requests to endpoints of authorization servers, as they are built.

use std::sync::Arc;

use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};

use crate::dpop::DPOP;
use crate::jose::PublicJwk;
use crate::request::client_assertion::{ASSERTION_TYPE, ClientAssertion};
use crate::request::client_auth::ClientAuth;
use crate::types::secret::{Body, Secret};
use crate::types::{endpoint::Endpoint, input::InvalidInput};
use crate::wire::params::{BodyFormat, Params};

/// A request to an endpoint of an authorization server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(unnameable_types, reason = "`FromResponse` is sealed")]
pub struct EndpointRequest {
    pub(crate) endpoint: Endpoint,
    /// `None` for a GET without a proof and without client authentication.
    pub(crate) client_request: Option<ClientRequest>,
}

/// The parameters and credentials of a POST by a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ClientRequest {
    options: Arc<RequestOptions>,
    params: Params,
    /// The key of the DPoP proof.
    key: Option<PublicJwk>,
    /// The client assertion, if the client authenticates by a signature.
    assertion: Option<ClientAssertion>,
}

/// The options shared by all requests of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestOptions {
    pub(crate) auth: ClientAuth,
    pub(crate) format: BodyFormat,
    pub(crate) headers: HeaderMap,
    pub(crate) params: Params,
}

impl EndpointRequest {
    /// Creates the request for a document: a GET without a proof and without client authentication.
    pub(crate) fn get(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            client_request: None,
        }
    }

    /// Builds the request with the signed client assertion and the proof, as far as it needs them.
    pub(crate) fn build(
        &self,
        assertion: Option<&Secret>,
        proof: Option<HeaderValue>,
    ) -> Result<Request<Body>, InvalidInput> {
        let mut request = Request::new(Body::new(Vec::new()));
        *request.uri_mut() = self.endpoint.uri().clone();
        request
            .headers_mut()
            .insert(ACCEPT, HeaderValue::from_static("application/json"));
        // Without this header, any coding would be acceptable (RFC 9110 §12.5.3), and the core
        // decodes none.
        request
            .headers_mut()
            .insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(client_request) = &self.client_request {
            client_request.write(assertion, &mut request)?;
        }
        if let Some(proof) = proof {
            request.headers_mut().insert(DPOP, proof);
        }
        Ok(request)
    }

    pub(crate) fn method(&self) -> &'static Method {
        match self.client_request {
            Some(_) => &Method::POST,
            None => &Method::GET,
        }
    }

    /// Returns the client assertion to sign, if the client authenticates by one.
    pub(crate) fn assertion(&self) -> Option<&ClientAssertion> {
        self.client_request.as_ref()?.assertion.as_ref()
    }

    /// Returns the key that signs the proof, if the request needs one.
    pub(crate) fn key(&self) -> Option<&PublicJwk> {
        self.client_request.as_ref()?.key.as_ref()
    }

    /// Returns the name of the server for errors, with the path if the request is for a document.
    /// The query is left out: it may hold a secret.
    pub(crate) fn server(&self) -> String {
        let mut server = self.endpoint.target().authority();
        if self.client_request.is_none() {
            server.push_str(self.endpoint.uri().path());
        }
        server
    }

    /// Returns the secrets of the request, except its client assertion.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        self.client_request.iter().flat_map(ClientRequest::secrets)
    }
}

impl ClientRequest {
    /// `audience` identifies the server in client assertions.
    pub(crate) fn new(
        options: &Arc<RequestOptions>,
        params: Params,
        key: Option<PublicJwk>,
        audience: &str,
    ) -> Self {
        Self {
            options: Arc::clone(options),
            params,
            key,
            assertion: options.auth.assertion(audience),
        }
    }

    fn write(
        &self,
        assertion: Option<&Secret>,
        request: &mut Request<Body>,
    ) -> Result<(), InvalidInput> {
        let RequestOptions {
            auth,
            format,
            headers,
            params,
        } = &*self.options;
        let mut body_params = self.params.clone();
        body_params.append(params)?;
        auth.add_params(&mut body_params)?;
        if let Some(assertion) = assertion {
            body_params.push("client_assertion_type", ASSERTION_TYPE)?;
            body_params.push("client_assertion", assertion.clone())?;
        }

        *request.method_mut() = Method::POST;
        *request.body_mut() = body_params.encode(*format);
        let sent = request.headers_mut();
        sent.extend(headers.clone());
        sent.insert(
            CONTENT_TYPE,
            HeaderValue::from_static(format.content_type()),
        );
        if let Some(authorization) = auth.header() {
            sent.insert(AUTHORIZATION, authorization.clone());
        }
        Ok(())
    }

    fn secrets(&self) -> impl Iterator<Item = &str> {
        let RequestOptions {
            auth,
            headers,
            params,
            ..
        } = &*self.options;
        let headers = headers.values().filter(|value| value.is_sensitive());
        let headers = headers.filter_map(|value| value.to_str().ok());
        self.params
            .secrets()
            .chain(params.secrets())
            .chain(auth.secrets())
            .chain(headers)
    }
}

/// Adds a header that every request carries.
pub(crate) fn add_header(
    headers: &mut HeaderMap,
    name: &str,
    value: &str,
) -> Result<(), InvalidInput> {
    let invalid = |rule| InvalidInput::new("header", rule);
    let name = HeaderName::try_from(name).map_err(|_| invalid("must have a valid name"))?;
    let mut value = HeaderValue::try_from(value)
        .map_err(|_| invalid("must have a value without control characters"))?;
    if matches!(
        name.as_str(),
        "accept"
            | "accept-encoding"
            | "authorization"
            | "connection"
            | "content-length"
            | "content-type"
            | "dpop"
            | "host"
            | "transfer-encoding"
    ) {
        return Err(invalid("must not be one that the request sets itself"));
    }
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}
