//! A strict OAuth 2.0 provider with DPoP (RFC 9449) on loopback, for demonstrations and for the
//! tests of applications.
//!
//! [`Sandbox::start`] listens on `127.0.0.1` in a thread of its own. One server contains four
//! parts, each under its own base URL:
//!
//! - [`Sandbox::oauth`]: an authorization server with metadata (RFC 8414), token, revocation (RFC
//!   7009) and introspection (RFC 7662) endpoints, and a protected resource.
//! - [`Sandbox::moov`]: Moov's token and revocation endpoints, and two resources.
//! - [`Sandbox::treasury_prime`]: the endpoint that relays a browser's proof.
//! - [`Sandbox::marqeta`]: the resource for the token that the relay returns.
//!
//! The sandbox rejects the requests that the real servers reject, and returns errors in their
//! formats. It verifies DPoP proofs as RFC 9449 §4.3 requires, rejects replayed proofs, and
//! requires nonces if [`Options::require_nonce`] is set. State is held in memory and is lost when
//! it stops.
//!
//! The only valid credentials are the constants of this crate. They are public and protect nothing.
//!
//! ```no_run
//! use keybound_sandbox::{Options, Sandbox};
//!
//! let sandbox = Sandbox::start(Options::default().require_nonce(true))?;
//! let token_endpoint = format!("{}/token", sandbox.oauth());
//! # Ok::<(), std::io::Error>(())
//! ```

#![cfg_attr(not(test), warn(clippy::disallowed_macros))]

mod marqeta;
mod moov;
mod oauth;
mod pages;
mod proofs;
mod reply;
mod server;
mod state;
mod treasury_prime;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
};
use http::{HeaderValue, Method, Request, Response};

use reply::Reply;
use state::State;

/// The client ID that every part of the sandbox accepts.
pub const CLIENT_ID: &str = "sandbox-client";
/// The client secret of [`CLIENT_ID`].
pub const CLIENT_SECRET: &str = "sandbox-secret";
/// The API key for Treasury Prime's `apiKey` scheme, sent as a bearer credential.
pub const API_KEY: &str = "sandbox-api-key";
/// The web origin that is registered for Moov's API key.
pub const ORIGIN: &str = "https://app.example";

/// A running sandbox. Dropping it stops the server.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    server: server::Server,
}

/// The configuration of a [`Sandbox`].
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    port: u16,
    require_nonce: bool,
    pages: Option<PathBuf>,
}

impl Options {
    /// Sets the port to listen on. Default: any free port.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Sets whether proofs must contain a server nonce (RFC 9449 §8 and §9). Default: `false`.
    #[must_use]
    pub fn require_nonce(mut self, require: bool) -> Self {
        self.require_nonce = require;
        self
    }

    /// Serves the files in the `demo` and `dist` subdirectories of `folder` to browsers.
    #[must_use]
    pub fn pages(mut self, folder: impl Into<PathBuf>) -> Self {
        self.pages = Some(folder.into());
        self
    }
}

impl Sandbox {
    /// Starts a server on `127.0.0.1` in a thread of its own, and returns once it listens.
    ///
    /// # Errors
    /// Returns an error if the port is in use, or if the thread or its runtime cannot be created.
    pub fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, options.port))?;
        let address = listener.local_addr()?;
        let state = State::new(format!("http://{address}"), options.require_nonce);
        let pages = options.pages;
        let server = server::Server::start(listener, move |request| {
            pages::find(pages.as_deref(), &request).unwrap_or_else(|| answer(&state, request))
        })?;
        Ok(Self { address, server })
    }

    /// Returns the base URL of the server: `http://127.0.0.1:PORT`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the URL of the browser demonstration. It exists only if [`Options::pages`] is set.
    pub fn demo(&self) -> String {
        self.base_url() + "/demo/"
    }

    /// Returns the base URL of Moov's API: `/oauth2/token`, `/oauth2/revoke`, `/ping`, `/accounts`.
    pub fn moov(&self) -> String {
        self.base_url() + moov::PREFIX
    }

    /// Returns the base URL of Treasury Prime's API: `/person/{id}/uxt_access_token`.
    pub fn treasury_prime(&self) -> String {
        self.base_url() + treasury_prime::PREFIX
    }

    /// Returns the base URL of Marqeta's UX Toolkit. A browser's proof has `/oauth/token` below it
    /// as `htu`; `/api/v1/auth/program-short-code` is a protected resource.
    pub fn marqeta(&self) -> String {
        self.base_url() + marqeta::PREFIX
    }

    /// Returns the base URL of the authorization server: `/token`, `/revoke`, `/introspect`, and a
    /// protected resource, `/resource`. It is also the issuer (RFC 8414).
    pub fn oauth(&self) -> String {
        self.base_url() + oauth::PREFIX
    }

    /// Blocks the current thread while the server runs.
    pub fn wait(self) {
        self.server.join();
    }
}

fn answer(state: &State, request: Request<Bytes>) -> Response<Bytes> {
    let mut response = match *request.method() {
        Method::OPTIONS => Reply::empty(204).into_response(),
        _ => route(state, &request).into_response(),
    };
    let requested_headers = request
        .headers()
        .get(ACCESS_CONTROL_REQUEST_HEADERS)
        .cloned();
    let headers = response.headers_mut();
    // Any origin is allowed: requests are authenticated by tokens and proofs, never by cookies.
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED),
    );
    if let Some(requested_headers) = requested_headers {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, requested_headers);
        headers.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE"),
        );
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    response
}

/// The response headers that are exposed to pages. Without them a page cannot handle
/// `use_dpop_nonce` (RFC 9449 §8).
const EXPOSED: &str = "DPoP-Nonce, WWW-Authenticate, Date, Retry-After, X-Request-Id";

fn route(state: &State, request: &Request<Bytes>) -> Reply {
    let path = request.uri().path().to_owned();
    if path == oauth::METADATA && request.method() == Method::GET {
        oauth::metadata(state)
    } else if let Some(path) = path.strip_prefix(moov::PREFIX) {
        moov::answer(state, path, request)
    } else if let Some(path) = path.strip_prefix(treasury_prime::PREFIX) {
        treasury_prime::answer(state, path, request)
    } else if let Some(path) = path.strip_prefix(marqeta::PREFIX) {
        marqeta::answer(state, path, request)
    } else if let Some(path) = path.strip_prefix(oauth::PREFIX) {
        oauth::answer(state, path, request)
    } else {
        Reply::error(404, "not found")
    }
}
