use std::io::{self, Write as _};

use clap::Args;
use keybound_ureq::sandbox::{self, Sandbox};
use serde_json::json;

use crate::failure::Failure;

#[derive(Args)]
pub(crate) struct Options {
    /// The port; any free one, if not given.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Demands nonces in proofs.
    #[arg(long)]
    nonce: bool,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let sandbox = Sandbox::start(sandbox::Options::default().port(options.port).require_nonce(options.nonce))
        .map_err(|error| {
            Failure::usage(format!("the sandbox can't listen on port {}: {error}", options.port))
        })?;
    let parts = json!({
        "base_url": sandbox.base_url(),
        "moov": sandbox.moov(),
        "treasury_prime": sandbox.treasury_prime(),
        "marqeta": sandbox.marqeta(),
        "oauth": sandbox.oauth(),
        "client_id": sandbox::CLIENT_ID,
        "client_secret": sandbox::CLIENT_SECRET,
        "api_key": sandbox::API_KEY,
        "origin": sandbox::ORIGIN,
    });
    writeln!(io::stdout(), "{parts}")?;
    sandbox.wait();
    Ok(())
}
