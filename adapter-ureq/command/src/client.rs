//! The options for the authorization server and the client, shared by all subcommands that send
//! requests except `uxt`.

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
    /// The URL of the token endpoint.
    #[arg(long, value_name = "URL", group = "server")]
    token_url: Option<String>,
    /// The issuer: the endpoints are read from its metadata (RFC 8414, OpenID Connect Discovery).
    #[arg(long, value_name = "URL", group = "server")]
    issuer: Option<String>,
    /// A provider with built-in support.
    #[arg(long, group = "server")]
    provider: Option<Provider>,
    /// The base URL of the provider's API. Default: its production URL.
    #[arg(long, value_name = "URL", requires = "provider", conflicts_with_all = ["token_url", "issuer"])]
    base_url: Option<String>,
    /// The client ID.
    #[arg(long, value_name = "ID", default_value = "")]
    client_id: String,
    /// The environment variable that contains the client secret.
    #[arg(long, value_name = "NAME")]
    client_secret_env: Option<String>,
    /// The file of the key for client authentication by private-key-jwt: PKCS#8 (PEM or DER) or a
    /// private JWK.
    #[arg(long, value_name = "FILE")]
    client_key: Option<PathBuf>,
    /// The key ID (`kid`) of the client key. Default: the one in its file.
    #[arg(long, value_name = "KID", requires = "client_key")]
    client_kid: Option<String>,
    /// The algorithm of the client key, if its file leaves a choice.
    #[arg(long, value_name = "ALG", requires = "client_key", value_parser = key::algorithm)]
    client_alg: Option<Algorithm>,
    /// The audience (`aud`) of client assertions. Default: the issuer, or the token endpoint if no
    /// issuer is given.
    #[arg(long, value_name = "AUDIENCE", requires = "client_key")]
    client_audience: Option<String>,
    /// The client authentication method. Default: basic with a secret (post, if the issuer supports
    /// only that), private-key-jwt with a client key, otherwise none.
    #[arg(long)]
    auth: Option<Auth>,
    /// An additional header of the token request; `NAME: VALUE` is accepted as well. Can be
    /// repeated.
    #[arg(long, value_name = "NAME=VALUE", value_parser = HEADER)]
    header: Vec<(String, String)>,
    /// The format of the token request body. Default: form, unless the provider requires JSON.
    #[arg(long)]
    body: Option<Body>,
    /// Requests a token bound to the key (DPoP).
    #[arg(long, requires = "key")]
    dpop: bool,
    /// The file of the DPoP key: PKCS#8 (PEM or DER) or a private JWK.
    #[arg(long, value_name = "FILE", requires = "dpop")]
    key: Option<PathBuf>,
    /// The algorithm of the DPoP key, if its file leaves a choice: RS256 or PS256, EdDSA or
    /// Ed25519.
    #[arg(long, requires = "key", value_parser = key::algorithm)]
    alg: Option<Algorithm>,
    /// Accepts a bearer token although a bound one is requested: for servers that bind the refresh
    /// token alone, such as Google's.
    #[arg(long, requires = "dpop")]
    accept_bearer: bool,
    /// Ignored: plain http is always allowed for loopback addresses, and only for them.
    #[arg(long, hide = true)]
    loopback_http: bool,
    /// Prints each request and response on stderr, with secrets redacted.
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

/// A client, its transport, and the settings that depend on the provider.
pub(crate) struct Ready {
    pub(crate) client: Client,
    pub(crate) transport: Transport,
    /// The authorization server's metadata, if it was discovered.
    pub(crate) metadata: Option<Metadata>,
    /// The headers for every request to the provider's API.
    pub(crate) api_headers: HeaderMap,
    /// The hint for an empty 401 of the provider's API: probable causes, and remedies.
    pub(crate) empty_401: Option<&'static str>,
}

/// The hint for an empty 401 of Moov. In these cases Moov issues a token, but rejects it at its
/// API; both are undocumented.
const MOOVS_EMPTY_401: &str = "usually the Origin header is missing or is not one of the domains registered for the key \
                               (--header Origin=https://…), or the keys are for test mode and the account for \
                               production, or the reverse";

impl Ready {
    /// Returns the failure for `invalid`. For a missing endpoint, its message contains the remedy.
    pub(crate) fn explain(&self, invalid: InvalidInput) -> Failure {
        let InvalidInput::MissingEndpoint(endpoint) = invalid else {
            return invalid.into();
        };
        match &self.metadata {
            Some(_) => Failure::usage(format!("the issuer's metadata has no {endpoint}")),
            None => Failure::usage(format!(
                "the {endpoint} is not known: give --issuer instead of --token-url or --provider, to read it from the metadata"
            )),
        }
    }
}

impl ClientOptions {
    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// Checks all options and builds the client. The only request that this sends is for the
    /// issuer's metadata.
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
                let discovered = metadata
                    .insert(transport.execute(Issuer::https_or_loopback(url)?.discover()?)?);
                bound_to = bound_to.map(|key| discovered.dpop_key(&key)).transpose()?;
                discovered.client(self.client_auth(public.as_ref(), Some(discovered))?)?
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
        if self.accept_bearer {
            client = client.accept_bearer();
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
        let supports = |method| {
            let methods = metadata
                .and_then(|metadata| metadata.list("token_endpoint_auth_methods_supported"));
            methods.map(|mut methods| methods.any(|supported| supported == method))
        };
        let only_post = supports("client_secret_basic") == Some(false)
            && supports("client_secret_post") == Some(true);
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
            (_, Some(_)) => Err(Failure::usage(
                "--client-key requires --auth private-key-jwt",
            )),
            (auth, None) => auth.with(&self.client_id, self.client_secret_env.as_deref()),
        }
    }

    /// Builds the Moov client. `Origin` and `X-Moov-Version` are validated by Moov's rules.
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

/// Returns a transport with the cached server state of earlier commands, and with a trace on stderr
/// if `traced`.
pub(crate) fn transport(traced: bool) -> Transport {
    let transport = Transport::new().with_server_state(nonce_cache::load());
    if !traced {
        return transport;
    }
    let trace = Trace::default();
    transport.on_event(move |event| trace.print(&mut std::io::stderr(), &event))
}
