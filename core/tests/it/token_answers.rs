//! What a token endpoint may answer with 200, and what is made of it.

use std::time::Duration;

use http::Response;
use keybound_core::{
    Error, ExpiresIn, Grant, InvalidResponseKind, Secret, Token, TokenType, UnixTime,
};
use serde_json::{Value, json};

use crate::peer::{Peer, response, with_header};
use crate::world::{START, World};

fn read(body: &str) -> Result<Token, Error> {
    answer(ExpiresIn::default(), response(200, body))
}

fn answer(expires_in: ExpiresIn, answer: Response<Vec<u8>>) -> Result<Token, Error> {
    let mut world = World::scripted(Peer::bearer(), [answer]);
    let operation = world
        .client()
        .expires_in(expires_in)
        .token(Grant::client_credentials())?;
    world.run(operation)
}

/// The answer of a server that says this of `member`, and else no more than it must.
fn with(member: &str, value: &Value) -> String {
    let mut answer = json!({ "access_token": "at" });
    answer[member] = value.clone();
    answer.to_string()
}

fn why(body: &str) -> InvalidResponseKind {
    match read(body) {
        Err(Error::Response(bad)) => bad.kind().clone(),
        other => panic!("{body}: {other:?}"),
    }
}

fn after(millis: u64) -> Option<UnixTime> {
    Some(START.saturating_add(Duration::from_millis(millis)))
}

fn at(secs: u64) -> Option<UnixTime> {
    Some(UnixTime::from_secs(secs))
}

