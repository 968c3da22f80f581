//! Guides, one page for each task. These modules contain documentation only.

#[doc = include_str!("call_moov.md")]
pub mod call_moov {}

#[doc = include_str!("relay_for_treasury_prime.md")]
pub mod relay_for_treasury_prime {}

#[doc = include_str!("own_transport.md")]
pub mod own_transport {}

#[doc = include_str!("keys_in_an_hsm.md")]
pub mod keys_in_an_hsm {}

#[doc = include_str!("record_a_session.md")]
pub mod record_a_session {}

#[doc = include_str!("runbook.md")]
pub mod runbook {}

#[doc = include_str!("from_oauth2.md")]
pub mod from_oauth2 {}
