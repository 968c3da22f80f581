//! Runs single operations and calls, without a session.

use std::cell::{Cell, RefCell};
use std::fmt;

use http::{Method, Uri};
use keybound_core::driver::{FromResponse, ServerState, Shared};
use keybound_core::{Call, Endpoint, InvalidInput, Operation, Token};
use web_sys::{Request, Response};

use crate::{Error, ProofKey, driver_loop::from_lines, notify::Notify, platform};

/// Runs the tasks of the core: sends their requests with `fetch`, signs with a key, and waits.
pub struct Transport {
    key: Option<ProofKey>,
    pub(crate) shared: RefCell<Shared>,
    /// The generation of the shared state that waiting tasks know of.
    pub(crate) generation: Cell<u64>,
    /// Wakes the tasks that wait for a change of the shared state.
    pub(crate) changed: Notify,
}

impl Transport {
    /// Creates a transport. `key` signs the proofs; it may be `None` for bearer tokens.
    pub fn new(key: Option<ProofKey>) -> Self {
        Self {
            key,
            shared: RefCell::default(),
            generation: Cell::default(),
            changed: Notify::default(),
        }
    }

    /// Returns the key that signs the proofs.
    pub fn key(&self) -> Option<&ProofKey> {
        self.key.as_ref()
    }

    /// Returns a copy of the nonces and clock offsets that are known now.
    pub fn server_state(&self) -> ServerState {
        self.shared().server_state().clone()
    }

    /// Runs an operation, with its retries, and returns its result.
    ///
    /// # Errors
    /// Returns [`Error::Core`] for an error response, an invalid response, no response or a failed
    /// signature, and [`Error::Hidden`] if a header needed for a retry is not exposed.
    pub async fn execute<T: FromResponse>(&self, operation: Operation<T>) -> Result<T, Error> {
        self.run(operation, None).await
    }

    /// Sends a request with a token, and returns the response.
    ///
    /// Sets `Authorization`, and `DPoP` with a new proof if the token is bound to a key. Retries if the
    /// server requires another proof or a new nonce, and after transient failures if a retry is safe.
    /// Any status is returned as a response; the body is unread. Redirects are not followed.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the request must not or can't carry the token,
    /// [`NoResponse`](keybound_core::Error::NoResponse) if no response was received,
    /// [`Error::Redirected`] for a redirect, and [`Error::Aborted`] if the request's signal is aborted.
    pub async fn send(&self, token: &Token, request: &Request) -> Result<Response, Error> {
        let call = to_call(request, |method, uri| token.authorize(method, uri))?;
        self.call(call, None, request).await
    }
}

/// Starts a call with the parts of the application's request that the core needs.
pub(crate) fn to_call(
    request: &Request,
    start: impl FnOnce(&Method, &Uri) -> Result<Call, InvalidInput>,
) -> Result<Call, InvalidInput> {
    // One call for all parts: calling into JavaScript costs more than parsing the result.
    let text = platform::request_head(request);
    let mut parts = text.splitn(4, '\n');
    let mut next = || parts.next().unwrap_or_default();
    if next() == "no-cors" {
        let rule = "must not be no-cors: the browser would remove the token and hide the response";
        return Err(InvalidInput::new("mode", rule));
    }
    let method = Method::from_bytes(next().as_bytes())
        .map_err(|_| InvalidInput::new("method", "must be an HTTP method"))?;
    let url = next().split('#').next().unwrap_or_default();
    let endpoint = Endpoint::https_or_loopback(url)?;
    let call = start(&method, endpoint.uri())?;
    Ok(call.detect_idempotency_key(&from_lines(next())))
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport")
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}
