//! ID tokens (OpenID Connect Core §2). A token response contains an [`UnverifiedIdToken`]; its
//! verification is a separate step that returns an [`IdToken`].
//!
//! ```
//! # use keybound_core::*;
//! # use keybound_core::driver::*;
//! # fn verified(
//! #     token: &Token, metadata: &Metadata, pending: &PendingAuthorization, keys: &JwkSet, now: UnixTime,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! // `keys` is the result of `metadata.keys()?`; request them again after `IdTokenError::Key`.
//! let validation = IdTokenValidation::new(metadata.issuer(), "app").nonce(pending.nonce());
//! if let Some(id_token) = token.id_token() {
//!     let claims = id_token.verify(&validation, keys, now)?;
//!     println!("{} signed in", claims.subject());
//! }
//! # Ok(())
//! # }
//! ```

use std::{fmt, time::Duration};

use ring::digest::{self, digest};

use crate::dpop::Jws;
use crate::jose::{self, Algorithm, PublicJwk};
use crate::oauth::token::{Token, since_epoch};
use crate::oauth::{client::required, issuer::Issuer, metadata::Metadata};
use crate::request::operation::{FromResponse, Operation, SuccessResponse, sealed};
use crate::request::{endpoint_request::EndpointRequest, retry::RetrySafety};
use crate::types::error::{InvalidResponseKind, ParseError};
use crate::types::secret::{Secret, constant_time_eq};
use crate::types::{input::InvalidInput, time::UnixTime};
use crate::wire::json::{JsonObject, JsonValue};
use crate::wire::json_object::OwnedJsonObject;

/// The tolerated difference between the issuer's clock and the local clock: 60 s.
const LEEWAY: Duration = Duration::from_secs(60);

/// The maximum number of an issuer's keys that are used.
const MAX_KEYS: usize = 64;

impl Metadata {
    /// Requests the issuer's signing keys (`jwks_uri`, RFC 7517 §5).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the metadata have no `jwks_uri`.
    pub fn keys(&self) -> Result<Operation<JwkSet>, InvalidInput> {
        let request = EndpointRequest::get(required(self.endpoint("jwks_uri"), "jwks_uri")?);
        Ok(Operation::new(request, RetrySafety::Idempotent, ()))
    }
}

impl sealed::Sealed for JwkSet {}

impl FromResponse for JwkSet {
    type Expected = ();

    fn parse(success: &SuccessResponse<'_>, (): &()) -> Result<Self, ParseError> {
        let members = JsonObject::parse_response(success.body, "keys")?;
        let keys = members.get("keys").and_then(JsonValue::as_array);
        let keys = keys.ok_or(InvalidResponseKind::InvalidMember("keys"))?;
        // The set may contain keys of other types, or for other uses: they are skipped.
        let usable = |jwk: JsonValue<'_>| PublicJwk::from_json(jwk.as_json().as_bytes()).ok();
        let keys = keys.into_iter().filter_map(usable);
        Ok(Self(keys.take(MAX_KEYS).collect()))
    }
}

/// The signing keys of an issuer (RFC 7517 §5): the first 64 that this library supports.
#[derive(Clone, Debug)]
pub struct JwkSet(Vec<PublicJwk>);

impl Token {
    /// Returns the unverified `id_token` of the token response (OpenID Connect Core §3.1.3.3), if
    /// it has one.
    pub fn id_token(&self) -> Option<UnverifiedIdToken<'_>> {
        let (jws, access_token) = (self.extra("id_token")?, self.access_token());
        Some(UnverifiedIdToken { jws, access_token })
    }
}

/// An ID token that has not been verified. Its issuer, audience and time of issue are not
/// trustworthy yet.
#[derive(Clone, Copy, Debug)]
pub struct UnverifiedIdToken<'a> {
    jws: &'a Secret,
    access_token: &'a Secret,
}

/// The values that the claims of an ID token must match.
#[derive(Clone, Debug)]
#[must_use]
pub struct IdTokenValidation {
    issuer: String,
    client_id: String,
    nonce: Option<String>,
}

impl IdTokenValidation {
    /// Requires that `iss` is this issuer and that `aud` contains this client id.
    pub fn new(issuer: &Issuer, client_id: &str) -> Self {
        Self {
            issuer: issuer.as_str().to_owned(),
            client_id: client_id.to_owned(),
            nonce: None,
        }
    }

