//! Stand-ins for secrets: what a recording has in their place.
//!
//! A stand-in keeps the length and, character by character, the class: a lower-case letter stands for
//! a lower-case letter, an upper-case letter for an upper-case letter, a digit for a digit, everything
//! else for itself. Equal secrets have equal stand-ins. They are derived by HMAC under a key that is
//! never written, so nobody can compute a secret from its stand-in, or recognise a guessed one.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ring::hmac;
use serde::de::IgnoredAny;

use crate::jose;
use crate::types::secret::SecretBytes;

/// The members, claims and parameters whose texts are kept. In URLs among them, the values of the
/// query are replaced all the same.
const KEPT: &str = "acr_values alg algs aud audience azp client_assertion_type client_id exp expires_at expires_in \
                    grant_type htm htu iat interval iss issued_token_type issuer jkt kid max_age nbf \
                    origin requested_token_type resource role scope subject_token_type actor_token_type \
                    token_type typ";

/// The words of messages that are kept, and the codes of errors.
const WORDS: &str = "a access access_denied account an and are at authorization authorization_pending basic bearer bound busy by cannot \
                     client closed code connection consent_required dpop error expired expired_token failed for format \
                     forbidden found from grant has header in insufficient_scope interaction_required internal \
                     invalid invalid_client invalid_dpop_proof invalid_grant invalid_request invalid_scope \
                     invalid_target invalid_token is key login_required malformed missing ms negotiate must no nonce not of \
                     or out peer proof reading refresh refused rejected reset request required retry revoked s scope seconds server \
                     server_error service signature slow_down temporarily_unavailable the time timed to token \
                     too unauthorized unauthorized_client unavailable unknown unsupported unsupported_grant_type \
                     unsupported_response_type unsupported_token_type use_dpop_nonce used was with wrong [redacted]";

/// Replaces the secrets of one recording. Without a key it keeps every text: the secrets of a replay
/// are stand-ins already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StandIns {
    key: Option<SecretBytes>,
    /// By the hashes of the tokens: a stored state names tokens by their hashes, and a hash must stay
    /// that of its token.
    tokens: Known<256>,
    nonces: Known<64>,
}

impl StandIns {
    pub(crate) fn new(key: &[u8; 32]) -> Self {
        Self {
            key: Some(SecretBytes::new(key.to_vec())),
            ..Self::unchanged()
        }
    }

    /// Creates stand-ins for texts that have none to be replaced.
    pub(crate) fn unchanged() -> Self {
        Self {
            key: None,
            tokens: Known::default(),
            nonces: Known::default(),
        }
    }

    /// Returns the stand-in of a token, a client secret, an assertion or any other secret. A JWT keeps
    /// its header and the [claims](KEPT) that decisions depend on.
    pub(crate) fn secret(&mut self, text: &str) -> String {
        if self.key.is_none() || text.is_empty() {
            return text.to_owned();
        }
        let hash = token_hash(text);
        if let Some(known) = self.tokens.get(&hash) {
            return known;
        }
        let stand_in = match self.jwt(text) {
            Some(jwt) => jwt,
            None => self.unlike(text, |this, new| this.tokens.has(new)),
        };
        self.tokens.insert(hash, stand_in)
    }

    /// Returns the stand-in of a DPoP nonce. Nonces are not secret, but the server's own.
    pub(crate) fn nonce(&mut self, text: &str) -> String {
        if self.key.is_none() {
            return text.to_owned();
        }
        let hash = token_hash(text);
        if let Some(known) = self.nonces.get(&hash) {
            return known;
        }
        let stand_in = self.unlike(text, |this, new| this.nonces.has(new));
        self.nonces.insert(hash, stand_in)
    }

    /// Returns the hash that stands for the hash of a token. The token of an unknown hash gets its
    /// stand-in now, in case it appears later.
    fn token_hash(&mut self, hash: &str) -> String {
        if self.key.is_none() {
            return hash.to_owned();
        }
        let token = match self.tokens.get(hash) {
            Some(known) => known,
            None => self.tokens.insert(hash.to_owned(), self.stand_in(hash)),
        };
        token_hash(&token)
    }

    /// Returns a stand-in that no other text has. Of short texts, there may be none.
    fn unlike(&self, text: &str, is_taken: impl Fn(&Self, &str) -> bool) -> String {
        let variants = (0..64).map(|variant| self.variant(text, variant));
        let mut free = variants.skip_while(|new| is_taken(self, new));
        free.next().unwrap_or_else(|| self.stand_in(text))
    }

