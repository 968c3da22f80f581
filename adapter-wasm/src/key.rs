use std::fmt;

use js_sys::Uint8Array;
use keybound_core::InvalidInput;
use keybound_core::SignRequest;
use keybound_core::dpop::{Proof, ProofBuilder};
use keybound_core::driver::{Resumable, Signing};
use keybound_core::jose::{Algorithm, PublicJwk, Signature};
use wasm_bindgen::JsValue;

use crate::{Error, platform};

/// A key that proves: WebCrypto's, kept in IndexedDB under a name. It can't be exported, so no script can take it
/// away, and it never enters the memory of this module. Cloning it is cheap.
#[derive(Clone)]
pub struct ProofKey {
    holder: Holder,
    public: PublicJwk,
}

/// Where the private half is.
#[derive(Clone)]
enum Holder {
    /// A `CryptoKeyPair`.
    WebCrypto(JsValue),
    #[cfg(feature = "ring")]
    Memory(std::rc::Rc<keybound_core::jose::SigningKey>),
}

impl ProofKey {
    /// The key of this name; a new one, if there is none. `None` leaves the algorithm to the key that is there, and
    /// makes a new one for ES256.
    ///
    /// # Errors
    /// `InvalidInput` for other algorithms than ES256 and Ed25519, and where the key that is there is for another;
    /// `Browser` where WebCrypto or IndexedDB is missing.
    pub async fn open(name: &str, algorithm: Option<Algorithm>) -> Result<Self, Error> {
        let asked = match algorithm {
            None | Some(Algorithm::Es256) => Algorithm::Es256,
            Some(Algorithm::EdDsa | Algorithm::Ed25519) => Algorithm::Ed25519,
            Some(_) => {
                return Err(InvalidInput::new(
                    "algorithm",
                    "must be ES256 or Ed25519 in a browser",
                )
                .into());
            }
        };
        let pair = platform::open_key(&storage_key(name), asked.as_str())
            .await
            .map_err(Error::Browser)?;
        let found = match platform::key_algorithm(&pair).as_str() {
            "ECDSA" => Algorithm::Es256,
            // By the name that more servers know, until one says otherwise.
            _ => Algorithm::EdDsa,
        };
        if algorithm.is_some() && (found == Algorithm::Es256) != (asked == Algorithm::Es256) {
            return Err(InvalidInput::new(
                "algorithm",
                "must be that of the key that is kept under this name",
            )
            .into());
        }
        let raw = platform::public_bytes(&pair)
            .await
            .map_err(Error::Browser)?;
        let public = PublicJwk::from_raw(found, &Uint8Array::from(raw).to_vec())?;
        Ok(Self {
            holder: Holder::WebCrypto(pair),
            public,
        })
    }

    /// Forgets the key of this name, for ever: tokens that are bound to it are good for nothing then.
    ///
    /// # Errors
    /// `Browser` where IndexedDB is missing.
    pub async fn delete(name: &str) -> Result<(), Error> {
        platform::erase(&storage_key(name))
            .await
            .map_err(Error::Browser)
    }

    /// A key of ring's, in this module's memory.
    #[cfg(feature = "ring")]
    pub fn in_memory(key: keybound_core::jose::SigningKey) -> Self {
        let public = key.public().clone();
        Self {
            holder: Holder::Memory(key.into()),
            public,
        }
    }

    /// The public half; its thumbprint is the `jkt` of bound tokens.
    pub fn public(&self) -> &PublicJwk {
        &self.public
    }

    /// Makes the proof that [`Proof::build`] has begun with the [public half](Self::public).
    ///
    /// # Errors
    /// `Browser` if the browser doesn't sign.
    pub async fn proof(&self, proof: ProofBuilder<'_>) -> Result<Proof, Error> {
        self.finish(proof.prepare(platform::request_context()))
            .await
    }

    /// Brings the signatures that a step needs.
    ///
    /// # Errors
    /// `Browser` if the browser doesn't sign.
    pub async fn finish<T: Resumable>(&self, mut signing: Signing<T>) -> Result<T, Error> {
        loop {
            match signing {
                Signing::Ready(ready) => return Ok(ready),
                Signing::Needs(unsigned) => {
                    let signature = self.sign(unsigned.request()).await?;
                    signing = unsigned.resume(signature)?;
                }
            }
        }
    }

    async fn sign(&self, request: &SignRequest) -> Result<Signature, Error> {
        match &self.holder {
            Holder::WebCrypto(pair) => {
                let raw = platform::sign(pair, request.message())
                    .await
                    .map_err(Error::Browser)?;
                Ok(Signature::from_jose(
                    request.key().algorithm(),
                    &Uint8Array::from(raw).to_vec(),
                )?)
            }
            #[cfg(feature = "ring")]
            Holder::Memory(key) => Ok(key.sign(request)?),
        }
    }
}

/// The name under which IndexedDB has it.
pub(crate) fn storage_key(name: &str) -> String {
    format!("key {name}")
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProofKey").field(&self.public).finish()
    }
}
