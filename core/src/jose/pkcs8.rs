//! PKCS#8 (RFC 5208, RFC 5958) with the keys of RFC 5915 (EC), RFC 8410 (Ed25519) and RFC 8017
//! (RSA).

use zeroize::Zeroizing;

use super::algorithm::KeyType;
use super::der::{
    BIT_STRING, CONTEXT_1, NULL, OCTET_STRING, OID, Reader, SEQUENCE, element, unsigned,
};
use super::private::{Bytes, PrivateParts, RsaParts};
use crate::types::input::InvalidInput;

const EC_PUBLIC_KEY: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01];
const P256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2B, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x2B, 0x65, 0x70];
const RSA_ENCRYPTION: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];

const MALFORMED: InvalidInput = InvalidInput::new("key", "must be an unencrypted PKCS#8 document");
const UNSUPPORTED: InvalidInput = InvalidInput::new(
    "key",
    "must be an EC key on P-256 or P-384, an Ed25519 key, or an RSA key",
);
const NO_PUBLIC_KEY: InvalidInput = InvalidInput::new(
    "key",
    "must include its public key: ring can't derive the public key of an EC key",
);

pub(super) fn parse(der: &[u8]) -> Result<(KeyType, PrivateParts), InvalidInput> {
    let mut document = Reader::new(der);
    let mut info = document.enter(SEQUENCE).ok_or(MALFORMED)?;
    let version_is_known = matches!(info.unsigned(), Some([] | [1]));
    let mut algorithm = info.enter(SEQUENCE).ok_or(MALFORMED)?;
    let key = info.read(OCTET_STRING).ok_or(MALFORMED)?;
    if !document.is_empty() || !version_is_known {
        return Err(MALFORMED);
    }
    Ok(match (algorithm.read(OID), algorithm.read(OID)) {
        (Some(EC_PUBLIC_KEY), Some(P256)) => (KeyType::P256, ec(32, key)?),
        (Some(EC_PUBLIC_KEY), Some(P384)) => (KeyType::P384, ec(48, key)?),
        (Some(ED25519), _) => (KeyType::Ed25519, ed25519(key).ok_or(MALFORMED)?),
        (Some(RSA_ENCRYPTION), _) => (KeyType::Rsa, rsa(key).ok_or(MALFORMED)?),
        (Some(_), _) => return Err(UNSUPPORTED),
        (None, _) => return Err(MALFORMED),
    })
}

/// Parses an `ECPrivateKey` (RFC 5915 §3) with a private scalar of this length.
fn ec(length: usize, key: &[u8]) -> Result<PrivateParts, InvalidInput> {
    let mut key = Reader::new(key).enter(SEQUENCE).ok_or(MALFORMED)?;
    let version = key.unsigned();
    let given = key.read(OCTET_STRING).ok_or(MALFORMED)?;
    if version != Some(&[1]) || given.len() > length {
        return Err(MALFORMED);
    }
    // Some implementations omit leading zeros.
    let mut d = Zeroizing::new(Vec::with_capacity(length));
    d.resize(length - given.len(), 0);
    d.extend(given);
    let _ = key.read(0xA0);
    match key
        .enter(CONTEXT_1)
        .and_then(|mut key| key.read(BIT_STRING))
    {
        Some([0, point @ ..]) => Ok(PrivateParts::Ec {
            d,
            point: point.to_vec(),
        }),
        _ => Err(NO_PUBLIC_KEY),
    }
}

/// Parses a `CurvePrivateKey` (RFC 8410 §7).
fn ed25519(key: &[u8]) -> Option<PrivateParts> {
    let mut key = Reader::new(key);
    let seed = key.read(OCTET_STRING).filter(|seed| seed.len() == 32)?;
    key.is_empty().then(|| PrivateParts::Ed25519 {
        seed: Zeroizing::new(seed.to_vec()),
    })
}

/// Parses an `RSAPrivateKey` (RFC 8017 §A.1.2).
fn rsa(key: &[u8]) -> Option<PrivateParts> {
    let mut document = Reader::new(key);
    let mut key = document.enter(SEQUENCE)?;
    let version: &[u8] = key.unsigned()?;
    let (n, e) = (key.unsigned()?.to_vec(), key.unsigned()?.to_vec());
    let private = [(); 6].map(|()| Some(Zeroizing::new(key.unsigned()?.to_vec())));
    let two_primes = version.is_empty() && key.is_empty() && document.is_empty();
    let [d, p, q, dp, dq, qi] = private;
    let private = [d?, p?, q?, dp?, dq?, qi?];
    two_primes.then(|| PrivateParts::Rsa(Box::new(RsaParts { n, e, private })))
}

pub(super) fn write(parts: &PrivateParts) -> Bytes {
    let (oid, parameters, key) = match parts {
        PrivateParts::Ec { d, point } => {
            // An uncompressed point has 65 bytes on P-256.
            let curve = if point.len() > 65 { P384 } else { P256 };
            let public = element(BIT_STRING, &[&[0], point]);
            let key = [
                &unsigned(&[1]),
                &element(OCTET_STRING, &[d]),
                &element(CONTEXT_1, &[&public]),
            ];
            let key = element(SEQUENCE, &key.map(|part| part.as_slice()));
            (EC_PUBLIC_KEY, element(OID, &[curve]), key)
        }
        PrivateParts::Ed25519 { seed } => {
            (ED25519, Bytes::default(), element(OCTET_STRING, &[seed]))
        }
        PrivateParts::Rsa(rsa) => {
            let private = rsa.private.iter().map(|number| number.as_slice());
            let numbers = [&[], rsa.n.as_slice(), &rsa.e].into_iter().chain(private);
            let numbers: Vec<Bytes> = numbers.map(unsigned).collect();
            let numbers: Vec<&[u8]> = numbers.iter().map(|number| number.as_slice()).collect();
            (
                RSA_ENCRYPTION,
                element(NULL, &[]),
                element(SEQUENCE, &numbers),
            )
        }
    };
    let algorithm = element(SEQUENCE, &[&element(OID, &[oid]), &parameters]);
    let key = element(OCTET_STRING, &[&key]);
    element(SEQUENCE, &[&unsigned(&[]), &algorithm, &key])
}
