//! The real programs over the wire: a CA, agents, sidecars, and strangers that speak only the contract.
//!
//! One binary, so that everything is linked once; one module for each question. What starts the programs
//! is `signet_tests::harness`.
#![allow(clippy::unwrap_used)]

#[path = "end_to_end/acknowledgements.rs"]
mod acknowledgements;
#[path = "end_to_end/admission.rs"]
mod admission;
#[path = "end_to_end/agent.rs"]
mod agent;
#[path = "end_to_end/agent_under_fire.rs"]
mod agent_under_fire;
#[path = "end_to_end/authorities.rs"]
mod authorities;
#[path = "end_to_end/backup.rs"]
mod backup;
#[path = "end_to_end/blocks.rs"]
mod blocks;
#[path = "end_to_end/ca_files.rs"]
mod ca_files;
#[path = "end_to_end/clock.rs"]
mod clock;
#[path = "end_to_end/contract.rs"]
mod contract;
#[path = "end_to_end/crash.rs"]
mod crash;
#[path = "end_to_end/crls.rs"]
mod crls;
#[path = "end_to_end/data_folder.rs"]
mod data_folder;
#[path = "end_to_end/envoys.rs"]
mod envoys;
#[path = "end_to_end/issuance_log.rs"]
mod issuance_log;
#[path = "end_to_end/lifetimes.rs"]
mod lifetimes;
#[path = "end_to_end/operating.rs"]
mod operating;
#[path = "end_to_end/operations.rs"]
mod operations;
#[path = "end_to_end/permissions.rs"]
mod permissions;
#[path = "end_to_end/reasons.rs"]
mod reasons;
#[path = "end_to_end/refusals.rs"]
mod refusals;
#[path = "end_to_end/reload.rs"]
mod reload;
#[path = "end_to_end/renewal.rs"]
mod renewal;
#[path = "end_to_end/requests.rs"]
mod requests;
#[path = "end_to_end/secrecy.rs"]
mod secrecy;
#[path = "end_to_end/soak.rs"]
mod soak;
#[path = "end_to_end/threat_model.rs"]
mod threat_model;
#[path = "end_to_end/tls.rs"]
mod tls;
#[path = "end_to_end/trust_watch.rs"]
mod trust_watch;
#[path = "end_to_end/walkthrough.rs"]
mod walkthrough;
