//! Secrets are looked for in every piece of memory that is freed. Where one is found, it must be a place that SECURITY.md names
//! under "What is not held".

#![expect(
    clippy::disallowed_types,
    reason = "the core's rules are not for an allocator"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::{Mutex, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::Response;
use keybound_core::driver::{
    Awaiting, PreparedRequest, RequestContext, SessionState, Shared, Step,
};
use keybound_core::jose::{Algorithm, SigningKey};
use keybound_core::{
    Client, ClientAuth, Endpoint, Grant, Operation, Secret, SecretBytes, Token, UnixTime,
};

const NOW: UnixTime = UnixTime::from_secs(1_700_000_000);

/// What holds a copy that isn't wiped: a part of the backtrace of its release, and its name in SECURITY.md. A key inside ring
/// has another form than any that is looked for here.
const NOT_WIPED: [(&str, &str); 2] = [
    ("http::header::", "header values"),
    ("serde_json::de::Deserializer", "serde_json"),
];

#[test]
fn the_allocator_finds_what_is_not_wiped() {
    let left = left_by(b"a secret in a plain text", || {
        drop(String::from("x a secret in a plain text x"))
    });
    assert_eq!(left.len(), 1);
    assert!(
        left_by(b"a secret in a plain text", || drop(String::from(
            "another text"
        )))
        .is_empty()
    );
    let grown = left_by(b"a secret that moves", || {
        let mut bytes = b"a secret that moves".to_vec();
        bytes.reserve(1 << 20);
        bytes.fill(0);
    });
    assert_eq!(grown.len(), 1);
}

#[test]
fn a_secret_is_wiped_and_so_are_its_copies() {
    const TEXT: &str = "planted: the secret itself";
    wiped(TEXT.as_bytes(), || {
        let secret = Secret::new(TEXT);
        drop(secret.clone());
        SecretBytes::new(TEXT.into())
    });
}

#[test]
fn a_request_and_what_it_is_made_of_are_wiped() {
    const SECRET: &str = "planted-client-secret";
    const REFRESH: &str = "planted-refresh-token";
    for needle in [SECRET, REFRESH] {
        wiped(needle.as_bytes(), || {
            let client = client(ClientAuth::post("app", Secret::new(SECRET)).unwrap());
            outgoing(&client, Grant::refresh_token(Secret::new(REFRESH)).unwrap())
        });
    }
}

#[test]
fn credentials_for_a_header_stay_in_it_alone() {
    let basic = || client(ClientAuth::basic("app", Secret::new("planted-client-secret")).unwrap());
    let bearer = || client(ClientAuth::bearer(Secret::new("planted-client-secret")).unwrap());
    let pair = STANDARD.encode("app:planted-client-secret");
    assert_eq!(
        places(&left_by(pair.as_bytes(), || outgoing(
            &basic(),
            Grant::client_credentials()
        ))),
        ["header values"]
    );
    wiped(b"planted-client-secret", || {
        outgoing(&basic(), Grant::client_credentials())
    });
    let left = left_by(b"planted-client-secret", || {
        outgoing(&bearer(), Grant::client_credentials())
    });
    assert_eq!(places(&left), ["header values"]);
}

#[test]
fn a_token_stays_in_a_header_alone() {
    let plain =
        br#"{"access_token":"planted-access","refresh_token":"planted-refresh","other":"planted-other"}"#;
    // What is spelled with escapes is written out by serde_json, which doesn't wipe.
    let escaped = br#"{"access_token":"planted-\u0061ccess"}"#;
    let refresh_escaped = br#"{"access_token":"at","refresh_token":"planted-\u0072efresh"}"#;
    for (answer, needle, expected) in [
        (plain.as_slice(), "planted-access", &["header values"][..]),
        (plain, "planted-refresh", &[]),
        (plain, "planted-other", &[]),
        (escaped, "planted-access", &["header values", "serde_json"]),
        (refresh_escaped, "planted-refresh", &["serde_json"]),
    ] {
        assert_eq!(
            places(&left_by(needle.as_bytes(), || token(answer))),
            expected,
            "{needle}"
        );
    }
}

#[test]
fn an_error_response_that_is_not_utf_8_is_wiped() {
    let body = b"{\"error\":\"invalid_grant\",\"refresh_token\":\"planted-refresh\",\"error_description\":\"\xff\"}";
    wiped(b"planted-refresh", || {
        let pending = outgoing(
            &client(ClientAuth::none("app").unwrap()),
            Grant::client_credentials(),
        );
        let mut response = Response::new(body.as_slice());
        *response.status_mut() = http::StatusCode::BAD_REQUEST;
        let end = pending.received(&response, &mut Shared::new(), context());
        assert!(matches!(end, Step::Done(Err(_))));
    });
}

#[test]
fn a_stored_session_state_is_wiped() {
    let answer = br#"{"access_token":"planted-access","refresh_token":"planted-refresh"}"#;
    let state = SessionState::new(token(answer));
    for needle in ["planted-access", "planted-refresh"] {
        wiped(needle.as_bytes(), || state.to_json());
    }
    let json = state.to_json();
    let read = || {
        SessionState::from_json(
            json.expose(),
            &client(ClientAuth::none("app").unwrap()),
            NOW,
        )
        .unwrap()
    };
    wiped(b"planted-refresh", read);
    assert_eq!(places(&left_by(b"planted-access", read)), ["header values"]);
}

#[test]
fn a_private_key_is_wiped_in_every_form_in_which_it_comes_and_goes() {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let (der, pem, jwk) = (key.to_pkcs8_der(), key.to_pkcs8_pem(), key.to_jwk());
    let d = jwk
        .expose()
        .split("\"d\":\"")
        .nth(1)
        .unwrap()
        .split('"')
        .next()
        .unwrap()
        .to_owned();
    let scalar = URL_SAFE_NO_PAD.decode(&d).unwrap();
    let little_endian: Vec<u8> = scalar.iter().rev().copied().collect();
    let in_pem = pem.expose().lines().nth(1).unwrap().to_owned();
    for needle in [
        scalar.as_slice(),
        d.as_bytes(),
        in_pem.as_bytes(),
        &little_endian,
    ] {
        let left = left_by(needle, || {
            let keys = [
                SigningKey::from_pkcs8_der(der.expose()).unwrap(),
                SigningKey::from_pkcs8_pem(pem.expose()).unwrap(),
                SigningKey::from_jwk(jwk.expose().as_bytes()).unwrap(),
            ];
            keys.map(|key| (key.to_pkcs8_der(), key.to_pkcs8_pem(), key.to_jwk()))
        });
        assert!(left.is_empty(), "{needle:?}: {left:?}");
    }
}

fn client(auth: ClientAuth) -> Client {
    Client::new(Endpoint::https("https://as.example/token").unwrap(), auth)
}

fn context() -> RequestContext {
    RequestContext::new(NOW, [1; 16])
}

fn outgoing(client: &Client, grant: Grant) -> Awaiting<Box<PreparedRequest>, Operation<Token>> {
    let operation = client.token(grant).unwrap();
    match Shared::new().start(operation, context()) {
        Step::Send(sent) => sent,
        _ => panic!("no key signs"),
    }
}

/// A token from an answer that is never freed.
fn token(answer: &'static [u8]) -> Token {
    let pending = outgoing(
        &client(ClientAuth::none("app").unwrap()),
        Grant::client_credentials(),
    );
    match pending.received(&Response::new(answer), &mut Shared::new(), context()) {
        Step::Done(Ok(token)) => token,
        _ => panic!("the answer is sound"),
    }
}

#[track_caller]
fn wiped<T>(needle: &[u8], make: impl FnOnce() -> T) {
    let left = left_by(needle, make);
    assert!(left.is_empty(), "{} left: {}", left.len(), left.concat());
}

/// Where copies were found, by the names of [`NOT_WIPED`].
fn places(left: &[String]) -> Vec<&'static str> {
    let place = |trace: &String| {
        let known = NOT_WIPED.iter().find(|(part, _)| trace.contains(part));
        known
            .unwrap_or_else(|| panic!("freed unwiped by {trace}"))
            .1
    };
    left.iter()
        .map(place)
        .collect::<BTreeSet<_>>()
        .into_iter()
        .collect()
}

