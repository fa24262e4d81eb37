//! Each kind of issuer x each kind of leaf key x each kind of subject: folders by plain `openssl`
//! commands, in both forms, whose leaves OpenSSL's strict verifier and webpki accept.

use std::sync::LazyLock;
use std::time::SystemTime;

use signet_certs::cacerts::{
    CA_CERT, CA_KEY, CERT_CHAIN, Cacerts, Folder, ROOT_CERT, TLS_CA, TLS_CERT, TLS_KEY,
};
use signet_certs::chain::Certificate;

use super::openssl::{
    Bench, CA_EXTENSIONS, Chain, ED25519, P256, P384, RSA_2048, RSA_3072, RSA_4096, request, svid,
};

const LEAF_KEYS: [&[&str]; 6] = [RSA_2048, RSA_3072, RSA_4096, P256, P384, ED25519];

/// SubjectPublicKeyInfo of a leaf key of each kind.
static LEAVES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let bench = Bench::new();
    LEAF_KEYS.iter().map(|kind| bench.key("leaf.pem", kind)).collect()
});

/// A subject: its name here, OpenSSL's string mask, and its lines in a request's configuration.
struct Subject(&'static str, &'static str, &'static str);

const SUBJECTS: [Subject; 8] = [
    Subject("plain", "utf8only", "O = Istio\nCN = Intermediate CA\nL = cluster1\n"),
    Subject("several DC", "utf8only", "0.DC = com\n1.DC = corp\n2.DC = ad\nCN = Issuing CA\n"),
    Subject(
        "several OU",
        "utf8only",
        "O = Example AG\n0.OU = PKI\n1.OU = Mesh\n2.OU = PKI\nCN = Issuing CA\n",
    ),
    Subject("multi-valued", "utf8only", "O = Example AG\nOU = Mesh\n+CN = Issuing CA\n+serialNumber = 7\n"),
    Subject("beyond ASCII", "utf8only", "O = Bäckerei Müller\nCN = Zoë 発行\n"),
    Subject("Printable", "MASK:0x2", "C = DE\nO = \" EXAMPLE  ag \"\nCN = Issuing CA\n"),
    Subject("T61", "MASK:0x4", "C = DE\nO = Bäckerei\nCN = Issuing CA\n"),
    Subject("empty", "utf8only", ""),
];

/// A root and, per subject, a signer, all of one kind; every leaf of each is accepted.
fn accepted(kind: &[&str]) {
    let bench = Bench::new();
    bench.issuer(kind, CA_EXTENSIONS);
    bench.key("ca-key.pem", kind);
    for Subject(name, mask, lines) in SUBJECTS {
        certify(&bench, mask, lines);
        let [first, second] =
            folders(&bench).map(|folder| Cacerts::read(&folder, SystemTime::now()).unwrap());
        assert_eq!(first.intermediates, second.intermediates, "{name}");
        let Cacerts { ca, intermediates, anchor, notes, .. } = first;
        let noted: &[&str] = if lines.is_empty() { &["EMPTY_SUBJECT"] } else { &[] };
        assert_eq!(notes.iter().map(|note| note.code).collect::<Vec<_>>(), noted, "{name}");
        let leaves: Vec<_> = LEAVES.iter().map(|spki| svid(&ca, spki)).collect();
        verified(&bench, name, &leaves, lines.is_empty());
        for (leaf, kind) in leaves.into_iter().zip(LEAF_KEYS) {
            assert_eq!(leaf.facts().issuer, ca.certificate.facts().subject);
            let chain = Chain { leaf, intermediates: intermediates.clone(), root: anchor.clone() };
            assert_eq!(chain.webpki(), Ok(()), "{kind:?} under {name}");
        }
    }
}

/// The signer in `ca.pem` with this subject.
fn certify(bench: &Bench, mask: &str, lines: &str) {
    if lines.is_empty() {
        bench.write("extensions.cnf", CA_EXTENSIONS);
        bench.openssl(&["req", "-new", "-subj", "/", "-key", "ca-key.pem", "-out", "request.pem"]);
        let sign = ["x509", "-req", "-in", "request.pem", "-CA", "issuer.pem", "-CAkey", "issuer-key.pem"];
        let rest = ["-CAcreateserial", "-days", "2", "-extfile", "extensions.cnf", "-out", "ca.pem"];
        bench.openssl(&[&sign[..], &rest].concat());
    } else {
        let options = format!("[req]\nutf8=yes\nstring_mask={mask}\n");
        bench.certify("ca.pem", "ca-key.pem", &request(lines).replace("[req]\n", &options), CA_EXTENSIONS);
    }
}

/// The signer's folder in each form.
fn folders(bench: &Bench) -> [Folder; 2] {
    let (signer, root, key) = (bench.read("ca.pem"), bench.read("issuer.pem"), bench.read("ca-key.pem"));
    let chain = [signer.clone(), root.clone()].concat();
    [
        Folder::from([
            (CA_CERT, signer),
            (CA_KEY, key.clone()),
            (CERT_CHAIN, chain.clone()),
            (ROOT_CERT, root.clone()),
        ]),
        Folder::from([(TLS_CERT, chain), (TLS_KEY, key), (TLS_CA, root)]),
    ]
}

/// All leaves of one signer at once, by OpenSSL for both purposes. Its strict mode refuses an issuer
/// without a name (RFC 5280, 4.1.2.4), which is what the note says.
#[track_caller]
fn verified(bench: &Bench, name: &str, leaves: &[Certificate], empty: bool) {
    let files: Vec<_> = (0..leaves.len()).map(|at| format!("leaf-{at}.pem")).collect();
    for (file, leaf) in files.iter().zip(leaves) {
        bench.write(file, leaf.to_pem());
    }
    let files: Vec<_> = files.iter().map(String::as_str).collect();
    for purpose in ["sslserver", "sslclient"] {
        let verify = |strict: &[&str]| {
            let arguments = ["verify", "-purpose", purpose, "-CAfile", "issuer.pem", "-untrusted", "ca.pem"];
            bench.try_openssl(&[&arguments[..], strict, &files].concat())
        };
        let strict = verify(&["-x509_strict"]);
        let said = String::from_utf8_lossy(&strict.stderr).into_owned();
        assert_eq!(strict.status.success(), !empty, "{name}: {said}");
        if empty {
            assert!(said.contains("empty"), "{said}");
            let lenient = verify(&[]);
            assert!(lenient.status.success(), "{name}: {}", String::from_utf8_lossy(&lenient.stderr));
        }
    }
}

#[test]
fn rsa_2048_issuers() {
    accepted(RSA_2048);
}

#[test]
fn rsa_4096_issuers() {
    accepted(RSA_4096);
}

#[test]
fn p256_issuers() {
    accepted(P256);
}

#[test]
fn p384_issuers() {
    accepted(P384);
}

#[test]
fn ed25519_issuers() {
    accepted(ED25519);
}
