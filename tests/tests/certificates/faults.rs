//! CA certificates by OpenSSL with one thing wrong or odd each: the name of the finding, and on what it is.

use std::time::{Duration, SystemTime};

use signet_certs::cacerts::{
    CA_CERT, CA_CRL, CERT_CHAIN, Finding, Folder, Judged, ROOT_CERT, TLS_CA, TLS_CERT, TLS_KEY,
};

use super::openssl::{Bench, CA_EXTENSIONS, P256, RSA_2048, request};

/// An issuing CA with these extensions under a root with those.
fn bench(root_extensions: &str, extensions: &str) -> Bench {
    let bench = Bench::new();
    bench.issuer(P256, root_extensions);
    bench.key("ca-key.pem", P256);
    bench.certify("ca.pem", "ca-key.pem", &request("CN = Issuing CA\n"), extensions);
    bench
}

fn with(line: &str) -> String {
    format!("{CA_EXTENSIONS}{line}\n")
}

fn judge(folder: &Folder) -> Judged {
    Judged::of(folder, SystemTime::now())
}

/// The one fault, with its name and on the certificate of a file.
#[track_caller]
fn fault(folder: &Folder, code: &str, file: &str, what: &str) -> Finding {
    let Judged { cacerts, faults, .. } = judge(folder);
    assert!(cacerts.is_none());
    one(&faults, code, file, what)
}

/// The one note of a folder that loads.
#[track_caller]
fn note(folder: &Folder, code: &str, file: &str, what: &str) -> Finding {
    let Judged { cacerts, faults, notes, .. } = judge(folder);
    assert_eq!(faults, []);
    assert_eq!(cacerts.unwrap().notes, notes);
    one(&notes, code, file, what)
}

#[track_caller]
fn one(found: &[Finding], code: &str, file: &str, what: &str) -> Finding {
    let [finding] = found else { panic!("expected {code}, found {found:#?}") };
    assert!(finding.code == code && finding.file == file && finding.what.contains(what), "{finding:#?}");
    assert!(!finding.why.is_empty() && !finding.todo.is_empty());
    finding.clone()
}

/// The folder with one file changed.
fn but(mut folder: Folder, name: &'static str, content: impl AsRef<[u8]>) -> Folder {
    folder.insert(name, Ok(content.as_ref().to_vec().into()));
    folder
}

#[test]
fn usages_and_constraints_that_peers_refuse() {
    for (extensions, code, what) in [
        (CA_EXTENSIONS.replace("CA:TRUE", "CA:FALSE"), "NOT_A_CA", "say CA:FALSE"),
        (
            CA_EXTENSIONS.replace("basicConstraints=critical,CA:TRUE\n", ""),
            "NO_BASIC_CONSTRAINTS",
            "are missing",
        ),
        (CA_EXTENSIONS.replace("keyCertSign,", ""), "NO_CERT_SIGN", "lacks keyCertSign"),
        (with("nameConstraints=critical,permitted;URI:cluster.local"), "URI_CONSTRAINTS", "constrains URI"),
        (
            with("nameConstraints=critical,permitted;dirName:dir\n[dir]\nO=Example"),
            "DIRECTORY_CONSTRAINTS",
            "constrains directory names",
        ),
        (with("extendedKeyUsage=serverAuth"), "EXTENDED_KEY_USAGE", "without serverAuth and clientAuth"),
        (with("extendedKeyUsage=anyExtendedKeyUsage"), "EXTENDED_KEY_USAGE", "extended key usage"),
        (with("1.2.3.4=critical,ASN1:NULL"), "CRITICAL_EXTENSION", "the critical extension 1.2.3.4"),
        (with("certificatePolicies=critical,1.2.3"), "CRITICAL_EXTENSION", "2.5.29.32"),
    ] {
        let found = fault(&bench(CA_EXTENSIONS, &extensions).cacerts(), code, CA_CERT, what);
        let named = found.certificate.unwrap();
        assert_eq!((named.subject.as_str(), named.file, named.line), ("CN=Issuing CA", CA_CERT, 1));
        assert!(found.todo.contains("have it issued anew by (CN=Corporate Root)"), "{}", found.todo);
    }
    for (extensions, code) in [
        (CA_EXTENSIONS.replace("CA:TRUE", "CA:TRUE,pathlen:0"), "PATH_LENGTH"),
        (with("extendedKeyUsage=clientAuth"), "EXTENDED_KEY_USAGE"),
        (with("nameConstraints=critical,excluded;URI:elsewhere"), "URI_CONSTRAINTS"),
        (with("1.2.3.4=critical,ASN1:NULL"), "CRITICAL_EXTENSION"),
    ] {
        let folder = bench(&extensions, CA_EXTENSIONS).cacerts();
        if code == "PATH_LENGTH" {
            // A root with path length 0 may sign leaves only.
            fault(&folder, code, ROOT_CERT, "path length 0, but 1 CA stands below it");
        } else {
            fault(&folder, code, ROOT_CERT, "(CN=Corporate Root, serial ");
        }
    }
}

