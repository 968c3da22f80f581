//! Token revocation (RFC 7009).
//!
//! ```
//! use keybound_core::*;
//!
//! # fn main() -> Result<(), Error> {
//! let client = Client::new(Endpoint::https("https://as.example/token")?, ClientAuth::none("app")?)
//!     .revocation_endpoint(Endpoint::https("https://as.example/revoke")?);
//! let exchange = client.revoke(Secret::new("45ghiukldjahdnhzdauz"), Some(TokenTypeHint::RefreshToken))?;
//! let now = UnixTime::from_secs(1_800_000_000);
//! let Signing::Ready(out) = exchange.prepare(&Origins::new(), Ambient::new(now, [1; 16]))? else { panic!() };
//! assert!(matches!(out.pending.receive(http::Response::new(""), &mut Origins::new(), now)?, Received::Done(_)));
//! # Ok(())
//! # }
//! ```

use crate::error::{Misuse, Unread};
use crate::exchange::Success;
use crate::secret::Secret;
use crate::wire::fields::Fields;
use crate::wire::json::Members;
use crate::wire::refusal::request_id;

/// `token_type_hint` (RFC 7009 §2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TokenTypeHint {
    /// `access_token`
    AccessToken,
    /// `refresh_token`
    RefreshToken,
}

impl TokenTypeHint {
    const fn as_str(self) -> &'static str {
        match self {
            Self::AccessToken => "access_token",
            Self::RefreshToken => "refresh_token",
        }
    }
}

/// The token is revoked, or was never good: RFC 7009 §2.2 doesn't tell.
#[derive(Clone, Debug)]
pub struct Revoked {
    request_id: Option<String>,
}

impl Revoked {
    /// `x-request-id`.
    pub fn request_id(&self) -> Option<&str> {
        self.request_id.as_deref()
    }
}

pub(crate) fn fields(token: Secret, hint: Option<TokenTypeHint>) -> Result<Fields, Misuse> {
    let mut fields = Fields::of("token", token);
    if let Some(hint) = hint {
        fields.push("token_type_hint", hint.as_str())?;
    }
    Ok(fields)
}

/// Any 2xx will do: RFC 7009 says 200, Moov 204. Only an error in the body speaks against it.
pub(crate) fn read(success: &Success<'_>) -> Result<Revoked, Unread> {
    match Members::of_body(success.body) {
        Ok(members) if members.get("error").is_some() => Err(Unread::Refusal),
        _ => Ok(Revoked { request_id: request_id(success.headers) }),
    }
}
