//! Signatures as requests to the driver. The core provides the bytes and the key, and the driver
//! supplies the signature when it is available. A key may therefore be in this process, in an HSM,
//! behind a cloud API or in a browser, and the core needs neither a trait nor `async` for it.

use std::fmt;

use crate::jose::{PublicJwk, Signature};
use crate::types::error::Error;

/// A `T` that may require signatures first: of a proof, a client assertion, or both in turn.
///
/// A key that signs synchronously needs one line, `signing.finish(|request| key.sign(request))`.
/// Other keys need a loop:
///
/// ```
/// # use keybound_core::{Error, SignRequest, jose::Signature};
/// # use keybound_core::driver::{Resumable, Signing};
/// # fn drive<T: Resumable>(mut signing: Signing<T>, remote: impl Fn(&SignRequest) -> Signature) -> Result<T, Error> {
/// let ready = loop {
///     match signing {
///         Signing::Ready(ready) => break ready,
///         Signing::Needs(unsigned) => {
///             let signature = remote(unsigned.request()); // or `.await` it
///             signing = unsigned.resume(signature)?;
///         }
///     }
/// };
/// # Ok(ready)
/// # }
/// ```
#[must_use = "nothing is signed or sent until this is finished"]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
pub enum Signing<T: Resumable> {
    /// All signatures are complete.
    Ready(T),
    /// Another signature is required.
    Needs(Unsigned<T>),
}

impl<T: Resumable> Signing<T> {
    /// Supplies all required signatures from a key that signs synchronously, and returns the
    /// result.
    ///
    /// # Errors
    /// Returns the error of `sign`, and [`InvalidInput`](crate::InvalidInput) if a signature's
    /// algorithm or length is not that of the request's key.
    pub fn finish<E: From<Error>>(
        mut self,
        mut sign: impl FnMut(&SignRequest) -> Result<Signature, E>,
    ) -> Result<T, E> {
        loop {
            match self {
                Self::Ready(ready) => return Ok(ready),
                Self::Needs(unsigned) => {
                    let signature = sign(unsigned.request())?;
                    self = unsigned.resume(signature)?;
                }
            }
        }
    }
}

/// A `T` that needs a signature to continue. Another may follow.
#[must_use = "nothing is signed or sent until this is resumed"]
pub struct Unsigned<T: Resumable> {
    request: SignRequest,
    draft: T::Draft,
}

impl<T: Resumable> Unsigned<T> {
    pub(crate) fn new(request: SignRequest, draft: T::Draft) -> Self {
        Self { request, draft }
    }

    /// Returns the bytes to sign and the key that must sign them.
    pub fn request(&self) -> &SignRequest {
        &self.request
    }

    /// Supplies the signature, and returns the result or the request for the next signature.
    ///
    /// # Errors
    /// Returns [`InvalidInput`](crate::InvalidInput) if the signature's algorithm or length is not
    /// that of the request's key.
    pub fn resume(self, signature: Signature) -> Result<Signing<T>, Error> {
        T::assemble(self.draft, self.request.complete(&signature)?)
    }
}

impl<T: Resumable> fmt::Debug for Unsigned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsigned")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// The bytes to sign, a JWS signing input (RFC 7515 §5.1), and the key that must sign them.
pub struct SignRequest {
    input: Vec<u8>,
    key: PublicJwk,
}

impl SignRequest {
    /// Creates a request. If `input` has capacity for the signature, completing the JWS doesn't
    /// reallocate.
    pub(crate) fn new(input: Vec<u8>, key: PublicJwk) -> Self {
        Self { input, key }
    }

    /// Returns the message, not its digest:
    /// `ASCII(BASE64URL(header) || '.' || BASE64URL(payload))`.
    pub fn message(&self) -> &[u8] {
        &self.input
    }

    /// Returns the public half of the key that must sign. Sign with its
    /// [`algorithm`](PublicJwk::algorithm).
    pub fn key(&self) -> &PublicJwk {
        &self.key
    }

    pub(crate) fn complete(mut self, signature: &Signature) -> Result<Vec<u8>, Error> {
        signature.append_to(&mut self.input, &self.key)?;
        Ok(self.input)
    }
}

impl fmt::Debug for SignRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignRequest")
            .field("message", &format_args!("{} bytes", self.input.len()))
            .field("key", &self.key)
            .finish()
    }
}

/// A type that is assembled from an unsigned draft and a signed JWS. Sealed: only types of this
/// crate implement it.
pub trait Resumable: Sized + sealed::Sealed {
    /// The value without its signature.
    #[doc(hidden)]
    type Draft;

    /// Adds the signed JWS to the draft, which may then require another signature.
    #[doc(hidden)]
    fn assemble(draft: Self::Draft, jws: Vec<u8>) -> Result<Signing<Self>, Error>;
}

pub(crate) mod sealed {
    #[expect(unnameable_types, reason = "it seals `Resumable`")]
    pub trait Sealed {}
}
