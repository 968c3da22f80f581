use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use keybound_ureq::jose::{Algorithm, SigningKey};
use serde_json::{Value, json};

use crate::failure::Failure;

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Makes a key and writes it to a file that only its owner can read (PKCS#8, PEM).
    New(New),
    /// Prints a key's public half.
    Show {
        /// PKCS#8, PEM or DER.
        file: PathBuf,
    },
}

#[derive(Args)]
pub(crate) struct New {
    /// The algorithm that it is to sign by.
    #[arg(long, default_value = "ES256")]
    alg: String,
    /// Never written over a file that is there.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(verb: &Verb) -> Result<(), Failure> {
    match verb {
        Verb::New(new) => new.run(),
        Verb::Show { file } => show(&read(file)?),
    }
}

impl New {
    fn run(&self) -> Result<(), Failure> {
        let algorithm = Algorithm::from_alg(&self.alg).ok_or(Failure::usage("alg must be ES256"))?;
        let key = SigningKey::generate(algorithm)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        options
            .open(&self.out)
            .and_then(|mut file| {
                file.write_all(key.to_pkcs8_pem().expose().as_bytes()).and_then(|()| file.sync_all())
            })
            .map_err(|error| Failure::usage(format!("{} can't be written: {error}", self.out.display())))?;
        show(&key)
    }
}

fn show(key: &SigningKey) -> Result<(), Failure> {
    let public = key.public();
    let jwk: Value = serde_json::from_str(public.to_json()).unwrap_or_default();
    let shown = json!({ "jwk": jwk, "thumbprint": public.thumbprint(), "alg": public.algorithm().as_str() });
    Ok(writeln!(io::stdout(), "{shown}")?)
}

/// The key in a file, PEM or DER.
pub(crate) fn read(file: &Path) -> Result<SigningKey, Failure> {
    let bytes = fs::read(file)
        .map_err(|error| Failure::usage(format!("key {} can't be read: {error}", file.display())))?;
    let key = match std::str::from_utf8(&bytes) {
        Ok(text) => SigningKey::from_pkcs8_pem(text),
        Err(_) => SigningKey::from_pkcs8_der(&bytes),
    };
    Ok(key?)
}
