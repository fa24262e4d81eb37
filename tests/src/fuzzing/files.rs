//! Any file: as a private key, and as `certs inspect` shows it.

use std::path::Path;

use clap::{Args, Command, FromArgMatches};
use signet_certs::chain::Certificate;
use signet_certs::key::{KeyKind, PrivateKey};
use zeroize::Zeroizing;

use super::ceremony::inspect::{Options, run};
use super::{assert_printable, pki};

/// A key that is accepted signs, and reads back as itself; whatever the file holds is shown without it.
pub fn files(data: &[u8]) {
    let key = PrivateKey::from_pem(data).or_else(|error| {
        assert_printable(&error.to_string());
        PrivateKey::from_pkcs8(Zeroizing::new(data.to_vec()))
    });
    match &key {
        Ok(key) => accepted(key),
        Err(error) => assert_printable(&error.to_string()),
    }
    if let Err(error) = Certificate::all_from_pem(data) {
        assert_printable(&error.to_string());
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, data).unwrap();
    for format in ["text", "json"] {
        let shown = inspect(&path, format);
        for line in shown.lines() {
            assert_printable(line);
        }
        if format == "json" {
            serde_json::from_str::<serde_json::Value>(&shown).unwrap();
        }
        if let Ok(key) = &key {
            let secret = key.to_pkcs8_pem();
            assert!(!shown.contains(secret.lines().nth(1).unwrap()), "the private key is shown");
        }
    }
}

fn inspect(path: &Path, format: &str) -> String {
    let command = Options::augment_args(Command::new("inspect"));
    let arguments = ["inspect", "-o", format, path.to_str().unwrap()];
    let options = Options::from_arg_matches(&command.get_matches_from(arguments)).unwrap();
    run(&options, pki::now()).output
}

fn accepted(key: &PrivateKey) {
    assert_eq!(KeyKind::of_spki(key.spki()), Ok(key.kind()));
    assert_eq!(format!("{key:?}"), "(private key)");
    let again = PrivateKey::from_pem(key.to_pkcs8_pem().as_bytes()).unwrap();
    assert_eq!((again.spki(), again.kind()), (key.spki(), key.kind()));
    // A request is a signature that anybody can verify.
    super::csr(signet_certs::csr::create(key, &pki::workload()).unwrap().as_bytes());
    let request = signet_certs::csr::create(key, &pki::workload()).unwrap();
    signet_certs::csr::VerifiedCsr::from_pem(&request).unwrap();
}
