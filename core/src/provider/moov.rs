//! [Moov](https://docs.moov.io/api/): `POST /oauth2/token` and `/oauth2/revoke`.
//!
//! What Moov does that its reference doesn't say is known from its SDKs and its users' reports: `expires_in` is
//! a Unix time, the token request needs an `Origin`, and a token made with an unregistered one is good for
//! nothing but an empty 401.

use std::fmt;

use http::header::ORIGIN;
use http::{HeaderMap, HeaderValue};

use crate::oauth::client::Client;
use crate::request::client_auth::ClientAuth;
use crate::types::endpoint::Endpoint;
use crate::types::input::InvalidInput;
use crate::wire::params::BodyFormat;

/// The one production host; the key pair tells test mode from production.
const BASE_URL: &str = "https://api.moov.io/";

/// Moov's API, for one pair of keys.
#[derive(Clone, Debug)]
#[must_use]
pub struct Moov {
    auth: ClientAuth,
    base: Endpoint,
    headers: HeaderMap,
}

/// What Moov is known to trip over, although the request can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    /// No [`Origin`] is set: Moov's guide requires one on token requests.
    OriginMissing,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OriginMissing => f.write_str(
                "no Origin is set; Moov requires one that is registered with the API key, and answers later calls \
                 with an empty 401 otherwise",
            ),
        }
    }
}

impl Moov {
    /// The production API. Moov takes its keys by [`ClientAuth::basic`] (public key as id, secret key as
    /// secret), in the body, or both.
    pub fn new(auth: ClientAuth) -> Self {
        Self {
            auth,
            base: Endpoint::from_static(BASE_URL),
            headers: HeaderMap::new(),
        }
        .version(Version::default())
    }

    /// Another host, for mocks and sandboxes.
    pub fn base_url(mut self, base: Endpoint) -> Self {
        self.base = base;
        self
    }

    /// One of the domains registered with the API key; sent as `Origin`.
    pub fn origin(mut self, origin: Origin) -> Self {
        self.headers.insert(ORIGIN, origin.0);
        self
    }

    /// The API version; sent as `X-Moov-Version`.
    pub fn version(mut self, version: Version) -> Self {
        self.headers.insert("x-moov-version", version.0);
        self
    }

    /// What will probably go wrong.
    pub fn warnings(&self) -> Vec<Warning> {
        if !self.headers.contains_key(ORIGIN) {
            vec![Warning::OriginMissing]
        } else {
            Vec::new()
        }
    }

    /// A client of the token and revocation endpoints. It refuses client credentials without a scope.
    ///
    /// # Errors
    /// `InvalidInput` if the base URL has a query.
    pub fn client(&self) -> Result<Client, InvalidInput> {
        Ok(
            Client::new(self.endpoint("/oauth2/token")?, self.auth.clone())
                .revocation_endpoint(self.endpoint("/oauth2/revoke")?)
                .body_format(BodyFormat::Json)
                .headers(self.headers.clone())
                .require_scope(),
        )
    }

    /// A URL of the API: `path` begins with a slash.
    ///
    /// # Errors
    /// `InvalidInput` if `path` begins otherwise, the base URL has a query, or the result is no URL.
    pub fn endpoint(&self, path: &str) -> Result<Endpoint, InvalidInput> {
        self.base.join(path)
    }

    /// `Origin` and `X-Moov-Version`, which every call of the API should have.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }
}

/// A web origin (RFC 6454 §6.2): scheme and host, perhaps a port, nothing behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(HeaderValue);

impl Origin {
    /// An `https` origin, `https://your-domain.com`.
    ///
    /// # Errors
    /// `InvalidInput` for another scheme, a user name, a path (a closing slash included), a query or a fragment.
    pub fn new(origin: &str) -> Result<Self, InvalidInput> {
        let invalid = InvalidInput::new(
            "origin",
            "must be https:// and a domain, with nothing behind it, not even a slash",
        );
        let endpoint = Endpoint::https(origin).map_err(|_| invalid.clone())?;
        let text = endpoint.to_string();
        match text.strip_suffix('/') {
            Some(bare) if !origin.ends_with('/') && bare.matches(['/', '?']).count() == 2 => {
                HeaderValue::from_str(bare).map(Self).map_err(|_| invalid)
            }
            _ => Err(invalid),
        }
    }
}

/// A version of Moov's API: `vYYYY.QQ.BB`, or `latest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(HeaderValue);

impl Default for Version {
    /// `v2024.01.00`, which Moov takes where none is given.
    fn default() -> Self {
        Self(HeaderValue::from_static("v2024.01.00"))
    }
}

impl Version {
    /// A version: `QQ` is the first month of a quarter (01, 04, 07, 10), `BB` a build number.
    ///
    /// # Errors
    /// `InvalidInput` for anything else.
    pub fn new(version: &str) -> Result<Self, InvalidInput> {
        let is_number =
            |text: &str, len| text.len() == len && text.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Option<Vec<&str>> = version
            .strip_prefix('v')
            .map(|rest| rest.split('.').collect());
        let dated = match parts.as_deref() {
            Some([year, "01" | "04" | "07" | "10", build]) => {
                is_number(year, 4) && is_number(build, 2)
            }
            _ => false,
        };
        match HeaderValue::from_str(version) {
            Ok(value) if dated || version == "latest" => Ok(Self(value)),
            _ => Err(InvalidInput::new(
                "version",
                "must be `latest`, or vYYYY.QQ.BB with QQ one of 01, 04, 07, 10",
            )),
        }
    }
}

/// Moov's scopes, as its operations name them. They are an open set: any other text will do as well.
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

    /// A scope on one account: `/accounts/{account_id}/{permission}`, as in `transfers.write`. Transfers want
    /// the platform's account, all others the connected one.
    ///
    /// # Errors
    /// `InvalidInput` if either is empty or would leave its place.
    pub fn account(account_id: &str, permission: &str) -> Result<String, InvalidInput> {
        let fits = |text: &str| {
            !text.is_empty()
                && text
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if !fits(account_id) || account_id.starts_with('.') {
            return Err(InvalidInput::new(
                "account_id",
                "must be made of letters, digits, `-` and `_`",
            ));
        }
        if !fits(permission) {
            return Err(InvalidInput::new(
                "permission",
                "must be a name such as `transfers.write`",
            ));
        }
        Ok(format!("/accounts/{account_id}/{permission}"))
    }
}
