use std::error::Error;
use std::sync::Arc;

use keybound_core::SignRequest;
use keybound_core::jose::{PublicJwk, Signature, SigningKey};

/// A holder of private keys: a [`SigningKey`], or a closure that calls an HSM or a key service.
///
/// A signer may block. It signs [`SignRequest::message`] with the private half of
/// [`SignRequest::key`].
pub trait Signer: Send + Sync {
    /// Returns the signature of the request's message.
    ///
    /// # Errors
    /// Returns any error that prevents the signature. The caller receives it as
    /// [`Error::Signer`](crate::Error::Signer).
    fn sign(&self, request: &SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>>;
}

impl Signer for SigningKey {
    fn sign(&self, request: &SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        Ok(Self::sign(self, request)?)
    }
}

/// Several keys, selected by [`SignRequest::key`]: for example one for proofs and one for client
/// authentication.
impl Signer for Vec<SigningKey> {
    fn sign(&self, request: &SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        let key = self
            .iter()
            .find(|key| key.public().is_same_key(request.key()));
        Ok(key
            .ok_or("none of the signer's keys is the one that the request names")?
            .sign(request)?)
    }
}

/// A key that several transports share.
impl<S: Signer + ?Sized> Signer for Arc<S> {
    fn sign(&self, request: &SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        (**self).sign(request)
    }
}

impl Signer for Box<dyn Signer> {
    fn sign(&self, request: &SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        (**self).sign(request)
    }
}

impl Signer for &SigningKey {
    fn sign(&self, request: &SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        Signer::sign(*self, request)
    }
}

impl Signer for &dyn Signer {
    fn sign(&self, request: &SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        (**self).sign(request)
    }
}

impl<F> Signer for F
where
    F: Fn(&SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>> + Send + Sync,
{
    fn sign(&self, request: &SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        self(request)
    }
}

/// A [`Signer`] with one key, whose public half is known: a [`SigningKey`], or a public key with a
/// closure that signs with its private half elsewhere.
pub trait KeySigner: Signer {
    /// Returns the public key.
    fn public(&self) -> &PublicJwk;
}

impl KeySigner for SigningKey {
    fn public(&self) -> &PublicJwk {
        Self::public(self)
    }
}

impl<S: KeySigner + ?Sized> KeySigner for Arc<S> {
    fn public(&self) -> &PublicJwk {
        (**self).public()
    }
}

impl<S: Signer> Signer for (PublicJwk, S) {
    fn sign(&self, request: &SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        self.1.sign(request)
    }
}

impl<S: Signer> KeySigner for (PublicJwk, S) {
    fn public(&self) -> &PublicJwk {
        &self.0
    }
}
