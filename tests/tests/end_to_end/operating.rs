//! What operators and their machines look at: the admin socket, metrics, health, and how a server ends.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;

use rustix::process::Signal;
use signet_certs::clock::to_unix;
use signet_tests::harness::ca::{done, failed, records};
use signet_tests::harness::caller::{Ask, Caller};
use signet_tests::harness::eventually;
use signet_tests::harness::http::{self, metric};
use signet_tests::harness::site::{Site, token_issuer};
use tokio::sync::oneshot;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test]
async fn the_admin_socket_is_its_owner_s_and_answers_in_tables_and_json() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let mode = std::fs::metadata(&ca.admin).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();

    let table = done(ca.operator(&["status"]));
    assert!(table.starts_with("ready         yes\n"), "{table}");
    let status = ca.json(&["status"]);
    assert_eq!((&status["ready"], &status["issued"]), (&true.into(), &1.into()));
    assert_eq!(status["listen"], ca.listen.to_string());
    assert_eq!(status["pid"], ca.process.id());

    let signer = site.certificates("cacerts/ca-cert.pem").remove(0);
    let id: String = signer.key_id().iter().map(|byte| format!("{byte:02x}")).collect();
    let list = ca.json(&["authority", "list"]);
    assert_eq!((list.as_array().unwrap().len(), &list[0]["id"]), (1, &id.as_str().into()));
    assert_eq!(list[0]["state"], "active");
    let table = done(ca.operator(&["authority", "list"]));
    assert!(table.lines().nth(1).unwrap().starts_with(&id), "{table}");
    let shown = ca.json(&["authority", "show", &id[..8]]);
    assert!(shown["chain"].as_str().unwrap().starts_with(&signer.to_pem()), "{shown}");
    let table = done(ca.operator(&["authority", "show", &id]));
    assert!(table.contains("CN=Intermediate CA"), "{table}");
    let (code, text) = failed(&ca.operator(&["authority", "show", "00000000"]));
    assert_eq!((code, text.contains("no authority")), (1, true), "{text}");
}

#[tokio::test]
async fn flags_may_stand_before_and_behind_the_verb() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let socket = ca.admin.to_str().unwrap();
    for arguments in [
        ["authority", "list", "--admin-socket", socket, "-o", "json"],
        ["authority", "--admin-socket", socket, "-o", "json", "list"],
        ["log", "list", "--admin-socket", socket, "-o", "json"],
    ] {
        done(site.operator(&arguments));
    }
}

#[tokio::test]
async fn a_socket_that_nobody_answers_is_said_to_be_that() {
    let site = Site::default();
    let ask = |verb: &[&str]| failed(&site.operator(&[verb, &["--admin-socket", "gone.sock"]].concat()));
    for verb in [&["status"][..], &["authority", "list"], &["log", "list"]] {
        let (code, text) = ask(verb);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains("connecting to gone.sock") && text.contains("No such file"), "{text}");
    }
}

#[tokio::test]
async fn istio_s_metrics_have_their_names_and_move() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let caller = Caller::to(&site, &ca).await;
    let count = |name: &str| metric(ca.monitoring, name).unwrap_or(0.0) as u64;
    let names = [
        "citadel_server_csr_count",
        "citadel_server_success_cert_issuance_count",
        "citadel_server_authentication_failure_count",
        "citadel_server_csr_parsing_err_count",
    ];
    assert_eq!(names.map(count), [0, 0, 0, 0]);
    caller.ask(site.ask()).await.unwrap();
    assert_eq!(names.map(count), [1, 1, 0, 0]);
    caller.ask(Ask { token: None, ..site.ask() }).await.unwrap_err();
    assert_eq!(names.map(count), [2, 1, 1, 0]);
    caller.ask(Ask { csr: "garbage".to_owned(), ..site.ask() }).await.unwrap_err();
    assert_eq!(names.map(count), [3, 1, 1, 1]);
    caller.ask(Ask { lifetime: -1, ..site.ask() }).await.unwrap_err();
    for (labels, expected) in [
        ("citadel_server_csr_sign_err_count{error=\"TTL_ERROR\"}", 1),
        ("citadel_server_csr_sign_err_count{error=\"CSR_ERROR\"}", 1),
        ("signet_refusals_total{reason=\"TOKEN_MISSING\"}", 1),
        ("signet_refusals_total{reason=\"LIFETIME_NEGATIVE\"}", 1),
        ("signet_issuance_seconds_count", 1),
        ("signet_ready", 1),
    ] {
        assert_eq!(count(labels), expected, "{labels}");
    }
}

