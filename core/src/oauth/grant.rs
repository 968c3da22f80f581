//! Authorization grants, for token requests. All grants are used in the same way:
//!
//! ```
//! use keybound_core::{Client, ClientAuth, Endpoint, Error, Grant, Scope, Secret};
//!
//! # fn main() -> Result<(), Error> {
//! let grants = [
//!     Grant::client_credentials().scope(Scope::new("accounts")?).resource("https://rs.example/")?,
//!     Grant::refresh_token(Secret::new("tGzv"))?,
//!     Grant::token_exchange(Secret::new("accVkj"), "urn:ietf:params:oauth:token-type:access_token")?,
//!     Grant::jwt_bearer(Secret::new("eyJ.eyJ.c2ln"))?,
//!     Grant::extension("account_credentials")?.param("account_id", "abc")?, // Zoom's grant type
//! ];
//! let auth = ClientAuth::basic("my-client", Secret::new("my secret"))?;
//! let client = Client::new(Endpoint::https("https://as.example/token")?, auth);
//! for grant in grants {
//!     let operation = client.token(grant)?; // a driver runs it, and returns the token
//!     # let _ = operation;
//! }
//! # Ok(())
//! # }
//! ```

use std::{borrow::Borrow, fmt, str::FromStr, time::Duration};

use crate::oauth::issuer::Server;
use crate::request::retry::RetrySafety;
use crate::types::{
    endpoint::scheme, input::InvalidInput, secret::Secret, text::serde_as_text, time::UnixTime,
};
use crate::wire::json::JsonValue;
use crate::wire::params::{ParamValue, Params};

/// An authorization grant (RFC 6749 §1.3): a `grant_type` and its parameters.
/// [`extension`](Self::extension) can create any grant; the other constructors are shortcuts.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Grant {
    pub(crate) params: Params,
    pub(crate) retry_safety: RetrySafety,
    /// The refresh token that remains in use if the response has no new one.
    pub(crate) refresh_token: Option<Secret>,
    pub(crate) scope: Option<Scope>,
    /// How to poll while the decision of the user is pending.
    pub(crate) polling: Option<Polling>,
    /// The authorization server that issued the grant and must redeem it. `None` if any server may
    /// redeem it.
    pub(crate) server: Option<Server>,
}

/// The interval between token requests, and the time at which polling ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Polling {
    pub(crate) interval: Duration,
    pub(crate) until: UnixTime,
}

impl Grant {
    /// Creates a client credentials grant (RFC 6749 §4.4): the client acts on its own behalf.
    pub fn client_credentials() -> Self {
        Self::new(CLIENT_CREDENTIALS).repeatable()
    }

    /// Creates a refresh token grant (RFC 6749 §6). The server may rotate the refresh token, so the
    /// request is not retried if the server may have processed it.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `refresh_token` is empty.
    pub fn refresh_token(refresh_token: Secret) -> Result<Self, InvalidInput> {
        must_not_be_empty("refresh_token", refresh_token.expose())?;
        let mut grant = Self::new("refresh_token").with("refresh_token", refresh_token.clone());
        grant.refresh_token = Some(refresh_token);
        Ok(grant)
    }

    /// Creates a token exchange grant (RFC 8693 §2.1), which exchanges `subject_token` for another
    /// token. `subject_token_type` is a URN such as
    /// `urn:ietf:params:oauth:token-type:access_token`. The response contains the type of the new
    /// token as `issued_token_type` ([`Token::extra`](crate::Token::extra)).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the token or its type is empty.
    pub fn token_exchange(
        subject_token: Secret,
        subject_token_type: &str,
    ) -> Result<Self, InvalidInput> {
        let names = ["subject_token", "subject_token_type"];
        let grant = Self::new("urn:ietf:params:oauth:grant-type:token-exchange");
        grant.typed_token(names, subject_token, subject_token_type)
    }

    /// Adds the token of the party that acts on behalf of the subject (RFC 8693 §2.1).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the token or its type is empty, or if an actor token was already
    /// added.
    pub fn actor_token(
        self,
        actor_token: Secret,
        actor_token_type: &str,
    ) -> Result<Self, InvalidInput> {
        let names = ["actor_token", "actor_token_type"];
        self.typed_token(names, actor_token, actor_token_type)
    }

