use std::fmt;
use std::time::Duration;

use http::{HeaderValue, Method, Uri};
use ring::digest::{SHA256, digest};

use crate::jose::signing::{Resumable, SignRequest, Signing, Unsigned};
use crate::jose::{self, PublicJwk, signing::sealed::Sealed};
use crate::types::secret::{Secret, constant_time_eq};
use crate::types::{
    endpoint::HttpTarget, error::Error, input::InvalidInput, nonce::Nonce, time::RequestContext,
};

/// A signed proof (RFC 9449 §4.2) for one request. `Debug` prints only its length: until the server
/// has seen its `jti`, any holder can use the proof.
pub struct Proof(String);

impl Proof {
    /// Returns a builder for a proof of one request to `uri`. `key` is the public key of the
    /// signing key.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] unless `uri` is an absolute `http` or `https` URI without user
    /// information.
    pub fn build<'a>(
        key: &'a PublicJwk,
        method: &'a Method,
        uri: &'a Uri,
    ) -> Result<ProofBuilder<'a>, InvalidInput> {
        let draft = UnsignedProof {
            method,
            target: HttpTarget::parse(uri)?,
            nonce: None,
            ath: None,
            lifetime: None,
        };
        Ok(ProofBuilder { key, draft })
    }

    /// Returns the proof as a compact JWS.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the value of the `DPoP` header, marked as sensitive.
    pub fn into_header(self) -> HeaderValue {
        sensitive(self.0.into_bytes())
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proof({} bytes)", self.0.len())
    }
}

impl Sealed for Proof {}

impl Resumable for Proof {
    type Draft = ();

    fn assemble((): (), jws: Vec<u8>) -> Result<Signing<Self>, Error> {
        // A compact JWS contains only base64url and dots.
        Ok(Signing::Ready(Self(
            String::from_utf8(jws).unwrap_or_default(),
        )))
    }
}

/// Converts a JWS to a sensitive header value, which `Debug` doesn't print. It contains only
/// base64url and dots, so the conversion can't fail.
pub(crate) fn sensitive(jws: Vec<u8>) -> HeaderValue {
    let mut value = HeaderValue::try_from(jws).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// Builds a [`Proof`].
#[derive(Clone, Debug)]
#[must_use]
pub struct ProofBuilder<'a> {
    key: &'a PublicJwk,
    draft: UnsignedProof<'a>,
}

impl<'a> ProofBuilder<'a> {
    /// Sets `nonce`, the latest nonce from this server. Omit it if the server has never sent a
    /// nonce.
    pub fn nonce(mut self, nonce: &'a Nonce) -> Self {
        self.draft.nonce = Some(nonce);
        self
    }

    /// Sets `ath`, the hash of the access token in the same request. Only for requests to resource
    /// servers.
    pub fn access_token(mut self, token: &Secret) -> Self {
        self.draft.ath = Some(AccessTokenHash::new(token.expose()));
        self
    }

    /// Sets `exp` to `iat` plus `lifetime`, in whole seconds. RFC 9449 doesn't define this claim,
    /// but some servers require it.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.draft.lifetime = Some(lifetime);
        self
    }

    /// Returns the unsigned proof, to be completed by a signature.
    pub fn prepare(self, context: RequestContext) -> Signing<Proof> {
        let request = self.draft.sign_request(self.key, &context);
        Signing::Needs(Unsigned::new(request, ()))
    }
}

/// The SHA-256 hash of an access token in base64url: the value of `ath` (RFC 9449 §4.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessTokenHash([u8; 43]);

impl PartialEq for AccessTokenHash {
    fn eq(&self, other: &Self) -> bool {
        constant_time_eq(&self.0, &other.0)
    }
}

impl Eq for AccessTokenHash {}

