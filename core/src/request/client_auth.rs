//! Client authentication at the authorization server.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::jose::PublicJwk;
use crate::request::client_assertion::ClientAssertion;
use crate::types::{escape::push_form, input::InvalidInput, secret::Secret};
use crate::wire::params::Params;

/// The client authentication of a request (RFC 6749 §2.3).
#[derive(Clone, PartialEq, Eq)]
pub struct ClientAuth {
    /// The `client_id`; `None` if a bearer credential identifies the client.
    id: Option<String>,
    secret: Option<Secret>,
    /// Whether id and secret are sent in the body.
    in_body: bool,
    header: Option<HeaderValue>,
    /// The key that signs an assertion for each request, and the audience of the assertion, if set.
    signing: Option<(PublicJwk, Option<String>)>,
}

impl ClientAuth {
    /// Creates the authentication of a public client: the body has its `client_id`.
    /// `tls_client_auth` (RFC 8705 §2) uses it as well, since the certificate belongs to the
    /// transport.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the id is empty.
    pub fn none(id: &str) -> Result<Self, InvalidInput> {
        Ok(Self {
            id: Some(checked_id(id)?),
            secret: None,
            in_body: true,
            header: None,
            signing: None,
        })
    }

    /// Authenticates by `Authorization: Basic`, with id and secret form-encoded first (RFC 6749
    /// §2.3.1).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if either is empty.
    pub fn basic(id: &str, secret: Secret) -> Result<Self, InvalidInput> {
        checked_id(id)?;
        let mut pair = Zeroizing::new(Vec::with_capacity(
            3 * (id.len() + secret.expose().len()) + 1,
        ));
        push_form(id, &mut pair);
        pair.push(b':');
        push_form(checked_secret(&secret)?, &mut pair);
        let header = basic_header(&pair)?;
        Ok(Self {
            secret: Some(secret),
            in_body: false,
            header: Some(header),
            ..Self::none(id)?
        })
    }

    /// Sends id and secret in `Authorization: Basic` without form-encoding (RFC 7617), for servers
    /// that don't decode them. The result differs only if they have other characters than letters,
    /// digits and `-._`.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the id has a colon, or if this client does not use Basic
    /// authentication.
    pub fn verbatim(mut self) -> Result<Self, InvalidInput> {
        let (Some(id), Some(secret), Some(_)) = (&self.id, &self.secret, &self.header) else {
            return Err(InvalidInput::new(
                "client_auth",
                "must use Basic authentication to be sent verbatim",
            ));
        };
        if id.contains(':') {
            return Err(InvalidInput::new(
                "client_id",
                "must not have a colon if it is sent verbatim",
            ));
        }
        let pair = Zeroizing::new([id, ":", secret.expose()].concat());
        self.header = Some(basic_header(pair.as_bytes())?);
        Ok(self)
    }

    /// Sends `client_id` and `client_secret` in the body (RFC 6749 §2.3.1).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if either is empty.
    pub fn post(id: &str, secret: Secret) -> Result<Self, InvalidInput> {
        checked_secret(&secret)?;
        Ok(Self {
            secret: Some(secret),
            ..Self::none(id)?
        })
    }

    /// Authenticates by [`basic`](Self::basic) and [`post`](Self::post) at once. RFC 6749 §2.3
    /// forbids it; Moov's own SDKs do it.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if either is empty.
    pub fn both(id: &str, secret: Secret) -> Result<Self, InvalidInput> {
        Ok(Self {
            in_body: true,
            ..Self::basic(id, secret)?
        })
    }

    /// Authenticates by `Authorization: Bearer`, with a credential from elsewhere (Treasury Prime's
    /// `apiKey`).
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the credential is empty or has characters that a header can't
    /// have.
    pub fn bearer(credential: Secret) -> Result<Self, InvalidInput> {
        let header = authorization("Bearer ", checked_secret(&credential)?)?;
        Ok(Self {
            id: None,
            secret: Some(credential),
            in_body: false,
            header: Some(header),
            signing: None,
        })
    }

    /// Authenticates by `private_key_jwt`: each request has an assertion of its own, signed by the
    /// private key that belongs to `key` (RFC 7523 §2.2, OpenID Connect Core §9). The assertion has
    /// the `kid` of `key`, which most servers require.
    ///
    /// The audience is the client's [issuer](crate::Client::issuer), if it is known, and the token
    /// endpoint otherwise. RFC 7523 allows both. FAPI 2.0 and the successor of RFC 7523 require the
    /// issuer alone, because a server that chooses its own audience could use the assertion at
    /// another server.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the id is empty.
    pub fn private_key_jwt(id: &str, key: PublicJwk) -> Result<Self, InvalidInput> {
        Ok(Self {
            signing: Some((key, None)),
            ..Self::none(id)?
        })
    }

    /// Sets the audience of the assertions of [`private_key_jwt`](Self::private_key_jwt), for
    /// servers that require another value.
    ///
    /// # Errors
    /// Returns [`InvalidInput`] if the audience is empty, or if this client signs no assertions.
    pub fn audience(mut self, audience: &str) -> Result<Self, InvalidInput> {
        match &mut self.signing {
            Some((_, chosen)) if !audience.is_empty() => *chosen = Some(audience.to_owned()),
            Some(_) => return Err(InvalidInput::new("audience", "must not be empty")),
            None => {
                return Err(InvalidInput::new(
                    "audience",
                    "must be for a client that signs assertions",
                ));
            }
        }
        Ok(self)
    }

