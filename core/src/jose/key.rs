use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use zeroize::Zeroizing;

use super::{Algorithm, PublicJwk, Signature};
use crate::error::{Error, Misuse};
use crate::secret::Secret;
use crate::signing::SignRequest;

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// A private key in this process's memory, used through ring.
///
/// ring takes its own random numbers from the system, for generating keys and for ECDSA's `k`: the one
/// thing in this crate that is not an argument.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    random: SystemRandom,
    public: PublicJwk,
    pkcs8: Zeroizing<Vec<u8>>,
}

impl SigningKey {
    /// A new key.
    ///
    /// # Errors
    /// `Misuse` if the algorithm's keys can't be generated here, or the system has no random numbers.
    pub fn generate(algorithm: Algorithm) -> Result<Self, Misuse> {
        match algorithm {
            Algorithm::Es256 => {
                let pkcs8 =
                    EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                        .map_err(|_| Misuse::new("system", "must have a source of random numbers"))?;
                Self::from_pkcs8_der(pkcs8.as_ref())
            }
        }
    }

    /// The key in a PKCS#8 document (RFC 5208, RFC 5958), DER.
    ///
    /// # Errors
    /// `Misuse` if it is no such document, not encrypted, with its public key, or of an unsupported algorithm.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, Misuse> {
        let random = SystemRandom::new();
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der, &random).map_err(|_| {
                Misuse::new(
                    "key",
                    "must be an unencrypted PKCS#8 document of a P-256 key, its public key included",
                )
            })?;
        let public = PublicJwk::from_point(pair.public_key().as_ref())?;
        Ok(Self { pair, random, public, pkcs8: Zeroizing::new(der.to_vec()) })
    }

    /// The key in a PEM file (RFC 7468 §10): `-----BEGIN PRIVATE KEY-----`.
    ///
    /// # Errors
    /// `Misuse` if it is no PEM of a PKCS#8 document that [`from_pkcs8_der`](Self::from_pkcs8_der) takes.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, Misuse> {
        let malformed = || Misuse::new("key", "must be PEM with one `BEGIN PRIVATE KEY` block (PKCS#8)");
        let (_, rest) = pem.split_once(PEM_BEGIN).ok_or_else(malformed)?;
        let (body, after) = rest.split_once(PEM_END).ok_or_else(malformed)?;
        if after.contains(PEM_BEGIN) {
            return Err(malformed());
        }
        let text: Zeroizing<String> = Zeroizing::new(body.split_ascii_whitespace().collect());
        let der = Zeroizing::new(STANDARD.decode(text.as_bytes()).map_err(|_| malformed())?);
        Self::from_pkcs8_der(&der)
    }

    /// The key as PEM, to be written to a file that only its owner can read.
    pub fn to_pkcs8_pem(&self) -> Secret {
        let body = Zeroizing::new(STANDARD.encode(&*self.pkcs8));
        let mut pem = String::with_capacity(body.len() + body.len() / 64 + 64);
        pem.push_str(PEM_BEGIN);
        let mut rest = body.as_str();
        while !rest.is_empty() {
            let (line, tail) = rest.split_at(rest.len().min(64));
            pem.push('\n');
            pem.push_str(line);
            rest = tail;
        }
        pem.push('\n');
        pem.push_str(PEM_END);
        pem.push('\n');
        Secret::new(pem)
    }

    /// The public half.
    pub fn public(&self) -> &PublicJwk {
        &self.public
    }

    /// Signs what a [`Signing`](crate::Signing) asks for.
    ///
    /// # Errors
    /// `Misuse` if another key is asked for.
    pub fn sign(&self, request: &SignRequest) -> Result<Signature, Error> {
        if request.key() != &self.public {
            return Err(Misuse::new("key", "must be the one that the request names").into());
        }
        let raw = self
            .pair
            .sign(&self.random, request.message())
            .map_err(|_| Misuse::new("system", "must have a source of random numbers"))?;
        Ok(Signature::from_jose(self.public.algorithm(), raw.as_ref())?)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_pem() {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let pem = key.to_pkcs8_pem();
        assert!(pem.expose().lines().all(|line| line.len() <= 64));
        let again = SigningKey::from_pkcs8_pem(pem.expose()).unwrap();
        assert_eq!(again.public(), key.public());
        let request = SignRequest::new("a.b".into(), key.public().clone());
        assert!(again.sign(&request).is_ok());
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_quoted() {
        let good = SigningKey::generate(Algorithm::Es256).unwrap().to_pkcs8_pem();
        let good = good.expose();
        let twice = format!("{good}{good}");
        let cut = good.replacen("MIG", "MI", 1);
        for bad in ["", "hello", PEM_BEGIN, &good.replace("PRIVATE", "EC PRIVATE"), &cut, &twice] {
            assert_eq!(SigningKey::from_pkcs8_pem(bad).unwrap_err().argument(), "key", "{bad}");
        }
        assert!(SigningKey::from_pkcs8_der(b"\x30\x00").is_err());
    }

    #[test]
    fn a_key_signs_for_itself_alone() {
        let key = SigningKey::generate(Algorithm::Es256).unwrap();
        let other = SigningKey::generate(Algorithm::Es256).unwrap();
        let request = SignRequest::new("a.b".into(), other.public().clone());
        assert!(matches!(key.sign(&request), Err(Error::Misuse(_))));
    }
}