#[test]
fn expires_in_is_read_in_every_form_that_servers_have() {
    let cases: [(Value, Option<UnixTime>); 26] = [
        (json!(3600), after(3_600_000)),
        (json!("3600"), after(3_600_000)),
        (json!(" 14399 "), after(14_399_000)),
        (json!(3599.5), after(3_599_500)),
        (json!("3599.5"), after(3_599_500)),
        (json!(999_999_999), after(999_999_999_000)),
        (json!(1_000_000_000), at(1_000_000_000)),
        (json!(1_736_964_352), at(1_736_964_352)),
        (json!("1736964352"), at(1_736_964_352)),
        (json!(2_147_483_648_u64), at(2_147_483_648)),
        (json!(253_402_300_799_u64), at(253_402_300_799)),
        (
            json!(1_736_964_352_123_u64),
            Some(UnixTime::from_millis(1_736_964_352_123)),
        ),
        (
            json!("1736964352999"),
            Some(UnixTime::from_millis(1_736_964_352_999)),
        ),
        (
            json!(253_402_300_799_999_u64),
            Some(UnixTime::from_millis(253_402_300_799_999)),
        ),
        (json!(0), None),
        (json!(-1), None),
        (json!("-3600"), None),
        (json!(null), None),
        (json!(true), None),
        (json!(""), None),
        (json!("soon"), None),
        (json!("inf"), None),
        (json!("NaN"), None),
        (json!({ "seconds": 3600 }), None),
        (json!([3600]), None),
        (json!(1e300), None),
    ];
    for (value, expected) in cases {
        let token = read(&with("expires_in", &value)).unwrap();
        assert_eq!(token.expires_at(), expected, "{value}");
    }
    assert_eq!(read(r#"{"access_token":"at"}"#).unwrap().expires_at(), None);
}

#[test]
fn expires_in_is_read_as_it_is_told_whatever_its_magnitude() {
    for (meaning, value, expected) in [
        (
            ExpiresIn::Relative,
            json!(1_736_964_352),
            after(1_736_964_352_000),
        ),
        (
            ExpiresIn::Relative,
            json!(1e15),
            after(1_000_000_000_000_000_000),
        ),
        (
            ExpiresIn::Relative,
            json!(1.8e19),
            Some(UnixTime::from_millis(u64::MAX)),
        ),
        (ExpiresIn::AbsoluteSeconds, json!(86_400), at(86_400)),
        (
            ExpiresIn::AbsoluteSeconds,
            json!(253_402_300_799_u64),
            at(253_402_300_799),
        ),
        (ExpiresIn::AbsoluteMillis, json!(86_400_000), at(86_400)),
        (
            ExpiresIn::AbsoluteMillis,
            json!(1_736_964_352_001_u64),
            Some(UnixTime::from_millis(1_736_964_352_001)),
        ),
        (ExpiresIn::AbsoluteMillis, json!(0), None),
    ] {
        let token = answer(meaning, response(200, &with("expires_in", &value))).unwrap();
        assert_eq!(token.expires_at(), expected, "{meaning:?} {value}");
    }
}

#[test]
fn an_absolute_time_that_is_past_by_our_clock_is_counted_from_the_servers() {
    // START is 22:13:20 that day.
    for (date, expires, expected) in [
        // Our clock is a day ahead.
        (
            "Mon, 13 Nov 2023 22:13:20 GMT",
            1_699_913_600 + 900,
            after(900_000),
        ),
        // It is a day behind: the token seems to live longer, and will be refused.
        (
            "Wed, 15 Nov 2023 22:13:20 GMT",
            1_700_086_400 + 900,
            at(1_700_086_400 + 900),
        ),
        // Both are right, whatever the one says.
        (
            "Tue, 14 Nov 2023 22:13:21 GMT",
            1_700_000_000 + 900,
            at(1_700_000_000 + 900),
        ),
        // It is past by both.
        ("Tue, 14 Nov 2023 22:13:20 GMT", 1_699_999_990, after(0)),
        ("nonsense", 1_699_999_990, at(1_699_999_990)),
    ] {
        let answered = with_header(
            response(200, &with("expires_in", &json!(expires))),
            "date",
            date,
        );
        let token = answer(ExpiresIn::Auto, answered).unwrap();
        assert_eq!(token.expires_at(), expected, "{date}");
    }
}

#[test]
fn every_millisecond_of_an_absolute_time_counts() {
    for millis in 1_736_964_352_000..1_736_964_352_250_u64 {
        let token = read(&with("expires_in", &json!(millis))).unwrap();
        assert_eq!(token.expires_at(), Some(UnixTime::from_millis(millis)));
    }
}

#[test]
fn the_captures_of_moovs_reference_through_the_years_are_all_understood() {
    // docs.moov.io/api/authentication/access-tokens/create, oldest first.
    for (expires_in, token_type, expected) in [
        (900, "opaque", after(900_000)),
        (1_736_966_581, "opaque", at(1_736_966_581)),
        (1_736_966_581, "Bearer", at(1_736_966_581)),
        (1_736_964_352, "Bearer", at(1_736_964_352)),
    ] {
        let body = json!({
            "access_token": "eyJhbGciOiJFZERTQSIsImN0eSI6IkpXVCIsImtpZCI6IkR",
            "expires_in": expires_in,
            "refresh_token": "eyJhbGc0eSI6TQSIsImN0kpXVCIsImtp6IkpXVsImtpZC0a",
            "scope": "/accounts.read /accounts.write",
            "token_type": token_type,
        });
        let token = read(&body.to_string()).unwrap();
        assert_eq!(
            (token.expires_at(), token.token_type()),
            (expected, &TokenType::Bearer)
        );
    }
}

#[test]
fn answers_of_other_servers_are_understood() {
    for (server, body, expires_at, scope) in [
        (
            "Moov, in its own skills file",
            r#"{"access_token":"eyJhbGciOiJFZERTQS","token_type":"Bearer","expires_in":259200}"#,
            after(259_200_000),
            None,
        ),
        (
            "Deliverect, until 2022-09-30",
            r#"{"access_token":"eyUj","expires_at":1655814137,"expires_in":1655814137}"#,
            at(1_655_814_137),
            None,
        ),
        (
            "Deliverect, since",
            r#"{"access_token":"eyUj","expires_at":1655814137,"expires_in":86400}"#,
            after(86_400_000),
            None,
        ),
        (
            "Azure AD v1",
            r#"{"token_type":"Bearer","expires_in":"3599","ext_expires_in":"3599","expires_on":"1700003599",
                "not_before":"1700000000","resource":"https://graph.windows.net","access_token":"eyJ0"}"#,
            after(3_599_000),
            None,
        ),
        (
            "UPS",
            r#"{"token_type":"Bearer","issued_at":"1700000000000","client_id":"x","access_token":"eyJ",
                "scope":"","expires_in":"14399","refresh_count":"0","status":"approved"}"#,
            after(14_399_000),
            None,
        ),
        (
            "Shopify",
            r#"{"access_token":"s","scope":"read_products,write_products"}"#,
            None,
            Some("read_products write_products"),
        ),
        (
            "Twitch",
            r#"{"access_token":"t","expires_in":14124,"scope":["channel:moderate","chat:edit"],
                "token_type":"bearer"}"#,
            after(14_124_000),
            Some("channel:moderate chat:edit"),
        ),
    ] {
        let token = read(body).unwrap();
        assert_eq!(
            (
                token.expires_at(),
                token.scope().map(|scope| scope.as_str())
            ),
            (expires_at, scope),
            "{server}"
        );
        assert_eq!(token.token_type(), &TokenType::Bearer, "{server}");
    }
}

