//! The refresh tokens from which a token descends.

use crate::jose;
use crate::types::secret::{ConstantTimeTag, Secret};

/// Hashes of the refresh tokens that led to a token: the first one of the login, and the most
/// recent ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lineage(pub(crate) Vec<String>);

impl Lineage {
    /// The maximum number of hashes. The first one is never evicted.
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
        let ancestor = ConstantTimeTag::new(ancestor.as_bytes());
        self.0.iter().any(|id| ancestor.matches(id.as_bytes()))
    }

    /// Returns the hash that identifies a refresh token, or an access token without one, in a
    /// lineage: 128 bits, base64url.
    pub(crate) fn id(secret: &Secret) -> String {
        jose::short_hash(secret.expose().as_bytes())
    }
}
