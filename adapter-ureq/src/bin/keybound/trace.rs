//! What goes over the wire, for people: secrets redacted, proofs taken apart.

use std::io::Write;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};
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
    "scope",
    "token_type",
    "token_type_hint",
];

const REDACTED: &str = "[redacted]";

pub(crate) fn print(out: &mut impl Write, event: &Event<'_>) {
    let written = match event {
        Event::Sending { method, uri, headers, body, .. } => writeln!(out, "→ {method} {uri}")
            .and_then(|()| print_headers(out, headers))
            .and_then(|()| print_body(out, body)),
        Event::Received { status, headers, body, .. } => writeln!(out, "← {status}")
            .and_then(|()| print_headers(out, headers))
            .and_then(|()| print_body(out, body.unwrap_or_default())),
        Event::Lost(cause) => writeln!(out, "✗ no answer: {cause}"),
        Event::Waiting(wait) => writeln!(out, "… waiting {} ms", wait.as_millis()),
        _ => Ok(()),
    };
    // Nobody to tell it to.
    let _ = written;
}

fn print_headers(out: &mut impl Write, headers: &HeaderMap) -> std::io::Result<()> {
    for (name, value) in headers {
        let shown = match (name.as_str(), value.to_str()) {
            ("dpop", Ok(proof)) => taken_apart(proof),
            ("authorization", Ok(text)) => {
                format!("{} {REDACTED}", text.split_once(' ').map_or("", |(scheme, _)| scheme))
            }
            _ if value.is_sensitive() => REDACTED.to_owned(),
            ("set-cookie" | "cookie" | "location", _) => REDACTED.to_owned(),
            _ => printable(value),
        };
        writeln!(out, "    {name}: {shown}")?;
    }
    Ok(())
}

/// Header and claims of a proof. Without its signature it is good for nothing.
fn taken_apart(proof: &str) -> String {
    let decoded = |part: &str| String::from_utf8(URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let mut parts = proof.split('.').map(decoded);
    match (parts.next().flatten(), parts.next().flatten()) {
        (Some(header), Some(claims)) => format!("{header} . {claims} . {REDACTED}"),
        _ => REDACTED.to_owned(),
    }
}

fn print_body(out: &mut impl Write, body: &[u8]) -> std::io::Result<()> {
    if body.is_empty() {
        return Ok(());
    }
    if let Ok(Value::Object(object)) = serde_json::from_slice(body) {
        return writeln!(out, "    {}", Value::Object(redact(object)));
    }
    let pairs: Vec<(String, String)> = form_urlencoded::parse(body).into_owned().collect();
    if pairs.iter().any(|(name, _)| SHOWN.contains(&name.as_str())) {
        let shown: Vec<String> = pairs
            .iter()
            .map(|(name, value)| {
                format!("{name}={}", if SHOWN.contains(&name.as_str()) { value } else { REDACTED })
            })
            .collect();
        return writeln!(out, "    {}", shown.join("&"));
    }
    writeln!(out, "    ({} bytes)", body.len())
}

fn redact(object: Map<String, Value>) -> Map<String, Value> {
    let redacted = |(name, value): (String, Value)| {
        let shown = if SHOWN.contains(&name.as_str()) { value } else { Value::from(REDACTED) };
        (name, shown)
    };
    object.into_iter().map(redacted).collect()
}

fn printable(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}
