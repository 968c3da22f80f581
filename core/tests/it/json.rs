//! JSON, read by us and by serde_json's `Value`. What we take is an object by the grammar of RFC 8259; what both take says
//! the same; and where an answer is taken that `Value` refuses, that is listed.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Response;
use keybound_core::dpop::{ProofError, ProofVerifier};
use keybound_core::driver::SessionState;
use keybound_core::jose::PublicJwk;
use keybound_core::{Client, ClientAuth, Grant, Issuer, PendingAuthorization, Token};
use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::maker::Maker;
use crate::world::{Answered, START, TOKEN_URL, answered, endpoint};

fn client() -> Client {
    Client::new(endpoint(TOKEN_URL), ClientAuth::none("app").unwrap())
}

fn token(body: &[u8]) -> Option<Token> {
    match answered(
        client().token(Grant::client_credentials()).unwrap(),
        Response::new(body.to_vec()),
    ) {
        Ok(Answered::Done(token)) => Some(token),
        _ => None,
    }
}

fn metadata(body: &[u8]) -> bool {
    let operation = Issuer::https("https://as.example")
        .unwrap()
        .discover()
        .unwrap();
    matches!(
        answered(operation, Response::new(body.to_vec())),
        Ok(Answered::Done(_))
    )
}

/// An object by RFC 8259's grammar: names are texts, nothing is cut off, nothing follows. Values are not looked into.
fn is_object(json: &[u8]) -> bool {
    serde_json::from_slice::<BTreeMap<String, &RawValue>>(json).is_ok()
}

/// What serde_json makes of an object; `None` for whatever it refuses.
fn by_serde_json(json: &[u8]) -> Option<Map<String, Value>> {
    serde_json::from_slice(json).ok()
}

