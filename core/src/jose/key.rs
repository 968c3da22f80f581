use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom as _, SystemRandom};
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RSA_PSS_SHA256,
    RsaEncoding, RsaKeyPair,
};
use zeroize::Zeroizing;

use super::private::{PrivateParts, RsaParts};
use super::{
    Algorithm, JwkMembers, PublicJwk, Signature, algorithm::KeyType, jwk::KeyMaterial, pkcs8,
};
use crate::jose::signing::SignRequest;
use crate::types::secret::{Secret, SecretBytes};
use crate::types::{error::Error, input::InvalidInput};

const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

const NO_RANDOM: InvalidInput = InvalidInput::new("system", "must have a source of random numbers");
const NOT_PEM: InvalidInput = InvalidInput::new(
    "key",
    "must be PEM with one `BEGIN PRIVATE KEY` block (PKCS#8)",
);
const NOT_CONSISTENT: InvalidInput = InvalidInput::new(
    "key",
    "must be consistent: its parts don't belong together, or ring doesn't support the key",
);

/// A private key in the memory of this process. ring performs the signatures.
///
/// To generate keys and to sign with ECDSA and PSS, ring obtains random numbers from the system.
/// This is the only input of this crate that is not an argument.
pub struct SigningKey {
    pair: Pair,
    random: SystemRandom,
    public: PublicJwk,
    parts: PrivateParts,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl SigningKey {
    /// Generates a new key.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] for RS256 and PS256, whose keys must be imported (ring can't
    /// generate RSA keys), and if the system provides no random numbers.
    pub fn generate(algorithm: Algorithm) -> Result<Self, InvalidInput> {
        let random = SystemRandom::new();
        let parts = match algorithm.key_type() {
            curve @ (KeyType::P256 | KeyType::P384) => {
                let document = EcdsaKeyPair::generate_pkcs8(signing_curve(curve), &random);
                pkcs8::parse(document.map_err(|_| NO_RANDOM)?.as_ref())?.1
            }
            KeyType::Ed25519 => {
                let mut seed = Zeroizing::new(vec![0; 32]);
                random.fill(&mut seed).map_err(|_| NO_RANDOM)?;
                PrivateParts::Ed25519 { seed }
            }
            KeyType::Rsa => {
                return Err(InvalidInput::new(
                    "algorithm",
                    "must be ES256, ES384 or EdDSA to generate a key: import RSA keys",
                ));
            }
        };
        Self::from_parts(parts, algorithm, None)
    }

    /// Parses a key from a PKCS#8 document (RFC 5208, RFC 5958) in DER. An RSA key is for RS256,
    /// because the document doesn't specify the algorithm; see
    /// [`with_algorithm`](Self::with_algorithm).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `der` is not a PKCS#8 document, the document is encrypted, an EC
    /// key lacks its public key, or the key type is not supported.
    pub fn from_pkcs8_der(der: &[u8]) -> Result<Self, InvalidInput> {
        let (key_type, parts) = pkcs8::parse(der)?;
        Self::from_parts(parts, key_type.default_algorithm(), None)
    }

    /// Parses the contents of a key file: PKCS#8 as PEM or DER, or a private JWK, recognised by how
    /// it begins.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] as [`from_pkcs8_pem`](Self::from_pkcs8_pem),
    /// [`from_pkcs8_der`](Self::from_pkcs8_der) and [`from_jwk`](Self::from_jwk) do.
    pub fn parse(file: &[u8]) -> Result<Self, InvalidInput> {
        match std::str::from_utf8(file) {
            Ok(text) if text.trim_start().starts_with('{') => Self::from_jwk(file),
            Ok(text) => Self::from_pkcs8_pem(text),
            Err(_) => Self::from_pkcs8_der(file),
        }
    }

    /// Parses a key from PEM (RFC 7468 §10): `-----BEGIN PRIVATE KEY-----`.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `pem` is not one PEM block with a PKCS#8 document that
    /// [`from_pkcs8_der`](Self::from_pkcs8_der) accepts.
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, InvalidInput> {
        let (_, rest) = pem.split_once(PEM_BEGIN).ok_or(NOT_PEM)?;
        let (body, after) = rest.split_once(PEM_END).ok_or(NOT_PEM)?;
        if after.contains(PEM_BEGIN) {
            return Err(NOT_PEM);
        }
        let mut text = Zeroizing::new(String::with_capacity(body.len()));
        text.extend(body.split_ascii_whitespace());
        let der = Zeroizing::new(STANDARD.decode(text.as_bytes()).map_err(|_| NOT_PEM)?);
        Self::from_pkcs8_der(&der)
    }

    /// Parses a key from a private JWK (RFC 7517). The key is for the JWK's `alg`.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `jwk` is not a private JWK, is incomplete, inconsistent, not
    /// permitted for signing, or not supported.
    pub fn from_jwk(jwk: &[u8]) -> Result<Self, InvalidInput> {
        let members = JwkMembers::parse(jwk)?;
        let (parts, algorithm) = PrivateParts::from_members(&members)?;
        let key = Self::from_parts(parts, algorithm, members.kid()?)?;
        // ring derives the public key of an Ed25519 key, so `x` must be compared with it.
        let public = KeyMaterial::from_members(algorithm.key_type(), &members)?;
        let public = PublicJwk::new(public, algorithm, None);
        match key.public.is_same_key(&public) {
            true => Ok(key),
            false => Err(NOT_CONSISTENT),
        }
    }

    /// Creates a key. `algorithm` must be one of its key type.
    fn from_parts(
        parts: PrivateParts,
        algorithm: Algorithm,
        kid: Option<String>,
    ) -> Result<Self, InvalidInput> {
        let random = SystemRandom::new();
        let key_type = algorithm.key_type();
        let (pair, material) = match &parts {
            PrivateParts::Ec { d, point } => {
                let curve = signing_curve(key_type);
                let pair = EcdsaKeyPair::from_private_key_and_public_key(curve, d, point, &random);
                let pair = Pair::Ecdsa(pair.map_err(|_| NOT_CONSISTENT)?);
                (pair, KeyMaterial::from_point(key_type, point)?)
            }
            PrivateParts::Ed25519 { seed } => {
                let pair = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| NOT_CONSISTENT)?;
                let material = KeyMaterial::from_point(key_type, pair.public_key().as_ref())?;
                (Pair::Ed25519(pair), material)
            }
            PrivateParts::Rsa(rsa) => {
                let material = KeyMaterial::from_modulus(rsa.n.clone(), rsa.e.clone())?;
                (Pair::Rsa(rsa_pair(rsa)?), material)
            }
        };
        Ok(Self {
            pair,
            random,
            public: PublicJwk::new(material, algorithm, kid),
            parts,
        })
    }

