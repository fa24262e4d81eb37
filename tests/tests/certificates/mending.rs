//! Broken folders, what `certs lint` says of them word for word where it matters, and that doing what it
//! says mends them.

use std::fs;
use std::process::{Command, Output};

use signet_tests::programs::program;

use super::openssl::{Bench, CA_EXTENSIONS, P256, request};

/// A root in `issuer.pem`, an intermediate in `middle.pem`, and a folder `ca` whose signer is below it.
fn bench() -> Bench {
    let bench = Bench::new();
    bench.issuer(P256, CA_EXTENSIONS);
    bench.key("middle-key.pem", P256);
    bench.certify("middle.pem", "middle-key.pem", &request("CN = Policy CA\n"), CA_EXTENSIONS);
    fs::create_dir(bench.path().join("ca")).unwrap();
    bench.key("ca/ca-key.pem", P256);
    sign(&bench, CA_EXTENSIONS);
    bench
}

/// The signer, by the intermediate, with these extensions; it ends first of all.
fn sign(bench: &Bench, extensions: &str) {
    bench.write("request.cnf", request("CN = Issuing CA\n"));
    bench.write("extensions.cnf", extensions);
    bench.openssl(&["req", "-new", "-config", "request.cnf", "-key", "ca/ca-key.pem", "-out", "request.pem"]);
    let sign = ["x509", "-req", "-in", "request.pem", "-CA", "middle.pem", "-CAkey", "middle-key.pem"];
    let rest = ["-CAcreateserial", "-days", "1", "-extfile", "extensions.cnf", "-out", "ca/ca-cert.pem"];
    bench.openssl(&[&sign[..], &rest].concat());
    bench.write("ca/cert-chain.pem", [bench.read("ca/ca-cert.pem"), bench.read("middle.pem")].concat());
    bench.write("ca/root-cert.pem", bench.read("issuer.pem"));
}

fn lint(bench: &Bench, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(program("certs"));
    let Output { status, stdout, stderr } =
        command.current_dir(bench.path()).arg("lint").args(arguments).output().unwrap();
    assert!(stderr.is_empty() || status.code() == Some(2), "{}", String::from_utf8_lossy(&stderr));
    (status.code(), String::from_utf8(stdout).unwrap())
}

/// Refused with exit code 1, one fault of this name, and these words, wherever their lines break.
#[track_caller]
fn refused(bench: &Bench, code: &str, words: &[&str]) {
    let (exit, text) = lint(bench, &["ca"]);
    let flat = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(exit == Some(1) && flat.contains("ca: the CA would not load this folder: 1 fault"), "{text}");
    assert!(flat.contains(&format!("FAULT {code} in ")), "{text}");
    for words in words {
        assert!(flat.contains(words), "{words:?} is not in {text}");
    }
}

#[track_caller]
fn good(bench: &Bench) {
    // The bench's signer lives for a day.
    let (exit, text) = lint(bench, &["ca", "--leaf-lifetime", "1h"]);
    assert!(exit == Some(0) && !text.contains("FAULT") && !text.contains("\nnote "), "{text}");
}

/// Types a command in the folder.
fn shell(bench: &Bench, command: &str) {
    let status = Command::new("sh").current_dir(bench.path().join("ca")).args(["-c", command]).status();
    assert!(status.unwrap().success(), "{command}");
}

#[test]
fn a_chain_without_its_middle() {
    let bench = bench();
    good(&bench);
    bench.write("ca/cert-chain.pem", bench.read("ca/ca-cert.pem"));
    refused(
        &bench,
        "CHAIN_BROKEN",
        &[
            "is signed by (CN=Policy CA), which is not in root-cert.pem nor further up in cert-chain.pem",
            "certificate ca-cert.pem, line 1: CN=Issuing CA, serial ",
            "if it is an intermediate, add it to cert-chain.pem behind (CN=Issuing CA, serial ",
        ],
    );
    shell(&bench, "cat ../middle.pem >> cert-chain.pem");
    good(&bench);
}

