//! The `key` subcommands, and key files.

use std::fs::{self, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use keybound_ureq::jose::{Algorithm, SigningKey};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::output::Stdout;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Generates a key, and writes it to a file that only its owner can read (PKCS#8, PEM).
    New(New),
    /// Prints the public key, its thumbprint and its algorithm as JSON.
    Show {
        /// The key file: PKCS#8 (PEM or DER) or a private JWK.
        file: PathBuf,
        /// The algorithm of the key, if its file leaves a choice: RS256 or PS256, EdDSA or Ed25519.
        #[arg(long, value_parser = algorithm)]
        alg: Option<Algorithm>,
    },
}

#[derive(Args)]
pub(crate) struct New {
    /// The signature algorithm: ES256, ES384 or EdDSA. RSA keys can be imported, but not generated.
    #[arg(long, default_value = "ES256", value_parser = algorithm)]
    alg: Algorithm,
    /// The file to create. An existing file is not overwritten.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::New(new) => new.run(),
        Verb::Show { file, alg } => show(&read(file, *alg)?),
    }
}

impl New {
    fn run(&self) -> Result<(), Failure> {
        let key = SigningKey::generate(self.alg)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
            .open(&self.out)
            .and_then(|mut file| {
                file.write_all(key.to_pkcs8_pem().expose().as_bytes())
                    .and_then(|()| file.sync_all())
            })
            .map_err(|error| {
                Failure::usage(format!("{} can't be written: {error}", self.out.display()))
            })?;
        show(&key)
    }
}

fn show(key: &SigningKey) -> Result<(), Failure> {
    let public = key.public();
    let jwk: Value = serde_json::from_str(public.to_json()).unwrap_or_default();
    let output = json!({ "jwk": jwk, "thumbprint": public.thumbprint(), "alg": public.algorithm().as_str() });
    Ok(writeln!(Stdout, "{output}")?)
}

/// The maximum size of a key file, in bytes. It far exceeds that of a key.
const MAX_KEY: u64 = 64 * 1024;

/// Reads a key from a file. Its format (PEM, DER or JWK) is detected by its first bytes.
pub(crate) fn read(file: &Path, algorithm: Option<Algorithm>) -> Result<SigningKey, Failure> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(8 * 1024));
    fs::File::open(file)
        .and_then(|file| file.take(MAX_KEY).read_to_end(&mut bytes))
        .map_err(|error| {
            Failure::usage(format!("key {} can't be read: {error}", file.display()))
        })?;
    let name = file.display();
    if bytes.trim_ascii().is_empty() {
        return Err(Failure::usage(format!("key {name} is empty")));
    }
    let key = SigningKey::parse(&bytes);
    let describe = |invalid| Failure::usage(format!("{name}: {invalid}{}", remedy(&bytes, file)));
    key.and_then(|key| match algorithm {
        Some(algorithm) => key.with_algorithm(algorithm),
        None => Ok(key),
    })
    .map_err(describe)
}

/// Returns the remedy for a PEM file of an unsupported type, to be appended to the error message.
/// Returns an empty string if there is none.
fn remedy(pem: &[u8], file: &Path) -> String {
    let (pem, name) = (String::from_utf8_lossy(pem), file.display());
    let has = |label: &str| pem.contains(&format!("-----BEGIN {label}-----"));
    if has("PRIVATE KEY") {
        String::new()
    } else if has("RSA PRIVATE KEY") || has("EC PRIVATE KEY") {
        format!("; convert it with `openssl pkcs8 -topk8 -nocrypt -in {name}`")
    } else if has("ENCRYPTED PRIVATE KEY") {
        format!("; it is encrypted: decrypt it first with `openssl pkcs8 -in {name}`")
    } else if has("PUBLIC KEY") {
        "; it contains a public key: give the file of the private key".to_owned()
    } else {
        String::new()
    }
}

/// Parses an `alg` value.
pub(crate) fn algorithm(alg: &str) -> Result<Algorithm, String> {
    Algorithm::from_alg(alg).ok_or_else(|| {
        let names: Vec<&str> = Algorithm::ALL
            .iter()
            .map(|algorithm| algorithm.as_str())
            .collect();
        format!("must be one of {}", names.join(", "))
    })
}
