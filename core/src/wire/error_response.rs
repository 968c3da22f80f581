//! Parses error responses in the formats of different servers.

use std::borrow::Cow;
use std::time::Duration;

use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, StatusCode};

use super::challenge::{self, Challenge};
use super::json::{JsonObject, JsonValue, Text};
use super::{http_date, retry_after};
use crate::types::error::{ResponseMeta, ServerError};
use crate::types::secret::{Secret, constant_time_eq};
use crate::types::{escape::push_form, nonce::Nonce, time::UnixTime};

/// The maximum number of characters of a text from the server. Longer texts are truncated.
const MAX_TEXT: usize = 256;
const MAX_FIELDS: usize = 64;
/// The maximum nesting depth of fields.
const MAX_DEPTH: usize = 16;

/// The minimum length of a secret in bytes. Redacting shorter texts would mutilate ordinary words.
const MIN_SECRET: usize = 6;

const REDACTED: &str = "[redacted]";

impl ResponseMeta {
    pub(crate) fn new(
        server: String,
        status: StatusCode,
        headers: &HeaderMap,
        secrets: &Redactor,
    ) -> Self {
        let redact = |text: String| secrets.redact(&text);
        Self {
            server: redact(server),
            status,
            request_id: text(headers, REQUEST_ID).map(redact),
            content_type: text(headers, CONTENT_TYPE).map(redact),
            content_coding: content_coding(headers).map(redact),
            nonce: Nonce::from_headers(headers),
            date: http_date::from_headers(headers),
        }
    }
}

/// Returns `x-request-id`, for inquiries to the provider's support.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<String> {
    text(headers, REQUEST_ID).map(|id| sanitize(&id))
}

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Returns `Content-Encoding`, unless it is `identity` (RFC 9110 §8.4).
pub(crate) fn content_coding(headers: &HeaderMap) -> Option<String> {
    text(headers, CONTENT_ENCODING).filter(|coding| !coding.eq_ignore_ascii_case("identity"))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Redacts the secrets of a request, plain and form-encoded, in texts from the server: servers echo
/// them. The longest comes first, because one secret may contain another.
pub(crate) struct Redactor(Vec<Secret>);

impl<'a> FromIterator<&'a str> for Redactor {
    fn from_iter<I: IntoIterator<Item = &'a str>>(secrets: I) -> Self {
        let mut forms = Vec::new();
        let secrets = secrets.into_iter();
        for secret in secrets.filter(|secret| secret.len() >= MIN_SECRET) {
            let mut escaped = Vec::with_capacity(3 * secret.len());
            push_form(secret, &mut escaped);
            // Wiped, too, if it is the same.
            let escaped = String::from_utf8(escaped).ok().map(Secret::new);
            let escaped = escaped.filter(|form| form.expose() != secret);
            for form in escaped.into_iter().chain([Secret::new(secret)]) {
                let len = form.expose().len();
                let at = forms.partition_point(|longer: &Secret| longer.expose().len() > len);
                forms.insert(at, form);
            }
        }
        Self(forms)
    }
}

impl Redactor {
    /// Returns a text from the server as one line of at most [`MAX_TEXT`] characters, without
    /// control characters (which could move a terminal's cursor) and with the secrets redacted.
    pub(crate) fn redact(&self, text: &str) -> String {
        let mut line = one_line(text);
        for secret in &self.0 {
            if line.contains(secret.expose()) {
                line = line.replace(secret.expose(), REDACTED);
            }
        }
        clip(&line)
    }
}

/// Parses an error response. `secrets` are redacted in it.
pub(crate) fn read(
    server: String,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    secrets: &Redactor,
    now: UnixTime,
) -> ServerError {
    let mut error_body = ErrorBody::default();
    // Lossy, so that the code can be read even if the message is not UTF-8.
    let body = Text::of(body);
    let mut credentials = Credentials::default();
    if let Ok(object) = JsonObject::parse(body.as_str().as_bytes()) {
        error_body.read(status, &object);
        credentials.collect(&object, "", false, 0);
    }
    let all = secrets.0.iter().chain(&credentials.0);
    let secrets = &Redactor::from_iter(all.map(Secret::expose));
    credentials.redact_fields(&mut error_body);
    let challenges = Challenge::all(headers);
    let challenge_code = challenge::error(&challenges).filter(|code| is_code(code));
    let code = error_body.code.or(challenge_code.map(str::to_owned));
    let redact = |text: String| secrets.redact(&text);
    let message_delay = error_body.description.as_deref().and_then(retry_hint);
    ServerError {
        retry_after: retry_after::read(headers, now).or(message_delay),
        meta: ResponseMeta::new(server, status, headers, secrets),
        code: code.map(redact),
        description: error_body.description.map(redact),
        uri: error_body.uri.map(redact),
        fields: error_body
            .fields
            .into_iter()
            .map(|(path, message)| (redact(path), redact(message)))
            .collect(),
    }
}

