//! Token requests with a proof that somebody else has made.

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
    /// Asks for a token bound to the key of a proof that somebody else has made for this request, a browser for one: the
    /// proof goes along as it is, in its header. It is good for one request, so nothing is ever sent twice; where the
    /// server wants a nonce, the error has the code `use_dpop_nonce` and [the nonce](crate::ServerError::nonce).
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

    /// Takes a token response (RFC 6749 §5.1) that came another way than by a request of this client's: a backend has
    /// relayed a page's proof, and hands the answer on. It is checked like any other.
    ///
    /// # Errors
    /// `Response` if it is no token for this client's key.
    pub fn parse_token_response(&self, answer: &[u8], now: UnixTime) -> Result<Token, Error> {
        let headers = HeaderMap::new();
        let success = SuccessResponse {
            headers: &headers,
            body: &Text::of(strip_bom(answer)),
            now,
        };
        token::read(&success, &self.expected(None)).map_err(|unread| {
            let why = match unread {
                ParseError::Bad(why) => why,
                ParseError::Refusal => InvalidResponseKind::Missing("access_token"),
            };
            let envelope = ResponseMeta::new(
                "the server".into(),
                StatusCode::OK,
                &headers,
                &Redactor::from_iter([]),
            );
            InvalidResponse {
                meta: envelope,
                kind: why,
            }
            .into()
        })
    }
}
