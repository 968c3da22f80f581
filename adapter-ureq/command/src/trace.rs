//! What goes over the wire, for people: secrets redacted, proofs taken apart, nothing that moves a terminal's cursor.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, HeaderValue, Uri};
use keybound_ureq::Event;
use serde_json::{Map, Value};

/// The members and parameters that tell what happens and can't be misused. All others are redacted.
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

/// The headers of a response that may be shown.
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

/// Short texts that a server echoes are hardly secrets, and striking them out would garble the rest.
const MIN_SECRET: usize = 6;

/// Remembers what was sent in secret, so as to strike it out of what comes back.
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
                self.remember(headers, body);
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
                self.remember_tokens(body.unwrap_or_default());
                writeln!(text, "← {status}")
                    .and_then(|()| self.print_headers(&mut text, headers))
                    .and_then(|()| self.print_body(&mut text, body.unwrap_or_default()))
            }
            Event::NoResponse { cause, .. } => {
                writeln!(text, "✗ no answer: {}", self.redact(&cause.to_string()))
            }
            Event::Retrying { wait, .. } if !wait.is_zero() => {
                writeln!(text, "… waiting {} ms", wait.as_millis())
            }
            _ => Ok(()),
        };
        // There is nobody to tell that it couldn't be written.
        let _ = written.and_then(|()| out.write_all(&text));
    }

    fn remember(&self, headers: &HeaderMap, body: &[u8]) {
        let mut secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keep = |text: &str| {
            if text.len() >= MIN_SECRET {
                secrets.insert(text.to_owned());
            }
        };
        for (name, value) in headers.iter().filter(|(_, value)| value.is_sensitive()) {
            let Ok(text) = value.to_str() else { continue };
            keep(text);
            if name == "authorization" {
                let credential = text
                    .split_once(' ')
                    .map_or(text, |(_, credential)| credential);
                keep(credential);
                let pair = STANDARD
                    .decode(credential)
                    .ok()
                    .and_then(|pair| String::from_utf8(pair).ok());
                if let Some((_, secret)) = pair.as_deref().and_then(|pair| pair.split_once(':')) {
                    keep(secret);
                    form_urlencoded::parse(format!("x={secret}").as_bytes())
                        .for_each(|(_, secret)| keep(&secret));
                }
            }
        }
        for (name, value) in fields(body) {
            if let (false, Value::String(text)) = (SHOWN.contains(&name.as_str()), value) {
                keep(&text);
            }
        }
    }

    /// A server may name the tokens that it sends once more, in a message.
    fn remember_tokens(&self, body: &[u8]) {
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
                ("dpop", Ok(proof)) => taken_apart(proof),
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

    /// One line, what was sent in secret struck out.
    fn redact(&self, text: &str) -> String {
        let mut text: String = text.chars().filter(|c| !c.is_control()).collect();
        let secrets = self.secrets.lock().unwrap_or_else(PoisonError::into_inner);
        // A longer one may contain a shorter.
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

/// Header and claims of a proof that we made. Without its signature it is good for nothing.
fn taken_apart(proof: &str) -> String {
    let decoded = |part: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let mut parts = proof.split('.').map(decoded);
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(header), Some(claims)) => format!("{header} . {claims} . {REDACTED}"),
        _ => REDACTED.to_owned(),
    }
}

/// The members of a JSON object, or the parameters of a form. None for anything else.
fn fields(body: &[u8]) -> Vec<(String, Value)> {
    if let Ok(Value::Object(object)) = serde_json::from_slice(body) {
        return object.into_iter().collect();
    }
    let pairs: Vec<(String, Value)> = form_urlencoded::parse(body)
        .map(|(name, value)| (name.into_owned(), Value::from(value)))
        .collect();
    // Anything parses as a form; this is one only if it has a parameter that is known.
    if pairs.iter().any(|(name, _)| SHOWN.contains(&name.as_str())) {
        pairs
    } else {
        Vec::new()
    }
}