#[test]
fn a_chain_that_forgot_the_signer() {
    let bench = bench();
    bench.write("ca/cert-chain.pem", bench.read("middle.pem"));
    refused(&bench, "SIGNER_NOT_IN_CHAIN", &["cat ca-cert.pem HIGHER.pem > cert-chain.pem"]);
    shell(&bench, "cp ../middle.pem HIGHER.pem && cat ca-cert.pem HIGHER.pem > cert-chain.pem");
    good(&bench);
}

#[test]
fn a_root_that_was_made_anew() {
    let bench = bench();
    let (right, key) = (bench.read("issuer.pem"), bench.read("issuer-key.pem"));
    bench.issuer(P256, CA_EXTENSIONS);
    bench.write("ca/root-cert.pem", bench.read("issuer.pem"));
    bench.write("issuer-key.pem", key);
    refused(
        &bench,
        "CHAIN_KEY_MISMATCH",
        &[
            "names (CN=Corporate Root, serial ",
            "at line 1 of root-cert.pem as its issuer, which did not sign it: its key is another",
            "put the certificate of (CN=Corporate Root) there that has the signing key",
        ],
    );
    bench.write("ca/root-cert.pem", right);
    good(&bench);
}

#[test]
fn a_key_that_lost_its_public_part() {
    let bench = bench();
    shell(&bench, "openssl ec -in ca-key.pem -no_public -out half.pem 2>/dev/null && mv half.pem ca-key.pem");
    let command = "openssl ec -in ca-key.pem -conv_form uncompressed -out NEW.pem";
    refused(&bench, "KEY_NO_PUBLIC_PART", &[command, "then put NEW.pem in place of ca-key.pem"]);
    shell(&bench, &format!("{command} 2>/dev/null && mv NEW.pem ca-key.pem"));
    good(&bench);
}

#[test]
fn a_constraint_that_would_break_every_ztunnel() {
    let bench = bench();
    sign(&bench, &format!("{CA_EXTENSIONS}nameConstraints=critical,permitted;URI:cluster.local\n"));
    refused(
        &bench,
        "URI_CONSTRAINTS",
        &[
            "Rustls peers (ztunnel) refuse every chain with constraints on URI names",
            "have it issued anew by (CN=Policy CA) without name constraints of the type URI",
        ],
    );
    sign(&bench, CA_EXTENSIONS);
    good(&bench);
}

#[test]
fn two_forms_that_contradict_each_other() {
    let bench = bench();
    bench.key("ca/tls.key", P256);
    for (file, arguments) in [("ca/tls.crt", "/CN=other"), ("ca/ca.crt", "/CN=other root")] {
        bench.openssl(&["req", "-x509", "-key", "ca/tls.key", "-subj", arguments, "-out", file]);
    }
    bench.write("ca/ca.crt", bench.read("ca/tls.crt"));
    refused(&bench, "BOTH_FORMS", &["two different CAs", "Istio takes tls.crt"]);
    shell(&bench, "rm tls.crt tls.key ca.crt");
    good(&bench);
}

#[test]
fn exit_codes_tell_safe_changes_from_others() {
    let (bench, other) = (bench(), bench());
    let theirs = other.path().join("ca");
    let theirs = theirs.to_str().unwrap();
    assert_eq!(lint(&bench, &["ca", "--against", "ca"]).0, Some(0));
    let (exit, text) = lint(&bench, &["ca", "--against", theirs, "-o", "json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((exit, json["change"]["verdict"].as_str()), (Some(1), Some("needs_rotation")));
    for wrong in [&[][..], &["nowhere"], &["ca", "--against", "nowhere"], &["ca", "--leaf-lifetime", "soon"]]
    {
        assert_eq!(lint(&bench, wrong).0, Some(2), "{wrong:?}");
    }
    let (exit, text) = lint(&bench, &["ca", "--leaf-lifetime", "20h"]);
    assert!(exit == Some(0) && text.contains("note ENDS_FIRST in ca-cert.pem"), "a note is no fault: {text}");
}