    /// Requires the [nonce](crate::PendingAuthorization::nonce) of the authorization request. With
    /// `None`, the `nonce` claim is not checked.
    pub fn nonce(mut self, nonce: Option<String>) -> Self {
        self.nonce = nonce;
        self
    }
}

/// The claims of a verified ID token.
#[derive(Clone)]
pub struct IdToken(OwnedJsonObject);

impl IdToken {
    /// Returns `sub`: the identifier of the user, unique within the issuer. No other claim
    /// identifies a user permanently.
    pub fn subject(&self) -> &str {
        self.text("sub").unwrap_or_default()
    }

    /// Returns a string claim such as `email`, `name` or `acr`. Returns `None` if it is missing or
    /// not a string.
    pub fn text(&self, claim: &str) -> Option<&str> {
        self.0.text(claim)
    }

    /// Returns a boolean claim such as `email_verified`. Returns `false` if it is missing or not a
    /// boolean.
    pub fn flag(&self, claim: &str) -> bool {
        self.0.flag(claim)
    }

    /// Returns `auth_time`: the time at which the user was authenticated. Returns `None` if the
    /// claim is missing.
    pub fn authenticated_at(&self) -> Option<UnixTime> {
        self.0.seconds("auth_time").map(since_epoch)
    }
}

impl fmt::Debug for IdToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdToken").finish_non_exhaustive()
    }
}

/// The reason why an ID token failed verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdTokenError {
    /// The token is not a JWS of two JSON objects without duplicate members, or a required claim is
    /// missing or has the wrong type.
    Malformed,
    /// The signature algorithm is not supported (`none` and HMAC never are), or the header has a
    /// critical extension (`crit`).
    Algorithm,
    /// `typ` names another type of token.
    Type,
    /// The signature matches none of the issuer's keys. The issuer may have rotated its keys.
    Key,
    /// `iss` is another issuer.
    Issuer,
    /// `aud` or `azp` doesn't name this client, or `aud` has several members and `azp` is missing.
    Audience,
    /// `exp` is at least 60 s in the past.
    Expired,
    /// `iat` or `nbf` is more than 60 s in the future.
    FromTheFuture,
    /// `nonce` is missing or doesn't match the authorization request.
    Nonce,
    /// `at_hash` doesn't match the access token.
    AccessToken,
}

impl fmt::Display for IdTokenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ID token failed verification: ")?;
        f.write_str(match self {
            Self::Malformed => "it is malformed",
            Self::Algorithm => "its signature algorithm isn't supported",
            Self::Type => "it is another type of token (`typ`)",
            Self::Key => "none of the issuer's keys matches its signature",
            Self::Issuer => "it is from another issuer (`iss`)",
            Self::Audience => "it was issued for another client (`aud`, `azp`)",
            Self::Expired => "it has expired (`exp`)",
            Self::FromTheFuture => "its time of issue is in the future (`iat`, `nbf`)",
            Self::Nonce => "its `nonce` doesn't match the authorization request",
            Self::AccessToken => "its `at_hash` doesn't match the access token",
        })
    }
}

impl std::error::Error for IdTokenError {}

