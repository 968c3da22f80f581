//! The `login` subcommand: authorization code with PKCE through the user's browser, which is
//! redirected to a listener on this machine (RFC 8252).

use std::time::Duration;

use clap::Args;
use keybound_ureq::{
    AuthorizationRequest, IdTokenValidation, Metadata, RedirectError, Scope, Token, Transport,
};

use crate::client::ClientOptions;
use crate::failure::{Failure, warn};
use crate::input::{PAIR, entropy, now};
use crate::listener::Listener;
use crate::{nonce_cache, token};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    client: ClientOptions,
    /// Scopes, separated by spaces. With `openid`, the ID token is verified: if that fails, the
    /// tokens are printed without `sub`, and the exit status is 1.
    #[arg(long)]
    scope: Option<String>,
    /// A resource that the token is for (RFC 8707). Can be repeated.
    #[arg(long, value_name = "URI")]
    resource: Vec<String>,
    /// An additional parameter of the authorization request. Can be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = PAIR)]
    param: Vec<(String, String)>,
    /// The redirect URI, a loopback URL. Default: http://127.0.0.1/callback with a free port.
    #[arg(long, value_name = "URI")]
    redirect_uri: Option<String>,
    /// Pushes the authorization request to the server first (PAR, RFC 9126), even if the server
    /// does not require it.
    #[arg(long)]
    par: bool,
    /// Prints the URL without opening a browser.
    #[arg(long)]
    no_browser: bool,
    /// The maximum time to wait for the redirect, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let scope = options.scope.as_deref().map(Scope::new).transpose()?;
    let listener = Listener::open(options.redirect_uri.as_deref())?;
    let ready = options.client.ready()?;
    // With this scope the ID token is verified. The check for keys comes before the user logs in
    // and the single-use code is redeemed.
    let wants_openid = scope
        .as_ref()
        .is_some_and(|scope| scope.iter().any(|token| token == "openid"));
    let has_keys = |metadata: &Metadata| metadata.endpoint("jwks_uri").is_some();
    if wants_openid && !ready.metadata.as_ref().is_none_or(has_keys) {
        return Err(Failure::usage(
            "the issuer's metadata has no jwks_uri, so ID tokens cannot be verified: remove openid from --scope",
        ));
    }
    let mut builder = ready
        .client
        .authorization(listener.redirect_uri())
        .map_err(|invalid| ready.explain(invalid))?;
    if let Some(scope) = scope {
        builder = builder.scope(scope);
    }
    for uri in &options.resource {
        builder = builder.resource(uri)?;
    }
    for (name, value) in &options.param {
        builder = builder.param(name, value)?;
    }
    let requires_par = |metadata: &Metadata| metadata.flag("require_pushed_authorization_requests");
    let AuthorizationRequest { url, pending } =
        if options.par || ready.metadata.as_ref().is_some_and(requires_par) {
            ready.transport.execute(
                builder
                    .push(entropy()?)
                    .map_err(|invalid| ready.explain(invalid))?,
            )?
        } else {
            builder.build(entropy()?)?
        };

    warn(&format_args!("sign in at {url}"));
    if !options.no_browser && open::that_detached(url.to_string()).is_err() {
        warn(&"no browser could be started: open the URL above");
    }
    let nonce = pending.nonce();
    let grant = listener.wait(Duration::from_secs(options.timeout), move |redirect| {
        match pending.receive(redirect) {
            // Any process on this machine can send these. The redirect of the login may still
            // arrive.
            Err(
                RedirectError::StateMismatch
                | RedirectError::DuplicateParameter(_)
                | RedirectError::TooLong,
            ) => None,
            result => Some(result),
        }
    })?;
    let token = ready.transport.execute(ready.client.token(grant?)?);
    nonce_cache::store(&ready.transport.server_state());
    let token = token?;
    let subject = match &ready.metadata {
        Some(metadata) => subject(
            &token,
            metadata,
            &ready.transport,
            options.client.client_id(),
            nonce,
        ),
        None => Ok(None),
    };
    // The code is redeemed and single-use, so the tokens are printed even if the ID token is
    // invalid.
    token::print_with_subject(&token, subject.as_ref().ok().and_then(Option::as_deref))?;
    match subject {
        Err(why) if wants_openid => Err(Failure::refused(format!(
            "the ID token could not be verified, the tokens are printed without sub: {why}"
        ))),
        Err(why) => {
            warn(&format_args!(
                "warning: the ID token could not be verified: {why}"
            ));
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

/// Verifies the ID token, and returns its subject. Returns `None` if there is no ID token.
fn subject(
    token: &Token,
    metadata: &Metadata,
    transport: &Transport,
    client_id: &str,
    nonce: Option<String>,
) -> Result<Option<String>, Failure> {
    let Some(id_token) = token.id_token() else {
        return Ok(None);
    };
    let validation = IdTokenValidation::new(metadata.issuer(), client_id).nonce(nonce);
    let keys = transport.execute(metadata.keys()?)?;
    let verified = id_token.verify(&validation, &keys, now());
    Ok(Some(
        verified
            .map_err(|problem| Failure::refused(problem.to_string()))?
            .subject()
            .to_owned(),
    ))
}
