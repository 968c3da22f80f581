//! The device grant (RFC 8628): a device without a browser shows a code, and asks until its person has decided elsewhere.
//!
//! ```
//! use keybound_core::*;
//! use keybound_core::driver::*;
//!
//! # fn main() -> Result<(), Error> {
//! let client = Client::new(Endpoint::https("https://as.example/token")?, ClientAuth::none("tv")?)
//!     .device_authorization_endpoint(Endpoint::https("https://as.example/device")?);
//! let (mut origins, now) = (ServerState::new(), UnixTime::from_secs(1_800_000_000));
//! let exchange = client.device_authorization(Some(Scope::new("films")?))?;
//! let Signing::Ready(out) = exchange.prepare(&origins, RequestContext::new(now, [1; 16]))? else { panic!() };
//! let answer = http::Response::new(
//!     r#"{"device_code":"GmRh","user_code":"WDJB-MJHT","verification_uri":"https://as.example/go","expires_in":1800}"#,
//! );
//! let Step::Done(device) = out.pending.receive(answer, &mut origins, now)? else { panic!() };
//! println!("Go to {} and type {}", device.verification_uri(), device.user_code());
//!
//! let exchange = client.token(device.grant())?;
//! assert_eq!(exchange.delay().as_secs(), 5);
//! let Signing::Ready(out) = exchange.prepare(&origins, RequestContext::new(now, [2; 16]))? else { panic!() };
//! let pending = http::Response::builder().status(400).body(r#"{"error":"authorization_pending"}"#).expect("valid");
//! let Step::RetryAfter(again) = out.pending.receive(pending, &mut origins, now)? else { panic!() };
//! assert_eq!(again.delay().as_secs(), 5); // and so on, until there is a token
//! # Ok(())
//! # }
//! ```

use std::fmt;

use crate::oauth::client::Client;
use crate::oauth::grant::{Grant, Polling, Scope};
use crate::oauth::issuer::Server;
use crate::oauth::polling::POLL_INTERVAL;
use crate::request::operation::{Operation, SuccessResponse};
use crate::request::retry::RetrySafety;
use crate::types::endpoint::Endpoint;
use crate::types::error::{InvalidResponseKind, ParseError};
use crate::types::input::InvalidInput;
use crate::types::secret::Secret;
use crate::types::time::UnixTime;
use crate::wire::error_response::sanitize;
use crate::wire::json::JsonObject;
use crate::wire::params::Params;

impl Client {
    /// Asks for a code to show (RFC 8628 §3.1).
    ///
    /// # Errors
    /// `InvalidInput` without a [device authorization endpoint](Self::device_authorization_endpoint).
    pub fn device_authorization(
        &self,
        scope: Option<Scope>,
    ) -> Result<Operation<DeviceAuthorization>, InvalidInput> {
        let endpoint = self.0.device_authorization_endpoint.clone();
        let endpoint = endpoint.ok_or(InvalidInput::new(
            "device_authorization_endpoint",
            "must be set for this grant",
        ))?;
        let fields = scope.map_or_else(Params::default, |scope| Params::new("scope", scope.0));
        // A proof binds the token, which is asked for later (RFC 9449 §5).
        let ask = self.endpoint_request(endpoint, fields, None, RetrySafety::Idempotent);
        let server = self.server();
        Ok(Operation::new(ask, move |success| {
            DeviceAuthorization::read(success, &server)
        }))
    }
}

/// A code that somebody is to type elsewhere, and what the token is asked for with meanwhile (RFC 8628 §3.2).
#[derive(Clone)]
#[must_use]
pub struct DeviceAuthorization {
    device_code: Secret,
    user_code: String,
    verification_uri: String,
    verification_uri_complete: Option<String>,
    polling: Polling,
    /// Which server has given the codes.
    server: Server,
}

impl DeviceAuthorization {
    /// Where the person goes: `https`, or this machine.
    pub fn verification_uri(&self) -> &str {
        &self.verification_uri
    }

    /// The same with the code in it, to be shown as a QR code or opened.
    pub fn verification_uri_complete(&self) -> Option<&str> {
        self.verification_uri_complete.as_deref()
    }

    /// What the person types there.
    pub fn user_code(&self) -> &str {
        &self.user_code
    }

    /// When both codes expire.
    pub fn expires_at(&self) -> UnixTime {
        self.polling.until
    }

    /// The grant for [`Client::token`] of the same server's client. Its exchange asks at the pace that the server wants (RFC 8628 §3.5), for as long as
    /// the codes are good. Each question has the time that the driver gives an exchange; the waits between them don't count.
    pub fn grant(&self) -> Grant {
        Grant::device_code(self.device_code.clone(), self.polling).begun_at(self.server.clone())
    }

    fn read(success: &SuccessResponse<'_>, server: &Server) -> Result<Self, ParseError> {
        let members = JsonObject::parse_response(success.body, "device_code")?;
        let url = |name| match members.required_str(name) {
            // A person's browser goes there, so that it may have a fragment.
            Ok(url) if Endpoint::https_or_loopback(&url.replacen('#', "?", 1)).is_ok() => {
                Ok(url.into_owned())
            }
            Ok(_) => Err(InvalidResponseKind::InvalidMember(name)),
            Err(why) => Err(why),
        };
        // Google has its own name for it.
        let verification_uri =
            url("verification_uri").or_else(|why| url("verification_url").map_err(|_| why))?;
        let lifetime = members
            .seconds("expires_in")
            .ok_or(InvalidResponseKind::Missing("expires_in"))?;
        let interval = members
            .seconds("interval")
            .filter(|interval| !interval.is_zero());
        let interval = interval.unwrap_or(POLL_INTERVAL).min(lifetime);
        Ok(Self {
            device_code: Secret::new(members.required_str("device_code")?),
            user_code: sanitize(&members.required_str("user_code")?),
            verification_uri,
            verification_uri_complete: url("verification_uri_complete").ok(),
            polling: Polling {
                interval,
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
