//! Asking an authorization server what a token is worth (RFC 7662): for resource servers.
//!
//! ```
//! use keybound_core::*;
//! use keybound_core::driver::*;
//!
//! # fn main() -> Result<(), Error> {
//! let auth = ClientAuth::basic("rs", Secret::new("my secret"))?;
//! let client = Client::new(Endpoint::https("https://as.example/token")?, auth)
//!     .introspection_endpoint(Endpoint::https("https://as.example/introspect")?);
//! let exchange = client.introspect(Secret::new("2YotnFZFEjr1zCsicMWpAA"), None)?;
//! let now = UnixTime::from_secs(1_800_000_000);
//! let Signing::Ready(out) = exchange.prepare(&ServerState::new(), RequestContext::new(now, [1; 16]))? else { panic!() };
//! let answer = http::Response::new(r#"{"active":true,"scope":"accounts","exp":1800003600,"cnf":{"jkt":"0ZcO"}}"#);
//! let Step::Done(introspection) = out.pending.receive(answer, &mut ServerState::new(), now)? else { panic!() };
//! assert!(introspection.is_active());
//! assert_eq!(introspection.jkt(), Some("0ZcO")); // the thumbprint of the key whose proof must come with it
//! # Ok(())
//! # }
//! ```

use std::fmt;

use crate::oauth::client::Client;
use crate::oauth::grant::Scope;
use crate::oauth::revocation::{self, TokenTypeHint};
use crate::request::operation::Operation;
use crate::request::retry::RetrySafety;
use crate::types::error::InvalidResponseKind;
use crate::types::input::InvalidInput;
use crate::types::secret::Secret;
use crate::types::time::UnixTime;
use crate::wire::json::{JsonObject, JsonValue};
use crate::wire::json_object::OwnedJsonObject;

impl Client {
    /// Asks what a token is worth (RFC 7662 §2.1).
    ///
    /// # Errors
    /// `InvalidInput` without an [introspection endpoint](Self::introspection_endpoint).
    pub fn introspect(
        &self,
        token: Secret,
        hint: Option<TokenTypeHint>,
    ) -> Result<Operation<Introspection>, InvalidInput> {
        let endpoint = self.0.introspection_endpoint.clone();
        let endpoint = endpoint.ok_or(InvalidInput::new(
            "introspection_endpoint",
            "must be set before a token can be introspected",
        ))?;
        let ask = self.endpoint_request(
            endpoint,
            revocation::params(token, hint)?,
            None,
            RetrySafety::Idempotent,
        );
        Ok(Operation::new(ask, |success| {
            let members = JsonObject::parse_response(success.body, "active")?;
            let active = members
                .get("active")
                .and_then(JsonValue::as_bool)
                .ok_or(InvalidResponseKind::InvalidMember("active"))?;
            let confirmation = members.get("cnf").and_then(JsonValue::as_object);
            Ok(Introspection {
                active,
                scope: members.get("scope").and_then(scope),
                jkt: confirmation.and_then(|cnf| cnf.str("jkt").map(Into::into)),
                members: OwnedJsonObject::new(&members),
            })
        }))
    }
}

/// A list separated by spaces, or an array. A resource server decides by it: so what an authorization server might have
/// meant by other marks isn't guessed.
fn scope(value: JsonValue<'_>) -> Option<Scope> {
    match value.as_str() {
        Some(text) => Scope::granted(text.split(' ')),
        None => Scope::granted(value.texts()?),
    }
}

/// What a token is worth (RFC 7662 §2.2). `Debug` shows no more than whether it is active.
#[derive(Clone)]
pub struct Introspection {
    active: bool,
    scope: Option<Scope>,
    jkt: Option<String>,
    members: OwnedJsonObject,
}

impl Introspection {
    /// Whether it is good. If not, nothing else is known of it.
    pub fn is_active(&self) -> bool {
        self.active
    }

    /// `scope`.
    pub fn scope(&self) -> Option<&Scope> {
        self.scope.as_ref()
    }

    /// `exp`.
    pub fn expires_at(&self) -> Option<UnixTime> {
        self.members
            .seconds("exp")
            .map(|at| UnixTime::from_secs(0).saturating_add(at))
    }

    /// `cnf.jkt` (RFC 9449 §6.2): the thumbprint of the key that the token is bound to. Without its proof, the token isn't to
    /// be taken.
    pub fn jkt(&self) -> Option<&str> {
        self.jkt.as_deref()
    }

    /// A text member: `sub`, `client_id`, `username`, `iss`, …
    pub fn text(&self, member: &str) -> Option<&str> {
        self.members.text(member)
    }

    /// A list of texts, or the one text in its place: `aud`.
    pub fn list(&self, member: &str) -> impl Iterator<Item = &str> {
        self.members
            .list(member)
            .into_iter()
            .flatten()
            .chain(self.members.text(member))
    }
}

impl fmt::Debug for Introspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introspection")
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}
