//! Token requests with a proof made by another party.

use http::{HeaderMap, StatusCode};

use crate::dpop::{DPOP, VerifiedProof, sensitive};
use crate::oauth::client::Client;
use crate::oauth::grant::Grant;
use crate::oauth::token::{self, Token};
use crate::request::operation::{Operation, SuccessResponse};
use crate::request::retry::RetrySafety;
use crate::types::error::{Error, InvalidResponse, InvalidResponseKind, ParseError, ResponseMeta};
use crate::types::input::InvalidInput;
use crate::types::time::UnixTime;
use crate::wire::error_response::Redactor;
use crate::wire::json::{Text, strip_bom};

impl Client {
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
        grant: Grant,
        proof: VerifiedProof,
    ) -> Result<Operation<Token>, InvalidInput> {
        let VerifiedProof { proof, key, .. } = proof;
        let mut client = self.clone().dpop(key);
        client
            .options_mut()
            .headers
            .insert(DPOP, sensitive(proof.expose().as_bytes().to_vec()));
        client.token_request(
            Grant {
                retry_safety: RetrySafety::Never,
                polling: None,
                ..grant
            },
            None,
        )
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
        token::read(&success, &self.expected(None)).map_err(|error| {
            let kind = match error {
                ParseError::Bad(kind) => kind,
                ParseError::Refusal => InvalidResponseKind::Missing("access_token"),
            };
            let meta = ResponseMeta::new(
                "the server".into(),
                StatusCode::OK,
                &headers,
                &Redactor::from_iter([]),
            );
            InvalidResponse { meta, kind }.into()
        })
    }
}
