//! CA files and configuration that must not be used: `run` and `check` say which file and why, and end.

use std::fs;

use signet_tests::harness::ca::{Changes, done, failed};
use signet_tests::harness::openssl::{key, openssl};
use signet_tests::harness::site::Site;

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];

/// `run` and `check` both refuse, with exit code 1 and each of these texts.
async fn refused(site: &Site, changes: Changes<'_>, texts: &[&str]) {
    for verb in ["run", "check"] {
        let (code, said) = site.ca_ends(verb, changes).await;
        assert_eq!(code, 1, "{verb}: {said}");
        for text in texts {
            assert!(said.contains(text), "{verb}: {text:?} is not in {said}");
        }
        let secret = site.path("cacerts/ca-key.pem");
        let secret = fs::read_to_string(secret).unwrap_or_default();
        let body = secret.lines().nth(1).unwrap_or("PRIVATE KEY-----");
        assert!(!said.contains(body), "a key in {said}");
    }
    assert!(!site.path("data/log").exists(), "nothing was begun");
}

/// A CA certificate for a new key, by OpenSSL and this site's root, in place of the good one.
fn certify(site: &Site, extensions: &str, dates: &[&str]) {
    let folder = site.path("cacerts");
    fs::remove_file(folder.join("ca-key.pem")).unwrap();
    key(&folder, "ca-key.pem", P256);
    fs::write(folder.join("extensions"), extensions).unwrap();
    openssl(&folder, &["req", "-new", "-key", "ca-key.pem", "-subj", "/CN=Corporate", "-out", "csr.pem"]);
    let base = "[ca]\ndefault_ca=c\n[c]\ndatabase=index\nserial=serial\nnew_certs_dir=.\n\
        default_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n";
    for (file, text) in [("ca.cnf", base), ("index", ""), ("serial", "1000\n")] {
        fs::write(folder.join(file), text).unwrap();
    }
    let (root, root_key) = ("../root/ca-cert.pem", "../root/ca-key.pem");
    let sign = ["ca", "-batch", "-notext", "-config", "ca.cnf", "-extfile", "extensions"];
    let with = ["-cert", root, "-keyfile", root_key, "-in", "csr.pem", "-out", "ca-cert.pem"];
    openssl(&folder, &[&sign[..], &with[..], dates].concat());
    let chain = site.read("cacerts/ca-cert.pem") + &site.read("root/root-cert.pem");
    fs::write(folder.join("cert-chain.pem"), chain).unwrap();
}

const CA: &str = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,keyCertSign,cRLSign\n\
    subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n";
const FOR_A_DAY: &[&str] = &["-days", "1"];

#[tokio::test]
async fn openssl_s_intermediate_is_taken_as_it_is() {
    let site = Site::default();
    certify(&site, CA, FOR_A_DAY);
    let (code, said) = site.ca_ends("check", &[]).await;
    assert_eq!(code, 0, "{said}");
    let ca = site.ca(&[]).await;
    let table = done(ca.operator(&["authority", "list"]));
    assert!(table.contains("CN=Corporate"), "{table}");
}

#[tokio::test]
async fn a_file_that_is_no_file_and_one_of_garbage_are_named() {
    let site = Site::default();
    fs::remove_file(site.path("cacerts/ca-key.pem")).unwrap();
    fs::create_dir(site.path("cacerts/ca-key.pem")).unwrap();
    fs::write(site.path("cacerts/root-cert.pem"), "garbage").unwrap();
    refused(&site, &[], &["ca-key.pem: cannot be read", "root-cert.pem: "]).await;
}

#[tokio::test]
async fn a_key_of_another_certificate_is_refused() {
    let site = Site::default();
    key(&site.path("cacerts"), "ca-key.pem", P256);
    refused(&site, &[], &["ca-key.pem", "a P-256 key that is not its own"]).await;
}

#[tokio::test]
async fn an_intermediate_that_has_ended_or_not_begun_is_refused() {
    for dates in [
        ["-startdate", "20240101000000Z", "-enddate", "20240201000000Z"],
        ["-startdate", "20990101000000Z", "-enddate", "20990201000000Z"],
    ] {
        let site = Site::default();
        certify(&site, CA, &dates);
        refused(&site, &[], &["ca-cert.pem", &dates[1][..4]]).await;
    }
}

