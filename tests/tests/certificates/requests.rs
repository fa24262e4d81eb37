//! Requests made by the `openssl` program: the ones to accept, with their key byte for byte, and the
//! ones to refuse, each with its reason.

use signet_certs::ca::Ca;
use signet_certs::csr::{CsrError, MAX_PEM, VerifiedCsr};
use signet_certs::key::{KeyError, KeyKind, PrivateKey};
use signet_certs::name::ca_name;
use signet_certs::pem;
use signet_certs::spiffe_id::SpiffeId;

use super::openssl::{
    Bench, ED25519, IDENTITY, P256, P384, RSA_2048, RSA_3072, RSA_4096, request, svid, two_days,
};

/// A request by `openssl req` for the key in `key.pem`.
fn csr(bench: &Bench, arguments: &[&str]) -> String {
    bench.openssl(&[&["req", "-new", "-key", "key.pem", "-out", "csr.pem"], arguments].concat());
    String::from_utf8(bench.read("csr.pem")).unwrap()
}

#[test]
fn every_allowed_key_is_accepted_byte_for_byte() {
    let bench = Bench::new();
    let none: &[&str] = &[];
    for (kind, digest, expected) in [
        (RSA_2048, none, KeyKind::Rsa(2048)),
        (RSA_2048, &["-sha512"], KeyKind::Rsa(2048)),
        (RSA_3072, &["-sha384"], KeyKind::Rsa(3072)),
        (RSA_4096, none, KeyKind::Rsa(4096)),
        (P256, none, KeyKind::P256),
        (P256, &["-sha384"], KeyKind::P256),
        // SHA-256, the program's default, whatever the curve.
        (P384, none, KeyKind::P384),
        (P384, &["-sha384"], KeyKind::P384),
        (ED25519, none, KeyKind::Ed25519),
    ] {
        let spki = bench.key("key.pem", kind);
        let text = csr(&bench, &[&["-subj", "/O=x"], digest].concat());
        let accepted = VerifiedCsr::from_pem(&text).unwrap();
        assert_eq!((accepted.kind(), accepted.spki()), (expected, spki.as_slice()), "{kind:?} {digest:?}");
    }
}

#[test]
fn odd_subjects_attributes_and_extensions_do_no_harm() {
    let bench = Bench::new();
    let spki = bench.key("key.pem", P256);
    let long = "x".repeat(60);
    let subjects = [
        String::new(),
        "O = a\n+OU = b\n+CN = c\nL = d\n".to_owned(),
        format!("0.DC = com\n1.DC = corp\n0.OU = {long}\n1.OU = b\nemailAddress = a@b.c\nUID = 7\n"),
        "CN = Zoë\nO = 株式会社\n".to_owned(),
    ];
    for subject in subjects {
        bench.write("csr.cnf", request(&subject));
        let arguments: &[&str] =
            if subject.is_empty() { &["-subj", "/"] } else { &["-utf8", "-config", "csr.cnf"] };
        let accepted = VerifiedCsr::from_pem(&csr(&bench, arguments)).unwrap();
        assert_eq!(accepted.spki(), spki, "{subject}");
        assert_eq!(accepted.asked().subject.is_some(), !subject.is_empty(), "{subject}");
    }
    bench.write(
        "csr.cnf",
        "oid_section=oids\n[oids]\nown=1.2.3.4.5\n\
         [req]\nprompt=no\ndistinguished_name=dn\nattributes=attributes\nreq_extensions=extensions\n\
         [dn]\nO=x\n[attributes]\nchallengePassword=secret-word\nunstructuredName=y\nown=z\n\
         [extensions]\n1.2.3.4.6=critical,ASN1:UTF8String:hi\ntlsfeature=status_request\n\
         subjectKeyIdentifier=hash\nsubjectAltName=dirName:dn,RID:1.2.3,otherName:1.2.3;UTF8:q\n",
    );
    let accepted = VerifiedCsr::from_pem(&csr(&bench, &["-config", "csr.cnf"])).unwrap();
    assert_eq!(accepted.spki(), spki);
    assert_eq!(accepted.asked().names.len(), 3, "{:?}", accepted.asked());
    assert!(!format!("{accepted:?}").contains("secret-word"));
}

#[test]
fn many_names_are_accepted_and_a_few_are_kept_for_the_log() {
    let bench = Bench::new();
    let spki = bench.key("key.pem", P256);
    let names: Vec<_> = (0..300).map(|number| format!("DNS:host-{number}.example.com")).collect();
    bench.write("csr.cnf", format!("{}[san]\nsubjectAltName={}\n", request("O=x\n"), names.join(",")));
    let text = csr(&bench, &["-config", "csr.cnf", "-reqexts", "san"]);
    let accepted = VerifiedCsr::from_pem(&text).unwrap();
    assert_eq!(accepted.spki(), spki);
    assert_eq!(accepted.asked().names, names[..8]);
}

