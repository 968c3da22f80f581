//! Answers of every kind, with members, bytes and codings that nobody needs, and what each costs.

use http::Response;
use keybound_core::driver::FromResponse;
use keybound_core::{
    Client, ClientAuth, DeviceAuthorization, Error, Grant, InvalidResponseKind, Issuer, Operation,
    ProtectedResource, Secret, ServerError, Token, TokenType,
};
use serde_json::{Value, json};

use crate::peer::{Peer, response, with_header};
use crate::planted::Planted;
use crate::world::{Answered, TOKEN_URL, World, always_answered, answered, endpoint, outgoing};

const ISSUER: &str = "https://as.example";
const RESOURCE: &str = "https://rs.example/api";

fn client() -> Client {
    Client::new(endpoint(TOKEN_URL), ClientAuth::none("app").unwrap())
        .authorization_endpoint(endpoint("https://as.example/authorize"))
        .pushed_authorization_request_endpoint(endpoint("https://as.example/par"))
        .device_authorization_endpoint(endpoint("https://as.example/device"))
        .introspection_endpoint(endpoint("https://as.example/introspect"))
        .revocation_endpoint(endpoint("https://as.example/revoke"))
}

fn refresh() -> Grant {
    Grant::refresh_token(Secret::new("sent")).unwrap()
}

/// What an answer makes of an exchange, wherever it asks.
fn done<T: FromResponse>(operation: Operation<T>, body: impl Into<Vec<u8>>) -> Result<T, Error> {
    always_answered(operation, &Response::new(body.into()))
}

fn token(body: impl Into<Vec<u8>>) -> Result<Token, Error> {
    done(client().token(refresh()).unwrap(), body)
}

/// The same for a client that wants its tokens bound.
fn bound(client: impl Fn(Client) -> Client, body: impl Into<Vec<u8>>) -> Result<Token, Error> {
    let mut world = World::scripted(Peer::bound(), [Response::new(body.into())]);
    let operation = client(world.client()).token(refresh()).unwrap();
    world.run(operation)
}

fn device(body: impl Into<Vec<u8>>) -> Result<DeviceAuthorization, Error> {
    done(client().device_authorization(None).unwrap(), body)
}

/// What an answer is read by.
type Reads = fn(Vec<u8>) -> Result<(), Error>;