    fn typed_token(
        self,
        [token_name, type_name]: [&'static str; 2],
        token: Secret,
        token_type: &str,
    ) -> Result<Self, InvalidInput> {
        must_not_be_empty(token_name, token.expose())?;
        must_not_be_empty(type_name, token_type)?;
        let grant = self.secret_param(token_name, token)?;
        grant.param(type_name, token_type)
    }

    /// Creates a JWT bearer grant from a signed assertion (RFC 7523 §2.1).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `assertion` is empty.
    pub fn jwt_bearer(assertion: Secret) -> Result<Self, InvalidInput> {
        must_not_be_empty("assertion", assertion.expose())?;
        Ok(Self::new("urn:ietf:params:oauth:grant-type:jwt-bearer").with("assertion", assertion))
    }

    /// Creates the grant of a device code, which the user approves on another device (RFC 8628
    /// §3.4).
    pub(crate) fn device_code(device_code: Secret, polling: Polling) -> Self {
        let grant = Self::new("urn:ietf:params:oauth:grant-type:device_code").repeatable();
        let mut grant = grant.with("device_code", device_code);
        grant.polling = Some(polling);
        grant
    }

    /// Creates any other grant (RFC 6749 §4.5). `grant_type` is its name or URN. The grant is
    /// single-use, unless it is marked as [`repeatable`](Self::repeatable).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `grant_type` is empty.
    pub fn extension(grant_type: &str) -> Result<Self, InvalidInput> {
        must_not_be_empty("grant_type", grant_type)?;
        Ok(Self::new(grant_type))
    }

    /// Creates a single-use grant.
    pub(super) fn new(grant_type: &str) -> Self {
        Self {
            params: Params::new("grant_type", grant_type.to_owned()),
            retry_safety: RetrySafety::SingleUse,
            refresh_token: None,
            scope: None,
            polling: None,
            server: None,
        }
    }

    /// Adds a parameter. Its name must be a constant of this crate and not be present yet.
    pub(super) fn with(mut self, name: &'static str, value: impl Into<ParamValue>) -> Self {
        self.params = self.params.and(name, value);
        self
    }

    /// Marks the grant as idempotent. The request may then be retried after a lost connection, and
    /// a session uses the grant for every later token as well. This is not sent.
    pub fn repeatable(mut self) -> Self {
        self.retry_safety = RetrySafety::Idempotent;
        self
    }

    /// Sets the `scope` parameter of the token request (RFC 6749 §3.3).
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Adds a `resource` parameter to the token request (RFC 8707 §2): the absolute URI of a
    /// resource where the token will be used. Can be called more than once; duplicates are sent
    /// once. The grant of an authorization code already has the resources of its authorization
    /// request.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `uri` is not an absolute URI or has a fragment.
    pub fn resource(self, uri: &str) -> Result<Self, InvalidInput> {
        let uri = checked_resource(uri)?;
        if self.params.all("resource").any(|known| known == uri) {
            return Ok(self);
        }
        self.param("resource", uri)
    }

    /// Adds a further parameter to the token request.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the name is empty, or if the parameter was already added. Only
    /// `resource` and `audience` may occur more than once.
    pub fn param(mut self, name: &str, value: &str) -> Result<Self, InvalidInput> {
        self.params.push(name.to_owned(), value.to_owned())?;
        Ok(self)
    }

    /// Adds a further parameter with a secret value, which is redacted in errors and `Debug`
    /// output.
    ///
    /// # Errors
    /// As for [`param`](Self::param).
    pub fn secret_param(mut self, name: &str, value: Secret) -> Result<Self, InvalidInput> {
        self.params.push(name.to_owned(), value)?;
        Ok(self)
    }

    /// Returns whether the grant can be used for more than one token. True for client credentials,
    /// and for grants marked as [`repeatable`](Self::repeatable).
    pub fn is_repeatable(&self) -> bool {
        // The poll for a device code is repeated, but a successful one consumes the code.
        self.retry_safety == RetrySafety::Idempotent && self.polling.is_none()
    }

    /// Returns the requested scope (RFC 6749 §3.3), if one was [set](Self::scope).
    pub fn requested_scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// Returns the requested [resources](Self::resource) (RFC 8707 §2).
    pub fn requested_resources(&self) -> impl Iterator<Item = &str> {
        self.params.all("resource")
    }

    pub(super) fn is_client_credentials(&self) -> bool {
        self.params.get("grant_type") == Some(CLIENT_CREDENTIALS)
    }
}

/// Validates a resource indicator (RFC 8707 §2).
pub(crate) fn checked_resource(uri: &str) -> Result<&str, InvalidInput> {
    let resource = Some(uri).filter(|uri| scheme(uri).is_some() && !uri.contains('#'));
    let invalid = InvalidInput::new("resource", "must be an absolute URI without a fragment");
    resource.ok_or(invalid)
}

fn must_not_be_empty(name: &'static str, value: &str) -> Result<(), InvalidInput> {
    match value.is_empty() {
        true => Err(InvalidInput::new(name, "must not be empty")),
        false => Ok(()),
    }
}

const CLIENT_CREDENTIALS: &str = "client_credentials";

/// A non-empty set of scope tokens (RFC 6749 §3.3). Each authorization server defines its own
/// tokens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(pub(crate) String);

impl Scope {
    /// Parses scope tokens separated by spaces.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if there is no token, or if a token has a character that RFC 6749
    /// §3.3 doesn't allow.
    pub fn new(tokens: &str) -> Result<Self, InvalidInput> {
        Self::from_tokens(tokens.split(' ').filter(|token| !token.is_empty()))
    }

