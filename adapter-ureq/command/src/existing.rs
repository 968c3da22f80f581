//! What becomes of a token that is there already.

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
    /// The environment variable that holds the token.
    #[arg(long, value_name = "NAME")]
    token_env: String,
    /// Which kind of token it is, if the server is to be told.
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

/// Prints what the server says of it; status 1 if it is not active.
pub(crate) fn introspect(options: &Options) -> Result<(), Failure> {
    let token = secret(&options.token_env)?;
    let ready = options.client.ready()?;
    let asked = ready
        .client
        .introspect(token, options.hint())
        .map_err(|invalid| ready.explain(invalid))?;
    let said = ready.transport.execute(asked)?;
    let shown = json!({
        "active": said.is_active(),
        "scope": said.scope().map(Scope::as_str),
        "expires_at": said.expires_at().map(UnixTime::as_secs),
        "jkt": said.jkt(),
        "client_id": said.text("client_id"),
        "sub": said.text("sub"),
    });
    writeln!(Stdout, "{shown}")?;
    if said.is_active() {
        Ok(())
    } else {
        Err(Failure::refused("the token is not active"))
    }
}

/// Prints nothing: it is revoked, or was never good.
pub(crate) fn revoke(options: &Options) -> Result<(), Failure> {
    let token = secret(&options.token_env)?;
    let ready = options.client.ready()?;
    let asked = ready
        .client
        .revoke(token, options.hint())
        .map_err(|invalid| ready.explain(invalid))?;
    let revoked = ready.transport.execute(asked);
    nonce_cache::store(&ready.transport.server_state());
    revoked?;
    Ok(())
}
