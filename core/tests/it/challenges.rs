//! `WWW-Authenticate` by the grammar of RFC 9110 §11: what it allows, in every spelling, and what is made of the rest.

use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue};
use keybound_core::Challenge;
use proptest::prelude::*;

fn read(fields: &[impl AsRef<str>]) -> Vec<Challenge> {
    let mut headers = HeaderMap::new();
    for field in fields {
        headers.append(
            WWW_AUTHENTICATE,
            HeaderValue::from_bytes(field.as_ref().as_bytes()).unwrap(),
        );
    }
    Challenge::all(&headers)
}

/// A scheme, its token68, and some of its parameters.
type Expected<'a> = (&'a str, Option<&'a str>, &'a [(&'a str, Option<&'a str>)]);

#[track_caller]
fn are(field: &str, expected: &[Expected<'_>]) {
    let read = read(&[field]);
    assert_eq!(read.len(), expected.len(), "{field}: {read:?}");
    for (challenge, (scheme, token68, params)) in read.iter().zip(expected) {
        assert_eq!(
            (challenge.scheme(), challenge.token68()),
            (*scheme, *token68),
            "{field}"
        );
        for (name, value) in *params {
            assert_eq!(challenge.param(name), *value, "{name} in {field}");
        }
    }
}

#[test]
fn the_example_of_rfc_9110_section_11_6_1_is_two_challenges() {
    are(
        r#"Basic realm="simple", Newauth realm="apps", type=1, title="Login to \"apps\"""#,
        &[
            ("Basic", None, &[("realm", Some("simple")), ("type", None)]),
            (
                "Newauth",
                None,
                &[
                    ("realm", Some("apps")),
                    ("type", Some("1")),
                    ("title", Some("Login to \"apps\"")),
                ],
            ),
        ],
    );
}

#[test]
fn what_the_grammar_allows_is_read_as_it_is_meant() {
    // auth-scheme alone; case is kept, and doesn't count (§11.1).
    are("Negotiate", &[("Negotiate", None, &[])]);
    are(
        "dPoP ERROR=x",
        &[("dPoP", None, &[("error", Some("x")), ("Error", Some("x"))])],
    );
    assert!(read(&["dPoP"])[0].is("DPoP"));
    // Any number of fields is one list, and each may hold several (§5.3, §11.6.1).
    let fields = ["Basic realm=a", "Bearer, DPoP algs=\"ES256\""];
    let schemes: Vec<_> = read(&fields)
        .iter()
        .map(|challenge| challenge.scheme().to_owned())
        .collect();
    assert_eq!(schemes, ["Basic", "Bearer", "DPoP"]);
    // Empty elements of a list (§5.6.1.2), tabs for spaces, none behind a comma.
    are(
        ",, ,Basic\trealm=a ,\t, x=y,,",
        &[("Basic", None, &[("realm", Some("a")), ("x", Some("y"))])],
    );
    are(
        "A x=1,y=2,B z=3",
        &[
            ("A", None, &[("y", Some("2"))]),
            ("B", None, &[("z", Some("3"))]),
        ],
    );
    // BWS about the sign (§11.2).
    are(
        "A x \t = \t\"1\" , y\t=2",
        &[("A", None, &[("x", Some("1")), ("y", Some("2"))])],
    );
    // Quoted: commas, equals signs, schemes, nothing at all, pairs, and obs-text (§5.6.4).
    are(
        r#"A x="1, B y=2", z=3"#,
        &[(
            "A",
            None,
            &[("x", Some("1, B y=2")), ("y", None), ("z", Some("3"))],
        )],
    );
    are(
        r#"A x="", y="\"", z="\\""#,
        &[(
            "A",
            None,
            &[("x", Some("")), ("y", Some("\"")), ("z", Some("\\"))],
        )],
    );
    are(r#"A x="\a\,""#, &[("A", None, &[("x", Some("a,"))])]);
    are("A x=\"größer\"", &[("A", None, &[("x", Some("größer"))])]);
    // Every character of a token (§5.6.2), in each place for one.
    are(
        "!#$%&'*+-.^_`|~09aZ !#$%&'*+-.^_`|~=~",
        &[(
            "!#$%&'*+-.^_`|~09aZ",
            None,
            &[("!#$%&'*+-.^_`|~", Some("~"))],
        )],
    );
    // token68 (§11.2), with its characters and its padding, also where it looks like a name.
    are("A aZ09-._~+/==", &[("A", Some("aZ09-._~+/=="), &[])]);
    are("A b", &[("A", Some("b"), &[])]);
    are(
        "A b, B c=d",
        &[("A", Some("b"), &[]), ("B", None, &[("c", Some("d"))])],
    );
    are("A   b=", &[("A", Some("b="), &[])]);
}

#[test]
fn what_the_grammar_forbids_hides_nothing_that_is_sound_beside_it() {
    // A parameter that stands twice (§11.2 forbids it): the first, so that nobody behind it can change it.
    are("A x=1, x=2, X=3", &[("A", None, &[("x", Some("1"))])]);
    // Single quotes quote nothing; a semicolon is no comma; unquoted values may have what a token may not.
    are(
        "A x='1, y=2",
        &[("A", None, &[("x", Some("'1")), ("y", Some("2"))])],
    );
    are(
        "A x=1;y=2, z=3",
        &[(
            "A",
            None,
            &[("x", Some("1;y=2")), ("y", None), ("z", Some("3"))],
        )],
    );
    are(
        "A x=https://rs.example/?a=b, z=3",
        &[("A", None, &[("x", Some("https://rs.example/?a=b"))])],
    );
    // What begins with no token is passed over, up to the next comma that isn't quoted.
    are("\"x, y\" z, A x=1", &[("A", None, &[("x", Some("1"))])]);
    are(
        "(), A x=1, @y=2, z=3",
        &[(
            "A",
            None,
            &[("x", Some("1")), ("y", None), ("z", Some("3"))],
        )],
    );
    // No scheme yet: whose parameter would it be?
    are(
        "x=1, A y=2",
        &[("A", None, &[("x", None), ("y", Some("2"))])],
    );
    // Quotes without an end take the rest, and of this field alone.
    are("A x=\"1, B y=2", &[("A", None, &[("x", Some("1, B y=2"))])]);
    are("A x=\"1\\", &[("A", None, &[("x", Some("1"))])]);
    assert_eq!(read(&["A x=\"1", "B y=2"]).len(), 2);
    for nothing in ["", " ", ",", "=", "\"", "\\", "\u{e9}"] {
        are(nothing, &[]);
    }
}

#[derive(Clone, Debug)]
struct Written {
    scheme: String,
    token68: Option<String>,
    params: Vec<(String, String)>,
    text: String,
}

/// A challenge, and one of the ways to write it.
fn challenge() -> impl Strategy<Value = Written> {
    let token = "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,8}";
    let text = "[ -~\t\u{e4}\u{20ac}]{0,10}";
    let param =
        (token, text, "[ \t]{0,2}", any::<bool>()).prop_map(|(name, value, space, all_quoted)| {
            let is_token = !value.is_empty()
                && value
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
            let quoted: String = value
                .chars()
                .flat_map(|c| ['\\', c].into_iter().skip(usize::from(!"\"\\".contains(c))))
                .collect();
            let spelled = if is_token && !all_quoted {
                value.clone()
            } else {
                format!("\"{quoted}\"")
            };
            (
                (name.clone(), value),
                format!("{name}{space}={space}{spelled}"),
            )
        });
    let params = (
        proptest::collection::vec(param, 0..4),
        "[ \t]{0,1},[ \t,]{0,2}",
    );
    let params = params.prop_map(|(all, comma)| {
        let (params, texts): (Vec<_>, Vec<_>) = all.into_iter().unzip();
        (None, params, texts.join(&comma))
    });
    let token68 =
        "[A-Za-z0-9._~+/-]{1,8}={0,2}".prop_map(|token| (Some(token.clone()), Vec::new(), token));
    (
        token,
        prop_oneof![4 => params.boxed(), 1 => token68.boxed()],
    )
        .prop_map(|(scheme, (token68, params, rest))| {
            let text = if rest.is_empty() {
                scheme.clone()
            } else {
                format!("{scheme} {rest}")
            };
            Written {
                scheme,
                token68,
                params,
                text,
            }
        })
}

proptest! {
    #[test]
    fn whatever_is_written_by_the_grammar_is_read_in_however_many_fields(
        written in proptest::collection::vec(challenge(), 0..4),
        one_field: bool,
    ) {
        let texts: Vec<String> = written.iter().map(|challenge| challenge.text.clone()).collect();
        let read = if one_field { read(&[texts.join(", ")]) } else { read(&texts) };
        prop_assert_eq!(read.len(), written.len(), "{:?}", texts);
        for (read, written) in read.iter().zip(&written) {
            prop_assert_eq!(read.scheme(), &written.scheme);
            prop_assert_eq!(read.token68(), written.token68.as_deref());
            for (name, _) in &written.params {
                let first = written.params.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
                prop_assert_eq!(read.param(name), first.map(|(_, value)| value.as_str()));
            }
        }
    }
}
