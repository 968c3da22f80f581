use std::error::Error;

use keybound_core::SignRequest;
use keybound_core::jose::{Signature, SigningKey};

/// Whoever holds the private key: a [`SigningKey`], or a closure that asks an HSM or a key service.
///
/// A signer may block. What it signs is [`SignRequest::message`], with [`SignRequest::key`].
pub trait Signer: Send + Sync {
    /// Signs, or says why not.
    ///
    /// # Errors
    /// Whatever keeps it from signing; it reaches the caller as [`Error::Signer`](crate::Error::Signer).
    fn sign(&self, request: &SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>>;
}

impl Signer for SigningKey {
    fn sign(&self, request: &SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        Ok(Self::sign(self, request)?)
    }
}

/// Several keys, each for its own: one for proofs, another by which the client authenticates itself.
impl Signer for Vec<SigningKey> {
    fn sign(&self, request: &SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        let key = self
            .iter()
            .find(|key| key.public().is_same_key(request.key()));
        Ok(key
            .ok_or("none of its keys is the one that must sign")?
            .sign(request)?)
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
