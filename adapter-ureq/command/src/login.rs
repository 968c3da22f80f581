//! A person signs in with their browser, which comes back to this machine (RFC 8252).

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
    /// Scopes, separated by spaces. With `openid`, who signs in is verified: if that fails, the tokens are printed without
    /// `sub`, and the exit status is 1.
    #[arg(long)]
    scope: Option<String>,
    /// Where the token is to be used (RFC 8707). May be given several times.
    #[arg(long, value_name = "URI")]
    resource: Vec<String>,
    /// A further parameter of the authorization request.
    #[arg(long, value_name = "NAME=VALUE", value_parser = PAIR)]
    param: Vec<(String, String)>,
    /// Where the browser comes back, if another place on this machine is registered than http://127.0.0.1/callback with any
    /// port.
    #[arg(long, value_name = "URI")]
    redirect_uri: Option<String>,
    /// Pushes the request to the server first (PAR), also where the server doesn't insist.
    #[arg(long)]
    par: bool,
    /// Prints the URL, and leaves it to the person to open it.
    #[arg(long)]
    no_browser: bool,
    /// How long to wait for the person.
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let scope = options.scope.as_deref().map(Scope::new).transpose()?;
    let listener = Listener::open(options.redirect_uri.as_deref())?;
    let ready = options.client.ready()?;
    // With it, who signs in is verified: what that takes is looked for before anybody does, and a code is spent.
    let is_person_wanted = scope
        .as_ref()
        .is_some_and(|scope| scope.iter().any(|token| token == "openid"));
    let has_keys = |metadata: &Metadata| metadata.endpoint("jwks_uri").is_some();
    if is_person_wanted && !ready.metadata.as_ref().is_none_or(has_keys) {
        return Err(Failure::usage(
            "the issuer's metadata name no jwks_uri, so nobody could verify who signs in: leave openid out of --scope",
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
    let insists = |metadata: &Metadata| metadata.flag("require_pushed_authorization_requests");
    let AuthorizationRequest { url, pending } =
        if options.par || ready.metadata.as_ref().is_some_and(insists) {
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
        warn(&"no browser could be opened: open the address above");
    }
    let nonce = pending.nonce();
    let grant = listener.wait(Duration::from_secs(options.timeout), move |redirect| {
        match pending.receive(redirect) {
            // Anybody on this machine can send such: the person may still come.
            Err(
                RedirectError::StateMismatch
                | RedirectError::DuplicateParameter(_)
                | RedirectError::TooLong,
            ) => None,
            answer => Some(answer),
        }
    })?;
    let token = ready.transport.execute(ready.client.token(grant?)?);
    nonce_cache::store(&ready.transport.server_state());
    let token = token?;
    let person = match &ready.metadata {
        Some(metadata) => person(
            &token,
            metadata,
            &ready.transport,
            options.client.client_id(),
            nonce,
        ),
        None => Ok(None),
    };
    // The code is spent: what it has brought is printed, whoever signed in.
    token::print_of(&token, person.as_ref().ok().and_then(Option::as_deref))?;
    match person {
        Err(why) if is_person_wanted => Err(Failure::refused(format!(
            "who signed in could not be verified, the tokens are printed all the same: {why}"
        ))),
        Err(why) => {
            warn(&format_args!(
                "warning: who signed in could not be verified: {why}"
            ));
            Ok(())
        }
        Ok(_) => Ok(()),
    }
}

/// Who signed in, verified; `None` where the server doesn't say.
fn person(
    token: &Token,
    metadata: &Metadata,
    transport: &Transport,
    client_id: &str,
    nonce: Option<String>,
) -> Result<Option<String>, Failure> {
    let Some(id_token) = token.id_token() else {
        return Ok(None);
    };
    let expected = IdTokenValidation::new(metadata.issuer(), client_id).nonce(nonce);
    let keys = transport.execute(metadata.keys()?)?;
    let person = id_token.verify(&expected, &keys, now());
    Ok(Some(
        person
            .map_err(|problem| Failure::refused(problem.to_string()))?
            .subject()
            .to_owned(),
    ))
}
