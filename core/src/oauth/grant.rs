//! What a token is asked for with. Whatever the grant, the exchange is the same:
//!
//! ```
//! use keybound_core::*;
//! use keybound_core::driver::*;
//!
//! # fn main() -> Result<(), Error> {
//! let grants = [
//!     Grant::client_credentials().scope(Scope::new("accounts")?).resource("https://rs.example/")?,
//!     Grant::refresh_token(Secret::new("tGzv"))?,
//!     Grant::token_exchange(Secret::new("accVkj"), "urn:ietf:params:oauth:token-type:access_token")?,
//!     Grant::jwt_bearer(Secret::new("eyJ.eyJ.c2ln"))?,
//!     Grant::extension("account_credentials")?.param("account_id", "abc")?, // Zoom's
//! ];
//! let auth = ClientAuth::basic("my-client", Secret::new("my secret"))?;
//! let client = Client::new(Endpoint::https("https://as.example/token")?, auth);
//! let now = UnixTime::from_secs(1_800_000_000);
//! for grant in grants {
//!     let exchange = client.token(grant)?;
//!     let Signing::Ready(out) = exchange.prepare(&ServerState::new(), RequestContext::new(now, [1; 16]))? else { panic!() };
//!     let answer = http::Response::new(r#"{"access_token":"abc","token_type":"Bearer"}"#);
//!     assert!(matches!(out.pending.receive(answer, &mut ServerState::new(), now)?, Step::Done(_)));
//! }
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::time::Duration;

use crate::oauth::issuer::Server;
use crate::request::retry::RetrySafety;
use crate::types::endpoint::scheme;
use crate::types::input::InvalidInput;
use crate::types::secret::Secret;
use crate::types::time::UnixTime;
use crate::wire::params::Params;

/// An authorization grant (RFC 6749 §1.3): a `grant_type` and its parameters. Any grant can be made with
/// [`extension`](Self::extension); the others are short cuts.
#[derive(Clone, Debug)]
#[must_use]
pub struct Grant {
    pub(crate) params: Params,
    pub(crate) retry_safety: RetrySafety,
    /// The refresh token that stays good if the answer brings no other.
    pub(crate) refresh_token: Option<Secret>,
    pub(crate) scope: Option<Scope>,
    /// How to ask again while somebody has yet to decide.
    pub(crate) polling: Option<Polling>,
    /// Where it was begun, and is to be redeemed; `None` for one that is good wherever the application sends it.
    pub(crate) server: Option<Server>,
}

/// How often a token is asked for, and until when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Polling {
    pub(crate) interval: Duration,
    pub(crate) until: UnixTime,
}

impl Grant {
    /// The client's own authority (RFC 6749 §4.4).
    pub fn client_credentials() -> Self {
        Self {
            retry_safety: RetrySafety::Idempotent,
            ..Self::new(CLIENT_CREDENTIALS)
        }
    }

    /// A refresh token (RFC 6749 §6). The server may rotate it, so the request is not sent again where it
    /// may have been carried out.
    ///
    /// # Errors
    /// `InvalidInput` if it is empty.
    pub fn refresh_token(refresh_token: Secret) -> Result<Self, InvalidInput> {
        if refresh_token.expose().is_empty() {
            return Err(InvalidInput::new("refresh_token", "must not be empty"));
        }
        let grant = Self::new("refresh_token");
        let fields = grant.params.and("refresh_token", refresh_token.clone());
        Ok(Self {
            params: fields,
            refresh_token: Some(refresh_token),
            ..grant
        })
    }

    /// A code that a redirect brought (RFC 6749 §4.1.3, RFC 7636 §4.5). It is good for once.
    pub(crate) fn authorization_code(
        code: Secret,
        redirect_uri: String,
        code_verifier: Secret,
    ) -> Self {
        let grant = Self::new("authorization_code");
        let fields = grant
            .params
            .and("code", code)
            .and("redirect_uri", redirect_uri);
        Self {
            params: fields.and("code_verifier", code_verifier),
            ..grant
        }
    }

