//! A script that runs from time to time: the second run reuses the token of the first one.
//!
//! ```sh
//! cargo run -p keybound-ureq --features file --example script
//! ```

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use keybound_sandbox::{CLIENT_ID, CLIENT_SECRET, Options, Sandbox};
use keybound_ureq::storage::FileStorage;
use keybound_ureq::{Client, ClientAuth, Endpoint, Event, Grant, Secret, Session, Transport};

fn main() -> Result<(), Box<dyn Error>> {
    let sandbox = Sandbox::start(Options::default())?;
    let directory = tempfile::tempdir()?;
    for _ in 0..2 {
        println!("{}", script(&sandbox.oauth(), directory.path())?);
    }
    Ok(())
}

fn script(server: &str, directory: &Path) -> Result<String, Box<dyn Error>> {
    let auth = ClientAuth::basic(CLIENT_ID, Secret::new(CLIENT_SECRET))?;
    let client = Client::new(
        Endpoint::https_or_loopback(&format!("{server}/token"))?,
        auth,
    );
    let transport = Transport::new().on_event(|event| {
        if let Event::RequestSent { .. } | Event::TokenRefreshed(_) = event {
            println!("{event:?}");
        }
    });
    let session = Session::builder(transport, client)
        .grant(Grant::client_credentials())
        .storage(Arc::new(FileStorage::new(directory)?), "default")
        .build();

    let agent = ureq::Agent::config_builder()
        .middleware(session.authorizer([server])?)
        .build()
        .new_agent();
    Ok(agent
        .get(format!("{server}/resource"))
        .call()?
        .body_mut()
        .read_to_string()?)
}
