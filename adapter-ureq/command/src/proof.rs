//! The `proof` subcommands: create and verify DPoP proofs.

use std::io::Write as _;
use std::path::PathBuf;
use std::str::FromStr as _;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::{Method, Uri};
use keybound_ureq::UnixTime;
use keybound_ureq::dpop::{Inspection, Nonce, Proof, ProofVerifier};
use keybound_ureq::jose::Algorithm;
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::input::{now, request_context, secret, stdin};
use crate::key;
use crate::output::Stdout;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Creates a proof for one request, and prints it.
    Make(Make),
    /// Verifies a proof (stdin), and prints the result as JSON. Status 1 if the proof is not valid.
    Inspect(Inspect),
}

#[derive(Args)]
pub(crate) struct Make {
    /// The key file: PKCS#8 (PEM or DER) or a private JWK.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The algorithm of the key, if its file leaves a choice: RS256 or PS256, EdDSA or Ed25519.
    #[arg(long, value_parser = key::algorithm)]
    alg: Option<Algorithm>,
    /// The method of the request (htm).
    #[arg(long)]
    method: String,
    /// The URL of the request (htu). Query and fragment are removed.
    #[arg(long)]
    url: String,
    /// The server's nonce, if it requires one.
    #[arg(long, allow_hyphen_values = true)]
    nonce: Option<String>,
    /// The environment variable that contains the access token, for a request to a resource server.
    #[arg(long, value_name = "NAME")]
    access_token_env: Option<String>,
    /// Adds the claim `exp`, this number of seconds after `iat`.
    #[arg(long, value_name = "SECONDS")]
    exp: Option<u64>,
}

#[derive(Args)]
pub(crate) struct Inspect {
    /// The expected method (htm). Default: any method.
    #[arg(long)]
    method: Option<String>,
    /// An accepted URL (htu). Can be repeated. Default: any URL.
    #[arg(long)]
    url: Vec<String>,
    /// The expected nonce.
    #[arg(long, allow_hyphen_values = true)]
    nonce: Option<String>,
    /// The environment variable that contains the access token that was sent with the proof.
    #[arg(long, value_name = "NAME")]
    access_token_env: Option<String>,
    /// The maximum age of the proof, in seconds.
    #[arg(long, value_name = "SECONDS")]
    max_age: Option<u64>,
    /// The time of the verification, in Unix seconds. Default: now.
    #[arg(long, value_name = "UNIX")]
    now: Option<u64>,
}

pub(crate) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::Make(make) => make.run(),
        Verb::Inspect(inspect) => inspect.run(),
    }
}

impl Make {
    fn run(&self) -> Result<(), Failure> {
        let key = key::read(&self.key, self.alg)?;
        let method = Method::from_str(&self.method)
            .map_err(|_| Failure::usage("method must be a token, such as POST"))?;
        let uri = Uri::from_str(&self.url)
            .map_err(|_| Failure::usage("url must be a valid absolute URL"))?;
        let nonce = self.nonce.as_deref().map(Nonce::new).transpose()?;

        let mut proof = Proof::build(key.public(), &method, &uri)?;
        if let Some(nonce) = &nonce {
            proof = proof.nonce(nonce);
        }
        if let Some(name) = &self.access_token_env {
            proof = proof.access_token(&secret(name)?);
        }
        if let Some(seconds) = self.exp {
            proof = proof.lifetime(Duration::from_secs(seconds));
        }
        let proof = proof
            .prepare(request_context()?)
            .finish(|request| key.sign(request))?;
        Ok(writeln!(Stdout, "{}", proof.as_str())?)
    }
}

impl Inspect {
    fn run(&self) -> Result<(), Failure> {
        let mut policy = ProofVerifier::default();
        if let Some(method) = &self.method {
            policy = policy.method(method);
        }
        for url in &self.url {
            policy = policy.url(url)?;
        }
        if let Some(nonce) = &self.nonce {
            policy = policy.nonce(Nonce::new(nonce)?);
        }
        if let Some(name) = &self.access_token_env {
            policy = policy.access_token(&secret(name)?);
        }
        if let Some(seconds) = self.max_age {
            policy = policy.max_age(Duration::from_secs(seconds));
        }
        let at = self.now.map_or_else(now, UnixTime::from_secs);
        let inspection = policy.verify(&stdin()?, at);
        let claims = inspection
            .claims_json()
            .and_then(|json| serde_json::from_str::<Value>(json).ok());
        let output = json!({
            "valid": inspection.is_valid(),
            "problems": problems(&inspection),
            "alg": inspection.alg(),
            "jkt": inspection.key().map(|key| key.thumbprint()),
            "claims": claims,
        });
        writeln!(Stdout, "{output}")?;
        if inspection.is_valid() {
            Ok(())
        } else {
            Err(Failure::refused("the proof is not valid"))
        }
    }
}

/// Returns the code and the description of each error.
pub(crate) fn problems(inspection: &Inspection) -> Vec<Value> {
    let problem = |problem: &keybound_ureq::dpop::ProofError| json!({ "code": problem.code(), "message": problem.to_string() });
    inspection.problems().iter().map(problem).collect()
}
