//! The options for the grant, shared by `token` and `call`.

use clap::Args;
use keybound_ureq::{Client, Grant, Scope, Secret, Session, Transport};

use crate::client::{ClientOptions, Ready};
use crate::failure::{Failure, warn};
use crate::input::{PAIR, secret};

#[derive(Args)]
pub(crate) struct TokenOptions {
    #[command(flatten)]
    pub(crate) client: ClientOptions,
    /// The grant type: client_credentials, refresh_token, device_code, token-exchange, jwt-bearer,
    /// or the name or URN of another grant.
    #[arg(long, value_name = "GRANT", default_value = "client_credentials")]
    grant: String,
    /// The environment variable that contains the refresh token. `call` does not store a
    /// replacement: use it with `call` only if the server does not rotate refresh tokens.
    #[arg(long, value_name = "NAME")]
    refresh_token_env: Option<String>,
    /// Scopes, separated by spaces.
    #[arg(long)]
    scope: Option<String>,
    /// A resource that the token is for (RFC 8707). Can be repeated.
    #[arg(long, value_name = "URI")]
    resource: Vec<String>,
    /// An additional parameter of the token request, if it is not secret. Can be repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = PAIR)]
    param: Vec<(String, String)>,
    /// An additional secret parameter, such as subject_token or assertion, and the environment
    /// variable that contains its value. Can be repeated.
    #[arg(long, value_name = "NAME=VARIABLE", value_parser = PAIR)]
    param_env: Vec<(String, String)>,
}

/// The grants that can be given by the last part of their URN.
const URN_SUFFIXES: [&str; 2] = ["jwt-bearer", "token-exchange"];
const DEVICE_CODE: &str = "device_code";
const URN: &str = "urn:ietf:params:oauth:grant-type:";

/// The parameters that are rejected in arguments, because they are secret.
const SECRET_PARAMS: [&str; 7] = [
    "actor_token",
    "assertion",
    "client_assertion",
    "client_secret",
    "password",
    "refresh_token",
    "subject_token",
];

impl TokenOptions {
    /// Returns the client, and the grant for its token. For a device code, first prints the
    /// instructions for the user.
    pub(crate) fn ready(&self) -> Result<(Ready, Grant), Failure> {
        if self.grant.strip_prefix(URN).unwrap_or(&self.grant) == DEVICE_CODE {
            // Detects invalid options before the first request.
            let _ = self.with_options(Grant::extension(DEVICE_CODE)?)?;
            let ready = self.client.ready()?;
            let grant = self.device(&ready)?;
            return Ok((ready, self.with_options(grant)?));
        }
        let grant = match (self.grant.as_str(), &self.refresh_token_env) {
            ("refresh_token", Some(name)) => Grant::refresh_token(secret(name)?)?,
            ("refresh_token", None) => {
                return Err(Failure::usage(
                    "--refresh-token-env must be given for this grant",
                ));
            }
            (_, Some(_)) => {
                return Err(Failure::usage(
                    "--refresh-token-env requires --grant refresh_token",
                ));
            }
            ("authorization_code", None) if !self.has_code() => {
                return Err(Failure::usage(
                    "--grant authorization_code needs a code: use `keybound login`",
                ));
            }
            ("client_credentials", None) => Grant::client_credentials(),
            (short, None) if URN_SUFFIXES.contains(&short) => {
                Grant::extension(&format!("{URN}{short}"))?
            }
            (name, None) => Grant::extension(name)?,
        };
        let grant = self.with_options(grant)?;
        let grant = self.scope()?.into_iter().fold(grant, Grant::scope);
        Ok((self.client.ready()?, grant))
    }

    /// Returns a session for this grant. A single-use grant is redeemed here, and the session
    /// starts with its token.
    pub(crate) fn session(
        &self,
        transport: Transport,
        client: Client,
        grant: Grant,
    ) -> Result<Session, Failure> {
        if grant.is_repeatable() {
            return Ok(Session::builder(transport, client).grant(grant).build());
        }
        let token = transport.execute(client.token(grant)?)?;
        let used = self.refresh_token_env.as_deref().map(secret).transpose()?;
        let is_new = |token: &Secret| used.as_ref() != Some(token);
        if token.refresh_token().is_some_and(is_new) {
            warn(
                &"warning: the server issued a new refresh token, which `call` does not store: use `keybound token`, which prints it",
            );
        }
        Ok(Session::builder(transport, client).token(token).build())
    }

    fn with_options(&self, mut grant: Grant) -> Result<Grant, Failure> {
        for uri in &self.resource {
            grant = grant.resource(uri)?;
        }
        for (name, value) in &self.param {
            if SECRET_PARAMS.contains(&name.as_str()) {
                return Err(Failure::usage(format!(
                    "{name} is secret, and arguments are visible to other processes: use --param-env {name}=VARIABLE"
                )));
            }
            grant = grant.param(name, value)?;
        }
        for (name, variable) in &self.param_env {
            grant = grant.secret_param(name, secret(variable)?)?;
        }
        Ok(grant)
    }

    /// Whether the parameters contain an authorization code.
    fn has_code(&self) -> bool {
        self.param
            .iter()
            .chain(&self.param_env)
            .any(|(name, _)| name == "code")
    }

    fn scope(&self) -> Result<Option<Scope>, Failure> {
        Ok(self.scope.as_deref().map(Scope::new).transpose()?)
    }

    /// Requests a device code, and prints the URL and the user code. The grant then polls until the
    /// user has decided.
    fn device(&self, ready: &Ready) -> Result<Grant, Failure> {
        let device = ready
            .client
            .device_authorization(self.scope()?)
            .map_err(|invalid| ready.explain(invalid))?;
        let device = ready.transport.execute(device)?;
        let (url, code) = (device.verification_uri(), device.user_code());
        warn(&format_args!("to sign in, go to {url} and type {code}"));
        if let Some(complete) = device.verification_uri_complete() {
            warn(&format_args!("or go to {complete}"));
        }
        Ok(device.grant())
    }
}
