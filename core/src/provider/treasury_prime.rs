//! [Treasury Prime](https://docs.treasuryprime.com): `POST /person/{id}/uxt_access_token`, which hands a
//! browser's DPoP proof on to Marqeta and brings back a token bound to the browser's key.

use std::sync::Arc;

use http::HeaderMap;

use crate::dpop::VerifiedProof;
use crate::oauth::token::{self, Expected, ExpiresIn, Token};
use crate::request::client_auth::ClientAuth;
use crate::request::operation::{ClientRequest, EndpointRequest, Operation, RequestOptions};
use crate::request::retry::RetrySafety;
use crate::types::endpoint::Endpoint;
use crate::types::escape::push_segment;
use crate::types::input::InvalidInput;
use crate::wire::params::{BodyFormat, Params};

/// Treasury Prime's API, for one API key.
#[derive(Clone, Debug)]
#[must_use]
pub struct TreasuryPrime {
    base: Endpoint,
    options: Arc<RequestOptions>,
}

impl TreasuryPrime {
    /// `https://api.treasuryprime.com`. The API key goes by [`ClientAuth::basic`] (its id as id, its value as
    /// secret), [verbatim](ClientAuth::verbatim) as its reference has it, or as a JWT by [`ClientAuth::bearer`].
    pub fn production(auth: ClientAuth) -> Self {
        Self::at(
            Endpoint::from_static("https://api.treasuryprime.com/"),
            auth,
        )
    }

    /// `https://api.sandbox.treasuryprime.com`, which has API keys of its own.
    pub fn sandbox(auth: ClientAuth) -> Self {
        Self::at(
            Endpoint::from_static("https://api.sandbox.treasuryprime.com/"),
            auth,
        )
    }

    /// Another host, for mocks.
    pub fn at(base: Endpoint, auth: ClientAuth) -> Self {
        let auth = auth.clone().verbatim().unwrap_or(auth);
        let settings = RequestOptions {
            auth,
            format: BodyFormat::Json,
            headers: HeaderMap::new(),
            params: Params::default(),
        };
        Self {
            base,
            options: Arc::new(settings),
        }
    }

    /// Asks for a Marqeta UX Toolkit token for the cardholder `person_id` (`psn_…`), with a proof that the
    /// cardholder's browser made.
    ///
    /// The proof is good for one request, and can't be made anew here: so nothing is ever sent twice. Where
    /// the server wants a nonce, the error has the code `use_dpop_nonce` and
    /// [the nonce](crate::ServerError::nonce), which the browser needs for its next proof.
    ///
    /// # Errors
    /// `InvalidInput` if the id can't stand in a path.
    pub fn uxt_access_token(
        &self,
        person_id: &str,
        proof: VerifiedProof,
    ) -> Result<Operation<Token>, InvalidInput> {
        let mut path = b"/person/".to_vec();
        if matches!(person_id, "" | "." | "..") {
            return Err(InvalidInput::new(
                "person_id",
                "must be an id such as psn_…",
            ));
        }
        push_segment(person_id, &mut path);
        path.extend(b"/uxt_access_token");
        let endpoint = self.base.join(&String::from_utf8_lossy(&path))?;

        let VerifiedProof { proof, key, .. } = proof;
        let expected = Expected {
            key: Some(key),
            accept_bearer: false,
            expires_in: ExpiresIn::default(),
            refresh_token: None,
        };
        let audience = self.base.to_string();
        let post = ClientRequest::new(&self.options, Params::new("dpop", proof), None, &audience);
        let ask = EndpointRequest {
            endpoint,
            client_request: Some(post),
            retry_safety: RetrySafety::Never,
        };
        Ok(Operation::new(ask, move |success| {
            token::read(success, &expected)
        }))
    }
}
