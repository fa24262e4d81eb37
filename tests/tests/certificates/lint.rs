//! What pkilint finds in a chain made by the program `certs`, and in the leaves that the library makes.

use std::process::Command;
use std::time::SystemTime;

use signet_certs::cacerts::{CA_CERT, CA_KEY, CERT_CHAIN, Cacerts, Folder, ROOT_CERT};
use signet_certs::chain::Certificate;
use signet_certs::profile::Profile;
use signet_certs::template::Names;
use signet_tests::programs::{program, tool};

use super::openssl::{Bench, ED25519, IDENTITY, P256, P384, RSA_2048, leaf, svid};

/// Findings of level ERROR or FATAL as text; empty where there are none. The linter's exit code is
/// their number.
fn findings(bench: &Bench, linter: &str, files: &[&str]) -> String {
    let output = Command::new(tool("pkilint", &format!("bin/{linter}")))
        .current_dir(bench.path())
        .args(["lint", "--severity", "ERROR"])
        .args(files)
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(errors.is_empty(), "{linter} {files:?}: {errors}");
    let found = String::from_utf8(output.stdout).unwrap().trim().to_owned();
    assert_eq!(output.status.success(), found.is_empty(), "{linter} {files:?}: {found}");
    found
}

#[test]
fn pkilint_finds_no_error_but_its_own_two() {
    let bench = Bench::new();
    for arguments in [
        &["root-ca", "--out", "root"][..],
        &["intermediate", "--root", "root", "--name", "cluster1", "--out", "cluster1"],
    ] {
        let status = Command::new(program("certs")).current_dir(bench.path()).args(arguments).output();
        assert!(status.unwrap().status.success(), "{arguments:?}");
    }
    let read = |name: &'static str| (name, bench.read(&format!("cluster1/{name}")));
    let files = Folder::from([CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT].map(read));
    let Cacerts { ca, .. } = Cacerts::read(&files, SystemTime::now()).unwrap();
    let keep = |name: &str, certificate: Certificate| bench.write(name, certificate.to_pem());
    for (name, kind) in [("p256", P256), ("p384", P384), ("ed25519", ED25519), ("rsa", RSA_2048)] {
        keep(name, svid(&ca, &bench.key("leaf.key", kind)));
    }
    let hosts = Names::Hosts {
        dns: vec!["localhost".into(), "istiod.istio-system.svc".into()],
        ip: vec!["127.0.0.1".parse().unwrap(), "::1".parse().unwrap()],
    };
    keep("serving", leaf(&ca, Profile::Serving, hosts, &bench.key("leaf.key", P256)));

    let (root, intermediate) = ("root/ca-cert.pem", "cluster1/ca-cert.pem");
    for file in [root, intermediate] {
        assert_eq!(findings(&bench, "lint_pkix_cert", &[file]), "", "{file}");
    }
    for file in ["p256", "p384", "ed25519", "rsa"] {
        assert_eq!(findings(&bench, "lint_pkix_cert", &[file]), unknown_scheme(), "{file}");
    }
    assert_eq!(findings(&bench, "lint_pkix_cert", &["serving"]), single_label());
    for pair in [[root, intermediate], [intermediate, "p256"], [intermediate, "serving"]] {
        assert_eq!(findings(&bench, "lint_pkix_signer_signee_cert_chain", &pair), "", "{pair:?}");
    }
}

// The two findings below are pkilint's limits and no faults of ours. They are compared to the letter, so
// that any other finding fails the test, and so does a linter that has learned better.

/// Every X.509-SVID gets it: pkilint takes a URI for valid only if its scheme is one of nine, such as http
/// and ssh, and `spiffe` is none of them. RFC 5280 (4.2.1.6) knows no such list.
fn unknown_scheme() -> String {
    let what = format!("pkix.invalid_uri_syntax (ERROR): Invalid URI syntax: \"{IDENTITY}\"");
    finding("GeneralNameUriSyntaxValidator", "uniformResourceIdentifier", &what)
}

/// It demands a dot in every DNS name; the preferred name syntax (RFC 1034, 3.5) has names of one label.
fn single_label() -> String {
    let what = "pkix.invalid_domain_name_syntax (ERROR): Invalid domain name syntax: \"localhost\"";
    finding("GeneralNameDnsNameSyntaxValidator", "dNSName", what)
}

/// A finding about the first subject alternative name, as the linter prints it.
fn finding(validator: &str, name: &str, what: &str) -> String {
    let extension = "certificate.tbsCertificate.extensions.4.extnValue";
    format!("{validator} @ {extension}.subjectAltName.0.{name}\n    {what}")
}

#[test]
fn pkilint_finds_what_is_wrong() {
    let bench = Bench::new();
    for (name, san) in [("bad.pem", "DNS:a.example"), ("other.pem", "critical,DNS:a.example")] {
        bench.key("key.pem", P256);
        let san = format!("subjectAltName={san}");
        let arguments = ["req", "-x509", "-key", "key.pem", "-subj", "/", "-addext", &san, "-out", name];
        bench.openssl(&arguments);
    }
    let found = findings(&bench, "lint_pkix_cert", &["bad.pem"]);
    assert!(found.contains("pkix.san_extension_not_critical_empty_subject (ERROR)"), "{found}");
    let found = findings(&bench, "lint_pkix_signer_signee_cert_chain", &["bad.pem", "other.pem"]);
    assert!(found.contains("pkix.signature_verification_failed (ERROR)"), "{found}");
}
