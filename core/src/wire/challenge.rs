//! `WWW-Authenticate` (RFC 9110 §11.6.1). A response can have several fields, each with several
//! challenges.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// A challenge: a scheme with parameters or a token68.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Challenge {
    scheme: String,
    token68: Option<String>,
    params: Vec<(String, String)>,
}

impl Challenge {
    /// Returns all challenges of a response, in order. Malformed parts are skipped.
    pub fn all(headers: &HeaderMap) -> Vec<Self> {
        let mut challenges = Vec::new();
        for field in headers.get_all(WWW_AUTHENTICATE) {
            let text = String::from_utf8_lossy(field.as_bytes());
            Reader { rest: &text }.read_into(&mut challenges);
        }
        challenges
    }

    /// Returns the scheme, in the case that the server used.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// Returns whether the challenge has this scheme, ignoring case.
    pub fn is(&self, scheme: &str) -> bool {
        self.scheme.eq_ignore_ascii_case(scheme)
    }

    /// Returns the unquoted value of a parameter. The case of its name is ignored.
    pub fn param(&self, name: &str) -> Option<&str> {
        let mut params = self.params.iter();
        let (_, value) = params.find(|(known, _)| known.eq_ignore_ascii_case(name))?;
        Some(value)
    }

    /// Returns the token68 (RFC 9110 §11.2) of a challenge that has one instead of parameters, or
    /// `None`.
    pub fn token68(&self) -> Option<&str> {
        self.token68.as_deref()
    }
}