impl AccessTokenHash {
    pub(crate) fn new(token: &str) -> Self {
        let hash = digest(&SHA256, token.as_bytes());
        Self(jose::encode_array(hash.as_ref()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The claims of a proof, except for `iat` and `jti`.
#[derive(Clone, Debug)]
pub(crate) struct UnsignedProof<'a> {
    pub(crate) method: &'a Method,
    pub(crate) target: HttpTarget<'a>,
    pub(crate) nonce: Option<&'a Nonce>,
    pub(crate) ath: Option<AccessTokenHash>,
    pub(crate) lifetime: Option<Duration>,
}

impl UnsignedProof<'_> {
    /// Returns the signing input, in an allocation with capacity for the signature.
    pub(crate) fn sign_request(&self, key: &PublicJwk, context: &RequestContext) -> SignRequest {
        let jti: [u8; 22] = jose::encode_array(&context.entropy);
        // Sufficient for URLs of usual length. Longer claims are only counted here.
        let (mut claims, mut length) = ([0; 512], 0);
        self.write_claims(&jti, context, &mut |bytes: &[u8]| {
            let from = length;
            length += bytes.len();
            if let Some(room) = claims.get_mut(from..length) {
                room.copy_from_slice(bytes);
            }
        });
        let header = key.proof_header();
        let signature = jose::encoded_len(key.signature_len());
        let capacity = header.len() + 1 + jose::encoded_len(length) + 1 + signature;

        let mut input = Vec::with_capacity(capacity);
        input.extend(header.as_bytes());
        input.push(b'.');
        match claims.get(..length) {
            Some(claims) => jose::encode_into(claims, &mut input),
            None => self.encode_claims(&jti, context, &mut input),
        }
        SignRequest::new(input, key.clone())
    }

    /// Encodes claims of any length in base64url, through a buffer on the stack.
    fn encode_claims(&self, jti: &[u8], context: &RequestContext, out: &mut Vec<u8>) {
        // A multiple of three, so that only the last chunk can end with an incomplete group.
        let (mut chunk, mut filled) = ([0; 384], 0);
        self.write_claims(jti, context, &mut |mut bytes: &[u8]| {
            while !bytes.is_empty() {
                let (now, later) = bytes.split_at(bytes.len().min(chunk.len() - filled));
                if let Some(free) = chunk.get_mut(filled..filled + now.len()) {
                    free.copy_from_slice(now);
                }
                filled += now.len();
                bytes = later;
                if filled == chunk.len() {
                    jose::encode_into(&chunk, out);
                    filled = 0;
                }
            }
        });
        jose::encode_into(chunk.get(..filled).unwrap_or_default(), out);
    }

    /// Writes the claims of RFC 9449 §4.2. Only the path can contain characters that JSON must
    /// escape.
    fn write_claims(&self, jti: &[u8], context: &RequestContext, out: &mut impl FnMut(&[u8])) {
        out(br#"{"jti":""#);
        out(jti);
        out(br#"","htm":""#);
        out(self.method.as_str().as_bytes());
        out(br#"","htu":""#);
        self.target.write_htu(&mut JsonEscape(out));
        out(br#"","iat":"#);
        let iat = context.now.as_secs();
        write_number(iat, out);
        if let Some(lifetime) = self.lifetime {
            out(br#","exp":"#);
            write_number(iat.saturating_add(lifetime.as_secs()), out);
        }
        if let Some(ath) = &self.ath {
            out(br#","ath":""#);
            out(ath.as_bytes());
            out(b"\"");
        }
        if let Some(nonce) = self.nonce {
            out(br#","nonce":""#);
            out(nonce.as_str().as_bytes());
            out(b"\"");
        }
        out(b"}");
    }
}

fn write_number(number: u64, out: &mut impl FnMut(&[u8])) {
    let mut digits = [0; 20];
    let mut left = number;
    let mut length = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + u8::try_from(left % 10).unwrap_or_default();
        left /= 10;
        length += 1;
        if left == 0 {
            break;
        }
    }
    out(digits.get(digits.len() - length..).unwrap_or_default());
}

/// Escapes quotes and backslashes, which `http::Uri` permits in a path.
struct JsonEscape<'a, F>(&'a mut F);

impl<F: FnMut(&[u8])> fmt::Write for JsonEscape<'_, F> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Without an early exit, the compiler can vectorize it.
        let is_escaped = |any, byte| any | matches!(byte, b'"' | b'\\');
        if !text.bytes().fold(false, is_escaped) {
            self.0(text.as_bytes());
            return Ok(());
        }
        for piece in text.split_inclusive(['"', '\\']) {
            match piece.as_bytes().split_last() {
                Some((last @ (b'"' | b'\\'), before)) => {
                    self.0(before);
                    self.0(&[b'\\', *last]);
                }
                _ => self.0(piece.as_bytes()),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::jose::{Algorithm, SigningKey};
    use crate::types::time::UnixTime;

    fn context(secs: u64) -> RequestContext {
        RequestContext::new(UnixTime::from_secs(secs), [7; 16])
    }

    fn decoded(part: &str) -> Value {
        serde_json::from_slice(&jose::decode(part).unwrap()).unwrap()
    }

    #[test]
    fn a_proof_has_the_claims_of_rfc_9449_and_no_others() {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let uri = "https://RS.example:443/p%7Eth?q=1".parse().unwrap();
        let nonce = Nonce::new("!#$%&'*+.^_`|~<>?@[]{}").unwrap();
        let token = Secret::new("Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU");
        let proof = Proof::build(key.public(), &Method::GET, &uri)
            .unwrap()
            .nonce(&nonce)
            .access_token(&token)
            .prepare(context(1_562_262_618))
            .finish(|request| key.sign(request))
            .unwrap();
        let parts: Vec<_> = proof.as_str().split('.').collect();
        assert_eq!(
            decoded(parts[0]),
            json!({
                "typ": "dpop+jwt",
                "alg": "ES256",
                "jwk": serde_json::from_str::<Value>(key.public().to_json()).unwrap(),
            })
        );
        assert_eq!(
            decoded(parts[1]),
            json!({
                "jti": "BwcHBwcHBwcHBwcHBwcHBw",
                "htm": "GET",
                "htu": "https://rs.example/p%7Eth",
                "iat": 1_562_262_618,
                // The token and hash are those of RFC 9449 §7.1.
                "ath": "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo",
                "nonce": "!#$%&'*+.^_`|~<>?@[]{}",
            })
        );
        assert_eq!(
            format!("{proof:?}"),
            format!("Proof({} bytes)", proof.as_str().len())
        );
        assert!(proof.into_header().is_sensitive());
    }

    #[test]
    fn a_proof_is_one_allocation_of_exactly_its_size() {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        for path in ["", "/a", "/a\"b\\c", &"/x".repeat(700)] {
            let uri = format!("https://rs.example{path}").parse().unwrap();
            let proof = Proof::build(key.public(), &Method::GET, &uri)
                .unwrap()
                .lifetime(Duration::from_secs(60))
                .prepare(context(u64::MAX / 2000))
                .finish(|request| key.sign(request))
                .unwrap();
            assert_eq!(proof.0.len(), proof.0.capacity(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn claims_survive_any_path_and_time(path in "/[!-~ü]{0,60}", secs in 0u64..10_000_000_000) {
            let Ok(uri) = format!("https://rs.example{path}").parse::<Uri>() else { return Ok(()) };
            let key = SigningKey::generate(Algorithm::Es256).unwrap();
            let proof = Proof::build(key.public(), &Method::PUT, &uri)
                .unwrap()
                .prepare(context(secs))
                .finish(|request| key.sign(request))
                .unwrap();
            let claims = decoded(proof.as_str().split('.').nth(1).unwrap());
            prop_assert_eq!(&claims["htu"], &format!("https://rs.example{}", uri.path()));
            prop_assert_eq!(&claims["iat"], secs);
        }
    }
}
