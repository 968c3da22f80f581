//! The two references that the project began with, member by member: what each says is sent is what is sent,
//! and what each says is answered is understood.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::Response;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, ORIGIN};
use keybound_core::dpop::{ProofError, ProofVerifier};
use keybound_core::driver::{Body, FromResponse};
use keybound_core::provider::moov::{self, Moov, Version};
use keybound_core::provider::treasury_prime::TreasuryPrime;
use keybound_core::{
    ClientAuth, Error, Grant, InvalidResponseKind, Operation, Retry, Scope, Secret, ServerError,
    Token, TokenType, TokenTypeHint, UnixTime,
};
use serde_json::{Value, json};

use crate::maker::Maker;
use crate::peer::{json_response, response, with_header};
use crate::world::{Answered, START, answered, endpoint, outgoing};

const REQUEST_ID: &str = "0189b3a2-7f1c-4f9e-8a55-5f0f6f1f2c11";

/// Moov API reference, POST /oauth2/token.
const MOOV_200: &str = r#"{
"access_token": "eyJhbGciOiJFZERTQSIsImN0eSI6IkpXVCIsImtpZCI6IkR...",
"expires_in": 1736964352,
"refresh_token": "eyJhbGc0eSI6TQSIsImN0kpXVCIsImtp6IkpXVsImtpZC0a...",
"scope": "/accounts.read /accounts.write",
"token_type": "Bearer"
}"#;
const MOOV_400: &str = r#"{
"error": "string"
}"#;
const MOOV_422: &str = r#"{
"refresh_token": "string",
"scope": "string"
}"#;

/// Treasury Prime API reference, version 1.18.581, POST /person/{id}/uxt_access_token: the request's example.
const TREASURY_PRIME_DPOP: &str =
    "eyJhbGciOiJFUzI1NiIsInR5cCI6ImRwb3Arand0IiwiandrIjp7Imt0eSI6IkVDIiwiY3J2I";

fn moov() -> Moov {
    Moov::new(ClientAuth::basic("5clTR_MdVrrkgxw2", Secret::new("dNC-hg7sVm22jc3g")).unwrap())
}

fn with_scope() -> Grant {
    Grant::client_credentials().scope(Scope::new("/accounts.read /accounts.write").unwrap())
}

fn refresh() -> Grant {
    Grant::refresh_token(Secret::new("eyJhbGc0eSI6TQ")).unwrap()
}

fn moov_token(grant: Grant) -> Operation<Token> {
    moov().client().unwrap().token(grant).unwrap()
}

fn request<T: FromResponse>(operation: Operation<T>) -> http::Request<Body> {
    outgoing(operation).request
}

fn body<T: FromResponse>(operation: Operation<T>) -> Value {
    serde_json::from_slice(request(operation).body().as_ref()).unwrap()
}

fn with_request_id(response: Response<Vec<u8>>) -> Response<Vec<u8>> {
    with_header(response, "x-request-id", REQUEST_ID)
}

fn done(operation: Operation<Token>, response: Response<Vec<u8>>) -> Token {
    match answered(operation, response) {
        Ok(Answered::Done(token)) => token,
        other => panic!("{other:?}"),
    }
}

fn refusal(operation: Operation<Token>, response: Response<Vec<u8>>) -> (Retry, ServerError) {
    match answered(operation.max_attempts(1), with_request_id(response)) {
        Err(error) => match (error.retry(), error) {
            (retry, Error::Server(error)) => (retry, *error),
            (_, other) => panic!("{other}"),
        },
        Ok(other) => panic!("{other:?}"),
    }
}

#[test]
fn moov_is_asked_by_a_post_of_json_to_its_one_host() {
    let request = request(moov_token(with_scope()));
    assert_eq!(request.method(), "POST");
    assert_eq!(request.uri(), "https://api.moov.io/oauth2/token");
    assert_eq!(request.headers()[CONTENT_TYPE], "application/json");
    assert_eq!(request.headers()[ACCEPT], "application/json");
}