    /// Returns the same key for another algorithm of its key type: RS256 or PS256, EdDSA or
    /// Ed25519.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the algorithm requires another key type.
    pub fn with_algorithm(mut self, algorithm: Algorithm) -> Result<Self, InvalidInput> {
        self.public = self.public.with_algorithm(algorithm)?;
        Ok(self)
    }

    /// Returns the private key as a PKCS#8 document in PEM. Write it only to a file that no other
    /// user can read.
    pub fn to_pkcs8_pem(&self) -> Secret {
        let body = Zeroizing::new(STANDARD.encode(self.to_pkcs8_der().expose()));
        let mut pem = String::with_capacity(body.len() + body.len() / 64 + 64);
        pem.push_str(PEM_BEGIN);
        for (at, letter) in body.chars().enumerate() {
            if at % 64 == 0 {
                pem.push('\n');
            }
            pem.push(letter);
        }
        pem.extend(["\n", PEM_END, "\n"]);
        Secret::new(pem)
    }

    /// Returns the private key as a PKCS#8 document in DER.
    pub fn to_pkcs8_der(&self) -> SecretBytes {
        SecretBytes(pkcs8::write(&self.parts))
    }

    /// Returns the private key as a JWK with `alg`, and with `kid` if the key has one.
    pub fn to_jwk(&self) -> Secret {
        self.parts.to_jwk(&self.public)
    }

    /// Returns the public key.
    pub fn public(&self) -> &PublicJwk {
        &self.public
    }

    /// Signs the message of a [`Signing`](crate::driver::Signing)'s request with the algorithm of
    /// the request.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the request is for another key, or the system provides no random
    /// numbers.
    pub fn sign(&self, request: &SignRequest) -> Result<Signature, Error> {
        let public = request.key();
        if !public.is_same_key(&self.public) {
            return Err(InvalidInput::new("key", "must be the key of the request").into());
        }
        let (algorithm, message) = (public.algorithm(), request.message());
        let signature = match &self.pair {
            Pair::Ecdsa(pair) => pair.sign(&self.random, message).map_err(|_| NO_RANDOM)?,
            Pair::Ed25519(pair) => pair.sign(message),
            Pair::Rsa(pair) => {
                let padding: &dyn RsaEncoding = match algorithm {
                    Algorithm::Ps256 => &RSA_PSS_SHA256,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut raw = vec![0; pair.public().modulus_len()];
                let signed = pair.sign(padding, &self.random, message, &mut raw);
                signed.map_err(|_| NO_RANDOM)?;
                return Ok(Signature::from_jose(algorithm, &raw)?);
            }
        };
        Ok(Signature::from_jose(algorithm, signature.as_ref())?)
    }
}

fn signing_curve(key_type: KeyType) -> &'static EcdsaSigningAlgorithm {
    match key_type {
        KeyType::P384 => &ECDSA_P384_SHA384_FIXED_SIGNING,
        _ => &ECDSA_P256_SHA256_FIXED_SIGNING,
    }
}