#[derive(Default)]
struct ErrorBody {
    code: Option<String>,
    description: Option<String>,
    uri: Option<String>,
    fields: Vec<(String, String)>,
}

impl ErrorBody {
    fn read(&mut self, status: StatusCode, object: &JsonObject<'_>) {
        let text = |object: &JsonObject<'_>, names: &[&str]| {
            let text = names.iter().find_map(|name| object.str(name));
            text.map(Cow::into_owned)
        };
        let error = object.get("error");
        if let Some(error) = error.and_then(JsonValue::as_str) {
            // RFC 6749 §5.2, or free text in the same member (Moov, Treasury Prime).
            match is_code(&error) {
                true => self.code = Some(error.into_owned()),
                false => self.description = Some(error.into_owned()),
            }
        } else if let Some(error) = error.and_then(JsonValue::as_object) {
            // An object (Facebook; Moov's accounts).
            self.code = text(&error, &["code", "error", "type"]).filter(|code| is_code(code));
            self.description = text(&error, &["message", "error_description", "description"]);
            if self.description.is_none() {
                self.flatten(&[], &error);
            }
        } else if status.is_client_error() {
            // A map of fields (Moov's 422), or a message in a member with another name.
            self.description = text(object, &["message", "detail", "error_message", "title"]);
            if self.description.is_none() {
                self.flatten(&[], object);
            }
        }
        self.description = text(object, &["error_description"]).or(self.description.take());
        self.uri = text(object, &["error_uri"]);
    }

    fn flatten(&mut self, above: &[&str], object: &JsonObject<'_>) {
        for (name, value) in object.iter() {
            if self.fields.len() >= MAX_FIELDS {
                return;
            }
            let path = [above, &[name]].concat();
            if let Some(message) = value.as_str() {
                self.fields.push((path.join("."), message.into_owned()));
            } else if let Some(inner) = value.as_object() {
                if path.len() < MAX_DEPTH {
                    self.flatten(&path, &inner);
                }
            } else if let Some(messages) = value.texts() {
                let messages: Vec<_> = messages.collect();
                if !messages.is_empty() {
                    self.fields.push((path.join("."), messages.join("; ")));
                }
            }
        }
    }
}

/// The values of members with the names of credentials. An error response may contain newly issued
/// or echoed credentials.
#[derive(Default)]
struct Credentials(Vec<Secret>);

impl Credentials {
    /// Collects them at any depth. `within` is the name of the member that contains this object.
    /// `all` is whether that member, or one around it, has the name of a credential.
    fn collect(&mut self, object: &JsonObject<'_>, within: &str, all: bool, depth: usize) {
        for (name, value) in object.iter() {
            self.collect_value(value, (within, name), all || is_credential(name), depth);
        }
    }

    fn collect_value(
        &mut self,
        value: JsonValue<'_>,
        (within, name): (&str, &str),
        all: bool,
        depth: usize,
    ) {
        if let Some(object) = value.as_object() {
            if depth < MAX_DEPTH {
                self.collect(&object, name, all, depth.saturating_add(1));
            }
        } else if let Some(items) = value.as_array() {
            for item in items.into_iter().filter(|_| depth < MAX_DEPTH) {
                self.collect_value(item, (within, name), all, depth.saturating_add(1));
            }
        } else if all {
            let text = one_line(&value.as_str().unwrap_or(Cow::Borrowed(value.as_json())));
            // An error code, not an authorization code.
            let is_errors_code = within == "error" && name == "code" && is_short_code(&text);
            if !text.is_empty() && !is_errors_code && !is_message(&text) {
                self.0.push(Secret::new(text));
            }
        }
    }

    /// Redacts the fields that are credentials, regardless of their length.
    fn redact_fields(&self, error_body: &mut ErrorBody) {
        if self.0.len() > MAX_FIELDS {
            // A response with so many credentials has no useful message.
            *error_body = ErrorBody {
                code: error_body.code.take().filter(|code| is_short_code(code)),
                ..ErrorBody::default()
            };
        }
        for (_, message) in &mut error_body.fields {
            let line = one_line(message);
            let mut secrets = self.0.iter().map(|secret| secret.expose().as_bytes());
            if secrets.any(|secret| constant_time_eq(secret, line.as_bytes())) {
                REDACTED.clone_into(message);
            }
        }
    }
}

