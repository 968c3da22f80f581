//! jsonwebtoken takes its algorithms from one provider per process. This provider switches between
//! two.

use std::sync::atomic::{AtomicBool, Ordering};

use jsonwebtoken::crypto::{CryptoProvider, KeyUtils, aws_lc, rust_crypto};
use keybound_benches::Outcome;

static RUST_CRYPTO: AtomicBool = AtomicBool::new(false);

static EITHER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| (chosen().signer_factory)(algorithm, key),
    verifier_factory: |algorithm, key| (chosen().verifier_factory)(algorithm, key),
    key_utils: KeyUtils::new_unimplemented(),
};

#[derive(Clone, Copy)]
pub(crate) enum Provider {
    AwsLc,
    RustCrypto,
}

impl Provider {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AwsLc => "aws_lc_rs",
            Self::RustCrypto => "rust_crypto",
        }
    }

    /// Selects this provider for all later calls.
    pub(crate) fn choose(self) {
        RUST_CRYPTO.store(matches!(self, Self::RustCrypto), Ordering::Relaxed);
    }
}

fn chosen() -> &'static CryptoProvider {
    if RUST_CRYPTO.load(Ordering::Relaxed) {
        &rust_crypto::DEFAULT_PROVIDER
    } else {
        &aws_lc::DEFAULT_PROVIDER
    }
}

pub(crate) fn install() -> Outcome {
    EITHER
        .install_default()
        .map_err(|_| "jsonwebtoken has a provider already".into())
}
