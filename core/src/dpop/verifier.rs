//! Verification of the proofs of clients (RFC 9449 §4.3).

use std::borrow::Cow;
use std::time::Duration;

use http::HeaderMap;

use super::{AccessTokenHash, DPOP, ProofError, htu};
use crate::jose::{self, Algorithm, BadJwk, JwkMembers, PublicJwk};
use crate::types::secret::{ConstantTimeTag, Secret};
use crate::types::{input::InvalidInput, nonce::Nonce, time::UnixTime};
use crate::wire::json::{JsonObject, JsonValue};

/// Verifies proofs against expected values. A value that is not set is not checked. The checks that
/// need no expected value (form, key, signature, age) are always performed.
#[derive(Clone, Debug)]
#[must_use]
pub struct ProofVerifier {
    methods: Vec<String>,
    urls: Vec<String>,
    nonces: Vec<Nonce>,
    ath: Ath,
    jkt: Option<String>,
    algorithms: Vec<Algorithm>,
    max_age: Duration,
    leeway: Duration,
    max_len: usize,
}

#[derive(Clone, Debug)]
enum Ath {
    Unchecked,
    Absent,
    Of(ConstantTimeTag),
}

impl Default for ProofVerifier {
    /// Returns a verifier that accepts any method, URL, nonce and `ath`, and proofs that are at
    /// most 300 s old, at most 30 s ahead, and at most 8 KiB long.
    fn default() -> Self {
        Self {
            methods: Vec::new(),
            urls: Vec::new(),
            nonces: Vec::new(),
            ath: Ath::Unchecked,
            jkt: None,
            algorithms: Algorithm::ALL.to_vec(),
            max_age: Duration::from_secs(300),
            leeway: Duration::from_secs(30),
            max_len: 8 * 1024,
        }
    }
}

impl ProofVerifier {
    /// Requires `htm` to be this method, or one of several after repeated calls. The method is
    /// case-sensitive (RFC 9110 §9.1).
    pub fn method(mut self, method: &str) -> Self {
        self.methods.push(method.to_owned());
        self
    }

    /// Requires `htu` to be equivalent to this URL, or to one of several after repeated calls. The
    /// query and fragment of both are ignored (RFC 9449 §4.3, check 9; normalised by RFC 3986
    /// §6.2.2 and §6.2.3).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] unless `url` is an absolute `http` or `https` URL without user
    /// information.
    pub fn url(mut self, url: &str) -> Result<Self, InvalidInput> {
        let url = htu::normalise(url).ok_or(InvalidInput::new(
            "url",
            "must be absolute, http or https, without a user name",
        ))?;
        self.urls.push(url);
        Ok(self)
    }

    /// Requires `nonce` to be this nonce (check 10), or one of several after repeated calls. After
    /// a server issues a new nonce (RFC 9449 §8.2), proofs with the previous nonce are still in
    /// flight.
    pub fn nonce(mut self, nonce: Nonce) -> Self {
        self.nonces.push(nonce);
        self
    }

    /// Requires `ath` to be the hash of this access token (check 12), as in the proof of a resource
    /// request.
    pub fn access_token(mut self, token: &Secret) -> Self {
        let hash = AccessTokenHash::new(token.expose());
        self.ath = Ath::Of(ConstantTimeTag::new(hash.as_bytes()));
        self
    }

    /// Requires the proof's key to have this thumbprint, to which the access token, refresh token
    /// or code is bound (check 12, RFC 9449 §5, §10).
    pub fn bound_to(mut self, jkt: &str) -> Self {
        self.jkt = Some(jkt.to_owned());
        self
    }

    /// Requires `ath` to be absent, as in the proof of a token request.
    pub fn no_access_token(mut self) -> Self {
        self.ath = Ath::Absent;
        self
    }

    /// Sets the maximum age of `iat` (check 11). Default: 300 s.
    pub fn max_age(mut self, max_age: Duration) -> Self {
        self.max_age = max_age;
        self
    }

    /// Sets the tolerance for differences between the clocks of client and server: for `iat` and
    /// `nbf` in the future, and for `exp` in the past. Default: 30 s.
    pub fn leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Requires `alg` to be one of these (check 5). FAPI 2.0, for example, excludes RS256. Default:
    /// all [supported](Algorithm::ALL) algorithms.
    pub fn algorithms(mut self, algorithms: &[Algorithm]) -> Self {
        self.algorithms = algorithms.to_vec();
        self
    }