/// What is refused here because of webpki and OpenSSL is refused by them, too.
#[test]
fn the_judges_agree_on_what_they_refuse() {
    for extension in [
        "nameConstraints=critical,permitted;URI:cluster.local",
        "nameConstraints=critical,permitted;dirName:dir\n[dir]\nO=Example",
        "extendedKeyUsage=anyExtendedKeyUsage",
        "certificatePolicies=critical,1.2.3",
    ] {
        let bench = bench(CA_EXTENSIONS, &with(extension));
        let read = |name: &str| signet_certs::chain::Certificate::from_pem(&bench.read(name)).unwrap();
        let ca = signet_certs::ca::Ca { certificate: read("ca.pem"), key: bench.private_key("ca-key.pem") };
        let leaf = super::openssl::svid(&ca, &bench.key("leaf.pem", P256));
        let chain =
            super::openssl::Chain { leaf, intermediates: vec![ca.certificate], root: read("issuer.pem") };
        assert!(chain.webpki().is_err(), "{extension}");
        if extension.starts_with("extendedKeyUsage") {
            assert!(bench.verify("sslserver", &chain).is_err());
        }
    }
}

#[test]
fn odd_and_harmless_things_are_notes() {
    let dns = with("nameConstraints=critical,permitted;DNS:example.com");
    note(&bench(CA_EXTENSIONS, &dns).cacerts(), "OTHER_CONSTRAINTS", CA_CERT, "constrains DNS names");
    let bare = "basicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";
    note(&bench(CA_EXTENSIONS, bare).cacerts(), "NO_KEY_USAGE", CA_CERT, "has no key usage");
    assert!(
        judge(&bench(CA_EXTENSIONS, &with("extendedKeyUsage=serverAuth,clientAuth")).cacerts())
            .faults
            .is_empty()
    );
}

/// Signs the CA's request anew with these arguments of `openssl x509 -req`.
fn sign(bench: &Bench, arguments: &[&str]) {
    let base = ["x509", "-req", "-in", "request.pem", "-CA", "issuer.pem", "-CAkey", "issuer-key.pem"];
    let out = ["-extfile", "extensions.cnf", "-out", "ca.pem"];
    bench.openssl(&[&base[..], arguments, &out].concat());
}

#[test]
fn dates_digests_and_serial_numbers() {
    let rsa = Bench::new();
    rsa.issuer(RSA_2048, CA_EXTENSIONS);
    rsa.key("ca-key.pem", P256);
    rsa.certify("ca.pem", "ca-key.pem", &request("CN = Issuing CA\n"), CA_EXTENSIONS);
    sign(&rsa, &["-sha1", "-days", "2"]);
    fault(&rsa.cacerts(), "SHA1_SIGNATURE", CA_CERT, "is signed by RSA with SHA-1");
    sign(&rsa, &["-sha256", "-sigopt", "rsa_padding_mode:pss", "-days", "2"]);
    fault(&rsa.cacerts(), "SIGNATURE_ALGORITHM", CA_CERT, "is signed by RSASSA-PSS");
    sign(&rsa, &["-days", "2", "-set_serial", "0"]);
    note(&rsa.cacerts(), "SERIAL", CA_CERT, "the serial number zero");
    sign(&rsa, &["-days", "2", "-set_serial", "-5"]);
    note(&rsa.cacerts(), "SERIAL", CA_CERT, "a negative serial number");
    sign(&rsa, &["-days", "2", "-set_serial", &format!("0x{}", "7f".repeat(21))]);
    note(&rsa.cacerts(), "SERIAL", CA_CERT, "more than 20 octets");
    sign(&rsa, &["-days", "2", "-set_serial", "7"]);
    let (folder, day) = (rsa.cacerts(), Duration::from_secs(86_400));
    let later = Judged::of(&folder, SystemTime::now() + day * 2 + day / 2);
    let found = one(&later.faults, "ENDED", CA_CERT, "ended at");
    assert!(found.todo.contains("with a later end, for the same key"), "{}", found.todo);
    let earlier = Judged::of(&folder, SystemTime::now() - day);
    let files: Vec<_> = earlier.faults.iter().map(|fault| (fault.code, fault.file)).collect();
    assert_eq!(files, [("NOT_YET_VALID", CA_CERT), ("NOT_YET_VALID", ROOT_CERT)]);
    let soon = judge(&folder).ends_soon(day, SystemTime::now()).unwrap();
    assert_eq!((soon.code, soon.file), ("ENDS_FIRST", CA_CERT));
    assert_eq!(judge(&folder).ends_soon(day / 2, SystemTime::now()), None);
}