/// Makes something and drops it; returns the backtraces of whatever freed memory with the needle still in it.
fn left_by<T>(needle: &[u8], make: impl FnOnce() -> T) -> Vec<String> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _alone = ONE_AT_A_TIME
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner());
    *NEEDLE.write().unwrap() = needle.to_vec();
    WATCHING.set(true);
    drop(make());
    WATCHING.set(false);
    std::mem::take(&mut *FOUND.lock().unwrap())
}

static NEEDLE: RwLock<Vec<u8>> = RwLock::new(Vec::new());
static FOUND: Mutex<Vec<String>> = Mutex::new(Vec::new());

thread_local! {
    /// Only what a test's own thread frees, and not what the looking frees.
    static WATCHING: Cell<bool> = const { Cell::new(false) };
}

fn look_into(freed: &[u8]) {
    let needle = NEEDLE.read().unwrap();
    if freed
        .windows(needle.len())
        .any(|window| window == needle.as_slice())
    {
        FOUND
            .lock()
            .unwrap()
            .push(Backtrace::force_capture().to_string());
    }
}

struct Watching;

#[global_allocator]
static ALLOCATOR: Watching = Watching;

/// The system's allocator, which looks into what it is given back. `realloc` is the default: it allocates, copies and frees.
#[expect(unsafe_code, reason = "an allocator can't be written without")]
// SAFETY: memory is the system's, and handed on as it comes.
unsafe impl GlobalAlloc for Watching {
    // Zeroed, so that all of it can be read later on.
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if WATCHING.try_with(|watching| watching.replace(false)) == Ok(true) {
            // SAFETY: it is this allocation, whole, initialised by `alloc`, and nobody's any longer.
            look_into(unsafe { std::slice::from_raw_parts(memory, layout.size()) });
            WATCHING.set(true);
        }
        unsafe { System.dealloc(memory, layout) }
    }
}