    /// Another token in exchange for one (RFC 8693 §2.1), such as `urn:ietf:params:oauth:token-type:access_token`. What came
    /// of it, the answer tells as `issued_token_type` ([`Token::extra`](crate::Token::extra)).
    ///
    /// # Errors
    /// `InvalidInput` if token or type is empty.
    pub fn token_exchange(
        subject_token: Secret,
        subject_token_type: &str,
    ) -> Result<Self, InvalidInput> {
        Self::new("urn:ietf:params:oauth:grant-type:token-exchange").typed_token(
            ["subject_token", "subject_token_type"],
            subject_token,
            subject_token_type,
        )
    }

    /// The token of whoever acts for the subject (RFC 8693 §2.1).
    ///
    /// # Errors
    /// `InvalidInput` if token or type is empty, or it was given before.
    pub fn actor_token(
        self,
        actor_token: Secret,
        actor_token_type: &str,
    ) -> Result<Self, InvalidInput> {
        self.typed_token(
            ["actor_token", "actor_token_type"],
            actor_token,
            actor_token_type,
        )
    }

    fn typed_token(
        self,
        names: [&'static str; 2],
        token: Secret,
        token_type: &str,
    ) -> Result<Self, InvalidInput> {
        let [token_name, type_name] = names;
        if token.expose().is_empty() {
            return Err(InvalidInput::new(token_name, "must not be empty"));
        }
        if token_type.is_empty() {
            return Err(InvalidInput::new(type_name, "must not be empty"));
        }
        self.secret_param(token_name, token)?
            .param(type_name, token_type)
    }

    /// A JWT that somebody has signed for this (RFC 7523 §2.1).
    ///
    /// # Errors
    /// `InvalidInput` if it is empty.
    pub fn jwt_bearer(assertion: Secret) -> Result<Self, InvalidInput> {
        if assertion.expose().is_empty() {
            return Err(InvalidInput::new("assertion", "must not be empty"));
        }
        Self::new("urn:ietf:params:oauth:grant-type:jwt-bearer")
            .secret_param("assertion", assertion)
    }

    /// A code whose person decides on another device (RFC 8628 §3.4).
    pub(crate) fn device_code(device_code: Secret, polling: Polling) -> Self {
        let grant = Self::new("urn:ietf:params:oauth:grant-type:device_code");
        let fields = grant.params.and("device_code", device_code);
        Self {
            params: fields,
            retry_safety: RetrySafety::Idempotent,
            polling: Some(polling),
            ..grant
        }
    }

    /// Has it redeemed by clients of this server alone.
    pub(crate) fn begun_at(self, server: Server) -> Self {
        Self {
            server: Some(server),
            ..self
        }
    }

    /// Any other grant (RFC 6749 §4.5): `grant_type` is its name or URN.
    ///
    /// # Errors
    /// `InvalidInput` if the name is empty.
    pub fn extension(grant_type: &str) -> Result<Self, InvalidInput> {
        if grant_type.is_empty() {
            return Err(InvalidInput::new("grant_type", "must not be empty"));
        }
        Ok(Self::new(grant_type))
    }

    fn new(grant_type: &str) -> Self {
        Self {
            params: Params::new("grant_type", grant_type.to_owned()),
            retry_safety: RetrySafety::SingleUse,
            refresh_token: None,
            scope: None,
            polling: None,
            server: None,
        }
    }

    /// Says that asking twice does no harm, so that the request may be sent again after a lost connection.
    pub fn repeatable(mut self) -> Self {
        self.retry_safety = RetrySafety::Idempotent;
        self
    }

    /// `scope` (RFC 6749 §3.3).
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// `resource` (RFC 8707 §2): where the token is to be used, as an absolute URI. There may be several. A code's grant has
    /// those of its authorization request already; one that is given twice is sent once.
    ///
    /// # Errors
    /// `InvalidInput` for anything else, and for a fragment.
    pub fn resource(self, uri: &str) -> Result<Self, InvalidInput> {
        let uri = checked_resource(uri)?;
        if self.params.all("resource").any(|known| known == uri) {
            return Ok(self);
        }
        self.param("resource", uri)
    }

    /// A further parameter.
    ///
    /// # Errors
    /// `InvalidInput` if it was given before; only `resource` and `audience` may stand more than once.
    pub fn param(mut self, name: &str, value: &str) -> Result<Self, InvalidInput> {
        self.params.push(name.to_owned(), value.to_owned())?;
        Ok(self)
    }

    /// A further parameter whose value must not be seen.
    ///
    /// # Errors
    /// `InvalidInput` if it was given before.
    pub fn secret_param(mut self, name: &str, value: Secret) -> Result<Self, InvalidInput> {
        self.params.push(name.to_owned(), value)?;
        Ok(self)
    }

    /// Whether it is good for more than one token: so for client credentials, and where [`repeatable`](Self::repeatable)
    /// says so.
    pub fn is_repeatable(&self) -> bool {
        // A device's code is asked about as often as it takes, and used up by the token.
        self.retry_safety == RetrySafety::Idempotent && self.polling.is_none()
    }

    /// Returns the scope that is asked for (RFC 6749 §3.3), if one was [set](Self::scope).
    pub fn requested_scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// Returns the [resources](Self::resource) that the token is to be used at (RFC 8707 §2).
    pub fn requested_resources(&self) -> impl Iterator<Item = &str> {
        self.params.all("resource")
    }

    pub(crate) fn is_client_credentials(&self) -> bool {
        self.params.get("grant_type") == Some(CLIENT_CREDENTIALS)
    }

    /// All that the grant says.
    pub(crate) fn into_params(mut self) -> Result<Params, InvalidInput> {
        if let Some(scope) = self.scope {
            self.params.push("scope", scope.0)?;
        }
        Ok(self.params)
    }
}

/// A resource indicator (RFC 8707 §2).
pub(crate) fn checked_resource(uri: &str) -> Result<&str, InvalidInput> {
    match scheme(uri) {
        Some(_) if !uri.contains('#') => Ok(uri),
        _ => Err(InvalidInput::new(
            "resource",
            "must be an absolute URI without a fragment",
        )),
    }
}

const CLIENT_CREDENTIALS: &str = "client_credentials";

/// A set of scope tokens (RFC 6749 §3.3), never empty; they are an open set, in the server's own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope(pub(crate) String);

impl Scope {
    /// Scope tokens, separated by spaces.
    ///
    /// # Errors
    /// `InvalidInput` if there is none, or one has a character that RFC 6749 §3.3 doesn't allow.
    pub fn new(tokens: &str) -> Result<Self, InvalidInput> {
        Self::from_tokens(tokens.split(' ').filter(|token| !token.is_empty()))
    }

