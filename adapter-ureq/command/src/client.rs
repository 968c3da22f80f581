//! Which server is asked, and who asks: the options that `token`, `call` and `login` share.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use http::HeaderMap;
use keybound_ureq::jose::{Algorithm, PublicJwk, SigningKey};
use keybound_ureq::provider::moov::{Moov, Origin, Version};
use keybound_ureq::{
    BodyFormat, Client, ClientAuth, Endpoint, InvalidInput, Issuer, Metadata, Transport,
};

use crate::failure::{Failure, warn};
use crate::input::{HEADER, secret};
use crate::trace::Trace;
use crate::{key, nonce_cache};

#[derive(Args)]
#[command(group = ArgGroup::new("server").required(true))]
pub(crate) struct ClientOptions {
    /// The token endpoint.
    #[arg(long, value_name = "URL", group = "server")]
    token_url: Option<String>,
    /// The authorization server, whose metadata tell the rest (RFC 8414, OpenID Connect).
    #[arg(long, value_name = "URL", group = "server")]
    issuer: Option<String>,
    /// A provider that is known by name.
    #[arg(long, group = "server")]
    provider: Option<Provider>,
    /// Where the provider is, if not where it usually is.
    #[arg(long, value_name = "URL", requires = "provider", conflicts_with_all = ["token_url", "issuer"])]
    base_url: Option<String>,
    #[arg(long, value_name = "ID", default_value = "")]
    client_id: String,
    /// The environment variable that holds the client's secret.
    #[arg(long, value_name = "NAME")]
    client_secret_env: Option<String>,
    /// The key by which the client authenticates itself (private-key-jwt): PKCS#8 (PEM or DER), or a private JWK.
    #[arg(long, value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// The name by which the server knows that key, where the file doesn't tell.
    #[arg(long, value_name = "KID", requires = "client_key")]
    client_kid: Option<String>,
    /// Which algorithm that key is for, where the file doesn't tell.
    #[arg(long, value_name = "ALG", requires = "client_key", value_parser = key::algorithm)]
    client_alg: Option<Algorithm>,
    /// Whom the client's assertions are for, if neither the issuer nor the token endpoint.
    #[arg(long, value_name = "AUDIENCE", requires = "client_key")]
    client_audience: Option<String>,
    /// How the client authenticates itself; basic where there is a secret (post, if that is all that the issuer takes),
    /// private-key-jwt where there is a client key, else none.
    #[arg(long)]
    auth: Option<Auth>,
    /// A further header of the token request; `NAME: VALUE` will do as well.
    #[arg(long, value_name = "NAME=VALUE", value_parser = HEADER)]
    header: Vec<(String, String)>,
    /// How the token request's body is written; form, but for providers that want JSON.
    #[arg(long)]
    body: Option<Body>,
    /// Binds the token to the key (DPoP).
    #[arg(long, requires = "key")]
    dpop: bool,
    /// The key: PKCS#8 (PEM or DER), or a private JWK.
    #[arg(long, value_name = "FILE", requires = "dpop")]
    key: Option<PathBuf>,
    /// Which algorithm the key is for, where the file doesn't tell: RS256 or PS256, EdDSA or Ed25519.
    #[arg(long, requires = "key", value_parser = key::algorithm)]
    alg: Option<Algorithm>,
    /// Plain http is for loopback addresses, with or without this word.
    #[arg(long, hide = true)]
    loopback_http: bool,
    /// Prints each request and response on stderr, secrets redacted.
    #[arg(long)]
    pub(crate) trace: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Provider {
    Moov,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Auth {
    Basic,
    Post,
    Both,
    None,
    Bearer,
    PrivateKeyJwt,
}

#[derive(Clone, Copy, ValueEnum)]
enum Body {
    Form,
    Json,
}

/// A client with all that it needs to be used.
pub(crate) struct Ready {
    pub(crate) client: Client,
    pub(crate) transport: Transport,
    /// What the server says of itself, where it was asked.
    pub(crate) metadata: Option<Metadata>,
    /// What every call of the provider's API should have.
    pub(crate) api_headers: HeaderMap,
    /// What it mostly means when the provider's API answers 401 without a body, and what to do.
    pub(crate) empty_401: Option<&'static str>,
}

/// Moov gives a token all the same, and documents neither.
const MOOVS_EMPTY_401: &str = "mostly the Origin is missing or is none of the domains that are registered with the key \
                               (--header Origin=https://…), or the keys are those of the test mode and the account is a \
                               production account, or the reverse";

impl Ready {
    /// What the user can do about an endpoint that isn't known.
    pub(crate) fn explain(&self, invalid: InvalidInput) -> Failure {
        let endpoint = invalid.argument();
        match &self.metadata {
            _ if !endpoint.ends_with("_endpoint") => invalid.into(),
            Some(_) => Failure::usage(format!("the issuer's metadata name no {endpoint}")),
            None => Failure::usage(format!(
                "the {endpoint} isn't known: give --issuer in place of --token-url or --provider, and its metadata tell it"
            )),
        }
    }
}

impl ClientOptions {
    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Everything is checked here, before anything is sent but a question for the issuer's metadata.
    pub(crate) fn ready(&self) -> Result<Ready, Failure> {
        let client_key = self
            .client_key
            .as_ref()
            .map(|file| key::read(file, self.client_alg))
            .transpose()?;
        let key = self
            .key
            .as_ref()
            .map(|file| key::read(file, self.alg))
            .transpose()?;
        let public = client_key.as_ref().map(SigningKey::public);
        let public = public.map(|key| {
            self.client_kid
                .as_ref()
                .map_or_else(|| key.clone(), |kid| key.with_kid(kid))
        });
        let auth = self.client_auth(public.as_ref(), None)?;
        let mut bound_to = key.as_ref().map(|key| key.public().clone());
        let transport =
            transport(self.trace).signer(Vec::from_iter(key.into_iter().chain(client_key)));
        let mut api_headers = HeaderMap::new();
        let mut empty_401 = None;
        let mut metadata = None;
        let mut client = match (&self.token_url, &self.issuer, self.provider) {
            (_, _, Some(Provider::Moov)) => {
                let moov = self.moov(auth)?;
                for warning in moov.warnings() {
                    warn(&format_args!("warning: {warning}"));
                }
                api_headers = moov.headers().clone();
                empty_401 = Some(MOOVS_EMPTY_401);
                moov.client()?
            }
            (_, Some(url), None) => {
                let said = metadata
                    .insert(transport.execute(Issuer::https_or_loopback(url)?.discover()?)?);
                bound_to = bound_to.map(|key| said.dpop_key(&key)).transpose()?;
                said.client(self.client_auth(public.as_ref(), Some(said))?)?
            }
            (Some(url), None, None) => Client::new(Endpoint::https_or_loopback(url)?, auth),
            (None, None, None) => {
                return Err(Failure::usage(
                    "--token-url, --issuer or --provider must be given",
                ));
            }
        };
        for (name, value) in &self.header {
            if !api_headers.contains_key(name) {
                client = client.header(name, value)?;
            }
        }
        match self.body {
            Some(Body::Form) => client = client.body_format(BodyFormat::Form),
            Some(Body::Json) => client = client.body_format(BodyFormat::Json),
            None => {}
        }
        if let Some(key) = bound_to {
            client = client.dpop(key);
        }
        Ok(Ready {
            client,
            transport,
            metadata,
            api_headers,
            empty_401,
        })
    }

    fn client_auth(
        &self,
        key: Option<&PublicJwk>,
        metadata: Option<&Metadata>,
    ) -> Result<ClientAuth, Failure> {
        let takes = |method| {
            let methods = metadata
                .and_then(|metadata| metadata.list("token_endpoint_auth_methods_supported"));
            methods.map(|mut methods| methods.any(|taken| taken == method))
        };
        let only_post = takes("client_secret_basic") == Some(false)
            && takes("client_secret_post") == Some(true);
        let auth = match (self.auth, &self.client_secret_env, key) {
            (Some(auth), ..) => auth,
            (None, Some(_), _) if only_post => Auth::Post,
            (None, Some(_), _) => Auth::Basic,
            (None, None, Some(_)) => Auth::PrivateKeyJwt,
            (None, None, None) => Auth::None,
        };
        match (auth, key) {
            (Auth::PrivateKeyJwt, Some(key)) => {
                let auth = ClientAuth::private_key_jwt(&self.client_id, key.clone())?;
                Ok(self
                    .client_audience
                    .iter()
                    .try_fold(auth, |auth, audience| auth.audience(audience))?)
            }
            (_, Some(_)) => Err(Failure::usage("--client-key is for --auth private-key-jwt")),
            (auth, None) => auth.with(&self.client_id, self.client_secret_env.as_deref()),
        }
    }

    /// Moov's own headers are validated by its own rules.
    fn moov(&self, auth: ClientAuth) -> Result<Moov, InvalidInput> {
        let mut moov = Moov::new(auth);
        if let Some(url) = &self.base_url {
            moov = moov.base_url(Endpoint::https_or_loopback(url)?);
        }
        for (name, value) in &self.header {
            if name.eq_ignore_ascii_case("origin") {
                moov = moov.origin(Origin::new(value)?);
            } else if name.eq_ignore_ascii_case("x-moov-version") {
                moov = moov.version(Version::new(value)?);
            }
        }
        Ok(moov)
    }
}

impl Auth {
    pub(crate) fn with(
        self,
        client_id: &str,
        secret_env: Option<&str>,
    ) -> Result<ClientAuth, Failure> {
        let secret = || {
            secret(secret_env.ok_or(Failure::usage(
                "--client-secret-env must be given for this --auth",
            ))?)
        };
        Ok(match self {
            Self::Basic => ClientAuth::basic(client_id, secret()?)?,
            Self::Post => ClientAuth::post(client_id, secret()?)?,
            Self::Both => ClientAuth::both(client_id, secret()?)?,
            Self::None => ClientAuth::none(client_id)?,
            Self::Bearer => ClientAuth::bearer(secret()?)?,
            Self::PrivateKeyJwt => {
                return Err(Failure::usage("--client-key must be given for this --auth"));
            }
        })
    }
}

/// A transport that knows what earlier commands have learned.
pub(crate) fn transport(traced: bool) -> Transport {
    let transport = Transport::new().with_server_state(nonce_cache::load());
    if !traced {
        return transport;
    }
    let trace = Trace::default();
    transport.on_event(move |event| trace.print(&mut std::io::stderr(), &event))
}
