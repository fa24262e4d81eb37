//! The `openssl` program as a judge of our certificates and a maker of foreign requests.

use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs it in `folder`, whatever comes of it.
pub fn try_openssl(folder: &Path, arguments: &[&str]) -> Output {
    Command::new("openssl")
        .current_dir(folder)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("the program openssl must be installed: it judges our certificates")
}

/// Runs it in `folder`; it must succeed. Answers its standard output.
pub fn openssl(folder: &Path, arguments: &[&str]) -> String {
    let Output { status, stdout, stderr } = try_openssl(folder, arguments);
    assert!(status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&stderr));
    // `s_client` prints what the server sends, HTTP/2 frames too.
    String::from_utf8_lossy(&stdout).into_owned()
}

/// A private key in `folder/file`, by the arguments of `openssl genpkey`.
pub fn key(folder: &Path, file: &str, kind: &[&str]) {
    openssl(folder, &[&["genpkey", "-out", file, "-quiet"], kind].concat());
}

/// A request in PEM for the key in `folder/file`, with what follows `req -new`.
pub fn csr(folder: &Path, file: &str, arguments: &[&str]) -> String {
    openssl(folder, &[&["req", "-new", "-key", file, "-subj", "/"], arguments].concat())
}
