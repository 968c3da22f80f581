//! What a task asks of its driver, and what the driver answers.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, StatusCode, header};

use crate::dpop::DPOP;
use crate::jose::signing::SignRequest;
use crate::types::error::{Error, Sent};
use crate::types::secret::{Body, SecretBytes};
use crate::types::{cause::Cause, time::UnixTime};

/// What a task needs before it can continue.
#[derive(Debug)]
#[expect(unnameable_types, reason = "a driver sees `Step`")]
pub enum Effect {
    Send(Box<PreparedRequest>),
    Call(PreparedCall),
    Sign(SignRequest),
    Wait(Until),
    Lease(LeaseRequest),
    Load(LoadRequest),
    Save(SaveRequest),
    Release(ReleaseRequest),
    Fetch(FetchToken),
}

impl Effect {
    /// Returns whether it sends a request, or signs one that is then sent.
    pub(crate) fn sends(&self) -> bool {
        matches!(self, Self::Send(_) | Self::Call(_) | Self::Sign(_))
    }

    /// Waits until this time.
    pub(crate) fn wait_until(time: UnixTime) -> Self {
        Self::Wait(Until {
            time,
            unless_generation: None,
        })
    }

    /// Waits until the generation is another one, at most until this time.
    pub(crate) fn wait_for_change(generation: u64, time: UnixTime) -> Self {
        Self::Wait(Until {
            time,
            unless_generation: Some(generation),
        })
    }
}

/// The next effect of a task, or its result.
#[derive(Debug)]
#[expect(unnameable_types, reason = "a driver sees `Step`")]
#[allow(
    clippy::large_enum_variant,
    reason = "it is moved once, and a box would cost more; small on wasm32"
)]
pub enum Next<T> {
    Effect(Effect),
    Done(Result<T, Error>),
}

impl<T> Next<T> {
    /// Returns the effect, or what `done` makes of the result.
    pub(crate) fn then<U>(self, done: impl FnOnce(Result<T, Error>) -> Next<U>) -> Next<U> {
        match self {
            Self::Effect(effect) => Next::Effect(effect),
            Self::Done(result) => done(result),
        }
    }
}

/// The answer to an effect.
#[derive(Clone)]
#[expect(
    missing_debug_implementations,
    reason = "it has the body, which has secrets"
)]
#[expect(
    unnameable_types,
    reason = "a driver gives it by the methods of `Awaiting`"
)]
pub enum Answer<'a> {
    /// The task starts, or its wait is over.
    Go,
    /// A signed JWS.
    Signed(Result<Vec<u8>, Error>),
    Response {
        status: StatusCode,
        headers: &'a HeaderMap,
        body: &'a [u8],
    },
    /// The head of a call's response.
    Head {
        status: StatusCode,
        headers: &'a HeaderMap,
    },
    /// A call has a response whose headers can't be read.
    StatusOnly(StatusCode),
    NoResponse(Sent, Option<Cause>),
    Leased(Result<bool, Cause>),
    Loaded(Result<Option<SecretBytes>, Cause>),
    Saved(Result<bool, Cause>),
    Released,
    Fetched(Result<SecretBytes, Cause>),
}

/// A request to send to an authorization server.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct PreparedRequest {
    /// The request, to be sent unchanged. Redirects must not be followed.
    pub request: Request<Body>,
    /// How long to wait for the whole response.
    pub timeout: Duration,
    /// The maximum idle time of the connection: zero for a new one, [`Duration::MAX`] for any that the
    /// driver keeps. A new connection is always right.
    pub max_idle: Duration,
    /// The number of this attempt within its operation, from 1.
    pub attempt: u32,
}

/// An authorized request of the application to a resource server.
#[derive(Debug)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct PreparedCall {
    /// The headers to add to the application's request.
    pub headers: AuthHeaders,
    /// How long to wait for the head of the response.
    pub timeout: Duration,
    /// The number of this attempt within its call, from 1.
    pub attempt: u32,
}

/// The `Authorization` header and, for a bound token, the `DPoP` header. Both are marked as
/// sensitive.
#[must_use]
#[derive(Debug)]
pub struct AuthHeaders {
    pub(crate) authorization: HeaderValue,
    pub(crate) proof: Option<HeaderValue>,
}

impl AuthHeaders {
    /// Moves the headers into those of a request, and replaces existing ones. A proof is good for one
    /// request, so a second call has none.
    pub fn apply(&mut self, headers: &mut HeaderMap) {
        headers.insert(header::AUTHORIZATION, self.authorization.clone());
        match self.proof.take() {
            Some(proof) => headers.insert(DPOP, proof),
            None => headers.remove(DPOP),
        };
    }
}

/// A wait: until a time, or until something changes that the task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct Until {
    /// When the wait ends in any case.
    pub time: UnixTime,
    /// Ends the wait, at once if need be, when the generation of the shared state is another one.
    pub unless_generation: Option<u64>,
}

/// Asks for the exclusive right to refresh a stored session, without waiting for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct LeaseRequest {
    /// The name of the session in the storage.
    pub name: String,
    /// When the lease expires, if the storage can't tell that its holder has crashed.
    pub ttl: Duration,
}

/// Asks for the stored state of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct LoadRequest {
    /// The name of the session in the storage.
    pub name: String,
}

/// Asks to store the state of a session under the lease that this task holds.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct SaveRequest {
    /// The name of the session in the storage.
    pub name: String,
    /// The state, which replaces the stored one.
    pub state: SecretBytes,
}

/// Asks to end the lease that this task holds.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct ReleaseRequest {
    /// The name of the session in the storage.
    pub name: String,
}

/// Asks the application for a token response, as JSON, that it obtains itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::exhaustive_structs, reason = "a driver takes it apart")]
pub struct FetchToken {
    /// How long to wait for it.
    pub timeout: Duration,
}
