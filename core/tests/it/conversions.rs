//! Conversions from and to the standard library's types, and with the feature `serde` to other formats.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keybound_core::jose::Algorithm;
use keybound_core::{
    Client, ClientAuth, Endpoint, Issuer, PendingAuthorization, RedirectError, Scope, TokenType,
    UnixTime,
};

#[test]
fn times_come_from_the_systems_clock_and_saturate_before_1970() {
    let time = UNIX_EPOCH + Duration::from_millis(1_800_000_000_123);
    assert_eq!(
        UnixTime::from(time),
        UnixTime::from_millis(1_800_000_000_123)
    );
    let before: SystemTime = UNIX_EPOCH - Duration::from_secs(1);
    assert_eq!(UnixTime::from(before), UnixTime::from_secs(0));
}

#[test]
fn texts_are_parsed_as_by_the_constructors() {
    let scope: Scope = "b  a".parse().unwrap();
    assert_eq!(scope, Scope::try_from("b a").unwrap());
    assert_eq!(
        BTreeSet::from([scope]).get("b a").map(Scope::as_str),
        Some("b a")
    );
    assert_eq!("".parse::<Scope>().unwrap_err().argument(), "scope");
    for url in ["https://as.example/t", "http://127.0.0.1:8080/"] {
        assert_eq!(url.parse::<Endpoint>().unwrap().to_string(), url);
        assert_eq!(Issuer::try_from(url).unwrap().as_ref(), url);
    }
    for url in ["http://as.example/", "ftp://as.example/", ""] {
        assert!(
            url.parse::<Endpoint>().is_err() && Endpoint::try_from(url).is_err(),
            "{url}"
        );
        assert!(url.parse::<Issuer>().is_err(), "{url}");
    }
    for algorithm in Algorithm::ALL {
        assert_eq!(algorithm.to_string().parse(), Ok(*algorithm));
    }
    assert_eq!(
        Algorithm::try_from("none").unwrap_err().argument(),
        "algorithm"
    );
    assert_eq!("dpop".parse(), Ok(TokenType::Dpop));
    assert_eq!(TokenType::Dpop.to_string(), "DPoP");
}

#[test]
fn the_state_of_a_redirect_finds_its_pending_authorization() {
    let client = Client::new(
        "https://as.example/token".parse().unwrap(),
        ClientAuth::none("app").unwrap(),
    )
    .authorization_endpoint("https://as.example/authorize".parse().unwrap());
    let pending = |entropy| {
        let builder = client.authorization("https://app.example/cb").unwrap();
        builder.build([entropy; 32]).unwrap().pending
    };
    let all = [pending(1), pending(2)];
    let redirect = format!("https://app.example/cb?code=c&state={}", all[1].state());
    let state = PendingAuthorization::state_of(&redirect).unwrap();
    let found = all
        .iter()
        .position(|pending| Some(pending.state()) == state);
    assert_eq!(found, Some(1));
    assert_eq!(PendingAuthorization::state_of("code=c"), Ok(None));
    assert_eq!(
        PendingAuthorization::state_of("?state=a&state=b"),
        Err(RedirectError::DuplicateParameter("state"))
    );
}

#[cfg(feature = "serde")]
#[test]
fn what_is_not_secret_is_serialized_as_text_and_deserialized_with_its_checks() {
    use serde_json::json;
    let scope = Scope::new("a b").unwrap();
    let endpoint: Endpoint = "https://as.example/token".parse().unwrap();
    let values = (
        scope,
        endpoint,
        Algorithm::Es256,
        TokenType::Dpop,
        UnixTime::from_millis(7),
    );
    let written = serde_json::to_value(&values).unwrap();
    assert_eq!(
        written,
        json!(["a b", "https://as.example/token", "ES256", "DPoP", 7])
    );
    let read: (Scope, Endpoint, Algorithm, TokenType, UnixTime) =
        serde_json::from_value(written).unwrap();
    assert_eq!(read, values);
    assert!(serde_json::from_value::<Scope>(json!("a\"b")).is_err());
    assert!(serde_json::from_value::<Endpoint>(json!("http://as.example/")).is_err());
    assert!(serde_json::from_value::<Issuer>(json!("https://as.example?x")).is_err());
}