    /// Returns a text of the same length with the same classes of characters. The letters `DPoP`
    /// stay: decisions depend on them.
    pub(crate) fn stand_in(&self, text: &str) -> String {
        self.variant(text, 0)
    }

    fn variant(&self, text: &str, variant: u8) -> String {
        let Some(key) = &self.key else {
            return text.to_owned();
        };
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.expose());
        let mut block = hmac::sign(&key, &[&[variant], text.as_bytes()].concat());
        let (mut out, mut used) = (String::with_capacity(text.len()), 0);
        let lower = text.to_ascii_lowercase();
        let mut kept_until = 0;
        for (at, c) in text.char_indices() {
            if lower.get(at..).is_some_and(|rest| rest.starts_with("dpop")) {
                kept_until = at + 4;
            }
            if used + 2 > block.as_ref().len() {
                block = hmac::sign(&key, block.as_ref());
                used = 0;
            }
            let random = match block.as_ref().get(used..used + 2) {
                Some([high, low]) => u32::from(*high) << 8 | u32::from(*low),
                _ => 0,
            };
            used += 2;
            out.push(match at < kept_until {
                true => c,
                false => like(c, random),
            });
        }
        out
    }

    /// Returns the stand-in of a JWT, or `None` if it is none.
    fn jwt(&mut self, text: &str) -> Option<String> {
        let parts: Vec<&str> = text.split('.').collect();
        let [header, payload, signature] = parts.as_slice() else {
            return None;
        };
        let mut replaced = |part: &str| {
            let json = String::from_utf8(jose::decode(part)?).ok()?;
            let json = json.starts_with('{').then(|| self.json(&json))??;
            Some(jose::encode(json.as_bytes()))
        };
        let (header, payload) = (replaced(header)?, replaced(payload)?);
        Some([&header, &payload, &*self.stand_in(signature)].join("."))
    }

    /// Returns the text of a member, claim, field or parameter with this name.
    pub(crate) fn member(&mut self, name: &str, text: &str) -> String {
        match name {
            "descends_from" => self.token_hash(text),
            "nonce" => self.nonce(text),
            _ if text.starts_with("https://") || text.starts_with("http://") => self.url(text),
            _ if KEPT.split(' ').any(|kept| kept == name) => text.to_owned(),
            _ if is_word(text) => text.to_owned(),
            _ if text.contains(char::is_whitespace) => self.message(text),
            _ => self.secret(text),
        }
    }

    /// Returns a message whose words are kept if they are among [`WORDS`] or are short numbers.
    pub(crate) fn message(&self, text: &str) -> String {
        let words = text.split_inclusive(char::is_whitespace);
        words
            .map(|word| match is_word(word) || is_short_number(word) {
                true => word.to_owned(),
                false => self.stand_in(word),
            })
            .collect()
    }

    /// Returns a URL with its scheme, host and path, and with the names in its query.
    pub(crate) fn url(&self, url: &str) -> String {
        let end = url.find(['?', '#']).unwrap_or(url.len());
        let (base, rest) = url.split_at(end);
        let path_at = base.find("://").map_or(0, |at| at + 3);
        let (scheme, base) = base.split_at(path_at);
        let slash = base.find('/').unwrap_or(base.len());
        let (authority, path) = base.split_at(slash);
        let mut out = scheme.to_owned();
        match authority.rsplit_once('@') {
            Some((user, host)) => out.extend([&self.stand_in(user), "@", host]),
            None => out.push_str(authority),
        }
        out.push_str(path);
        for part in rest.split_inclusive(['?', '#', '&']) {
            match part.split_once('=') {
                Some((name, value)) => {
                    out.extend([&self.name(name), "="]);
                    out.push_str(&self.escaped(value));
                }
                None => out.push_str(&self.escaped(part)),
            }
        }
        out
    }

    /// Replaces a text, but not the escapes of its bytes.
    fn escaped(&self, text: &str) -> String {
        let mut pieces = text.split('%');
        let mut out = self.stand_in(pieces.next().unwrap_or_default());
        for piece in pieces {
            let (escape, rest) = piece.split_at_checked(2).unwrap_or((piece, ""));
            let _ = write!(out, "%{escape}{}", self.stand_in(rest));
        }
        out
    }

    /// Returns the name of a member, unless it looks like a value.
    fn name(&self, name: &str) -> String {
        let belongs = |byte: u8| byte.is_ascii_alphabetic() || b"_-.".contains(&byte);
        let is_name = name.len() <= 32 && name.bytes().all(belongs);
        match is_name || KEPT.split(' ').any(|kept| kept == name) {
            true => name.to_owned(),
            false => self.stand_in(name),
        }
    }

    /// Returns a body: JSON with its structure, numbers and booleans; anything else as a
    /// [message](Self::message).
    pub(crate) fn body(&mut self, body: &[u8]) -> String {
        let text = String::from_utf8_lossy(body);
        let (mark, json) = match text.strip_prefix('\u{feff}') {
            Some(json) => ("\u{feff}", json),
            None => ("", &*text),
        };
        match self.json(json) {
            Some(json) => [mark, &json].concat(),
            None => self.message(&text),
        }
    }

    /// Replaces the strings of a JSON text in their places. Returns `None` if it is not JSON.
    pub(crate) fn json(&mut self, text: &str) -> Option<String> {
        let _: IgnoredAny = serde_json::from_str(text).ok()?;
        if self.key.is_none() {
            return Some(text.to_owned());
        }
        let (mut out, mut rest) = (String::with_capacity(text.len()), text);
        let mut open: Vec<Container> = Vec::new();
        while let Some(c) = rest.chars().next() {
            let (mut token, mut after) = rest.split_at(c.len_utf8());
            match c {
                '{' | '[' => {
                    let name = open.last().map(|around| around.name.clone());
                    open.push(Container {
                        is_object: c == '{',
                        awaits_name: c == '{',
                        name: name.unwrap_or_default(),
                        strings: 0,
                    });
                }
                '}' | ']' => drop(open.pop()),
                ',' => {
                    if let Some(around) = open.last_mut() {
                        around.awaits_name = around.is_object;
                    }
                }
                '"' => {
                    (token, after) = rest.split_at(quoted_length(rest));
                    let string: String = serde_json::from_str(token)
                        .unwrap_or_else(|_| token.trim_matches('"').to_owned());
                    let replaced = match open.last_mut() {
                        Some(around) => self.string(around, string),
                        None => self.secret(&string),
                    };
                    out.push_str(&serde_json::to_string(&replaced).ok()?);
                    token = "";
                }
                _ => {}
            }
            out.push_str(token);
            rest = after;
        }
        Some(out)
    }

    /// Returns a string of a JSON text: a name, or a value.
    fn string(&mut self, around: &mut Container, string: String) -> String {
        if around.awaits_name {
            around.awaits_name = false;
            let name = self.name(&string);
            around.name = string;
            return name;
        }
        around.strings += 1;
        // The other members of a stored token are pairs of name and value.
        if around.name == "others" && !around.is_object && around.strings == 1 {
            let name = self.name(&string);
            around.name = string;
            return name;
        }
        self.member(&around.name, &string)
    }

    /// Returns a `WWW-Authenticate` header (RFC 9110 §11.6.1) with its schemes and the names of its
    /// parameters.
    pub(crate) fn challenge(&mut self, header: &str) -> String {
        let (mut out, mut rest, mut name) = (String::new(), header, None);
        while let Some(c) = rest.chars().next() {
            let is_end = |c: char| matches!(c, ' ' | '\t' | ',' | '"' | '=');
            if c == '"' {
                let (quoted, after) = rest.split_at(quoted_length(rest));
                let text = quoted.trim_start_matches('"');
                let text = text.strip_suffix('"').unwrap_or(text);
                let value = self.member(name.take().unwrap_or_default(), text);
                let _ = write!(out, "\"{value}\"");
                rest = after;
            } else if is_end(c) {
                out.push(c);
                rest = rest.get(c.len_utf8()..).unwrap_or_default();
            } else {
                let (word, after) = rest.split_at(rest.find(is_end).unwrap_or(rest.len()));
                // Otherwise the `=` are the end of a token68.
                let is_name = after
                    .strip_prefix('=')
                    .is_some_and(|value| !value.is_empty() && !value.starts_with([' ', ',', '=']));
                match name.take() {
                    Some(name) => out.push_str(&self.member(name, word)),
                    None if is_name => {
                        out.push_str(&self.name(word));
                        name = Some(word);
                    }
                    None if is_word(word) => out.push_str(word),
                    None => out.push_str(&self.stand_in(word)),
                }
                rest = after;
            }
        }
        out
    }
}

