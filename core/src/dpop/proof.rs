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
        let mut claims = ClaimsBuffer {
            bytes: [0; 512],
            length: 0,
        };
        self.write_claims(&jti, context, &mut claims);
        let header = key.proof_header();
        let signature = jose::encoded_len(key.signature_len());
        let capacity = header.len() + 1 + jose::encoded_len(claims.length) + 1 + signature;

        let mut input = Vec::with_capacity(capacity);
        input.extend(header.as_bytes());
        input.push(b'.');
        match claims.bytes.get(..claims.length) {
            Some(claims) => jose::encode_into(claims, &mut input),
            None => {
                let mut payload = Base64Writer {
                    out: &mut input,
                    buffer: [0; BUFFER_LEN],
                    filled: 0,
                };
                self.write_claims(&jti, context, &mut payload);
                payload.flush();
            }
        }
        SignRequest::new(input, key.clone())
    }

    /// Writes the claims of RFC 9449 §4.2. Only the path can contain characters that JSON must
    /// escape.
    fn write_claims(&self, jti: &[u8], context: &RequestContext, out: &mut impl Sink) {
        out.bytes(br#"{"jti":""#);
        out.bytes(jti);
        out.bytes(br#"","htm":""#);
        out.bytes(self.method.as_str().as_bytes());
        out.bytes(br#"","htu":""#);
        self.target.write_htu(&mut JsonEscape(out));
        out.bytes(br#"","iat":"#);
        let iat = context.now.as_secs();
        out.number(iat);
        if let Some(lifetime) = self.lifetime {
            out.bytes(br#","exp":"#);
            out.number(iat.saturating_add(lifetime.as_secs()));
        }
        if let Some(ath) = &self.ath {
            out.bytes(br#","ath":""#);
            out.bytes(ath.as_bytes());
            out.bytes(b"\"");
        }
        if let Some(nonce) = self.nonce {
            out.bytes(br#","nonce":""#);
            out.bytes(nonce.as_str().as_bytes());
            out.bytes(b"\"");
        }
        out.bytes(b"}");
    }
}

/// The output for claims: a fixed buffer that also counts bytes, or, for long claims, an
/// incremental encoder.
trait Sink {
    fn bytes(&mut self, bytes: &[u8]);

    fn number(&mut self, number: u64) {
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
        self.bytes(digits.get(digits.len() - length..).unwrap_or_default());
    }
}

/// Counts the written bytes, and stores them up to its capacity, which suffices for URLs of usual
/// length.
struct ClaimsBuffer {
    bytes: [u8; 512],
    length: usize,
}

impl Sink for ClaimsBuffer {
    fn bytes(&mut self, bytes: &[u8]) {
        let from = self.length;
        self.length += bytes.len();
        if let Some(room) = self.bytes.get_mut(from..self.length) {
            room.copy_from_slice(bytes);
        }
    }
}

/// The size of the buffer in bytes: a multiple of three, so that only the last chunk can end with
/// an incomplete group.
const BUFFER_LEN: usize = 384;

/// Encodes the written bytes in base64url, through a buffer on the stack.
struct Base64Writer<'a> {
    out: &'a mut Vec<u8>,
    buffer: [u8; BUFFER_LEN],
    filled: usize,
}

impl Base64Writer<'_> {
    fn flush(&mut self) {
        jose::encode_into(self.buffer.get(..self.filled).unwrap_or_default(), self.out);
        self.filled = 0;
    }
}

impl Sink for Base64Writer<'_> {
    fn bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER_LEN - self.filled));
            if let Some(free) = self.buffer.get_mut(self.filled..self.filled + now.len()) {
                free.copy_from_slice(now);
            }
            self.filled += now.len();
            bytes = later;
            if self.filled == BUFFER_LEN {
                self.flush();
            }
        }
    }
}

/// Escapes quotes and backslashes, which `http::Uri` permits in a path.
struct JsonEscape<'a, S>(&'a mut S);

impl<S: Sink> fmt::Write for JsonEscape<'_, S> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // Without an early exit, the compiler can vectorize it.
        let is_escaped = |any, byte| any | matches!(byte, b'"' | b'\\');
        if !text.bytes().fold(false, is_escaped) {
            self.0.bytes(text.as_bytes());
            return Ok(());
        }
        for piece in text.split_inclusive(['"', '\\']) {
            match piece.as_bytes().split_last() {
                Some((last @ (b'"' | b'\\'), before)) => {
                    self.0.bytes(before);
                    self.0.bytes(&[b'\\', *last]);
                }
                _ => self.0.bytes(piece.as_bytes()),
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
