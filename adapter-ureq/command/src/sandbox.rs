//! The `sandbox` subcommand: serves the sandbox until the process ends.

use std::io::Write as _;
use std::path::PathBuf;

use clap::Args;
use keybound_sandbox::{self as sandbox, Sandbox};
use serde_json::json;

use crate::failure::Failure;
use crate::output::Stdout;

#[derive(Args)]
pub(crate) struct Options {
    /// The port to listen on. Default: any free port.
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Requires server nonces in proofs.
    #[arg(long)]
    nonce: bool,
    /// Serves the browser demonstration from this directory: adapter-wasm, after its build.
    #[arg(long, value_name = "DIR")]
    pages: Option<PathBuf>,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    let mut settings = sandbox::Options::default()
        .port(options.port)
        .require_nonce(options.nonce);
    if let Some(folder) = &options.pages {
        if !folder.join("dist/index.js").is_file() || !folder.join("demo/index.html").is_file() {
            let message = "--pages must be the directory adapter-wasm, with the package built: run `bash adapter-wasm/build` first";
            return Err(Failure::usage(message));
        }
        settings = settings.pages(folder);
    }
    let sandbox = Sandbox::start(settings).map_err(|error| {
        Failure::usage(format!(
            "the sandbox cannot listen on port {}: {error}",
            options.port
        ))
    })?;
    let mut parts = json!({
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
    if let (Some(_), Some(parts)) = (&options.pages, parts.as_object_mut()) {
        parts.insert("demo".to_owned(), sandbox.demo().into());
    }
    writeln!(Stdout, "{parts}")?;
    sandbox.wait();
    Ok(())
}
