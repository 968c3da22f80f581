//! A client of one authorization server.

use std::sync::Arc;

use http::{HeaderMap, StatusCode};

use crate::client_auth::ClientAuth;
use crate::device;
use crate::dpop::{DPOP, VerifiedProof, sensitive};
use crate::endpoint::Endpoint;
use crate::error::{BadResponse, Envelope, Error, Misuse, Unread, WhyBad};
use crate::exchange::{Ask, Exchange, Post, Settings, Success, add_header};
use crate::grant::Grant;
use crate::issuer::{Issuer, Server};
use crate::jose::PublicJwk;
use crate::revocation::{self, Revoked, TokenTypeHint};
use crate::secret::Secret;
use crate::time::UnixTime;
use crate::token::{self, Expected, ExpiresIn, Token};
use crate::tries::Repeat;
use crate::wire::fields::{BodyFormat, Fields};
use crate::wire::json::{Text, without_mark};
use crate::wire::refusal::Secrets;

/// A client of one authorization server. Immutable once it is built, and cheap to clone.
///
/// It performs nothing: [`token`](Self::token), [`revoke`](Self::revoke) and the like make an [`Exchange`] each.
#[derive(Clone, Debug)]
#[must_use]
pub struct Client(pub(crate) Arc<Parts>);

/// Shared by all clones: a session for each person has one.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    token_endpoint: Endpoint,
    pub(crate) revocation_endpoint: Option<Endpoint>,
    pub(crate) authorization_endpoint: Option<Endpoint>,
    pub(crate) device_authorization_endpoint: Option<Endpoint>,
    pub(crate) pushed_authorization_request_endpoint: Option<Endpoint>,
    pub(crate) introspection_endpoint: Option<Endpoint>,
    pub(crate) issuer: Option<Issuer>,
    pub(crate) iss_in_redirects: bool,
    pub(crate) settings: Arc<Settings>,
    pub(crate) key: Option<PublicJwk>,
    accept_bearer: bool,
    expires_in: ExpiresIn,
    scope_required: bool,
}

