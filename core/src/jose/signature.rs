use super::der::{Reader, SEQUENCE};
use super::{Algorithm, PublicJwk, algorithm::KeyType, encode_into};
use crate::types::{error::Error, input::InvalidInput};

/// A signature in JOSE's encoding.
///
/// Each constructor takes one encoding. The encoding is never detected, because a raw signature can
/// begin with the first byte of a DER signature.
#[derive(Clone, Debug)]
pub struct Signature {
    algorithm: Algorithm,
    bytes: Bytes,
}

#[derive(Clone, Debug)]
enum Bytes {
    Fixed64([u8; 64]),
    Fixed96([u8; 96]),
    Rsa(Box<[u8]>),
}

impl Signature {
    /// Creates a signature from its raw form: R‖S for ECDSA (RFC 7518 §3.4), as JOSE libraries and
    /// WebCrypto produce it. Ed25519 and RSA signatures have only this form.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the length is not the algorithm's: 64 bytes for ES256 and EdDSA,
    /// 96 for ES384, 256 to 1024 for RSA.
    pub fn from_jose(algorithm: Algorithm, raw: &[u8]) -> Result<Self, InvalidInput> {
        let bytes = match algorithm.key_type() {
            KeyType::P256 | KeyType::Ed25519 => raw.try_into().ok().map(Bytes::Fixed64),
            KeyType::P384 => raw.try_into().ok().map(Bytes::Fixed96),
            KeyType::Rsa => (256..=1024)
                .contains(&raw.len())
                .then(|| Bytes::Rsa(raw.into())),
        };
        let bytes = bytes.ok_or(InvalidInput::new(
            "signature",
            "must have the length of its algorithm's signatures",
        ))?;
        Ok(Self { algorithm, bytes })
    }

    /// Creates a signature from an ECDSA signature in DER, as cloud key services and most HSM tools
    /// produce it: `Ecdsa-Sig-Value` (RFC 3279 §2.2.3).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `der` is anything else, or the algorithm has no such form
    /// (EdDSA, RSA).
    pub fn from_der(algorithm: Algorithm, der: &[u8]) -> Result<Self, InvalidInput> {
        let half = match algorithm.key_type() {
            KeyType::P256 => 32,
            KeyType::P384 => 48,
            KeyType::Ed25519 | KeyType::Rsa => {
                return Err(InvalidInput::new(
                    "signature",
                    "must not be in DER: only ECDSA signatures have that form",
                ));
            }
        };
        let raw = raw_from_der(half, der).ok_or(InvalidInput::new(
            "signature",
            "must be a DER sequence of two positive integers, and nothing more",
        ))?;
        Self::from_jose(algorithm, &raw)
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Fixed64(bytes) => bytes,
            Bytes::Fixed96(bytes) => bytes,
            Bytes::Rsa(bytes) => bytes,
        }
    }

    /// Completes a JWS: appends a dot and the encoded signature to the signing input.
    pub(crate) fn append_to(&self, input: &mut Vec<u8>, key: &PublicJwk) -> Result<(), Error> {
        if !self.algorithm.is_same_as(key.algorithm())
            || self.as_bytes().len() != key.signature_len()
        {
            return Err(InvalidInput::new(
                "signature",
                "must be of the algorithm and length of the key in the request",
            )
            .into());
        }
        input.push(b'.');
        encode_into(self.as_bytes(), input);
        Ok(())
    }
}

fn raw_from_der(half: usize, der: &[u8]) -> Option<Vec<u8>> {
    let mut document = Reader::new(der);
    let mut pair = document.enter(SEQUENCE)?;
    let (r, s) = (pair.unsigned()?, pair.unsigned()?);
    let sound = |number: &[u8]| (1..=half).contains(&number.len());
    if !sound(r) || !sound(s) || !pair.is_empty() || !document.is_empty() {
        return None;
    }
    let mut raw = Vec::with_capacity(2 * half);
    for number in [r, s] {
        raw.resize(raw.len() + half - number.len(), 0);
        raw.extend(number);
    }
    Some(raw)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

    use super::*;

    #[test]
    fn a_der_signature_becomes_the_raw_one() {
        let key = crate::jose::SigningKey::generate(Algorithm::Es256).unwrap();
        let der_pair = EcdsaKeyPair::from_pkcs8(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            key.to_pkcs8_der().expose(),
            &SystemRandom::new(),
        )
        .unwrap();
        // Enough repetitions for leading zeros and high bits to occur in both halves.
        for _ in 0..600 {
            let der = der_pair.sign(&SystemRandom::new(), b"message").unwrap();
            let signature = Signature::from_der(Algorithm::Es256, der.as_ref()).unwrap();
            assert!(key.public().verify(b"message", signature.as_bytes()));
        }
    }

    #[test]
    fn what_is_no_der_signature_is_refused() {
        for der in [
            &[][..],
            &[0x30, 0],
            &[0x30, 3, 2, 1, 1],
            &[0x30, 6, 2, 1, 0, 2, 1, 1],
            &[0x30, 6, 2, 1, 0xFF, 2, 1, 1],
            &[0x30, 7, 2, 2, 0, 1, 2, 1, 1],
            &[0x30, 7, 2, 1, 1, 2, 1, 1, 0],
            &[0x30, 6, 2, 1, 1, 2, 1, 1, 0],
            &[0x30, 0x81, 6, 2, 1, 1, 2, 1, 1],
        ] {
            assert!(
                Signature::from_der(Algorithm::Es256, der).is_err(),
                "{der:?}"
            );
        }
        let fine = &[0x30, 6, 2, 1, 1, 2, 1, 1];
        assert!(Signature::from_der(Algorithm::Es256, fine).is_ok());
        assert!(Signature::from_der(Algorithm::EdDsa, fine).is_err());
        assert!(Signature::from_der(Algorithm::Rs256, fine).is_err());
    }

    #[test]
    fn a_raw_signature_has_its_algorithms_length() {
        for (algorithm, length, fits) in [
            (Algorithm::Es256, 64, true),
            (Algorithm::Es256, 70, false),
            (Algorithm::Es384, 96, true),
            (Algorithm::Es384, 64, false),
            (Algorithm::EdDsa, 64, true),
            (Algorithm::Rs256, 256, true),
            (Algorithm::Ps256, 255, false),
            (Algorithm::Ps256, 1025, false),
        ] {
            assert_eq!(
                Signature::from_jose(algorithm, &vec![0x30; length]).is_ok(),
                fits,
                "{algorithm} {length}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(der: Vec<u8>) {
            let _ = Signature::from_der(Algorithm::Es384, &der);
        }
    }
}
