//! Documents and refusals that would have us send requests to where their authors can't (RFC 9728 §7.7): server-side request
//! forgery.

use keybound_core::{
    Error, InvalidInput, InvalidResponseKind, Issuer, Metadata, ProtectedResource,
};
use serde_json::{Value, json};

use crate::peer::{json_response, response, with_header};
use crate::world::{Answered, answered};

const INTERNAL: [&str; 12] = [
    "https://127.0.0.1/x",
    "https://localhost/x",
    "https://db.localhost./x",
    "https://10.1.2.3:8443/x",
    "https://172.16.0.1/x",
    "https://192.168.0.1/x",
    "https://169.254.169.254/latest/meta-data/",
    "https://[::1]/x",
    "https://[::ffff:169.254.169.254]/x",
    "https://[fd00:ec2::254]/x",
    // In the forms that resolvers take for addresses.
    "https://2130706433/x",
    "https://0x7f.1/x",
];

fn metadata(issuer: &str, members: &[(&str, &str)]) -> Result<Metadata, InvalidResponseKind> {
    let mut document = json!({ "issuer": issuer });
    for (name, url) in members {
        document[*name] = json!(url);
    }
    let issuer = Issuer::https(issuer)
        .or_else(|_| Issuer::loopback_http(issuer))
        .unwrap();
    match answered(issuer.discover().unwrap(), json_response(200, &document)) {
        Ok(Answered::Done(metadata)) => Ok(metadata),
        Err(Error::Response(bad)) => Err(bad.kind().clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_metadata_from_outside_name_an_internal_address() {
    for url in INTERNAL {
        for member in [
            "token_endpoint",
            "jwks_uri",
            "introspection_endpoint",
            "authorization_endpoint",
        ] {
            let refused = metadata("https://as.example", &[(member, url)]);
            assert_eq!(
                refused.map(drop),
                Err(InvalidResponseKind::InvalidMember(member)),
                "{url}"
            );
        }
    }
    // A public address is as good as a name.
    assert!(
        metadata(
            "https://as.example",
            &[("token_endpoint", "https://93.184.216.34/x")]
        )
        .is_ok()
    );
}

#[test]
fn an_issuer_on_an_internal_network_may_name_its_neighbours() {
    for issuer in [
        "https://10.0.0.1",
        "https://[fd00::1]",
        "https://localhost",
        "http://127.0.0.1:8080",
    ] {
        assert!(
            metadata(issuer, &[("token_endpoint", "https://10.0.0.2/token")]).is_ok(),
            "{issuer}"
        );
    }
    // But not by http, unless it is on this machine by itself.
    assert!(
        metadata(
            "https://10.0.0.1",
            &[("token_endpoint", "http://127.0.0.1/token")]
        )
        .is_err()
    );
}

#[test]
fn a_resource_names_no_authorization_server_at_an_internal_address() {
    const RESOURCE: &str = "https://rs.example/api";
    let servers: Vec<Value> = INTERNAL
        .iter()
        .map(|url| json!(url))
        .chain([json!("https://as.example")])
        .collect();
    let document = json!({ "resource": RESOURCE, "authorization_servers": servers });
    let operation = ProtectedResource::discover(RESOURCE).unwrap();
    let Ok(Answered::Done(resource)) = answered(operation, json_response(200, &document)) else {
        panic!()
    };
    let servers: Vec<&str> = resource
        .authorization_servers()
        .map(Issuer::as_str)
        .collect();
    assert_eq!(servers, ["https://as.example"]);
}

#[test]
fn a_refusal_sends_nobody_to_an_internal_address_for_metadata() {
    let told = |place: &str, resource: &str| -> Result<(), InvalidInput> {
        let challenge = format!("DPoP resource_metadata=\"{place}\"");
        let refusal = with_header(response(401, ""), "www-authenticate", &challenge);
        ProtectedResource::discover_from_challenge(refusal.headers(), resource)
            .unwrap()
            .map(drop)
    };
    for (place, resource) in [
        ("https://RS.example:443/meta", "https://rs.example/api"),
        ("https://sub.rs.example/meta", "https://rs.example/api"),
        ("https://metadata.example/rs", "https://rs.example/api"),
        ("https://10.0.0.1/meta", "https://10.0.0.1/api"),
        ("https://10.0.0.2/meta", "https://10.0.0.1/api"),
        ("http://127.0.0.1:82/meta", "http://127.0.0.1:81/api"),
    ] {
        assert!(told(place, resource).is_ok(), "{place}");
    }
    for place in INTERNAL.into_iter().chain([
        "https://rs.example@metadata.example/rs",
        "http://rs.example/meta",
        "http://127.0.0.1/meta",
        "/meta",
    ]) {
        assert!(told(place, "https://rs.example/api").is_err(), "{place}");
    }
}