#[test]
fn scope_is_read_in_every_form_that_servers_have() {
    for (value, expected) in [
        (
            json!("/accounts.read /accounts.write"),
            Some("/accounts.read /accounts.write"),
        ),
        (json!("  a   b "), Some("a b")),
        (json!("a,b"), Some("a b")),
        (json!(["a", "b"]), Some("a b")),
        (json!(["a", 7, null]), Some("a")),
        (json!(["a  b", " ", "c"]), Some("a b c")),
        (json!(""), None),
        (json!([]), None),
        (json!(null), None),
        (json!(7), None),
        (json!({}), None),
    ] {
        let token = read(&with("scope", &value)).unwrap();
        assert_eq!(
            token.scope().map(|scope| scope.as_str()),
            expected,
            "{value}"
        );
    }
    assert_eq!(read(r#"{"access_token":"at"}"#).unwrap().scope(), None);
}

#[test]
fn token_type_is_an_open_set_in_which_case_does_not_count() {
    for (value, expected) in [
        (json!("Bearer"), TokenType::Bearer),
        (json!("bearer"), TokenType::Bearer),
        (json!("BEARER"), TokenType::Bearer),
        (json!("opaque"), TokenType::Bearer),
        (json!(null), TokenType::Bearer),
        (json!(""), TokenType::Bearer),
        (json!("DPoP"), TokenType::Dpop),
        (json!("dPoP"), TokenType::Dpop),
        (json!("DPOP"), TokenType::Dpop),
        (json!("N_A"), TokenType::Other("N_A".into())),
    ] {
        let token = read(&with("token_type", &value)).unwrap();
        assert_eq!(*token.token_type(), expected, "{value}");
    }
}

#[test]
fn any_success_will_do_and_the_content_type_does_not_matter() {
    for status in [200, 201, 203] {
        let token = answer(
            ExpiresIn::Auto,
            response(status, r#"{"access_token":"at"}"#),
        )
        .unwrap();
        assert_eq!(token.access_token().expose(), "at");
    }
}

#[test]
fn a_token_of_4096_characters_is_a_token() {
    let long = "x".repeat(4096);
    let body = json!({ "access_token": long, "refresh_token": long }).to_string();
    let token = read(&body).unwrap();
    assert_eq!(token.access_token().expose(), long);
    assert_eq!(token.refresh_token().unwrap().expose(), long);
}

#[test]
fn members_that_have_no_method_are_kept_by_name() {
    let token =
        read(r#"{"id_token":"eyJ","access_token":"at","expires_at":7,"deep":{"a":[{}]}}"#).unwrap();
    assert_eq!(token.extra("id_token").map(Secret::expose), Some("eyJ"));
    for absent in ["expires_at", "deep", "access_token", "nothing"] {
        assert!(token.extra(absent).is_none(), "{absent}");
    }
}

#[test]
fn of_a_member_that_stands_twice_the_last_counts() {
    // As with serde_json's own maps, and JSON.parse.
    let token = read(
        r#"{"access_token":"a","access_token":"b","expires_in":"x","expires_in":60,"scope":"r","scope":"w",
            "refresh_token":"q","refresh_token":"r","token_type":"DPoP","token_type":"Bearer",
            "x":"1","x":"2"}"#,
    )
    .unwrap();
    assert_eq!(token.access_token().expose(), "b");
    assert_eq!(token.expires_at(), after(60_000));
    assert_eq!(token.scope().unwrap().as_str(), "w");
    assert_eq!(token.refresh_token().unwrap().expose(), "r");
    assert_eq!(token.token_type(), &TokenType::Bearer);
    assert_eq!(token.extra("x").map(Secret::expose), Some("2"));
    let last = r#"{"access_token":"a","access_token":null}"#;
    assert_eq!(why(last), InvalidResponseKind::Missing("access_token"));
}

#[test]
fn an_answer_without_a_token_says_what_is_wrong_and_where() {
    for (body, expected) in [
        (r"{}", InvalidResponseKind::Missing("access_token")),
        (
            r#"{"access_token":null}"#,
            InvalidResponseKind::Missing("access_token"),
        ),
        (
            r#"{"access_token":""}"#,
            InvalidResponseKind::Missing("access_token"),
        ),
        (
            r#"{"error":null}"#,
            InvalidResponseKind::Missing("access_token"),
        ),
        (
            r#"{"access_token":4711}"#,
            InvalidResponseKind::InvalidMember("access_token"),
        ),
        (
            r#"{"access_token":["at"]}"#,
            InvalidResponseKind::InvalidMember("access_token"),
        ),
        (
            r#"{"access_token":"a\nb"}"#,
            InvalidResponseKind::InvalidMember("access_token"),
        ),
        (r#"["access_token"]"#, InvalidResponseKind::NotAnObject),
        (r#""at""#, InvalidResponseKind::NotAnObject),
        ("null", InvalidResponseKind::NotAnObject),
    ] {
        assert_eq!(why(body), expected, "{body}");
    }
}

#[test]
fn what_is_no_json_is_told_by_its_place_alone() {
    for (body, place) in [
        ("", (1, 0)),
        ("<!doctype html>", (1, 1)),
        ("{\"access_token\":\"at\"\n", (2, 0)),
        ("{\"access_token\":\"at\"}\n{}", (2, 1)),
        ("access_token=at&token_type=bearer", (1, 1)),
        // serde_json names the last character that is good.
        ("{\"access_token\":\"\u{1}\"}", (1, 17)),
    ] {
        let InvalidResponseKind::NotJson { line, column, .. } = why(body) else {
            panic!("{body} is JSON")
        };
        assert_eq!((line, column), place, "{body}");
    }
    assert!(matches!(
        answer(ExpiresIn::Auto, Response::new(b"{\"access_token\":\"at\",\xff}".to_vec())),
        Err(Error::Response(bad)) if matches!(bad.kind(), InvalidResponseKind::NotJson { line: 1, column: 22, .. })
    ));
}

#[test]
fn the_value_of_a_wrong_member_is_not_shown() {
    for body in [
        r#"{"access_token":471147114711}"#,
        r#"{"access_token":{"s3cr3t":"471147114711"}}"#,
        r#"{"access_token":["471147114711"],"token_type":471147114711}"#,
        r#"{"access_token":"471147114711ü","refresh_token":[471147114711]}"#,
        "471147114711",
    ] {
        let error = read(body).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(
            !shown.contains("4711") && !shown.contains("s3cr3t"),
            "{shown}"
        );
    }
}

#[test]
fn an_error_in_a_200_is_a_refusal() {
    let body =
        r#"{"error":"bad_verification_code","error_description":"The code passed is incorrect."}"#;
    let Err(Error::Server(error)) = read(body) else {
        panic!("no refusal")
    };
    assert_eq!(
        (error.status().as_u16(), error.code()),
        (200, Some("bad_verification_code"))
    );
    let both = read(r#"{"error":"","access_token":"at"}"#).unwrap();
    assert_eq!(both.access_token().expose(), "at");
}

#[test]
fn json_of_any_depth_is_no_danger() {
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        for depth in [100, 127, 128, 1000, 50_000] {
            for member in ["extra", "scope", "expires_in", "access_token", "error"] {
                let nested = format!("{}0{}", open.repeat(depth), close.repeat(depth));
                let _ = read(&format!(r#"{{"access_token":"at","{member}":{nested}}}"#));
                let _ = read(&nested);
            }
        }
    }
    let shallow = format!(
        r#"{{"access_token":"at","x":{}0{}}}"#,
        "[".repeat(100),
        "]".repeat(100)
    );
    assert!(read(&shallow).is_ok());
}

#[test]
fn an_answer_that_somebody_else_got_is_read_like_any_other() {
    let client = World::with(Peer::bound()).client();
    let bound = client
        .parse_token_response(
            br#"{"access_token":"at","token_type":"DPoP","expires_in":60}"#,
            START,
        )
        .unwrap();
    assert_eq!(
        (bound.key(), bound.expires_at()),
        (client.key(), after(60_000))
    );
    for (answer, why) in [
        (
            r#"{"access_token":"at","token_type":"Bearer"}"#,
            InvalidResponseKind::NotBound,
        ),
        (
            r#"{"error":"invalid_grant"}"#,
            InvalidResponseKind::Missing("access_token"),
        ),
        (
            r#"{"access_token":1}"#,
            InvalidResponseKind::InvalidMember("access_token"),
        ),
    ] {
        match client.parse_token_response(answer.as_bytes(), START) {
            Err(Error::Response(bad)) => assert_eq!(bad.kind(), &why),
            other => panic!("{answer}: {other:?}"),
        }
    }
}

/// A session holds its token for as long as it lives, and a pool thousands of them.
#[test]
fn what_a_token_holds_of_an_answer_is_bounded() {
    const LONGEST: usize = 32 * 1024;
    let of = |letter: &str, length: usize| letter.repeat(length);
    let read_with = |member: &str, length| read(&with(member, &json!(of("x", length))));
    // No server takes a header of that length.
    assert!(read_with("access_token", LONGEST).is_ok());
    let too_long = read_with("access_token", LONGEST + 1).unwrap_err();
    let Error::Response(bad) = &too_long else {
        panic!("{too_long:?}")
    };
    assert_eq!(
        bad.kind(),
        &InvalidResponseKind::InvalidMember("access_token")
    );
    // The others never cost the access token.
    let token = read_with("refresh_token", LONGEST).unwrap();
    assert!(token.refresh_token().is_some());
    let token = read_with("refresh_token", LONGEST + 1).unwrap();
    assert!(token.refresh_token().is_none());
    let scopes = [LONGEST, LONGEST + 1].map(|length| read_with("scope", length).unwrap());
    assert_eq!(scopes.map(|token| token.scope().is_some()), [true, false]);
    let mut answer = json!({ "access_token": "at", "a": of("a", LONGEST / 2), "c": "short" });
    answer["b"] = json!(of("b", LONGEST / 2 + 1));
    let token = read(&answer.to_string()).unwrap();
    let kept = ["a", "b", "c"].map(|name| token.extra(name).is_some());
    assert_eq!(kept, [true, false, true]);
    let many = (0..15_000).map(|number| (number.to_string(), json!("")));
    let mut members: serde_json::Map<String, Value> = many.collect();
    members.insert("access_token".into(), json!("at"));
    let token = read(&Value::from(members).to_string()).unwrap();
    let names = (0..15_000).filter(|number| token.extra(&number.to_string()).is_some());
    assert!(names.count() < 1000, "each costs more than its text");
}
