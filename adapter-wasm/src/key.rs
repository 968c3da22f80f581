use std::fmt;

use js_sys::Uint8Array;
use keybound_core::dpop::{Proof, ProofBuilder};
use keybound_core::driver::Signing;
use keybound_core::jose::{Algorithm, PublicJwk, Signature};
use keybound_core::{Cause, InvalidInput, SignRequest};
use wasm_bindgen::JsValue;

use crate::error::exception;
use crate::{CoreError, Error, platform};

/// A DPoP key pair: created by WebCrypto and stored in IndexedDB under a name.
///
/// The private key is not extractable: no script can read it, and it is never in the memory of this
/// module. Cloning is cheap.
#[derive(Clone)]
pub struct ProofKey {
    holder: Holder,
    public: PublicJwk,
}

/// The location of the private key.
#[derive(Clone)]
enum Holder {
    /// A `CryptoKeyPair`.
    WebCrypto(JsValue),
    #[cfg(feature = "ring")]
    Memory(std::rc::Rc<keybound_core::jose::SigningKey>),
}

impl ProofKey {
    /// Returns the key stored under `name`. Creates and stores one if there is none.
    ///
    /// With `None`, an existing key of any algorithm is returned, and a new key is an ES256 key.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `algorithm` is neither ES256 nor Ed25519, or differs from the stored
    /// key's, and [`Error::Browser`] if WebCrypto or IndexedDB is not available.
    pub async fn open(name: &str, algorithm: Option<Algorithm>) -> Result<Self, Error> {
        let requested = match algorithm {
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
        let pair = platform::open_key(&storage_key(name), requested.as_str())
            .await
            .map_err(Error::Browser)?;
        let found = match platform::key_algorithm(&pair).as_str() {
            "ECDSA" => Algorithm::Es256,
            // More servers support this name of the algorithm. A server's metadata may select the other.
            _ => Algorithm::EdDsa,
        };
        if algorithm.is_some() && (found == Algorithm::Es256) != (requested == Algorithm::Es256) {
            return Err(InvalidInput::new(
                "algorithm",
                "must match the key that is stored under this name",
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

    /// Deletes the key stored under `name`. Tokens that are bound to it become unusable.
    ///
    /// # Errors
    /// Returns [`Error::Browser`] if IndexedDB is not available.
    pub async fn delete(name: &str) -> Result<(), Error> {
        platform::erase(&storage_key(name))
            .await
            .map_err(Error::Browser)
    }

    /// Wraps a key of ring's, which is in this module's memory.
    #[cfg(feature = "ring")]
    pub fn in_memory(key: keybound_core::jose::SigningKey) -> Self {
        let public = key.public().clone();
        Self {
            holder: Holder::Memory(key.into()),
            public,
        }
    }

    /// Returns the public key. Its thumbprint is the `jkt` of tokens that are bound to it.
    pub fn public(&self) -> &PublicJwk {
        &self.public
    }

    /// Signs a proof that was started by [`Proof::build`] with the [public key](Self::public).
    ///
    /// # Errors
    /// Returns [`Signer`](CoreError::Signer) if WebCrypto fails to sign, or for a proof of another key.
    pub async fn proof(&self, proof: ProofBuilder<'_>) -> Result<Proof, Error> {
        let mut signing = proof.prepare(platform::request_context());
        loop {
            match signing {
                Signing::Ready(proof) => return Ok(proof),
                Signing::Needs(unsigned) => {
                    let signature = self.sign(unsigned.request()).await;
                    signing = unsigned.resume(signature.map_err(CoreError::Signer)?)?;
                }
            }
        }
    }

    pub(crate) async fn sign(&self, request: &SignRequest) -> Result<Signature, Cause> {
        match &self.holder {
            Holder::WebCrypto(pair) => {
                if !self.public.is_same_key(request.key()) {
                    return Err(Cause::message("the request is for another key"));
                }
                let raw = platform::sign(pair, request.message()).await;
                let raw = Uint8Array::from(raw.map_err(exception)?).to_vec();
                Signature::from_jose(request.key().algorithm(), &raw)
                    .map_err(|invalid| Cause::message(invalid.to_string()))
            }
            #[cfg(feature = "ring")]
            Holder::Memory(key) => key.sign(request).map_err(Cause::new),
        }
    }
}

/// Returns the IndexedDB key of the key pair with this name.
pub(crate) fn storage_key(name: &str) -> String {
    format!("key {name}")
}

impl fmt::Debug for ProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ProofKey").field(&self.public).finish()
    }
}