#[tokio::test]
async fn case_52_expiry_gauges_equal_the_certificates_to_the_second() {
    let site = Site::with_intermediate_for("30d");
    let ca = site.ca(&[]).await;
    let answer = Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();
    let ends = |name: &str| to_unix(site.certificates(name)[0].facts().validity.not_after);
    let (root, issuer) = (ends("root/root-cert.pem"), ends("cacerts/ca-cert.pem"));
    let seconds = |name: &str| metric(ca.monitoring, name).unwrap_or_else(|| panic!("no {name}")) as i64;
    assert_eq!(seconds("citadel_server_root_cert_expiry_timestamp"), root);
    assert_eq!(seconds("citadel_server_cert_chain_expiry_timestamp"), issuer);
    let left = seconds("citadel_server_root_cert_expiry_seconds");
    assert!((left + signet_tests::harness::unix_now() - root).abs() <= 1, "{left}");
    let serving = ca.records(&["--profile", "serving"]).remove(0);
    let serving_end = ca.json(&["status"])["serving"]["not_after"].clone();
    assert_eq!(serving["not_after"], serving_end);
    let gauge =
        |kind: &str| seconds(&format!("signet_certificate_expiry_timestamp_seconds{{kind=\"{kind}\""));
    assert_eq!((gauge("root"), gauge("issuer"), gauge("leaf")), (root, issuer, answer.validity().1));
    let serving_end = signet_certs::clock::rfc3339(signet_certs::clock::from_unix(gauge("serving")));
    assert_eq!(serving["not_after"], serving_end);
}

#[tokio::test]
async fn health_is_told_over_http_and_grpc() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    assert_eq!(http::get(ca.monitoring, "/ready"), (200, "ready\n".to_owned()));
    assert_eq!(http::get(ca.monitoring, "/live"), (200, "live\n".to_owned()));
    assert_eq!(http::get(ca.monitoring, "/elsewhere").0, 404);
    let mut health = HealthClient::new(Caller::to(&site, &ca).await.channel());
    for service in ["", "istio.v1.auth.IstioCertificateService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let answer = health.check(request).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service:?}");
    }
}

/// Key sets over HTTP: tells when it is asked, and answers when it is told to.
fn slow_keys() -> (SocketAddr, oneshot::Receiver<()>, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (asked, was_asked) = oneshot::channel();
    let (go, told) = mpsc::channel();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        asked.send(()).unwrap();
        // A test that fails drops the sender: then nobody waits for the answer.
        if told.recv().is_ok() {
            let keys = token_issuer().key_set().to_string();
            let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close";
            write!(stream, "{head}\r\ncontent-length: {}\r\n\r\n{keys}", keys.len()).unwrap();
        }
    });
    (address, was_asked, go)
}

#[tokio::test]
async fn sigterm_waits_for_a_request_in_flight_and_leaves_nothing_behind() {
    let site = Site::default();
    let (keys, was_asked, go) = slow_keys();
    let ca = site.ca(&[("jwks", &format!("http://{keys}/keys"))]).await;
    let caller = Caller::to(&site, &ca).await;
    was_asked.await.unwrap();
    let request = tokio::spawn({
        let (caller, ask) = (caller.clone(), site.ask());
        async move { caller.ask(ask).await }
    });
    let in_flight = async || metric(ca.monitoring, "signet_in_flight").filter(|count| *count == 1.0);
    eventually("the request is in flight, waiting for keys", in_flight).await;
    ca.process.signal(Signal::TERM);
    ca.process.message("draining").await;
    go.send(()).unwrap();
    let answer = request.await.unwrap().unwrap();
    let admin = ca.admin.clone();
    let (status, _) = ca.process.ended().await;
    assert_eq!(status.code(), Some(0));
    assert!(!admin.exists(), "a socket file that stays would look like a server");
    let listed = site.operator(&["log", "list", "-o", "json", "--profile", "workload", "--data", "data"]);
    assert_eq!(records(listed)[0]["serial"], answer.serial());
    done(site.operator(&["log", "verify", "--data", "data"]));
}
