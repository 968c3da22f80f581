//! [Treasury Prime](https://docs.treasuryprime.com): `POST /person/{id}/uxt_access_token`, which
//! forwards a browser's DPoP proof to Marqeta and returns a token bound to the browser's key.

use crate::dpop::VerifiedProof;
use crate::oauth::{client::Client, token::Token};
use crate::request::{client_auth::ClientAuth, operation::Operation, retry::RetrySafety};
use crate::types::{endpoint::Endpoint, escape::push_segment, input::InvalidInput};
use crate::wire::params::{BodyFormat, Params};

/// Treasury Prime's API, with the credentials of one API key.
#[derive(Clone, Debug)]
#[must_use]
// The token endpoint of the client is the base URL.
pub struct TreasuryPrime(Client);

impl TreasuryPrime {
    /// Creates the settings for the production API, `https://api.treasuryprime.com`.
    ///
    /// Pass the API key as [`ClientAuth::basic`] (its id as id, its value as secret), or as a JWT with
    /// [`ClientAuth::bearer`]. Basic credentials are sent [verbatim](ClientAuth::verbatim), as Treasury
    /// Prime's reference requires.
    pub fn production(auth: ClientAuth) -> Self {
        let base = Endpoint::from_static("https://api.treasuryprime.com/");
        Self::at(base, auth)
    }

    /// Creates the settings for the sandbox, `https://api.sandbox.treasuryprime.com`, which has its own
    /// API keys.
    pub fn sandbox(auth: ClientAuth) -> Self {
        let base = Endpoint::from_static("https://api.sandbox.treasuryprime.com/");
        Self::at(base, auth)
    }

    /// Creates the settings for another base URL, for mocks.
    pub fn at(base: Endpoint, auth: ClientAuth) -> Self {
        let auth = auth.clone().verbatim().unwrap_or(auth);
        Self(Client::new(base, auth).body_format(BodyFormat::Json))
    }

    /// Returns the request for a Marqeta UX Toolkit token for the cardholder `person_id` (`psn_…`), with
    /// a proof created by the cardholder's browser.
    ///
    /// The proof is valid for one request and can't be created again here, so the request is never
    /// retried. If the server requires a nonce, the error has the code `use_dpop_nonce` and
    /// [the nonce](crate::ServerError::nonce) for the browser's next proof.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `person_id` is empty, `.` or `..`, or if the base URL has a
    /// query.
    pub fn uxt_access_token(
        &self,
        person_id: &str,
        proof: VerifiedProof,
    ) -> Result<Operation<Token>, InvalidInput> {
        let mut path = b"/person/".to_vec();
        if matches!(person_id, "" | "." | "..") {
            let rule = "must be an id such as psn_…";
            return Err(InvalidInput::new("person_id", rule));
        }
        push_segment(person_id, &mut path);
        path.extend(b"/uxt_access_token");
        let base = self.0.token_endpoint();
        let endpoint = base.join(&String::from_utf8_lossy(&path))?;

        let VerifiedProof { proof, key, .. } = proof;
        let client = self.0.clone().dpop(key);
        let request = client.endpoint_request(endpoint, Params::new("dpop", proof), None);
        let (safety, expected) = (RetrySafety::Never, client.0.expected.clone());
        Ok(Operation::new(request, safety, expected))
    }
}
