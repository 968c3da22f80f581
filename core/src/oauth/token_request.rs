//! Token requests (RFC 6749 §4 to §6).

use crate::jose::PublicJwk;
use crate::oauth::client::Client;
use crate::oauth::grant::{Grant, Polling};
use crate::oauth::token::{Expected, Token};
use crate::request::operation::Operation;
use crate::types::input::InvalidInput;
use crate::types::secret::Secret;

impl Client {
    /// Requests a token (RFC 6749 §4 to §6).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the grant lacks a [required scope](Self::require_scope), has
    /// `scope` twice, or was issued by another server (RFC 9700 §4.4). A code or a device code must
    /// be redeemed by a client of the same issuer or, without an issuer, of the same token
    /// endpoint.
    pub fn token(&self, grant: Grant) -> Result<Operation<Token>, InvalidInput> {
        self.token_request(grant, self.0.key.as_ref())
    }

    /// Requests a token bound to the key of this client. The request gets a proof only if `proving`
    /// is that key; otherwise the proof is already among the headers.
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
            return Err(InvalidInput::ServerMismatch);
        }
        let (retry_safety, polling) = (grant.retry_safety, grant.polling);
        let expected = Expected {
            polling,
            ..self.expected(grant.refresh_token.clone())
        };
        let params = grant.into_params()?;
        let request = self.endpoint_request(self.0.token_endpoint.clone(), params, proving);
        let operation = Operation::new(request, retry_safety, expected);
        Ok(match polling {
            Some(Polling { interval, .. }) => operation.delayed_by(interval),
            None => operation,
        })
    }

    pub(super) fn expected(&self, refresh_token: Option<Secret>) -> Expected {
        Expected {
            key: self.0.key.clone(),
            accept_bearer: self.0.accept_bearer,
            expires_in: self.0.expires_in,
            refresh_token,
            polling: None,
        }
    }
}
