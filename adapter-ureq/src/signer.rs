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

impl<F> Signer for F
where
    F: Fn(&SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>> + Send + Sync,
{
    fn sign(&self, request: &SignRequest) -> Result<Signature, Box<dyn Error + Send + Sync>> {
        self(request)
    }
}