impl UnverifiedIdToken<'_> {
    /// Returns the token as received, in JWS compact serialization.
    pub fn jws(&self) -> &Secret {
        self.jws
    }

    /// Verifies the signature and the claims (OpenID Connect Core §3.1.3.7), including `at_hash`,
    /// the hash of the access token. Returns the verified claims.
    ///
    /// # Errors
    /// Returns an [`IdTokenError`] for the first check that fails.
    pub fn verify(
        &self,
        expected: &IdTokenValidation,
        keys: &JwkSet,
        now: UnixTime,
    ) -> Result<IdToken, IdTokenError> {
        let jws = Jws::split(self.jws.expose()).ok_or(IdTokenError::Malformed)?;
        let header = JsonObject::parse_strict(&jws.header).map_err(malformed)?;
        let alg = header.required_str("alg").map_err(malformed)?;
        let algorithm = Algorithm::from_alg(&alg).filter(|_| !header.has("crit"));
        let algorithm = algorithm.ok_or(IdTokenError::Algorithm)?;
        // An access token or a logout token is not an ID token, even if the issuer signed it (RFC
        // 8725 §3.11).
        if header.get("typ").is_some_and(|typ| !is_jwt(typ)) {
            return Err(IdTokenError::Type);
        }
        let kid = header.str("kid");
        let is_named =
            |key: &&PublicJwk| kid.is_none() || key.kid().is_none() || key.kid() == kid.as_deref();
        let candidates = keys.0.iter().filter(is_named);
        let mut candidates = candidates.filter_map(|key| key.verifying_by(algorithm));
        if !candidates.any(|key| jws.is_signed_by(&key)) {
            return Err(IdTokenError::Key);
        }
        let claims = JsonObject::parse_strict(&jws.payload).map_err(malformed)?;
        expected.check(&claims, now)?;
        let is_hash = |claim| is_text(claim, &left_half(algorithm, self.access_token));
        if !claims.get("at_hash").is_none_or(is_hash) {
            return Err(IdTokenError::AccessToken);
        }
        Ok(IdToken(OwnedJsonObject::new(&claims)))
    }
}

impl IdTokenValidation {
    fn check(&self, claims: &JsonObject<'_>, now: UnixTime) -> Result<(), IdTokenError> {
        let time = |claim| {
            let time = claims.seconds(claim).map(since_epoch);
            time.ok_or(IdTokenError::Malformed)
        };
        claims.required_str("sub").map_err(malformed)?;
        if claims.required_str("iss").map_err(malformed)? != self.issuer.as_str() {
            return Err(IdTokenError::Issuer);
        }
        let audience = claims.get("aud").ok_or(IdTokenError::Malformed)?;
        let all = match audience.as_str() {
            Some(_) => vec![audience],
            None => audience.as_array().ok_or(IdTokenError::Malformed)?,
        };
        let is_own = |name: &JsonValue<'_>| name.as_str().as_deref() == Some(&*self.client_id);
        // Any other audience could replay the token, so `azp` must confirm this client.
        let is_confirmed = claims.get("azp").as_ref().map_or(all.len() == 1, is_own);
        if !is_confirmed || !all.iter().any(is_own) {
            return Err(IdTokenError::Audience);
        }
        if time("exp")?.saturating_add(LEEWAY) <= now {
            return Err(IdTokenError::Expired);
        }
        let latest = now.saturating_add(LEEWAY);
        if time("iat")? > latest || (claims.get("nbf").is_some() && time("nbf")? > latest) {
            return Err(IdTokenError::FromTheFuture);
        }
        let is_nonce = |nonce: &String| claims.get("nonce").is_some_and(|it| is_text(it, nonce));
        let nonce_matches = self.nonce.as_ref().is_none_or(is_nonce);
        nonce_matches.then_some(()).ok_or(IdTokenError::Nonce)
    }
}

fn malformed(_: InvalidResponseKind) -> IdTokenError {
    IdTokenError::Malformed
}

/// Returns whether `typ` is the generic JWT type (RFC 7519 §5.1).
fn is_jwt(typ: JsonValue<'_>) -> bool {
    let typ = typ.as_str().unwrap_or_default();
    let subtype = typ.rsplit('/').next().unwrap_or_default();
    subtype.eq_ignore_ascii_case("jwt")
}

fn is_text(claim: JsonValue<'_>, text: &str) -> bool {
    let claim = claim.as_str();
    claim.is_some_and(|claim| constant_time_eq(claim.as_bytes(), text.as_bytes()))
}

/// Returns `at_hash`: the left half of the hash of the access token (OpenID Connect Core §3.1.3.6).
fn left_half(algorithm: Algorithm, access_token: &Secret) -> String {
    let hash = match algorithm {
        Algorithm::Es384 => &digest::SHA384,
        // The hash function that Ed25519 uses internally.
        Algorithm::EdDsa | Algorithm::Ed25519 => &digest::SHA512,
        _ => &digest::SHA256,
    };
    let hash = digest(hash, access_token.expose().as_bytes());
    let hash = hash.as_ref();
    jose::encode(hash.get(..hash.len() / 2).unwrap_or_default())
}