/// The stand-ins of the `N` texts that were used last, by the hashes of the texts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known<const N: usize> {
    /// With the number of the last use.
    stand_ins: BTreeMap<String, (String, u64)>,
    uses: u64,
}

impl<const N: usize> Known<N> {
    fn get(&mut self, hash: &str) -> Option<String> {
        self.uses += 1;
        let (stand_in, used) = self.stand_ins.get_mut(hash)?;
        *used = self.uses;
        Some(stand_in.clone())
    }

    fn insert(&mut self, hash: String, stand_in: String) -> String {
        if self.stand_ins.len() >= N {
            let uses = self.stand_ins.iter();
            let oldest = uses.min_by_key(|(_, (_, used))| *used);
            if let Some(oldest) = oldest.map(|(hash, _)| hash.clone()) {
                self.stand_ins.remove(&oldest);
            }
        }
        let entry = (stand_in.clone(), self.uses);
        self.stand_ins.insert(hash, entry);
        stand_in
    }

    fn has(&self, stand_in: &str) -> bool {
        self.stand_ins.values().any(|(known, _)| known == stand_in)
    }
}

/// An object or array of a JSON text.
struct Container {
    is_object: bool,
    awaits_name: bool,
    /// The name of the member whose value comes next, or of the one that this array is in.
    name: String,
    /// The number of strings so far, without names.
    strings: usize,
}