impl Client {
    /// A client that asks for bearer tokens, by forms, as RFC 6749 has it.
    pub fn new(token_endpoint: Endpoint, auth: ClientAuth) -> Self {
        let settings = Settings {
            auth,
            format: BodyFormat::default(),
            headers: HeaderMap::new(),
            params: Fields::default(),
        };
        Self(Arc::new(Parts {
            token_endpoint,
            revocation_endpoint: None,
            authorization_endpoint: None,
            device_authorization_endpoint: None,
            pushed_authorization_request_endpoint: None,
            introspection_endpoint: None,
            issuer: None,
            iss_in_redirects: false,
            settings: Arc::new(settings),
            key: None,
            accept_bearer: false,
            expires_in: ExpiresIn::default(),
            scope_required: false,
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
        self.settings_mut().format = format;
        self
    }

    /// How `expires_in` is meant.
    pub fn expires_in(mut self, expires_in: ExpiresIn) -> Self {
        self.parts_mut().expires_in = expires_in;
        self
    }

    /// Refuses to ask for client credentials without a scope, as Moov would.
    pub fn scope_required(mut self) -> Self {
        self.parts_mut().scope_required = true;
        self
    }

    /// A header for every request.
    ///
    /// # Errors
    /// `Misuse` for a malformed name or value, and for a header that the request has by itself.
    pub fn header(mut self, name: &str, value: &str) -> Result<Self, Misuse> {
        add_header(&mut self.settings_mut().headers, name, value)?;
        Ok(self)
    }

    /// These headers for every request, which a provider's own types have validated.
    pub(crate) fn headers(mut self, headers: HeaderMap) -> Self {
        self.settings_mut().headers = headers;
        self
    }

    /// A parameter for every request.
    ///
    /// # Errors
    /// `Misuse` if it was given before.
    pub fn param(mut self, name: &str, value: &str) -> Result<Self, Misuse> {
        self.settings_mut().params.push(name.to_owned(), value.to_owned())?;
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
    pub fn iss_in_redirects(mut self) -> Self {
        self.parts_mut().iss_in_redirects = true;
        self
    }

    /// Asks for a token (RFC 6749 §4 to §6).
    ///
    /// # Errors
    /// `Misuse` if the grant lacks what this client's server requires, and if it was begun at another server (RFC 9700
    /// §4.4): a code or a device code is redeemed by a client of the issuer, or else of the token endpoint, that gave it.
    pub fn token(&self, grant: Grant) -> Result<Exchange<Token>, Misuse> {
        self.ask_for_token(grant, self.0.key.as_ref())
    }

    /// Asks for a token bound to the key of a proof that somebody else has made for this request, a browser for one: the
    /// proof goes along as it is, in its header. It is good for one request, so nothing is ever sent twice; where the
    /// server wants a nonce, the error has the code `use_dpop_nonce` and [the nonce](crate::ServerError::nonce).
    ///
    /// # Errors
    /// As for [`token`](Self::token).
    pub fn relay(&self, grant: Grant, proof: VerifiedProof) -> Result<Exchange<Token>, Misuse> {
        let VerifiedProof { proof, key, .. } = proof;
        let mut client = self.clone().dpop(key);
        client.settings_mut().headers.insert(DPOP, sensitive(proof.expose().as_bytes().to_vec()));
        client.ask_for_token(Grant { repeat: Repeat::Never, polling: None, ..grant }, None)
    }

    /// Which authorization server this is a client of.
    pub(crate) fn server(&self) -> Server {
        Server::new(self.0.issuer.as_ref(), &self.0.token_endpoint)
    }

    /// A token for this client's key, whose proof is made here only if `proving` is that key.
    fn ask_for_token(&self, grant: Grant, proving: Option<&PublicJwk>) -> Result<Exchange<Token>, Misuse> {
        if self.0.scope_required && grant.is_client_credentials() && grant.scope.is_none() {
            return Err(Misuse::new(
                "scope",
                "must be given: this server requires it for client_credentials",
            ));
        }
        if grant.server.as_ref().is_some_and(|server| !server.is_same_as(&self.server())) {
            return Err(Misuse::new(
                "grant",
                "must be redeemed at the authorization server where it was begun: \
                 this client is of another issuer or token endpoint",
            ));
        }
        let (repeat, polling) = (grant.repeat, grant.polling);
        let expected = self.expected(grant.refresh_token.clone());
        let fields = grant.into_fields()?;
        let ask = self.ask(self.0.token_endpoint.clone(), fields, proving, repeat);
        let exchange = Exchange::new(ask, move |success| token::read(success, &expected));
        Ok(match polling {
            Some(polling) => device::poll(exchange, polling),
            None => exchange,
        })
    }

    /// Takes a token response (RFC 6749 §5.1) that came another way than by a request of this client's: a backend has
    /// relayed a page's proof, and hands the answer on. It is checked like any other.
    ///
    /// # Errors
    /// `Response` if it is no token for this client's key.
    pub fn read_token(&self, answer: &[u8], now: UnixTime) -> Result<Token, Error> {
        let headers = HeaderMap::new();
        let success = Success { headers: &headers, body: &Text::of(without_mark(answer)), now };
        token::read(&success, &self.expected(None)).map_err(|unread| {
            let why = match unread {
                Unread::Bad(why) => why,
                Unread::Refusal => WhyBad::Missing("access_token"),
            };
            let envelope =
                Envelope::of("the server".into(), StatusCode::OK, &headers, &Secrets::from_iter([]));
            BadResponse { envelope, why }.into()
        })
    }

    /// Revokes an access or refresh token (RFC 7009).
    ///
    /// # Errors
    /// `Misuse` without a [revocation endpoint](Self::revocation_endpoint).
    pub fn revoke(&self, token: Secret, hint: Option<TokenTypeHint>) -> Result<Exchange<Revoked>, Misuse> {
        let endpoint = self
            .0
            .revocation_endpoint
            .clone()
            .ok_or(Misuse::new("revocation_endpoint", "must be set before a token can be revoked"))?;
        let ask = self.ask(endpoint, revocation::fields(token, hint)?, self.0.key.as_ref(), Repeat::Freely);
        Ok(Exchange::new(ask, revocation::read))
    }

    fn expected(&self, refresh_token: Option<Secret>) -> Expected {
        Expected {
            key: self.0.key.clone(),
            accept_bearer: self.0.accept_bearer,
            expires_in: self.0.expires_in,
            refresh_token,
        }
    }

    /// What is posted to one of the server's endpoints, perhaps with a proof by `key`.
    pub(crate) fn ask(
        &self,
        endpoint: Endpoint,
        fields: Fields,
        key: Option<&PublicJwk>,
        repeat: Repeat,
    ) -> Ask {
        let audience = match &self.0.issuer {
            Some(issuer) => issuer.to_string(),
            None => self.0.token_endpoint.to_string(),
        };
        let post = Post::new(&self.0.settings, fields, key.cloned(), &audience);
        Ask { endpoint, post: Some(post), repeat }
    }

    pub(crate) fn parts_mut(&mut self) -> &mut Parts {
        Arc::make_mut(&mut self.0)
    }

    fn settings_mut(&mut self) -> &mut Settings {
        Arc::make_mut(&mut self.parts_mut().settings)
    }
}
