//! What may cross threads. A driver moves and shares all of these.

use keybound_core::dpop::{
    Inspection, Nonce, Proof, ProofBuilder, ProofError, ProofVerifier, VerifiedProof,
};
use keybound_core::driver::{
    AuthHeaders, Body, PendingCall, PendingResponse, PreparedCall, PreparedRequest, RequestContext,
    ResourceCall, ServerState, Signing, Step, Unsigned, Verdict,
};
use keybound_core::jose::{Algorithm, PublicJwk, Signature, SigningKey};
use keybound_core::provider::moov::{Moov, Origin, Version};
use keybound_core::provider::treasury_prime::TreasuryPrime;
use keybound_core::{
    AuthorizationBuilder, AuthorizationRequest, Challenge, Client, ClientAuth, DeviceAuthorization,
    Endpoint, Error, Grant, Introspection, InvalidInput, InvalidResponse, Issuer, Metadata,
    Operation, PendingAuthorization, ProtectedResource, RedirectError, Retry, Revoked, Scope,
    Secret, ServerError, SignRequest, StepUp, Token, UnixTime,
};

fn crosses_threads<T: Send + Sync + 'static>() {}

macro_rules! cross_threads {
    ($($type:ty),+ $(,)?) => { $(crosses_threads::<$type>();)+ };
}

#[test]
fn every_public_type_is_send_and_sync() {
    cross_threads!(
        Algorithm,
        RequestContext,
        AuthHeaders,
        AuthorizationBuilder,
        AuthorizationRequest,
        PreparedCall,
        InvalidResponse,
        Body,
        Challenge,
        Client,
        ClientAuth,
        DeviceAuthorization,
        Endpoint,
        Error,
        Operation<Revoked>,
        Operation<Token>,
        Grant,
        Inspection,
        Introspection,
        Issuer,
        Verdict,
        Operation<Metadata>,
        Metadata,
        InvalidInput,
        Moov,
        Nonce,
        Origin,
        ServerState,
        PreparedRequest<Token>,
        PendingResponse<Token>,
        PendingAuthorization,
        PendingCall,
        ProofVerifier,
        ProofError,
        Proof,
        ProtectedResource,
        StepUp,
        ProofBuilder<'static>,
        PublicJwk,
        Step<Token>,
        RedirectError,
        ResourceCall,
        Retry,
        Revoked,
        Scope,
        Secret,
        ServerError,
        SignRequest,
        Signature,
        Signing<PreparedCall>,
        Signing<PreparedRequest<Token>>,
        Signing<Proof>,
        SigningKey,
        Token,
        TreasuryPrime,
        UnixTime,
        Unsigned<PreparedCall>,
        Unsigned<PreparedRequest<Token>>,
        VerifiedProof,
        Version,
    );
}

#[test]
fn an_error_is_an_error_that_can_be_boxed_across_threads() {
    fn is_error<T: std::error::Error + Send + Sync + 'static>() {}
    is_error::<Error>();
    is_error::<InvalidInput>();
    is_error::<RedirectError>();
    is_error::<ServerError>();
    is_error::<InvalidResponse>();
    is_error::<keybound_core::NoResponse>();
}
