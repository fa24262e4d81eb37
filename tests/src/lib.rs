//! What needs more than one program: the token issuer, the load program and the end-to-end tests.
//!
//! The tests themselves stand in `tests/tests/`, the programs in `src/bin/`. Here is what they share;
//! nothing outside this crate imports it. Start with [`token_issuer`], which every caller needs.

pub mod fuzzing;
pub mod harness;
pub mod load;
pub mod programs;
pub mod token_issuer;
