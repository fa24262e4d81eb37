//! Plugged-in CAs with the subjects that enterprises have: kept byte for byte as the issuer of leaves,
//! or peers would not find the chain.

use std::time::SystemTime;

use signet_certs::cacerts::Cacerts;

use super::openssl::{Bench, CA_EXTENSIONS, Chain, P256, RSA_2048, svid};

/// DER tags of string types, and OpenSSL's names for choosing them.
const UTF8: (u8, &str) = (0x0c, "utf8only");
const PRINTABLE: (u8, &str) = (0x13, "MASK:0x2");
const T61: (u8, &str) = (0x14, "MASK:0x4");

/// Loads a CA with this subject, signs a leaf, and has it judged. Answers the raw subject.
fn judged(kind: &[&str], mask: &str, subject: &str) -> Vec<u8> {
    let bench = Bench::new();
    bench.issuer(kind, CA_EXTENSIONS);
    bench.key("ca-key.pem", kind);
    // The table's lower bound forbids an empty organization, which some directories write.
    let configuration = format!(
        "openssl_conf=init\n[init]\nstbl_section=table\n[table]\nO=min:0,max:64\n\
         [req]\nprompt=no\nutf8=yes\ndistinguished_name=dn\nstring_mask={mask}\n[dn]\n{subject}"
    );
    bench.certify("ca.pem", "ca-key.pem", &configuration, CA_EXTENSIONS);
    let cacerts = Cacerts::read(&bench.cacerts(), SystemTime::now()).unwrap();
    let leaf = svid(&cacerts.ca, &bench.key("leaf.pem", P256));
    let raw = cacerts.ca.certificate.facts().subject.clone();
    assert_eq!(leaf.facts().issuer, raw);
    // Seen with nobody's parser: the very bytes stand in both certificates.
    for certificate in [&leaf, &cacerts.ca.certificate] {
        assert!(certificate.der().windows(raw.len()).any(|window| window == raw));
    }
    bench.assert_accepted(&Chain { leaf, intermediates: cacerts.intermediates, root: cacerts.anchor });
    raw
}

fn contains(name: &[u8], part: &[u8]) -> bool {
    name.windows(part.len()).any(|window| window == part)
}

#[test]
fn several_components_units_and_a_multi_valued_rdn_are_kept() {
    let raw = judged(
        P256,
        UTF8.1,
        "0.DC = com\n1.DC = corp\n2.DC = ad\nO = Example AG\n0.OU = PKI\n1.OU = Mesh\n+CN = Issuing CA 1\n",
    );
    // The last relative name is a set of two: its length is that of OU=Mesh and CN=… together.
    assert!(contains(&raw, &[0x31, 2 + 11 + 2 + 19]), "{raw:02x?}");
    assert_eq!(
        raw.windows(4).filter(|window| window[..2] == [0x16, 3] || window[..2] == [0x16, 4]).count(),
        2
    );
}

#[test]
fn each_string_type_is_kept() {
    for (tag, mask) in [UTF8, PRINTABLE, T61] {
        let raw = judged(P256, mask, "C = DE\nO = Example\nCN = Issuing CA\n");
        assert!(contains(&raw, &[&[tag, 10][..], b"Issuing CA"].concat()), "{mask}: {raw:02x?}");
    }
}

#[test]
fn letters_beyond_ascii_are_kept_in_utf8_and_in_t61() {
    let raw = judged(P256, UTF8.1, "O = Bäckerei Müller\nCN = Zoë\n");
    assert!(contains(&raw, "Bäckerei Müller".as_bytes()));
    let raw = judged(RSA_2048, T61.1, "O = Bäckerei\nCN = Issuing CA\n");
    assert!(contains(&raw, b"B\xe4ckerei"), "{raw:02x?}");
}

#[test]
fn an_empty_organization_and_odd_spaces_and_case_are_kept() {
    let raw = judged(P256, UTF8.1, "O =\nCN = Issuing CA\n");
    assert!(contains(&raw, &[0x0c, 0]), "{raw:02x?}");
    let raw = judged(P256, PRINTABLE.1, "O = \" EXAMPLE  ag \"\nCN = Issuing CA\n");
    assert!(contains(&raw, b" EXAMPLE  ag "), "{raw:02x?}");
}