#[tokio::test]
async fn case_29_what_is_no_ca_is_refused() {
    let good = "keyUsage=critical,keyCertSign\nsubjectKeyIdentifier=hash\n";
    for (extensions, what) in [
        ("basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\n".to_owned(), "CA"),
        (good.to_owned(), "CA"),
        (CA.replace("keyCertSign", "digitalSignature"), "ertSign"),
    ] {
        let site = Site::default();
        certify(&site, &extensions, FOR_A_DAY);
        refused(&site, &[], &["ca-cert.pem", what]).await;
    }
}

#[tokio::test]
async fn a_chain_of_another_hierarchy_is_refused() {
    let (site, other) = (Site::default(), Site::default());
    fs::copy(other.path("cacerts/cert-chain.pem"), site.path("cacerts/cert-chain.pem")).unwrap();
    refused(&site, &[], &["cert-chain.pem"]).await;
    let site = Site::default();
    fs::copy(other.path("cacerts/root-cert.pem"), site.path("cacerts/root-cert.pem")).unwrap();
    refused(&site, &[], &["root-cert.pem"]).await;
}

#[tokio::test]
async fn case_49_an_intermediate_that_may_not_sign_uris_is_refused_at_the_start() {
    let site = Site::default();
    certify(&site, &format!("{CA}nameConstraints=critical,permitted;URI:elsewhere.example\n"), FOR_A_DAY);
    refused(&site, &[], &["ca-cert.pem", "constrains URI names"]).await;
}

#[tokio::test]
async fn case_49_what_would_break_at_the_peers_is_found_by_check() {
    for (constraint, what) in [
        ("nameConstraints=critical,permitted;DNS:elsewhere.example\n", "our own port"),
        ("extendedKeyUsage=clientAuth\n", "extended key usage"),
        ("extendedKeyUsage=codeSigning\n", "extended key usage"),
        ("1.2.3.4=critical,ASN1:NULL\n", "critical"),
    ] {
        let site = Site::default();
        certify(&site, &format!("{CA}{constraint}"), FOR_A_DAY);
        refused(&site, &[], &["cacerts", what]).await;
    }
}

#[tokio::test]
async fn a_data_folder_that_cannot_be_is_found_by_check() {
    let site = Site::default();
    fs::write(site.path("file"), "").unwrap();
    let (code, said) = site.ca_ends("check", &[("data", "file/data")]).await;
    assert!(code == 1 && said.contains("file/data"), "{said}");
}

#[tokio::test]
async fn case_51_settings_and_the_files_that_they_name_are_reported_together() {
    let site = Site::default();
    fs::remove_file(site.path("cacerts/ca-key.pem")).unwrap();
    let faults = [("jwks", "no-such-keys.json"), ("queue", "0"), ("admin-group", "7")];
    for verb in ["check", "run"] {
        let (code, said) = site.ca_ends(verb, &faults).await;
        assert_eq!(code, 2, "{said}");
        for text in [
            "4 faults",
            "queue (",
            "admin_group (",
            "jwks (--jwks)",
            "no-such-keys.json",
            "cacerts (",
            "ca-key.pem",
        ] {
            assert!(said.contains(text), "{verb}: {text:?} is not in {said}");
        }
    }
}

#[tokio::test]
async fn case_51_check_names_every_fault_of_a_configuration_at_once() {
    let site = Site::default();
    fs::write(
        site.path("config.toml"),
        "trust_domain = \"Cluster Local\"\nlisten = \"nowhere\"\nmax_tll = \"1h\"\n\
         default_ttl = \"25h\"\nmax_ttl = \"24h\"\nqueue = 0\n\
         [[token_issuers]]\nissuer = \"a\"\njwks = \"ftp://keys\"\n\
         [[token_issuers]]\nissuer = \"b\"\njwks = \"http://example.org/keys\"\n",
    )
    .unwrap();
    for verb in ["check", "run"] {
        let output = site.operator(&[verb, "--config", "config.toml"]);
        let (code, said) = failed(&output);
        assert_eq!(code, 2, "{said}");
        for key in
            ["trust_domain", "listen", "max_tll", "default_ttl", "queue", "ftp://keys", "example.org/keys"]
        {
            assert!(said.contains(key), "{verb}: {key:?} is not in {said}");
        }
        assert!(said.contains("config.toml"), "{said}");
    }
    let (code, said) = failed(&site.operator(&["check", "--config", "no-such.toml"]));
    assert!(code != 0 && said.contains("no-such.toml"), "{said}");
    let (code, said) = site.ca_ends("check", &[("jwks", "no-such-keys.json")]).await;
    assert!(code != 0 && said.contains("no-such-keys.json"), "{said}");
    assert_eq!(site.ca_ends("check", &[]).await.0, 0);
}