    /// Sets the maximum length of a proof in bytes. Default: 8 KiB.
    pub fn max_len(mut self, max_len: usize) -> Self {
        self.max_len = max_len;
        self
    }

    /// Verifies the proof of a request with these headers, which must contain exactly one `DPoP`
    /// header (check 1). Otherwise like [`verify`](Self::verify).
    pub fn verify_headers(&self, headers: &HeaderMap, now: UnixTime) -> Inspection {
        let mut proofs = headers.get_all(DPOP).iter();
        let problem = match (proofs.next().map(|proof| proof.to_str()), proofs.next()) {
            (Some(Ok(proof)), None) => return self.verify(proof, now),
            (Some(Err(_)), None) => ProofError::NotJws,
            (None, _) => ProofError::ProofMissing,
            (Some(_), Some(_)) => ProofError::ProofTwice,
        };
        Inspection::default().with(problem)
    }

    /// Verifies `proof` at the time `now`, and returns all problems, not only the first. The
    /// signature is verified only if the form is valid and the header contains a usable key.
    pub fn verify(&self, proof: &str, now: UnixTime) -> Inspection {
        let mut found = Inspection::default();
        if proof.len() > self.max_len {
            return found.with(ProofError::TooLong);
        }
        let Some(jws) = Jws::split(proof) else {
            return found.with(ProofError::NotJws);
        };
        let key = found.read_header(&jws.header, &self.algorithms);
        let Ok(claims) = JsonObject::parse_strict(&jws.payload) else {
            return found.with(ProofError::PayloadMalformed);
        };
        self.check_claims(&claims, now, &mut found);
        if let Some(key) = key {
            if self.jkt.as_ref().is_some_and(|jkt| jkt != key.thumbprint()) {
                found.problems.push(ProofError::KeyMismatch);
            }
            if !jws.is_signed_by(&key) {
                found.problems.push(match key.is_on_curve() {
                    true => ProofError::Signature,
                    false => ProofError::JwkInvalid,
                });
            }
            if found.is_valid() {
                found.verified = self.verified(proof, key, &claims);
            }
        }
        found.claims_json = String::from_utf8(jws.payload).ok();
        found
    }

    /// Returns the result for a proof without problems.
    fn verified(
        &self,
        proof: &str,
        key: PublicJwk,
        claims: &JsonObject<'_>,
    ) -> Option<VerifiedProof> {
        Some(VerifiedProof {
            proof: Secret::new(proof),
            key,
            jti: claims.str("jti")?.into_owned(),
            iat: numeric_date(claims.get("iat")?)?,
            exp: claims.get("exp").and_then(numeric_date),
            max_age: self.max_age,
            leeway: self.leeway,
        })
    }