    /// Scope tokens, one by one.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn from_tokens<'a>(
        tokens: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidInput> {
        let mut scope = String::new();
        for token in tokens {
            if token.is_empty()
                || !token
                    .bytes()
                    .all(|byte| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E))
            {
                return Err(InvalidInput::new(
                    "scope",
                    "must be made of printable ASCII tokens without quotes or backslashes",
                ));
            }
            if !scope.is_empty() {
                scope.push(' ');
            }
            scope.push_str(token);
        }
        if scope.is_empty() {
            return Err(InvalidInput::new("scope", "must not be empty"));
        }
        Ok(Self(scope))
    }

    /// What a server granted, whatever it is made of; `None` for nothing.
    pub(crate) fn granted(tokens: impl Iterator<Item = impl AsRef<str>>) -> Option<Self> {
        let mut scope = String::with_capacity(64);
        for token in tokens {
            // An element of a list may be several.
            for token in token.as_ref().split(' ').filter(|token| !token.is_empty()) {
                if !scope.is_empty() {
                    scope.push(' ');
                }
                scope.push_str(token);
            }
        }
        (!scope.is_empty()).then_some(Self(scope))
    }

    /// The tokens, separated by single spaces.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tokens, one by one.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ')
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_never_empty_and_has_the_characters_of_rfc_6749() {
        assert_eq!(
            Scope::new("  /accounts.read   /accounts.write ")
                .unwrap()
                .as_str(),
            "/accounts.read /accounts.write"
        );
        for bad in ["", " ", "a\"b", "a\\b", "a\nb", "ü"] {
            assert_eq!(Scope::new(bad).unwrap_err().argument(), "scope", "{bad:?}");
        }
        assert!(Scope::from_tokens(["a b"]).is_err());
    }
}
