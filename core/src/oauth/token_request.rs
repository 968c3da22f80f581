//! Token requests (RFC 6749 §4 to §6).

use crate::jose::PublicJwk;
use crate::oauth::client::Client;
use crate::oauth::grant::Grant;
use crate::oauth::polling;
use crate::oauth::token::{self, Expected, Token};
use crate::request::operation::Operation;
use crate::types::input::InvalidInput;
use crate::types::secret::Secret;

impl Client {
    /// Asks for a token (RFC 6749 §4 to §6).
    ///
    /// # Errors
    /// `InvalidInput` if the grant lacks what this client's server requires, and if it was begun at another server (RFC 9700
    /// §4.4): a code or a device code is redeemed by a client of the issuer, or else of the token endpoint, that gave it.
    pub fn token(&self, grant: Grant) -> Result<Operation<Token>, InvalidInput> {
        self.token_request(grant, self.0.key.as_ref())
    }

    /// A token for this client's key, whose proof is made here only if `proving` is that key.
    pub(super) fn token_request(
        &self,
        grant: Grant,
        proving: Option<&PublicJwk>,
    ) -> Result<Operation<Token>, InvalidInput> {
        if self.0.require_scope && grant.is_client_credentials() && grant.scope.is_none() {
            return Err(InvalidInput::new(
                "scope",
                "must be given: this server requires it for client_credentials",
            ));
        }
        if grant
            .server
            .as_ref()
            .is_some_and(|server| !server.is_same_as(&self.server()))
        {
            return Err(InvalidInput::new(
                "grant",
                "must be redeemed at the authorization server where it was begun: \
                 this client is of another issuer or token endpoint",
            ));
        }
        let (repeat, polling) = (grant.retry_safety, grant.polling);
        let expected = self.expected(grant.refresh_token.clone());
        let fields = grant.into_params()?;
        let ask = self.endpoint_request(self.0.token_endpoint.clone(), fields, proving, repeat);
        let exchange = Operation::new(ask, move |success| token::read(success, &expected));
        Ok(match polling {
            Some(polling) => polling::poll(exchange, polling),
            None => exchange,
        })
    }

    pub(super) fn expected(&self, refresh_token: Option<Secret>) -> Expected {
        Expected {
            key: self.0.key.clone(),
            accept_bearer: self.0.accept_bearer,
            expires_in: self.0.expires_in,
            refresh_token,
        }
    }
}
