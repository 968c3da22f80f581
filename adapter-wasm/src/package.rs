//! The exports for the JavaScript package. `js/index.js` wraps them in its public API.

use std::{fmt, pin::Pin};

use http::Method;
use js_sys::{Function, Promise};
use keybound_core::dpop::{Nonce, Proof};
use keybound_core::jose::Algorithm;
use keybound_core::{
    AuthorizationRequest, Client, ClientAuth, Endpoint, Grant, InvalidInput, Issuer,
    PendingAuthorization, Scope, Secret,
};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::{JsFuture, future_to_promise};
use web_sys::Request;

use crate::{CoreError, Error, ProofKey, Session, TokenSource, Transport, platform};

/// A [`ProofKey`] for JavaScript.
#[wasm_bindgen]
pub struct JsProofKey(ProofKey);

impl fmt::Debug for JsProofKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JsProofKey").field(&self.0).finish()
    }
}

#[wasm_bindgen]
impl JsProofKey {
    /// Calls [`ProofKey::open`].
    pub fn open(name: String, algorithm: Option<String>) -> Promise {
        promise(async move { Ok(Self(open_key(&name, algorithm.as_deref()).await?).into()) })
    }

    /// Calls [`ProofKey::delete`].
    pub fn delete(name: String) -> Promise {
        promise(async move { ProofKey::delete(&name).await.map(|()| JsValue::UNDEFINED) })
    }

    /// Returns the key's `alg`: `ES256`, or `EdDSA` for an Ed25519 key. Proofs for a server that
    /// uses the name `Ed25519` have that `alg`.
    #[wasm_bindgen(getter)]
    pub fn algorithm(&self) -> String {
        self.0.public().algorithm().as_str().to_owned()
    }

    /// Returns the JWK of the public key, as JSON.
    #[wasm_bindgen(getter)]
    pub fn jwk(&self) -> String {
        self.0.public().to_json().to_owned()
    }

    /// Returns the SHA-256 thumbprint of the public key (RFC 7638).
    #[wasm_bindgen(getter)]
    pub fn thumbprint(&self) -> String {
        self.0.public().thumbprint().to_owned()
    }

    /// Creates a proof with [`ProofKey::proof`], and returns it.
    pub fn proof(
        &self,
        method: String,
        url: String,
        nonce: Option<String>,
        token: Option<String>,
    ) -> Promise {
        let key = self.0.clone();
        promise(async move {
            let method = Method::from_bytes(method.as_bytes())
                .map_err(|_| InvalidInput::new("method", "must be an HTTP method"))?;
            let uri = url.parse();
            let uri = uri.map_err(|_| InvalidInput::new("url", "must be a URL"))?;
            let nonce = nonce.map(|nonce| Nonce::new(&nonce)).transpose()?;
            let mut proof = Proof::build(key.public(), &method, &uri)?;
            if let Some(nonce) = &nonce {
                proof = proof.nonce(nonce);
            }
            if let Some(token) = token {
                proof = proof.access_token(&Secret::new(token));
            }
            Ok(key.proof(proof).await?.as_str().into())
        })
    }
}

/// A [`Session`] for JavaScript.
#[wasm_bindgen]
pub struct JsSession(Session);

impl fmt::Debug for JsSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("JsSession").field(&self.0).finish()
    }
}

#[wasm_bindgen]
impl JsSession {
    /// Opens a session with these options.
    pub fn open(options: Options) -> Promise {
        promise(async move { Ok(Self(open_session(&options).await?).into()) })
    }

    /// Starts a login, and returns three lines: its `state`, the authorization URL, and the pending
    /// authorization as JSON, to be stored until the redirect.
    #[wasm_bindgen(js_name = startLogin)]
    pub fn start_login(&self, redirect_uri: &str, scope: Option<String>) -> Result<String, Error> {
        self.0.require_key()?;
        let mut request = self.0.client().authorization(redirect_uri)?;
        if let Some(scope) = scope {
            request = request.scope(Scope::new(&scope)?);
        }
        let AuthorizationRequest { url, pending } = request.build(platform::entropy())?;
        let (state, json) = (pending.state(), pending.to_json());
        Ok(format!("{state}\n{url}\n{}", json.expose()))
    }

    /// Completes a login with the stored pending authorization and the redirect's URL.
    #[wasm_bindgen(js_name = endLogin)]
    pub fn end_login(&self, pending: String, redirect: String) -> Promise {
        let session = self.0.clone();
        promise(async move {
            let pending = PendingAuthorization::from_json(&pending)?;
            let grant = pending.receive(&redirect).map_err(CoreError::from)?;
            session.log_in_with(grant).await.map(|_| JsValue::UNDEFINED)
        })
    }

    /// Calls [`Session::fetch`].
    pub fn fetch(&self, request: Request) -> Promise {
        let session = self.0.clone();
        promise(async move { session.fetch(&request).await.map(JsValue::from) })
    }