/// Returns whether a member has the name of a credential, in any style: `access_token`,
/// `accessToken`, `X-Api-Key`.
fn is_credential(name: &str) -> bool {
    const ENDINGS: &str = "token secret password passwd passphrase assertion jwt credential verifier apikey privatekey \
                           devicecode usercode authorizationcode";
    const WHOLE: &str = "code authcode authorization cookie dpop proof";
    let letters = name.chars().filter(char::is_ascii_alphanumeric);
    let name: String = letters.map(|letter| letter.to_ascii_lowercase()).collect();
    let name = name.strip_suffix('s').unwrap_or(&name);
    WHOLE.split(' ').any(|whole| name == whole)
        || ENDINGS.split(' ').any(|ending| name.ends_with(ending))
        || ["accesstoken", "refreshtoken", "idtoken"]
            .iter()
            .any(|part| name.contains(part))
}

/// Returns whether a text is a message about a credential rather than the credential itself: it
/// consists of plain words, and one of them expresses an error.
fn is_message(text: &str) -> bool {
    // "string" is a placeholder in Moov's reference.
    const REFUSING: &str = "are can't cannot expired has invalid is malformed missing must no not required revoked string \
                            too unknown unsupported used was wrong";
    let words = || {
        text.split(' ')
            .map(|word| word.trim_matches(|c: char| c.is_ascii_punctuation()))
    };
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'\'';
    let is_plain = |word: &str| match word.len() {
        0..=3 if word.bytes().all(|byte| byte.is_ascii_digit()) => true,
        0..=20 => word.bytes().all(is_letter),
        _ => false,
    };
    let is = |refusing: &str| words().any(|word| word.eq_ignore_ascii_case(refusing));
    words().all(is_plain) && REFUSING.split(' ').any(is)
}

/// Returns whether a text is a short code: parts of letters, each with an optional number at the
/// end, such as `invalid_grant` and `AADSTS50011`.
fn is_short_code(text: &str) -> bool {
    text.len() <= 64
        && text.split(['_', '-', '.']).all(|part| {
            let letters = part.trim_end_matches(|c: char| c.is_ascii_digit());
            letters.bytes().all(|byte| byte.is_ascii_alphabetic())
                && part.len() <= letters.len().saturating_add(6)
        })
}

/// Returns whether an `error` is a machine-readable code rather than a sentence.
fn is_code(error: &str) -> bool {
    let belongs = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    (1..=64).contains(&error.len()) && error.bytes().all(belongs)
}

/// Returns the delay in a message, such as `retry in 1500 ms`.
fn retry_hint(message: &str) -> Option<Duration> {
    let (_, after) = message.split_once("retry in ")?;
    let (number, unit) = after.split_once(' ')?;
    let wait: u32 = number.parse().ok()?;
    match unit.trim_end_matches(|c: char| !c.is_ascii_alphabetic()) {
        "ms" => Some(Duration::from_millis(wait.into())),
        "s" | "seconds" => Some(Duration::from_secs(wait.into())),
        _ => None,
    }
}

/// Returns `text` as one line of at most [`MAX_TEXT`] characters, without control characters, which
/// could move a terminal's cursor.
pub(crate) fn sanitize(text: &str) -> String {
    clip(&one_line(text))
}

