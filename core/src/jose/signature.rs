use super::{Algorithm, encode_into};
use crate::error::{Error, Misuse};

/// A signature in JOSE's encoding.
///
/// The constructor names the encoding that the bytes are in; it is never guessed, because the first byte
/// of a raw signature may well be the one that DER begins with.
#[derive(Clone, Debug)]
pub struct Signature {
    algorithm: Algorithm,
    bytes: [u8; 64],
}

impl Signature {
    /// A raw signature, R‖S for ECDSA (RFC 7518 §3.4): what JOSE libraries and WebCrypto make.
    ///
    /// # Errors
    /// `Misuse` if the length isn't the algorithm's.
    pub fn from_jose(algorithm: Algorithm, raw: &[u8]) -> Result<Self, Misuse> {
        let bytes = raw.try_into().map_err(|_| {
            Misuse::new("signature", "must be R‖S of the algorithm's length (64 bytes for ES256)")
        })?;
        Ok(Self { algorithm, bytes })
    }

    /// Completes a JWS: appends a dot and the signature.
    pub(crate) fn append_to(&self, input: &mut String, algorithm: Algorithm) -> Result<(), Error> {
        if self.algorithm != algorithm {
            return Err(Misuse::new("signature", "must be of the algorithm that the request names").into());
        }
        input.push('.');
        encode_into(&self.bytes, input);
        Ok(())
    }
}
