//! What a token is asked for with.

use std::fmt;

use crate::error::Misuse;
use crate::secret::Secret;
use crate::tries::Repeat;
use crate::wire::fields::Fields;

/// An authorization grant (RFC 6749 §1.3): a `grant_type` and its parameters. Any grant can be made with
/// [`extension`](Self::extension); the others are short cuts.
#[derive(Clone, Debug)]
#[must_use]
pub struct Grant {
    pub(crate) fields: Fields,
    pub(crate) repeat: Repeat,
    /// The refresh token that stays good if the answer brings no other.
    pub(crate) refresh_token: Option<Secret>,
    pub(crate) scope: Option<Scope>,
}

impl Grant {
    /// The client's own authority (RFC 6749 §4.4).
    pub fn client_credentials() -> Self {
        Self { repeat: Repeat::Freely, ..Self::of(CLIENT_CREDENTIALS) }
    }

    /// A refresh token (RFC 6749 §6). The server may rotate it, so the request is not sent again where it
    /// may have been carried out.
    ///
    /// # Errors
    /// `Misuse` if it is empty.
    pub fn refresh_token(refresh_token: Secret) -> Result<Self, Misuse> {
        if refresh_token.expose().is_empty() {
            return Err(Misuse::new("refresh_token", "must not be empty"));
        }
        let grant = Self::of("refresh_token");
        let fields = grant.fields.and("refresh_token", refresh_token.clone());
        Ok(Self { fields, refresh_token: Some(refresh_token), ..grant })
    }

    /// A code that a redirect brought (RFC 6749 §4.1.3, RFC 7636 §4.5). It is good for once.
    pub(crate) fn authorization_code(code: Secret, redirect_uri: String, code_verifier: Secret) -> Self {
        let grant = Self::of("authorization_code");
        let fields = grant.fields.and("code", code).and("redirect_uri", redirect_uri);
        Self { fields: fields.and("code_verifier", code_verifier), ..grant }
    }

    /// Any other grant (RFC 6749 §4.5): `grant_type` is its name or URN.
    ///
    /// # Errors
    /// `Misuse` if the name is empty.
    pub fn extension(grant_type: &str) -> Result<Self, Misuse> {
        if grant_type.is_empty() {
            return Err(Misuse::new("grant_type", "must not be empty"));
        }
        Ok(Self::of(grant_type))
    }

    fn of(grant_type: &str) -> Self {
        Self {
            fields: Fields::of("grant_type", grant_type.to_owned()),
            repeat: Repeat::IfNotCarriedOut,
            refresh_token: None,
            scope: None,
        }
    }

    /// Says that asking twice does no harm, so that the request may be sent again after a lost connection.
    pub fn repeatable(mut self) -> Self {
        self.repeat = Repeat::Freely;
        self
    }

    /// `scope` (RFC 6749 §3.3).
    pub fn scope(mut self, scope: Scope) -> Self {
        self.scope = Some(scope);
        self
    }

    /// A further parameter.
    ///
    /// # Errors
    /// `Misuse` if it was given before.
    pub fn param(mut self, name: &str, value: &str) -> Result<Self, Misuse> {
        self.fields.push(name.to_owned(), value.to_owned())?;
        Ok(self)
    }

    /// A further parameter whose value must not be seen.
    ///
    /// # Errors
    /// `Misuse` if it was given before.
    pub fn secret_param(mut self, name: &str, value: Secret) -> Result<Self, Misuse> {
        self.fields.push(name.to_owned(), value)?;
        Ok(self)
    }

    /// Whether asking twice does no harm: so for client credentials, and where [`repeatable`](Self::repeatable)
    /// says so.
    pub fn is_repeatable(&self) -> bool {
        self.repeat == Repeat::Freely
    }

    pub(crate) fn is_client_credentials(&self) -> bool {
        self.fields.get("grant_type") == Some(CLIENT_CREDENTIALS)
    }

    /// All that the grant says.
    pub(crate) fn into_fields(mut self) -> Result<Fields, Misuse> {
        if let Some(scope) = self.scope {
            self.fields.push("scope", scope.0)?;
        }
        Ok(self.fields)
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
    /// `Misuse` if there is none, or one has a character that RFC 6749 §3.3 doesn't allow.
    pub fn new(tokens: &str) -> Result<Self, Misuse> {
        Self::of(tokens.split(' ').filter(|token| !token.is_empty()))
    }

    /// Scope tokens, one by one.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn of<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Result<Self, Misuse> {
        let mut scope = String::new();
        for token in tokens {
            if token.is_empty() || !token.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E))
            {
                return Err(Misuse::new(
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
            return Err(Misuse::new("scope", "must not be empty"));
        }
        Ok(Self(scope))
    }

    /// What a server granted, whatever it is made of; `None` for nothing.
    pub(crate) fn granted<'a>(tokens: impl Iterator<Item = &'a str>) -> Option<Self> {
        let tokens: Vec<&str> = tokens.filter(|token| !token.is_empty()).collect();
        (!tokens.is_empty()).then(|| Self(tokens.join(" ")))
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
            Scope::new("  /accounts.read   /accounts.write ").unwrap().as_str(),
            "/accounts.read /accounts.write"
        );
        for bad in ["", " ", "a\"b", "a\\b", "a\nb", "ü"] {
            assert_eq!(Scope::new(bad).unwrap_err().argument(), "scope", "{bad:?}");
        }
        assert!(Scope::of(["a b"]).is_err());
    }
}
