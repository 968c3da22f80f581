//! A provider on loopback, for demonstrations and for the tests of applications. It is strict: it refuses
//! what the real servers refuse, and answers in their very shapes.
//!
//! It knows the credentials of this module, and no others; they guard nothing.

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

/// The id that every part of the sandbox knows.
pub const CLIENT_ID: &str = "sandbox-client";
/// The secret that goes with [`CLIENT_ID`].
pub const CLIENT_SECRET: &str = "sandbox-secret";
/// The API key of Treasury Prime's `apiKey` scheme, a bearer credential.
pub const API_KEY: &str = "sandbox-api-key";
/// The web origin that is registered with Moov's API key.
pub const ORIGIN: &str = "https://app.example";

/// A running sandbox. It stops when it is dropped.
#[derive(Debug)]
pub struct Sandbox {
    address: SocketAddr,
    server: server::Server,
}

/// What a sandbox does beyond the usual.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    port: u16,
    require_nonce: bool,
    pages: Option<PathBuf>,
}

impl Options {
    /// The port to listen on; any free one unless set.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Demands nonces in proofs (RFC 9449 §8 and §9).
    #[must_use]
    pub fn require_nonce(mut self, require: bool) -> Self {
        self.require_nonce = require;
        self
    }

    /// Serves pages for browsers: what is in this folder's `demo` and `dist`.
    #[must_use]
    pub fn pages(mut self, folder: impl Into<PathBuf>) -> Self {
        self.pages = Some(folder.into());
        self
    }
}

impl Sandbox {
    /// Listens on `127.0.0.1`, in a thread of its own.
    ///
    /// # Errors
    /// If the port is taken, or no thread can be had.
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

    /// Where it is: `http://127.0.0.1:…`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The demonstration for browsers, if it serves [pages](Options::pages).
    pub fn demo(&self) -> String {
        self.base_url() + "/demo/"
    }

    /// The base URL of Moov's API: `/oauth2/token`, `/oauth2/revoke`, `/ping`, `/accounts`.
    pub fn moov(&self) -> String {
        self.base_url() + moov::PREFIX
    }

    /// The base URL of Treasury Prime's API: `/person/{id}/uxt_access_token`.
    pub fn treasury_prime(&self) -> String {
        self.base_url() + treasury_prime::PREFIX
    }

    /// The base URL of Marqeta's UX Toolkit: `/oauth/token` is what a browser's proof names, and
    /// `/api/v1/auth/program-short-code` a resource.
    pub fn marqeta(&self) -> String {
        self.base_url() + marqeta::PREFIX
    }

    /// The base URL of an authorization server (`/token`, `/revoke`) with a resource (`/resource`).
    pub fn oauth(&self) -> String {
        self.base_url() + oauth::PREFIX
    }

    /// Serves until the process ends.
    pub fn wait(self) {
        self.server.join();
    }
}

fn answer(state: &State, request: Request<Bytes>) -> Response<Bytes> {
    let mut response = match *request.method() {
        Method::OPTIONS => Reply::empty(204).into_response(),
        _ => route(state, &request).into_response(),
    };
    let asked = request
        .headers()
        .get(ACCESS_CONTROL_REQUEST_HEADERS)
        .cloned();
    let headers = response.headers_mut();
    // Pages of any origin are let in: they prove themselves by tokens and proofs, never by cookies.
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static(EXPOSED),
    );
    if let Some(asked) = asked {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked);
        headers.insert(
            ACCESS_CONTROL_ALLOW_METHODS,
            HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE"),
        );
        headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    }
    response
}

/// What a page must see besides the body, or it can't answer a refusal (RFC 9449 §8).
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
        Reply::error(404, "there is nothing here")
    }
}
