//! The `keybound` command.
//!
//! Machine output is JSON on stdout, diagnostics go to stderr. Exit status: 0 done, 1 refused by a server or
//! a check, 2 wrong usage.

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
mod sandbox;
mod token;
mod trace;
mod uxt;

use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Parser, Subcommand};

/// OAuth access tokens bound to a key (DPoP, RFC 9449). Secrets come from the environment or from files.
#[derive(Parser)]
#[command(name = "keybound", version, max_term_width = 100)]
struct Command {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Shows every flow against a sandbox in this process, step by step.
    Demo,
    /// Serves the sandbox on loopback, and prints where its parts are.
    Sandbox(sandbox::Options),
    /// Gets a token and prints it as JSON.
    Token(grant::TokenOptions),
    /// Has a person sign in with their browser, and prints the token as JSON; with the scope openid also who it is.
    Login(login::Options),
    /// Gets a token, calls a URL with it, and prints the response's body.
    Call(call::Options),
    /// Asks what a token is worth, and prints the answer as JSON.
    Introspect(existing::Options),
    /// Revokes a token.
    Revoke(existing::Options),
    /// Relays a browser's proof (stdin) to Treasury Prime, and prints the token, or why not.
    Uxt(uxt::Options),
    /// Makes and judges proofs.
    #[command(subcommand)]
    Proof(proof::Verb),
    /// Makes and shows keys.
    #[command(subcommand)]
    Key(key::Verb),
}

fn main() -> ExitCode {
    let done = match Command::try_parse()
        .unwrap_or_else(|error| unquoted(error).exit())
        .verb
    {
        Verb::Demo => demo::run(),
        Verb::Sandbox(options) => sandbox::run(&options),
        Verb::Token(options) => token::run(&options),
        Verb::Login(options) => login::run(&options),
        Verb::Call(options) => call::run(&options),
        Verb::Introspect(options) => existing::introspect(&options),
        Verb::Revoke(options) => existing::revoke(&options),
        Verb::Uxt(options) => uxt::run(&options),
        Verb::Proof(verb) => proof::run(&verb),
        Verb::Key(verb) => key::run(&verb),
    };
    done.map_or_else(|failure| failure.report(), |()| ExitCode::SUCCESS)
}

/// Without a word that belongs to no option: it may be the value of a header, after a space.
fn unquoted(mut error: clap::Error) -> clap::Error {
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
