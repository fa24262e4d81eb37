//! Where certificates go: over secret discovery to Envoys, and into files.
//!
//! Both follow the same `Served` value from `identity` and say what really arrived; `trust` turns that into
//! acknowledgements.

pub mod files;
pub mod sds;