#[test]
fn a_request_over_the_size_is_refused() {
    let bench = Bench::new();
    bench.key("key.pem", P256);
    let names: Vec<_> = (0..1000).map(|number| format!("DNS:host-{number}.example.com")).collect();
    bench.write("csr.cnf", format!("{}[san]\nsubjectAltName={}\n", request("O=x\n"), names.join(",")));
    let text = csr(&bench, &["-config", "csr.cnf", "-reqexts", "san"]);
    assert!(text.len() > MAX_PEM);
    assert_eq!(VerifiedCsr::from_pem(&text), Err(CsrError::Size(text.len())));
}

#[test]
fn case_21_keys_outside_the_allow_list_are_refused() {
    let bench = Bench::new();
    let refusal = |kind: &[&str]| {
        bench.key("key.pem", kind);
        match VerifiedCsr::from_pem(&csr(&bench, &["-subj", "/"])) {
            Err(CsrError::Key(error)) => error,
            other => panic!("{kind:?}: {other:?}"),
        }
    };
    let rsa = |options: &[&'static str]| [&["-algorithm", "RSA"], options].concat();
    assert_eq!(refusal(&rsa(&["-pkeyopt", "rsa_keygen_bits:1024"])), KeyError::RsaSize(1024));
    assert_eq!(refusal(&rsa(&["-pkeyopt", "rsa_keygen_bits:2040"])), KeyError::RsaSize(2040));
    assert_eq!(refusal(&rsa(&["-pkeyopt", "rsa_keygen_pubexp:3"])), KeyError::RsaExponent);
    let curve = |name: &str| {
        let option = format!("ec_paramgen_curve:{name}");
        refusal(&["-algorithm", "EC", "-pkeyopt", &option])
    };
    for name in ["P-521", "secp256k1", "P-224"] {
        assert_eq!(curve(name), KeyError::Kind(format!("an EC key on {name}")));
    }
    let explicit = refusal(&[P256, &["-pkeyopt", "ec_param_enc:explicit"]].concat());
    assert_eq!(explicit, KeyError::ExplicitParameters);
    assert_eq!(refusal(&["-algorithm", "ED448"]), KeyError::Kind("an Ed448 key".into()));
    assert_eq!(refusal(&["-algorithm", "RSA-PSS"]), KeyError::Pss);
}

#[test]
fn case_21_dsa_and_compressed_points_are_refused() {
    let bench = Bench::new();
    bench.openssl(&[
        "genpkey",
        "-genparam",
        "-algorithm",
        "DSA",
        "-pkeyopt",
        "dsa_paramgen_bits:1024",
        "-out",
        "dsa.pem",
    ]);
    bench.key("key.pem", &["-paramfile", "dsa.pem"]);
    let refused = VerifiedCsr::from_pem(&csr(&bench, &["-subj", "/"]));
    assert!(matches!(refused, Err(CsrError::Key(KeyError::Kind(_)))), "{refused:?}");
    bench.key("point.pem", P256);
    bench.openssl(&["ec", "-in", "point.pem", "-conv_form", "compressed", "-out", "key.pem"]);
    let refused = VerifiedCsr::from_pem(&csr(&bench, &["-subj", "/"]));
    assert!(matches!(refused, Err(CsrError::Key(KeyError::Kind(_)))), "{refused:?}");
}

#[test]
fn case_21_a_point_that_is_not_on_the_curve_is_refused() {
    let bench = Bench::new();
    let spki = bench.key("key.pem", P256);
    let mut der = pem::only(&csr(&bench, &["-subj", "/"])).unwrap().der;
    let at = der.windows(spki.len()).position(|window| window == spki).unwrap();
    // The coordinates are the last 64 bytes of the key; all zero stands for no point.
    der[at + spki.len() - 64..at + spki.len()].fill(0);
    assert_eq!(VerifiedCsr::from_der(&der), Err(CsrError::Signature));
}

#[test]
fn weak_and_unfit_signature_algorithms_are_refused() {
    let bench = Bench::new();
    let refused = |arguments: &[&str]| {
        let found = VerifiedCsr::from_pem(&csr(&bench, &[&["-subj", "/"], arguments].concat()));
        assert!(matches!(found, Err(CsrError::Algorithm(..))), "{arguments:?}: {found:?}");
    };
    bench.key("key.pem", RSA_2048);
    for arguments in [&["-md5"][..], &["-sha1"], &["-sha224"], &["-sigopt", "rsa_padding_mode:pss"]] {
        refused(arguments);
    }
    bench.key("key.pem", P256);
    for arguments in [&["-sha1"], &["-sha512"]] {
        refused(arguments);
    }
}

#[test]
fn case_15_a_request_that_was_tampered_with_is_refused() {
    let bench = Bench::new();
    for kind in [P256, RSA_2048, ED25519] {
        bench.key("key.pem", kind);
        let good = pem::only(&csr(&bench, &["-subj", "/CN=a"])).unwrap().der;
        assert!(VerifiedCsr::from_der(&good).is_ok());
        for at in (0..good.len()).step_by(5) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(VerifiedCsr::from_der(&bad).is_err(), "{kind:?}: byte {at}");
        }
    }
}