#[test]
fn moov_base_url_can_be_a_mocks() {
    for base in [
        "https://mock.example",
        "https://mock.example/",
        "https://mock.example//",
    ] {
        let client = moov().base_url(endpoint(base)).client().unwrap();
        let request = request(client.token(with_scope()).unwrap());
        assert_eq!(request.uri(), "https://mock.example/oauth2/token", "{base}");
    }
}

#[test]
fn moov_grant_type_client_credentials_carries_its_scope() {
    let expected =
        json!({ "grant_type": "client_credentials", "scope": "/accounts.read /accounts.write" });
    assert_eq!(body(moov_token(with_scope())), expected);
}

#[test]
fn moov_grant_type_refresh_token_carries_the_refresh_token() {
    let expected = json!({ "grant_type": "refresh_token", "refresh_token": "eyJhbGc0eSI6TQ" });
    assert_eq!(body(moov_token(refresh())), expected);
}

#[test]
fn moov_scope_is_required_for_client_credentials_alone() {
    let client = moov().client().unwrap();
    assert_eq!(
        client
            .token(Grant::client_credentials())
            .unwrap_err()
            .argument(),
        "scope"
    );
    assert!(client.token(refresh()).is_ok());
}

#[test]
fn moov_refresh_token_is_required_for_its_grant() {
    assert_eq!(
        Grant::refresh_token(Secret::new(""))
            .unwrap_err()
            .argument(),
        "refresh_token"
    );
}

#[test]
fn moov_client_id_and_client_secret_go_by_basic_or_in_the_body_or_both() {
    let secret = || Secret::new("pass:word");
    for (auth, header, in_body) in [
        (
            ClientAuth::basic("public", secret()),
            Some("Basic cHVibGljOnBhc3MlM0F3b3Jk"),
            None,
        ),
        (
            ClientAuth::post("public", secret()),
            None,
            Some("pass:word"),
        ),
        (
            ClientAuth::both("public", secret()),
            Some("Basic cHVibGljOnBhc3MlM0F3b3Jk"),
            Some("pass:word"),
        ),
    ] {
        let operation = Moov::new(auth.unwrap())
            .client()
            .unwrap()
            .token(with_scope())
            .unwrap();
        let request = request(operation);
        let authorization = request.headers().get(AUTHORIZATION);
        assert_eq!(authorization.map(|value| value.to_str().unwrap()), header);
        assert!(authorization.is_none_or(http::HeaderValue::is_sensitive));
        let body: Value = serde_json::from_slice(request.body().as_ref()).unwrap();
        let id = in_body.map(|_| "public");
        assert_eq!(
            (body["client_id"].as_str(), body["client_secret"].as_str()),
            (id, in_body)
        );
    }
}

#[test]
fn moov_x_moov_version_is_v2024_01_00_unless_set() {
    assert_eq!(
        request(moov_token(with_scope())).headers()["x-moov-version"],
        "v2024.01.00"
    );
    for version in ["latest", "v2024.04.01", "v2025.07.00", "v2026.10.12"] {
        let moov = moov().version(Version::new(version).unwrap());
        let sent = request(moov.client().unwrap().token(with_scope()).unwrap());
        assert_eq!(sent.headers()["x-moov-version"], version);
        assert_eq!(moov.headers()["x-moov-version"], version);
    }
}

#[test]
fn moov_x_moov_version_is_a_year_a_quarter_and_a_build_or_latest() {
    for quarter in ["01", "04", "07", "10"] {
        assert!(Version::new(&format!("v2025.{quarter}.01")).is_ok());
    }
    for bad in [
        "",
        "v",
        "2024.01.00",
        "v2024.02.00",
        "v2024.1.00",
        "v2024.01",
        "v2024.01.0",
        "v2024.01.000",
        "v24.01.00",
        "v2024.01.00.00",
        "V2024.01.00",
        "Latest",
        " latest",
        "v2024.01.0x",
        "v2024.01.00\n",
        "v٢٠٢٤.01.00",
    ] {
        assert_eq!(
            Version::new(bad).unwrap_err().argument(),
            "version",
            "{bad:?}"
        );
    }
}

