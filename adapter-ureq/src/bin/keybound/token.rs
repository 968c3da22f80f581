use std::io::{self, Write as _};

use keybound_ureq::{Scope, Secret, Token, UnixTime};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::grant::TokenOptions;
use crate::nonce_cache;

pub(crate) fn run(options: &TokenOptions) -> Result<(), Failure> {
    let (ready, grant) = options.ready()?;
    let token = ready.transport.run(ready.client.token(grant)?);
    nonce_cache::store(&ready.transport.learned());
    print(&token?)
}

/// One line of JSON, for programs.
pub(crate) fn print(token: &Token) -> Result<(), Failure> {
    Ok(writeln!(io::stdout(), "{}", to_json(token))?)
}

fn to_json(token: &Token) -> Value {
    json!({
        "access_token": token.access_token().expose(),
        "token_type": token.token_type().as_str(),
        "expires_at": token.expires_at().map(UnixTime::as_secs),
        "refresh_token": token.refresh_token().map(Secret::expose),
        "scope": token.scope().map(Scope::as_str),
        "jkt": token.key().map(|key| key.thumbprint()),
    })
}
