//! The rules of certificates: who is named in one, what a CSR may ask, what is signed, how chains and
//! trust bundles are built and judged.
//!
//! A library without network, disk or async; time is passed in. The path of one certificate reads
//! forward through the modules: [`csr`] -> [`profile`] -> [`template`] -> [`check`] -> [`sign`] ->
//! [`chain`]. [`ca`] is who signs, [`cacerts`] says what a folder of CA files means, [`change`]
//! what putting another in its place needs, [`bundle`] what a mesh trusts, [`crl`] what it no longer does. The
//! program `certs` (the ceremony, for people) is in `main.rs` and `ceremony/`.

pub mod bundle;
pub mod ca;
pub mod cacerts;
pub mod chain;
pub mod change;
pub mod check;
pub mod clock;
pub mod crl;
pub mod csr;
mod der;
pub mod digest;
pub mod duration;
pub mod key;
pub mod name;
pub mod pem;
pub mod profile;
pub mod serial;
pub mod sign;
pub mod spiffe_id;
pub mod template;
pub mod validity;
