use std::io::Write as _;
use std::time::Duration;

use clap::Args;
use keybound_ureq::dpop::{Nonce, ProofVerifier};
use keybound_ureq::provider::treasury_prime::TreasuryPrime;
use keybound_ureq::{CoreError, Endpoint, Error, Sent};
use serde_json::{Value, json};

use crate::client::{self, Auth};
use crate::failure::Failure;
use crate::output::Stdout;
use crate::{input, proof, token};

/// Marqeta's SDK in the browser gives up then.
const BUDGET: Duration = Duration::from_secs(5);

#[derive(Args)]
pub(crate) struct Options {
    /// The cardholder: psn_…
    #[arg(long, value_name = "ID")]
    person: String,
    /// Another host than the production one.
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// The API key's id.
    #[arg(long, value_name = "ID", default_value = "")]
    client_id: String,
    /// The environment variable that holds the API key.
    #[arg(long, value_name = "NAME")]
    client_secret_env: String,
    /// basic or bearer.
    #[arg(long, default_value = "basic")]
    auth: Auth,
    /// The method that the proof must be for.
    #[arg(long, default_value = "POST")]
    method: String,
    /// A URL that the proof may be for; any, if none is given.
    #[arg(long, value_name = "HTU")]
    url: Vec<String>,
    /// Plain http is for loopback addresses, with or without this word.
    #[arg(long, hide = true)]
    loopback_http: bool,
    /// Prints the request and the response on stderr, secrets redacted.
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
        return Err(Failure::refused("the proof is not sound; nothing was sent"));
    };
    let transport = client::transport(options.trace).timeout(BUDGET);
    match transport.execute(api.uxt_access_token(&options.person, verified)?) {
        Ok(bound) => token::print(&bound),
        Err(error) => {
            writeln!(Stdout, "{}", why_not(&error))?;
            Err(error.into())
        }
    }
}

/// One line of JSON, whatever went wrong.
fn why_not(error: &Error) -> Value {
    match error {
        Error::Core(CoreError::Server(refusal)) => json!({
            "error": refusal.code().or(refusal.description()).unwrap_or("refused"),
            "status": refusal.status().as_u16(),
            "nonce": refusal.nonce().map(Nonce::as_str),
            "retry_after_ms": refusal.retry_after().map(|wait| wait.as_millis()),
        }),
        Error::Core(CoreError::Response(bad)) => {
            json!({ "error": "unusable_response", "status": bad.status().as_u16(), "message": bad.to_string() })
        }
        Error::NoResponse { lost, .. } => {
            json!({ "error": "no_answer", "perhaps_sent": lost.sent() != Sent::No, "message": error.to_string() })
        }
        _ => json!({ "error": "failed", "message": error.to_string() }),
    }
}
