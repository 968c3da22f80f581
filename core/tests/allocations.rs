//! What a request costs the heap. The allocator counts per thread, so that the tests don't disturb each other.

#![cfg(test)]

use allocation_counter::measure;
use http::{HeaderMap, Method, Response, Uri};
use keybound_core::dpop::{Nonce, Proof};
use keybound_core::driver::{Awaiting, PreparedCall, RequestContext, Shared, Signing, Step, Task};
use keybound_core::jose::{Algorithm, Signature, SigningKey};
use keybound_core::{
    Call, Cause, Client, ClientAuth, Endpoint, Error, Grant, Secret, SignRequest, Token, UnixTime,
};

const NOW: UnixTime = UnixTime::from_secs(1_700_000_000);
const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";

fn context() -> RequestContext {
    RequestContext::new(NOW, [1; 16])
}

/// How often `made` allocates, and what it makes.
fn counted<T>(made: impl FnOnce() -> T) -> (u64, T) {
    let mut result = None;
    let info = measure(|| result = Some(made()));
    (info.count_total, result.unwrap())
}

/// A key whose signatures are already there: they are the signer's to allocate.
fn signed(key: &SigningKey, signing: Signing<Proof>) -> Signature {
    let mut last = None;
    let sign = |request: &SignRequest| {
        let signature = key.sign(request)?;
        last = Some(signature.clone());
        Ok::<_, Error>(signature)
    };
    let _proof = signing.finish(sign).unwrap();
    last.unwrap()
}

#[test]
fn the_counter_counts() {
    assert_eq!(counted(|| ()).0, 0);
    assert_eq!(counted(|| String::from("text")).0, 1);
    let (count, _) = counted(|| (vec![1], Box::new(2)));
    assert_eq!(count, 2);
}

#[test]
fn a_proof_of_a_resource_request_is_one_allocation() {
    for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
        let key = SigningKey::generate(algorithm).unwrap();
        let uri = Uri::from_static("https://rs.example/accounts/1?expand=all");
        let (nonce, token) = (
            Nonce::new("eyJ7S_zG.eyJH0-Z.HX4w-7v").unwrap(),
            Secret::new(TOKEN),
        );
        let prepare = || {
            let builder = Proof::build(key.public(), &Method::GET, &uri).unwrap();
            builder
                .nonce(&nonce)
                .access_token(&token)
                .prepare(context())
        };
        // The header of a key's proofs is made with the first of them, and kept.
        let signature = signed(&key, prepare());
        let (count, _unsigned) = counted(prepare);
        assert_eq!(count, 1, "{algorithm}, to be signed");
        let (count, proof) = counted(|| prepare().finish(|_| Ok::<_, Error>(signature.clone())));
        assert_eq!(count, 1, "{algorithm}");
        let (count, header) = counted(|| proof.unwrap().into_header());
        assert_eq!(count, 0, "{algorithm}, as a header");
        assert!(header.is_sensitive());
    }
}

#[test]
fn signing_in_memory_by_ecdsa_or_ed25519_allocates_nothing() {
    for algorithm in [Algorithm::Es256, Algorithm::Es384, Algorithm::EdDsa] {
        let key = SigningKey::generate(algorithm).unwrap();
        let uri = Uri::from_static("https://rs.example/");
        // ring asks the processor what it can do, once.
        let prepare = || {
            Proof::build(key.public(), &Method::GET, &uri)
                .unwrap()
                .prepare(context())
        };
        signed(&key, prepare());
        let (count, _proof) = counted(|| prepare().finish(|request| key.sign(request)));
        assert_eq!(count, 1, "{algorithm}");
    }
}

#[test]
fn a_long_path_or_a_path_to_be_escaped_is_one_allocation_still() {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    for path in ["", "/a\"b\\c", &"/segment".repeat(500)] {
        let uri: Uri = format!("https://RS.example:8443{path}").parse().unwrap();
        let prepare = || {
            Proof::build(key.public(), &Method::DELETE, &uri)
                .unwrap()
                .prepare(context())
        };
        signed(&key, prepare());
        let (count, _proof) = counted(|| prepare().finish(|request| key.sign(request)));
        assert_eq!(count, 1, "{path}");
    }
}

/// Starts a task and signs what it asks for.
fn start<T: Task>(task: T, key: &SigningKey, shared: &mut Shared) -> Step<T> {
    match shared.start(task, context()) {
        Step::Sign(signing) => {
            let signature = key.sign(&signing.effect).map_err(Cause::new);
            signing.signed(signature, shared, context())
        }
        step => step,
    }
}

/// A token of this type, as a server gives it.
fn token(token_type: &str, key: &SigningKey, shared: &mut Shared) -> Token {
    let auth = ClientAuth::basic("client", Secret::new("secret")).unwrap();
    let client = Client::new(Endpoint::https("https://as.example/token").unwrap(), auth);
    let client = if token_type == "DPoP" {
        client.dpop(key.public().clone())
    } else {
        client
    };
    let operation = client.token(Grant::client_credentials()).unwrap();
    let body =
        format!(r#"{{"access_token":"{TOKEN}","token_type":"{token_type}","expires_in":3600}}"#);
    let Step::Send(sent) = start(operation, key, shared) else {
        panic!("it is to be sent")
    };
    match sent.received(&Response::new(body), shared, context()) {
        Step::Done(token) => token.unwrap(),
        other => panic!("no token: {other:?}"),
    }
}

fn call(
    token: &Token,
    uri: &Uri,
    key: &SigningKey,
    shared: &mut Shared,
) -> Awaiting<PreparedCall, Call> {
    match start(token.authorize(&Method::GET, uri).unwrap(), key, shared) {
        Step::Call(call) => call,
        _ => panic!("it is to be sent"),
    }
}

#[test]
fn a_call_with_a_bound_token_costs_the_proof_and_with_a_bearer_token_nothing() {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    for (token_type, per_call) in [("DPoP", 1), ("Bearer", 0)] {
        let mut shared = Shared::new();
        let token = token(token_type, &key, &mut shared);
        let uri = "https://rs.example/accounts/1?expand=all".parse().unwrap();
        for is_first in [true, false, false, false] {
            let (count, mut call) = counted(|| call(&token, &uri, &key, &mut shared));
            // `http` begins to share the token's header when it is first used, and the gate learns
            // of the server.
            let once = match (is_first, token_type) {
                (true, "DPoP") => 4,
                (true, _) => 1,
                (false, _) => 0,
            };
            assert_eq!(count, per_call + once, "{token_type}, first: {is_first}");
            let mut headers = HeaderMap::with_capacity(8);
            let (count, ()) = counted(|| call.effect.headers.apply(&mut headers));
            assert_eq!(count, 0, "{token_type}, among the headers");
            assert_eq!(headers.contains_key("dpop"), token_type == "DPoP");
            // From here on the server's nonce goes along.
            let answer = Response::builder()
                .header("DPoP-Nonce", "eyJ7S_zG.eyJH0-Z.HX4w-7v")
                .body(())
                .unwrap();
            let (status, headers) = (answer.status(), answer.headers());
            let (count, done) = counted(|| call.received(status, headers, &mut shared, context()));
            assert!(matches!(done, Step::Done(Ok(_))));
            assert_eq!(count == 0, !is_first, "{token_type}, the nonce is known");
        }
    }
}