#[test]
fn case_15_a_request_signed_by_another_key_is_refused() {
    let bench = Bench::new();
    let ours = bench.key("key.pem", P256);
    let mut der = pem::only(&csr(&bench, &["-subj", "/"])).unwrap().der;
    let theirs = bench.key("other.pem", P256);
    let at = der.windows(ours.len()).position(|window| window == ours).unwrap();
    der[at..at + ours.len()].copy_from_slice(&theirs);
    assert_eq!(VerifiedCsr::from_der(&der), Err(CsrError::Signature));
}

#[test]
fn nothing_may_stand_around_a_request() {
    let bench = Bench::new();
    bench.key("key.pem", P256);
    let text = csr(&bench, &["-subj", "/"]);
    let der = pem::only(&text).unwrap().der;
    assert_eq!(VerifiedCsr::from_der(&[&der[..], &[0, 0]].concat()), Err(CsrError::Trailing(2)));
    let behind = pem::encode("CERTIFICATE REQUEST", &[&der[..], &[0]].concat());
    assert_eq!(VerifiedCsr::from_pem(&behind), Err(CsrError::Trailing(1)));
    for bad in [format!("{text}{text}"), format!("{text}text\n"), format!("text\n{text}")] {
        assert!(matches!(VerifiedCsr::from_pem(&bad), Err(CsrError::Pem(_))), "{bad}");
    }
    let text_form = String::from_utf8(bench.openssl(&["req", "-in", "csr.pem", "-text"])).unwrap();
    assert!(matches!(VerifiedCsr::from_pem(&text_form), Err(CsrError::Pem(_))));
}

#[test]
fn cases_18_to_20_what_a_request_asks_for_is_reported_and_ignored() {
    let bench = Bench::new();
    bench.key("key.pem", P256);
    let text = csr(
        &bench,
        &[
            "-subj",
            "/O=Evil/CN=admin",
            "-addext",
            "basicConstraints=critical,CA:TRUE,pathlen:3",
            "-addext",
            "subjectAltName=URI:spiffe://cluster.local/ns/default/sa/admin,DNS:admin,IP:10.0.0.1",
            "-addext",
            "extendedKeyUsage=codeSigning,emailProtection",
            "-addext",
            "keyUsage=critical,keyCertSign,cRLSign",
        ],
    );
    let request = VerifiedCsr::from_pem(&text).unwrap();
    let granted = SpiffeId::parse(IDENTITY).unwrap();
    let asked = request.asked();
    assert!(asked.ca && asked.differs_from(&granted));
    assert_eq!(asked.subject.as_deref(), Some("O=Evil, CN=admin"));
    let wanted = ["URI:spiffe://cluster.local/ns/default/sa/admin", "DNS:admin", "IP:10.0.0.1"];
    assert_eq!(asked.names, wanted);

    let key = PrivateKey::generate_p256().unwrap();
    let ca = Ca::root(ca_name("Signet", None, "Root CA"), two_days(), key).unwrap();
    let leaf = svid(&ca, request.spki());
    assert_eq!(leaf.facts().uris, [IDENTITY]);
    let shown = bench.text(&leaf);
    let san = format!("X509v3 Subject Alternative Name: critical\n                URI:{IDENTITY}\n");
    for part in [
        san.as_str(),
        "Subject: \n",
        "X509v3 Basic Constraints: critical\n                CA:FALSE\n",
        "X509v3 Key Usage: critical\n                Digital Signature\n",
        "TLS Web Server Authentication, TLS Web Client Authentication\n",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    for part in ["admin", "Evil", "10.0.0.1", "Code Signing", "E-mail", "CRL Sign", "CA:TRUE"] {
        assert!(!shown.contains(part), "{part} in {shown}");
    }
}
