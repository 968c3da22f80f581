//! A custom signer around ring for huskarl: the best result of a user who writes one.

use std::borrow::Cow;
use std::sync::Arc;

use huskarl::core::crypto::signer::{
    AsymmetricJwsSigner, AsymmetricJwsSignerSelector, JwsSigner, JwsSignerSelector,
};
use huskarl::core::jwk::PublicJwk;
use huskarl::core::platform::MaybeSendBoxFuture;
use huskarl::core::{Error, RetryAdvice};
use keybound_benches::RingKey;

/// A key store with a single key.
#[derive(Clone, Debug)]
pub(crate) struct RingSigner(Arc<Signer>);

#[derive(Debug)]
struct Signer {
    key: RingKey,
    alg: &'static str,
    jwk: PublicJwk,
    thumbprint: String,
}

impl RingSigner {
    pub(crate) fn new(key: RingKey, alg: &'static str, jwk: PublicJwk) -> Self {
        Self(Arc::new(Signer {
            key,
            alg,
            thumbprint: jwk.thumbprint(),
            jwk,
        }))
    }
}

impl JwsSigner for Signer {
    fn jws_algorithm(&self) -> Cow<'_, str> {
        self.alg.into()
    }

    fn key_id(&self) -> Option<Cow<'_, str>> {
        None
    }

    fn sign<'a>(&'a self, input: &'a [u8]) -> MaybeSendBoxFuture<'a, Result<Vec<u8>, Error>> {
        let signature = self.key.sign(input, <[u8]>::to_vec);
        let signature = signature.map_err(|error| Error::new(RetryAdvice::No, error.to_string()));
        Box::pin(async { signature })
    }
}

impl AsymmetricJwsSigner for Signer {
    fn public_key_jwk(&self) -> Cow<'_, PublicJwk> {
        Cow::Borrowed(&self.jwk)
    }
}

impl JwsSignerSelector for RingSigner {
    fn select_signer(&self) -> MaybeSendBoxFuture<'_, Arc<dyn JwsSigner>> {
        let signer: Arc<dyn JwsSigner> = self.0.clone();
        Box::pin(async { signer })
    }
}

impl AsymmetricJwsSignerSelector for RingSigner {
    fn select_asymmetric_signer(&self) -> MaybeSendBoxFuture<'_, Arc<dyn AsymmetricJwsSigner>> {
        let signer: Arc<dyn AsymmetricJwsSigner> = self.0.clone();
        Box::pin(async { signer })
    }

    fn select_signer_by_thumbprint<'a>(
        &'a self,
        thumbprint: &'a str,
    ) -> MaybeSendBoxFuture<'a, Option<Arc<dyn AsymmetricJwsSigner>>> {
        let signer: Option<Arc<dyn AsymmetricJwsSigner>> = if self.0.thumbprint == thumbprint {
            Some(self.0.clone())
        } else {
            None
        };
        Box::pin(async { signer })
    }
}
