//! The agent: gets certificates from a CA that speaks Istio's protocol, renews them, serves them to Envoys
//! over secret discovery and as files, and says truthfully what it holds.
//!
//! `agent` puts the parts together. The path of one certificate: `evidence` (who we are) -> `request` (one
//! attempt, with its judgement) -> `identity` (the owner and the renewal loop, timed by `renew`) ->
//! `sink` (SDS and files). `trust` follows the CA's roots and acknowledges them. `fetch` and `secret` are
//! commands of their own.

pub mod agent;
mod complaint;
pub mod config;
pub mod evidence;
pub mod fetch;
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
pub mod metrics;
pub mod monitoring;
mod random;
pub mod reason;
pub mod renew;
pub mod request;
#[cfg(test)]
mod secrecy_tests;
pub mod secret;
pub mod sink;
pub mod state;
#[cfg(test)]
mod testing;
pub mod trust;
