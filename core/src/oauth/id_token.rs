//! Who signed in (OpenID Connect Core §2). An id token comes unverified, and its type says so; to verify it is a step of
//! its own.
//!
//! ```
//! # use keybound_core::*;
//! # use keybound_core::driver::*;
//! # fn verified(
//! #     token: &Token, metadata: &Metadata, pending: &PendingAuthorization, keys: &JwkSet, now: UnixTime,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! // `keys` came of the exchange `metadata.keys()?`; get them anew on `IdTokenError::Key`.
//! let expected = IdTokenValidation::new(metadata.issuer(), "app").nonce(pending.nonce());
//! if let Some(id_token) = token.id_token() {
//!     let person = id_token.verify(&expected, keys, now)?;
//!     println!("{} signed in", person.subject());
//! }
//! # Ok(())
//! # }
//! ```

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use ring::digest::{self, digest};

use crate::dpop::Jws;
use crate::jose::{self, Algorithm, PublicJwk};
use crate::oauth::issuer::Issuer;
use crate::oauth::metadata::Metadata;
use crate::oauth::token::Token;
use crate::request::operation::{EndpointRequest, Operation};
use crate::request::retry::RetrySafety;
use crate::types::error::InvalidResponseKind;
use crate::types::input::InvalidInput;
use crate::types::secret::{Secret, constant_time_eq};
use crate::types::time::UnixTime;
use crate::wire::json::{JsonObject, JsonValue};
use crate::wire::json_object::OwnedJsonObject;

/// How far the issuer's clock may be from ours.
const LEEWAY: Duration = Duration::from_secs(60);

/// How many keys of an issuer are looked at.
const MAX_KEYS: usize = 64;

impl Metadata {
    /// Asks for the keys by which this issuer signs (`jwks_uri`, RFC 7517 §5).
    ///
    /// # Errors
    /// `InvalidInput` if the issuer names no such place.
    pub fn keys(&self) -> Result<Operation<JwkSet>, InvalidInput> {
        let endpoint = self.endpoint("jwks_uri").cloned();
        let endpoint = endpoint.ok_or(InvalidInput::new(
            "issuer",
            "must have keys; its metadata name no jwks_uri",
        ))?;
        Ok(Operation::new(
            EndpointRequest {
                endpoint,
                client_request: None,
                retry_safety: RetrySafety::Idempotent,
            },
            |success| {
                let members = JsonObject::parse_response(success.body, "keys")?;
                let keys = members
                    .get("keys")
                    .and_then(JsonValue::as_array)
                    .ok_or(InvalidResponseKind::InvalidMember("keys"))?;
                // Keys of other kinds, or for other purposes, stand among them.
                let usable = keys
                    .iter()
                    .filter_map(|jwk| PublicJwk::from_json(jwk.as_json().as_bytes()).ok());
                Ok(JwkSet(usable.take(MAX_KEYS).collect()))
            },
        ))
    }
}

/// The keys by which an issuer signs.
#[derive(Clone, Debug)]
pub struct JwkSet(Vec<PublicJwk>);

impl Token {
    /// The `id_token` of the answer (OpenID Connect Core §3.1.3.3), which nobody has verified.
    pub fn id_token(&self) -> Option<UnverifiedIdToken<'_>> {
        Some(UnverifiedIdToken {
            jws: self.extra("id_token")?,
            access_token: self.access_token(),
        })
    }
}

/// What an issuer is said to say of a person. Who it is from, for whom, and when it was made is not known yet.
#[derive(Clone, Copy, Debug)]
pub struct UnverifiedIdToken<'a> {
    jws: &'a Secret,
    access_token: &'a Secret,
}

/// What an id token must say.
#[derive(Clone, Debug)]
#[must_use]
pub struct IdTokenValidation {
    issuer: String,
    client_id: String,
    nonce: Option<String>,
}

impl IdTokenValidation {
    /// That it is this issuer's, and for this client.
    pub fn new(issuer: &Issuer, client_id: &str) -> Self {
        Self {
            issuer: issuer.as_str().to_owned(),
            client_id: client_id.to_owned(),
            nonce: None,
        }
    }

