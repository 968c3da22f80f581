//! The `uxt` subcommand: relays a browser's proof to Treasury Prime.

use std::io::Write as _;
use std::time::Duration;

use clap::Args;
use keybound_ureq::dpop::{Nonce, ProofVerifier};
use keybound_ureq::provider::treasury_prime::TreasuryPrime;
use keybound_ureq::{Endpoint, Error, Sent};
use serde_json::{Value, json};

use crate::client::{self, Auth};
use crate::failure::Failure;
use crate::output::Stdout;
use crate::{input, proof, token};

/// The timeout of the relayed request, which is that of Marqeta's SDK in the browser.
const TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct Options {
    /// The ID of the cardholder: psn_…
    #[arg(long, value_name = "ID")]
    person: String,
    /// The base URL of the API. Default: Treasury Prime's production host.
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// The ID of the API key.
    #[arg(long, value_name = "ID", default_value = "")]
    client_id: String,
    /// The environment variable that contains the API key.
    #[arg(long, value_name = "NAME")]
    client_secret_env: String,
    /// The authentication method: basic or bearer.
    #[arg(long, default_value = "basic")]
    auth: Auth,
    /// The expected method of the proof (htm).
    #[arg(long, default_value = "POST")]
    method: String,
    /// An accepted URL of the proof (htu). Can be repeated. Default: any URL.
    #[arg(long, value_name = "HTU")]
    url: Vec<String>,
    /// Ignored: plain http is always allowed for loopback addresses, and only for them.
    #[arg(long, hide = true)]
    loopback_http: bool,
    /// Prints the request and the response on stderr, with secrets redacted.
    #[arg(long)]
    trace: bool,
}

pub(crate) fn run(options: &Options) -> Result<(), Failure> {
    if !matches!(options.auth, Auth::Basic | Auth::Bearer) {
        return Err(Failure::usage("--auth must be basic or bearer"));
    }
    let auth = options
        .auth
        .with(&options.client_id, Some(&options.client_secret_env))?;
    let api = match &options.base_url {
        Some(url) => TreasuryPrime::at(Endpoint::https_or_loopback(url)?, auth),
        None => TreasuryPrime::production(auth),
    };
    let policy = ProofVerifier::default()
        .method(&options.method)
        .no_access_token();
    let policy = options
        .url
        .iter()
        .try_fold(policy, |policy, url| policy.url(url))?;

    let inspection = policy.verify(&input::stdin()?, input::now());
    let Some(verified) = inspection.verified() else {
        let problems = proof::problems(&inspection);
        writeln!(
            Stdout,
            "{}",
            json!({ "error": "invalid_proof", "problems": problems })
        )?;
        return Err(Failure::refused("the proof is not valid; nothing was sent"));
    };
    let transport = client::transport(options.trace).timeout(TIMEOUT);
    match transport.execute(api.uxt_access_token(&options.person, verified)?) {
        Ok(bound) => token::print(&bound),
        Err(error) => {
            writeln!(Stdout, "{}", error_json(&error))?;
            Err(error.into())
        }
    }
}

/// Returns the error as JSON, for the calling program.
fn error_json(error: &Error) -> Value {
    match error {
        Error::Server(refusal) => json!({
            "error": refusal.code().or(refusal.description()).unwrap_or("refused"),
            "status": refusal.status().as_u16(),
            "nonce": refusal.nonce().map(Nonce::as_str),
            "retry_after_ms": refusal.retry_after().map(|wait| wait.as_millis()),
        }),
        Error::Response(bad) => {
            json!({ "error": "unusable_response", "status": bad.status().as_u16(), "message": bad.to_string() })
        }
        Error::NoResponse(lost) => {
            json!({ "error": "no_answer", "perhaps_sent": lost.sent() != Sent::No, "message": error.to_string() })
        }
        _ => json!({ "error": "failed", "message": error.to_string() }),
    }
}
