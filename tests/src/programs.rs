//! Where the programs under test stand, and the tools that judge them. What is not there fails the
//! test with the command that mends it, rather than passing quietly.

use std::path::{Path, PathBuf};

/// The program of this name, built in the same profile as the running test or program.
///
/// # Panics
/// If it is not built.
pub fn program(name: &str) -> PathBuf {
    let running = std::env::current_exe().expect("a running program has a file");
    // Programs stand in target/PROFILE, tests in deps beneath it.
    let folder = running
        .ancestors()
        .skip(1)
        .find(|folder| folder.file_name().is_none_or(|name| name != "deps"))
        .expect("a program stands in a folder");
    let path = folder.join(name);
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    assert!(
        path.is_file(),
        "the program {name} is not built; build it with: cargo build --profile {profile} --bin {name}"
    );
    path
}

/// A file that `tests/tools/install` put there, such as `tool("pkilint", "bin/lint_pkix_cert")`.
///
/// # Panics
/// If it is not installed.
pub fn tool(name: &str, file: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools").join(name).join(file);
    assert!(path.is_file(), "{name} is not installed; install it with: tests/tools/install {name}");
    path
}