    /// That it answers the request with this [nonce](crate::PendingAuthorization::nonce).
    pub fn nonce(mut self, nonce: Option<String>) -> Self {
        self.nonce = nonce;
        self
    }
}

/// What an issuer says of a person: verified.
#[derive(Clone)]
pub struct IdToken(OwnedJsonObject);

impl IdToken {
    /// `sub`: who it is, among all whom this issuer knows. Nothing else names a person for good.
    pub fn subject(&self) -> &str {
        self.text("sub").unwrap_or_default()
    }

    /// A text claim: `email`, `name`, `acr`, …
    pub fn text(&self, claim: &str) -> Option<&str> {
        self.0.text(claim)
    }

    /// A yes or no, such as `email_verified`; no where it isn't there.
    pub fn flag(&self, claim: &str) -> bool {
        self.0.flag(claim)
    }

    /// `auth_time`: when the person was authenticated.
    pub fn authenticated_at(&self) -> Option<UnixTime> {
        self.0
            .seconds("auth_time")
            .map(|at| UnixTime::from_secs(0).saturating_add(at))
    }
}

impl fmt::Debug for IdToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdToken").finish_non_exhaustive()
    }
}

/// Why an id token isn't to be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdTokenError {
    /// It is no JWS of two objects that say everything once, or a required claim is missing or of a wrong type.
    Malformed,
    /// It is signed by an algorithm that isn't supported here (`none` and HMAC are not), or something critical is unknown.
    Algorithm,
    /// `typ` says that it is another kind of token.
    Type,
    /// None of the issuer's keys has signed it. They may have changed since.
    Key,
    /// `iss` is another.
    Issuer,
    /// `aud` or `azp` doesn't name this client.
    Audience,
    /// `exp` has passed.
    Expired,
    /// `iat` or `nbf` lies ahead.
    FromTheFuture,
    /// `nonce` is missing or another: it answers another request.
    Nonce,
    /// `at_hash` is another access token's.
    AccessToken,
}

impl fmt::Display for IdTokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the id token is not to be believed: ")?;
        f.write_str(match self {
            Self::Malformed => "it is malformed",
            Self::Algorithm => "its algorithm isn't supported",
            Self::Type => "it is a token of another kind (`typ`)",
            Self::Key => "none of the issuer's keys has signed it",
            Self::Issuer => "it is another issuer's",
            Self::Audience => "it is for another client",
            Self::Expired => "it has expired",
            Self::FromTheFuture => "it was made ahead of time",
            Self::Nonce => "it answers another request (`nonce`)",
            Self::AccessToken => "it belongs to another access token (`at_hash`)",
        })
    }
}

impl std::error::Error for IdTokenError {}

impl UnverifiedIdToken<'_> {
    /// The JWS as it came.
    pub fn jws(&self) -> &Secret {
        self.jws
    }

    /// Verifies it (OpenID Connect Core §3.1.3.7), its hash of the access token included.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn verify(
        &self,
        expected: &IdTokenValidation,
        keys: &JwkSet,
        now: UnixTime,
    ) -> Result<IdToken, IdTokenError> {
        let jws = Jws::split(self.jws.expose()).ok_or(IdTokenError::Malformed)?;
        let malformed = |_| IdTokenError::Malformed;
        let header = JsonObject::parse_strict(&jws.header).map_err(malformed)?;
        let alg = header.required_str("alg").map_err(malformed)?;
        let algorithm = Algorithm::from_alg(&alg).filter(|_| !header.has("crit"));
        let algorithm = algorithm.ok_or(IdTokenError::Algorithm)?;
        // An access token or a logout token is none, whoever has signed it (RFC 8725 §3.11).
        if header
            .get("typ")
            .is_some_and(|typ| !typ.as_str().is_some_and(|typ| is_jwt(&typ)))
        {
            return Err(IdTokenError::Type);
        }
        let kid = header.str("kid");
        let is_named =
            |key: &&PublicJwk| kid.is_none() || key.kid().is_none() || key.kid() == kid.as_deref();
        let mut candidates = keys.0.iter().filter(is_named);
        let has_signed = |key: &PublicJwk| {
            key.verifying_by(algorithm)
                .is_some_and(|key| jws.is_signed_by(&key))
        };
        if !candidates.any(has_signed) {
            return Err(IdTokenError::Key);
        }
        let claims = JsonObject::parse_strict(&jws.payload).map_err(malformed)?;
        expected.check(&claims, now)?;
        match claims.get("at_hash") {
            Some(hash) if !is_text(hash, &left_half(algorithm, self.access_token)) => {
                Err(IdTokenError::AccessToken)
            }
            _ => Ok(IdToken(OwnedJsonObject::new(&claims))),
        }
    }
}

