//! What may cross threads. A driver moves and shares all of these.

use keybound_core::dpop::{Inspection, Nonce, Policy, Problem, Proof, ProofBuilder, VerifiedProof};
use keybound_core::jose::{Algorithm, PublicJwk, Signature, SigningKey};
use keybound_core::provider::moov::{Moov, Origin, Version};
use keybound_core::provider::treasury_prime::TreasuryPrime;
use keybound_core::{
    Ambient, AuthHeaders, AuthorizationBuilder, AuthorizationRequest, Authorized, BadResponse, Body,
    Challenge, Client, ClientAuth, DeviceAuthorization, Endpoint, Error, Exchange, Grant, Introspection,
    Issuer, Judged, Metadata, Misuse, Origins, Outgoing, Pending, PendingAuthorization, PendingResource,
    ProtectedResource, Received, RedirectError, ResourceCall, Retry, Revoked, Scope, Secret, ServerError,
    SignRequest, Signing, StepUp, Token, UnixTime, Unsigned,
};

fn crosses_threads<T: Send + Sync + 'static>() {}

macro_rules! cross_threads {
    ($($type:ty),+ $(,)?) => { $(crosses_threads::<$type>();)+ };
}

#[test]
fn every_public_type_is_send_and_sync() {
    cross_threads!(
        Algorithm,
        Ambient,
        AuthHeaders,
        AuthorizationBuilder,
        AuthorizationRequest,
        Authorized,
        BadResponse,
        Body,
        Challenge,
        Client,
        ClientAuth,
        DeviceAuthorization,
        Endpoint,
        Error,
        Exchange<Revoked>,
        Exchange<Token>,
        Grant,
        Inspection,
        Introspection,
        Issuer,
        Judged,
        Exchange<Metadata>,
        Metadata,
        Misuse,
        Moov,
        Nonce,
        Origin,
        Origins,
        Outgoing<Token>,
        Pending<Token>,
        PendingAuthorization,
        PendingResource,
        Policy,
        Problem,
        Proof,
        ProtectedResource,
        StepUp,
        ProofBuilder<'static>,
        PublicJwk,
        Received<Token>,
        RedirectError,
        ResourceCall,
        Retry,
        Revoked,
        Scope,
        Secret,
        ServerError,
        SignRequest,
        Signature,
        Signing<Authorized>,
        Signing<Outgoing<Token>>,
        Signing<Proof>,
        SigningKey,
        Token,
        TreasuryPrime,
        UnixTime,
        Unsigned<Authorized>,
        Unsigned<Outgoing<Token>>,
        VerifiedProof,
        Version,
    );
}

#[test]
fn an_error_is_an_error_that_can_be_boxed_across_threads() {
    fn is_error<T: std::error::Error + Send + Sync + 'static>() {}
    is_error::<Error>();
    is_error::<Misuse>();
    is_error::<RedirectError>();
    is_error::<ServerError>();
    is_error::<BadResponse>();
    is_error::<keybound_core::Lost>();
}