    fn check_claims(&self, claims: &JsonObject<'_>, now: UnixTime, found: &mut Inspection) {
        let mut require = |is_met: bool, otherwise: ProofError| {
            found.problems.extend((!is_met).then_some(otherwise));
        };
        let jti = claims.str("jti");
        let is_sound = |jti: &Cow<'_, str>| (1..=1024).contains(&jti.len());
        require(jti.as_ref().is_some_and(is_sound), ProofError::JtiMissing);

        let htm = claims.str("htm").filter(|htm| !htm.is_empty());
        require(htm.is_some(), ProofError::HtmMissing);
        if let Some(htm) = &htm {
            let is_expected = is_any(&self.methods, |method| method == htm);
            require(is_expected, ProofError::HtmMismatch);
        }

        let htu = claims.str("htu").and_then(|htu| htu::normalise(&htu));
        require(htu.is_some(), ProofError::HtuMissing);
        let is_expected = htu.is_none_or(|htu| is_any(&self.urls, |url| *url == htu));
        require(is_expected, ProofError::HtuMismatch);

        let iat = claims.get("iat").and_then(numeric_date);
        require(iat.is_some(), ProofError::IatMissing);
        if let Some(iat) = iat {
            let (age, lead) = (now.saturating_since(iat), iat.saturating_since(now));
            require(age <= self.max_age, ProofError::TooOld);
            require(lead <= self.leeway, ProofError::FromTheFuture);
        }
        if let Some(exp) = claims.get("exp").map(numeric_date) {
            let is_current = exp.is_some_and(|exp| now < exp.saturating_add(self.leeway));
            require(is_current, ProofError::Expired);
        }
        if let Some(nbf) = claims.get("nbf").map(numeric_date) {
            let is_current = nbf.is_some_and(|nbf| nbf.saturating_since(now) <= self.leeway);
            require(is_current, ProofError::NotYetValid);
        }

        let nonce = claims.get("nonce").map(JsonValue::as_str);
        match &nonce {
            None => require(self.nonces.is_empty(), ProofError::NonceMissing),
            Some(nonce) => {
                let is_known = |nonce| is_any(&self.nonces, |known| known.as_str() == nonce);
                let is_expected = nonce.as_deref().is_some_and(is_known);
                require(is_expected, ProofError::NonceMismatch);
            }
        }

        let ath = claims.str("ath");
        let has_ath = claims.get("ath").is_some();
        match &self.ath {
            Ath::Absent => require(!has_ath, ProofError::AthUnexpected),
            Ath::Of(_) if !has_ath => require(false, ProofError::AthMissing),
            Ath::Of(expected) => {
                let is_expected = |ath: &Cow<'_, str>| expected.matches(ath.as_bytes());
                let is_expected = ath.as_ref().is_some_and(is_expected);
                require(is_expected, ProofError::AthMismatch);
            }
            Ath::Unchecked => require(!has_ath || ath.is_some(), ProofError::AthMismatch),
        }

        found.claims = Some(ProofClaims {
            jti: jti.map(Cow::into_owned),
            htm: htm.map(Cow::into_owned),
            htu: claims.str("htu").map(Cow::into_owned),
            iat,
            nonce: nonce.flatten().map(Cow::into_owned),
            ath: ath.map(Cow::into_owned),
        });
    }
}

/// The result of verifying a proof: its problems and its contents.
#[derive(Clone, Debug, Default)]
pub struct Inspection {
    problems: Vec<ProofError>,
    alg: Option<String>,
    key: Option<PublicJwk>,
    claims: Option<ProofClaims>,
    claims_json: Option<String>,
    /// `Some` only if there are no problems.
    verified: Option<VerifiedProof>,
}

impl Inspection {
    /// Returns whether the proof has no problems.
    pub fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }

    /// Returns all problems, in the order in which they were found: header, claims, key, signature.
    pub fn problems(&self) -> &[ProofError] {
        &self.problems
    }

    /// Returns the header's `alg`, even if it is not supported. Returns `None` if it is missing or
    /// the header is malformed.
    pub fn alg(&self) -> Option<&str> {
        self.alg.as_deref()
    }

    /// Returns the key in the header, if it is usable. Trust it only if the proof
    /// [is valid](Self::is_valid).
    pub fn key(&self) -> Option<&PublicJwk> {
        self.key.as_ref()
    }

    /// Returns the claims defined in RFC 9449 §4.2. Returns `None` if the payload is malformed.
    pub fn claims(&self) -> Option<&ProofClaims> {
        self.claims.as_ref()
    }

    /// Returns all claims, as the signed JSON. Returns `None` if the payload is malformed.
    pub fn claims_json(&self) -> Option<&str> {
        self.claims_json.as_deref()
    }

    /// Returns the verified proof, or `None` if there are problems.
    pub fn verified(&self) -> Option<VerifiedProof> {
        self.verified.clone()
    }

    fn with(mut self, problem: ProofError) -> Self {
        self.problems.push(problem);
        self
    }

    fn read_header(&mut self, header: &[u8], algorithms: &[Algorithm]) -> Option<PublicJwk> {
        let Ok(header) = JsonObject::parse_strict(header) else {
            self.problems.push(ProofError::HeaderMalformed);
            return None;
        };
        if header.str("typ").as_deref() != Some("dpop+jwt") {
            self.problems.push(ProofError::Typ);
        }
        if header.has("crit") {
            self.problems.push(ProofError::Crit);
        }
        let alg = header.str("alg");
        let algorithm = alg.as_deref().and_then(Algorithm::from_alg);
        let algorithm = algorithm.filter(|algorithm| algorithms.contains(algorithm));
        if algorithm.is_none() {
            self.problems.push(ProofError::Alg);
        }
        self.alg = alg.map(Cow::into_owned);
        let key = match header.get("jwk").map(key_of) {
            None => Err(ProofError::JwkMissing),
            Some(Err(BadJwk::Private)) => Err(ProofError::JwkPrivate),
            Some(Err(_)) => Err(ProofError::JwkInvalid),
            // Without an algorithm the key can be reported, but can't verify a signature.
            Some(Ok(key)) => algorithm.map_or(Ok(key.clone()), |algorithm| {
                key.verifying_by(algorithm).ok_or(ProofError::JwkInvalid)
            }),
        };
        let key = key.map_err(|problem| self.problems.push(problem)).ok()?;
        self.key = Some(key.clone());
        algorithm.map(|_| key)
    }
}

