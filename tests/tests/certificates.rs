//! Certificates judged by the eyes of others: OpenSSL, webpki and pkilint look at what the library and
//! the program `certs` make, and OpenSSL makes what they have to accept or refuse.
//!
//! Start with `openssl`, the bench that the others stand on.
#![allow(clippy::unwrap_used)]

mod certificates {
    mod case_29_and_49;
    mod ceremony;
    mod enterprises;
    mod faults;
    mod issuing;
    mod keys;
    mod lint;
    mod matrix;
    mod mending;
    mod openssl;
    mod requests;
    mod walkthrough;
}
