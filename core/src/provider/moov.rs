//! [Moov](https://docs.moov.io/api/): `POST /oauth2/token` and `/oauth2/revoke`.
//!
//! Moov deviates from its reference as follows, according to its SDKs and its users' reports:
//! `expires_in` is a Unix time, the token request needs an `Origin` header, and a call with a token
//! that was issued for an unregistered origin gets an empty 401.

use std::fmt;

use http::{HeaderMap, HeaderValue, header::ORIGIN};

use crate::oauth::client::Client;
use crate::request::client_auth::ClientAuth;
use crate::types::{endpoint::Endpoint, input::InvalidInput};
use crate::wire::params::BodyFormat;

/// The only production host. The key pair selects test mode or production.
const BASE_URL: &str = "https://api.moov.io/";

/// Moov's API, with the credentials of one key pair.
#[derive(Clone, Debug)]
#[must_use]
pub struct Moov {
    auth: ClientAuth,
    base: Endpoint,
    headers: HeaderMap,
}

/// A problem of the settings: the token request can be sent, but Moov rejects it or later calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// No [`Origin`] is set. Moov's guide requires one in token requests.
    OriginMissing,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::OriginMissing = self;
        f.write_str(
            "no Origin is set: Moov responds to later calls with an empty 401. Set one of the domains that \
             are registered with the API key",
        )
    }
}

impl Moov {
    /// Creates the settings for the production API. Moov accepts its keys with [`ClientAuth::basic`]
    /// (the public key as id, the secret key as secret), in the body, or both.
    pub fn new(auth: ClientAuth) -> Self {
        Self {
            auth,
            base: Endpoint::from_static(BASE_URL),
            headers: HeaderMap::new(),
        }
        .version(Version::default())
    }

    /// Sets another base URL, for mocks and sandboxes. Default: `https://api.moov.io/`.
    pub fn base_url(mut self, base: Endpoint) -> Self {
        self.base = base;
        self
    }

    /// Sets the `Origin` header: one of the domains that are registered with the API key.
    pub fn origin(mut self, origin: Origin) -> Self {
        self.headers.insert(ORIGIN, origin.0);
        self
    }

    /// Sets the API version, which is sent as `X-Moov-Version`. Default: `v2024.01.00`.
    pub fn version(mut self, version: Version) -> Self {
        self.headers.insert("x-moov-version", version.0);
        self
    }

    /// Returns the problems that these settings will probably cause.
    pub fn warnings(&self) -> Vec<Warning> {
        let is_missing = !self.headers.contains_key(ORIGIN);
        Vec::from_iter(is_missing.then_some(Warning::OriginMissing))
    }

    /// Returns a client of the token and revocation endpoints. It refuses a client credentials grant
    /// without a scope.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the base URL has a query.
    pub fn client(&self) -> Result<Client, InvalidInput> {
        let client = Client::new(self.endpoint("/oauth2/token")?, self.auth.clone())
            .revocation_endpoint(self.endpoint("/oauth2/revoke")?)
            .body_format(BodyFormat::Json)
            .headers(self.headers.clone());
        Ok(client.require_scope())
    }

    /// Returns the URL of `path`, which begins with a slash, in the API.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `path` does not begin with a slash, the base URL has a query, or the
    /// result is not a valid URL.
    pub fn endpoint(&self, path: &str) -> Result<Endpoint, InvalidInput> {
        self.base.join(path)
    }

    /// Returns the headers for every call of the API: `Origin` and `X-Moov-Version`.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

/// A web origin (RFC 6454 §6.2): a scheme, a host and an optional port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl Origin {
    /// Parses an `https` origin, such as `https://your-domain.com`.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `origin` is not a valid URL, and for another scheme, a user
    /// name, a path (even a trailing slash), a query or a fragment.
    pub fn new(origin: &str) -> Result<Self, InvalidInput> {
        let rule = "must be https:// and a domain, without a path or a trailing slash";
        let invalid = InvalidInput::new("origin", rule);
        let endpoint = Endpoint::https(origin).map_err(|_| invalid)?;
        let text = endpoint.to_string();
        let is_bare = |text: &&str| !origin.ends_with('/') && text.matches(['/', '?']).count() == 2;
        let bare = text.strip_suffix('/').filter(is_bare).ok_or(invalid)?;
        HeaderValue::from_str(bare).map(Self).map_err(|_| invalid)
    }
}

/// A version of Moov's API: `vYYYY.QQ.BB`, or `latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(HeaderValue);

impl Default for Version {
    /// Returns `v2024.01.00`, which Moov assumes for requests without a version.
    fn default() -> Self {
        Self(HeaderValue::from_static("v2024.01.00"))
    }
}

impl Version {
    /// Parses a version: `YYYY` is a year, `QQ` the first month of a quarter (01, 04, 07, 10), `BB` a
    /// build number.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if `version` has another format.
    pub fn new(version: &str) -> Result<Self, InvalidInput> {
        let is_number =
            |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
        let parts = version.strip_prefix('v').unwrap_or_default().split('.');
        let dated = match *parts.collect::<Vec<_>>() {
            [year, "01" | "04" | "07" | "10", build] => is_number(year, 4) && is_number(build, 2),
            _ => false,
        };
        let rule = "must be `latest`, or vYYYY.QQ.BB with QQ one of 01, 04, 07, 10";
        match HeaderValue::from_str(version) {
            Ok(value) if dated || version == "latest" => Ok(Self(value)),
            _ => Err(InvalidInput::new("version", rule)),
        }
    }
}

/// Moov's scopes, as the reference of its operations names them. They are an open set: any other
/// string is accepted as well.
pub mod scope {
    use crate::types::input::InvalidInput;

    /// `/ping.read`
    pub const PING_READ: &str = "/ping.read";
    /// `/fed.read`
    pub const FED_READ: &str = "/fed.read";
    /// `/institutions.read`
    pub const INSTITUTIONS_READ: &str = "/institutions.read";
    /// `/profile-enrichment.read`
    pub const PROFILE_ENRICHMENT_READ: &str = "/profile-enrichment.read";
    /// `/accounts.read`
    pub const ACCOUNTS_READ: &str = "/accounts.read";
    /// `/accounts.write`
    pub const ACCOUNTS_WRITE: &str = "/accounts.write";
    /// `/terminal-applications.read`
    pub const TERMINAL_APPLICATIONS_READ: &str = "/terminal-applications.read";
    /// `/terminal-applications.write`
    pub const TERMINAL_APPLICATIONS_WRITE: &str = "/terminal-applications.write";

    /// Returns the scope of a permission, such as `transfers.write`, on one account:
    /// `/accounts/{account_id}/{permission}`. For transfers, `account_id` is the platform's account, for
    /// other permissions the connected account.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if either is empty or has characters other than ASCII letters,
    /// digits, `-`, `_` and `.`, or if `account_id` begins with a dot.
    pub fn account(account_id: &str, permission: &str) -> Result<String, InvalidInput> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let fits = |text: &str| !text.is_empty() && text.bytes().all(is_allowed);
        if !fits(account_id) || account_id.starts_with('.') {
            let rule = "must be made of letters, digits, `-` and `_`";
            return Err(InvalidInput::new("account_id", rule));
        }
        if !fits(permission) {
            let rule = "must be a name such as `transfers.write`";
            return Err(InvalidInput::new("permission", rule));
        }
        Ok(format!("/accounts/{account_id}/{permission}"))
    }
}