#[test]
fn moov_origin_is_sent_as_registered_and_missed_where_absent() {
    let moov = moov();
    assert_eq!(moov.warnings(), [moov::Warning::OriginMissing]);
    assert!(
        !request(moov_token(with_scope()))
            .headers()
            .contains_key(ORIGIN)
    );
    let moov = moov.origin(moov::Origin::new("https://Your-Domain.com").unwrap());
    assert_eq!(moov.warnings(), []);
    let client = moov.client().unwrap();
    for sent in [
        request(client.token(with_scope()).unwrap()).headers(),
        request(client.revoke(Secret::new("t"), None).unwrap()).headers(),
        moov.headers(),
    ] {
        assert_eq!(sent[ORIGIN], "https://your-domain.com");
    }
}

#[test]
fn moov_origin_has_nothing_behind_its_host() {
    for good in [
        "https://a.example",
        "https://a.example:8443",
        "https://A.example:443",
    ] {
        assert!(moov::Origin::new(good).is_ok(), "{good}");
    }
    for bad in [
        "https://a.example/",
        "https://a.example/x",
        "https://a.example?x",
        "https://a.example#x",
        "http://a.example",
        "a.example",
        "https://u:p@a.example",
        "*",
        "null",
        "",
    ] {
        assert_eq!(
            moov::Origin::new(bad).unwrap_err().argument(),
            "origin",
            "{bad}"
        );
    }
}

#[test]
fn moov_scopes_are_an_open_set_with_helpers() {
    assert_eq!(
        moov::scope::account("a-1", "transfers.write").unwrap(),
        "/accounts/a-1/transfers.write"
    );
    for (account, permission) in [
        ("", "x.read"),
        ("../b", "x.read"),
        ("a/b", "x.read"),
        ("a", ""),
        ("a", "x/y"),
        ("..", "x.read"),
    ] {
        assert!(
            moov::scope::account(account, permission).is_err(),
            "{account} {permission}"
        );
    }
    let all = [
        moov::scope::PING_READ,
        moov::scope::FED_READ,
        moov::scope::INSTITUTIONS_READ,
        moov::scope::PROFILE_ENRICHMENT_READ,
        moov::scope::ACCOUNTS_READ,
        moov::scope::ACCOUNTS_WRITE,
        moov::scope::TERMINAL_APPLICATIONS_READ,
        moov::scope::TERMINAL_APPLICATIONS_WRITE,
    ];
    assert_eq!(Scope::from_tokens(all).unwrap().iter().count(), all.len());
}

#[test]
fn moov_200_is_a_token_with_every_member() {
    let token = done(
        moov_token(with_scope()),
        with_request_id(response(200, MOOV_200)),
    );
    assert_eq!(
        token.access_token().expose(),
        "eyJhbGciOiJFZERTQSIsImN0eSI6IkpXVCIsImtpZCI6IkR..."
    );
    assert_eq!(
        token.refresh_token().unwrap().expose(),
        "eyJhbGc0eSI6TQSIsImN0kpXVCIsImtp6IkpXVsImtpZC0a..."
    );
    assert_eq!(
        token.scope().unwrap().as_str(),
        "/accounts.read /accounts.write"
    );
    assert_eq!(token.token_type(), &TokenType::Bearer);
    assert_eq!(token.request_id(), Some(REQUEST_ID));
}

#[test]
fn moov_expires_in_is_a_unix_time() {
    let token = done(moov_token(with_scope()), response(200, MOOV_200));
    // 2025-01-15T18:05:52Z, and not 55 years from now.
    assert_eq!(token.expires_at(), Some(UnixTime::from_secs(1_736_964_352)));
}

#[test]
fn moov_tokens_have_up_to_4096_characters() {
    let long = "x".repeat(4096);
    let answer = json!({ "access_token": long, "refresh_token": long, "expires_in": 1_736_964_352, "scope": "" });
    let token = done(moov_token(with_scope()), json_response(200, &answer));
    assert_eq!(token.access_token().expose().len(), 4096);
    let grant = Grant::refresh_token(token.refresh_token().unwrap().clone()).unwrap();
    assert_eq!(body(moov_token(grant))["refresh_token"], *long);
}

