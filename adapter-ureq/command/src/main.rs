//! The `keybound` command: OAuth 2.0 tokens bound to a key (DPoP, RFC 9449), from a shell.
//!
//! - `token`, `login`: obtain a token by a grant, or by a login in the browser.
//! - `call`: send an authorized request, or many of them.
//! - `introspect`, `revoke`: query and revoke tokens.
//! - `uxt`: relay a browser's proof to Treasury Prime.
//! - `proof`, `key`: create and verify proofs, generate and show keys.
//! - `replay`: repeat a recorded session offline.
//! - `demo`, `sandbox`: show every flow against a local provider, or serve it.
//!
//! Results are written to stdout: one line of JSON, except that `call` prints the response body,
//! `proof make` the proof, and `demo` and `replay` text. Diagnostics and traces are written to stderr.
//!
//! Exit status: 0 for success; 1 if a server refused a request, or if a check failed; 2 for invalid
//! arguments or unusable files. Secrets are read from environment variables and files, never from
//! arguments.

#![cfg_attr(not(test), warn(clippy::disallowed_macros))]

mod call;
mod client;
mod demo;
mod existing;
mod failure;
mod grant;
mod input;
mod key;
mod listener;
mod login;
mod nonce_cache;
mod output;
mod proof;
mod repeat;
mod replay;
mod response;
mod sandbox;
mod token;
mod trace;
mod uxt;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

/// Obtains and uses OAuth access tokens bound to a key (DPoP, RFC 9449). Secrets are read from
/// environment variables or files.
#[derive(Parser)]
#[command(name = "keybound", version, max_term_width = 100)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Runs every flow against a sandbox in this process, and shows each step.
    Demo,
    /// Serves the sandbox on loopback, and prints the URLs of its parts and its credentials as
    /// JSON.
    Sandbox(sandbox::Options),
    /// Requests a token and prints it as JSON.
    Token(grant::TokenOptions),
    /// Logs a user in with their browser, and prints the token as JSON. With the scope `openid` it
    /// contains the verified subject, `sub`.
    Login(login::Options),
    /// Requests a token, sends an authorized request to a URL, and prints the response body.
    Call(call::Options),
    /// Queries the state of a token (RFC 7662), and prints it as JSON. Status 1 if it is not
    /// active.
    Introspect(existing::Options),
    /// Revokes a token (RFC 7009).
    Revoke(existing::Options),
    /// Replays a recording, and prints each step with its reason. Sends nothing. Status 1 if a step
    /// differs from the recorded one.
    Replay(replay::Options),
    /// Relays a browser's proof (stdin) to Treasury Prime, and prints the token or the error as
    /// JSON.
    Uxt(uxt::Options),
    /// Creates and verifies DPoP proofs.
    #[command(subcommand)]
    Proof(proof::Verb),
    /// Generates and shows keys.
    #[command(subcommand)]
    Key(key::Verb),
}

fn main() -> ExitCode {
    let result = match Command::try_parse()
        .unwrap_or_else(|error| without_values(error).exit())
        .verb
    {
        Verb::Demo => demo::run(),
        Verb::Sandbox(options) => sandbox::run(&options),
        Verb::Token(options) => token::run(&options),
        Verb::Login(options) => login::run(&options),
        Verb::Call(options) => call::run(&options),
        Verb::Introspect(options) => existing::introspect(&options),
        Verb::Revoke(options) => existing::revoke(&options),
        Verb::Replay(options) => replay::run(&options),
        Verb::Uxt(options) => uxt::run(&options),
        Verb::Proof(verb) => proof::run(&verb),
        Verb::Key(verb) => key::run(&verb),
    };
    result.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

/// Removes an unexpected positional argument from the message: it may be the value of a header, if
/// that was not quoted.
fn without_values(mut error: clap::Error) -> clap::Error {
    let arg = error.get(ContextKind::InvalidArg);
    let is_word = matches!(arg, Some(ContextValue::String(arg)) if !arg.starts_with('-'));
    if error.kind() == ErrorKind::UnknownArgument && is_word {
        error.insert(
            ContextKind::InvalidArg,
            ContextValue::String("…".to_owned()),
        );
    }
    error
}
