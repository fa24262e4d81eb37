//! Bad and foreign CSRs, and messages that are none.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use signet_certs::key::PrivateKey;
use signet_tests::harness::caller::{Ask, Caller, csr_of, reason};
use signet_tests::harness::http::get;
use signet_tests::harness::openssl::{csr, key};
use signet_tests::harness::site::{IDENTITY, Site};
use tonic::Code;

use super::contract::judged;
use super::refusals::{Expected, Refuser};

const P256: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
const P384: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
const P521: &[&str] = &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521"];
const ED25519: &[&str] = &["-algorithm", "ED25519"];
const RSA_1024: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"];
const RSA_2048: &[&str] = &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];

fn good_csr() -> String {
    csr_of(&PrivateKey::generate_p256().unwrap())
}

/// A request with its DER changed.
fn changed(change: impl Fn(&mut Vec<u8>)) -> String {
    let mut der = signet_certs::pem::only(&good_csr()).unwrap().der;
    change(&mut der);
    signet_certs::pem::encode("CERTIFICATE REQUEST", &der)
}

#[tokio::test]
async fn case_15_a_csr_that_is_none_or_not_its_sender_s_is_refused() {
    let mut refuser = Refuser::new().await;
    let cases = [
        ("empty", String::new(), "empty"),
        ("garbage", "garbage".to_owned(), "not a single PEM block"),
        ("of zeros", "\0".repeat(100), "not a single PEM block"),
        ("huge", "x".repeat(20_000), "at most 16384"),
        ("two requests", good_csr() + &good_csr(), "not a single PEM block"),
        ("a certificate", refuser.site.read("root/root-cert.pem"), "CSR"),
        (
            "no DER",
            format!(
                "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
                STANDARD.encode("no DER")
            ),
            "not a PKCS#10",
        ),
        ("a changed signature", changed(|der| *der.last_mut().unwrap() ^= 1), "CSR"),
        // In the middle of the public key.
        ("a changed key", changed(|der| der[40] ^= 1), "CSR"),
        ("bytes behind it", changed(|der| der.push(0)), "behind its end"),
    ];
    for (what, csr, cause) in cases {
        let ask = Ask { csr, ..refuser.site.ask() };
        let message = "CSR signing error (";
        let expected = Expected { code: Code::InvalidArgument, reason: "CSR_INVALID", message, cause };
        refuser.refuses(what, ask, &expected).await;
    }
}

#[tokio::test]
async fn case_21_keys_of_openssl_s_making_are_taken_by_an_allow_list() {
    let mut refuser = Refuser::new().await;
    let folder = refuser.site.folder().to_owned();
    for (name, kind, usage) in [
        ("p256", P256, "Digital Signature"),
        ("p384", P384, "Digital Signature"),
        ("ed25519", ED25519, "Digital Signature"),
        ("rsa2048", RSA_2048, "Digital Signature, Key Encipherment"),
    ] {
        key(&folder, name, kind);
        let ask = Ask { csr: csr(&folder, name, &[]), ..refuser.site.ask() };
        let text = judged(&folder, &refuser.caller.ask(ask).await.unwrap());
        let after = text.split("X509v3 Key Usage: critical\n").nth(1).unwrap();
        assert_eq!(after.lines().next().unwrap().trim(), usage, "{name}");
    }
    for (name, kind) in [("rsa1024", RSA_1024), ("p521", P521)] {
        key(&folder, name, kind);
        let ask = Ask { csr: csr(&folder, name, &[]), ..refuser.site.ask() };
        let (message, cause) = ("CSR signing error (", "public key");
        let expected = Expected { code: Code::InvalidArgument, reason: "CSR_INVALID", message, cause };
        refuser.refuses(name, ask, &expected).await;
    }
}

