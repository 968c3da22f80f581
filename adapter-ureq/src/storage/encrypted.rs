use std::fmt;
use std::time::Duration;

use keybound_core::{InvalidInput, SecretBytes};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::{Lease, Storage, StorageError};
use crate::clock::entropy;

/// The format version, the first byte of an encrypted state.
const VERSION: u8 = 1;

/// Encrypts the states of another storage with AES-256-GCM and a new nonce for each save.
///
/// An attacker who can read the storage learns nothing from it. An attacker who can write to it
/// cannot replace a session with another one. A rollback to an older state of the same session is
/// not detected.
pub struct EncryptedStorage<S> {
    storage: S,
    key: LessSafeKey,
    /// Used for decryption only.
    previous_keys: Vec<LessSafeKey>,
}

impl<S: Storage> EncryptedStorage<S> {
    /// Creates a storage with a key of 32 bytes, which the application stores elsewhere. One key is
    /// sufficient for some billion saves.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] for a key of another length.
    pub fn new(storage: S, key: &[u8]) -> Result<Self, InvalidInput> {
        Ok(Self {
            storage,
            key: aes(key)?,
            previous_keys: Vec::new(),
        })
    }

    /// Adds a previous key for key rotation. States that were encrypted with it can be decrypted;
    /// new states are encrypted with the key given to [`new`](Self::new).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] for a key of another length.
    pub fn with_previous_key(mut self, previous: &[u8]) -> Result<Self, InvalidInput> {
        self.previous_keys.push(aes(previous)?);
        Ok(self)
    }

    fn encrypt(&self, name: &str, state: &SecretBytes) -> Result<SecretBytes, StorageError> {
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
            .map_err(|_| "the session could not be encrypted")?;
        text.extend(tag.as_ref());
        Ok(SecretBytes::new(text))
    }

    fn decrypt(&self, name: &str, encrypted: &SecretBytes) -> Result<SecretBytes, StorageError> {
        let malformed =
            "the stored session is not in the encrypted format of this version of keybound";
        let (head, secret) = encrypted
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
        Err("the stored session was encrypted with another key or for another name, or was modified"
            .into())
    }
}

fn aes(key: &[u8]) -> Result<LessSafeKey, InvalidInput> {
    let key = UnboundKey::new(&AES_256_GCM, key)
        .map_err(|_| InvalidInput::new("key", "must be of 32 bytes"))?;
    Ok(LessSafeKey::new(key))
}

/// Returns the associated data, which binds an encrypted state to its name.
fn aad(name: &str) -> Aad<String> {
    Aad::from(format!("keybound session {VERSION} {name}"))
}

impl<S: Storage> Storage for EncryptedStorage<S> {
    fn load(&self, name: &str) -> Result<Option<SecretBytes>, StorageError> {
        self.storage
            .load(name)?
            .map(|encrypted| self.decrypt(name, &encrypted))
            .transpose()
    }

    fn lease(
        &self,
        name: &str,
        ttl: Duration,
    ) -> Result<Option<Box<dyn Lease + '_>>, StorageError> {
        match self.storage.lease(name, ttl)? {
            Some(lease) => Ok(Some(Box::new(EncryptedLease {
                storage: self,
                name: name.to_owned(),
                lease,
            }))),
            None => Ok(None),
        }
    }

    fn location(&self, name: &str) -> String {
        self.storage.location(name)
    }
}

struct EncryptedLease<'a, S> {
    storage: &'a EncryptedStorage<S>,
    name: String,
    lease: Box<dyn Lease + 'a>,
}

impl<S: Storage> Lease for EncryptedLease<'_, S> {
    fn save(&mut self, state: &SecretBytes) -> Result<bool, StorageError> {
        self.lease.save(&self.storage.encrypt(&self.name, state)?)
    }
}

impl<S> fmt::Debug for EncryptedStorage<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedStorage").finish_non_exhaustive()
    }
}
