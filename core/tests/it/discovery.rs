//! What an authorization server says of itself, and what is made of it.

use std::time::Duration;

use http::Response;
use keybound_core::jose::{Algorithm, SigningKey};
use keybound_core::{
    ClientAuth, Endpoint, Error, Grant, InvalidInput, InvalidResponseKind, Issuer, Metadata,
    PendingAuthorization, RedirectError, Retry, Secret, Sent,
};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::peer::{ISSUER, Peer, ScriptedResponse, json_response, response, with_header};
use crate::world::{World, answered};

const OAUTH: &str = "https://as.example/.well-known/oauth-authorization-server";
const OPENID: &str = "https://as.example/.well-known/openid-configuration";

fn document() -> Value {
    json!({
        "issuer": ISSUER,
        "token_endpoint": "https://as.example/token",
        "authorization_endpoint": "https://as.example/authorize",
        "revocation_endpoint": "https://as.example/revoke",
        "dpop_signing_alg_values_supported": ["ES256", "EdDSA", "ES256K"],
        "authorization_response_iss_parameter_supported": true,
        "service_documentation": "http://as.example/docs",
        "jwks_uri": null,
    })
}

fn with(member: &str, value: Value) -> Value {
    let mut document = document();
    document[member] = value;
    document
}

fn issuer(url: &str) -> Issuer {
    Issuer::https(url)
        .or_else(|_| Issuer::loopback_http(url))
        .unwrap()
}

fn discover(world: &mut World, url: &str) -> Result<Metadata, Error> {
    world.run(issuer(url).discover()?)
}

fn read(url: &str, document: &Value) -> Result<Metadata, Error> {
    discover(
        &mut World::scripted(Peer::bound(), [json_response(200, document)]),
        url,
    )
}

