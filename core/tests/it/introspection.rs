//! What an authorization server says of a token, and what a resource server says of itself.

use keybound_core::{
    Client, ClientAuth, Error, Introspection, InvalidResponseKind, ProtectedResource, Scope,
    Secret, TokenTypeHint, UnixTime,
};
use serde_json::{Value, json};

use crate::peer::{Peer, json_response, response, with_header};
use crate::world::{Answered, TOKEN_URL, World, answered, endpoint, outgoing};

const RESOURCE: &str = "https://rs.example/api";
const WELL_KNOWN: &str = "https://rs.example/.well-known/oauth-protected-resource/api";

fn client() -> Client {
    let auth = ClientAuth::basic("rs", Secret::new("a secret")).unwrap();
    Client::new(endpoint(TOKEN_URL), auth)
        .introspection_endpoint(endpoint("https://as.example/introspect"))
}

fn read(answer: &Value) -> Result<Introspection, Error> {
    match answered(
        client().introspect(Secret::new("t"), None).unwrap(),
        json_response(200, answer),
    )? {
        Answered::Done(introspection) => Ok(introspection),
        Answered::Again(_) => panic!("it is there"),
    }
}

#[test]
fn an_introspection_tells_what_the_token_is_worth_and_whose_key_it_needs() {
    let mut world = World::with(Peer::bound());
    let answer = json!({
        "active": true,
        "scope": "read write",
        "exp": 1_700_003_600,
        "sub": "alice",
        "aud": ["a", "b"],
        "cnf": { "jkt": "0ZcO" },
    });
    world.peer.answers.insert("/introspect", answer);
    // A client with a key proves it for tokens, not here.
    let client = client().dpop(world.key.public().clone());
    let operation = client
        .introspect(Secret::new("the-token"), Some(TokenTypeHint::AccessToken))
        .unwrap();
    let introspection = world.run(operation).unwrap();
    let params = &world.peer.requests[0].params;
    assert_eq!(
        (params["token"].as_str(), params["token_type_hint"].as_str()),
        ("the-token", "access_token")
    );
    assert!(world.peer.requests[0].headers.contains_key("authorization"));
    assert!(introspection.is_active());
    assert_eq!(
        introspection.scope(),
        Some(&Scope::new("read write").unwrap())
    );
    assert_eq!(
        introspection.expires_at(),
        Some(UnixTime::from_secs(1_700_003_600))
    );
    assert_eq!(
        (introspection.jkt(), introspection.text("sub")),
        (Some("0ZcO"), Some("alice"))
    );
    assert_eq!(introspection.list("aud").collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(
        format!("{introspection:?}"),
        "Introspection { active: true, .. }"
    );
}

#[test]
fn of_a_member_that_stands_twice_the_last_counts_even_where_it_says_nothing() {
    let body = r#"{"active":true,"sub":"alice","aud":null,"aud":["a"],"sub":null}"#;
    let operation = client().introspect(Secret::new("t"), None).unwrap();
    let Ok(Answered::Done(told)) = answered(operation, response(200, body)) else {
        panic!()
    };
    assert_eq!(
        (told.text("sub"), told.list("aud").collect::<Vec<_>>()),
        (None, vec!["a"])
    );
}

#[test]
fn a_comma_in_a_scope_is_part_of_it() {
    let told = read(&json!({ "active": true, "scope": "account:17,admin read" })).unwrap();
    assert_eq!(
        told.scope().unwrap().iter().collect::<Vec<_>>(),
        ["account:17,admin", "read"]
    );
}

#[test]
fn the_well_known_url_has_path_and_query_of_the_resource() {
    const ROOT: &str = "https://rs.example/.well-known/oauth-protected-resource";
    for (resource, rest) in [
        ("https://rs.example", ""),
        ("https://rs.example/", ""),
        ("https://rs.example/?k=1", "?k=1"),
        ("https://rs.example/api/", "/api/"),
        ("https://rs.example/api?k=a/", "/api?k=a/"),
    ] {
        let request = outgoing(ProtectedResource::discover(resource).unwrap()).request;
        assert_eq!(
            request.uri().to_string(),
            format!("{ROOT}{rest}"),
            "{resource}"
        );
    }
}

#[test]
fn an_answer_that_does_not_say_whether_the_token_is_active_is_none() {
    assert!(!read(&json!({ "active": false })).unwrap().is_active());
    let one =
        read(&json!({ "active": true, "aud": "only", "scope": ["a"], "exp": "17", "cnf": 7 }))
            .unwrap();
    assert_eq!(
        (one.list("aud").collect::<Vec<_>>(), one.jkt()),
        (vec!["only"], None)
    );
    assert_eq!(one.scope(), Some(&Scope::new("a").unwrap()));
    assert_eq!(one.expires_at(), Some(UnixTime::from_secs(17)));
    for (answer, why) in [
        (
            json!({ "active": "true" }),
            InvalidResponseKind::InvalidMember("active"),
        ),
        (
            json!({ "active": null }),
            InvalidResponseKind::InvalidMember("active"),
        ),
        (
            json!({ "active": 1 }),
            InvalidResponseKind::InvalidMember("active"),
        ),
        (json!({}), InvalidResponseKind::Missing("active")),
    ] {
        let Err(Error::Response(bad)) = read(&answer) else {
            panic!("{answer}")
        };
        assert_eq!(bad.kind(), &why, "{answer}");
    }
    assert!(matches!(
        read(&json!({ "error": "invalid_client" })),
        Err(Error::Server(_))
    ));
    let without = Client::new(endpoint(TOKEN_URL), ClientAuth::none("rs").unwrap());
    assert_eq!(
        without
            .introspect(Secret::new("t"), None)
            .map(drop)
            .unwrap_err()
            .argument(),
        "introspection_endpoint"
    );
}

fn document() -> Value {
    json!({
        "resource": RESOURCE,
        "authorization_servers": ["https://as.example", "http://127.0.0.1/", 7, "not a url"],
        "dpop_signing_alg_values_supported": ["ES384"],
        "dpop_bound_access_tokens_required": true,
    })
}

#[test]
fn a_resource_is_asked_where_its_refusal_says_or_at_its_well_known_url() {
    let head = |place: &str| {
        let challenge = format!("Bearer, DPoP algs=\"ES256\", resource_metadata=\"{place}\"");
        with_header(response(401, ""), "www-authenticate", &challenge)
    };
    let told = |place: &str, resource| {
        ProtectedResource::discover_from_challenge(head(place).headers(), resource)
    };
    let elsewhere = "https://rs.example/meta.json";
    for (operation, url) in [
        (ProtectedResource::discover(RESOURCE), WELL_KNOWN),
        (told(elsewhere, RESOURCE).unwrap(), elsewhere),
    ] {
        let mut world = World::with(Peer::bound());
        world.peer.documents.insert(url.into(), document());
        let resource = world.run(operation.unwrap()).unwrap();
        assert_eq!(world.peer.served, [url]);
        let servers: Vec<&str> = resource
            .authorization_servers()
            .map(|issuer| issuer.as_str())
            .collect();
        assert_eq!(servers, ["https://as.example"]);
        assert!(resource.flag("dpop_bound_access_tokens_required"));
        assert_eq!(resource.text("resource"), Some(RESOURCE));
        assert_eq!(
            resource
                .dpop_key(world.key.public())
                .unwrap_err()
                .argument(),
            "key"
        );
    }
    assert!(
        ProtectedResource::discover_from_challenge(response(401, "").headers(), RESOURCE).is_none()
    );
    for place in [
        "http://rs.example/meta",
        "http://127.0.0.1/meta",
        "file:///etc/passwd",
        "/meta",
        "",
    ] {
        assert_eq!(
            told(place, RESOURCE)
                .unwrap()
                .map(drop)
                .unwrap_err()
                .argument(),
            "url",
            "{place}"
        );
    }
    assert!(
        told("http://127.0.0.1/meta", "http://127.0.0.1/api")
            .unwrap()
            .is_ok()
    );
    for resource in ["http://rs.example", "https://rs.example/#x", "urn:api"] {
        assert!(ProtectedResource::discover(resource).is_err(), "{resource}");
    }
}

#[test]
fn metadata_of_another_resource_are_refused() {
    for other in [
        json!("https://rs.example/api/"),
        json!("https://evil.example"),
        json!(null),
    ] {
        let mut document = document();
        document["resource"] = other;
        let operation = ProtectedResource::discover(RESOURCE).unwrap();
        let Err(Error::Response(bad)) = answered(operation, json_response(200, &document)) else {
            panic!("{document}")
        };
        assert_eq!(bad.kind(), &InvalidResponseKind::ResourceMismatch);
    }
}
