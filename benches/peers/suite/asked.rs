//! The inputs of each library, in its own types.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keybound_benches::{Outcome, Subject, now};
use keybound_core::SecretBytes;
use keybound_core::jose::{Algorithm, SigningKey};
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom as _, SystemRandom};
use serde::{Deserialize, Serialize};

pub(crate) struct Asked {
    pub(crate) subject: Subject,
    pub(crate) algorithm: Algorithm,
    pub(crate) url: String,
    pub(crate) ath: String,
    random: SystemRandom,
}

/// The claims of a proof, for libraries that leave them to their callers.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Claims<T> {
    pub(crate) jti: String,
    pub(crate) htm: T,
    pub(crate) htu: T,
    pub(crate) iat: u64,
    pub(crate) ath: T,
    pub(crate) nonce: T,
}

impl Asked {
    pub(crate) fn new(algorithm: Algorithm) -> Outcome<Self> {
        let subject = Subject::new(SigningKey::generate(algorithm)?)?;
        let ath = digest(&SHA256, subject.token.access_token().expose().as_bytes());
        Ok(Self {
            algorithm,
            url: subject.uri.to_string(),
            ath: URL_SAFE_NO_PAD.encode(ath),
            random: SystemRandom::new(),
            subject,
        })
    }

    pub(crate) fn access_token(&self) -> &str {
        self.subject.token.access_token().expose()
    }

    pub(crate) fn method(&self) -> &str {
        self.subject.method.as_str()
    }

    pub(crate) fn nonce(&self) -> &str {
        self.subject.nonce.as_str()
    }

    pub(crate) fn jwk(&self) -> &str {
        self.subject.key.public().to_json()
    }

    pub(crate) fn pkcs8(&self) -> SecretBytes {
        self.subject.key.to_pkcs8_der()
    }

    pub(crate) fn claims(&self) -> Claims<&str> {
        Claims {
            jti: self.jti(),
            htm: self.method(),
            htu: &self.url,
            iat: now().as_secs(),
            ath: &self.ath,
            nonce: self.nonce(),
        }
    }

    pub(crate) fn jti(&self) -> String {
        let mut entropy = [0; 16];
        // Signing needs random numbers as well, and fails without them.
        let _ = self.random.fill(&mut entropy);
        URL_SAFE_NO_PAD.encode(entropy)
    }
}
