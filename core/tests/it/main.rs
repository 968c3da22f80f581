//! keybound's core from outside: whole exchanges in virtual time, against a peer that trusts nothing of ours.

#![cfg(test)]

mod algorithms;
mod answers;
mod authorization;
mod autotrait;
mod challenges;
mod client_assertion;
mod connections;
mod conversions;
mod corrections;
mod damaged_states;
mod discovery;
mod flows;
mod gate;
mod grants;
mod id_token;
mod introspection;
mod json;
mod leaks;
mod limits;
mod maker;
mod peer;
mod planted;
mod providers;
mod purity;
mod refreshes;
mod resources;
mod rfcs;
mod rustcrypto;
mod seeds;
mod session_state;
mod single_use;
mod sources;
mod ssrf;
mod status_only;
mod token_answers;
mod tombstones;
mod urls;
mod vectors;
mod verifier;
mod world;