/// Returns the `error` that applies to a DPoP request (RFC 9449 §7.1). Among DPoP challenges,
/// `use_dpop_nonce` takes precedence. Other schemes are used only if there is no DPoP challenge,
/// because some servers support one scheme only.
pub(crate) fn error(challenges: &[Challenge]) -> Option<&str> {
    let has_dpop = challenges.iter().any(|challenge| challenge.is("DPoP"));
    let is_relevant = |challenge: &&Challenge| !has_dpop || challenge.is("DPoP");
    let relevant = challenges.iter().filter(is_relevant);
    let errors = relevant.filter_map(|challenge| challenge.param("error"));
    errors.min_by_key(|error| *error != "use_dpop_nonce")
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    fn read_into(&mut self, challenges: &mut Vec<Challenge>) {
        loop {
            self.rest = self.rest.trim_start_matches([' ', '\t', ',']);
            if self.rest.is_empty() {
                return;
            }
            let Some(word) = self.take_token() else {
                // Not a token: neither a scheme nor a parameter can begin here.
                self.skip_to_comma();
                continue;
            };
            if self.take_equals() {
                let value = self.take_value();
                if let Some(current) = challenges.last_mut() {
                    current.params.push((word.to_owned(), value));
                }
            } else {
                challenges.push(Challenge {
                    scheme: word.to_owned(),
                    token68: self.take_token68(),
                    params: Vec::new(),
                });
            }
        }
    }

    fn take_token(&mut self) -> Option<&'a str> {
        self.take_while(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
    }

    /// Consumes `BWS = BWS`, if it comes next.
    fn take_equals(&mut self) -> bool {
        let after = self.rest.trim_start_matches([' ', '\t']).strip_prefix('=');
        self.rest = after.map_or(self.rest, |rest| rest.trim_start_matches([' ', '\t']));
        after.is_some()
    }

    /// Consumes and returns a token68, if one comes next and nothing else precedes the next comma.
    fn take_token68(&mut self) -> Option<String> {
        let after_space = self.rest.trim_start_matches(' ');
        let mut ahead = Reader { rest: after_space };
        let token =
            ahead.take_while(|byte| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte))?;
        let padding = ahead.take_while(|byte| byte == b'=').unwrap_or_default();
        let after = ahead.rest.trim_start_matches([' ', '\t']);
        if after_space.len() == self.rest.len() || !(after.is_empty() || after.starts_with(',')) {
            return None;
        }
        self.rest = after;
        Some(format!("{token}{padding}"))
    }

    fn take_value(&mut self) -> String {
        let Some(quoted) = self.rest.strip_prefix('"') else {
            let value = self.take_while(|byte| !b" \t,".contains(&byte));
            return value.unwrap_or_default().to_owned();
        };
        let mut value = String::new();
        let mut chars = quoted.chars();
        while let Some(next) = chars.next() {
            match next {
                '"' => break,
                '\\' => value.extend(chars.next()),
                _ => value.push(next),
            }
        }
        self.rest = chars.as_str();
        value
    }

    fn skip_to_comma(&mut self) {
        if self.rest.starts_with('"') {
            self.take_value();
        }
        self.take_while(|byte| byte != b',');
    }

    fn take_while(&mut self, belongs: impl Fn(u8) -> bool) -> Option<&'a str> {
        let end = self.rest.bytes().take_while(|byte| belongs(*byte)).count();
        let (taken, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!taken.is_empty()).then_some(taken)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(fields: &[&str]) -> Vec<Challenge> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(
                WWW_AUTHENTICATE,
                http::HeaderValue::from_bytes(field.as_bytes()).unwrap(),
            );
        }
        Challenge::all(&headers)
    }

    fn challenge(scheme: &str, params: &[(&str, &str)]) -> Challenge {
        let params = params
            .iter()
            .map(|(name, value)| ((*name).into(), (*value).into()))
            .collect();
        Challenge {
            scheme: scheme.into(),
            token68: None,
            params,
        }
    }

    #[test]
    fn challenges_of_every_shape_are_read() {
        let nonce_required = ("error", "use_dpop_nonce");
        let cases: &[(&[&str], &[Challenge])] = &[
            (&[], &[]),
            (
                &["DPoP error=\"use_dpop_nonce\""],
                &[challenge("DPoP", &[nonce_required])],
            ),
            // A scheme without parameters before another (atproto).
            (
                &["Bearer, DPoP algs=\"ES256 EdDSA\", error=\"use_dpop_nonce\""],
                &[
                    challenge("Bearer", &[]),
                    challenge("DPoP", &[("algs", "ES256 EdDSA"), nonce_required]),
                ],
            ),
            // Two fields (oidc-provider).
            (
                &["Bearer realm=\"a, b\"", "dPoP error = use_dpop_nonce"],
                &[
                    challenge("Bearer", &[("realm", "a, b")]),
                    challenge("dPoP", &[nonce_required]),
                ],
            ),
            (
                &["Basic realm=\"say \\\"hi\\\"\", charset=UTF-8"],
                &[challenge(
                    "Basic",
                    &[("realm", "say \"hi\""), ("charset", "UTF-8")],
                )],
            ),
            (&[" , ,DPoP , "], &[challenge("DPoP", &[])]),
            (
                &["DPoP error=\"unterminated, x=y"],
                &[challenge("DPoP", &[("error", "unterminated, x=y")])],
            ),
            (
                &["error=\"no scheme\", DPoP error=x"],
                &[challenge("DPoP", &[("error", "x")])],
            ),
            (
                &["DPoP error=\"\", ;junk=1, algs=ES256"],
                &[challenge("DPoP", &[("error", ""), ("algs", "ES256")])],
            ),
        ];
        for (fields, challenges) in cases {
            assert_eq!(read(fields), *challenges, "{fields:?}");
        }
    }

    #[test]
    fn a_token68_is_no_parameter() {
        let read = read(&["Negotiate oRQwEqADCgEBoQsGCSqGSIb3EgECAg==, Bearer realm=x"]);
        assert_eq!(read[0].token68(), Some("oRQwEqADCgEBoQsGCSqGSIb3EgECAg=="));
        assert_eq!(read[1], challenge("Bearer", &[("realm", "x")]));
    }

    #[test]
    fn the_error_is_the_dpop_challenges() {
        for (fields, expected) in [
            (
                &["Bearer error=\"invalid_token\", DPoP error=\"use_dpop_nonce\""][..],
                Some("use_dpop_nonce"),
            ),
            (
                &["Bearer error=\"use_dpop_nonce\"", "DPoP algs=ES256"],
                None,
            ),
            (&["Bearer error=\"use_dpop_nonce\""], Some("use_dpop_nonce")),
            (&["DPoP realm=\"error=use_dpop_nonce\""], None),
            (
                &["DPoP error=\"invalid_token\", DPoP error=\"use_dpop_nonce\""],
                Some("use_dpop_nonce"),
            ),
            (
                &["DPoP error=\"invalid_token\", DPoP error=\"odd\""],
                Some("invalid_token"),
            ),
            (&[], None),
        ] {
            assert_eq!(error(&read(fields)), expected, "{fields:?}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_or_loops(text in "[ -~é]{0,80}") {
            let _ = read(&[&text]);
        }

        #[test]
        fn what_is_written_is_read(names in proptest::collection::vec("[a-z]{1,8}", 1..5), value in "[ -~]{0,20}") {
            let quoted = value.replace('\\', "\\\\").replace('"', "\\\"");
            let params: Vec<String> = names.iter().map(|name| format!("{name}=\"{quoted}\"")).collect();
            let read = read(&["Bearer", &format!("DPoP {}", params.join(", "))]);
            prop_assert_eq!(read.len(), 2);
            for name in &names {
                prop_assert_eq!(read[1].param(name), Some(value.as_str()));
            }
        }
    }
}
