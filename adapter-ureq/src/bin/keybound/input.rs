//! What a command takes from outside its arguments: secrets, stdin, the time, random numbers.

use std::env;
use std::io::{self, Read as _};
use std::time::{SystemTime, UNIX_EPOCH};

use keybound_ureq::{Ambient, Secret, UnixTime};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::failure::Failure;

/// No proof is longer, by far.
const MAX_INPUT: u64 = 64 * 1024;

/// The secret in an environment variable.
pub(crate) fn secret(name: &str) -> Result<Secret, Failure> {
    match env::var(name) {
        Ok(value) if !value.is_empty() => Ok(Secret::new(value)),
        _ => Err(Failure::usage(format!(
            "the environment variable {name} must hold the secret, and is not set"
        ))),
    }
}

/// `name=value`
pub(crate) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("must be NAME=VALUE".into()),
    }
}

/// The proof on stdin, without the white space around it.
pub(crate) fn stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    io::stdin().take(MAX_INPUT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The time and entropy for one proof.
pub(crate) fn ambient() -> Result<Ambient, Failure> {
    Ok(Ambient::new(now(), entropy()?))
}

/// Random bytes from the system.
pub(crate) fn entropy<const N: usize>() -> Result<[u8; N], Failure> {
    let mut entropy = [0; N];
    SystemRandom::new()
        .fill(&mut entropy)
        .map_err(|_| Failure::refused("the system has no random numbers"))?;
    Ok(entropy)
}

pub(crate) fn now() -> UnixTime {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    UnixTime::from_secs(0).saturating_add(since_epoch)
}