fn one_line(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

fn clip(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: u16, body: &str) -> ServerError {
        let status = StatusCode::from_u16(status).unwrap();
        let secrets = Redactor::from_iter(["s3cret", "s3cret+more", "4"]);
        read(
            "as".into(),
            status,
            &HeaderMap::new(),
            body.as_bytes(),
            &secrets,
            UnixTime::from_secs(0),
        )
    }

    /// status, body, code, description, fields
    type Case = (
        u16,
        &'static str,
        Option<&'static str>,
        Option<&'static str>,
        &'static [(&'static str, &'static str)],
    );

    #[test]
    fn every_dialect_is_understood() {
        let cases: &[Case] = &[
            // RFC 6749 §5.2
            (
                400,
                r#"{"error":"invalid_grant","error_description":"gone"}"#,
                Some("invalid_grant"),
                Some("gone"),
                &[],
            ),
            // Moov: a code, or free text
            (
                400,
                r#"{"error":"invalid_request"}"#,
                Some("invalid_request"),
                None,
                &[],
            ),
            (
                400,
                r#"{"error":"the scope is odd"}"#,
                None,
                Some("the scope is odd"),
                &[],
            ),
            // Treasury Prime
            (
                400,
                r#"{"error":"Invalid id primary_person_application_id: unexistant"}"#,
                None,
                Some("Invalid id primary_person_application_id: unexistant"),
                &[],
            ),
            // Moov's 422: flat, nested, under `error`
            (
                422,
                r#"{"refresh_token":"is required","scope":"is odd"}"#,
                None,
                None,
                &[("refresh_token", "is required"), ("scope", "is odd")],
            ),
            (
                422,
                r#"{"token":"unknown","token_type_hint":"odd"}"#,
                None,
                None,
                &[("token", "unknown"), ("token_type_hint", "odd")],
            ),
            (
                422,
                r#"{"profile":{"business":{"taxID":{"ein":{"number":"must be 9 digits"}}}}}"#,
                None,
                None,
                &[("profile.business.taxID.ein.number", "must be 9 digits")],
            ),
            (
                422,
                r#"{"error":{"name":["too long","odd"]}}"#,
                None,
                None,
                &[("name", "too long; odd")],
            ),
            // Facebook
            (
                400,
                r#"{"error":{"message":"Error validating","type":"OAuthException","code":190}}"#,
                Some("OAuthException"),
                Some("Error validating"),
                &[],
            ),
            // GitHub: an error in a 200
            (
                200,
                r#"{"error":"bad_verification_code","error_description":"The code","error_uri":"https://x"}"#,
                Some("bad_verification_code"),
                Some("The code"),
                &[],
            ),
            // problem+json
            (
                403,
                r#"{"title":"Forbidden","detail":"not yours"}"#,
                None,
                Some("not yours"),
                &[],
            ),
            // Empty, HTML, other JSON, invalid JSON as Treasury Prime documents it
            (401, "", None, None, &[]),
            (403, "<html>error code 1020</html>", None, None, &[]),
            (500, r#"["a"]"#, None, None, &[]),
            (500, r#"{"internal":"trace"}"#, None, None, &[]),
            (
                400,
                r#"{"error": "Parameter 'amount' must be greater than '0'.}"#,
                None,
                None,
                &[],
            ),
            (400, r#"{"error":7}"#, None, None, &[]),
        ];
        for (status, body, code, description, fields) in cases {
            let read = refusal(*status, body);
            let owned: Vec<_> = fields
                .iter()
                .map(|(path, text)| ((*path).to_owned(), (*text).to_owned()))
                .collect();
            assert_eq!(
                (read.code(), read.description(), read.fields()),
                (*code, *description, &owned[..]),
                "{body}"
            );
        }
    }

    #[test]
    fn what_was_sent_in_secret_is_struck_out_and_control_characters_go() {
        for (message, expected) in [
            ("no s3cret\\u001b[31m here\\n", "no [redacted][31m here"),
            ("no s3\\u0000cret", "no [redacted]"),
            ("no s3cret+more", "no [redacted]"),
            ("no s3cret%2Bmore", "no [redacted]"),
            ("no 42", "no 42"),
        ] {
            let read = refusal(400, &format!(r#"{{"error":"{message}"}}"#));
            assert_eq!(read.description(), Some(expected));
        }
        let fields = refusal(422, r#"{"scope":"s3cret?"}"#);
        assert_eq!(fields.fields()[0].1, "[redacted]?");
    }

    #[test]
    fn a_long_text_is_clipped() {
        let read = refusal(400, &format!(r#"{{"error":"long {}"}}"#, "ü".repeat(5000)));
        assert_eq!(read.description().unwrap().chars().count(), MAX_TEXT);
    }

    #[test]
    fn a_wait_in_the_message_is_found() {
        assert_eq!(
            refusal(429, r#"{"error":"slow down, retry in 1500 ms."}"#).retry_after(),
            Some(Duration::from_millis(1500))
        );
    }

    #[test]
    fn the_code_may_stand_in_the_challenge_alone() {
        let headers = HeaderMap::from_iter([
            (
                "www-authenticate".parse().unwrap(),
                "DPoP error=\"use_dpop_nonce\"".parse().unwrap(),
            ),
            ("dpop-nonce".parse().unwrap(), "n-1".parse().unwrap()),
            ("x-request-id".parse().unwrap(), "7f1c".parse().unwrap()),
            (
                "content-type".parse().unwrap(),
                "text/html".parse().unwrap(),
            ),
        ]);
        let secrets = Redactor::from_iter([]);
        let read = read(
            "as".into(),
            StatusCode::UNAUTHORIZED,
            &headers,
            b"",
            &secrets,
            UnixTime::from_secs(0),
        );
        assert_eq!(read.code(), Some("use_dpop_nonce"));
        assert_eq!(read.nonce().unwrap().as_str(), "n-1");
        assert_eq!(
            (read.request_id(), read.content_type()),
            (Some("7f1c"), Some("text/html"))
        );
    }
}
