//! Istio's walkthrough to its end: a `cacerts` folder made by the Makefile, and what a sidecar then serves,
//! looked at with `openssl s_client` and `diff -s`.

use std::path::Path;
use std::process::Command;

use signet_tests::harness::ca::done;
use signet_tests::harness::site::Site;
use signet_tests::programs::program;

/// What a person types in the site's folder, with the programs in PATH.
fn shell(site: &Site, line: &str) -> String {
    let programs = program("certs").parent().unwrap().display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let mut shell = Command::new("sh");
    done(shell.current_dir(site.folder()).env_clear().env("PATH", path).args(["-c", line]).output().unwrap())
}

#[tokio::test]
async fn a_cacerts_folder_of_the_makefile_is_what_the_sidecar_serves() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let site = Site::default();
    std::fs::create_dir(site.path("certs")).unwrap();
    let makefile = "certs/Makefile.selfsigned.mk";
    std::fs::copy(top.join(makefile), site.path(makefile)).unwrap();
    shell(&site, "cd certs; make -f Makefile.selfsigned.mk root-ca");
    // As large as Istio's own: whoever asks for it gets it, down to the sidecar.
    shell(&site, "cd certs; make -f Makefile.selfsigned.mk cluster1-cacerts INTERMEDIATE_KEYSZ=4096");

    let ca = site.ca(&[("cacerts", "certs/cluster1")]).await;
    // A switch has no value, so it comes from a file.
    std::fs::write(site.path("agent.toml"), "include_roots_in_chain = true\n").unwrap();
    let changes = [
        ("config", "agent.toml"),
        ("sds-socket", "reviews/sds.sock"),
        ("ca-root", "certs/cluster1/root-cert.pem"),
    ];
    let _agent = site.agent(ca.listen, "bookinfo-reviews", &changes).await;
    let configuration = std::fs::read_to_string(top.join("deploy/demo/envoy/reviews.yaml")).unwrap();
    let configuration = configuration.replace("@REVIEWS@", "0").replace("@REVIEWS_ADMIN@", "0");
    let envoy = site.envoy("reviews", &configuration).await;
    let reviews = envoy.listener("inbound").await;

    // Whoever looks has no certificate, so what comes after the handshake is a refusal.
    shell(
        &site,
        &format!("openssl s_client -showcerts -connect {reviews} </dev/null >served.txt 2>&1 || true"),
    );
    let split =
        "awk '/BEGIN CERT/ {n++} /BEGIN CERT/, /END CERT/ {print >\"proxy-cert-\" n \".pem\"}' served.txt";
    shell(&site, split);
    assert_eq!(shell(&site, "ls proxy-cert-*.pem"), "proxy-cert-1.pem\nproxy-cert-2.pem\nproxy-cert-3.pem\n");
    for (served, ours) in [("proxy-cert-3.pem", "root-cert.pem"), ("proxy-cert-2.pem", "ca-cert.pem")] {
        shell(&site, &format!("openssl x509 -text -noout -in certs/cluster1/{ours} >ours.txt"));
        shell(&site, &format!("openssl x509 -text -noout -in {served} >served-{ours}.txt"));
        let said = shell(&site, &format!("diff -s ours.txt served-{ours}.txt"));
        assert_eq!(said, format!("Files ours.txt and served-{ours}.txt are identical\n"));
    }
    let text = site.read("served-ca-cert.pem.txt");
    assert!(text.contains("Subject: O = Istio, L = cluster1, CN = Intermediate CA\n"), "{text}");
    assert!(text.contains("Public-Key: (4096 bit)"), "{text}");
    let verify =
        "openssl verify -x509_strict -CAfile certs/root-cert.pem -untrusted certs/cluster1/ca-cert.pem";
    assert_eq!(shell(&site, &format!("{verify} proxy-cert-1.pem")), "proxy-cert-1.pem: OK\n");
    let leaf = shell(&site, "openssl x509 -text -noout -in proxy-cert-1.pem");
    assert!(leaf.contains("Issuer: O = Istio, L = cluster1, CN = Intermediate CA\n"), "{leaf}");
    assert!(leaf.contains("URI:spiffe://cluster.local/ns/default/sa/bookinfo-reviews\n"), "{leaf}");
    // Another root of the same name and makings is not taken for it.
    shell(&site, "mkdir other && cd other && make -f ../certs/Makefile.selfsigned.mk root-ca");
    shell(&site, "openssl x509 -text -noout -in other/root-cert.pem >other.txt");
    shell(&site, "! diff -s other.txt served-root-cert.pem.txt");
}
