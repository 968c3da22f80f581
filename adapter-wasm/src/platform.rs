//! Bindings of `js/platform.js`: the browser's clock, randomness, requests, keys, storage and locks.

use std::time::Duration;

use js_sys::Function;
use keybound_core::UnixTime;
use keybound_core::driver::RequestContext;
use wasm_bindgen::prelude::*;
use web_sys::{Request, Response};

#[wasm_bindgen(module = "/js/platform.js")]
extern "C" {
    #[wasm_bindgen(js_name = now)]
    fn now_millis() -> u64;
    fn fill(entropy: &mut [u8]);
    #[wasm_bindgen(js_name = sleep)]
    async fn sleep_millis(millis: u32);

    /// Returns a `KeyboundError` with the members of the JSON object `details`.
    pub(crate) fn fail(message: &str, details: &str, cause: &JsValue) -> JsValue;

    pub(crate) fn head(response: &Response) -> String;
    #[wasm_bindgen(js_name = requestHead)]
    pub(crate) fn request_head(request: &Request) -> String;
    #[wasm_bindgen(catch)]
    pub(crate) async fn call(request: &Request, headers: &str) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(catch)]
    pub(crate) async fn send(
        method: &str,
        url: &str,
        headers: &str,
        body: &[u8],
        timeout: u32,
        limit: usize,
    ) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(js_name = warnHidden)]
    pub(crate) fn warn_hidden(request: &Request);
    #[wasm_bindgen(js_name = isOffline)]
    pub(crate) fn is_offline() -> bool;

    #[wasm_bindgen(catch, js_name = openKey)]
    pub(crate) async fn open_key(name: &str, algorithm: &str) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(catch)]
    pub(crate) async fn sign(pair: &KeyPair, message: &[u8]) -> Result<JsValue, JsValue>;

    #[wasm_bindgen(catch, js_name = load)]
    async fn load_value(name: &str) -> Result<JsValue, JsValue>;
    #[wasm_bindgen(catch)]
    pub(crate) async fn save(name: &str, value: &str) -> Result<(), JsValue>;
    #[wasm_bindgen(catch)]
    pub(crate) async fn erase(name: &str) -> Result<(), JsValue>;

    #[wasm_bindgen(catch, js_name = eraseSession)]
    pub(crate) async fn erase_session(name: &str, key: &str) -> Result<(), JsValue>;

    #[wasm_bindgen(catch, js_name = lock)]
    async fn acquire_lock(name: &str) -> Result<JsValue, JsValue>;
    pub(crate) fn channel(name: &str) -> JsValue;
    pub(crate) fn post(channel: &JsValue, message: &str);
    #[wasm_bindgen(js_name = nextMessage)]
    pub(crate) async fn next_message(channel: &JsValue) -> JsValue;
}

#[wasm_bindgen]
extern "C" {
    /// A key pair, as `openKey` returns it.
    #[derive(Clone)]
    pub(crate) type KeyPair;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn algorithm(this: &KeyPair) -> String;
    #[wasm_bindgen(method, getter)]
    pub(crate) fn raw(this: &KeyPair) -> Vec<u8>;

    /// Returns the text of any value, such as the name and the message of an exception.
    #[wasm_bindgen(catch, js_name = String)]
    pub(crate) fn text(value: &JsValue) -> Result<String, JsValue>;
}

pub(crate) fn now() -> UnixTime {
    UnixTime::from_millis(now_millis())
}

pub(crate) fn entropy<const N: usize>() -> [u8; N] {
    let mut entropy = [0; N];
    fill(&mut entropy);
    entropy
}

pub(crate) fn request_context() -> RequestContext {
    RequestContext::new(now(), entropy())
}

pub(crate) async fn sleep(wait: Duration) {
    if !wait.is_zero() {
        sleep_millis(millis(wait)).await;
    }
}

/// Returns the milliseconds, clamped to the range of `setTimeout`.
pub(crate) fn millis(span: Duration) -> u32 {
    u32::try_from(span.as_millis())
        .unwrap_or(u32::MAX)
        .min(i32::MAX.unsigned_abs())
}

/// Returns the string stored under `name`.
pub(crate) async fn load(name: &str) -> Result<Option<String>, JsValue> {
    load_value(name).await.map(|value| value.as_string())
}

/// An exclusive lock of this name among all tabs and workers. Released on drop.
pub(crate) struct Lock(Function);

impl Lock {
    /// Waits for the lock for a second at most. Returns `None` if another holder keeps it.
    pub(crate) async fn acquire(name: &str) -> Result<Option<Self>, JsValue> {
        let release = acquire_lock(name).await?;
        Ok((!release.is_undefined()).then(|| Self(release.unchecked_into())))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The function resolves a promise, which can't fail.
        let _ = self.0.call0(&JsValue::UNDEFINED);
    }
}