#[test]
fn moov_400_tells_its_error_and_request_id() {
    let (retry, error) = refusal(moov_token(with_scope()), response(400, MOOV_400));
    assert_eq!(
        (retry, error.code(), error.request_id()),
        (Retry::No, Some("string"), Some(REQUEST_ID))
    );
    assert!(error.to_string().contains(REQUEST_ID));
    let sentence = response(400, r#"{"error": "the request is odd"}"#);
    let (_, error) = refusal(moov_token(with_scope()), sentence);
    assert_eq!(
        (error.code(), error.description()),
        (None, Some("the request is odd"))
    );
}

#[test]
fn moov_422_names_the_fields() {
    let (retry, error) = refusal(moov_token(refresh()), response(422, MOOV_422));
    let fields = [
        ("refresh_token".to_owned(), "string".to_owned()),
        ("scope".to_owned(), "string".to_owned()),
    ];
    assert_eq!(
        (retry, error.fields(), error.request_id()),
        (Retry::No, &fields[..], Some(REQUEST_ID))
    );
    assert_eq!(error.status().as_u16(), 422);
}

#[test]
fn moov_429_is_retried_when_it_says_so() {
    let limited = || with_header(response(429, ""), "retry-after", "2");
    for grant in [with_scope(), refresh()] {
        let Ok(Answered::Again(delay)) = answered(moov_token(grant), limited()) else {
            panic!("given up")
        };
        assert_eq!(delay.as_secs(), 2);
    }
    let (retry, error) = refusal(moov_token(with_scope()), limited());
    assert_eq!(retry, Retry::Later(error.retry_after()));
    assert_eq!(error.request_id(), Some(REQUEST_ID));
}

#[test]
fn moov_500_is_left_to_the_caller() {
    let (retry, error) = refusal(moov_token(with_scope()).max_attempts(9), response(500, ""));
    assert_eq!((retry, error.status().as_u16()), (Retry::Later(None), 500));
    assert_eq!(error.request_id(), Some(REQUEST_ID));
}

#[test]
fn moov_504_is_retried_unless_a_refresh_token_may_be_consumed() {
    let again = answered(moov_token(with_scope()), response(504, ""));
    assert!(matches!(again, Ok(Answered::Again(_))));
    assert!(answered(moov_token(refresh()), response(504, "")).is_err());
    let (retry, error) = refusal(moov_token(refresh()), response(504, ""));
    assert_eq!(
        (retry, error.request_id()),
        (Retry::Later(None), Some(REQUEST_ID))
    );
}

#[test]
fn moov_401_and_403_have_no_body_to_read_and_are_told_all_the_same() {
    for (status, kind, page) in [
        (401, None, ""),
        (403, Some("text/html"), "<html>error code 1020</html>"),
    ] {
        let mut answer = response(status, page);
        if let Some(kind) = kind {
            answer = with_header(answer, "content-type", kind);
        }
        let (retry, error) = refusal(moov_token(with_scope()), answer);
        assert_eq!(
            (retry, error.code(), error.description()),
            (Retry::No, None, None)
        );
        assert_eq!(
            (error.status().as_u16(), error.content_type()),
            (status, kind)
        );
        assert!(!error.to_string().contains("1020"));
    }
}

#[test]
fn moov_revocation_sends_the_token_and_its_hint_and_takes_204() {
    let operation = || {
        moov()
            .client()
            .unwrap()
            .revoke(Secret::new("eyJhbGc0"), Some(TokenTypeHint::AccessToken))
            .unwrap()
    };
    let sent = request(operation());
    assert_eq!(sent.uri(), "https://api.moov.io/oauth2/revoke");
    assert_eq!(sent.headers()["x-moov-version"], "v2024.01.00");
    assert_eq!(
        body(operation()),
        json!({ "token": "eyJhbGc0", "token_type_hint": "access_token" })
    );
    let Ok(Answered::Done(revoked)) = answered(operation(), with_request_id(response(204, "")))
    else {
        panic!("not revoked")
    };
    assert_eq!(revoked.request_id(), Some(REQUEST_ID));
}

fn basic_auth() -> ClientAuth {
    ClientAuth::basic("key_1", Secret::new("key-value")).unwrap()
}

fn uxt(api: &TreasuryPrime, person: &str) -> Operation<Token> {
    api.uxt_access_token(person, Maker::new().verified())
        .unwrap()
}

fn uxt_exchange() -> Operation<Token> {
    uxt(&TreasuryPrime::sandbox(basic_auth()), "psn_1")
}

#[test]
fn treasury_prime_production_host() {
    let request = request(uxt(&TreasuryPrime::production(basic_auth()), "psn_1"));
    assert_eq!(
        request.uri(),
        "https://api.treasuryprime.com/person/psn_1/uxt_access_token"
    );
}

#[test]
fn treasury_prime_sandbox_host() {
    let request = request(uxt_exchange());
    assert_eq!(
        request.uri(),
        "https://api.sandbox.treasuryprime.com/person/psn_1/uxt_access_token"
    );
    assert_eq!(request.method(), "POST");
}

#[test]
fn treasury_prime_host_can_be_a_mocks() {
    let api = TreasuryPrime::at(endpoint("https://mock.example/tp/"), basic_auth());
    assert_eq!(
        request(uxt(&api, "psn_1")).uri(),
        "https://mock.example/tp/person/psn_1/uxt_access_token"
    );
}

#[test]
fn treasury_prime_person_id_is_one_segment_of_the_path() {
    let api = TreasuryPrime::sandbox(basic_auth());
    for (person, segment) in [
        ("psn_11gqp1kxc7", "psn_11gqp1kxc7"),
        ("a/b", "a%2Fb"),
        ("../admin", "..%2Fadmin"),
        ("a?b#c", "a%3Fb%23c"),
        ("a b%2F", "a%20b%252F"),
        ("ü", "%C3%BC"),
        ("...", "..."),
    ] {
        let expected = format!("/person/{segment}/uxt_access_token");
        assert_eq!(request(uxt(&api, person)).uri().path(), expected);
    }
    for bad in ["", ".", ".."] {
        let invalid = api
            .uxt_access_token(bad, Maker::new().verified())
            .unwrap_err();
        assert_eq!(invalid.argument(), "person_id", "{bad:?}");
    }
}

#[test]
fn treasury_prime_dpop_is_the_whole_body_unmodified() {
    let request = request(uxt_exchange());
    assert_eq!(request.headers()[CONTENT_TYPE], "application/json");
    let body: Value = serde_json::from_slice(request.body().as_ref()).unwrap();
    assert_eq!(body, json!({ "dpop": Maker::new().proof() }));
    assert!(
        !request.headers().contains_key("dpop"),
        "the browser's proof is not the relay's"
    );
}

#[test]
fn treasury_prime_dpop_example_is_a_piece_of_a_proof() {
    let inspection = ProofVerifier::default().verify(TREASURY_PRIME_DPOP, START);
    assert_eq!(inspection.problems(), [ProofError::NotJws]);
}

#[test]
fn moov_paths_lead_to_no_other_host() {
    let endpoint = |path| moov().endpoint(path).map(|endpoint| endpoint.to_string());
    assert_eq!(
        endpoint("/accounts"),
        Ok("https://api.moov.io/accounts".into())
    );
    assert_eq!(
        endpoint("//evil.example/x"),
        Ok("https://api.moov.io//evil.example/x".into())
    );
    for path in [
        "",
        "accounts",
        ".evil.example/x",
        ":8443/x",
        "@evil.example/x",
        "/x#y",
        "/\\evil.example",
    ] {
        assert!(endpoint(path).is_err(), "{path}");
    }
}

#[test]
fn treasury_prime_keys_are_sent_as_they_are() {
    let auth = ClientAuth::basic("key_1", Secret::new("ab+c/d=e:f@g h")).unwrap();
    let sent = request(uxt(&TreasuryPrime::sandbox(auth.clone()), "psn_1"));
    let expected = format!("Basic {}", STANDARD.encode("key_1:ab+c/d=e:f@g h"));
    assert_eq!(sent.headers()["authorization"], expected);
    assert_eq!(
        ClientAuth::basic("a:b", Secret::new("x"))
            .unwrap()
            .verbatim()
            .unwrap_err()
            .argument(),
        "client_id"
    );
    assert_eq!(
        ClientAuth::none("a")
            .unwrap()
            .verbatim()
            .unwrap_err()
            .argument(),
        "client_auth"
    );
}

#[test]
fn treasury_prime_basic_auth_is_id_and_value_of_the_key() {
    assert_eq!(
        request(uxt_exchange()).headers()[AUTHORIZATION],
        "Basic a2V5XzE6a2V5LXZhbHVl"
    );
}

#[test]
fn treasury_prime_api_key_is_a_bearer_jwt() {
    let jwt = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJrZXlfMSJ9.c2ln";
    let api = TreasuryPrime::sandbox(ClientAuth::bearer(Secret::new(jwt)).unwrap());
    assert_eq!(
        request(uxt(&api, "psn_1")).headers()[AUTHORIZATION],
        format!("Bearer {jwt}")
    );
}

#[test]
fn treasury_prime_x_idempotency_key_is_never_sent() {
    let mut names: Vec<String> = request(uxt_exchange())
        .headers()
        .keys()
        .map(ToString::to_string)
        .collect();
    names.sort_unstable();
    assert_eq!(
        names,
        ["accept", "accept-encoding", "authorization", "content-type"]
    );
}

#[test]
fn treasury_prime_200_is_a_token_bound_to_the_proofs_key() {
    let answer = json!({ "access_token": "eyJhbGciOiJIUzI1NiJ9.e30.AA", "expires_in": 3600, "token_type": "DPoP" });
    let token = done(uxt_exchange(), json_response(200, &answer));
    assert_eq!(token.token_type(), &TokenType::Dpop);
    assert_eq!(
        token.expires_at(),
        Some(UnixTime::from_secs(START.as_secs() + 3600))
    );
    assert_eq!(token.key(), Some(Maker::new().verified().key()));
    assert_eq!(
        (
            token.refresh_token().is_none(),
            token.scope(),
            token.request_id()
        ),
        (true, None, None)
    );
}

#[test]
fn treasury_prime_example_access_token_is_a_proof_and_no_token() {
    let vector: Value =
        serde_json::from_str(include_str!("../vectors/treasury_prime.json")).unwrap();
    let answer =
        json!({ "access_token": vector["proof"], "expires_in": 3600, "token_type": "DPoP" });
    let Err(Error::Response(bad)) = answered(uxt_exchange(), json_response(200, &answer)) else {
        panic!("taken for a token")
    };
    assert_eq!(bad.kind(), &InvalidResponseKind::ProofInsteadOfToken);
}

#[test]
fn treasury_prime_bearer_token_in_place_of_a_bound_one_is_refused() {
    let answer = json!({ "access_token": "at", "expires_in": 3600, "token_type": "Bearer" });
    let Err(Error::Response(bad)) = answered(uxt_exchange(), json_response(200, &answer)) else {
        panic!("taken for a bound token")
    };
    assert_eq!(bad.kind(), &InvalidResponseKind::NotBound);
}

#[test]
fn treasury_prime_errors_are_a_text_or_nothing() {
    let told = "Invalid id primary_person_application_id: unexistant";
    let (_, error) = refusal(
        uxt_exchange(),
        json_response(400, &json!({ "error": told })),
    );
    assert_eq!((error.code(), error.description()), (None, Some(told)));
    // As its introduction shows it: no JSON.
    let broken = response(
        400,
        r#"{"error": "Parameter 'amount' must be greater than '0'.}"#,
    );
    let (retry, error) = refusal(uxt_exchange(), broken);
    assert_eq!((retry, error.description()), (Retry::No, None));
    let (retry, _) = refusal(uxt_exchange(), response(502, ""));
    assert_eq!(retry, Retry::Later(None));
}
