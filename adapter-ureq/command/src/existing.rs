//! The `introspect` and `revoke` subcommands, for an existing token.

use std::io::Write as _;

use clap::{Args, ValueEnum};
use keybound_ureq::{Scope, TokenTypeHint, UnixTime};
use serde_json::json;

use crate::client::ClientOptions;
use crate::failure::Failure;
use crate::input::secret;
use crate::nonce_cache;
use crate::output::Stdout;

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    client: ClientOptions,
    /// The environment variable that contains the token.
    #[arg(long, value_name = "NAME")]
    token_env: String,
    /// The `token_type_hint` parameter: the type of the token. Not sent by default.
    #[arg(long)]
    hint: Option<Hint>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Hint {
    #[value(name = "access_token")]
    Access,
    #[value(name = "refresh_token")]
    Refresh,
}

impl Options {
    fn hint(&self) -> Option<TokenTypeHint> {
        self.hint.map(|hint| match hint {
            Hint::Access => TokenTypeHint::AccessToken,
            Hint::Refresh => TokenTypeHint::RefreshToken,
        })
    }
}

/// Prints the introspection response. Fails if the token is not active.
pub(crate) fn introspect(options: &Options) -> Result<(), Failure> {
    let token = secret(&options.token_env)?;
    let ready = options.client.ready()?;
    let request = ready
        .client
        .introspect(token, options.hint())
        .map_err(|invalid| ready.explain(invalid))?;
    let response = ready.transport.execute(request)?;
    let shown = json!({
        "active": response.is_active(),
        "scope": response.scope().map(Scope::as_str),
        "expires_at": response.expires_at().map(UnixTime::as_secs),
        "jkt": response.jkt(),
        "client_id": response.text("client_id"),
        "sub": response.text("sub"),
    });
    writeln!(Stdout, "{shown}")?;
    if response.is_active() {
        Ok(())
    } else {
        Err(Failure::refused("the token is not active"))
    }
}

/// Revokes the token, and prints nothing. The server also reports success for an invalid token (RFC
/// 7009 §2.2).
pub(crate) fn revoke(options: &Options) -> Result<(), Failure> {
    let token = secret(&options.token_env)?;
    let ready = options.client.ready()?;
    let request = ready
        .client
        .revoke(token, options.hint())
        .map_err(|invalid| ready.explain(invalid))?;
    let result = ready.transport.execute(request);
    nonce_cache::store(&ready.transport.server_state());
    result?;
    Ok(())
}
