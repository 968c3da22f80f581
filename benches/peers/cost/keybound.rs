//! Obtains a bound token for client credentials, and makes a call with it.

use std::env::var;

use keybound_ureq::jose::{Algorithm, SigningKey};
use keybound_ureq::{Client, ClientAuth, Endpoint, Grant, Secret, Session, Transport};
use ureq::http::Request;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let key = SigningKey::generate(Algorithm::Es256)?;
    let auth = ClientAuth::basic(&var("CLIENT_ID")?, Secret::new(var("CLIENT_SECRET")?))?;
    let client = Client::new(Endpoint::https(&var("TOKEN_URL")?)?, auth).dpop(key.public().clone());
    let session = Session::builder(Transport::new().signer(key), client).grant(Grant::client_credentials()).build();
    let request = Request::get(var("RESOURCE_URL")?).body(Vec::new())?;
    println!("{}", session.send(request)?.body_mut().read_to_string()?);
    Ok(())
}
