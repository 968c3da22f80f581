//! Token introspection (RFC 7662), for resource servers.
//!
//! ```
//! use keybound_core::*;
//! # use keybound_core::driver::FromResponse;
//! # trait Driver { fn execute<T: FromResponse>(&self, operation: Operation<T>) -> Result<T, Error>; }
//!
//! # fn example(driver: impl Driver, jkt_of_proof: &str) -> Result<(), Error> {
//! let auth = ClientAuth::basic("rs", Secret::new("my secret"))?;
//! let client = Client::new(Endpoint::https("https://as.example/token")?, auth)
//!     .introspection_endpoint(Endpoint::https("https://as.example/introspect")?);
//! let operation = client.introspect(Secret::new("2YotnFZFEjr1zCsicMWpAA"), None)?;
//! let introspection = driver.execute(operation)?;
//! let may_pass = introspection.is_active() && introspection.jkt() == Some(jkt_of_proof);
//! # let _ = may_pass;
//! # Ok(())
//! # }
//! ```

use std::fmt;

use crate::oauth::client::{Client, required};
use crate::oauth::grant::Scope;
use crate::oauth::revocation::{TokenTypeHint, params};
use crate::oauth::token::{bound_jkt, since_epoch};
use crate::request::operation::{FromResponse, Operation, SuccessResponse, sealed};
use crate::types::error::{InvalidResponseKind, ParseError};
use crate::types::{input::InvalidInput, secret::Secret, time::UnixTime};
use crate::wire::json::{JsonObject, JsonValue};
use crate::wire::json_object::OwnedJsonObject;

impl Client {
    /// Requests whether a token is active, and its properties (RFC 7662 §2.1).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the client has no [introspection
    /// endpoint](Self::introspection_endpoint).
    pub fn introspect(
        &self,
        token: Secret,
        hint: Option<TokenTypeHint>,
    ) -> Result<Operation<Introspection>, InvalidInput> {
        let endpoint = self.0.introspection_endpoint.as_ref();
        let endpoint = required(endpoint, "introspection_endpoint")?;
        Ok(self.post(endpoint, params(token, hint), None, ()))
    }
}

impl sealed::Sealed for Introspection {}

/// Parses a response of RFC 7662 §2.2.
impl FromResponse for Introspection {
    type Expected = ();

    fn parse(success: &SuccessResponse<'_>, (): &()) -> Result<Self, ParseError> {
        let members = JsonObject::parse_response(success.body, "active")?;
        let active = members.get("active").and_then(JsonValue::as_bool);
        // Other separators than a space are not interpreted, because a resource server bases access
        // decisions on the scope.
        let scope = |value| Scope::from_value(value, ' ');
        Ok(Self {
            active: active.ok_or(InvalidResponseKind::InvalidMember("active"))?,
            scope: members.get("scope").and_then(scope),
            jkt: bound_jkt(&members),
            members: OwnedJsonObject::new(&members),
        })
    }
}

/// The response to an introspection request (RFC 7662 §2.2): whether the token is active, and its
/// properties. The `Debug` output shows only whether the token is active.
#[derive(Clone)]
pub struct Introspection {
    active: bool,
    scope: Option<Scope>,
    jkt: Option<String>,
    members: OwnedJsonObject,
}

impl Introspection {
    /// Returns whether the token is active. If not, reject it and ignore the other members, which
    /// the server need not send.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// Returns the `scope` of the token. Returns `None` if the response has none.
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// Returns the time at which the token expires (`exp`). Returns `None` if the response has
    /// none.
    pub fn expires_at(&self) -> Option<UnixTime> {
        self.members.seconds("exp").map(since_epoch)
    }

    /// Returns `cnf.jkt` (RFC 9449 §6.2): the thumbprint of the key to which the token is bound.
    /// Reject a request with this token unless it has a proof by that key. Returns `None` if the
    /// token is not bound to a key.
    pub fn jkt(&self) -> Option<&str> {
        self.jkt.as_deref()
    }

    /// Returns a string member such as `sub`, `client_id`, `username` or `iss`. Returns `None` if
    /// it is missing or not a string.
    pub fn text(&self, member: &str) -> Option<&str> {
        self.members.text(member)
    }

    /// Returns the elements of a list of strings such as `aud`. A single string is treated as a
    /// list of one element, and a missing member as an empty list.
    pub fn list(&self, member: &str) -> impl Iterator<Item = &str> {
        let list = self.members.list(member).into_iter().flatten();
        list.chain(self.members.text(member))
    }
}

impl fmt::Debug for Introspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introspection")
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}
