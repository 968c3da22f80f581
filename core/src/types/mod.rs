//! The basic types of this crate: secrets, time, URLs, nonces and errors.

pub(crate) mod cause;
pub(crate) mod endpoint;
pub(crate) mod error;
pub(crate) mod escape;
pub(crate) mod input;
pub(crate) mod internal_address;
pub(crate) mod limits;
pub(crate) mod nonce;
pub(crate) mod secret;
pub(crate) mod text;
pub(crate) mod time;