    /// Creates a scope from separate tokens.
    ///
    /// # Errors
    /// As for [`new`](Self::new), and if a token is empty.
    pub fn from_tokens<'a>(
        tokens: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, InvalidInput> {
        let tokens: Vec<&str> = tokens.into_iter().collect();
        let is_allowed = |byte| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E);
        let is_valid = |token: &&str| !token.is_empty() && token.bytes().all(is_allowed);
        if !tokens.iter().all(is_valid) {
            let rule = "must be made of printable ASCII tokens without quotes or backslashes";
            return Err(InvalidInput::new("scope", rule));
        }
        let scope = tokens.join(" ");
        must_not_be_empty("scope", &scope)?;
        Ok(Self(scope))
    }

    /// Returns the scope that a server granted: a list with this separator, or an array.
    pub(super) fn from_value(value: JsonValue<'_>, separator: char) -> Option<Self> {
        match value.as_str() {
            Some(text) => Self::granted(text.split(separator)),
            None => Self::granted(value.texts()?),
        }
    }

    /// Returns the scope that a server granted. Accepts any characters. Returns `None` if there is
    /// no token.
    pub(crate) fn granted(tokens: impl Iterator<Item = impl AsRef<str>>) -> Option<Self> {
        let mut scope = String::with_capacity(64);
        for token in tokens {
            // An element of the list may contain several tokens.
            for token in token.as_ref().split(' ').filter(|token| !token.is_empty()) {
                if !scope.is_empty() {
                    scope.push(' ');
                }
                scope.push_str(token);
            }
        }
        (!scope.is_empty()).then_some(Self(scope))
    }

    /// Returns the tokens, separated by single spaces.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns an iterator over the tokens.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.split(' ')
    }
}

/// Parses as [`Scope::new`] does.
impl FromStr for Scope {
    type Err = InvalidInput;

    fn from_str(tokens: &str) -> Result<Self, InvalidInput> {
        Self::new(tokens)
    }
}

/// Parses as [`Scope::new`] does.
impl TryFrom<&str> for Scope {
    type Error = InvalidInput;

    fn try_from(tokens: &str) -> Result<Self, InvalidInput> {
        Self::new(tokens)
    }
}

impl AsRef<str> for Scope {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl Borrow<str> for Scope {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

serde_as_text!(Scope);

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
