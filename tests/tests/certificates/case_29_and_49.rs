//! Plugged-in CAs that must not be loaded, made by OpenSSL with one thing wrong each.

use std::time::SystemTime;

use signet_certs::cacerts::{CA_CERT, Cacerts, Fault, ROOT_CERT};

use super::openssl::{Bench, CA_EXTENSIONS, P256, request};

fn faults(root_extensions: &str, extensions: &str) -> Vec<Fault> {
    let bench = Bench::new();
    bench.issuer(P256, root_extensions);
    bench.key("ca-key.pem", P256);
    bench.certify("ca.pem", "ca-key.pem", &request("O = Example\nCN = Issuing CA\n"), extensions);
    Cacerts::read(&bench.cacerts(), SystemTime::now()).err().unwrap_or_default()
}

#[track_caller]
fn one_fault(faults: &[Fault], file: &str, reason: &str) {
    assert!(
        matches!(faults, [fault] if fault.file == file && fault.what.contains(reason)),
        "expected {file}: … {reason} …, found {faults:?}"
    );
}

#[test]
fn the_same_ca_with_nothing_wrong_loads() {
    assert_eq!(faults(CA_EXTENSIONS, CA_EXTENSIONS), []);
}

#[test]
fn case_29_without_the_ca_bit() {
    let extensions = CA_EXTENSIONS.replace("CA:TRUE", "CA:FALSE");
    one_fault(&faults(CA_EXTENSIONS, &extensions), CA_CERT, "is not a CA");
}

#[test]
fn case_29_without_cert_sign() {
    let extensions = CA_EXTENSIONS.replace("keyCertSign", "digitalSignature");
    one_fault(&faults(CA_EXTENSIONS, &extensions), CA_CERT, "lacks keyCertSign");
}

#[test]
fn case_29_without_basic_constraints() {
    let extensions = CA_EXTENSIONS.replace("basicConstraints=critical,CA:TRUE\n", "");
    one_fault(&faults(CA_EXTENSIONS, &extensions), CA_CERT, "its basic constraints are missing");
}

#[test]
fn case_49_uri_constraints_on_the_intermediate_are_refused_at_load() {
    for constraint in ["permitted;URI:.example.com", "excluded;URI:cluster.local"] {
        let extensions = format!("{CA_EXTENSIONS}nameConstraints=critical,{constraint}\n");
        one_fault(&faults(CA_EXTENSIONS, &extensions), CA_CERT, "constrains URI names");
    }
}

#[test]
fn case_49_uri_constraints_on_the_root_are_refused_at_load() {
    let extensions = format!("{CA_EXTENSIONS}nameConstraints=critical,permitted;URI:cluster.local\n");
    one_fault(&faults(&extensions, CA_EXTENSIONS), ROOT_CERT, "constrains URI names");
}

#[test]
fn case_49_constraints_of_other_names_do_not_matter_to_spiffe_ids() {
    let extensions = format!("{CA_EXTENSIONS}nameConstraints=critical,permitted;DNS:example.com\n");
    assert_eq!(faults(CA_EXTENSIONS, &extensions), []);
}