/// The claims of a proof. A claim that is missing or has the wrong type is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProofClaims {
    /// The unique identifier of the proof (RFC 9449 §4.2).
    pub jti: Option<String>,
    /// The request's method (RFC 9449 §4.2).
    pub htm: Option<String>,
    /// The request's URL, not normalised (RFC 9449 §4.2).
    pub htu: Option<String>,
    /// The time at which the proof was created (RFC 9449 §4.2).
    pub iat: Option<UnixTime>,
    /// The server's nonce (RFC 9449 §8).
    pub nonce: Option<String>,
    /// The hash of the access token (RFC 9449 §4.2).
    pub ath: Option<String>,
}

/// A valid proof and its key.
#[derive(Clone, Debug)]
pub struct VerifiedProof {
    pub(crate) proof: Secret,
    pub(crate) key: PublicJwk,
    pub(crate) jti: String,
    pub(crate) iat: UnixTime,
    pub(crate) exp: Option<UnixTime>,
    /// The `max_age` and leeway of the verifier that accepted the proof.
    pub(crate) max_age: Duration,
    pub(crate) leeway: Duration,
}

impl VerifiedProof {
    /// Returns the key whose possession the proof demonstrates. Its thumbprint is the token's
    /// `jkt`.
    pub fn key(&self) -> &PublicJwk {
        &self.key
    }

    /// Returns the `jti`, which is unique among the proofs of its key.
    pub fn jti(&self) -> &str {
        &self.jti
    }
}

/// The parts of a compact JWS (RFC 7515 §7.1), decoded.
pub(crate) struct Jws<'a> {
    pub(crate) header: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    signature: Vec<u8>,
    signing_input: &'a str,
}

impl<'a> Jws<'a> {
    pub(crate) fn split(jws: &'a str) -> Option<Self> {
        let (signing_input, signature) = jws.rsplit_once('.')?;
        let (header, payload) = signing_input.split_once('.')?;
        Some(Self {
            header: jose::decode(header)?,
            payload: jose::decode(payload)?,
            signature: jose::decode(signature)?,
            signing_input,
        })
    }

    pub(crate) fn is_signed_by(&self, key: &PublicJwk) -> bool {
        key.verify(self.signing_input.as_bytes(), &self.signature)
    }
}

fn key_of(jwk: JsonValue<'_>) -> Result<PublicJwk, BadJwk> {
    let members = jwk.as_object().ok_or(BadJwk::Malformed)?;
    PublicJwk::from_members(&JwkMembers::from_object(members)?)
}

/// Parses a `NumericDate` (RFC 7519 §2), which may have a fraction.
fn numeric_date(claim: JsonValue<'_>) -> Option<UnixTime> {
    let seconds = claim.as_f64().filter(|_| claim.as_str().is_none())?;
    let millis = Duration::try_from_secs_f64(seconds).ok()?.as_millis();
    u64::try_from(millis).ok().map(UnixTime::from_millis)
}

/// Returns whether any of the expected values is the given one, or none is set.
fn is_any<T>(expected: &[T], is_given: impl Fn(&T) -> bool) -> bool {
    expected.is_empty() || expected.iter().any(is_given)
}

/// Returns whether a text has the header of a DPoP proof (`typ`), even if it is not a valid proof.
pub(crate) fn is_dpop_proof(text: &str) -> bool {
    // The base64url encoding of a JSON object begins with `e`. Most access tokens don't.
    if !text.starts_with('e') {
        return false;
    }
    let header = text.split_once('.').map_or("", |(header, _)| header);
    let header = jose::decode(header).unwrap_or_default();
    JsonObject::parse(&header).is_ok_and(|header| header.str("typ").as_deref() == Some("dpop+jwt"))
}
