//! URLs, read by us and by the `url` crate, which does what browsers do (WHATWG). They agree, or the difference has a name.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keybound_core::dpop::{ProofError, ProofVerifier};
use keybound_core::{Endpoint, InvalidInput};
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::json;
use url::{Host, Url};

use crate::world::START;

/// Where we take a URL and leave what a browser would rewrite. In each case the server gets what its operator wrote, and the
/// proof names just that.
const DIFFERENCES: [(&str, Differs); 4] = [
    ("dot segments", |url| {
        url.path().split('/').any(is_dot_segment)
    }),
    // No proof names it.
    ("query", |url| {
        url.query()
            .is_some_and(|query| query.contains('\'') || !query.is_ascii())
    }),
    ("IPv6 spelling", |url| {
        url.host().is_some_and(|host| host.starts_with('['))
    }),
    // What is no Punycode is no name in DNS either.
    ("Punycode", |url| {
        url.host()
            .is_some_and(|host| host.split('.').any(|label| label.starts_with("xn--")))
    }),
];

type Differs = fn(&http::Uri) -> bool;

fn is_dot_segment(segment: &str) -> bool {
    matches!(
        segment.to_ascii_lowercase().replace("%2e", ".").as_str(),
        "." | ".."
    )
}

#[derive(Deserialize)]
struct Row {
    url: String,
    endpoint: Option<String>,
    whatwg: Option<String>,
    /// A rule that we hold and browsers don't, or one of the differences above.
    why: Option<String>,
}

/// Also read by `adapter-ureq/tests/interop/urls.test.mjs`, in Node.
fn table() -> Vec<Row> {
    serde_json::from_str(include_str!("../vectors/urls.json")).unwrap()
}

fn endpoint(url: &str) -> Result<Endpoint, InvalidInput> {
    Endpoint::https(url).or_else(|invalid| Endpoint::loopback_http(url).map_err(|_| invalid))
}

#[test]
fn listed_urls_are_read_as_the_table_says_and_each_difference_is_named() {
    let mut named = BTreeSet::new();
    for Row {
        url,
        endpoint: expected,
        whatwg,
        why,
    } in table()
    {
        assert_eq!(
            Url::parse(&url).ok().map(String::from),
            whatwg,
            "the url crate on {url:?}"
        );
        let ours = endpoint(&url);
        if let Some(uri) = url.parse().ok().filter(|_| !url.contains('#')) {
            let of_a_request = Endpoint::from_uri(&uri).map(|endpoint| endpoint.to_string());
            assert_eq!(of_a_request.ok(), expected, "{url:?}, as a request has it");
        }
        match &ours {
            Ok(ours) => {
                assert_eq!(Some(ours.to_string()), expected, "{url:?}");
                let difference = DIFFERENCES
                    .iter()
                    .find(|(name, _)| Some(*name) == why.as_deref());
                assert_eq!(difference.is_some(), expected != whatwg, "{url:?}: {why:?}");
                assert!(
                    difference.is_none_or(|(_, differs)| differs(ours.uri())),
                    "{url:?}: {why:?}"
                );
                named.extend(difference.map(|(name, _)| *name));
            }
            Err(invalid) => assert_eq!(
                (None, Some(invalid.rule())),
                (expected, why.as_deref()),
                "{url:?}"
            ),
        }
    }
    assert_eq!(
        named,
        DIFFERENCES.map(|(name, _)| name).into(),
        "each difference has an example"
    );
}

