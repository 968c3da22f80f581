//! Sessions under many threads and in many processes: how many requests a server sees, and who waits for whom.

#![cfg(test)]

mod agent;
mod leaks;
mod log;
mod nonces;
#[path = "../../../core/tests/it/planted.rs"]
mod planted;
mod pool;
mod renewal;
mod server;
#[path = "../../../core/tests/it/sources.rs"]
mod sources;
mod storage;