/// A kind of answer, the members of it that are needed, and a reader that wants them as they were.
fn kinds() -> Vec<(&'static str, Value, &'static [&'static str], Reads)> {
    vec![
        (
            "token",
            json!({ "access_token": "at", "token_type": "Bearer", "expires_in": 60, "refresh_token": "rt",
                    "scope": "a b", "id_token": "e.e.e", "issued_token_type": "urn:x", "x": 1 }),
            &["access_token"],
            |body| {
                let token = token(body)?;
                assert_eq!(token.access_token().expose(), "at");
                assert!(token.refresh_token().is_some());
                Ok(())
            },
        ),
        (
            "least token",
            json!({ "access_token": "at" }),
            &["access_token"],
            |body| {
                token(body).map(|token| assert_eq!(token.refresh_token().unwrap().expose(), "sent"))
            },
        ),
        (
            "bound token",
            json!({ "access_token": "at", "token_type": "DPoP", "expires_in": "60", "scope": ["a"], "refresh_token": "rt" }),
            &["access_token", "token_type"],
            |body| {
                let token = bound(|client| client, body)?;
                assert_eq!(
                    (token.access_token().expose(), token.token_type()),
                    ("at", &TokenType::Dpop)
                );
                Ok(())
            },
        ),
        (
            "device",
            json!({ "device_code": "dc", "user_code": "uc", "verification_uri": "https://as.example/go",
                    "verification_uri_complete": "https://as.example/go?uc", "expires_in": 600, "interval": 5, "x": [] }),
            &["device_code", "user_code", "verification_uri", "expires_in"],
            |body| device(body).map(|device| assert_eq!(device.user_code(), "uc")),
        ),
        (
            "PAR",
            json!({ "request_uri": "urn:x", "expires_in": 60, "x": {} }),
            &["request_uri"],
            |body| {
                let builder = client().authorization("https://app.example/cb").unwrap();
                let request = done(builder.push([1; 32]).unwrap(), body)?;
                assert!(request.url.to_string().ends_with("request_uri=urn%3Ax"));
                Ok(())
            },
        ),
        (
            "introspection",
            json!({ "active": true, "scope": "a", "exp": 1, "iat": 1, "sub": "s", "aud": ["a"], "client_id": "c",
                    "username": "u", "token_type": "DPoP", "cnf": { "jkt": "j" } }),
            &["active"],
            |body| {
                let told = done(client().introspect(Secret::new("t"), None).unwrap(), body)?;
                assert!(told.is_active());
                Ok(())
            },
        ),
        (
            "metadata",
            json!({ "issuer": ISSUER, "token_endpoint": TOKEN_URL, "scopes_supported": ["a"],
                    "grant_types_supported": ["x"], "dpop_signing_alg_values_supported": ["ES256"],
                    "require_pushed_authorization_requests": true, "service_documentation": "https://x", "x": 0.5 }),
            &["issuer", "token_endpoint"],
            |body| {
                let metadata = done(Issuer::https(ISSUER).unwrap().discover().unwrap(), body)?;
                assert!(metadata.client(ClientAuth::none("app").unwrap()).is_ok());
                Ok(())
            },
        ),
        (
            "resource",
            json!({ "resource": RESOURCE, "authorization_servers": [ISSUER], "scopes_supported": ["a"],
                    "bearer_methods_supported": ["header"], "resource_name": "r", "dpop_bound_access_tokens_required": true }),
            &["resource"],
            |body| done(ProtectedResource::discover(RESOURCE).unwrap(), body).map(drop),
        ),
    ]
}

/// Something of every type that JSON has.
fn of_every_type() -> Vec<Value> {
    [
        "null",
        "true",
        "false",
        "0",
        "-1",
        "123",
        "0.5",
        "1e999",
        r#""""#,
        r#""x""#,
        r#""x\n""#,
        r#""\ud800""#,
        r#"" x ""#,
        "[]",
        r#"["x"]"#,
        r#"[[]]"#,
        "[1,null]",
        "{}",
        r#"{"a":{}}"#,
    ]
    .map(|json| serde_json::from_str(json).unwrap_or_else(|_| Value::String(format!("RAW{json}"))))
    .into()
}

/// The document with this member replaced. What serde_json can't hold is written as it is.
fn with(document: &Value, member: &str, value: &Value) -> String {
    let mut document = document.clone();
    document[member] = json!("PLACE");
    let text = match value.as_str().and_then(|text| text.strip_prefix("RAW")) {
        Some(raw) => raw.to_owned(),
        None => value.to_string(),
    };
    document.to_string().replace(r#""PLACE""#, &text)
}

#[test]
fn a_member_that_nobody_needs_costs_no_answer_whatever_its_type() {
    for (kind, document, needed, read) in kinds() {
        read(document.to_string().into()).unwrap();
        let others = document
            .as_object()
            .unwrap()
            .keys()
            .filter(|name| !needed.contains(&name.as_str()));
        for name in others.map(String::as_str).chain(["unheard_of"]) {
            for value in of_every_type() {
                let body = with(&document, name, &value);
                assert!(read(body.clone().into()).is_ok(), "{kind}: {body}");
            }
        }
    }
}

#[test]
fn an_endpoint_that_is_no_text_is_none_and_costs_nothing_but_itself() {
    for name in [
        "authorization_endpoint",
        "revocation_endpoint",
        "introspection_endpoint",
        "device_authorization_endpoint",
        "pushed_authorization_request_endpoint",
        "userinfo_endpoint",
        "jwks_uri",
    ] {
        for value in [
            json!([]),
            json!({}),
            json!(false),
            json!(0),
            json!(null),
            json!(["https://as.example/x"]),
        ] {
            let document = json!({ "issuer": ISSUER, "token_endpoint": TOKEN_URL, name: value });
            let metadata = done(
                Issuer::https(ISSUER).unwrap().discover().unwrap(),
                document.to_string(),
            )
            .unwrap();
            assert!(metadata.endpoint(name).is_none(), "{document}");
            assert!(
                metadata.client(ClientAuth::none("app").unwrap()).is_ok(),
                "{document}"
            );
        }
    }
}

#[test]
fn bytes_that_are_no_text_cost_only_the_member_that_they_are_in() {
    for (kind, document, needed, read) in kinds() {
        let members = document.as_object().unwrap().keys();
        for name in members.map(String::as_str).chain(["unheard_of"]) {
            for bytes in [
                &b"\xff"[..],
                b"abc\xe4",
                b"\xe2\x82",
                b"\xed\xa0\x80def",
                b"\xc0\xaf\xff\xfe",
            ] {
                let body = with(&document, name, &json!("HERE"));
                let (before, after) = body.split_once("HERE").unwrap();
                let read = read([before.as_bytes(), bytes, after.as_bytes()].concat());
                assert_eq!(
                    read.is_ok(),
                    !needed.contains(&name),
                    "{kind} {name}: {:?}",
                    read.err()
                );
            }
        }
        // In a name, and deeper.
        let text = document.to_string();
        for odd in [
            &b"{\"\xff\":1,"[..],
            b"{\"o\":{\"\xffx\":[\"\xfe\"]},",
            b"{\"o\":[\"\xff\\\"\"],",
        ] {
            read([odd, &text.as_bytes()[1..]].concat())
                .unwrap_or_else(|error| panic!("{kind}: {error}"));
        }
        // Between the members they make it something else than JSON.
        for odd in [
            &b"{\xff"[..],
            b"\xff{",
            b"{\"o\":\xff,",
            b"{\"o\":\"\\\xff\",",
        ] {
            assert!(
                read([odd, &text.as_bytes()[1..]].concat()).is_err(),
                "{kind}"
            );
        }
    }
}

#[test]
fn an_introspection_never_says_that_a_token_is_bound_to_no_key_because_bytes_of_the_key_are_odd() {
    let body = b"{\"active\":true,\"sub\":\"\xff\",\"cnf\":{\"jkt\":\"j\xff\"}}".to_vec();
    let told = done(client().introspect(Secret::new("t"), None).unwrap(), body).unwrap();
    assert!(told.jkt().is_some_and(|jkt| jkt != "j"));
    // Nor is one person taken for another.
    assert_eq!(told.text("sub"), None);
}

#[test]
fn a_refresh_token_that_is_none_leaves_the_old_one() {
    for odd in [
        "false",
        "true",
        "[]",
        "{}",
        "123",
        r#"["rt"]"#,
        "null",
        r#""""#,
        r#""\udfff""#,
        r#"{"a":"rt"}"#,
    ] {
        let token = token(format!(r#"{{"access_token":"at","refresh_token":{odd}}}"#)).unwrap();
        assert_eq!(
            (
                token.access_token().expose(),
                token.refresh_token().unwrap().expose()
            ),
            ("at", "sent"),
            "{odd}"
        );
        let operation = client().token(Grant::client_credentials()).unwrap();
        let token = done(
            operation,
            format!(r#"{{"access_token":"at","refresh_token":{odd}}}"#),
        )
        .unwrap();
        assert!(token.refresh_token().is_none(), "{odd}");
    }
    let damaged =
        token(b"{\"access_token\":\"at\",\"refresh_token\":\"r\xfft\"}".to_vec()).unwrap();
    assert_eq!(damaged.refresh_token().unwrap().expose(), "sent");
    // A good one is lost by no neighbour.
    for neighbour in [
        &b"\"scope\":\"\xff\""[..],
        b"\"token_type\":[]",
        b"\"token_type\":\"Bear\xffer\"",
        b"\"\xff\":null",
        b"\"expires_in\":[{}]",
        b"\"id_token\":\"\xfe\"",
    ] {
        let body = [
            b"{\"access_token\":\"at\",".as_slice(),
            neighbour,
            b",\"refresh_token\":\"rt\"}",
        ]
        .concat();
        assert_eq!(token(body).unwrap().refresh_token().unwrap().expose(), "rt");
    }
}

#[test]
fn an_odd_token_type_costs_no_bearer_token() {
    for odd in [
        r#""Bearer\n""#,
        r#""Bearer ""#,
        r#"" bearer""#,
        r#""\tBEARER\r\n""#,
        "1",
        "true",
        "[]",
        "{}",
        r#"["Bearer"]"#,
        r#"["Bearer","x"]"#,
        r#""Bear\ner""#,
        r#""\ud800""#,
        r#""Bearer\u0000""#,
        r#""ü""#,
        r#""a token""#,
    ] {
        let read = token(format!(
            r#"{{"access_token":"at","token_type":{odd},"refresh_token":"rt"}}"#
        ));
        let token = read.unwrap_or_else(|error| panic!("{odd}: {error}"));
        assert_eq!(token.token_type(), &TokenType::Bearer, "{odd}");
        assert_eq!(token.refresh_token().unwrap().expose(), "rt", "{odd}");
        let uri = "https://rs.example/".parse().unwrap();
        assert!(token.authorize(&http::Method::GET, &uri).is_ok());
    }
    let other = token(r#"{"access_token":"at","token_type":"N_A"}"#).unwrap();
    assert_eq!(other.token_type(), &TokenType::Other("N_A".into()));
}

#[test]
fn an_odd_token_type_makes_no_bearer_token_of_one_that_was_to_be_bound() {
    let answer = |token_type: &str| format!(r#"{{"access_token":"at","token_type":{token_type}}}"#);
    for odd in [
        "1",
        "[]",
        "{}",
        "null",
        r#""""#,
        r#""\ud800""#,
        r#""Bearer\n""#,
        r#"["Bearer"]"#,
        r#""D PoP""#,
        r#"["DPoP","Bearer"]"#,
        r#""DPoP\u0000""#,
    ] {
        let refused = bound(|client| client, answer(odd));
        assert!(
            matches!(refused, Err(Error::Response(bad)) if *bad.kind() == InvalidResponseKind::NotBound),
            "{odd}"
        );
    }
    let missing = bound(|client| client, r#"{"access_token":"at"}"#);
    assert!(
        matches!(missing, Err(Error::Response(bad)) if *bad.kind() == InvalidResponseKind::NotBound)
    );
    for bound_type in [r#""DPoP\n""#, r#"" dpop ""#, r#"["DPoP"]"#, r#""DPOP\t""#] {
        for client in [
            |client: Client| client,
            |client: Client| client.accept_bearer(),
        ] {
            let token = bound(client, answer(bound_type)).unwrap();
            assert_eq!(token.token_type(), &TokenType::Dpop, "{bound_type}");
            assert!(token.key().is_some(), "{bound_type}");
        }
    }
}

#[test]
fn an_access_token_that_no_header_can_carry_is_refused_at_once() {
    for bad in [
        "ü",
        "aü",
        "a\u{fffd}",
        "a\u{7f}",
        "a\tb",
        "a\nb",
        "a\u{0}",
        "\u{feff}at",
        "a\u{a0}b",
        "a\u{200b}",
    ] {
        for token_type in ["Bearer", "DPoP", "N_A"] {
            let body = json!({ "access_token": bad, "token_type": token_type, "issued_token_type": "urn:x:jwt" });
            let refused = token(body.to_string());
            assert!(
                matches!(&refused, Err(Error::Response(response)) if *response.kind() == InvalidResponseKind::InvalidMember("access_token")),
                "{bad:?} {refused:?}"
            );
        }
    }
    let damaged = token(b"{\"access_token\":\"a\xfft\"}".to_vec());
    assert!(
        matches!(damaged, Err(Error::Response(bad)) if *bad.kind() == InvalidResponseKind::InvalidMember("access_token"))
    );
    let every: String = (' '..='~').collect();
    let good = token(json!({ "access_token": every }).to_string()).unwrap();
    assert_eq!(good.access_token().expose(), every);
}

/// The exchanges of every kind, each ready to be sent.
fn requests() -> Vec<http::Request<keybound_core::driver::Body>> {
    let client = client();
    let pushed = client
        .authorization("https://app.example/cb")
        .unwrap()
        .push([1; 32])
        .unwrap();
    vec![
        outgoing(client.token(refresh()).unwrap()).request,
        outgoing(client.revoke(Secret::new("t"), None).unwrap()).request,
        outgoing(client.introspect(Secret::new("t"), None).unwrap()).request,
        outgoing(client.device_authorization(None).unwrap()).request,
        outgoing(pushed).request,
        outgoing(Issuer::https(ISSUER).unwrap().discover().unwrap()).request,
        outgoing(ProtectedResource::discover(RESOURCE).unwrap()).request,
    ]
}

#[test]
fn every_request_of_an_operation_asks_for_a_response_that_is_not_compressed() {
    for request in requests() {
        let asked: Vec<_> = request
            .headers()
            .get_all("accept-encoding")
            .iter()
            .collect();
        assert_eq!(asked, ["identity"], "{}", request.uri());
    }
    assert_eq!(
        client()
            .header("Accept-Encoding", "gzip")
            .unwrap_err()
            .argument(),
        "header"
    );
}

/// `{"error":"invalid_grant"}`, by gzip.
const GZIPPED: &[u8] = &[
    31, 139, 8, 0, 0, 0, 0, 0, 2, 3, 171, 86, 74, 45, 42, 202, 47, 82, 178, 82, 202, 204, 43, 75,
    204, 201, 76, 137, 79, 47, 74, 204, 43, 81, 170, 5, 0, 126, 29, 85, 38, 25, 0, 0, 0,
];

fn coded(status: u16, coding: &str, body: &[u8]) -> Response<Vec<u8>> {
    let plain = with_header(response(status, ""), "content-type", "application/json");
    with_header(plain, "content-encoding", coding).map(|_| body.to_vec())
}

fn refused(answer: Response<Vec<u8>>) -> Error {
    answered(client().token(refresh()).unwrap().max_attempts(1), answer)
        .map(drop)
        .unwrap_err()
}

#[test]
fn an_answer_that_is_compressed_all_the_same_is_named_by_its_coding() {
    for coding in ["gzip", "br", "deflate", "zstd", "GZIP", "gzip, br", "x-own"] {
        for status in [200, 201, 400, 401, 403, 500, 503] {
            let error = refused(coded(status, coding, GZIPPED));
            let shown = error.to_string();
            assert!(shown.contains(coding), "{status}: {shown}");
            assert!(!shown.contains("JSON at line"), "{shown}");
        }
        let metadata = Issuer::https(ISSUER).unwrap().discover().unwrap();
        // It might be JSON elsewhere.
        let error = always_answered(metadata, &coded(200, coding, GZIPPED))
            .map(drop)
            .unwrap_err();
        assert!(error.to_string().contains(coding), "{error}");
    }
    // A browser decodes by itself, and leaves the header where it is.
    for coding in ["gzip", "identity"] {
        let good = answered(
            client().token(refresh()).unwrap(),
            coded(200, coding, br#"{"access_token":"at"}"#),
        );
        assert!(matches!(good, Ok(Answered::Done(_))), "{coding}");
        let bad = refused(coded(400, coding, br#"{"error":"invalid_grant"}"#)).to_string();
        assert!(
            bad.contains("400 invalid_grant") && !bad.contains(coding),
            "{bad}"
        );
        let odd = refused(coded(200, coding, br#"{"access_token":7}"#)).to_string();
        assert!(
            odd.contains("`access_token`") && !odd.contains(coding),
            "{odd}"
        );
    }
    for (status, coding) in [(200, "identity"), (400, "identity"), (200, "Identity")] {
        let shown = refused(coded(status, coding, b"<html>")).to_string();
        assert!(!shown.to_lowercase().contains("identity"), "{shown}");
    }
    // It's the server's word, and ends in a terminal.
    let long = format!("gz\t{}", "x".repeat(1000));
    for status in [200, 400] {
        let shown = refused(coded(status, &long, GZIPPED)).to_string();
        assert!(shown.len() < 700 && !shown.contains('\t'), "{shown}");
    }
}

const SECRETS: [&str; 3] = [
    "s3cr3t-t0ken-471147114711",
    "0ther.s3cr3t-0815081508150815",
    "th1rd_s3cr3t/4242+4242==",
];

fn server_error(status: u16, body: &str) -> Box<ServerError> {
    let planted = Planted::new(&SECRETS);
    let error = refused(response(status, body));
    planted.are_not_told(&error);
    match error {
        Error::Server(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[test]
fn credentials_in_a_refusal_are_not_shown_whatever_they_are_called() {
    let [one, two, three] = SECRETS;
    for name in [
        "access_token",
        "accessToken",
        "AccessToken",
        "access-token",
        "ACCESS_TOKEN",
        "accesstoken",
        "refresh_token",
        "refreshToken",
        "id_token",
        "idToken",
        "device_code",
        "deviceCode",
        "client_secret",
        "clientSecret",
        "secret",
        "code",
        "authorization_code",
        "password",
        "Password",
        "assertion",
        "client_assertion",
        "subject_token",
        "actor_token",
        "code_verifier",
        "token",
        "jwt",
        "tokens",
        "api_key",
        "x-api-key",
        "new_password",
        "user.token",
    ] {
        for status in [400, 401, 403, 422] {
            for body in [
                json!({ name: one }),
                json!({ name: one, "message": format!("{one} is not good") }),
                json!({ name: one, "scope": one, "other": [one, one] }),
                json!({ "data": { name: one, "deep": { name: two, "list": { name: [three, one] } } } }),
                json!({ "error": { name: one, "x": one } }),
                json!({ name: [one, "b"] }),
                json!({ name: { "value": one, "kind": "x" } }),
                json!({ name: [{ "value": one }], "detail": one }),
                json!({ name: format!("Bearer {one}") }),
            ] {
                server_error(status, &body.to_string());
            }
        }
    }
}

#[test]
fn a_credential_in_a_refusal_is_struck_out_of_all_that_the_error_says() {
    let [one, two, _] = SECRETS;
    let body = json!({ "access_token": one, "detail": { "refreshToken": two }, "error_uri": format!("https://x/?t={one}") });
    let answer = with_header(response(400, &body.to_string()), "x-request-id", one);
    let answer = with_header(answer, "content-type", &format!("text/{two}"));
    let answer = with_header(answer, "content-encoding", two);
    let error = refused(answer);
    Planted::new(&SECRETS).are_not_told(&error);
    let Error::Server(refusal) = error else {
        panic!("no refusal")
    };
    assert_eq!(
        refusal.fields()[0],
        ("access_token".to_owned(), "[redacted]".to_owned())
    );
    assert_eq!(
        refusal.fields()[1],
        ("detail.refreshToken".to_owned(), "[redacted]".to_owned())
    );
    assert_eq!(refusal.request_id(), Some("[redacted]"));
    // With an `error` as well.
    let body = json!({ "error": "invalid_request", "error_description": format!("{one} and {two}"), "access_token": one, "data": { "idToken": two } });
    let refusal = server_error(400, &body.to_string());
    assert_eq!(refusal.description(), Some("[redacted] and [redacted]"));
}

#[test]
fn a_refusal_still_says_what_is_wrong_with_a_credential() {
    for (name, message) in [
        ("refresh_token", "is required"),
        ("token", "unknown"),
        ("password", "must be at least 8 characters"),
        ("client_secret", "is too short"),
        ("code", "has expired"),
        ("accessToken", "Invalid."),
        ("id_token", "can't be used here, it is missing a claim"),
        ("token_type_hint", "odd"),
        ("error_code", "E-4711"),
        ("zip_code", "12345"),
    ] {
        let refusal = server_error(422, &json!({ name: message }).to_string());
        assert_eq!(refusal.fields(), [(name.to_owned(), message.to_owned())]);
    }
}
