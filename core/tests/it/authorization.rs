//! People who are sent to the authorization server, and how they come back.

use std::time::Duration;

use http::Method;
use keybound_core::dpop::{Proof, ProofVerifier};
use keybound_core::driver::RequestContext;
use keybound_core::jose::{Algorithm, SigningKey};
use keybound_core::{
    AuthorizationBuilder, AuthorizationRequest, Client, ClientAuth, Error, Grant, Issuer,
    PendingAuthorization, RedirectError, Retry, Scope, Secret, StepUp, TokenType,
};
use proptest::prelude::*;

use crate::peer::{Asks, ISSUER, Peer, response, with_header};
use crate::world::{Answered, START, TOKEN_URL, World, answered, endpoint, outgoing};

const REDIRECT_URI: &str = "https://app.example/callback";

fn begin(client: &Client) -> AuthorizationRequest {
    client
        .authorization(REDIRECT_URI)
        .unwrap()
        .build([1; 32])
        .unwrap()
}

fn client() -> Client {
    World::with(Peer::bearer()).client()
}

/// The redirect of a person who agrees, its parameters as they are given here.
fn back(pending: &PendingAuthorization, params: &str) -> String {
    format!(
        "{REDIRECT_URI}?{}",
        params.replace("STATE", &pending.state())
    )
}

fn refusal(client: &Client, params: &str) -> RedirectError {
    let pending = begin(client).pending;
    pending
        .receive(&back(&pending, params))
        .map(drop)
        .unwrap_err()
}

#[test]
fn a_code_with_its_pkce_verifier_gives_a_token_bound_to_the_key_of_the_request() {
    for (peer, token_type) in [
        (Peer::bound(), TokenType::Dpop),
        (Peer::bearer(), TokenType::Bearer),
    ] {
        let mut world = World::with(peer);
        world.peer.authorization_server.asks = if world.peer.bound {
            Asks::Always
        } else {
            Asks::Never
        };
        let builder = world.client().authorization(REDIRECT_URI).unwrap();
        let builder = builder
            .scope(Scope::new("openid accounts").unwrap())
            .param("prompt", "consent")
            .unwrap();
        let AuthorizationRequest { url, pending } = builder.build([9; 32]).unwrap();
        let redirect = world.peer.authorizations.agree(&url);
        let asked = &world.peer.authorizations.asked[0];
        assert_eq!(
            (asked["scope"].as_str(), asked["prompt"].as_str()),
            ("openid accounts", "consent")
        );
        assert_eq!(asked.get("nonce"), pending.nonce().as_ref());
        assert_eq!(asked["redirect_uri"], REDIRECT_URI);
        let token = world.token(pending.receive(&redirect).unwrap()).unwrap();
        assert_eq!(token.token_type(), &token_type);
        assert_eq!(token.refresh_token().map(Secret::expose), Some("refresh-1"));
    }
}

#[test]
fn a_pushed_request_leaves_a_reference_in_the_url_and_is_proven_like_a_token_request() {
    let secret = || Secret::new("a secret");
    for (peer, auth) in [
        (Peer::bound(), ClientAuth::none("app")),
        (Peer::bearer(), ClientAuth::none("app")),
        (Peer::bound(), ClientAuth::post("app", secret())),
        (Peer::bound(), ClientAuth::basic("app", secret())),
    ] {
        let mut world = World::with(peer);
        if world.peer.bound {
            world.peer.authorization_server.asks = Asks::Always;
        }
        let client = Client::new(endpoint(TOKEN_URL), auth.unwrap())
            .authorization_endpoint(endpoint("https://as.example/authorize"))
            .pushed_authorization_request_endpoint(endpoint("https://as.example/par"));
        let client = if world.peer.bound {
            client.dpop(world.key.public().clone())
        } else {
            client
        };
        let builder = client
            .authorization(REDIRECT_URI)
            .unwrap()
            .scope(Scope::new("openid").unwrap());
        let AuthorizationRequest { url, pending } =
            world.run(builder.push([5; 32]).unwrap()).unwrap();
        let start = "https://as.example/authorize?client_id=app&request_uri=urn%3Aietf";
        assert!(url.to_string().starts_with(start), "{url}");
        let redirect = world.peer.authorizations.agree(&url);
        world
            .run(client.token(pending.receive(&redirect).unwrap()).unwrap())
            .unwrap();
    }
}