    /// Returns the `client_id`.
    pub(crate) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Returns whether the client has no credential (RFC 6749 §2.1).
    pub(crate) fn is_public(&self) -> bool {
        self.secret.is_none() && self.header.is_none() && self.signing.is_none()
    }

    /// Returns the assertion that a request needs, for this audience unless another one is set.
    pub(crate) fn assertion(&self, audience: &str) -> Option<ClientAssertion> {
        let (key, chosen) = self.signing.as_ref()?;
        Some(ClientAssertion {
            client_id: self.id.clone()?,
            key: key.clone(),
            audience: chosen.as_deref().unwrap_or(audience).to_owned(),
        })
    }

    pub(crate) fn header(&self) -> Option<&HeaderValue> {
        self.header.as_ref()
    }

    pub(crate) fn add_params(&self, params: &mut Params) -> Result<(), InvalidInput> {
        if !self.in_body {
            return Ok(());
        }
        if let Some(id) = self
            .id
            .as_ref()
            .filter(|id| params.get("client_id") != Some(id.as_str()))
        {
            params.push("client_id", id.clone())?;
        }
        if let Some(secret) = &self.secret {
            params.push("client_secret", secret.clone())?;
        }
        Ok(())
    }

    /// Returns the secrets to redact in any text that the server sends back: the secret itself, and
    /// its encoding in the header.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &str> {
        let credential = self
            .header
            .as_ref()
            .and_then(|header| header.to_str().ok()?.split_once(' '));
        let credential = credential.map(|(_scheme, credential)| credential);
        self.secret.iter().map(Secret::expose).chain(credential)
    }
}

#[cfg(feature = "record")]
mod record {
    use serde_json::{Value, json};

    use super::{ClientAuth, PublicJwk, Secret};
    use crate::request::recorded::Recorded;
    use crate::request::stand_ins::StandIns;

    impl Recorded for ClientAuth {
        fn to_record(&self, stand_ins: &mut StandIns) -> Value {
            let method = match (&self.id, &self.secret) {
                (Some(id), Some(secret)) if self.header.is_some() => {
                    let encoded = Self::basic(id, secret.clone()).ok();
                    match encoded.is_some_and(|encoded| encoded.header == self.header) {
                        true => "basic",
                        false => "verbatim",
                    }
                }
                (Some(_), Some(_)) => "post",
                (Some(_), None) if self.signing.is_some() => "private_key_jwt",
                (Some(_), None) => "none",
                (None, _) => "bearer",
            };
            let (key, audience) = self.signing.clone().unzip();
            json!({
                "method": method,
                "in_body": self.in_body,
                "id": self.id,
                "secret": self.secret.to_record(stand_ins),
                "key": key.to_record(stand_ins),
                "audience": audience.flatten(),
            })
        }

        fn from_record(record: &Value) -> Option<Self> {
            let id = record.get("id")?.as_str().unwrap_or_default();
            let secret = Option::<Secret>::from_record(record.get("secret")?)?;
            let key = Option::<PublicJwk>::from_record(record.get("key")?)?;
            let audience = record.get("audience")?.as_str();
            let auth = match record.get("method")?.as_str()? {
                "basic" => Self::basic(id, secret?),
                "verbatim" => Self::basic(id, secret?).and_then(Self::verbatim),
                "post" => Self::post(id, secret?),
                "private_key_jwt" => Self::private_key_jwt(id, key?),
                "bearer" => Self::bearer(secret?),
                _ => Self::none(id),
            };
            let auth = match audience {
                Some(audience) => auth.and_then(|auth| auth.audience(audience)),
                None => auth,
            };
            let in_body = record.get("in_body")?.as_bool()?;
            auth.ok().map(|auth| Self { in_body, ..auth })
        }
    }
}

impl fmt::Debug for ClientAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match (&self.header, &self.secret) {
            (Some(_), _) if self.in_body => "header and body",
            (Some(_), _) => "header",
            (None, Some(_)) => "body",
            (None, None) if self.signing.is_some() => "assertion",
            (None, None) => "none",
        };
        write!(f, "ClientAuth({place})")
    }
}

fn checked_id(id: &str) -> Result<String, InvalidInput> {
    if id.is_empty() {
        Err(InvalidInput::new("client_id", "must not be empty"))
    } else {
        Ok(id.to_owned())
    }
}

fn checked_secret(secret: &Secret) -> Result<&str, InvalidInput> {
    let text = secret.expose();
    if text.is_empty() {
        Err(InvalidInput::new("client_secret", "must not be empty"))
    } else {
        Ok(text)
    }
}

fn basic_header(pair: &[u8]) -> Result<HeaderValue, InvalidInput> {
    authorization("Basic ", &Zeroizing::new(STANDARD.encode(pair)))
}

fn authorization(scheme: &str, credential: &str) -> Result<HeaderValue, InvalidInput> {
    let value = Zeroizing::new([scheme, credential].concat());
    let mut header = HeaderValue::try_from(value.as_str())
        .map_err(|_| InvalidInput::new("client_secret", "must not have control characters"))?;
    header.set_sensitive(true);
    Ok(header)
}
