//! How long certificates live: what was asked for, within our bounds and the chain's.

use signet_certs::clock::to_unix;
use signet_tests::harness::caller::{Answer, Ask, Caller, reason};
use signet_tests::harness::http;
use signet_tests::harness::site::Site;
use signet_tests::harness::{eventually, unix_now};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

const BACKDATE: i64 = 120;
const DAY: i64 = 24 * 3600;
const MAXIMUM: i64 = 90 * DAY;

async fn ask(site: &Site, caller: &Caller, lifetime: i64) -> Result<Answer, Status> {
    caller.ask(Ask { lifetime, ..site.ask() }).await
}

#[tokio::test]
async fn case_23_and_25_a_lifetime_is_exact_backdated_two_minutes_and_bounded() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let caller = Caller::to(&site, &ca).await;
    // proto3 cannot tell 0 from an absent field: both leave it to us.
    for (asked, given) in [(0, DAY), (1, 1), (3600, 3600), (MAXIMUM, MAXIMUM)] {
        let before = unix_now();
        let (from, to) = ask(&site, &caller, asked).await.unwrap().validity();
        assert_eq!(to - from, given + BACKDATE, "asked for {asked}");
        assert!((before..=unix_now()).contains(&(from + BACKDATE)), "asked for {asked}");
    }
    for (asked, code) in [(MAXIMUM + 1, "LIFETIME_TOO_LONG"), (i64::MAX, "LIFETIME_TOO_LONG")] {
        let status = ask(&site, &caller, asked).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, code));
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.metadata["maximum_seconds"], MAXIMUM.to_string());
    }
    for asked in [-1, i64::MIN] {
        let status = ask(&site, &caller, asked).await.unwrap_err();
        assert_eq!((status.code(), reason(&status).as_str()), (Code::InvalidArgument, "LIFETIME_NEGATIVE"));
    }
}

#[tokio::test]
async fn the_administrator_s_bounds_hold_by_istio_s_names_of_them() {
    let site = Site::default();
    let mut command = site.ca_command("run", &[]);
    command.env("DEFAULT_WORKLOAD_CERT_TTL", "90s").env("MAX_WORKLOAD_CERT_TTL", "2m");
    let ca = site.ca_of(command).await;
    let caller = Caller::to(&site, &ca).await;
    for (asked, given) in [(0, 90), (120, 120)] {
        let (from, to) = ask(&site, &caller, asked).await.unwrap().validity();
        assert_eq!(to - from, given + BACKDATE);
    }
    assert_eq!(reason(&ask(&site, &caller, 121).await.unwrap_err()), "LIFETIME_TOO_LONG");
}

#[tokio::test]
async fn case_24_no_leaf_outlives_a_certificate_of_its_chain() {
    let site = Site::with_intermediate_for("1h");
    let ca = site.ca(&[]).await;
    let caller = Caller::to(&site, &ca).await;
    let end = to_unix(site.certificates("cacerts/ca-cert.pem")[0].facts().validity.not_after);
    for asked in [0, 2 * 3600, MAXIMUM] {
        assert_eq!(ask(&site, &caller, asked).await.unwrap().validity().1, end, "asked for {asked}");
    }
    let (from, to) = ask(&site, &caller, 60).await.unwrap().validity();
    assert_eq!(to - from, 60 + BACKDATE);
}

#[tokio::test]
async fn case_24_an_ended_issuer_signs_nothing_and_is_not_ready() {
    let site = Site::with_intermediate_for("6s");
    let ca = site.ca(&[]).await;
    let caller = Caller::to(&site, &ca).await;
    // Connected before the end, so that no handshake stands in the way.
    ask(&site, &caller, 3600).await.unwrap();
    let line = ca.process.message("not ready").await;
    assert!(line.json["cause"].as_str().unwrap().contains("chain"), "{}", line.text);
    let status = ask(&site, &caller, 3600).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Internal, "ISSUER_ENDED"));
    assert_eq!(status.message(), "CSR signing error (the CA cannot sign now)");
    let (code, body) = http::get(ca.monitoring, "/ready");
    assert_eq!(code, 503, "{body}");
    assert_eq!(http::get(ca.monitoring, "/live").0, 200);
    let output = ca.operator(&["status"]);
    let table = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{table}");
    assert!(table.contains("NO: the issuer's chain"), "{table}");
    let health = HealthClient::new(caller.channel());
    eventually("gRPC's health service says so too", async || {
        let answer = health.clone().check(HealthCheckRequest::default()).await.unwrap();
        (answer.into_inner().status() == ServingStatus::NotServing).then_some(())
    })
    .await;
}