impl IdTokenValidation {
    fn check(&self, claims: &JsonObject<'_>, now: UnixTime) -> Result<(), IdTokenError> {
        let time = |claim| {
            let since_epoch = claims.seconds(claim).ok_or(IdTokenError::Malformed)?;
            Ok(UnixTime::from_secs(0).saturating_add(since_epoch))
        };
        claims
            .required_str("sub")
            .map_err(|_| IdTokenError::Malformed)?;
        if claims
            .required_str("iss")
            .map_err(|_| IdTokenError::Malformed)?
            != self.issuer.as_str()
        {
            return Err(IdTokenError::Issuer);
        }
        let own = Some(self.client_id.as_str());
        let azp = claims.get("azp").map(|azp| azp.as_str());
        let is_own = |name: Option<Cow<'_, str>>| name.as_deref() == own;
        let audience = claims.get("aud").ok_or(IdTokenError::Malformed)?;
        let is_ours = match (audience.as_array(), audience.as_str()) {
            // Whoever else it is for could show it here; it must have been made for us.
            (Some(all), _) => {
                all.iter().any(|one| is_own(one.as_str()))
                    && (all.len() == 1 || azp.clone().is_some_and(is_own))
            }
            (None, Some(only)) => is_own(Some(only)),
            (None, None) => return Err(IdTokenError::Malformed),
        };
        if !is_ours || azp.is_some_and(|azp| !is_own(azp)) {
            return Err(IdTokenError::Audience);
        }
        if time("exp")?.saturating_add(LEEWAY) <= now {
            return Err(IdTokenError::Expired);
        }
        if time("iat")? > now.saturating_add(LEEWAY) {
            return Err(IdTokenError::FromTheFuture);
        }
        if claims.get("nbf").is_some() && time("nbf")? > now.saturating_add(LEEWAY) {
            return Err(IdTokenError::FromTheFuture);
        }
        if let Some(nonce) = &self.nonce {
            if !claims
                .get("nonce")
                .is_some_and(|claim| is_text(claim, nonce))
            {
                return Err(IdTokenError::Nonce);
            }
        }
        Ok(())
    }
}

/// The type of a JWT that is nothing special (RFC 7519 §5.1).
fn is_jwt(typ: &str) -> bool {
    let typ = typ.rsplit('/').next().unwrap_or_default();
    typ.eq_ignore_ascii_case("jwt")
}

fn is_text(claim: JsonValue<'_>, text: &str) -> bool {
    claim
        .as_str()
        .is_some_and(|claim| constant_time_eq(claim.as_bytes(), text.as_bytes()))
}

/// `at_hash` (OpenID Connect Core §3.1.3.6).
fn left_half(algorithm: Algorithm, access_token: &Secret) -> String {
    let hash = match algorithm {
        Algorithm::Es384 => &digest::SHA384,
        // What Ed25519 itself hashes by.
        Algorithm::EdDsa | Algorithm::Ed25519 => &digest::SHA512,
        _ => &digest::SHA256,
    };
    let hash = digest(hash, access_token.expose().as_bytes());
    jose::encode(
        hash.as_ref()
            .get(..hash.as_ref().len() / 2)
            .unwrap_or_default(),
    )
}
