//! keybound's core.

mod client;
pub mod dpop;
mod endpoint;
mod error;
mod exchange;
mod grant;
pub mod jose;
mod origins;
pub mod provider;
mod resource;
mod revocation;
mod secret;
mod signing;
mod time;
mod token;
mod wire;

pub use client::{Client, ClientAuth};
pub use endpoint::Endpoint;
pub use error::{BadResponse, Error, Lost, Misuse, Retry, Sent, ServerError, WhyBad};
pub use exchange::{Exchange, MAX_RESPONSE, Outgoing, Pending, Received};
pub use grant::{Grant, Scope};
pub use origins::{Origins, Role};
pub use resource::{AuthHeaders, Authorized, Judged, PendingResource, ResourceCall};
pub use revocation::{Revoked, TokenTypeHint};
pub use secret::{Body, Secret};
pub use signing::{Assemble, SignRequest, Signing, Unsigned};
pub use time::{Ambient, UnixTime};
pub use token::{ExpiresIn, Token, TokenType};
pub use wire::challenge::Challenge;
pub use wire::fields::BodyFormat;
