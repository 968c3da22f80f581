use std::fmt;
use std::time::Duration;

use http::{HeaderValue, Method, Uri};
use ring::digest::{SHA256, digest};

use crate::jose::signing::sealed::Sealed;
use crate::jose::signing::{Resumable, SignRequest, Signing, Unsigned};
use crate::jose::{self, PublicJwk};
use crate::types::endpoint::HttpTarget;
use crate::types::error::Error;
use crate::types::input::InvalidInput;
use crate::types::nonce::Nonce;
use crate::types::secret::Secret;
use crate::types::time::RequestContext;

/// A finished proof (RFC 9449 §4.2), for one request. `Debug` doesn't show it: until the server has seen
/// its `jti`, it is good for whoever holds it.
pub struct Proof(String);

impl Proof {
    /// Begins a proof for one request to `uri` by the key whose public half this is.
    ///
    /// # Errors
    /// `InvalidInput` unless `uri` is absolute, `http` or `https`, without user information.
    pub fn build<'a>(
        key: &'a PublicJwk,
        method: &'a Method,
        uri: &'a Uri,
    ) -> Result<ProofBuilder<'a>, InvalidInput> {
        let target = HttpTarget::parse(uri)?;
        Ok(ProofBuilder {
            key,
            draft: UnsignedProof {
                method,
                target,
                nonce: None,
                ath: None,
                lifetime: None,
            },
        })
    }

    /// The compact JWS.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The value of the `DPoP` header, marked sensitive.
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
        // It is all base64url and dots.
        Ok(Signing::Ready(Self(
            String::from_utf8(jws).unwrap_or_default(),
        )))
    }
}

/// A header value that is all base64url and dots, so that it can't be refused, and is never printed.
pub(crate) fn sensitive(jws: Vec<u8>) -> HeaderValue {
    let mut value = HeaderValue::try_from(jws).unwrap_or_else(|_| HeaderValue::from_static(""));
    value.set_sensitive(true);
    value
}

/// A [`Proof`] in the making.
#[derive(Clone, Debug)]
#[must_use]
pub struct ProofBuilder<'a> {
    key: &'a PublicJwk,
    draft: UnsignedProof<'a>,
}

impl<'a> ProofBuilder<'a> {
    /// `nonce`: what this server last gave. Leave it out towards a server that never asked for one.
    pub fn nonce(mut self, nonce: &'a Nonce) -> Self {
        self.draft.nonce = Some(nonce);
        self
    }

    /// `ath`: the hash of the access token that goes with the proof. For resource servers only.
    pub fn access_token(mut self, token: &Secret) -> Self {
        self.draft.ath = Some(AccessTokenHash::new(token.expose()));
        self
    }

    /// `exp`: `iat` and so many seconds. RFC 9449 has no such claim, but some servers look for it.
    pub fn lifetime(mut self, lifetime: Duration) -> Self {
        self.draft.lifetime = Some(lifetime);
        self
    }

    /// The proof, as soon as it is signed.
    pub fn prepare(self, context: RequestContext) -> Signing<Proof> {
        Signing::Needs(Unsigned::new(
            self.draft.sign_request(self.key, &context),
            (),
        ))
    }
}

/// SHA-256 of an access token, base64url: the value of `ath` (RFC 9449 §4.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct AccessTokenHash([u8; 43]);

impl AccessTokenHash {
    pub(crate) fn new(token: &str) -> Self {
        Self(jose::encode_array(
            digest(&SHA256, token.as_bytes()).as_ref(),
        ))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The claims of one proof, before they have a time and a `jti`.
#[derive(Clone, Debug)]
pub(crate) struct UnsignedProof<'a> {
    pub(crate) method: &'a Method,
    pub(crate) target: HttpTarget<'a>,
    pub(crate) nonce: Option<&'a Nonce>,
    pub(crate) ath: Option<AccessTokenHash>,
    pub(crate) lifetime: Option<Duration>,
}

impl UnsignedProof<'_> {
    /// The signing input, in an allocation that has room for the signature.
    pub(crate) fn sign_request(&self, key: &PublicJwk, context: &RequestContext) -> SignRequest {
        let jti: [u8; 22] = jose::encode_array(&context.entropy);
        let mut claims = ClaimsBuffer::new();
        self.write_claims(&jti, context, &mut claims);
        let header = key.proof_header();
        let signature = jose::encoded_len(key.signature_len());
        let capacity = header.len() + 1 + jose::encoded_len(claims.length) + 1 + signature;

        let mut input = Vec::with_capacity(capacity);
        input.extend(header.as_bytes());
        input.push(b'.');
        match claims.whole() {
            Some(claims) => jose::encode_into(claims, &mut input),
            None => {
                let mut payload = Base64Writer::new(&mut input);
                self.write_claims(&jti, context, &mut payload);
                payload.flush();
            }
        }
        SignRequest::new(input, key.clone())
    }

    /// RFC 9449 §4.2. No value but the path can hold a character that JSON escapes.
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

/// Where claims are written: to be counted and kept, or, where they are long, to be encoded piece by piece.
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

/// Counts what is written, and keeps it as long as it has room: for a URL of usual length that is all.
struct ClaimsBuffer {
    bytes: [u8; 512],
    length: usize,
}

impl ClaimsBuffer {
    fn new() -> Self {
        Self {
            bytes: [0; 512],
            length: 0,
        }
    }

    fn whole(&self) -> Option<&[u8]> {
        self.bytes.get(..self.length)
    }
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

/// A multiple of three, so that only the last chunk can end inside a group.
const ROOM: usize = 384;

/// Encodes what is written, through a buffer on the stack.
struct Base64Writer<'a> {
    out: &'a mut Vec<u8>,
    buffer: [u8; ROOM],
    filled: usize,
}

impl<'a> Base64Writer<'a> {
    fn new(out: &'a mut Vec<u8>) -> Self {
        Self {
            out,
            buffer: [0; ROOM],
            filled: 0,
        }
    }

    fn flush(&mut self) {
        jose::encode_into(self.buffer.get(..self.filled).unwrap_or_default(), self.out);
        self.filled = 0;
    }
}

impl Sink for Base64Writer<'_> {
    fn bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(ROOM - self.filled));
            if let Some(free) = self.buffer.get_mut(self.filled..self.filled + now.len()) {
                free.copy_from_slice(now);
            }
            self.filled += now.len();
            bytes = later;
            if self.filled == ROOM {
                self.flush();
            }
        }
    }
}

/// `http::Uri` lets quotes and backslashes stand in a path.
struct JsonEscape<'a, S>(&'a mut S);

impl<S: Sink> fmt::Write for JsonEscape<'_, S> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if !text.bytes().any(|byte| matches!(byte, b'"' | b'\\')) {
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
                // RFC 9449 §7.1's own token and hash.
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