#[tokio::test]
async fn case_16_18_and_19_what_a_csr_asks_for_beside_its_key_is_ignored_and_logged() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    key(site.folder(), "key.pem", P256);
    let names =
        "subjectAltName=URI:spiffe://cluster.local/ns/kube-system/sa/admin,DNS:example.org,IP:10.0.0.1";
    let asks_for_much = csr(
        site.folder(),
        "key.pem",
        &["-subj", "/O=Evil/CN=admin", "-addext", names, "-addext", "basicConstraints=critical,CA:TRUE"],
    );
    let caller = Caller::to(&site, &ca).await;
    let answer = caller.ask(Ask { csr: asks_for_much, ..site.ask() }).await.unwrap();
    let text = judged(site.folder(), &answer);
    assert!(text.contains("CA:FALSE") && !text.contains("Evil"), "{text}");
    let facts = answer.leaf().facts().clone();
    assert_eq!((&facts.uris[..], facts.dns.len(), facts.ip.len()), (&[IDENTITY.to_owned()][..], 0, 0));

    let ignored = ca.process.message("what the CSR asked for is ignored").await;
    let issued = ca.process.message("certificate issued").await;
    assert_eq!(ignored.json["request_id"], issued.json["request_id"]);
    assert_eq!(ignored.json["ca"], true);
    for asked in ["kube-system/sa/admin", "example.org", "10.0.0.1", "Evil"] {
        assert!(ignored.text.contains(asked), "{}", ignored.text);
    }
    // A CSR for one's own identity, or for none at all, is no news.
    let before = ca.process.log().len();
    caller.ask(site.ask()).await.unwrap();
    caller.ask(Ask { csr: csr(site.folder(), "key.pem", &[]), ..site.ask() }).await.unwrap();
    let news = |line: &signet_tests::harness::process::Line| line.message().contains("ignored");
    assert!(!ca.process.log()[before..].iter().any(news));
}

#[tokio::test]
async fn messages_and_headers_beyond_all_measure_end_nothing() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let caller = Caller::to(&site, &ca).await;
    for size in [70_000, 1_000_000] {
        let huge = caller.ask(Ask { csr: "x".repeat(size), ..site.ask() }).await.unwrap_err();
        assert_eq!(
            (huge.code(), reason(&huge).as_str()),
            (Code::InvalidArgument, "REQUEST_INVALID"),
            "{huge}"
        );
        let line = ca.process.message("certificate refused").await;
        assert_eq!(line.json["reason"], "REQUEST_INVALID");
        assert!(line.json["cause"].as_str().unwrap().contains("message length too large"), "{}", line.text);
    }
    caller.ask(site.ask()).await.unwrap();
    let headers = vec![("x-large", "x".repeat(100_000))];
    caller.ask(Ask { headers, ..site.ask() }).await.unwrap_err();
    let many = (0..2000).map(|_| ("x-many", "x".repeat(100))).collect();
    caller.ask(Ask { headers: many, ..site.ask() }).await.unwrap_err();
    // Such a client may have lost its connection, and nobody else anything.
    Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();
}

/// A call of the issuing service whose message is not what it should be.
pub(crate) async fn call<S>(caller: &Caller, stream: S) -> tonic::Status
where
    S: futures::Stream<Item = prost_types::Value> + Send + 'static,
{
    let mut client = tonic::client::Grpc::new(caller.channel());
    client.ready().await.unwrap();
    let path = "/istio.v1.auth.IstioCertificateService/CreateCertificate".parse().unwrap();
    let codec = tonic_prost::ProstCodec::<prost_types::Value, ()>::default();
    client.client_streaming(tonic::Request::new(stream), path, codec).await.unwrap_err()
}

#[tokio::test]
async fn a_message_of_another_type_is_refused_with_a_reason() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let caller = Caller::to(&site, &ca).await;
    // Its field 1 is a number where text is expected.
    let null = prost_types::Value { kind: Some(prost_types::value::Kind::NullValue(0)) };
    let status = call(&caller, futures::stream::iter([null])).await;
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::InvalidArgument, "REQUEST_INVALID"),
        "{status}"
    );
    let metrics = get(ca.monitoring, "/metrics").1;
    assert!(metrics.contains("signet_refusals_total{reason=\"REQUEST_INVALID\"} 1"), "{metrics}");
}

#[tokio::test]
async fn a_message_that_does_not_come_ends_at_the_deadline() {
    let site = Site::default();
    let ca = site.ca(&[("deadline", "500ms")]).await;
    let caller = Caller::to(&site, &ca).await;
    let status = call(&caller, futures::stream::pending()).await;
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "DEADLINE"), "{status}");
    caller.ask(site.ask()).await.unwrap();
}