#[test]
fn a_request_that_was_not_pushed_has_no_url() {
    let client = client().pushed_authorization_request_endpoint(endpoint("https://as.example/par"));
    let push = || {
        client
            .authorization(REDIRECT_URI)
            .unwrap()
            .push([5; 32])
            .unwrap()
    };
    for (status, body, refused) in [
        (201, "{}", "`request_uri` is missing"),
        (
            201,
            r#"{"request_uri":7}"#,
            "`request_uri` has a wrong type",
        ),
        (200, r#"{"error":"invalid_request"}"#, "invalid_request"),
        (400, r#"{"error":"invalid_request"}"#, "invalid_request"),
    ] {
        let error = answered(push(), response(status, body))
            .map(drop)
            .unwrap_err();
        assert!(error.to_string().contains(refused), "{error}");
    }
    assert!(matches!(
        answered(push(), response(503, "")),
        Ok(Answered::Again(_))
    ));
    let without = World::with(Peer::bearer())
        .client()
        .authorization(REDIRECT_URI)
        .unwrap()
        .push([5; 32]);
    assert_eq!(
        without.map(drop).unwrap_err().argument(),
        "pushed_authorization_request_endpoint"
    );
}

#[test]
fn a_step_up_challenge_goes_into_the_authorization_request() {
    let challenge = "DPoP error=\"insufficient_user_authentication\", acr_values=\"gold silver\", max_age=60, scope=\"pay\"";
    let head = with_header(response(401, ""), "www-authenticate", challenge);
    let wish = StepUp::from_headers(head.headers()).unwrap();
    assert_eq!(
        (wish.acr_values(), wish.max_age()),
        (Some("gold silver"), Some(Duration::from_secs(60)))
    );
    let asked = |builder: AuthorizationBuilder| {
        let mut peer = Peer::bearer();
        peer.authorizations
            .agree(&builder.step_up(&wish).unwrap().build([1; 32]).unwrap().url);
        let asked = peer.authorizations.asked.remove(0);
        ["acr_values", "max_age", "scope"].map(|name| asked[name].clone())
    };
    let builder = || client().authorization(REDIRECT_URI).unwrap();
    assert_eq!(asked(builder()), ["gold silver", "60", "pay"]);
    assert_eq!(
        asked(builder().scope(Scope::new("own").unwrap())),
        ["gold silver", "60", "own"]
    );

    for (challenge, wish) in [
        (
            "Bearer error=\"insufficient_scope\", scope=\"a b\"",
            Some((None, Some("a b"))),
        ),
        (
            "Bearer error=insufficient_user_authentication, max_age=soon",
            Some((None, None)),
        ),
        (
            "Bearer, DPoP error=\"insufficient_user_authentication\", acr_values=x",
            Some((Some("x"), None)),
        ),
        ("Bearer error=\"invalid_token\"", None),
        ("DPoP acr_values=x", None),
    ] {
        let head = with_header(response(401, ""), "www-authenticate", challenge);
        let read = StepUp::from_headers(head.headers());
        let read = read
            .as_ref()
            .map(|read| (read.acr_values(), read.scope().map(Scope::as_str)));
        assert_eq!(read, wish, "{challenge}");
    }
    assert_eq!(StepUp::from_headers(response(401, "").headers()), None);
}

#[test]
fn a_stored_authorization_gives_the_same_grant_and_pkce_verifier() {
    let mut world = World::with(Peer::bound());
    let AuthorizationRequest { url, pending } = begin(&world.client());
    let redirect = world.peer.authorizations.agree(&url);
    let again = PendingAuthorization::from_json(pending.to_json().expose()).unwrap();
    assert_eq!(
        (again.state(), again.issuer()),
        (pending.state(), Some(ISSUER))
    );
    assert_eq!((again.nonce(), pending.nonce()), (None, None));
    // The peer verifies the rest.
    world.token(again.receive(&redirect).unwrap()).unwrap();
    for bad in [
        "",
        "[]",
        "{}",
        &pending
            .to_json()
            .expose()
            .replacen("\"seed\":\"", "\"seed\":\"AA", 1),
    ] {
        assert_eq!(
            PendingAuthorization::from_json(bad).unwrap_err().argument(),
            "authorization",
            "{bad}"
        );
    }
}

#[test]
fn state_nonce_and_pkce_challenge_differ_by_entropy_and_from_each_other() {
    let client = client();
    let requests = [[1; 32], [2; 32]].map(|entropy| {
        let builder = client
            .authorization(REDIRECT_URI)
            .unwrap()
            .scope(Scope::new("openid").unwrap());
        let mut peer = Peer::bearer();
        peer.authorizations
            .agree(&builder.build(entropy).unwrap().url);
        peer.authorizations.asked.remove(0)
    });
    let [mine, theirs] = &requests;
    for name in ["state", "nonce", "code_challenge"] {
        assert_ne!(mine[name], theirs[name], "{name}");
    }
    assert!(mine["state"] != mine["nonce"] && mine["state"] != mine["code_challenge"]);
}

#[test]
fn a_query_of_the_endpoint_stays_and_values_are_escaped() {
    let client =
        client().authorization_endpoint(endpoint("https://as.example/authorize?tenant=a%20b"));
    let builder = client
        .authorization("com.example.app:/cb?x=1")
        .unwrap()
        .param("login_hint", "a&b=c ü")
        .unwrap();
    let url = builder.build([1; 32]).unwrap().url.to_string();
    let start = "https://as.example/authorize?tenant=a%20b&response_type=code&client_id=app\
                 &redirect_uri=com.example.app%3A%2Fcb%3Fx%3D1&login_hint=a%26b%3Dc+%C3%BC&state=";
    assert!(url.starts_with(start), "{url}");
}

#[test]
fn a_request_that_can_not_be_made_is_refused_with_what_is_wrong() {
    let without_endpoint = Client::new(endpoint(TOKEN_URL), ClientAuth::none("app").unwrap());
    let invalid = without_endpoint
        .authorization(REDIRECT_URI)
        .map(drop)
        .unwrap_err();
    assert_eq!(invalid.argument(), "authorization_endpoint");
    let bearer = ClientAuth::bearer(Secret::new("credential")).unwrap();
    let without_id = Client::new(endpoint(TOKEN_URL), bearer)
        .authorization_endpoint(endpoint("https://as.example/"));
    assert_eq!(
        without_id
            .authorization(REDIRECT_URI)
            .map(drop)
            .unwrap_err()
            .argument(),
        "client_id"
    );
    for bad in [
        "",
        "/callback",
        "app.example/callback",
        "https://app.example/#x",
        "http://app.example/",
        "https://a b/",
        "https://ü/",
        "1a:b",
    ] {
        assert_eq!(
            client()
                .authorization(bad)
                .map(drop)
                .unwrap_err()
                .argument(),
            "redirect_uri",
            "{bad}"
        );
    }
    for good in [
        "http://127.0.0.1:1234/",
        "http://[::1]/cb",
        "http://localhost:8080",
        "com.example.app:/cb",
        "HTTPS://app.example",
    ] {
        assert!(client().authorization(good).is_ok(), "{good}");
    }
    for own in [
        "response_type",
        "client_id",
        "redirect_uri",
        "state",
        "code_challenge",
        "code_challenge_method",
        "scope",
        "nonce",
    ] {
        let builder = client()
            .authorization(REDIRECT_URI)
            .unwrap()
            .scope(Scope::new("openid").unwrap());
        let made = builder
            .param(own, "x")
            .and_then(|builder| builder.build([1; 32]));
        assert_eq!(made.map(drop).unwrap_err().argument(), "param", "{own}");
    }
    let builder = client()
        .authorization(REDIRECT_URI)
        .unwrap()
        .param("x", &"x".repeat(70_000))
        .unwrap();
    assert_eq!(
        builder.build([1; 32]).map(drop).unwrap_err().argument(),
        "url"
    );
}

#[test]
fn every_client_that_has_an_id_can_send_people_away() {
    let secret = || Secret::new("a secret");
    for auth in [
        ClientAuth::basic("app", secret()),
        ClientAuth::post("app", secret()),
        ClientAuth::both("app", secret()),
    ] {
        let client = Client::new(endpoint(TOKEN_URL), auth.unwrap())
            .authorization_endpoint(endpoint("https://as.example/authorize"));
        Peer::bearer().authorizations.agree(&begin(&client).url);
    }
}

#[test]
fn a_redirect_is_read_from_its_url_its_path_its_query_and_its_form() {
    let pending = begin(&client()).pending;
    let params = back(&pending, "code=a%2Fb&state=STATE").replacen(REDIRECT_URI, "", 1);
    for (before, after) in [
        (REDIRECT_URI, ""),
        (REDIRECT_URI, "#_=_"),
        ("/callback", ""),
        ("", ""),
        ("com.example.app:/cb", ""),
    ] {
        assert!(
            pending.receive(&format!("{before}{params}{after}")).is_ok(),
            "{before}…{after}"
        );
    }
    let form = &params[1..];
    assert!(pending.receive(form).is_ok());
    assert!(
        pending
            .receive(&format!("x=?&{form}&session_state=%zz&x=1&x=2"))
            .is_ok()
    );
    assert!(matches!(
        pending.receive(&format!("https://app.example/{form}")),
        Err(RedirectError::StateMismatch)
    ));
}

#[test]
fn a_redirect_without_our_state_is_not_ours_whatever_it_says() {
    let client = client();
    let pending = begin(&client).pending;
    let other = client
        .authorization(REDIRECT_URI)
        .unwrap()
        .build([2; 32])
        .unwrap()
        .pending
        .state();
    let state = pending.state();
    for state in [
        "",
        &state[1..],
        &state[..42],
        &format!("{state}A"),
        &format!("{state}="),
        &state.to_lowercase(),
        &other,
    ] {
        for rest in [
            "code=x",
            "error=access_denied",
            "code=x&iss=https://evil.example",
            "",
        ] {
            let redirect = format!("{REDIRECT_URI}?{rest}&state={state}");
            assert_eq!(
                pending.receive(&redirect).map(drop).unwrap_err(),
                RedirectError::StateMismatch,
                "{redirect}"
            );
        }
    }
    assert_eq!(refusal(&client, "code=x"), RedirectError::StateMismatch);
    // The person may still come.
    assert!(
        pending
            .receive(&back(&pending, "code=x&state=STATE"))
            .is_ok()
    );
}

#[test]
fn a_redirect_of_another_issuer_is_refused_before_its_code_or_error_counts() {
    let known = client();
    let always = client().require_iss();
    let unknown = Client::new(endpoint(TOKEN_URL), ClientAuth::none("app").unwrap())
        .authorization_endpoint(endpoint("https://as.example/authorize"));
    for answer in ["code=x&state=STATE", "error=access_denied&state=STATE"] {
        for (client, iss, refused) in [
            (&known, "", false),
            (&known, "&iss=https%3A%2F%2Fas.example", false),
            (&known, "&iss=https%3A%2F%2Fas.example%2F", true),
            (&known, "&iss=https://AS.example", true),
            (&known, "&iss=https://evil.example", true),
            (&known, "&iss=", true),
            (&always, "", true),
            (&always, "&iss=https://as.example", false),
            (&unknown, "&iss=https://as.example", false),
        ] {
            let pending = begin(client).pending;
            let outcome = pending.receive(&back(&pending, &format!("{answer}{iss}")));
            assert_eq!(
                matches!(outcome, Err(RedirectError::IssuerMismatch)),
                refused,
                "{answer}{iss}"
            );
        }
    }
}

#[test]
fn a_parameter_that_stands_twice_makes_the_redirect_worthless() {
    for name in [
        "code",
        "state",
        "iss",
        "error",
        "error_description",
        "error_uri",
    ] {
        let params = format!(
            "code=x&state=STATE&iss=https://as.example&error=e&error_description=d&error_uri=u&{name}=x"
        );
        assert_eq!(
            refusal(&client(), &params),
            RedirectError::DuplicateParameter(name)
        );
    }
    assert_eq!(
        refusal(&client(), "code=x&state=STATE&state=STATE"),
        RedirectError::DuplicateParameter("state")
    );
}

#[test]
fn an_empty_error_is_none() {
    let request = begin(&client());
    let redirect = back(&request.pending, "code=x&error=&state=STATE");
    assert!(request.pending.receive(&redirect).is_ok());
}

#[test]
fn an_error_redirect_says_what_it_says_and_what_to_do() {
    for (code, retry) in [
        ("access_denied", Retry::No),
        ("invalid_scope", Retry::No),
        ("temporarily_unavailable", Retry::Later(None)),
        ("server_error", Retry::Later(None)),
        ("login_required", Retry::Reauthenticate),
    ] {
        let params = format!(
            "error={code}&error_description=No+way%0A%1b&error_uri=https://x&state=STATE&code=x"
        );
        let error = refusal(&client(), &params);
        let RedirectError::Denied(denial) = &error else {
            panic!("{error}")
        };
        assert_eq!(
            (denial.code(), denial.description(), denial.uri()),
            (code, Some("No way"), Some("https://x"))
        );
        assert!(
            error
                .to_string()
                .ends_with(&format!("denied the request: {code}: No way")),
            "{error}"
        );
        assert_eq!(Error::from(error).retry(), retry, "{code}");
    }
    let RedirectError::Denied(denial) =
        refusal(&client(), &format!("error={}&state=STATE", "x".repeat(999)))
    else {
        panic!("no denial")
    };
    assert_eq!((denial.code().len(), denial.description()), (256, None));
}

#[test]
fn a_redirect_without_a_code_or_too_long_is_refused() {
    for params in ["state=STATE", "code=&state=STATE", "code&state=STATE"] {
        assert_eq!(refusal(&client(), params), RedirectError::NoCode);
    }
    assert_eq!(
        refusal(
            &client(),
            &format!("state=STATE&code={}", "x".repeat(64 * 1024))
        ),
        RedirectError::TooLong
    );
    assert_eq!(
        refusal(&client(), "").to_string(),
        RedirectError::StateMismatch.to_string()
    );
}

#[test]
fn a_code_is_not_retried_where_it_may_have_been_used() {
    let pending = begin(&client()).pending;
    let grant: Grant = pending
        .receive(&back(&pending, "code=x&state=STATE"))
        .unwrap();
    assert!(!grant.is_repeatable());
}

#[test]
fn an_issuer_is_an_https_url_without_query_and_keeps_its_spelling() {
    for good in [
        "https://as.example",
        "https://AS.example/",
        "https://as.example/tenant/1",
    ] {
        assert_eq!(Issuer::https(good).unwrap().as_str(), good);
    }
    for bad in [
        "http://as.example",
        "https://as.example?x",
        "https://as.example/#",
        "as.example",
        "https://u@as.example",
    ] {
        assert!(Issuer::https(bad).is_err(), "{bad}");
    }
    assert!(Issuer::loopback_http("http://127.0.0.1:9000").is_ok());
    assert!(Issuer::loopback_http("http://as.example").is_err());
}

proptest! {
    #[test]
    fn no_redirect_panics_or_is_taken_without_the_state(text in "\\PC{0,60}", tail in "(code|state|iss|error|[=&?#%a-z0-9:/]){0,12}") {
        let pending = begin(&client()).pending;
        for redirect in [&text, &tail, &format!("{REDIRECT_URI}?{tail}")] {
            prop_assert!(pending.receive(redirect).is_err());
        }
        let _ = PendingAuthorization::from_json(&text);
        let _ = client().authorization(&tail);
    }
}

/// The token endpoint and the issuer, where it is known, of a server.
fn client_of(token_endpoint: &str, issuer: Option<&str>) -> Client {
    let client = Client::new(endpoint(token_endpoint), ClientAuth::none("app").unwrap())
        .authorization_endpoint(endpoint("https://as.example/authorize"))
        .pushed_authorization_request_endpoint(endpoint("https://as.example/par"))
        .device_authorization_endpoint(endpoint("https://as.example/device"));
    match issuer {
        Some(issuer) => client.issuer(Issuer::https(issuer).unwrap()),
        None => client,
    }
}

const SERVERS: [(&str, Option<&str>); 5] = [
    ("https://a.example/token", Some("https://a.example")),
    ("https://b.example/token", Some("https://b.example")),
    ("https://a.example/token", Some("https://a.example/tenant")),
    ("https://b.example/token", None),
    ("https://b.example/tenant/token", None),
];

/// Whether a grant that was begun at the one server may be redeemed at the other.
fn is_same(one: usize, other: usize) -> bool {
    // The fourth may be the second: its token endpoint is, and it doesn't say who it is.
    one == other || matches!((one, other), (1, 3) | (3, 1))
}

/// Both ways to ask for a token refuse the grant, or neither does.
fn redeems(at: &Client, grant: &Grant) -> bool {
    let key = SigningKey::generate(Algorithm::Es256).unwrap();
    let uri = "https://as.example/token".parse().unwrap();
    let proof = Proof::build(key.public(), &Method::POST, &uri).unwrap();
    let proof = proof
        .prepare(RequestContext::new(START, [1; 16]))
        .finish(|request| key.sign(request))
        .unwrap();
    let verified = ProofVerifier::default()
        .verify(proof.as_str(), START)
        .verified()
        .unwrap();
    let refused = [
        at.token(grant.clone()).err(),
        at.relay(grant.clone(), verified).err(),
    ];
    for invalid in refused.iter().flatten() {
        assert_eq!(invalid.argument(), "grant", "{invalid}");
    }
    let [token, relay] = refused.map(|refused| refused.is_none());
    assert_eq!(token, relay);
    token
}

#[test]
fn a_code_is_redeemed_by_a_client_of_the_issuer_that_gave_it_alone() {
    for (from, (token_endpoint, issuer)) in SERVERS.into_iter().enumerate() {
        let client = client_of(token_endpoint, issuer);
        let builder = client.authorization(REDIRECT_URI).unwrap();
        let pushed = answered(
            builder.clone().push([4; 32]).unwrap(),
            response(201, r#"{"request_uri":"urn:x","expires_in":60}"#),
        );
        let Ok(Answered::Done(pushed)) = pushed else {
            panic!("it was pushed")
        };
        for pending in [builder.build([1; 32]).unwrap().pending, pushed.pending] {
            let stored = PendingAuthorization::from_json(pending.to_json().expose()).unwrap();
            for pending in [pending, stored] {
                // With the `iss` of the honest server, and without any (RFC 9700 §4.4).
                let iss = issuer.map_or(String::new(), |issuer| format!("&iss={issuer}"));
                for iss in [iss, String::new()] {
                    let grant = pending
                        .receive(&back(&pending, &format!("code=c&state=STATE{iss}")))
                        .unwrap();
                    for (to, (token_endpoint, issuer)) in SERVERS.into_iter().enumerate() {
                        let client = client_of(token_endpoint, issuer);
                        assert_eq!(redeems(&client, &grant), is_same(from, to), "{from} {to}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_device_code_is_redeemed_by_a_client_of_the_issuer_that_gave_it_alone() {
    let answer = r#"{"device_code":"d","user_code":"u","verification_uri":"https://as.example/go","expires_in":600}"#;
    for (from, (token_endpoint, issuer)) in SERVERS.into_iter().enumerate() {
        let operation = client_of(token_endpoint, issuer)
            .device_authorization(None)
            .unwrap();
        let Ok(Answered::Done(device)) = answered(operation, response(200, answer)) else {
            panic!("a code came")
        };
        for (to, (token_endpoint, issuer)) in SERVERS.into_iter().enumerate() {
            let client = client_of(token_endpoint, issuer);
            assert_eq!(
                redeems(&client, &device.grant()),
                is_same(from, to),
                "{from} {to}"
            );
        }
    }
}

#[test]
fn a_grant_that_an_application_has_made_is_redeemed_wherever_it_says() {
    for (token_endpoint, issuer) in SERVERS {
        let client = client_of(token_endpoint, issuer);
        assert!(redeems(&client, &Grant::client_credentials()));
        assert!(redeems(
            &client,
            &Grant::refresh_token(Secret::new("r")).unwrap()
        ));
        assert!(redeems(
            &client,
            &Grant::extension("authorization_code").unwrap()
        ));
    }
}

/// The values of a parameter in a form.
fn values<'a>(form: &'a str, name: &str) -> Vec<&'a str> {
    form.split('&')
        .filter_map(|pair| pair.split_once('=').filter(|(own, _)| *own == name))
        .map(|(_, value)| value)
        .collect()
}

#[test]
fn the_resources_of_the_authorization_request_are_those_of_the_token_request() {
    let client = client().pushed_authorization_request_endpoint(endpoint("https://as.example/par"));
    for resources in [
        &[][..],
        &["https://rs.example/"],
        &["https://a.example/x?y=1", "urn:b", "https://c.example"],
    ] {
        let mut builder = client.authorization(REDIRECT_URI).unwrap();
        for (at, uri) in resources.iter().enumerate() {
            // By its own name or as a parameter: it's the same.
            builder = if at == 1 {
                builder.param("resource", uri)
            } else {
                builder.resource(uri)
            }
            .unwrap();
        }
        let pushed = answered(
            builder.clone().push([4; 32]).unwrap(),
            response(201, r#"{"request_uri":"urn:x"}"#),
        );
        let Ok(Answered::Done(pushed)) = pushed else {
            panic!("it was pushed")
        };
        let built = builder.build([1; 32]).unwrap();
        let url = built.url.to_string();
        let asked = values(url.split_once('?').unwrap().1, "resource");
        assert_eq!(asked.len(), resources.len());
        for pending in [built.pending, pushed.pending] {
            let stored = PendingAuthorization::from_json(pending.to_json().expose()).unwrap();
            for pending in [pending, stored] {
                let grant = pending
                    .receive(&back(&pending, "code=c&state=STATE"))
                    .unwrap();
                let body = |grant: Grant| {
                    let body = outgoing(client.token(grant).unwrap())
                        .request
                        .into_body()
                        .into_vec();
                    String::from_utf8(body).unwrap()
                };
                assert_eq!(values(&body(grant.clone()), "resource"), asked);
                // Whoever gives it once more by hand doesn't ask for it twice.
                let again = resources
                    .iter()
                    .try_fold(grant, |grant, uri| grant.resource(uri))
                    .unwrap();
                assert_eq!(values(&body(again), "resource"), asked);
            }
        }
    }
}
