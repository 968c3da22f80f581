//! The `token` subcommand, and the output of tokens.

use std::io::Write as _;

use keybound_ureq::{Scope, Secret, Token, UnixTime};
use serde_json::json;

use crate::failure::Failure;
use crate::grant::TokenOptions;
use crate::nonce_cache;
use crate::output::Stdout;

pub(crate) fn run(options: &TokenOptions) -> Result<(), Failure> {
    let (ready, grant) = options.ready()?;
    let token = ready.transport.execute(ready.client.token(grant)?);
    nonce_cache::store(&ready.transport.server_state());
    print(&token?)
}

/// Prints the token as one line of JSON.
pub(crate) fn print(token: &Token) -> Result<(), Failure> {
    print_with_subject(token, None)
}

/// Prints the token as [`print()`] does, with the verified subject of its ID token as `sub`.
pub(crate) fn print_with_subject(token: &Token, subject: Option<&str>) -> Result<(), Failure> {
    let mut output = json!({
        "access_token": token.access_token().expose(),
        "token_type": token.token_type().as_str(),
        "expires_at": token.expires_at().map(UnixTime::as_secs),
        "refresh_token": token.refresh_token().map(Secret::expose),
        "scope": token.scope().map(Scope::as_str),
        "jkt": token.key().map(|key| key.thumbprint()),
    });
    if let (Some(subject), Some(members)) = (subject, output.as_object_mut()) {
        members.insert("sub".into(), subject.into());
    }
    Ok(writeln!(Stdout, "{output}")?)
}
