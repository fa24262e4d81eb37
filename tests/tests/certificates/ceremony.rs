//! The program `certs` as people use it: the commands, a look at what they made, and its refusals.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};
use std::time::SystemTime;

use signet_certs::cacerts::{CA_CERT, CA_KEY, CERT_CHAIN, Cacerts, Folder, ROOT_CERT};
use signet_certs::chain::Certificate;
use signet_tests::programs::program;

use super::openssl::{Bench, CA_EXTENSIONS, Chain, P256, RSA_4096, svid};

/// Exit code, standard output, standard error.
struct Ran(Option<i32>, String, String);

/// Runs `certs` in the bench's folder.
fn certs(bench: &Bench, arguments: &[&str]) -> Ran {
    ran(Command::new(program("certs")).current_dir(bench.path()).args(arguments).output().unwrap())
}

fn ran(Output { status, stdout, stderr }: Output) -> Ran {
    Ran(status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

#[track_caller]
fn done(Ran(code, output, errors): Ran) -> String {
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{output}");
    output
}

#[track_caller]
fn refused(ran: &Ran, code: i32, parts: &[&str]) {
    assert_eq!((ran.0, ran.1.as_str()), (Some(code), ""), "{}", ran.2);
    for part in parts {
        assert!(ran.2.contains(part), "{part} in {}", ran.2);
    }
}

fn files(bench: &Bench, folder: &str) -> Folder {
    let read = |name: &'static str| (name, bench.read(&format!("{folder}/{name}")));
    Folder::from([CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT].map(read))
}

fn load(bench: &Bench, folder: &str) -> Cacerts {
    Cacerts::read(&files(bench, folder), SystemTime::now()).unwrap()
}

fn entries(bench: &Bench, folder: &str) -> Vec<String> {
    let read = fs::read_dir(bench.path().join(folder)).unwrap();
    let mut names: Vec<_> = read.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn two_commands_make_folders_that_load_and_chains_that_verify() {
    let bench = Bench::new();
    let report = done(certs(&bench, &["root-ca", "--out", "root"]));
    assert!(report.contains("(O=Signet, CN=Root CA)"), "{report}");
    let report =
        done(certs(&bench, &["intermediate", "--root", "root", "--name", "cluster1", "--out", "c1"]));
    assert!(report.contains("(O=Signet, L=cluster1, CN=Intermediate CA)"), "{report}");

    for folder in ["root", "c1"] {
        assert_eq!(entries(&bench, folder), [CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT], "and nothing else");
        let mode = fs::metadata(bench.path().join(folder).join(CA_KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{folder}");
        assert!(load(&bench, folder).ca.certificate.facts().ca);
    }
    let made = |name: &str| bench.read(&format!("c1/{name}"));
    assert_eq!(made(ROOT_CERT), bench.read("root/root-cert.pem"));
    assert_eq!(made(CERT_CHAIN), [made(CA_CERT), made(ROOT_CERT)].concat());

    let Cacerts { ca, intermediates, anchor, .. } = load(&bench, "c1");
    assert_eq!(ca.certificate.facts().path_length, Some(0));
    bench.assert_accepted(&Chain {
        leaf: svid(&ca, &bench.key("leaf.pem", P256)),
        intermediates,
        root: anchor,
    });
}

#[test]
fn the_next_command_that_the_root_prints_works_as_it_stands() {
    let bench = Bench::new();
    let report = done(certs(&bench, &["root-ca", "--out", "it's my root"]));
    let next = report.lines().last().unwrap();
    let program = program("certs");
    let folder = program.parent().unwrap().to_str().unwrap();
    let path = format!("{folder}:{}", std::env::var("PATH").unwrap_or_default());
    let shell = Command::new("sh").current_dir(bench.path()).env("PATH", path).args(["-c", next]).output();
    done(ran(shell.unwrap()));
    load(&bench, "cluster1");
}

#[test]
fn options_name_the_authorities_and_bound_their_lives() {
    let bench = Bench::new();
    let root = ["--organization", "Acme, Inc.", "--common-name", "Acme Root", "--lifetime", "1h"];
    done(certs(&bench, &[&["root-ca", "--out", "root"], &root[..]].concat()));
    let intermediate = ["intermediate", "--root", "root", "--name", "eu-1", "--out", "eu-1"];
    let report = done(certs(&bench, &[&intermediate[..], &["--common-name", "Acme EU"]].concat()));
    assert!(report.contains("(cut to the end of its root; "), "{report}");
    let Cacerts { ca, anchor, .. } = load(&bench, "eu-1");
    let (below, above) = (ca.certificate.facts(), anchor.facts());
    assert_eq!(below.validity.not_after, above.validity.not_after);
    let text = bench.text(&ca.certificate);
    assert!(text.contains("Issuer: O = \"Acme, Inc.\", CN = Acme Root\n"), "{text}");
    assert!(text.contains("Subject: O = Signet, L = eu-1, CN = Acme EU\n"), "{text}");
}

#[test]
fn a_root_in_istio_s_layout_signs() {
    let bench = Bench::new();
    bench.issuer(RSA_4096, CA_EXTENSIONS);
    fs::create_dir(bench.path().join("istio")).unwrap();
    let with_text = [b"# the mesh's root\n".to_vec(), bench.read("issuer.pem")].concat();
    bench.write("istio/root-cert.pem", &with_text);
    bench.write("istio/root-key.pem", bench.read("issuer-key.pem"));
    done(certs(&bench, &["intermediate", "--root", "istio", "--name", "c1", "--out", "c1"]));
    assert_eq!(bench.read("c1/root-cert.pem"), with_text, "byte for byte");
    let Cacerts { ca, intermediates, anchor, .. } = load(&bench, "c1");
    let leaf = svid(&ca, &bench.key("leaf.pem", P256));
    bench.assert_accepted(&Chain { leaf, intermediates, root: anchor });
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let bench = Bench::new();
    done(certs(&bench, &["root-ca", "--out", "root"]));
    let before = files(&bench, "root");
    refused(&certs(&bench, &["root-ca", "--out", "root"]), 1, &["root/ca-cert.pem is there already"]);
    let after = files(&bench, "root");
    assert_eq!(after, before);

    fs::create_dir(bench.path().join("c1")).unwrap();
    bench.write("c1/root-cert.pem", "mine");
    let arguments = ["intermediate", "--root", "root", "--name", "c1", "--out", "c1"];
    refused(&certs(&bench, &arguments), 1, &["c1/root-cert.pem is there already"]);
    assert_eq!(
        (entries(&bench, "c1"), bench.read("c1/root-cert.pem")),
        (vec![ROOT_CERT.into()], b"mine".into())
    );
}

#[test]
fn what_is_named_is_overwritten_and_only_that() {
    let bench = Bench::new();
    done(certs(&bench, &["root-ca", "--out", "root"]));
    let intermediate = ["intermediate", "--root", "root", "--name", "c1", "--out", "c1"];
    done(certs(&bench, &intermediate));
    let before = files(&bench, "c1");
    let again = |overwrite: &[&str]| certs(&bench, &[&intermediate[..], overwrite].concat());
    let key_alone = again(&["--overwrite", "ca-key.pem"]);
    refused(&key_alone, 1, &["c1/ca-cert.pem is there already", "--overwrite ca-cert.pem"]);
    refused(&again(&["--overwrite", "root-key.pem"]), 1, &["--overwrite root-key.pem: expected one of"]);
    let kept = files(&bench, "c1");
    assert!([CA_CERT, CA_KEY].iter().all(|name| kept.get(name) == before.get(name)));

    // The root is the same, so it need not be named.
    done(again(&["--overwrite", "ca-key.pem", "--overwrite=ca-cert.pem,cert-chain.pem"]));
    let after = files(&bench, "c1");
    assert!(after.get(CA_KEY) != before.get(CA_KEY) && after.get(ROOT_CERT) == before.get(ROOT_CERT));
    load(&bench, "c1");
    let mode = fs::metadata(bench.path().join("c1").join(CA_KEY)).unwrap().permissions().mode();
    assert_eq!((mode & 0o777, entries(&bench, "c1").len()), (0o600, 4));
}

#[test]
fn keys_of_every_kind_are_read_by_openssl_and_their_chains_accepted() {
    let bench = Bench::new();
    for (kind, shown) in [
        ("p384", "secp384r1"),
        ("ed25519", "ED25519"),
        ("rsa2048", "Public-Key: (2048 bit)"),
        ("rsa3072", "Public-Key: (3072 bit)"),
        ("rsa4096", "Public-Key: (4096 bit)"),
    ] {
        let (root, out) = (format!("{kind}-root"), format!("{kind}-c1"));
        done(certs(&bench, &["root-ca", "--key", kind, "--out", &root]));
        let arguments = ["intermediate", "--root", &root, "--name", "c1", "--out", &out, "--key", kind];
        done(certs(&bench, &[&arguments[..], &["--path-length", "1", "--san-dns", "a.svc"]].concat()));
        for folder in [&root, &out] {
            bench.openssl(&["pkey", "-check", "-noout", "-in", &format!("{folder}/{CA_KEY}")]);
        }
        let Cacerts { ca, intermediates, anchor, .. } = load(&bench, &out);
        let text = bench.text(&ca.certificate);
        for part in [shown, "CA:TRUE, pathlen:1\n", "Subject Alternative Name: \n                DNS:a.svc\n"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        let leaf = svid(&ca, &bench.key("leaf.pem", P256));
        bench.assert_accepted(&Chain { leaf, intermediates, root: anchor });
    }
}

#[test]
fn a_workload_s_certificate_is_made_under_an_intermediate() {
    let bench = Bench::new();
    done(certs(&bench, &["root-ca", "--out", "root"]));
    done(certs(&bench, &["intermediate", "--root", "root", "--name", "c1", "--out", "c1"]));
    let workload = ["workload", "--ca", "c1", "--namespace", "vm", "--service-account", "db", "--out", "vm"];
    let report = done(certs(&bench, &workload));
    assert!(report.contains("spiffe://cluster.local/ns/vm/sa/db"), "{report}");
    let chain = Certificate::all_from_pem(&bench.read("vm/workload-cert-chain.pem")).unwrap();
    let Cacerts { intermediates, anchor, .. } = load(&bench, "c1");
    let (leaf, above) = chain.split_first().unwrap();
    assert_eq!(above, intermediates);
    bench.assert_accepted(&Chain { leaf: leaf.clone(), intermediates, root: anchor });
    refused(&certs(&bench, &workload), 1, &["vm/key.pem is there already"]);
    refused(&certs(&bench, &["workload", "--ca", "c1", "--namespace", "a/b", "--out", "x"]), 1, &["'/'"]);
    assert!(!bench.path().join("x").exists());
}

#[test]
fn a_root_that_cannot_sign_is_refused_with_its_reason() {
    let bench = Bench::new();
    let intermediate =
        |root: &str| certs(&bench, &["intermediate", "--root", root, "--name", "c", "--out", "c"]);
    refused(&intermediate("nowhere"), 1, &["read nowhere", "No such file"]);
    fs::create_dir(bench.path().join("empty")).unwrap();
    refused(&intermediate("empty"), 1, &["expected the root's key in empty", "ca-key.pem", "root-key.pem"]);
    done(certs(&bench, &["root-ca", "--out", "root"]));
    done(certs(&bench, &["intermediate", "--root", "root", "--name", "c1", "--out", "c1"]));
    refused(&intermediate("c1"), 1, &["expected a root in c1/ca-cert.pem", "L=c1", "signed by"]);
    fs::copy(bench.path().join("c1/ca-key.pem"), bench.path().join("root/ca-key.pem")).unwrap();
    refused(&intermediate("root"), 1, &["ca-key.pem: expected the P-256 key of (O=Signet, CN=Root CA"]);

    bench.issuer(P256, &CA_EXTENSIONS.replace("CA:TRUE", "CA:TRUE,pathlen:0"));
    fs::create_dir(bench.path().join("leaves-only")).unwrap();
    bench.write("leaves-only/root-cert.pem", bench.read("issuer.pem"));
    bench.write("leaves-only/root-key.pem", bench.read("issuer-key.pem"));
    refused(&intermediate("leaves-only"), 1, &["root-cert.pem: ", "path length 0"]);
    assert!(!bench.path().join("c").exists(), "a refusal leaves nothing behind");
}

#[test]
fn wrong_usage_is_told_apart_from_failure() {
    let bench = Bench::new();
    let root = |option: &str, value: &str| certs(&bench, &["root-ca", "--out", "root", option, value]);
    refused(&root("--lifetime", "10"), 2, &["is not a duration"]);
    refused(&root("--lifetime", "0d"), 2, &["more than zero"]);
    refused(&root("--key", "rsa1024"), 2, &["expected p256, p384, ed25519, rsa2048, rsa3072 or rsa4096"]);
    refused(&root("--layout", "istio"), 2, &["cacerts, root"]);
    let intermediate = ["intermediate", "--root", "root", "--name", "c", "--out", "c"];
    let intermediate = |more: &[&str]| certs(&bench, &[&intermediate[..], more].concat());
    refused(&intermediate(&["--path-length", "2"]), 2, &["0..=1"]);
    refused(&intermediate(&["--san-dns", "*.svc"]), 2, &["expected a DNS name"]);
    refused(&root("--organization", ""), 2, &["1 to 64 characters"]);
    refused(&root("--common-name", &"x".repeat(65)), 2, &["found 65"]);
    refused(&certs(&bench, &["intermediate", "--root", "root", "--out", "c"]), 2, &["--name"]);
    refused(&certs(&bench, &["inspect"]), 2, &["FILE"]);
    assert!(!bench.path().join("root").exists());
}

#[test]
fn inspect_shows_everything_it_can_and_no_private_key() {
    let bench = Bench::new();
    done(certs(&bench, &["root-ca", "--out", "root"]));
    bench.key("key.pem", P256);
    let san = "subjectAltName=URI:spiffe://td/ns/n/sa/s,DNS:a,IP:127.0.0.1,email:a@b";
    bench.openssl(&["req", "-new", "-key", "key.pem", "-subj", "/CN=x", "-addext", san, "-out", "a.csr"]);
    bench.openssl(&["x509", "-in", "root/ca-cert.pem", "-outform", "DER", "-out", "root.der"]);
    bench.openssl(&["pkey", "-in", "key.pem", "-aes256", "-passout", "pass:x", "-out", "encrypted.pem"]);
    bench.key("p521.pem", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"]);
    bench.openssl(&["pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"]);
    bench.openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-out", "sec1.pem"]);

    let fingerprint =
        bench.openssl(&["x509", "-in", "root/ca-cert.pem", "-noout", "-fingerprint", "-sha256"]);
    let fingerprint = String::from_utf8(fingerprint).unwrap().trim().rsplit('=').next().unwrap().to_owned();
    let shown = done(certs(&bench, &["inspect", "root", "root.der", "a.csr"]));
    assert_eq!(shown.matches(&fingerprint).count(), 4, "three files of the folder, and the DER: {shown}");
    for part in ["(3649d 23h left)", "URI:spiffe://td/ns/n/sa/s", "IP:127.0.0.1", "email:a@b", "accepted: "] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(shown.contains("root: the CA would load this folder\n"), "{shown}");

    let keys = ["key.pem", "encrypted.pem", "p521.pem", "public.pem", "sec1.pem", "root/ca-key.pem"];
    let shown = done(certs(&bench, &[&["inspect"], &keys[..]].concat()));
    for part in ["(private key)", "public key", "is encrypted", "EC PARAMETERS", "not usable: expected RSA"] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    for key in keys {
        let content = String::from_utf8(bench.read(key)).unwrap();
        for secret in content.lines().filter(|line| !line.starts_with("-----")) {
            assert!(!shown.contains(secret), "{key}");
        }
    }

    let Ran(code, output, errors) = certs(&bench, &["inspect", "nowhere", "root.der", "-o", "json"]);
    assert_eq!((code, errors.lines().count()), (Some(1), 1), "{errors}");
    assert!(errors.contains("read nowhere: No such file"), "{errors}");
    let json: serde_json::Value = serde_json::from_str(&output).unwrap();
    let held = &json[0]["holds"][0];
    assert_eq!((held["sha256"].as_str(), &held["ca"]), (Some(fingerprint.as_str()), &true.into()));
    let serial = Certificate::from_der(bench.read("root.der")).unwrap().facts().serial.to_string();
    assert_eq!(held["serial"], serial);
}

#[test]
fn inspect_tells_a_folder_that_would_not_load_fault_by_fault() {
    let bench = Bench::new();
    for root in ["root", "other"] {
        done(certs(&bench, &["root-ca", "--out", root]));
    }
    fs::copy(bench.path().join("other/ca-key.pem"), bench.path().join("root/ca-key.pem")).unwrap();
    fs::remove_file(bench.path().join("root/root-cert.pem")).unwrap();
    let Ran(code, output, errors) = certs(&bench, &["inspect", "root"]);
    assert_eq!((code, errors.as_str()), (Some(1), "certs: root: the CA would not load this folder\n"));
    let verdict = output.split_once("root: the CA would not load this folder:\n").unwrap().1;
    let faults: Vec<_> = verdict.lines().collect();
    assert_eq!(faults.len(), 3, "{verdict}");
    assert!(faults[0].starts_with("  root-cert.pem: is missing, while there is"), "{verdict}");
    assert!(faults[1].starts_with("  ca-key.pem: expected the P-256 key"), "{verdict}");
    assert_eq!(faults[2], "certs lint root says why, and what to do");
}