#[test]
fn listed_answers_are_taken_or_refused_as_by_serde_json_or_the_difference_is_deliberate() {
    const BOTH: bool = true;
    /// A good token is not lost for what stands beside it (and, with the answer, a refresh token that was rotated).
    const WE_ALONE: bool = false;
    let deep = |levels: usize| format!(r#""other":{}{}"#, "[".repeat(levels), "]".repeat(levels));
    let taken = [
        (BOTH, r#""other":"x""#.to_owned()),
        // Of a member that stands twice the last counts, as with most of all readers.
        (BOTH, r#""access_token":"other","access_token":"at""#.into()),
        (BOTH, r#""access\u005ftoken":"at""#.into()),
        (BOTH, r#""expires_in":-0.0e-0"#.into()),
        (BOTH, r#""expires_in":1e308"#.into()),
        (BOTH, r#""other":123456789012345678901234567890"#.into()),
        (BOTH, r#""other":"\ud83d\ude00\u0000\/""#.into()),
        (BOTH, deep(126)),
        (WE_ALONE, deep(127)),
        (WE_ALONE, r#""expires_in":1e999"#.into()),
        (WE_ALONE, r#""other":-1e999"#.into()),
        (WE_ALONE, r#""other":"\ud800""#.into()),
        (WE_ALONE, r#""other":"\udc00\ud800""#.into()),
        (WE_ALONE, r#""scope":"\ud800""#.into()),
    ];
    for (both, member) in taken {
        let body = format!(r#" {{ "access_token" : "at" , {member} }} "#);
        let token = token(body.as_bytes()).unwrap_or_else(|| panic!("{body} is refused"));
        assert_eq!(token.access_token().expose(), "at", "{body}");
        assert_eq!(by_serde_json(body.as_bytes()).is_some(), both, "{body}");
        assert!(is_object(body.as_bytes()), "{body}");
    }
}

#[test]
fn what_is_no_json_object_is_no_answer_whatever_stands_in_it() {
    let bodies: [&[u8]; 30] = [
        b"",
        b" ",
        b"null",
        b"\"access_token\"",
        b"[\"at\",\"Bearer\"]",
        b"[{\"access_token\":\"at\"}]",
        b"{\"access_token\":\"at\"",
        b"{\"access_token\":\"at}",
        b"{\"access_token\":\"at\",}",
        b"{,\"access_token\":\"at\"}",
        b"{\"access_token\":\"at\" \"x\":1}",
        b"{\"access_token\" \"at\"}",
        b"{access_token:\"at\"}",
        b"{'access_token':'at'}",
        b"{\"access_token\":\"at\"}{}",
        b"{\"access_token\":\"at\"}\0",
        b"{\"access_token\":\"at\"} // told you",
        b"{\"access_token\":\"at\",\"x\":/**/1}",
        b"{\"access_token\":\"at\",\"x\":01}",
        b"{\"access_token\":\"at\",\"x\":+1}",
        b"{\"access_token\":\"at\",\"x\":.5}",
        b"{\"access_token\":\"at\",\"x\":1.}",
        b"{\"access_token\":\"at\",\"x\":0x1}",
        b"{\"access_token\":\"at\",\"x\":NaN}",
        b"{\"access_token\":\"at\",\"x\":True}",
        b"{\"access_token\":\"at\",\"x\":\"\\x41\"}",
        b"{\"access_token\":\"at\",\"x\":\"\\u00g0\"}",
        b"{\"access_token\":\"at\",\"x\":\"a\nb\"}",
        b"{\"access_token\":\"at\",\x0b\"x\":1}",
        b"{\"access_token\":\"at\",\xff\"x\":1}",
    ];
    for body in bodies {
        let shown = String::from_utf8_lossy(body);
        assert!(by_serde_json(body).is_none(), "serde_json on {shown}");
        assert!(token(body).is_none(), "{shown}");
    }
    // RFC 8259 §8.1 lets a reader pass over a byte order mark, and fetch does. What is signed has none.
    let marked = b"\xef\xbb\xbf{\"access_token\":\"at\",\"active\":true}";
    assert!(by_serde_json(marked).is_none() && token(marked).is_some());
    assert!(token(b"\xef\xbb\xbf\xef\xbb\xbf{\"access_token\":\"at\"}").is_none());
    for value in [r#""\ud800""#, "1e999", "7", "true", "[]", "{}"] {
        let body = format!(r#"{{"access_token":"at","access_token":{value}}}"#);
        assert!(token(body.as_bytes()).is_none(), "{body}");
    }
}

/// Where a text is signed, or decides what is trusted, nothing may stand twice: another reader might take the other one.
#[test]
fn what_is_signed_says_nothing_twice_though_serde_json_would_take_it() {
    for payload in [
        r#"{"jti":"a","jti":"a"}"#,
        r#"{"jti":"a","x":[{"y":1,"\u0079":1}]}"#,
    ] {
        assert!(by_serde_json(payload.as_bytes()).is_some());
        let proof = format!("e30.{}.AA", URL_SAFE_NO_PAD.encode(payload));
        let problems = ProofVerifier::default().verify(&proof, START);
        assert!(
            problems.problems().contains(&ProofError::PayloadMalformed),
            "{payload}"
        );
    }
    let jwk = Maker::new().header["jwk"]
        .to_string()
        .replacen('{', r#"{"kty":"EC","#, 1);
    assert!(
        by_serde_json(jwk.as_bytes()).is_some() && PublicJwk::from_json(jwk.as_bytes()).is_err()
    );
}

/// A value such as may stand anywhere.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,8}".prop_map(Value::from),
        "\\PC{0,4}".prop_map(Value::from),
        "(3600|DPoP|a b|a,b| 1e3 |1700000900)".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::btree_map("[a-z]{1,3}", inner, 0..3).prop_map(|all| json!(all)),
        ]
    })
}

/// Objects as texts, with members that mean something, members that stand twice, space and escapes; and how many members.
fn object() -> impl Strategy<Value = (String, usize)> {
    let name = prop_oneof![
        Just("access_token"),
        Just("refresh_token"),
        Just("token_type"),
        Just("expires_in"),
        Just("scope"),
        Just("other"),
    ];
    let space = "[ \t\r\n]{0,2}";
    let member = (name, value(), space, any::<bool>()).prop_map(|(name, value, space, escaped)| {
        let name = if escaped {
            name.replace('_', r"\u005F")
        } else {
            name.to_owned()
        };
        format!("{space}\"{name}\"{space}:{space}{value}{space}")
    });
    let token = "[a-z]{1,4}".prop_map(|text| format!("\"access_token\":\"{text}\""));
    (
        proptest::collection::vec(member, 0..5),
        token,
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(mut members, token, at, has_token)| {
            if has_token {
                members.insert(at.index(members.len() + 1), token);
            }
            (format!("{{{}}}", members.join(",")), members.len())
        })
}

/// The tokens of an answer by RFC 6749 §5.1, if it is one.
fn tokens_of(answer: &Map<String, Value>) -> Option<(&str, Option<&str>)> {
    let text = |name| match answer.get(name) {
        None | Some(Value::Null) => Some(None),
        Some(Value::String(text)) => Some(Some(text.as_str()).filter(|text| !text.is_empty())),
        Some(_) => None,
    };
    let access = text("access_token")?
        .filter(|text| text.bytes().all(|byte| matches!(byte, b' '..=b'~')))?;
    Some((access, text("refresh_token").flatten()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// But for members that stand twice: each of them must be of the right type, before the last counts.
    #[test]
    fn an_answer_that_serde_json_reads_says_the_same_to_us((body, members) in object()) {
        let answer = by_serde_json(body.as_bytes()).unwrap();
        let token = token(body.as_bytes());
        let Some(token) = token else {
            prop_assert!(tokens_of(&answer).is_none() || answer.len() < members);
            return Ok(());
        };
        let ours = (token.access_token().expose(), token.refresh_token().map(|refresh| refresh.expose()));
        prop_assert_eq!(Some(ours), tokens_of(&answer));
        if answer.len() == members {
            let other = answer.get("other").and_then(Value::as_str);
            prop_assert_eq!(token.extra("other").map(|other| other.expose()), other);
        }
    }

    #[test]
    fn whatever_any_reader_takes_is_one_json_object(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        cut in 0usize..4,
        put in prop_oneof![
            "[ -~]{0,2}".prop_map(String::into_bytes),
            Just(br"\ud800".to_vec()),
            Just(b"1e999".to_vec()),
            proptest::collection::vec(any::<u8>(), 0..3),
        ],
    ) {
        let which = which.index(DOCUMENTS.len());
        let (reader, document) = &DOCUMENTS[which];
        let mut bytes = document.clone().into_bytes();
        let at = at.index(bytes.len());
        bytes.splice(at..(at + cut).min(document.len()), put);
        let shown = String::from_utf8_lossy(&bytes);
        // In an answer, bytes that are no text cost the member that they are in, and no more.
        let is_one = is_object(if which < ANSWERS { shown.as_bytes() } else { &bytes });
        prop_assert!(!reader(&bytes) || is_one, "{shown}");
    }
}

type Reader = fn(&[u8]) -> bool;

/// How many of the documents are answers.
const ANSWERS: usize = 2;

/// A sound document for each reader of JSON objects, those of answers first.
static DOCUMENTS: LazyLock<[(Reader, String); 5]> = LazyLock::new(|| {
    let state = SessionState::new(
        token(br#"{"access_token":"at","refresh_token":"rt","scope":"a b"}"#).unwrap(),
    );
    let pending = client()
        .authorization_endpoint(endpoint("https://as.example/authorize"))
        .authorization("https://app.example/cb")
        .unwrap();
    let pending = pending
        .build([1; 32])
        .unwrap()
        .pending
        .to_json()
        .expose()
        .to_owned();
    let jwk = Maker::new().header["jwk"].to_string();
    let reads_pending: Reader = |json| {
        std::str::from_utf8(json).is_ok_and(|text| PendingAuthorization::from_json(text).is_ok())
    };
    [
        (
            |json| token(json).is_some(),
            r#"{"access_token":"at","x":[1,"\u00e9",{"y":null}],"error":"e"}"#.into(),
        ),
        (
            metadata,
            r#"{"issuer":"https://as.example","token_endpoint":"https://as.example/t","x":[1.5e3]}"#.into(),
        ),
        (|json| PublicJwk::from_json(json).is_ok(), jwk),
        (
            |json| SessionState::from_json(json, &client(), START).is_ok(),
            String::from_utf8(state.to_json().expose().to_vec()).unwrap(),
        ),
        (reads_pending, pending),
    ]
});
