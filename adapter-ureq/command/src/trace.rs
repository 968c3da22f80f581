//! Readable traces of requests and responses: secrets are redacted, proofs are decoded, and control
//! characters are removed.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Uri};
use keybound_ureq::Event;
use keybound_ureq::driver::Retrying;
use serde_json::{Map, Value};

/// The JSON members and form parameters that are shown because they are not secret. All others are
/// redacted.
const SHOWN: &[&str] = &[
    "client_id",
    "error",
    "error_description",
    "error_uri",
    "expires_in",
    "grant_type",
    "issuer",
    "scope",
    "token_endpoint",
    "token_type",
    "token_type_hint",
];

/// The response headers that are shown. All others are redacted.
const SHOWN_HEADERS: &[&str] = &[
    "cache-control",
    "connection",
    "content-length",
    "content-type",
    "date",
    "dpop-nonce",
    "retry-after",
    "retry-after-ms",
    "server",
    "transfer-encoding",
    "www-authenticate",
    "x-request-id",
    "x-retry-in",
];

const REDACTED: &str = "[redacted]";

/// The minimum length of a secret that is redacted in responses. Shorter texts are hardly secrets,
/// and their redaction would garble the rest.
const MIN_SECRET: usize = 6;

/// Prints events. Records the secrets of requests, to redact them where a response repeats them.
#[derive(Default)]
pub(crate) struct Trace {
    secrets: Mutex<BTreeSet<String>>,
}

impl Trace {
    pub(crate) fn print(&self, out: &mut impl Write, event: &Event<'_>) {
        let mut text = Vec::new();
        let written = match event {
            Event::RequestSent {
                method,
                uri,
                headers,
                body,
                ..
            } => {
                self.record_secrets(headers, body);
                writeln!(text, "→ {method} {}", without_query(uri))
                    .and_then(|()| self.print_sent_headers(&mut text, headers))
                    .and_then(|()| self.print_body(&mut text, body))
            }
            Event::ResponseReceived {
                status,
                headers,
                body,
                ..
            } => {
                self.record_tokens(body.unwrap_or_default());
                writeln!(text, "← {status}")
                    .and_then(|()| self.print_headers(&mut text, headers))
                    .and_then(|()| self.print_body(&mut text, body.unwrap_or_default()))
            }
            Event::NoResponse { cause, .. } => {
                writeln!(text, "✗ no response: {}", self.redact(&cause.to_string()))
            }
            Event::Retrying(Retrying { wait, .. }) if !wait.is_zero() => {
                writeln!(text, "… waiting {} ms", wait.as_millis())
            }
            _ => Ok(()),
        };
        // Write errors are ignored: there is no other output to report them on.
        let _ = written.and_then(|()| out.write_all(&text));
    }

