//! The device authorization grant (RFC 8628). A device without a browser displays a code, and polls
//! until the user has approved or denied the request on another device.
//!
//! ```
//! use keybound_core::*;
//! # use keybound_core::driver::FromResponse;
//! # trait Driver { fn execute<T: FromResponse>(&self, operation: Operation<T>) -> Result<T, Error>; }
//!
//! # fn example(driver: impl Driver) -> Result<(), Error> {
//! let client = Client::new(Endpoint::https("https://as.example/token")?, ClientAuth::none("tv")?)
//!     .device_authorization_endpoint(Endpoint::https("https://as.example/device")?);
//! let device = driver.execute(client.device_authorization(Some(Scope::new("films")?))?)?;
//! println!("Go to {} and type {}", device.verification_uri(), device.user_code());
//!
//! // Requests the token at the server's polling interval, until there is one.
//! let token = driver.execute(client.token(device.grant())?)?;
//! # let _ = token;
//! # Ok(())
//! # }
//! ```

use std::{fmt, time::Duration};

use crate::oauth::client::{Client, required};
use crate::oauth::grant::{Grant, Polling, Scope};
use crate::oauth::issuer::Server;
use crate::request::operation::{FlowFailure, FromResponse, Operation, SuccessResponse, sealed};
use crate::types::error::{InvalidResponseKind, ParseError};
use crate::types::{endpoint::Endpoint, input::InvalidInput, secret::Secret, time::UnixTime};
use crate::wire::{error_response::sanitize, json::JsonObject, params::Params};

/// The default interval between two requests, and its increase after `slow_down`: 5 s (RFC 8628
/// §3.2, §3.5).
const POLL_INTERVAL: Duration = Duration::from_secs(5);

/// The maximum interval between two requests: 5 minutes, whatever the server asks for.
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(300);

impl Client {
    /// Requests a device code and a user code (RFC 8628 §3.1).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the client has no [device authorization
    /// endpoint](Self::device_authorization_endpoint).
    pub fn device_authorization(
        &self,
        scope: Option<Scope>,
    ) -> Result<Operation<DeviceAuthorization>, InvalidInput> {
        let endpoint = self.0.device_authorization_endpoint.as_ref();
        let endpoint = required(endpoint, "device_authorization_endpoint")?;
        let params = scope.map_or_else(Params::default, |scope| Params::new("scope", scope.0));
        // No proof here: it binds the token, which is requested later (RFC 9449 §5).
        Ok(self.post(endpoint, params, None, self.server()))
    }
}

/// The response to a device authorization request (RFC 8628 §3.2): a user code and a URL to
/// display, and the device code for the token request.
#[derive(Clone)]
#[must_use]
pub struct DeviceAuthorization {
    device_code: Secret,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    polling: Polling,
    /// The authorization server that issued the codes.
    server: Server,
}

impl DeviceAuthorization {
    /// Returns the URL that the user opens: `https`, or `http` with a loopback host.
    pub fn verification_uri(&self) -> &str {
        &self.verification_uri
    }

    /// Returns the URL with the user code included, for a QR code or a link. Returns `None` if the
    /// response has no valid one.
    pub fn verification_uri_complete(&self) -> Option<&str> {
        self.verification_uri_complete.as_deref()
    }

    /// Returns the code that the user enters at the verification URL.
    pub fn user_code(&self) -> &str {
        &self.user_code
    }

    /// Returns the time at which both codes expire.
    pub fn expires_at(&self) -> UnixTime {
        self.polling.until
    }

    /// Returns the grant for [`Client::token`], for a client of the same authorization server.
    ///
    /// The operation polls at the interval that the server specifies (RFC 8628 §3.5; default: 5 s),
    /// until the codes expire, and then returns the server's last error. The
    /// [timeout](Operation::timeout) applies to each poll separately; the delays between polls are
    /// not counted.
    pub fn grant(&self) -> Grant {
        let mut grant = Grant::device_code(self.device_code.clone(), self.polling);
        grant.server = Some(self.server.clone());
        grant
    }
}

impl sealed::Sealed for DeviceAuthorization {}

/// Parses a response of RFC 8628 §3.2.
impl FromResponse for DeviceAuthorization {
    type Expected = Server;

    fn parse(success: &SuccessResponse<'_>, server: &Server) -> Result<Self, ParseError> {
        let members = JsonObject::parse_response(success.body, "device_code")?;
        let url = |name| {
            let url = members.required_str(name)?;
            // The URL is opened in a browser, so it may have a fragment.
            match Endpoint::https_or_loopback(&url.replacen('#', "?", 1)) {
                Ok(_) => Ok(url.into_owned()),
                Err(_) => Err(InvalidResponseKind::InvalidMember(name)),
            }
        };
        // Google names the member `verification_url`.
        let verification_uri =
            url("verification_uri").or_else(|error| url("verification_url").map_err(|_| error))?;
        let lifetime = members.seconds("expires_in");
        let lifetime = lifetime.ok_or(InvalidResponseKind::Missing("expires_in"))?;
        let interval = members.seconds("interval").filter(|wait| !wait.is_zero());
        let interval = interval.unwrap_or(POLL_INTERVAL).min(lifetime);
        Ok(Self {
            device_code: Secret::new(members.required_str("device_code")?),
            user_code: sanitize(&members.required_str("user_code")?),
            verification_uri,
            verification_uri_complete: url("verification_uri_complete").ok(),
            polling: Polling {
                interval: interval.min(MAX_POLL_INTERVAL),
                until: success.now.saturating_add(lifetime),
            },
            server: server.clone(),
        })
    }
}

impl fmt::Debug for DeviceAuthorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeviceAuthorization")
            .field("verification_uri", &self.verification_uri)
            .field("polling", &self.polling)
            .finish_non_exhaustive()
    }
}

impl Polling {
    /// Returns the wait before the next request, unless the user has decided or the code expires
    /// first (RFC 8628 §3.5).
    pub(super) fn after(&mut self, failure: &FlowFailure, now: UnixTime) -> Option<Duration> {
        let FlowFailure::Refusal(error) = failure else {
            return None;
        };
        match error.code() {
            Some("authorization_pending") => {}
            Some("slow_down") => self.interval = self.interval.saturating_add(POLL_INTERVAL),
            _ => return None,
        }
        let delay = self.interval.max(error.retry_after().unwrap_or_default());
        let delay = delay.min(MAX_POLL_INTERVAL);
        (now.saturating_add(delay) < self.until).then_some(delay)
    }
}