/// Texts like URLs, with what has deceived parsers: signs in ports, numbers for hosts, brackets, backslashes, escapes.
fn urls() -> impl Strategy<Value = String> {
    let host = prop_oneof![
        "[a-zA-Z0-9._~!$&'()*+,;=-]{1,12}",
        "(0x)?[0-9a-f]{1,8}(\\.(0x)?[0-9]{1,3}){0,4}\\.?",
        "[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}",
        "\\[[0-9a-fA-F:.]{2,12}\\][a-z]{0,1}",
        "(localhost|LOCALHOST|\\[::1\\]|127\\.0\\.0\\.1|xn--[a-z0-9-]{1,6})\\.?",
        "\\PC{1,8}",
    ];
    let port = prop_oneof![Just(String::new()), ":(|0{0,2}443|80|[+-]?[0-9]{1,6})"];
    let path = prop_oneof![
        "(/[a-zA-Z0-9._~!$&'()*+,;=:@-]{0,6}){0,4}",
        "(/(\\.|\\.\\.|%2e|%2E\\.|a|b){0,1}){1,5}",
        "(/[a-zA-Z0-9%./\\\\\"<>\\[\\]{}|^`é \\t-]{0,6}){0,3}",
    ];
    let query = prop_oneof![
        Just(String::new()),
        "\\?[a-zA-Z0-9._~!$&'()*+,;=:@/?%\"<>`{}é-]{0,12}"
    ];
    let scheme = prop_oneof![4 => Just("https://"), 1 => Just("http://"), 1 => Just("HTTPS://"), 1 => Just("https:/")];
    (
        scheme,
        prop_oneof![8 => Just(""), 1 => Just("me@"), 1 => Just("@")],
        host,
        port,
        path,
        query,
    )
        .prop_map(|(scheme, user, host, port, path, query)| {
            format!("{scheme}{user}{host}{port}{path}{query}")
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// So no URL exists that is checked as one server's here and goes to another by somebody else's reading.
    #[test]
    fn whatever_we_take_names_the_same_server_and_resource_to_a_browser(url in urls()) {
        let Ok(ours) = endpoint(&url) else { return Ok(()) };
        let Ok(theirs) = Url::parse(&url) else {
            prop_assert!(is_named("Punycode", &ours), "{} is no URL to a browser", url);
            return Ok(());
        };
        let uri = ours.uri();
        prop_assert_eq!(uri.scheme_str(), Some(theirs.scheme()));
        prop_assert_eq!(uri.port_u16(), theirs.port());
        prop_assert_eq!(uri.host().map(in_browsers_spelling), theirs.host_str().map(str::to_owned));
        if !is_named("dot segments", &ours) {
            prop_assert_eq!(uri.path(), theirs.path());
        }
        if !is_named("query", &ours) {
            prop_assert_eq!(uri.query(), theirs.query());
        }
        prop_assert!(theirs.username().is_empty() && theirs.password().is_none() && theirs.fragment().is_none());
    }

    #[test]
    fn plain_http_goes_nowhere_that_a_browser_takes_for_another_machine(url in urls()) {
        if let (Ok(_), Ok(theirs)) = (Endpoint::loopback_http(&url), Url::parse(&url)) {
            let is_here = match theirs.host() {
                Some(Host::Domain(name)) => name == "localhost",
                Some(Host::Ipv4(address)) => address.is_loopback(),
                Some(Host::Ipv6(address)) => address.is_loopback(),
                None => false,
            };
            prop_assert!(is_here, "{} is not this machine", url);
        }
    }

    /// RFC 3986 §6.2.2.2 has one normalisation that browsers don't make: `%7e` is `~`.
    #[test]
    fn two_urls_are_one_to_a_proof_where_they_are_one_to_a_browser_but_for_escapes(one in urls(), other in urls()) {
        for other in [other, respelled(&one)] {
            let (Ok(a), Ok(b)) = (Url::parse(&one), Url::parse(&other)) else { continue };
            if endpoint(&one).is_err() || endpoint(&other).is_err() || one.contains('[') {
                continue;
            }
            let named = |url: &Url| (url.origin(), url.path_segments().map(|all| all.map(unescaped).collect::<Vec<_>>()));
            prop_assert_eq!(is_proof_for(&one, &other), named(&a) == named(&b), "{} {}", one, other);
        }
    }
}

fn is_named(difference: &str, endpoint: &Endpoint) -> bool {
    DIFFERENCES
        .iter()
        .any(|(name, differs)| *name == difference && differs(endpoint.uri()))
}

fn in_browsers_spelling(host: &str) -> String {
    match host.trim_matches(['[', ']']).parse::<std::net::Ipv6Addr>() {
        Ok(address) => Host::<&str>::Ipv6(address).to_string(),
        Err(_) => host.to_owned(),
    }
}

/// Another spelling of the same URL: letters of the path as escapes, the scheme in capitals, a default port, dots.
fn respelled(url: &str) -> String {
    let Some((start, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let (host, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let port = if start.eq_ignore_ascii_case("https") && !host.contains(':') {
        ":443"
    } else {
        ""
    };
    let path = if path.starts_with('/') {
        format!("/./b/..{path}")
    } else {
        format!("/{path}")
    };
    format!(
        "{}://{}{port}{}",
        start.to_uppercase(),
        host.to_uppercase(),
        path.replace('a', "%61")
    )
}

fn unescaped(segment: &str) -> Vec<u8> {
    percent_encoding::percent_decode_str(segment).collect()
}

/// Whether a policy for one URL takes the `htu` of another. The signature is of no account here.
fn is_proof_for(url: &str, htu: &str) -> bool {
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let proof = format!(
        "{}.{}.AA",
        part(json!({ "typ": "dpop+jwt" })),
        part(json!({ "htu": htu }))
    );
    let inspection = ProofVerifier::default()
        .url(url)
        .unwrap()
        .verify(&proof, START);
    !inspection
        .problems()
        .iter()
        .any(|problem| matches!(problem, ProofError::HtuMismatch | ProofError::HtuMissing))
}

#[test]
fn a_proof_for_a_listed_url_is_one_for_its_spelling_in_a_browser() {
    for row in table() {
        if let (Some(ours), Some(theirs)) = (row.endpoint, row.whatwg) {
            if row.why.as_deref() != Some("IPv6 spelling") {
                assert!(is_proof_for(&ours, &theirs), "{ours} {theirs}");
            }
        }
    }
}
