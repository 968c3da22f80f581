//! Token requests (RFC 6749 §4 to §6), also with a proof made by another party.

use http::{HeaderMap, StatusCode};

use crate::dpop::{DPOP, VerifiedProof, sensitive};
use crate::jose::PublicJwk;
use crate::oauth::grant::{Grant, Polling};
use crate::oauth::{client::Client, issuer::Server, token::Token};
use crate::request::operation::{FromResponse, Operation, SuccessResponse};
use crate::request::retry::RetrySafety;
use crate::types::error::{Error, InvalidResponse, InvalidResponseKind, ParseError, ResponseMeta};
use crate::types::{input::InvalidInput, time::UnixTime};
use crate::wire::error_response::Redactor;
use crate::wire::json::{Text, strip_bom};

impl Client {
    /// Requests a token (RFC 6749 §4 to §6).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the grant lacks a [required scope](Self::require_scope), has
    /// `scope` twice, or was issued by another server (RFC 9700 §4.4). A code or a device code must
    /// be redeemed by a client of the same issuer or, without an issuer, of the same token
    /// endpoint.
    pub fn token(&self, grant: Grant) -> Result<Operation<Token>, InvalidInput> {
        self.token_request(grant, self.key())
    }

    /// Requests a token bound to the key of this client. The request gets a proof only if `proving`
    /// is that key; otherwise the proof is already among the headers.
    fn token_request(
        &self,
        grant: Grant,
        proving: Option<&PublicJwk>,
    ) -> Result<Operation<Token>, InvalidInput> {
        if self.0.require_scope && grant.is_client_credentials() && grant.scope.is_none() {
            let rule = "must be given: this server requires it for client_credentials";
            return Err(InvalidInput::new("scope", rule));
        }
        let is_foreign = |server: &Server| !server.is_same_as(&self.server());
        if grant.server.as_ref().is_some_and(is_foreign) {
            return Err(InvalidInput::ServerMismatch);
        }
        let (mut params, polling) = (grant.params, grant.polling);
        if let Some(scope) = grant.scope {
            params.push("scope", scope.0)?;
        }
        let mut expected = self.0.expected.clone();
        (expected.refresh_token, expected.polling) = (grant.refresh_token, polling);
        let request = self.endpoint_request(self.0.token_endpoint.clone(), params, proving);
        let operation = Operation::new(request, grant.retry_safety, expected);
        Ok(match polling {
            Some(Polling { interval, .. }) => operation.delayed_by(interval),
            None => operation,
        })
    }

    /// Requests a token bound to the key of a proof that another party, such as a browser, made for
    /// this request. The proof is sent unchanged in the `DPoP` header.
    ///
    /// A proof is valid for one request, so the request is never retried. If the server requires a
    /// nonce, the error has the code `use_dpop_nonce` and contains [the
    /// nonce](crate::ServerError::nonce).
    ///
    /// # Errors
    /// As for [`token`](Self::token).
    pub fn relay(
        &self,
        mut grant: Grant,
        proof: VerifiedProof,
    ) -> Result<Operation<Token>, InvalidInput> {
        let VerifiedProof { proof, key, .. } = proof;
        let mut client = self.clone().dpop(key);
        let header = sensitive(proof.expose().as_bytes().to_vec());
        client.options_mut().headers.insert(DPOP, header);
        let is_repeatable = grant.is_repeatable();
        (grant.retry_safety, grant.polling) = (RetrySafety::Never, None);
        let operation = client.token_request(grant, None)?;
        Ok(match is_repeatable {
            true => operation,
            false => operation.over_new_connection(),
        })
    }

    /// Parses a token response (RFC 6749 §5.1) to a request that this client did not send itself.
    /// For example, a backend relayed the proof of a page and forwards the response. The response
    /// is validated like any other.
    ///
    /// # Errors
    /// Returns [`Error::Response`] if it contains no valid token for this client's key.
    pub fn parse_token_response(&self, body: &[u8], now: UnixTime) -> Result<Token, Error> {
        let headers = HeaderMap::new();
        let success = SuccessResponse {
            headers: &headers,
            body: &Text::of(strip_bom(body)),
            now,
        };
        Token::parse(&success, &self.0.expected).map_err(|error| {
            let kind = match error {
                ParseError::Bad(kind) => kind,
                ParseError::Refusal => InvalidResponseKind::Missing("access_token"),
            };
            let (server, secrets) = ("the server".into(), Redactor::from_iter([]));
            let meta = ResponseMeta::new(server, StatusCode::OK, &headers, &secrets);
            InvalidResponse { meta, kind }.into()
        })
    }
}
