//! Parsers for arguments, and input from elsewhere: environment variables, stdin, the system clock
//! and random numbers.

use std::env::{self, VarError};
use std::ffi::OsStr;
use std::io::{self, Read as _};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::builder::TypedValueParser;
use clap::error::ErrorKind;
use clap::{Arg, Command};
use keybound_ureq::driver::RequestContext;
use keybound_ureq::{Secret, UnixTime};
use ring::rand::{SecureRandom as _, SystemRandom};

use crate::failure::Failure;

/// The maximum size of stdin, in bytes. It far exceeds that of a proof.
const MAX_INPUT: u64 = 64 * 1024;

/// Returns the secret in the environment variable `name`, which must not be empty.
pub(crate) fn secret(name: &str) -> Result<Secret, Failure> {
    let problem = match env::var(name) {
        Ok(value) if !value.is_empty() => return Ok(Secret::new(value)),
        Ok(_) => "is empty",
        Err(VarError::NotPresent) => "is not set",
        Err(VarError::NotUnicode(_)) => "is not UTF-8",
    };
    Err(Failure::usage(if is_conventional_name(name) {
        format!("the environment variable {name} must contain the secret, but {problem}")
    } else {
        // The argument may be the secret itself instead of a name, so it is not printed.
        format!(
            "the argument must be the name of an environment variable that contains the secret, but that variable {problem}"
        )
    }))
}

/// Whether `name` matches `[A-Z_][A-Z0-9_]*`.
fn is_conventional_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
}

/// Parses a name and a value. Unlike clap's own errors, its error does not quote them: the value
/// may be a secret.
#[derive(Clone, Copy)]
pub(crate) struct Pair {
    form: &'static str,
    split: fn(&str) -> Option<(&str, &str)>,
}

/// Parses `name=value`.
pub(crate) const PAIR: Pair = Pair {
    form: "NAME=VALUE",
    split: |text| text.split_once('='),
};

/// Parses `name=value`, or `name: value` as curl does. A header name contains neither `=` nor `:`.
pub(crate) const HEADER: Pair = Pair {
    form: "NAME=VALUE or NAME: VALUE",
    split: |text| {
        text.split_once(['=', ':'])
            .map(|(name, value)| (name, value.trim_matches(' ')))
    },
};

impl TypedValueParser for Pair {
    type Value = (String, String);

    fn parse_ref(
        &self,
        command: &Command,
        arg: Option<&Arg>,
        text: &OsStr,
    ) -> Result<Self::Value, clap::Error> {
        match text.to_str().and_then(self.split) {
            Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
            _ => {
                let arg = arg.map(Arg::to_string).unwrap_or_default();
                let message = format!("{arg} must be {}\n", self.form);
                Err(clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command))
            }
        }
    }
}

/// Returns the proof from stdin, without surrounding white space.
pub(crate) fn stdin() -> Result<String, Failure> {
    let mut bytes = Vec::new();
    io::stdin()
        .take(MAX_INPUT)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::refused(format!("stdin can't be read: {error}")))?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// Returns the current time and entropy for one proof.
pub(crate) fn request_context() -> Result<RequestContext, Failure> {
    Ok(RequestContext::new(now(), entropy()?))
}

/// Returns random bytes from the system's generator.
pub(crate) fn entropy<const N: usize>() -> Result<[u8; N], Failure> {
    let mut entropy = [0; N];
    SystemRandom::new()
        .fill(&mut entropy)
        .map_err(|_| Failure::refused("the system's random number generator failed"))?;
    Ok(entropy)
}

pub(crate) fn now() -> UnixTime {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    UnixTime::from_secs(0).saturating_add(since_epoch)
}
