use std::fmt;

use js_sys::Uint8Array;
use keybound_core::dpop::{Proof, ProofBuilder};
use keybound_core::driver::Signing;
use keybound_core::jose::{Algorithm, PublicJwk, Signature};
use keybound_core::{Cause, InvalidInput, SignRequest};
use wasm_bindgen::JsCast as _;

use crate::platform::{self, KeyPair};
use crate::{CoreError, Error, error::exception};

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
    WebCrypto(KeyPair),
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
        let invalid = |rule| Err(InvalidInput::new("algorithm", rule).into());
        let requested = match algorithm {
            None | Some(Algorithm::Es256) => Algorithm::Es256,
            Some(Algorithm::EdDsa | Algorithm::Ed25519) => Algorithm::Ed25519,
            Some(_) => return invalid("must be ES256 or Ed25519 in a browser"),
        };
        let pair = platform::open_key(&storage_key(name), requested.as_str()).await;
        let pair: KeyPair = pair.map_err(Error::Browser)?.unchecked_into();
        let found = match pair.algorithm().as_str() {
            "ECDSA" => Algorithm::Es256,
            // More servers support this name of the algorithm. A server's metadata may select the other.
            _ => Algorithm::EdDsa,
        };
        if algorithm.is_some() && (found == Algorithm::Es256) != (requested == Algorithm::Es256) {
            return invalid("must match the key that is stored under this name");
        }
        let public = PublicJwk::from_raw(found, &pair.raw())?;
        let holder = Holder::WebCrypto(pair);
        Ok(Self { holder, public })
    }

    /// Deletes the key stored under `name`. Tokens that are bound to it become unusable.
    ///
    /// # Errors
    /// Returns [`Error::Browser`] if IndexedDB is not available.
    pub async fn delete(name: &str) -> Result<(), Error> {
        let erased = platform::erase(&storage_key(name)).await;
        erased.map_err(Error::Browser)
    }

    /// Wraps a key of ring's, which is in this module's memory.
    #[cfg(feature = "ring")]
    pub fn in_memory(key: keybound_core::jose::SigningKey) -> Self {
        let (public, holder) = (key.public().clone(), Holder::Memory(key.into()));
        Self { holder, public }
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
