//! The Rust side, in a browser: `.ci/browser` runs it.

#![cfg(target_arch = "wasm32")]
#![allow(
    clippy::unwrap_used,
    clippy::as_conversions,
    reason = "tests, which clippy doesn't know for such"
)]

use keybound_wasm::dpop::{Proof, ProofVerifier};
use keybound_wasm::jose::Algorithm;
use keybound_wasm::{
    Client, ClientAuth, CoreError, Endpoint, Error, Grant, ProofKey, Retry, Transport, UnixTime,
};
use wasm_bindgen::JsCast as _;
use wasm_bindgen_test::{wasm_bindgen_test, wasm_bindgen_test_configure};

wasm_bindgen_test_configure!(run_in_browser);

fn now() -> UnixTime {
    UnixTime::from_millis(js_sys::Date::now() as u64)
}

async fn proves(key: &ProofKey) -> bool {
    let (method, uri) = (http::Method::GET, "https://rs.example/a".parse().unwrap());
    let proof = key
        .proof(Proof::build(key.public(), &method, &uri).unwrap())
        .await
        .unwrap();
    let policy = ProofVerifier::default()
        .method("GET")
        .url("https://rs.example/a")
        .unwrap()
        .no_access_token();
    policy.verify(proof.as_str(), now()).verified().is_some()
}

#[wasm_bindgen_test]
async fn rings_verification_takes_what_webcrypto_signs() {
    for (name, algorithm) in [("es256", Algorithm::Es256), ("ed25519", Algorithm::EdDsa)] {
        let key = ProofKey::open(name, Some(algorithm)).await.unwrap();
        assert_eq!(key.public().algorithm(), algorithm);
        assert!(proves(&key).await);
        let again = ProofKey::open(name, None).await.unwrap();
        assert_eq!(again.public().thumbprint(), key.public().thumbprint());
    }
}

#[wasm_bindgen_test]
async fn a_key_is_of_an_algorithm_that_browsers_have() {
    for algorithm in [Algorithm::Es384, Algorithm::Ps256] {
        let error = ProofKey::open("other", Some(algorithm)).await.unwrap_err();
        assert!(
            matches!(error, Error::Core(CoreError::InvalidInput(invalid)) if invalid.argument() == "algorithm")
        );
    }
}

#[cfg(feature = "ring")]
#[wasm_bindgen_test]
async fn a_key_of_rings_proves_as_well() {
    let key = keybound_wasm::jose::SigningKey::generate(Algorithm::Es256).unwrap();
    assert!(proves(&ProofKey::in_memory(key)).await);
}

#[wasm_bindgen_test]
async fn a_server_that_is_not_there_is_a_lost_connection_whose_cause_is_fetchs() {
    let client = Client::new(
        Endpoint::https_or_loopback("http://127.0.0.1:9/token").unwrap(),
        ClientAuth::none("app").unwrap(),
    );
    let operation = client
        .token(Grant::client_credentials())
        .unwrap()
        .max_attempts(1);
    let error = Transport::new(None).execute(operation).await.unwrap_err();
    assert_eq!(error.retry(), Retry::Later(None));
    assert!(matches!(&error, Error::Core(CoreError::NoResponse(_))));
    let exception = error.exception().unwrap();
    assert!(exception.is_instance_of::<js_sys::TypeError>());
    assert!(error.to_string().contains("CORS"), "{error}");
}
