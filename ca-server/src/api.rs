//! The edge: bytes from outside become typed requests here, errors become answers in [`status`] and nowhere
//! else.
//!
//! [`istio`] answers CreateCertificate, [`trust_watch`] pushes trust bundles, [`listener`] is the TLS port
//! under both, which writes [`bunched`]; [`entrance`] and [`admission`] are what is taken at once, [`refusals`] what is
//! done with the rest. [`admin`] serves operators on a Unix socket, `backup` and `blocks` verbs of theirs,
//! [`monitoring`] metrics and health.

pub mod admin;
pub mod admission;
mod backup;
mod blocks;
pub mod bunched;
pub mod entrance;
pub mod headers;
pub mod health_checks;
pub mod istio;
pub mod listener;
pub mod monitoring;
pub mod refusals;
pub mod status;
pub mod trust_watch;
