//! The device grant (RFC 8628): a device without a browser shows a code, and asks until its person has decided elsewhere.
//!
//! ```
//! use keybound_core::*;
//!
//! # fn main() -> Result<(), Error> {
//! let client = Client::new(Endpoint::https("https://as.example/token")?, ClientAuth::none("tv")?)
//!     .device_authorization_endpoint(Endpoint::https("https://as.example/device")?);
//! let (mut origins, now) = (Origins::new(), UnixTime::from_secs(1_800_000_000));
//! let exchange = client.device_authorization(Some(Scope::new("films")?))?;
//! let Signing::Ready(out) = exchange.prepare(&origins, Ambient::new(now, [1; 16]))? else { panic!() };
//! let answer = http::Response::new(
//!     r#"{"device_code":"GmRh","user_code":"WDJB-MJHT","verification_uri":"https://as.example/go","expires_in":1800}"#,
//! );
//! let Received::Done(device) = out.pending.receive(answer, &mut origins, now)? else { panic!() };
//! println!("Go to {} and type {}", device.verification_uri(), device.user_code());
//!
//! let exchange = client.token(device.grant())?;
//! assert_eq!(exchange.wait().as_secs(), 5);
//! let Signing::Ready(out) = exchange.prepare(&origins, Ambient::new(now, [2; 16]))? else { panic!() };
//! let pending = http::Response::builder().status(400).body(r#"{"error":"authorization_pending"}"#).expect("valid");
//! let Received::Again(again) = out.pending.receive(pending, &mut origins, now)? else { panic!() };
//! assert_eq!(again.wait().as_secs(), 5); // and so on, until there is a token
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::time::Duration;

use crate::client::Client;
use crate::endpoint::Endpoint;
use crate::error::{Misuse, Unread, WhyBad};
use crate::exchange::{Exchange, Setback, Success};
use crate::grant::{Grant, Polling, Scope};
use crate::issuer::Server;
use crate::secret::Secret;
use crate::time::UnixTime;
use crate::tries::Repeat;
use crate::wire::fields::Fields;
use crate::wire::json::Members;
use crate::wire::refusal::short_line;

/// How long to wait between two requests where the server doesn't say, and by how much it grows when it is too short
/// (RFC 8628 §3.2, §3.5).
const STEP: Duration = Duration::from_secs(5);

impl Client {
    /// Asks for a code to show (RFC 8628 §3.1).
    ///
    /// # Errors
    /// `Misuse` without a [device authorization endpoint](Self::device_authorization_endpoint).
    pub fn device_authorization(
        &self,
        scope: Option<Scope>,
    ) -> Result<Exchange<DeviceAuthorization>, Misuse> {
        let endpoint = self.0.device_authorization_endpoint.clone();
        let endpoint =
            endpoint.ok_or(Misuse::new("device_authorization_endpoint", "must be set for this grant"))?;
        let fields = scope.map_or_else(Fields::default, |scope| Fields::of("scope", scope.0));
        // A proof binds the token, which is asked for later (RFC 9449 §5).
        let ask = self.ask(endpoint, fields, None, Repeat::Freely);
        let server = self.server();
        Ok(Exchange::new(ask, move |success| DeviceAuthorization::read(success, &server)))
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

    fn read(success: &Success<'_>, server: &Server) -> Result<Self, Unread> {
        let members = Members::of_answer(success.body, "device_code")?;
        let url = |name| match members.required_text(name) {
            // A person's browser goes there, so that it may have a fragment.
            Ok(url) if Endpoint::https_or_loopback(&url.replacen('#', "?", 1)).is_ok() => {
                Ok(url.into_owned())
            }
            Ok(_) => Err(WhyBad::Member(name)),
            Err(why) => Err(why),
        };
        // Google has its own name for it.
        let verification_uri =
            url("verification_uri").or_else(|why| url("verification_url").map_err(|_| why))?;
        let lifetime = members.seconds("expires_in").ok_or(WhyBad::Missing("expires_in"))?;
        let interval = members.seconds("interval").filter(|interval| !interval.is_zero());
        let interval = interval.unwrap_or(STEP).min(lifetime);
        Ok(Self {
            device_code: Secret::new(members.required_text("device_code")?),
            user_code: short_line(&members.required_text("user_code")?),
            verification_uri,
            verification_uri_complete: url("verification_uri_complete").ok(),
            polling: Polling { interval, until: success.now.saturating_add(lifetime) },
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

/// Makes a token exchange ask until somebody has decided (RFC 8628 §3.5).
pub(crate) fn poll<T>(exchange: Exchange<T>, polling: Polling) -> Exchange<T> {
    let Polling { mut interval, until } = polling;
    exchange.after(interval).going_on(move |setback, _, now| {
        let Setback::Refusal(refusal) = setback else { return None };
        match refusal.code() {
            Some("authorization_pending") => {}
            Some("slow_down") => interval = interval.saturating_add(STEP),
            _ => return None,
        }
        let wait = interval.max(refusal.retry_after().unwrap_or_default());
        (now.saturating_add(wait) < until).then_some(wait)
    })
}
