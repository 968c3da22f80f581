//! Obtains a bearer token for client credentials, and makes a call with it: oauth2 has no bound
//! tokens.

use std::env::var;

use oauth2::basic::BasicClient;
use oauth2::{ClientId, ClientSecret, TokenResponse, TokenUrl};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let agent = ureq::AgentBuilder::new().redirects(0).build();
    let client = BasicClient::new(ClientId::new(var("CLIENT_ID")?))
        .set_client_secret(ClientSecret::new(var("CLIENT_SECRET")?))
        .set_token_uri(TokenUrl::new(var("TOKEN_URL")?)?);
    let token = client.exchange_client_credentials().request(&agent)?;
    let bearer = format!("Bearer {}", token.access_token().secret());
    let response = agent.get(&var("RESOURCE_URL")?).set("authorization", &bearer).call()?;
    println!("{}", response.into_string()?);
    Ok(())
}
