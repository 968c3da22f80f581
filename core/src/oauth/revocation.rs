//! Token revocation (RFC 7009).
//!
//! ```
//! use keybound_core::*;
//!
//! # fn main() -> Result<(), Error> {
//! let client = Client::new(Endpoint::https("https://as.example/token")?, ClientAuth::none("app")?)
//!     .revocation_endpoint(Endpoint::https("https://as.example/revoke")?);
//! let operation = client.revoke(Secret::new("45ghiukldjahdnhzdauz"), Some(TokenTypeHint::RefreshToken))?;
//! # let _ = operation; // a driver runs it
//! # Ok(())
//! # }
//! ```

use crate::oauth::client::{Client, required};
use crate::request::operation::{FromResponse, Operation, SuccessResponse, sealed};
use crate::types::{error::ParseError, input::InvalidInput, secret::Secret};
use crate::wire::{error_response::request_id, json::JsonObject, params::Params};

impl Client {
    /// Revokes an access token or a refresh token (RFC 7009).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the client has no [revocation
    /// endpoint](Self::revocation_endpoint).
    pub fn revoke(
        &self,
        token: Secret,
        hint: Option<TokenTypeHint>,
    ) -> Result<Operation<Revoked>, InvalidInput> {
        let endpoint = self.0.revocation_endpoint.as_ref();
        let endpoint = required(endpoint, "revocation_endpoint")?;
        Ok(self.post(endpoint, params(token, hint), self.key(), ()))
    }
}

/// The type of a token, as `token_type_hint` (RFC 7009 §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenTypeHint {
    /// `access_token`
    AccessToken,
    /// `refresh_token`
    RefreshToken,
}

/// The success of a revocation. The token is revoked, or was never valid: RFC 7009 §2.2 makes no
/// distinction.
#[derive(Clone, Debug)]
pub struct Revoked {
    request_id: Option<String>,
}

impl Revoked {
    /// Returns the `x-request-id` of the response.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }
}

/// Returns the parameters of a request about a token.
pub(super) fn params(token: Secret, hint: Option<TokenTypeHint>) -> Params {
    let params = Params::new("token", token);
    match hint {
        Some(TokenTypeHint::AccessToken) => params.and("token_type_hint", "access_token"),
        Some(TokenTypeHint::RefreshToken) => params.and("token_type_hint", "refresh_token"),
        None => params,
    }
}

impl sealed::Sealed for Revoked {}

/// Accepts every 2xx status: RFC 7009 requires 200, Moov sends 204. Only an error in the body is a
/// failure.
impl FromResponse for Revoked {
    type Expected = ();

    fn parse(success: &SuccessResponse<'_>, (): &()) -> Result<Self, ParseError> {
        match JsonObject::of_body(success.body) {
            Ok(members) if members.get("error").is_some() => Err(ParseError::Refusal),
            _ => Ok(Self {
                request_id: request_id(success.headers),
            }),
        }
    }
}
