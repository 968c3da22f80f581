use std::fmt;
use std::time::Duration;

use keybound_core::{InvalidInput, SecretBytes};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::{Lease, Storage, StorageError};
use crate::clock::entropy;

/// The first byte of what is sealed; other forms may follow.
const VERSION: u8 = 1;

/// Encrypts what another storage keeps (AES-256-GCM, a fresh nonce each time), so that whoever can read that learns
/// nothing, and whoever can write it can't put one session in another's place. That an older state of the same
/// session is put back can't be seen.
pub struct EncryptedStorage<S> {
    storage: S,
    key: LessSafeKey,
    /// Those before.
    previous_keys: Vec<LessSafeKey>,
}

impl<S: Storage> EncryptedStorage<S> {
    /// With a key of 32 bytes that the application keeps elsewhere. It may serve for some billion renewals.
    ///
    /// # Errors
    /// `InvalidInput` for a key of another length.
    pub fn new(storage: S, key: &[u8]) -> Result<Self, InvalidInput> {
        Ok(Self {
            storage,
            key: aes(key)?,
            previous_keys: Vec::new(),
        })
    }

    /// Opens what an older key has sealed as well; whatever is saved is sealed with the newest.
    ///
    /// # Errors
    /// `InvalidInput` for a key of another length.
    pub fn with_previous_key(mut self, older: &[u8]) -> Result<Self, InvalidInput> {
        self.previous_keys.push(aes(older)?);
        Ok(self)
    }

    fn seal(&self, name: &str, state: &SecretBytes) -> Result<SecretBytes, StorageError> {
        let nonce: [u8; NONCE_LEN] = entropy()?;
        let mut text =
            Vec::with_capacity(1 + NONCE_LEN + state.expose().len() + AES_256_GCM.tag_len());
        text.push(VERSION);
        text.extend(nonce);
        text.extend(state.expose());
        let (_, secret) = text.split_at_mut(1 + NONCE_LEN);
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), aad(name), secret)
            .map_err(|_| "the session could not be sealed")?;
        text.extend(tag.as_ref());
        Ok(SecretBytes::new(text))
    }

    fn open(&self, name: &str, sealed: &SecretBytes) -> Result<SecretBytes, StorageError> {
        let malformed =
            "what is kept under this name was not sealed by keybound, or by a later one";
        let (head, secret) = sealed
            .expose()
            .split_at_checked(1 + NONCE_LEN)
            .ok_or(malformed)?;
        let nonce = head.strip_prefix(&[VERSION]).ok_or(malformed)?;
        for key in std::iter::once(&self.key).chain(&self.previous_keys) {
            let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| malformed)?;
            let mut text = secret.to_vec();
            if let Ok(state) = key.open_in_place(nonce, aad(name), &mut text) {
                let length = state.len();
                text.truncate(length);
                return Ok(SecretBytes::new(text));
            }
        }
        Err("what is kept under this name was sealed with another key, or for another name, or was changed"
            .into())
    }
}

fn aes(key: &[u8]) -> Result<LessSafeKey, InvalidInput> {
    let key = UnboundKey::new(&AES_256_GCM, key)
        .map_err(|_| InvalidInput::new("key", "must be of 32 bytes"))?;
    Ok(LessSafeKey::new(key))
}

/// What is sealed belongs to its name.
fn aad(name: &str) -> Aad<String> {
    Aad::from(format!("keybound session {VERSION} {name}"))
}

impl<S: Storage> Storage for EncryptedStorage<S> {
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        self.storage
            .load(name)?
            .map(|sealed| self.open(name, &sealed))
            .transpose()
    }

    fn lease(
        &self,
        name: &str,
        patience: Duration,
    ) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        match self.storage.lease(name, patience)? {
            Some(lease) => Ok(Some(Box::new(EncryptedLease {
                storage: self,
                name: name.to_owned(),
                lease,
            }))),
            None => Ok(None),
        }
    }
}

struct EncryptedLease<'a, S> {
    storage: &'a EncryptedStorage<S>,
    name: String,
    lease: Box<dyn Lease + 'a>,
}

impl<S: Storage> Lease for EncryptedLease<'_, S> {
    fn save(&mut self, state: &SecretBytes) -> Result<bool, StorageError> {
        self.lease.save(&self.storage.seal(&self.name, state)?)
    }

    fn remove(&mut self) -> Result<(), StorageError> {
        self.lease.remove()
    }
}

impl<S> fmt::Debug for EncryptedStorage<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedStorage").finish_non_exhaustive()
    }
}