/// Returns the hash by which a stored state names a token: that of a
/// [lineage](crate::oauth::lineage).
fn token_hash(token: &str) -> String {
    jose::short_hash(token.as_bytes())
}

/// Returns the length of the quoted text at the beginning of a text, with its quotes: a JSON string,
/// or one of a header.
fn quoted_length(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

fn is_word(word: &str) -> bool {
    let is = |known: &str| word.trim() == known || trimmed(word).eq_ignore_ascii_case(known);
    WORDS.split_ascii_whitespace().any(is)
}

fn is_short_number(word: &str) -> bool {
    let digits = trimmed(word);
    (1..=5).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
}

fn trimmed(word: &str) -> &str {
    word.trim()
        .trim_matches(|c: char| matches!(c, '.' | ',' | ':' | ';' | '!' | '"' | '\'' | '(' | ')'))
}

/// Returns a character of the same class and length.
fn like(c: char, random: u32) -> char {
    let (first, count) = match c {
        'a'..='z' => ('a', 26),
        'A'..='Z' => ('A', 26),
        '0'..='9' => ('0', 10),
        _ if c.is_ascii() || !c.is_alphanumeric() => return c,
        // Letters of other scripts: by their length in UTF-8.
        _ => match c.len_utf8() {
            2 => ('\u{100}', 0x80),
            3 => ('\u{4e00}', 0x5000),
            _ => ('\u{20000}', 0xa000),
        },
    };
    char::from_u32(u32::from(first) + random % count).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn stand_ins() -> StandIns {
        StandIns::new(&[1; 32])
    }

    fn class(c: char) -> char {
        match c {
            'a'..='z' => 'a',
            'A'..='Z' => 'A',
            '0'..='9' => '0',
            c if c.is_ascii() || !c.is_alphanumeric() => c,
            _ => 'x',
        }
    }

    fn classes(text: &str) -> Vec<(usize, char)> {
        text.char_indices().map(|(at, c)| (at, class(c))).collect()
    }

    /// The names, numbers and booleans of a JSON value, and the lengths of its strings.
    fn structure(value: &Value) -> Value {
        match value {
            Value::String(text) => json!(text.len()),
            Value::Array(items) => items.iter().map(structure).collect(),
            Value::Object(members) => {
                let member = |(name, value): (&String, &Value)| (name.clone(), structure(value));
                Value::Object(members.iter().map(member).collect())
            }
            other => other.clone(),
        }
    }

    proptest! {
        #[test]
        fn a_stand_in_keeps_length_classes_and_equality(text in "\\PC{0,60}", other in "\\PC{0,60}") {
            let mut stand_ins = stand_ins();
            let stand_in = stand_ins.secret(&text);
            prop_assert_eq!(stand_in.len(), text.len());
            prop_assert_eq!(classes(&stand_in), classes(&text));
            let of_other = stand_ins.secret(&other);
            prop_assert_eq!(&stand_ins.secret(&text), &stand_in);
            prop_assert!(text == other || stand_in != of_other || text.chars().all(|c| class(c) == c));
        }

        #[test]
        fn a_long_secret_has_nothing_in_common_with_its_stand_in(text in "[a-zA-Z0-9]{24,80}") {
            let stand_in = stand_ins().secret(&text);
            for (at, piece) in text.as_bytes().windows(8).enumerate() {
                let has_dpop = text.to_ascii_lowercase().contains("dpop");
                prop_assert!(has_dpop || stand_in.as_bytes()[at..at + 8] != *piece);
            }
        }

        #[test]
        fn a_response_keeps_its_structure(text in "[ -~]{0,30}", name in "[a-z_]{1,12}", number in any::<i32>()) {
            let body = json!({ &*name: [text, { "x": &text }, number], "b": true }).to_string();
            let replaced = stand_ins().json(&body).unwrap();
            let replaced: Value = serde_json::from_str(&replaced).unwrap();
            prop_assert_eq!(structure(&replaced), structure(&serde_json::from_str(&body).unwrap()));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,80}") {
            let mut stand_ins = stand_ins();
            let _ = (stand_ins.url(&text), stand_ins.challenge(&text), stand_ins.body(text.as_bytes()));
            let _ = stand_ins.member("error_description", &text);
        }
    }

    #[test]
    fn different_secrets_have_different_stand_ins_as_far_as_length_allows() {
        let mut stand_ins = stand_ins();
        let all: Vec<String> = (0..10)
            .map(|digit: u8| stand_ins.secret(&digit.to_string()))
            .collect();
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), 10, "{all:?}");
    }

    #[test]
    fn another_recording_has_other_stand_ins() {
        let other = StandIns::new(&[2; 32]).secret("a-secret-of-some-length");
        assert_ne!(stand_ins().secret("a-secret-of-some-length"), other);
    }

    #[test]
    fn a_jwt_keeps_its_header_and_the_claims_that_decisions_depend_on() {
        let claims = json!({
            "iss": "https://as.example", "aud": "api", "exp": 1_900_000_000, "scope": "read",
            "cnf": { "jkt": "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I" },
            "sub": "alice", "email": "alice@example.com",
        });
        let part = |json: &Value| jose::encode(json.to_string().as_bytes());
        let header = json!({ "alg": "ES256", "kid": "key-1", "typ": "at+jwt" });
        let jwt = format!("{}.{}.c2lnbmF0dXJl", part(&header), part(&claims));
        let stand_in = stand_ins().secret(&jwt);
        assert_eq!(stand_in.len(), jwt.len());
        let parts: Vec<_> = stand_in.split('.').collect();
        assert_eq!(parts[0], part(&header));
        assert_ne!(parts[2], "c2lnbmF0dXJl");
        let kept: Value = serde_json::from_slice(&jose::decode(parts[1]).unwrap()).unwrap();
        for name in ["iss", "aud", "exp", "scope", "cnf"] {
            assert_eq!(kept[name], claims[name], "{name}");
        }
        for name in ["sub", "email"] {
            assert_ne!(kept[name], claims[name], "{name}");
        }
    }

    #[test]
    fn the_hash_of_a_token_stays_that_of_its_stand_in() {
        let mut stand_ins = stand_ins();
        let known = stand_ins.secret("a-refresh-token");
        let unknown = stand_ins.member("descends_from", &token_hash("a-later-one"));
        let hash = stand_ins.member("descends_from", &token_hash("a-refresh-token"));
        assert_eq!(hash, token_hash(&known));
        assert_eq!(unknown, token_hash(&stand_ins.secret("a-later-one")));
    }

    #[test]
    fn a_challenge_keeps_its_schemes_codes_and_names() {
        let challenge = r#"DPoP realm="secret-realm", error="use_dpop_nonce", algs="ES256", Bearer scope="read", Negotiate dG9rZW4="#;
        let replaced = stand_ins().challenge(challenge);
        let kept = replaced.strip_prefix("DPoP realm=\"").unwrap();
        assert!(!replaced.contains("secret-realm"), "{replaced}");
        let kept = kept.get("secret-realm".len()..).unwrap();
        assert!(
            kept.starts_with(
                r#"", error="use_dpop_nonce", algs="ES256", Bearer scope="read", Negotiate "#
            ),
            "{replaced}"
        );
        assert!(!kept.contains("dG9rZW4"), "{replaced}");
    }

    #[test]
    fn a_message_keeps_known_words_and_short_numbers() {
        let message = "invalid DPoP proof of alice, retry in 1500 ms, code 123456";
        let replaced = stand_ins().message(message);
        assert!(replaced.starts_with("invalid DPoP proof of "), "{replaced}");
        assert!(replaced.contains(" retry in 1500 ms, code "), "{replaced}");
        assert!(
            !replaced.contains("alice") && !replaced.contains("123456"),
            "{replaced}"
        );
    }

    #[test]
    fn a_url_keeps_its_host_and_path() {
        assert_eq!(
            stand_ins().url("https://as.example:8443/token"),
            "https://as.example:8443/token"
        );
        let replaced = stand_ins()
            .url("https://user:word@as.example/a/b?state=abc%20def&code=xyz123#fragment");
        assert!(replaced.contains("@as.example/a/b?state="), "{replaced}");
        assert!(
            replaced.contains("%20") && replaced.contains("&code="),
            "{replaced}"
        );
        for secret in ["user", "word", "abc", "xyz123", "fragment"] {
            assert!(!replaced.contains(secret), "{replaced}");
        }
    }
}
