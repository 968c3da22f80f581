//! PKCS#8 (RFC 5208, RFC 5958) with the keys of RFC 5915 (EC), RFC 8410 (Ed25519) and RFC 8017
//! (RSA).

use zeroize::Zeroizing;

use super::algorithm::KeyType;
use super::der::{
    BIT_STRING, CONTEXT_1, NULL, OCTET_STRING, OID, Reader, SEQUENCE, push, push_unsigned,
};
use super::private::{Bytes, PrivateParts, RsaParts};

const EC_PUBLIC_KEY: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x02, 0x01];
const P256: &[u8] = &[0x2A, 0x86, 0x48, 0xCE, 0x3D, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2B, 0x81, 0x04, 0x00, 0x22];
const ED25519: &[u8] = &[0x2B, 0x65, 0x70];
const RSA_ENCRYPTION: &[u8] = &[0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01];

/// The reason why a document is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadPkcs8 {
    Malformed,
    Unsupported,
    NoPublicKey,
}

pub(super) fn parse(der: &[u8]) -> Result<PrivateParts, BadPkcs8> {
    let malformed = BadPkcs8::Malformed;
    let mut document = Reader::new(der);
    let mut info = document.enter(SEQUENCE).ok_or(malformed)?;
    let version_is_known = matches!(info.unsigned(), Some([] | [1]));
    let mut algorithm = info.enter(SEQUENCE).ok_or(malformed)?;
    let key = info.read(OCTET_STRING).ok_or(malformed)?;
    if !document.is_empty() || !version_is_known {
        return Err(malformed);
    }
    match algorithm.read(OID) {
        Some(EC_PUBLIC_KEY) => match algorithm.read(OID) {
            Some(P256) => ec(KeyType::P256, 32, key),
            Some(P384) => ec(KeyType::P384, 48, key),
            _ => Err(BadPkcs8::Unsupported),
        },
        Some(ED25519) => ed25519(key).ok_or(malformed),
        Some(RSA_ENCRYPTION) => rsa(key).ok_or(malformed),
        Some(_) => Err(BadPkcs8::Unsupported),
        None => Err(malformed),
    }
}

/// Parses an `ECPrivateKey` (RFC 5915 §3).
fn ec(key_type: KeyType, length: usize, key: &[u8]) -> Result<PrivateParts, BadPkcs8> {
    let malformed = BadPkcs8::Malformed;
    let mut key = Reader::new(key).enter(SEQUENCE).ok_or(malformed)?;
    let version = key.unsigned();
    let given = key.read(OCTET_STRING).ok_or(malformed)?;
    if version != Some(&[1]) || given.len() > length {
        return Err(malformed);
    }
    // Some implementations omit leading zeros.
    let mut d = Zeroizing::new(vec![0; length - given.len()]);
    d.reserve_exact(given.len());
    d.extend(given);
    let _ = key.read(0xA0);
    let public = key
        .enter(CONTEXT_1)
        .and_then(|mut public| public.read(BIT_STRING));
    match public {
        Some([0, point @ ..]) => Ok(PrivateParts::Ec {
            key_type,
            d,
            point: point.to_vec(),
        }),
        _ => Err(BadPkcs8::NoPublicKey),
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
    let mut private = || -> Option<Bytes> { Some(Zeroizing::new(key.unsigned()?.to_vec())) };
    let (d, p, q, dp, dq, qi) = (
        private()?,
        private()?,
        private()?,
        private()?,
        private()?,
        private()?,
    );
    let two_primes = version.is_empty() && key.is_empty() && document.is_empty();
    two_primes.then(|| {
        PrivateParts::Rsa(Box::new(RsaParts {
            n,
            e,
            d,
            p,
            q,
            dp,
            dq,
            qi,
        }))
    })
}

pub(super) fn write(parts: &PrivateParts) -> Bytes {
    let mut algorithm = Vec::new();
    let mut key = buffer();
    match parts {
        PrivateParts::Ec { key_type, d, point } => {
            push(&mut algorithm, OID, EC_PUBLIC_KEY);
            push(
                &mut algorithm,
                OID,
                if *key_type == KeyType::P384 {
                    P384
                } else {
                    P256
                },
            );
            let mut bits = vec![0];
            bits.extend(point);
            let mut public = Vec::new();
            push(&mut public, BIT_STRING, &bits);
            let mut contents = buffer();
            push_unsigned(&mut contents, &[1]);
            push(&mut contents, OCTET_STRING, d);
            push(&mut contents, CONTEXT_1, &public);
            push(&mut key, SEQUENCE, &contents);
        }
        PrivateParts::Ed25519 { seed } => {
            push(&mut algorithm, OID, ED25519);
            push(&mut key, OCTET_STRING, seed);
        }
        PrivateParts::Rsa(parts) => {
            push(&mut algorithm, OID, RSA_ENCRYPTION);
            push(&mut algorithm, NULL, &[]);
            let RsaParts {
                n,
                e,
                d,
                p,
                q,
                dp,
                dq,
                qi,
            } = &**parts;
            let mut contents = buffer();
            push_unsigned(&mut contents, &[]);
            for number in [n.as_slice(), e, d, p, q, dp, dq, qi] {
                push_unsigned(&mut contents, number);
            }
            push(&mut key, SEQUENCE, &contents);
        }
    }
    let mut contents = buffer();
    push_unsigned(&mut contents, &[]);
    push(&mut contents, SEQUENCE, &algorithm);
    push(&mut contents, OCTET_STRING, &key);
    let mut document = buffer();
    push(&mut document, SEQUENCE, &contents);
    document
}

/// Returns a buffer with capacity for the largest signing key (RSA of 4096 bits). A reallocation
/// would leave an unwiped copy in memory.
fn buffer() -> Bytes {
    Zeroizing::new(Vec::with_capacity(3 * 1024))
}
