//! What the JavaScript package calls; `js/index.js` gives it its shape.

use std::pin::Pin;
use std::rc::Rc;

use http::Method;
use js_sys::Promise;
use keybound_core::dpop::{Nonce, Proof};
use keybound_core::jose::Algorithm;
use keybound_core::{Client, ClientAuth, Grant, Misuse, Scope, Secret};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::future_to_promise;
use web_sys::Request;

use crate::{Error, ProofKey, Session, Transport, endpoint};

/// A [`ProofKey`] of JavaScript's.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Key(ProofKey);

#[wasm_bindgen]
impl Key {
    /// [`ProofKey::open`]
    pub fn open(name: String, algorithm: Option<String>) -> Promise {
        promise(async move { Ok(Self(open_key(&name, algorithm.as_deref()).await?).into()) })
    }

    /// [`ProofKey::delete`]
    pub fn delete(name: String) -> Promise {
        promise(async move {
            ProofKey::delete(&name).await?;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// `alg`
    #[wasm_bindgen(getter)]
    pub fn algorithm(&self) -> String {
        self.0.public().algorithm().as_str().to_owned()
    }

    /// The public half's JWK, as JSON.
    #[wasm_bindgen(getter)]
    pub fn jwk(&self) -> String {
        self.0.public().to_json().to_owned()
    }

    /// RFC 7638
    #[wasm_bindgen(getter)]
    pub fn thumbprint(&self) -> String {
        self.0.public().thumbprint().to_owned()
    }

    /// [`ProofKey::proof`]
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
                .map_err(|_| Misuse::new("method", "must be a method of HTTP"))?;
            let uri = url.parse().map_err(|_| Misuse::new("url", "must be a URL"))?;
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

/// A [`Session`] of JavaScript's.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Page(Session);

#[wasm_bindgen]
impl Page {
    /// A session with these options.
    pub fn open(options: Options) -> Promise {
        promise(async move { Ok(Self(open_session(&options).await?).into()) })
    }

    /// [`Session::fetch`]
    pub fn fetch(&self, request: Request) -> Promise {
        let session = self.0.clone();
        promise(async move { Ok(session.fetch(&request).await?.into()) })
    }

    /// [`Session::close`]
    pub fn close(&self) -> Promise {
        let session = self.0.clone();
        promise(async move {
            session.close().await?;
            Ok(JsValue::UNDEFINED)
        })
    }

    /// [`Session::is_open`]
    #[wasm_bindgen(getter, js_name = isOpen)]
    pub fn is_open(&self) -> bool {
        self.0.is_open()
    }

    /// [`Session::token`]
    pub fn token(&self) -> Promise {
        let session = self.0.clone();
        promise(async move { Ok(session.token().await?.access_token().expose().into()) })
    }
}

#[wasm_bindgen]
extern "C" {
    /// `SessionOptions` of `index.d.ts`, whose types `index.js` has checked.
    pub type Options;

    #[wasm_bindgen(method, getter)]
    fn name(this: &Options) -> String;
    #[wasm_bindgen(method, getter)]
    fn algorithm(this: &Options) -> Option<String>;
    #[wasm_bindgen(method, getter, js_name = tokenEndpoint)]
    fn token_endpoint(this: &Options) -> String;
    #[wasm_bindgen(method, getter, js_name = clientId)]
    fn client_id(this: &Options) -> String;
    #[wasm_bindgen(method, getter, js_name = clientSecret)]
    fn client_secret(this: &Options) -> Option<String>;
    #[wasm_bindgen(method, getter)]
    fn scope(this: &Options) -> Option<String>;
}

async fn open_key(name: &str, algorithm: Option<&str>) -> Result<ProofKey, Error> {
    let unknown = Misuse::new("algorithm", "must be ES256 or Ed25519");
    let algorithm = algorithm.map(|alg| Algorithm::from_alg(alg).ok_or(unknown)).transpose()?;
    ProofKey::open(name, algorithm).await
}

async fn open_session(options: &Options) -> Result<Session, Error> {
    let name = options.name();
    let key = open_key(&name, options.algorithm().as_deref()).await?;
    let client_id = options.client_id();
    let auth = match options.client_secret() {
        Some(secret) => ClientAuth::basic(&client_id, Secret::new(secret))?,
        None => ClientAuth::none(&client_id)?,
    };
    let client = Client::new(endpoint(&options.token_endpoint())?, auth).dpop(key.public().clone());
    let mut grant = Grant::client_credentials();
    if let Some(scope) = options.scope() {
        grant = grant.scope(Scope::new(&scope)?);
    }
    Session::open(&name, Transport::new(Some(key)), client, Some(grant)).await
}

/// One kind of future for all, so that what drives it is there once.
fn promise(future: impl Future<Output = Result<JsValue, Thrown>> + 'static) -> Promise {
    let future: Pin<Box<dyn Future<Output = Result<JsValue, JsValue>>>> =
        Box::pin(async move { future.await.map_err(|thrown| thrown.0) });
    future_to_promise(future)
}

/// What a promise is rejected with.
struct Thrown(JsValue);

impl<E: Into<Error>> From<E> for Thrown {
    fn from(error: E) -> Self {
        Self((&error.into()).into())
    }
}

impl From<Rc<Error>> for Thrown {
    fn from(error: Rc<Error>) -> Self {
        Self((&*error).into())
    }
}
