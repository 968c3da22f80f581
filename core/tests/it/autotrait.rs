//! What may cross threads. A driver moves and shares all of these.

use keybound_core::dpop::{
    Inspection, Nonce, Proof, ProofBuilder, ProofError, ProofVerifier, VerifiedProof,
};
use keybound_core::driver::{
    AuthHeaders, Awaiting, Body, Delivered, Event, FetchToken, GetToken, LeaseRequest, LoadRequest,
    LogOut, PreparedCall, PreparedRequest, Reason, Refresh, ReleaseRequest, RequestContext,
    Retrying, SaveRequest, ServerState, SessionConfig, SessionId, SessionState, Shared, Signing,
    Step, Unsigned, Until,
};
use keybound_core::jose::{Algorithm, PublicJwk, Signature, SigningKey};
use keybound_core::provider::moov::{Moov, Origin, Version};
use keybound_core::provider::treasury_prime::TreasuryPrime;
use keybound_core::{
    AuthorizationBuilder, AuthorizationRequest, Call, Cause, Challenge, Client, ClientAuth,
    DeviceAuthorization, Endpoint, Error, Grant, Introspection, InvalidInput, InvalidResponse,
    Issuer, Metadata, Operation, PendingAuthorization, ProtectedResource, RedirectError, Retry,
    Revoked, Scope, Secret, ServerError, SignRequest, StepUp, Token, UnixTime,
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
        Awaiting<Box<PreparedRequest>, Operation<Token>>,
        Call,
        Cause,
        Delivered,
        Event,
        FetchToken,
        GetToken,
        LeaseRequest,
        LoadRequest,
        LogOut,
        Operation<Metadata>,
        Metadata,
        InvalidInput,
        Moov,
        Nonce,
        Origin,
        ServerState,
        PreparedRequest,
        PendingAuthorization,
        ProofVerifier,
        ProofError,
        Proof,
        ProtectedResource,
        StepUp,
        ProofBuilder<'static>,
        PublicJwk,
        Step<Call>,
        Step<Operation<Token>>,
        Step<Refresh>,
        Reason,
        RedirectError,
        Refresh,
        ReleaseRequest,
        Retry,
        Revoked,
        Scope,
        Secret,
        ServerError,
        SignRequest,
        Signature,
        Retrying,
        SaveRequest,
        SessionConfig,
        SessionId,
        SessionState,
        Shared,
        Signing<Proof>,
        SigningKey,
        Token,
        TreasuryPrime,
        UnixTime,
        Unsigned<Proof>,
        Until,
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
