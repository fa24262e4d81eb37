//! CreateCertificate as strangers see it: what an answer holds, judged by OpenSSL and webpki.

use std::path::Path;

use prost_types::value::Kind;
use rustls_pki_types::{CertificateDer, UnixTime};
use signet_certs::key::PrivateKey;
use signet_tests::harness::caller::{Answer, Ask, Caller, csr_of, reason};
use signet_tests::harness::openssl::openssl;
use signet_tests::harness::site::{IDENTITY, Site};
use tonic::Code;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

/// Writes an answer's elements to `leaf.pem`, `intermediates.pem` and `roots.pem`.
pub(crate) fn write(folder: &Path, answer: &Answer) {
    let (leaf, rest) = answer.chain.split_first().unwrap();
    let (roots, intermediates) = rest.split_last().unwrap();
    for (file, text) in
        [("leaf.pem", leaf), ("intermediates.pem", &intermediates.concat()), ("roots.pem", roots)]
    {
        std::fs::write(folder.join(file), text).unwrap();
    }
}

/// OpenSSL and webpki find the leaf good for both ends of a connection; answers its text by OpenSSL.
pub(crate) fn judged(folder: &Path, answer: &Answer) -> String {
    write(folder, answer);
    for purpose in ["sslserver", "sslclient"] {
        let trust = ["-CAfile", "roots.pem", "-no-CApath", "-no-CAstore", "-untrusted", "intermediates.pem"];
        let judge = ["verify", "-x509_strict", "-check_ss_sig", "-purpose", purpose];
        openssl(folder, &[&judge[..], &trust[..], &["leaf.pem"]].concat());
    }
    let der = |text: &str| -> Vec<CertificateDer<'static>> {
        let all = signet_certs::pem::certificates(text.as_bytes()).unwrap();
        all.into_iter().map(|(_, der)| CertificateDer::from(der)).collect()
    };
    let [leaf] = &der(&answer.chain[0])[..] else { panic!("expected one certificate in the first element") };
    let (roots, intermediates) = answer.chain[1..].split_last().unwrap();
    let (intermediates, roots) = (der(&intermediates.concat()), der(roots));
    let anchors: Vec<_> = roots.iter().map(|root| anchor_from_trusted_cert(root).unwrap()).collect();
    let entity = EndEntityCert::try_from(leaf).unwrap();
    for usage in [KeyUsage::server_auth(), KeyUsage::client_auth()] {
        entity
            .verify_for_usage(
                webpki::ALL_VERIFICATION_ALGS,
                &anchors,
                &intermediates,
                UnixTime::now(),
                usage,
                None,
                None,
            )
            .unwrap();
    }
    assert_eq!(entity.valid_uri_names().collect::<Vec<_>>(), [IDENTITY]);
    openssl(folder, &["x509", "-in", "leaf.pem", "-noout", "-text"])
}

#[tokio::test]
async fn an_answer_is_the_leaf_each_intermediate_and_one_element_with_all_roots() {
    let site = Site::default();
    // A second root, as in the middle of a rotation.
    site.certs(&["root-ca", "--out", "second"]);
    let roots = site.read("root/root-cert.pem") + &site.read("second/root-cert.pem");
    std::fs::write(site.path("cacerts/root-cert.pem"), &roots).unwrap();
    let ca = site.ca(&[]).await;
    let key = PrivateKey::generate_p256().unwrap();
    let ask = Ask { csr: csr_of(&key), ..site.ask() };
    let answer = Caller::to(&site, &ca).await.ask(ask).await.unwrap();

    assert_eq!(answer.chain.len(), 3);
    for (element, certificates) in answer.chain.iter().zip([1, 1, 2]) {
        assert!(element.ends_with("-----END CERTIFICATE-----\n"), "{element:?}");
        assert_eq!(element.matches("BEGIN CERTIFICATE").count(), certificates);
    }
    let intermediate = signet_certs::chain::Certificate::from_pem(answer.chain[1].as_bytes()).unwrap();
    assert_eq!([intermediate], site.certificates("cacerts/ca-cert.pem")[..]);
    for root in site.certificates("cacerts/root-cert.pem") {
        assert!(answer.chain[2].contains(&root.to_pem()), "{root:?}");
    }
    assert_eq!(answer.leaf().facts().spki, key.spki());
    judged(site.folder(), &answer);
}

