//! OAuth flows: clients, grants, tokens, metadata, and calls to protected resources.

pub(crate) mod authorization_code;
pub(crate) mod client;
pub(crate) mod device;
pub(crate) mod grant;
pub(crate) mod id_token;
pub(crate) mod introspection;
pub(crate) mod issuer;
pub(crate) mod lineage;
pub(crate) mod metadata;
pub(crate) mod protected_resource;
#[cfg(feature = "record")]
mod recorded;
pub(crate) mod revocation;
pub(crate) mod step_up;
pub(crate) mod token;
pub(crate) mod token_request;
