//! A signature as an effect: the core says which bytes are to be signed by which key, the driver
//! brings the signature whenever it has it. So a key may be in this process, in an HSM, behind a
//! cloud's API or inside a browser, and the core needs neither a trait nor `async` for it.

use std::fmt;

use crate::jose::{PublicJwk, Signature};
use crate::types::error::Error;

/// A `T` that may first need signatures: a proof, a client assertion, or both in turn.
///
/// A key that answers at once is one line, `signing.finish(|request| key.sign(request))`; any other is a loop:
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
#[must_use = "nothing is signed, and nothing sent, until this is finished"]
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a driver must handle every case")]
pub enum Signing<T: Resumable> {
    /// All signatures are in.
    Ready(T),
    /// One more is needed.
    Needs(Unsigned<T>),
}

impl<T: Resumable> Signing<T> {
    /// Brings every signature that is needed, by a key that answers at once.
    ///
    /// # Errors
    /// What `sign` returns, and `InvalidInput` for a signature of another algorithm than the request's.
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

/// A step that waits for one signature.
#[must_use = "nothing is signed, and nothing sent, until this is resumed"]
pub struct Unsigned<T: Resumable> {
    request: SignRequest,
    draft: T::Draft,
}

impl<T: Resumable> Unsigned<T> {
    pub(crate) fn new(request: SignRequest, draft: T::Draft) -> Self {
        Self { request, draft }
    }

    /// What is to be signed, and by which key.
    pub fn request(&self) -> &SignRequest {
        &self.request
    }

    /// Takes the signature and goes on.
    ///
    /// # Errors
    /// `InvalidInput` if the signature is of another algorithm than the request's.
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

/// The bytes to sign, which are a JWS signing input (RFC 7515 §5.1), and the key that must sign them.
pub struct SignRequest {
    input: Vec<u8>,
    key: PublicJwk,
}

impl SignRequest {
    /// `input` should have room for the signature, so that the finished JWS is the same allocation.
    pub(crate) fn new(input: Vec<u8>, key: PublicJwk) -> Self {
        Self { input, key }
    }

    /// The message itself, not its digest: `ASCII(BASE64URL(header) || '.' || BASE64URL(payload))`.
    pub fn message(&self) -> &[u8] {
        &self.input
    }

    /// The public half of the key that must sign; its [`algorithm`](PublicJwk::algorithm) says how.
    pub fn key(&self) -> &PublicJwk {
        &self.key
    }

    fn complete(mut self, signature: &Signature) -> Result<Vec<u8>, Error> {
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

/// What can be put together from a draft and a JWS. Sealed: the core's own steps implement it.
pub trait Resumable: Sized + sealed::Sealed {
    /// The step without its signature.
    #[doc(hidden)]
    type Draft;

    /// Puts the signed JWS into the draft, which may then need another.
    #[doc(hidden)]
    fn assemble(draft: Self::Draft, jws: Vec<u8>) -> Result<Signing<Self>, Error>;
}

pub(crate) mod sealed {
    #[expect(unnameable_types, reason = "it seals `Assemble`")]
    pub trait Sealed {}
}
