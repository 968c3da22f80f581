//! A token request with client credentials and its response, without a network.

use http::Response;
use keybound_core::driver::{Awaiting, PreparedRequest, RequestContext, Shared, Step};
use keybound_core::{
    Client, ClientAuth, Endpoint, Grant, Operation, Scope, Secret, Token, UnixTime,
};

use crate::Outcome;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// A client, its grant, and the server's response.
#[derive(Clone, Debug)]
pub struct Asking {
    client: Client,
    grant: Grant,
    answer: String,
}

impl Asking {
    /// The URL of the token endpoint.
    pub const URL: &str = "https://as.example.com/oauth2/token";
    /// The client's `client_id`.
    pub const CLIENT_ID: &str = "6d1b3a3c-0f0e-4b5e-a9a0";
    /// The client's `client_secret`.
    pub const CLIENT_SECRET: &str = "4ZfL-secret_of~32.characters-Q1x";
    /// The requested scope.
    pub const SCOPES: [&str; 2] = ["accounts.read", "transfers.write"];

    /// Creates a client with these constants.
    ///
    /// # Errors
    /// Never fails with the built-in values.
    pub fn new() -> Outcome<Self> {
        let auth = ClientAuth::basic(Self::CLIENT_ID, Secret::new(Self::CLIENT_SECRET))?;
        let (access, refresh) = ("a".repeat(1000), "r".repeat(300));
        Ok(Self {
            client: Client::new(Endpoint::https(Self::URL)?, auth),
            grant: Grant::client_credentials().scope(Scope::from_tokens(Self::SCOPES)?),
            answer: format!(
                r#"{{"access_token":"{access}","token_type":"Bearer","expires_in":3600,"refresh_token":"{refresh}","scope":"accounts.read transfers.write"}}"#
            ),
        })
    }

    /// Returns the body of the response: 1.4 kB of JSON.
    pub fn answer(&self) -> &str {
        &self.answer
    }

    /// Returns the request, as the step that awaits the server's answer.
    ///
    /// # Errors
    /// Never fails with the built-in values.
    pub fn request(&self) -> Outcome<Awaiting<Box<PreparedRequest>, Operation<Token>>> {
        let operation = self.client.token(self.grant.clone())?;
        match Shared::new().start(operation, RequestContext::new(NOW, [7; 16])) {
            Step::Send(awaiting) => Ok(awaiting),
            _ => Err("this client has no key".into()),
        }
    }

    /// Returns the token of the response.
    ///
    /// # Errors
    /// Never fails with the built-in values.
    pub fn receive(
        &self,
        awaiting: Awaiting<Box<PreparedRequest>, Operation<Token>>,
    ) -> Outcome<Token> {
        let context = RequestContext::new(NOW, [7; 16]);
        match awaiting.received(&Response::new(&self.answer), &mut Shared::new(), context) {
            Step::Done(token) => Ok(token?),
            _ => Err("this answer is a token".into()),
        }
    }

    /// Prepares the request and parses the response.
    ///
    /// # Errors
    /// Never fails with the built-in values.
    pub fn token(&self) -> Outcome<Token> {
        self.receive(self.request()?)
    }
}
