//! Sessions under load, faults, crashes, in a fleet, and for long. CONTRIBUTING.md has the commands of the long runs.

#![cfg(test)]

mod crash;
mod faults;
mod fleet;
mod load;
mod soak;
mod support;