#[tokio::test]
async fn case_20_a_leaf_has_the_contract_s_fields_and_no_others() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let caller = Caller::to(&site, &ca).await;
    let answer = caller.ask(site.ask()).await.unwrap();
    let text = judged(site.folder(), &answer);
    let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "Version: 3 (0x2)",
        "Issuer: O = Signet, L = cluster1, CN = Intermediate CA",
        "Subject: Subject Public Key Info:",
        "X509v3 Subject Alternative Name: critical URI:spiffe://cluster.local/ns/default/sa/sleep",
        "X509v3 Key Usage: critical Digital Signature X509v3",
        "X509v3 Extended Key Usage: TLS Web Server Authentication, TLS Web Client Authentication",
        "X509v3 Basic Constraints: critical CA:FALSE",
        "X509v3 Authority Key Identifier:",
    ] {
        assert!(squeezed.contains(expected), "{expected:?} is not in {text}");
    }
    let extensions = text.matches("X509v3 ").count() - text.matches("X509v3 extensions").count();
    let known = 5 + text.matches("X509v3 Subject Key Identifier").count();
    assert_eq!(extensions, known, "{text}");
    let serial = answer.leaf().facts().serial.as_bytes().to_vec();
    assert_eq!((serial.len(), serial[0] & 0xc0), (16, 0x40), "16 bytes, and positive");

    let key = PrivateKey::generate_p256().unwrap();
    let ask = Ask { csr: csr_of(&key), ..site.ask() };
    let first = caller.ask(ask.clone()).await.unwrap();
    assert_ne!(first.serial(), caller.ask(ask).await.unwrap().serial(), "one key, two certificates");
}

#[tokio::test]
async fn metadata_of_istio_s_agents_is_understood_and_the_rest_ignored() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let caller = Caller::to(&site, &ca).await;
    let text = |text: &str| Kind::StringValue(text.to_owned());
    for metadata in [
        vec![("CertSigner", text(""))],
        vec![("CertSigner", text("kubernetes.io/kubelet-serving"))],
        vec![("ImpersonatedIdentity", text(IDENTITY))],
        vec![("ImpersonatedIdentity", text(""))],
        vec![("Unknown", Kind::NumberValue(1.0)), ("More", Kind::BoolValue(true))],
    ] {
        let answer = caller.ask(Ask { metadata: metadata.clone(), ..site.ask() }).await;
        let answer = answer.unwrap_or_else(|status| panic!("{metadata:?}: {status}"));
        assert_eq!(answer.leaf().facts().uris, [IDENTITY]);
    }
    for other in [text("spiffe://cluster.local/ns/default/sa/admin"), text("sleep"), Kind::BoolValue(true)] {
        let metadata = vec![("ImpersonatedIdentity", other)];
        let status = caller.ask(Ask { metadata, ..site.ask() }).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::Unauthenticated, "IMPERSONATION"));
        assert_eq!(status.message(), "request impersonation authentication failure");
    }
}

#[tokio::test]
async fn the_cluster_and_the_agent_s_id_come_from_headers_and_the_pod_from_the_token() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let caller = Caller::to(&site, &ca).await;
    let headers = vec![("clusterid", "east".to_owned()), ("x-signet-instance", "agent-7".to_owned())];
    let pod = caller.ask(Ask { headers: headers.clone(), ..site.ask() }).await.unwrap();
    let mut no_pod = site.draft();
    no_pod.claims["kubernetes.io"].as_object_mut().unwrap().remove("pod");
    let token = signet_tests::harness::site::token_issuer().sign(&no_pod).unwrap();
    let agent = caller.ask(Ask { headers, ..site.ask_for(&token) }).await.unwrap();

    let record = |answer: &Answer| ca.records(&["--serial", &answer.serial()]).remove(0);
    assert_eq!((&record(&pod)["cluster"], &record(&agent)["cluster"]), (&"east".into(), &"east".into()));
    let uid = site.draft().claims["kubernetes.io"]["pod"]["uid"].clone();
    assert_eq!(record(&pod)["instance"], uid, "the issuer of the token knows better than a header");
    assert_eq!(record(&agent)["instance"], "agent-7");
}

#[tokio::test]
async fn the_answer_says_which_version_of_trust_its_roots_are() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let answer = Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();
    let status = ca.json(&["status"]);
    let header = |name: &str| answer.headers.get(name).unwrap().to_str().unwrap().to_owned();
    assert_eq!(header("x-signet-trust-epoch"), status["trust"]["epoch"].to_string());
    assert_eq!(header("x-signet-trust-sequence"), status["trust"]["sequence"].to_string());
    assert_eq!(header("x-signet-trust-digest"), status["trust"]["digest"].as_str().unwrap());
}