fn rsa_pair(parts: &RsaParts) -> Result<RsaKeyPair, InvalidInput> {
    let RsaParts { n, e, private } = parts;
    let [d, p, q, dp, dq, qi] = private;
    RsaKeyPair::from_components(&KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: dp,
        dQ: dq,
        qInv: qi,
    })
    .map_err(|_| {
        InvalidInput::new(
            "key",
            "must be an RSA key of 2048 to 4096 bits whose parts belong together",
        )
    })
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SigningKey").field(&self.public).finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn generated() -> impl Iterator<Item = SigningKey> {
        [
            Algorithm::Es256,
            Algorithm::Es384,
            Algorithm::EdDsa,
            Algorithm::Ed25519,
        ]
        .into_iter()
        .map(|algorithm| SigningKey::generate(algorithm).unwrap())
    }

    fn signs(key: &SigningKey) -> bool {
        let request = SignRequest::new(b"a.b".to_vec(), key.public().clone());
        key.sign(&request)
            .is_ok_and(|signature| key.public().verify(b"a.b", signature.as_bytes()))
    }

    #[test]
    fn a_key_survives_its_pem_and_its_jwk() {
        for key in generated() {
            let pem = key.to_pkcs8_pem();
            assert!(pem.expose().lines().all(|line| line.len() <= 64));
            let again = SigningKey::from_pkcs8_pem(pem.expose()).unwrap();
            assert!(again.public().is_same_key(key.public()) && signs(&again));
            assert_eq!(again.to_pkcs8_pem().expose(), pem.expose());
            let again = SigningKey::from_jwk(key.to_jwk().expose().as_bytes()).unwrap();
            assert!(again.public() == key.public() && signs(&again));
        }
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_quoted() {
        let good = SigningKey::generate(Algorithm::Es256)
            .unwrap()
            .to_pkcs8_pem();
        let good = good.expose();
        let twice = format!("{good}{good}");
        let cut = good.replacen("MIG", "MI", 1);
        for bad in [
            "",
            "hello",
            PEM_BEGIN,
            &good.replace("PRIVATE", "EC PRIVATE"),
            &cut,
            &twice,
        ] {
            assert_eq!(
                SigningKey::from_pkcs8_pem(bad).unwrap_err().argument(),
                "key",
                "{bad}"
            );
        }
        assert!(SigningKey::from_pkcs8_der(b"\x30\x00").is_err());
    }

    #[test]
    fn a_private_jwk_must_be_whole_consistent_and_for_signing() {
        for key in generated() {
            let jwk = key.to_jwk();
            let other = SigningKey::generate(key.public().algorithm())
                .unwrap()
                .to_jwk();
            let d = |jwk: &str| {
                jwk.split(r#""d":""#)
                    .nth(1)
                    .unwrap()
                    .split('"')
                    .next()
                    .unwrap()
                    .to_owned()
            };
            let swapped = jwk.expose().replace(&d(jwk.expose()), &d(other.expose()));
            let without = jwk.expose().replace(r#""d":"#, r#""dd":"#);
            let encrypting = jwk.expose().replacen('{', r#"{"use":"enc","#, 1);
            let verifying = jwk.expose().replacen('{', r#"{"key_ops":["verify"],"#, 1);
            let null = jwk
                .expose()
                .replace(&format!(r#""{}""#, d(jwk.expose())), "null");
            for bad in [
                swapped,
                without,
                encrypting,
                verifying,
                null,
                "{}".into(),
                "[".into(),
            ] {
                assert!(
                    SigningKey::from_jwk(bad.as_bytes()).is_err(),
                    "{:?}",
                    key.public().algorithm()
                );
            }
        }
    }

    #[test]
    fn a_key_signs_for_itself_alone() {
        for key in generated() {
            assert!(signs(&key));
            let other = SigningKey::generate(key.public().algorithm()).unwrap();
            let request = SignRequest::new(b"a.b".to_vec(), other.public().clone());
            assert!(matches!(key.sign(&request), Err(Error::InvalidInput(_))));
        }
    }

    #[test]
    fn rsa_keys_are_imported_not_generated() {
        for algorithm in [Algorithm::Rs256, Algorithm::Ps256] {
            assert_eq!(
                SigningKey::generate(algorithm).unwrap_err().argument(),
                "algorithm"
            );
        }
    }

    #[test]
    fn one_ed25519_key_goes_by_both_names_and_no_other() {
        let key = SigningKey::generate(Algorithm::EdDsa)
            .unwrap()
            .with_algorithm(Algorithm::Ed25519)
            .unwrap();
        assert!(signs(&key));
        assert!(key.with_algorithm(Algorithm::Es256).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(der: Vec<u8>, at in 0usize..138, byte: u8) {
            let _ = SigningKey::from_pkcs8_der(&der);
            let mut key = SigningKey::generate(Algorithm::Es256).unwrap().to_pkcs8_der().expose().to_vec();
            key[at] = byte;
            let _ = SigningKey::from_pkcs8_der(&key);
            let _ = SigningKey::from_jwk(&der);
        }
    }
}
