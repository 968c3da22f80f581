//! Signs and verifies by ring alone: the minimum cost of a signature and its verification.

use keybound_core::jose::{Algorithm, SigningKey};
use ring::rand::SystemRandom;
use ring::signature::{
    self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaEncoding, RsaKeyPair, UnparsedPublicKey,
    VerificationAlgorithm,
};

use crate::Outcome;

/// The same key, as a key of ring.
#[derive(Debug)]
pub struct RingKey {
    pair: Pair,
    algorithm: Algorithm,
    random: SystemRandom,
}

#[derive(Debug)]
enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl RingKey {
    /// Converts a key.
    ///
    /// # Errors
    /// Never fails for a valid key.
    pub fn new(key: &SigningKey) -> Outcome<Self> {
        let (secret, random) = (key.to_pkcs8_der(), SystemRandom::new());
        let der = secret.expose();
        let ecdsa = |curve| EcdsaKeyPair::from_pkcs8(curve, der, &random).map(Pair::Ecdsa);
        let algorithm = key.public().algorithm();
        let pair = match algorithm {
            Algorithm::Es256 => ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING),
            Algorithm::Es384 => ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING),
            Algorithm::EdDsa => Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).map(Pair::Ed25519),
            _ => RsaKeyPair::from_pkcs8(der).map(Pair::Rsa),
        };
        Ok(Self {
            pair: pair.map_err(|_| "ring refuses the key")?,
            algorithm,
            random,
        })
    }

    /// Signs, and passes the signature to `take`, without a copy beyond those of ring.
    ///
    /// # Errors
    /// Fails if the system has no random numbers.
    pub fn sign<T>(&self, message: &[u8], take: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        let no_random = |_| "there are no random numbers";
        match &self.pair {
            Pair::Ecdsa(pair) => Ok(take(
                pair.sign(&self.random, message)
                    .map_err(no_random)?
                    .as_ref(),
            )),
            Pair::Ed25519(pair) => Ok(take(pair.sign(message).as_ref())),
            Pair::Rsa(pair) => {
                let padding: &dyn RsaEncoding = match self.algorithm {
                    Algorithm::Ps256 => &signature::RSA_PSS_SHA256,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut raw = vec![0; pair.public().modulus_len()];
                pair.sign(padding, &self.random, message, &mut raw)
                    .map_err(no_random)?;
                Ok(take(&raw))
            }
        }
    }

    /// Verifies a signature of this key.
    ///
    /// # Errors
    /// Fails if the signature is invalid.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Outcome {
        let algorithm: &'static dyn VerificationAlgorithm = match self.algorithm {
            Algorithm::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Algorithm::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Algorithm::EdDsa => &signature::ED25519,
            Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            _ => &signature::RSA_PKCS1_2048_8192_SHA256,
        };
        let public = match &self.pair {
            Pair::Ecdsa(pair) => pair.public_key().as_ref(),
            Pair::Ed25519(pair) => pair.public_key().as_ref(),
            Pair::Rsa(pair) => pair.public_key().as_ref(),
        };
        let public = UnparsedPublicKey::new(algorithm, public);
        Ok(public
            .verify(message, signature)
            .map_err(|_| "the signature doesn't hold")?)
    }
}
