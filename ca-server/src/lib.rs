//! The certificate authority: callers prove who they are, get a short-lived X.509-SVID for their own
//! identity, and every certificate is recorded before it leaves.
//!
//! Start reading at [`issue`], the issuing sequence. [`api`] is the edge, [`attestation`] says who calls,
//! [`blocks`] who gets nothing any more, [`policy`] what callers may have, [`authority`] signs, [`issuance_log`]
//! records, [`trust`] is what the mesh trusts. [`clock`] says what time it is, [`reason`] names every refusal,
//! [`app`] puts the parts together, [`operator`] is the same program as a client of a running
//! server, [`backup`] copies what must not be lost, [`sealing`] encrypts keys at rest.

pub mod api;
pub mod app;
pub mod attestation;
pub mod authority;
pub mod backup;
pub mod blocks;
pub mod clock;
pub mod config;
pub mod data_folder;
pub mod exposure;
mod file_handles;
#[doc(hidden)]
pub mod fuzzing;
pub mod health;
pub mod issuance_log;
pub mod issue;
pub mod metrics;
pub mod operator;
pub mod policy;
pub mod reason;
pub mod sealing;
pub mod shutdown;
pub mod store;
pub mod trust;
