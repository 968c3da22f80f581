//! Sessions under many threads and in many processes: how many requests a server sees, and who waits for whom.

#![cfg(test)]

mod agent;
mod durability;
mod events;
mod files;
mod log;
mod log_out;
mod nonces;
mod pool;
mod refresh;
mod refused;
mod server;
mod storage;
mod tied;
