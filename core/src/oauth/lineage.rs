//! Which refresh tokens a token descends from.

use ring::digest::{SHA256, digest};

use crate::jose;
use crate::types::secret::Secret;

/// The refresh tokens that led to a token, each by a hash: the one that the login began with, and the latest.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lineage(pub(crate) Vec<String>);

impl Lineage {
    /// How many are remembered, the first among them.
    const CAPACITY: usize = 16;

    pub(crate) fn push(&mut self, ancestor: String) {
        if self.contains(&ancestor) {
            return;
        }
        if self.0.len() >= Self::CAPACITY {
            self.0.remove(1);
        }
        self.0.push(ancestor);
    }

    pub(crate) fn contains(&self, ancestor: &str) -> bool {
        self.0.iter().any(|known| known == ancestor)
    }

    /// The hash by which a refresh token, or a token without one, is known in a lineage: 128 bits, base64url.
    pub(crate) fn id(secret: &Secret) -> String {
        let hash = digest(&SHA256, secret.expose().as_bytes());
        jose::encode(
            hash.as_ref()
                .first_chunk::<16>()
                .map_or(&[], <[u8; 16]>::as_slice),
        )
    }
}
