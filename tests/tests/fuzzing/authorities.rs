//! Folders of CA files.

use signet_certs::ca::Ca;
use signet_certs::chain::Certificate;
use signet_certs::clock::from_unix;
use signet_certs::key::PrivateKey;
use signet_certs::name::ca_name;
use signet_certs::validity::Validity;
use signet_tests::fuzzing::pki;

use super::{Bench, seed, signed_part};

fn validity() -> Validity {
    Validity { not_before: from_unix(1_790_000_000), not_after: from_unix(1_990_000_000) }
}

fn pem(certificates: &[&Certificate]) -> String {
    certificates.iter().map(|one| one.to_pem()).collect()
}

/// Files as the target takes them.
fn files(parts: &[(&str, &str)]) -> String {
    parts.iter().map(|(name, content)| format!("=== {name}\n{content}")).collect()
}

/// The four files of a signer with these certificates above it.
fn four(signer: &Ca, chain: &[&Certificate], roots: &[&Certificate]) -> String {
    files(&[
        ("ca-cert.pem", &signer.certificate.to_pem()),
        ("ca-key.pem", &signer.key.to_pkcs8_pem()),
        ("cert-chain.pem", &pem(chain)),
        ("root-cert.pem", &pem(roots)),
    ])
}

fn intermediate(root: &Ca, name: &str, path_length: u8, key: PrivateKey) -> Ca {
    root.intermediate(ca_name("Signet", Some(name), "Intermediate CA"), path_length, validity(), key).unwrap()
}

pub(super) fn folders(bench: &Bench) {
    let key = |name: &str| PrivateKey::from_pem(&bench.read(name)).unwrap();
    let root = |name: &str, of: &str| Ca::root(ca_name("Signet", None, name), validity(), key(of)).unwrap();
    let top = root("Root CA", "p-384");
    let signer = intermediate(&top, "one", 0, key("p-256"));
    let (below, above) = (&signer.certificate, &top.certificate);
    seed("cacerts", "intermediate", four(&signer, &[below], &[above]));
    seed("cacerts", "chain-with-its-root", four(&signer, &[below, above], &[above]));
    seed("cacerts", "chain-turned-round", four(&signer, &[above, below], &[above]));
    seed("cacerts", "root-alone", four(&top, &[above], &[above]));
    let rsa = root("RSA", "rsa-2048");
    seed("cacerts", "rsa", four(&rsa, &[&rsa.certificate], &[&rsa.certificate, above]));
    let middle = intermediate(&top, "middle", 1, key("ed25519"));
    let last = intermediate(&middle, "last", 0, key("p-256"));
    let all = [&last.certificate, &middle.certificate];
    seed("cacerts", "three-levels", four(&last, &all, &[above]));
    seed("cacerts", "three-levels-in-the-wrong-order", four(&last, &[all[1], all[0]], &[above]));
    seed("cacerts", "no-root", four(&last, &all, &[&rsa.certificate]));
    seed("cacerts", "key-of-another", four(&signer, &all, &[above]).replace("ca-cert", "tls.crt"));
    let again = Ca::root(ca_name("Signet", None, "Root CA"), validity(), key("p-384")).unwrap();
    seed("cacerts", "root-made-anew", four(&signer, &[below], &[above, &again.certificate]));
    let secret = files(&[
        ("tls.crt", &pem(&[below])),
        ("tls.key", &signer.key.to_pkcs8_pem()),
        ("ca.crt", &pem(&[above])),
    ]);
    seed("cacerts", "tls-secret", &secret);
    seed("cacerts", "both-forms", secret + &four(&signer, &[below], &[above]));
    seed(
        "cacerts",
        "crls-of-nobody",
        four(&signer, &[below], &[above])
            + "=== ca-crl.pem\n-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n",
    );
    signed_by_the_target(bench);
    revocations();
}

/// Signing certificates under the target's own root, by OpenSSL.
fn signed_by_the_target(bench: &Bench) {
    bench.write("root.pem", pki::pki().root.certificate.to_pem());
    bench.write("root.key", pki::key(pki::ROOT).to_pkcs8_pem().as_bytes());
    bench.write("signer", pki::key(pki::INTERMEDIATE).to_pkcs8_pem().as_bytes());
    bench.openssl("req -new -key signer -subj /C=DE/O=Org/CN=Issuing -out signer.csr");
    let part = signed_part(pki::pki().intermediate.certificate.der()).to_vec();
    seed("cacerts", "to-sign-ours", [b"c", &part[..]].concat());
    let usage =
        "keyUsage=critical,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";
    for (name, extensions) in [
        ("plain", format!("basicConstraints=critical,CA:TRUE\n{usage}")),
        ("path-length", format!("basicConstraints=CA:TRUE,pathlen:0\n{usage}certificatePolicies=1.2.3.4\n")),
        ("no-ca", "basicConstraints=CA:FALSE\n".to_owned()),
        (
            "usages",
            format!("basicConstraints=critical,CA:TRUE\n{usage}extendedKeyUsage=serverAuth,clientAuth\n"),
        ),
        ("other-usages", format!("basicConstraints=critical,CA:TRUE\n{usage}extendedKeyUsage=codeSigning\n")),
        ("no-cert-sign", "basicConstraints=CA:TRUE\nkeyUsage=digitalSignature\n".to_owned()),
        (
            "names",
            format!(
                "basicConstraints=critical,CA:TRUE\n{usage}nameConstraints=critical,permitted;URI:cluster.local,permitted;URI:.example,excluded;DNS:evil.example\nsubjectAltName=DNS:ca.example\n"
            ),
        ),
        (
            "unknown-critical",
            format!("basicConstraints=critical,CA:TRUE\n{usage}1.2.3.4=critical,ASN1:UTF8String:x\n"),
        ),
        (
            "policies",
            format!(
                "basicConstraints=critical,CA:TRUE\n{usage}policyConstraints=critical,requireExplicitPolicy:0\ninhibitAnyPolicy=1\ncrlDistributionPoints=URI:http://x/crl\nauthorityInfoAccess=OCSP;URI:http://x/\n"
            ),
        ),
    ] {
        bench.write("extensions", &extensions);
        bench.openssl(
            "x509 -req -in signer.csr -CA root.pem -CAkey root.key -days 3650 -set_serial 0x4711 \
                -extfile extensions -outform DER -out signer.der",
        );
        seed("cacerts", &format!("to-sign-{name}"), [b"c", signed_part(&bench.read("signer.der"))].concat());
    }
}

/// The signed parts of CRLs, of the target's intermediate and of nobody.
fn revocations() {
    let ca = &pki::pki().intermediate.certificate;
    let time = |text: &str| [&[0x17, 13], text.as_bytes()].concat();
    let entry = pki::sequence(&[&[2, 2, 0x47, 0x11], &time("260101000000Z")]);
    let algorithm = pki::key(pki::ROOT).algorithm_identifier().to_vec();
    for (name, issuer, entries) in [
        ("crl-empty", &ca.facts().subject, None),
        ("crl-of-the-root", &pki::pki().root.certificate.facts().subject, Some(&entry)),
    ] {
        let mut parts = vec![&[2, 1, 1][..], &algorithm, issuer];
        let (this, next) = (time("260101000000Z"), time("300101000000Z"));
        parts.extend([&this[..], &next]);
        let entries = entries.map(|entry| pki::sequence(&[entry]));
        parts.extend(entries.as_deref());
        seed("cacerts", &format!("to-sign-{name}"), [b"l", &pki::sequence(&parts)[..]].concat());
    }
}
