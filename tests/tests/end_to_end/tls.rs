//! The issuing port's TLS: versions, names, no resumption, client certificates that decide nothing, and a
//! certificate of its own that is renewed under open connections.

use std::path::Path;

use signet_certs::clock::to_unix;
use signet_certs::key::PrivateKey;
use signet_tests::harness::ca::Ca;
use signet_tests::harness::caller::{Ask, Caller, csr_of, reason};
use signet_tests::harness::openssl::{openssl, try_openssl};
use signet_tests::harness::site::Site;
use signet_tests::harness::{eventually, unix_now};
use tonic::Code;

/// What `openssl s_client` says of a connection that it trusts strictly.
fn connected(site: &Site, ca: &Ca, arguments: &[&str]) -> String {
    let address = ca.listen.to_string();
    let connect = ["s_client", "-connect", &address, "-alpn", "h2", "-CAfile", "root/root-cert.pem"];
    let judge = ["-verify_return_error", "-x509_strict", "-verify_hostname", "localhost"];
    openssl(site.folder(), &[&connect[..], &judge, arguments].concat())
}

/// The serial number of the certificate that the port presents.
fn presented(site: &Site, ca: &Ca) -> String {
    std::fs::write(site.path("presented.pem"), connected(site, ca, &[])).unwrap();
    let line = openssl(site.folder(), &["x509", "-in", "presented.pem", "-noout", "-serial"]);
    line.trim().trim_start_matches("serial=").to_lowercase()
}

#[tokio::test]
async fn tls_1_2_and_1_3_are_spoken_with_http_2_and_nothing_older() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = connected(&site, &ca, &[flag]);
        assert!(said.contains(&format!("New, {version}, Cipher is")), "{said}");
        assert!(said.contains("ALPN protocol: h2"), "{said}");
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
        assert!(
            said.contains("No client certificate CA names sent"),
            "our names are nobody's business: {said}"
        );
    }
    let address = ca.listen.to_string();
    let old = ["s_client", "-connect", &address, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"];
    assert!(!try_openssl(site.folder(), &old).status.success());
}

#[tokio::test]
async fn no_session_is_ever_resumed() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    for flag in ["-tls1_2", "-tls1_3"] {
        connected(&site, &ca, &[flag, "-sess_out", "session.pem"]);
        // TLS 1.3 without a ticket leaves nothing to resume with.
        if Path::new(&site.path("session.pem")).exists() {
            let said = connected(&site, &ca, &[flag, "-sess_in", "session.pem"]);
            assert!(said.contains("New, ") && !said.contains("Reused, "), "{flag}: {said}");
        }
    }
}

#[tokio::test]
async fn the_port_s_certificate_has_istiod_s_names_and_those_of_the_configuration() {
    let site = Site::default();
    let more = [("serving-names", "ca.example.org,10.1.2.3"), ("namespace", "mesh"), ("revision", "canary")];
    let ca = site.ca(&more).await;
    std::fs::write(site.path("presented.pem"), connected(&site, &ca, &[])).unwrap();
    let names = openssl(site.folder(), &["x509", "-in", "presented.pem", "-noout", "-ext", "subjectAltName"]);
    for name in [
        "DNS:ca.example.org",
        "IP Address:10.1.2.3",
        "DNS:istiod.mesh.svc",
        "DNS:istiod-remote.mesh.svc",
        "DNS:istio-pilot.mesh.svc",
        "DNS:istiod-canary.mesh.svc",
        "DNS:istiod.istio-system.svc",
        "DNS:localhost",
        "IP Address:127.0.0.1",
    ] {
        assert!(names.contains(name), "{name} is not in {names}");
    }
}

#[tokio::test]
async fn an_ended_or_foreign_client_certificate_neither_helps_nor_harms() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let caller = Caller::to(&site, &ca).await;
    let key = PrivateKey::generate_p256().unwrap();
    let key_pem = key.to_pkcs8_pem();
    let old = caller.ask(Ask { csr: csr_of(&key), lifetime: 1, ..site.ask() }).await.unwrap();
    let end = to_unix(old.leaf().facts().validity.not_after);
    eventually("the certificate's end", async || (unix_now() > end).then_some(())).await;
    let folder = site.folder();
    let make = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    openssl(
        folder,
        &[&make[..], &["-subj", "/CN=nobody", "-keyout", "foreign.key", "-out", "foreign.pem"]].concat(),
    );

    for (what, chain, key) in [
        ("ended", old.chain[..2].concat(), key_pem.to_string()),
        ("foreign", site.read("foreign.pem"), site.read("foreign.key")),
    ] {
        let caller = Caller::with_certificate(&site, &ca, &chain, &key).await;
        let answer = caller.ask(site.ask()).await;
        assert!(answer.is_ok(), "{what}: {answer:?}");
        let status = caller.ask(Ask { token: None, ..site.ask() }).await.unwrap_err();
        let found = (status.code(), reason(&status));
        assert_eq!(found, (Code::Unauthenticated, "RENEWAL_OFF".to_owned()), "{what}");
    }
}

#[tokio::test]
async fn the_port_s_certificate_is_renewed_under_open_connections() {
    let site = Site::default();
    let ca = site.ca(&[("serving-ttl", "8s")]).await;
    let caller = Caller::to(&site, &ca).await;
    caller.ask(site.ask()).await.unwrap();
    let renewed =
        |line: &signet_tests::harness::process::Line| line.message() == "serving certificate renewed";
    let first = presented(&site, &ca);
    let seen = ca.process.log().iter().position(renewed).unwrap();
    let line = ca.process.line_from(seen + 1, "a renewal of its own certificate", renewed).await;
    let second = presented(&site, &ca);
    assert_ne!(first, second);
    assert_eq!(line.json["serial"], second);
    caller.ask(site.ask()).await.unwrap();
    Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();
    let recorded = ca.records(&["--profile", "serving"]);
    let serials: Vec<_> = recorded.iter().map(|record| record["serial"].as_str().unwrap()).collect();
    assert_eq!(serials, [first, second]);
}