    /// Calls [`Session::log_out`].
    #[wasm_bindgen(js_name = logOut)]
    pub fn log_out(&self) -> Promise {
        let session = self.0.clone();
        promise(async move { session.log_out().await.map(|()| JsValue::UNDEFINED) })
    }

    /// Returns the session's id, which is unique in this origin: its name and its fingerprint.
    #[wasm_bindgen(getter)]
    pub fn id(&self) -> String {
        self.0.id().to_owned()
    }

    /// Calls [`Session::resume`].
    pub fn resume(&self) -> Promise {
        let session = self.0.clone();
        promise(async move { session.resume().await.map(|()| JsValue::UNDEFINED) })
    }

    /// Returns [`Session::is_open`].
    #[wasm_bindgen(getter, js_name = isOpen)]
    pub fn is_open(&self) -> bool {
        self.0.is_open()
    }

    /// Calls [`Session::token`], and returns the expiry as a Unix time in milliseconds, or nothing, then
    /// a space and the access token.
    pub fn token(&self) -> Promise {
        let session = self.0.clone();
        promise(async move {
            let token = session.token().await?;
            let expires = token.expires_at().map(|at| at.as_millis().to_string());
            let (expires, token) = (expires.unwrap_or_default(), token.access_token());
            Ok(format!("{expires} {}", token.expose()).into())
        })
    }
}

#[wasm_bindgen]
extern "C" {
    /// `SessionOptions` of `index.d.ts`. `index.js` has checked the types.
    pub type Options;

    /// Returns an option that is a string.
    #[wasm_bindgen(method, indexing_getter)]
    fn get(this: &Options, name: &str) -> Option<String>;
    /// `index.js` wraps it in a function without arguments, whose promise resolves to JSON.
    #[wasm_bindgen(method, getter)]
    fn token(this: &Options) -> Option<Function>;
}

async fn open_key(name: &str, algorithm: Option<&str>) -> Result<ProofKey, Error> {
    let unknown = InvalidInput::new("algorithm", "must be ES256 or Ed25519");
    let algorithm = algorithm
        .map(|alg| Algorithm::from_alg(alg).ok_or(unknown))
        .transpose()?;
    ProofKey::open(name, algorithm).await
}

async fn open_session(options: &Options) -> Result<Session, Error> {
    // `index.js` has set both.
    let name = options.get("name").unwrap_or_default();
    let client_id = options.get("clientId").unwrap_or_default();
    let endpoint = |name| {
        let url = options.get(name);
        url.map(|url| Endpoint::https_or_loopback(&url)).transpose()
    };
    let key = open_key(&name, options.get("algorithm").as_deref()).await?;
    let transport = Transport::new(Some(key.clone()));
    let auth = match options.get("clientSecret") {
        Some(secret) => ClientAuth::basic(&client_id, Secret::new(secret))?,
        None => ClientAuth::none(&client_id)?,
    };
    let mut client = match options.get("issuer") {
        Some(issuer) => {
            let issuer = Issuer::https_or_loopback(&issuer)?;
            let metadata = transport.execute(issuer.discover()?).await?;
            let key = metadata.dpop_key(key.public())?;
            metadata.client(auth)?.dpop(key)
        }
        None => {
            let rule = "must be given, unless `issuer` or `token` is";
            let missing = InvalidInput::new("tokenEndpoint", rule);
            let endpoint = endpoint("tokenEndpoint")?.ok_or(missing)?;
            Client::new(endpoint, auth).dpop(key.public().clone())
        }
    };
    if let Some(endpoint) = endpoint("authorizationEndpoint")? {
        client = client.authorization_endpoint(endpoint);
    }
    if let Some(endpoint) = endpoint("revocationEndpoint")? {
        client = client.revocation_endpoint(endpoint);
    }
    let scope = options.get("scope");
    let scope = scope.map(|scope| Scope::new(&scope)).transpose()?;
    let source = match (options.token(), options.get("grant").as_deref()) {
        (Some(get), _) => TokenSource::Callback(Box::new(move || {
            let promised = get.call0(&JsValue::UNDEFINED);
            Box::pin(async move {
                let json = JsFuture::from(Promise::from(promised?)).await?;
                Ok(json.as_string().unwrap_or_default())
            })
        })),
        (None, Some("client_credentials")) => {
            let mut grant = Grant::client_credentials();
            if let Some(scope) = &scope {
                grant = grant.scope(scope.clone());
            }
            TokenSource::Grant(Some(grant))
        }
        (None, None | Some("authorization_code")) => TokenSource::Grant(None),
        (None, Some(_)) => {
            let rule = "must be authorization_code or client_credentials";
            return Err(InvalidInput::new("grant", rule).into());
        }
    };
    Session::open(&name, transport, client, source, scope.as_ref()).await
}

/// Converts a future to a promise. The future is boxed, so that the executor's code is generated for
/// one type only.
fn promise(future: impl Future<Output = Result<JsValue, Error>> + 'static) -> Promise {
    let future: Pin<Box<dyn Future<Output = Result<JsValue, JsValue>>>> =
        Box::pin(async move { Ok(future.await?) });
    future_to_promise(future)
}
