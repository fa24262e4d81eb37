//! What the fuzz targets do: for each parser of outside bytes a function that hands it any bytes, and panics
//! where the parser does, or where something was accepted that is not what it claims to be.
//!
//! `fuzz/targets` runs them under libFuzzer (`make fuzz`), `tests/tests/fuzzing.rs` runs them over
//! `fuzz/corpus`. Nobody can guess a signature, so most targets also take the part that is signed, and sign it
//! with keys that everybody knows ([`pki`]).

// A panic is how they say that something is wrong.
#![allow(clippy::unwrap_used, clippy::missing_panics_doc)]

mod answer;
mod cacerts;
mod ceremony;
mod configuration;
mod csr;
mod files;
mod jwks;
mod names;
pub mod pki;
mod requests;
mod sds;
mod segments;
mod token;

pub use answer::answer;
pub use cacerts::cacerts;
pub use configuration::configuration;
pub use csr::csr;
pub use files::files;
pub use jwks::jwks;
pub use names::names;
pub use requests::requests;
pub use sds::sds;
pub use segments::{log_folder, segments};
pub use token::{ISSUER, KEYS, token};

/// What is done with any bytes.
pub type Target = fn(&[u8]);

/// Every target by its name, which its folder in `fuzz/corpus` has too.
pub const TARGETS: [(&str, Target); 11] = [
    ("answer", answer),
    ("cacerts", cacerts),
    ("configuration", configuration),
    ("csr", csr),
    ("files", files),
    ("jwks", jwks),
    ("names", names),
    ("requests", requests),
    ("sds", sds),
    ("segments", segments),
    ("token", token),
];

/// What is shown or logged must not steer a terminal or begin a line of its own.
#[track_caller]
fn assert_printable(text: &str) {
    assert!(!text.contains(char::is_control), "control characters in {text:?}");
}

/// The parts of a text: each begins behind a line `=== name` and ends with the line break before the next.
fn parts(data: &[u8]) -> Vec<(&[u8], &[u8])> {
    const MARK: &[u8] = b"=== ";
    let mut begins = Vec::new();
    for at in 0..data.len() {
        if data[at..].starts_with(MARK) && (at == 0 || data[at - 1] == b'\n') {
            begins.push(at);
        }
    }
    let ends = begins.iter().skip(1).copied().chain([data.len()]);
    let part = |(begin, end): (&usize, usize)| {
        let text = &data[begin + MARK.len()..end];
        let line = text.iter().position(|byte| *byte == b'\n').unwrap_or(text.len());
        let content = text.get(line + 1..).unwrap_or_default();
        (&text[..line], content.strip_suffix(b"\n").unwrap_or(content))
    };
    begins.iter().zip(ends).map(part).collect()
}
