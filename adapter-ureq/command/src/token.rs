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

/// One line of JSON, for programs.
pub(crate) fn print(token: &Token) -> Result<(), Failure> {
    print_of(token, None)
}

/// The same, with the person whose token it is.
pub(crate) fn print_of(token: &Token, subject: Option<&str>) -> Result<(), Failure> {
    let mut shown = json!({
        "access_token": token.access_token().expose(),
        "token_type": token.token_type().as_str(),
        "expires_at": token.expires_at().map(UnixTime::as_secs),
        "refresh_token": token.refresh_token().map(Secret::expose),
        "scope": token.scope().map(Scope::as_str),
        "jkt": token.key().map(|key| key.thumbprint()),
    });
    if let (Some(subject), Some(members)) = (subject, shown.as_object_mut()) {
        members.insert("sub".into(), subject.into());
    }
    Ok(writeln!(Stdout, "{shown}")?)
}