    /// Records the secrets of a request: sensitive headers, credentials and body parameters.
    fn record_secrets(&self, headers: &HeaderMap, body: &[u8]) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut record = |text: &str| {
            if text.len() >= MIN_SECRET {
                secrets.insert(text.to_owned());
            }
        };
        for (name, value) in headers.iter().filter(|(_, value)| value.is_sensitive()) {
            let Ok(text) = value.to_str() else { continue };
            record(text);
            if name == "authorization" {
                let credential = text
                    .split_once(' ')
                    .map_or(text, |(_, credential)| credential);
                record(credential);
                let pair = STANDARD
                    .decode(credential)
                    .ok()
                    .and_then(|pair| String::from_utf8(pair).ok());
                if let Some((_, secret)) = pair.as_deref().and_then(|pair| pair.split_once(':')) {
                    record(secret);
                    form_urlencoded::parse(format!("x={secret}").as_bytes())
                        .for_each(|(_, secret)| record(&secret));
                }
            }
        }
        for (name, value) in fields(body) {
            if let (false, Value::String(text)) = (SHOWN.contains(&name.as_str()), value) {
                record(&text);
            }
        }
    }

    /// Records the tokens of a response body. The server may repeat them in a message.
    fn record_tokens(&self, body: &[u8]) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, value) in fields(body) {
            if let (true, Value::String(text)) =
                (name.to_ascii_lowercase().ends_with("token"), value)
            {
                secrets.extend(Some(text).filter(|text| text.len() >= MIN_SECRET));
            }
        }
    }

    fn print_sent_headers(&self, out: &mut impl Write, headers: &HeaderMap) -> io::Result<()> {
        for (name, value) in headers {
            let shown = match (name.as_str(), value.to_str()) {
                ("dpop", Ok(proof)) => decode_proof(proof),
                ("authorization", Ok(text)) => {
                    format!(
                        "{} {REDACTED}",
                        text.split_once(' ').map_or("", |(scheme, _)| scheme)
                    )
                }
                _ if value.is_sensitive() => REDACTED.to_owned(),
                _ => self.shown(value),
            };
            writeln!(out, "    {name}: {shown}")?;
        }
        Ok(())
    }

    fn print_headers(&self, out: &mut impl Write, headers: &HeaderMap) -> io::Result<()> {
        for (name, value) in headers {
            let shown = SHOWN_HEADERS.contains(&name.as_str());
            writeln!(
                out,
                "    {name}: {}",
                if shown {
                    self.shown(value)
                } else {
                    REDACTED.to_owned()
                }
            )?;
        }
        Ok(())
    }

    fn print_body(&self, out: &mut impl Write, body: &[u8]) -> io::Result<()> {
        let fields = fields(body);
        if body.is_empty() {
            return Ok(());
        }
        if fields.is_empty() {
            return writeln!(out, "    ({} bytes)", body.len());
        }
        let shown: Map<String, Value> = fields
            .into_iter()
            .map(|(name, value)| self.redacted(&name, value))
            .collect();
        writeln!(out, "    {}", Value::Object(shown))
    }

    fn redacted(&self, name: &str, value: Value) -> (String, Value) {
        let shown = match value {
            Value::String(text) if SHOWN.contains(&name) => Value::from(self.redact(&text)),
            Value::Number(number) if SHOWN.contains(&name) => Value::Number(number),
            _ => Value::from(REDACTED),
        };
        (self.redact(name), shown)
    }

    fn shown(&self, value: &HeaderValue) -> String {
        self.redact(&String::from_utf8_lossy(value.as_bytes()))
    }

    /// Returns `text` without control characters, and with all recorded secrets redacted.
    fn redact(&self, text: &str) -> String {
        let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        // The longest first: a secret may contain a shorter one.
        let mut secrets: Vec<&String> = secrets
            .iter()
            .filter(|secret| text.contains(secret.as_str()))
            .collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        for secret in secrets {
            text = text.replace(secret.as_str(), REDACTED);
        }
        text
    }
}

fn without_query(uri: &Uri) -> String {
    match uri.to_string().split_once('?') {
        Some((before, _)) => format!("{before}?{REDACTED}"),
        None => uri.to_string(),
    }
}

/// Returns the header and the claims of a proof. Its signature, without which it is useless, is
/// redacted.
fn decode_proof(proof: &str) -> String {
    let decoded = |part: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let mut parts = proof.split('.').map(decoded);
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(header), Some(claims)) => format!("{header} . {claims} . {REDACTED}"),
        _ => REDACTED.to_owned(),
    }
}

/// Returns the members of a JSON object, or the parameters of a form. Returns none for other
/// bodies.
fn fields(body: &[u8]) -> Vec<(String, Value)> {
    if let Ok(Value::Object(object)) = serde_json::from_slice(body) {
        return object.into_iter().collect();
    }
    let pairs: Vec<(String, Value)> = form_urlencoded::parse(body)
        .map(|(name, value)| (name.into_owned(), Value::from(value)))
        .collect();
    // Any text parses as a form, so at least one parameter must be known.
    if pairs.iter().any(|(name, _)| SHOWN.contains(&name.as_str())) {
        pairs
    } else {
        Vec::new()
    }
}