/// A self-signed certificate in `FILE` by `openssl req -x509`, with these arguments.
fn self_signed(bench: &Bench, file: &str, subject: &str, arguments: &[&str]) {
    bench.key("self-key.pem", RSA_2048);
    let base = ["req", "-x509", "-new", "-key", "self-key.pem", "-subj", subject, "-out", file];
    bench.openssl(&[&base[..], arguments].concat());
}

#[test]
fn roots_by_themselves() {
    let bench = bench(CA_EXTENSIONS, CA_EXTENSIONS);
    let beside =
        |file: &str| but(bench.cacerts(), ROOT_CERT, [bench.read("issuer.pem"), bench.read(file)].concat());
    fault(&beside("ca.pem"), "NOT_A_ROOT", ROOT_CERT, "is not signed by itself but by (CN=Corporate Root)");
    self_signed(&bench, "leaf.pem", "/CN=leaf", &["-addext", "basicConstraints=critical,CA:FALSE"]);
    let found = fault(&beside("leaf.pem"), "NOT_A_CA", ROOT_CERT, "basic constraints say so");
    let line = String::from_utf8(bench.read("issuer.pem")).unwrap().lines().count() + 1;
    assert_eq!(found.certificate.unwrap().line, line);
    self_signed(&bench, "sha1.pem", "/CN=old", &["-sha1"]);
    note(&beside("sha1.pem"), "SHA1_ROOT", ROOT_CERT, "is signed by RSA with SHA-1");
    bench.write("issuer-name.cnf", request("CN = Corporate Root\n"));
    self_signed(&bench, "same.pem", "/CN=Corporate Root", &["-utf8"]);
    note(&beside("same.pem"), "ROOTS_SAME_NAME", ROOT_CERT, "one subject and different keys");
    bench.key("p521.pem", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"]);
    bench.openssl(&[
        "req",
        "-x509",
        "-new",
        "-key",
        "p521.pem",
        "-subj",
        "/CN=P521",
        "-out",
        "p521-root.pem",
    ]);
    note(&beside("p521-root.pem"), "ROOT_UNUSABLE", ROOT_CERT, "found an EC key on P-521");
    // Damaged within its signature.
    let mut der = signet_certs::pem::blocks(&bench.read("sha1.pem")).unwrap().remove(0).der;
    der.truncate(der.len() - 1);
    bench.write("cut.pem", signet_certs::pem::encode("CERTIFICATE", &der));
    let found = fault(&beside("cut.pem"), "DAMAGED", ROOT_CERT, "this is not an X.509 certificate");
    assert!(found.what.contains(&format!("line {line}")), "{}", found.what);
}

#[test]
fn a_root_of_version_1_is_taken_with_a_note() {
    let bench = Bench::new();
    bench.key("issuer-key.pem", P256);
    bench.openssl(&[
        "req",
        "-new",
        "-key",
        "issuer-key.pem",
        "-subj",
        "/CN=Corporate Root",
        "-out",
        "root.csr",
    ]);
    bench.openssl(&[
        "x509",
        "-req",
        "-in",
        "root.csr",
        "-signkey",
        "issuer-key.pem",
        "-days",
        "3",
        "-out",
        "issuer.pem",
    ]);
    bench.key("ca-key.pem", P256);
    let extensions = CA_EXTENSIONS.replace("authorityKeyIdentifier=keyid\n", "");
    bench.certify("ca.pem", "ca-key.pem", &request("CN = Issuing CA\n"), &extensions);
    assert!(
        String::from_utf8_lossy(&bench.openssl(&["x509", "-in", "issuer.pem", "-noout", "-text"]))
            .contains("Version: 1")
    );
    note(&bench.cacerts(), "ROOT_VERSION_1", ROOT_CERT, "version 1");
    let cacerts = judge(&bench.cacerts()).cacerts.unwrap();
    let leaf = super::openssl::svid(&cacerts.ca, &bench.key("leaf.pem", P256));
    let chain = super::openssl::Chain { leaf, intermediates: cacerts.intermediates, root: cacerts.anchor };
    assert_eq!(chain.webpki(), Ok(()));
}

#[test]
fn key_ids_that_do_not_meet() {
    let bench = bench(CA_EXTENSIONS, CA_EXTENSIONS);
    // The same root issued anew for the same key, with another key id.
    bench.write(
        "again.cnf",
        request("CN = Corporate Root\n")
            + "[ca]\nbasicConstraints=critical,CA:TRUE\nsubjectKeyIdentifier=01020304\n",
    );
    bench.openssl(&[
        "req",
        "-x509",
        "-new",
        "-config",
        "again.cnf",
        "-extensions",
        "ca",
        "-key",
        "issuer-key.pem",
        "-out",
        "again.pem",
    ]);
    let folder =
        but(but(bench.cacerts(), ROOT_CERT, bench.read("again.pem")), CERT_CHAIN, bench.read("ca.pem"));
    let Judged { faults, .. } = judge(&folder);
    one(&faults, "KEY_ID_MISMATCH", CA_CERT, "names another key id or serial number for its issuer");
    let said = bench.try_openssl(&["verify", "-CAfile", "again.pem", "ca.pem"]);
    assert!(!said.status.success(), "OpenSSL agrees");
    // With both roots there is one that fits.
    let both = but(folder, ROOT_CERT, [bench.read("again.pem"), bench.read("issuer.pem")].concat());
    let cacerts = judge(&both).cacerts.unwrap();
    assert_eq!(cacerts.anchor.to_pem().as_bytes(), bench.read("issuer.pem"));
}

#[test]
fn the_form_of_a_tls_secret() {
    let bench = bench(CA_EXTENSIONS, CA_EXTENSIONS);
    let (signer, root, key) = (bench.read("ca.pem"), bench.read("issuer.pem"), bench.read("ca-key.pem"));
    let tls = || Folder::from([(TLS_CERT, signer.clone()), (TLS_KEY, key.clone()), (TLS_CA, root.clone())]);
    let loaded = judge(&tls()).cacerts.unwrap();
    assert_eq!((loaded.form, loaded.notes), (signet_certs::cacerts::Form::TlsSecret, vec![]));
    assert_eq!(loaded.intermediates.len(), 1);
    // cert-manager and others put the root at the end, or the chain upside down.
    let upside_down = but(tls(), TLS_CERT, [root.clone(), signer.clone()].concat());
    let Judged { cacerts, notes, .. } = judge(&upside_down);
    assert_eq!(cacerts.unwrap().ca.certificate.to_pem().as_bytes(), signer);
    assert!(notes.iter().any(|note| note.code == "SIGNER_CHOSEN"), "{notes:?}");
    let missing = Folder::from([(TLS_CERT, signer.clone()), (TLS_KEY, key.clone())]);
    fault(&missing, "INCOMPLETE", TLS_CA, "is missing, while there is tls.crt, tls.key");
    note(&but(tls(), CA_CRL, "x"), "CRL_NOT_READ", CA_CRL, "not read");
    // Both forms: fine as long as they agree.
    let mut both = bench.cacerts();
    for (name, content) in [(TLS_CERT, &signer), (TLS_KEY, &key), (TLS_CA, &root)] {
        both = but(both, name, content);
    }
    note(&both, "BOTH_FORMS", TLS_CERT, "both forms say the same");
    let other = self::bench(CA_EXTENSIONS, CA_EXTENSIONS);
    let mut mixed = other.cacerts();
    for (name, content) in [(TLS_CERT, &signer), (TLS_KEY, &key), (TLS_CA, &root)] {
        mixed = but(mixed, name, content);
    }
    fault(&mixed, "BOTH_FORMS", TLS_CERT, "two different CAs");
    note(&but(bench.cacerts(), TLS_CA, &root), "NOT_READ", TLS_CA, "there is no tls.crt");
}

/// An empty CRL of the CA in `NAME.pem` and `NAME-key.pem`.
fn crl(bench: &Bench, certificate: &str, key: &str, revoked: Option<&str>) -> Vec<u8> {
    bench.write(
        "crl.cnf",
        "[ca]\ndefault_ca=c\n[c]\ndatabase=index\ncrlnumber=number\ndefault_md=sha256\ndefault_crl_days=1\n",
    );
    bench.write("index", "");
    bench.write("number", "01\n");
    let ca = ["ca", "-config", "crl.cnf", "-cert", certificate, "-keyfile", key];
    if let Some(file) = revoked {
        bench.openssl(&[&ca[..], &["-revoke", file]].concat());
    }
    bench.openssl(&[&ca[..], &["-gencrl"]].concat())
}

#[test]
fn crls_cover_the_chain_or_are_refused() {
    let bench = bench(CA_EXTENSIONS, CA_EXTENSIONS);
    let root = crl(&bench, "issuer.pem", "issuer-key.pem", None);
    let signer = crl(&bench, "ca.pem", "ca-key.pem", None);
    let with = |parts: &[&[u8]]| but(bench.cacerts(), CA_CRL, parts.concat());
    let both = with(&[&root, b"# and\n", &signer]);
    let loaded = judge(&both).cacerts.unwrap();
    assert_eq!((loaded.crl.unwrap(), loaded.notes), ([&root[..], b"# and\n", &signer].concat(), vec![]));
    let found = fault(&with(&[&root]), "CRL_MISSING", CA_CRL, "(CN=Issuing CA, serial ");
    assert_eq!(found.certificate.unwrap().file, CA_CERT);
    fault(&with(&[&signer]), "CRL_MISSING", CA_CRL, "(CN=Corporate Root, serial ");
    // OpenSSL, by whose rules Envoy checks, wants the root's CRL too.
    let cacerts = judge(&both).cacerts.unwrap();
    bench.write("leaf.pem", super::openssl::svid(&cacerts.ca, &bench.key("leaf-key.pem", P256)).to_pem());
    for (crls, good) in
        [([&root[..], &signer].concat(), true), (signer.clone(), false), (root.clone(), false)]
    {
        bench.write("crls.pem", crls);
        let arguments = [
            "verify",
            "-crl_check_all",
            "-CRLfile",
            "crls.pem",
            "-CAfile",
            "issuer.pem",
            "-untrusted",
            "ca.pem",
            "leaf.pem",
        ];
        assert_eq!(bench.try_openssl(&arguments).status.success(), good);
    }
    fault(&with(&[b"hello"]), "CRL_DAMAGED", CA_CRL, "expected a block X509 CRL, found no PEM block");
    fault(&with(&[&bench.read("ca.pem")]), "CRL_DAMAGED", CA_CRL, "found CERTIFICATE");
    let revoking = crl(&bench, "issuer.pem", "issuer-key.pem", Some("ca.pem"));
    fault(&with(&[&revoking, &signer]), "CRL_REVOKES_CHAIN", CA_CERT, "is revoked by the CRL at line 1");
    let later = Judged::of(&both, SystemTime::now() + Duration::from_secs(86_400 + 3600));
    assert_eq!(later.faults, []);
    assert!(later.notes.iter().all(|note| note.code == "CRL_ENDED") && later.notes.len() == 2, "{later:?}");
    let other = self::bench(CA_EXTENSIONS, CA_EXTENSIONS);
    let theirs = crl(&other, "issuer.pem", "issuer-key.pem", None);
    fault(&with(&[&theirs, &signer]), "CRL_SIGNATURE", CA_CRL, "did not sign the CRL at line 1");
    let silent = self::bench(&CA_EXTENSIONS.replace(",cRLSign", ""), CA_EXTENSIONS);
    // OpenSSL makes the list all the same, and then refuses it.
    let [root, signer] =
        [("issuer.pem", "issuer-key.pem"), ("ca.pem", "ca-key.pem")].map(|(c, k)| crl(&silent, c, k, None));
    fault(
        &but(silent.cacerts(), CA_CRL, [root, signer].concat()),
        "CRL_NO_CRL_SIGN",
        ROOT_CERT,
        "lacks cRLSign",
    );
}