fn why(result: Result<Metadata, Error>) -> InvalidResponseKind {
    match result {
        Err(Error::Response(bad)) => bad.kind().clone(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_client_that_was_discovered_gets_bound_tokens_and_knows_its_issuer() {
    let mut world = World::with(Peer::bound());
    world.peer.documents.insert(OAUTH.into(), document());
    let metadata = discover(&mut world, ISSUER).unwrap();
    assert_eq!(world.peer.served, [OAUTH]);
    assert_eq!(metadata.issuer().as_str(), ISSUER);
    let key = metadata.dpop_key(world.key.public()).unwrap();
    let client = metadata
        .client(ClientAuth::none("app").unwrap())
        .unwrap()
        .dpop(key);

    let request = client
        .authorization("https://app.example/cb")
        .unwrap()
        .build([1; 32])
        .unwrap();
    let redirect = world.peer.authorizations.agree(&request.url);
    let nameless = redirect.split("&iss=").next().unwrap();
    assert_eq!(
        request.pending.receive(nameless).map(drop).unwrap_err(),
        RedirectError::IssuerMismatch
    );
    let token = world
        .run(
            client
                .token(request.pending.receive(&redirect).unwrap())
                .unwrap(),
        )
        .unwrap();
    world
        .run(client.revoke(token.access_token().clone(), None).unwrap())
        .unwrap();
}

#[test]
fn metadata_are_looked_for_where_both_standards_have_them() {
    for (issuer, urls) in [
        (ISSUER, vec![OAUTH, OPENID]),
        ("https://as.example/", vec![OAUTH, OPENID]),
        (
            "https://as.example:8443/t/1",
            vec![
                "https://as.example:8443/.well-known/oauth-authorization-server/t/1",
                "https://as.example:8443/t/1/.well-known/openid-configuration",
                "https://as.example:8443/.well-known/openid-configuration/t/1",
            ],
        ),
        (
            "http://127.0.0.1:9000/t/",
            vec![
                "http://127.0.0.1:9000/.well-known/oauth-authorization-server/t",
                "http://127.0.0.1:9000/t/.well-known/openid-configuration",
                "http://127.0.0.1:9000/.well-known/openid-configuration/t",
            ],
        ),
    ] {
        let document = json!({ "issuer": issuer, "token_endpoint": "https://as.example/token" });
        for at in 0..urls.len() {
            let mut world = World::with(Peer::bound());
            world
                .peer
                .documents
                .insert(urls[at].into(), document.clone());
            assert!(discover(&mut world, issuer).is_ok(), "{issuer} {at}");
            assert_eq!(world.peer.served, urls[..=at]);
        }
        let mut world = World::with(Peer::bound());
        let Err(Error::Server(refusal)) = discover(&mut world, issuer) else {
            panic!("there is nothing")
        };
        assert_eq!(
            (refusal.status().as_u16(), world.peer.served),
            (404, urls.into_iter().map(str::to_owned).collect())
        );
    }
}

#[test]
fn only_a_refusal_of_the_request_means_that_nothing_is_there() {
    for (status, served) in [
        (400, 2),
        (401, 2),
        (403, 2),
        (404, 2),
        (408, 1),
        (410, 2),
        (425, 1),
        (500, 1),
        (501, 1),
    ] {
        let mut world = World::scripted(Peer::bound(), [response(status, "")]);
        world.peer.documents.insert(OPENID.into(), document());
        assert_eq!(
            discover(&mut world, ISSUER).is_ok(),
            served == 2,
            "{status}"
        );
        assert_eq!(world.peer.served.len(), served, "{status}");
    }
}

#[test]
fn discovery_is_retried_at_the_same_url_after_a_transient_failure() {
    let busy = with_header(response(429, ""), "retry-after", "2");
    let mut world = World::scripted(Peer::bound(), [busy, response(503, "")]);
    world
        .peer
        .script
        .push_back(ScriptedResponse::NoResponse(Sent::Maybe));
    world.peer.documents.insert(OAUTH.into(), document());
    discover(&mut world, ISSUER).unwrap();
    assert_eq!(world.peer.served, [OAUTH; 4]);
    assert_eq!(world.waits[0], Duration::from_secs(2));

    let mut world = World::scripted(
        Peer::bound(),
        [response(503, ""), response(404, ""), response(503, "")],
    );
    world.peer.documents.insert(OPENID.into(), document());
    discover(&mut world, ISSUER).unwrap();
    assert_eq!(world.peer.served, [OAUTH, OAUTH, OPENID, OPENID]);

    let mut world = World::scripted(Peer::bound(), (0..9).map(|_| response(503, "")));
    assert_eq!(
        discover(&mut world, ISSUER).unwrap_err().retry(),
        Retry::Later(None)
    );
    assert_eq!(world.peer.served.len(), 4);
}

#[test]
fn the_issuer_must_be_the_one_that_was_asked_for_to_the_letter() {
    for other in [
        "https://as.example/",
        "https://AS.example",
        "https://as.example:443",
        "https://evil.example",
        "",
    ] {
        assert_eq!(
            why(read(ISSUER, &with("issuer", json!(other)))),
            InvalidResponseKind::IssuerMismatch,
            "{other}"
        );
    }
    for odd in [json!(null), json!(7), json!([ISSUER])] {
        assert_eq!(
            why(read(ISSUER, &with("issuer", odd))),
            InvalidResponseKind::IssuerMismatch
        );
    }
    assert_eq!(
        why(read(
            ISSUER,
            &json!({ "token_endpoint": "https://as.example/token" })
        )),
        InvalidResponseKind::Missing("issuer")
    );
    assert_eq!(
        why(read("https://AS.example", &document())),
        InvalidResponseKind::IssuerMismatch
    );
    assert!(
        read(
            "https://AS.example",
            &with("issuer", json!("https://AS.example"))
        )
        .is_ok()
    );
}

#[test]
fn no_redirection_is_followed_and_what_is_no_object_is_refused() {
    for status in [301, 302, 307, 308] {
        let elsewhere = || with_header(response(status, ""), "location", "http://169.254.169.254/");
        let mut world = World::scripted(Peer::bound(), [elsewhere(), elsewhere()]);
        assert_eq!(
            why(discover(&mut world, ISSUER)),
            InvalidResponseKind::Redirect
        );
        assert_eq!(world.peer.served, [OAUTH, OPENID]);
    }
    for (body, is_json) in [
        ("", false),
        ("<html>", false),
        ("[]", true),
        ("\"x\"", true),
        ("{\"issuer\":", false),
        ("{}x", false),
    ] {
        let mut world = World::scripted(Peer::bound(), [response(200, body), response(200, body)]);
        match why(discover(&mut world, ISSUER)) {
            InvalidResponseKind::NotJson { .. } => assert!(!is_json, "{body}"),
            why => assert_eq!(
                (why, is_json),
                (InvalidResponseKind::NotAnObject, true),
                "{body}"
            ),
        }
    }
}

#[test]
fn a_page_for_everything_and_a_login_before_everything_are_no_metadata() {
    for first in [
        response(200, "<!doctype html>"),
        with_header(response(302, ""), "location", "/login"),
    ] {
        let mut world = World::scripted(Peer::bound(), [first]);
        world.peer.documents.insert(OPENID.into(), document());
        assert!(discover(&mut world, ISSUER).is_ok());
        assert_eq!(world.peer.served, [OAUTH, OPENID]);
    }
    // What another issuer says, or what nobody can mean, is not passed over.
    for first in [
        with("issuer", json!("https://evil.example")),
        with("token_endpoint", json!(7)),
    ] {
        let mut world = World::scripted(Peer::bound(), [json_response(200, &first)]);
        world.peer.documents.insert(OPENID.into(), document());
        assert!(discover(&mut world, ISSUER).is_err());
        assert_eq!(world.peer.served, [OAUTH]);
    }
}

#[test]
fn an_endpoint_is_https_or_on_this_machine_if_the_issuer_is() {
    let local = "http://127.0.0.1:9000";
    for (url, from_outside, from_here) in [
        ("https://elsewhere.example/token", true, true),
        ("http://127.0.0.1:9000/token", false, true),
        ("http://localhost/token", false, true),
        ("http://as.example/token", false, false),
        ("http://169.254.169.254/latest", false, false),
        ("https://user:pw@as.example/token", false, false),
        ("file:///etc/passwd", false, false),
        ("/token", false, false),
        ("", false, false),
    ] {
        for member in [
            "token_endpoint",
            "authorization_endpoint",
            "jwks_uri",
            "introspection_endpoint",
        ] {
            let from_outside_read = read(ISSUER, &with(member, json!(url)));
            let mut document = with(member, json!(url));
            document["issuer"] = json!(local);
            for (read, is_taken) in [
                (from_outside_read, from_outside),
                (read(local, &document), from_here),
            ] {
                match read {
                    Ok(metadata) => {
                        assert!(is_taken, "{member} {url}");
                        assert_eq!(
                            metadata
                                .endpoint(member)
                                .map(Endpoint::to_string)
                                .as_deref(),
                            Some(url)
                        );
                    }
                    Err(error) => {
                        assert!(!is_taken, "{member} {url}");
                        assert_eq!(why(Err(error)), InvalidResponseKind::InvalidMember(member));
                    }
                }
            }
        }
    }
    assert_eq!(
        why(read(
            ISSUER,
            &with("token_endpoint", json!(["https://as.example/"]))
        )),
        InvalidResponseKind::InvalidMember("token_endpoint")
    );
}

#[test]
fn the_key_is_held_against_the_algorithms_that_the_server_takes() {
    let key = |algorithm| SigningKey::generate(algorithm).unwrap();
    for (algs, algorithm, named) in [
        (
            Some(&["ES256"][..]),
            Algorithm::Es256,
            Some(Algorithm::Es256),
        ),
        (
            Some(&["RS256", "ES256"]),
            Algorithm::Es256,
            Some(Algorithm::Es256),
        ),
        (Some(&["EdDSA"]), Algorithm::Ed25519, Some(Algorithm::EdDsa)),
        (
            Some(&["Ed25519"]),
            Algorithm::EdDsa,
            Some(Algorithm::Ed25519),
        ),
        (
            Some(&["Ed25519", "EdDSA"]),
            Algorithm::EdDsa,
            Some(Algorithm::EdDsa),
        ),
        (Some(&["ES256"]), Algorithm::EdDsa, None),
        (Some(&["es256", "ES256K", "none"]), Algorithm::Es256, None),
        (Some(&[]), Algorithm::Es256, None),
        (None, Algorithm::Es384, Some(Algorithm::Es384)),
    ] {
        let algs = algs.map_or(Value::Null, |algs| json!(algs));
        let metadata = read(
            ISSUER,
            &with("dpop_signing_alg_values_supported", algs.clone()),
        )
        .unwrap();
        match (metadata.dpop_key(key(algorithm).public()), named) {
            (Ok(key), Some(named)) => assert_eq!(key.algorithm(), named, "{algs}"),
            (Err(invalid), None) => assert_eq!(invalid.argument(), "key"),
            (other, _) => panic!("{algs}: {other:?}"),
        }
    }
    let metadata = read(ISSUER, &document()).unwrap();
    assert_eq!(
        metadata.dpop_algorithms(),
        Some(vec![Algorithm::Es256, Algorithm::EdDsa])
    );
    let silent = read(ISSUER, &json!({ "issuer": ISSUER })).unwrap();
    assert_eq!(silent.dpop_algorithms(), None);
}

#[test]
fn metadata_without_a_method_are_read_by_name() {
    let document = with(
        "token_endpoint_auth_methods_supported",
        json!(["private_key_jwt", 7, "none"]),
    );
    let metadata = read(ISSUER, &document).unwrap();
    let methods = metadata
        .list("token_endpoint_auth_methods_supported")
        .map(Iterator::collect::<Vec<_>>);
    assert_eq!(methods, Some(vec!["private_key_jwt", "none"]));
    assert!(metadata.list("issuer").is_none() && metadata.list("absent").is_none());
    assert_eq!(
        metadata.text("service_documentation"),
        Some("http://as.example/docs")
    );
    assert_eq!(
        (
            metadata.endpoint("jwks_uri"),
            metadata.endpoint("service_documentation")
        ),
        (None, None)
    );
    assert!(
        metadata.flag("authorization_response_iss_parameter_supported") && !metadata.flag("absent")
    );
    assert!(!format!("{metadata:?}").contains("private_key_jwt"));
}

#[test]
fn a_server_without_a_token_endpoint_has_no_clients() {
    let metadata = read(ISSUER, &json!({ "issuer": ISSUER })).unwrap();
    let invalid = metadata
        .client(ClientAuth::none("app").unwrap())
        .map(drop)
        .unwrap_err();
    assert_eq!(invalid, InvalidInput::MissingEndpoint("token_endpoint"));
    let metadata = read(ISSUER, &with("revocation_endpoint", json!(null))).unwrap();
    let client = metadata.client(ClientAuth::none("app").unwrap()).unwrap();
    assert_eq!(
        client
            .revoke(Secret::new("t"), None)
            .map(drop)
            .unwrap_err()
            .argument(),
        "revocation_endpoint"
    );
    assert!(client.token(Grant::client_credentials()).is_ok());
}

#[test]
fn a_nonce_that_comes_with_a_document_is_not_taken_for_the_servers() {
    let nonce = with_header(
        json_response(200, &document()),
        "dpop-nonce",
        "from-a-cache",
    );
    let mut world = World::scripted(Peer::bound(), [nonce]);
    discover(&mut world, ISSUER).unwrap();
    world.token(Grant::client_credentials()).unwrap();
    assert_eq!(world.nonces_seen(), [None]);
}

proptest! {
    #[test]
    fn no_answer_panics(body: Vec<u8>, text in "\\PC{0,20}") {
        for body in [body, with("token_endpoint", json!(text)).to_string().into_bytes()] {
            let _ = answered(issuer(ISSUER).discover().unwrap(), Response::new(body));
        }
        let _ = PendingAuthorization::from_json(&text);
    }
}
