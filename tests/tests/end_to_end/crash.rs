//! What a crash may cost: requests in flight, and nothing that anybody received.

use std::collections::HashSet;

use signet_tests::harness::caller::{Caller, reason};
use signet_tests::harness::http;
use signet_tests::harness::process::without_xfsz;
use signet_tests::harness::site::Site;
use tokio::sync::mpsc;
use tonic::Code;
use tonic_types::StatusExt;

/// Certificates that are received before the server is killed.
const ENOUGH: usize = 150;

#[tokio::test]
async fn case_47_whatever_was_received_is_recorded_when_the_server_is_killed_under_load() {
    let site = Site::default();
    let mut received = HashSet::new();
    for round in 0..3 {
        let mut ca = site.ca(&[]).await;
        let (sender, mut serials) = mpsc::unbounded_channel();
        let caller = Caller::to(&site, &ca).await;
        let ask = site.ask();
        for _ in 0..16 {
            let (caller, ask, sender) = (caller.clone(), ask.clone(), sender.clone());
            tokio::spawn(async move {
                while let Ok(answer) = caller.ask(ask.clone()).await {
                    // The receiver waits for all of us.
                    let _ = sender.send(answer.serial());
                }
            });
        }
        drop(sender);
        for _ in 0..ENOUGH {
            let serial = serials.recv().await.unwrap();
            assert!(received.insert(serial), "a serial number twice, round {round}");
        }
        ca.process.kill();
        while let Some(serial) = serials.recv().await {
            assert!(received.insert(serial), "a serial number twice, round {round}");
        }
    }
    let ca = site.ca(&[]).await;
    let recorded = ca.records(&["--profile", "workload"]);
    let recorded: HashSet<_> = recorded.iter().map(|one| one["serial"].as_str().unwrap()).collect();
    let lost: Vec<_> = received.iter().filter(|serial| !recorded.contains(serial.as_str())).collect();
    assert!(lost.is_empty(), "{} of {} are not recorded: {lost:?}", lost.len(), received.len());
    let report = ca.json(&["log", "verify"]);
    assert!(report["certificates"].as_u64().unwrap() >= received.len() as u64);
    Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();
}

#[tokio::test]
async fn case_47_a_certificate_that_cannot_be_recorded_is_not_answered() {
    let site = Site::default();
    let command = without_xfsz(&site.ca_command("run", &[]));
    let ca = site.ca_of(command).await;
    let caller = Caller::to(&site, &ca).await;
    let last = caller.ask(site.ask()).await.unwrap();

    ca.process.limit_files(Some(0));
    let status = caller.ask(site.ask()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "LOG_UNAVAILABLE"));
    assert!(status.get_details_retry_info().is_some());
    let line = ca.process.message("certificate refused").await;
    assert_eq!(line.json["reason"], "LOG_UNAVAILABLE");
    ca.process.message("not ready").await;
    let (code, body) = http::get(ca.monitoring, "/ready");
    assert_eq!((code, body.contains("record")), (503, true), "{body}");

    // With room again, a restart goes on where the log ended.
    drop(ca);
    let ca = site.ca(&[]).await;
    let next = Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();
    let recorded = ca.records(&["--profile", "workload"]);
    let serials: Vec<_> = recorded.iter().map(|record| record["serial"].as_str().unwrap()).collect();
    assert_eq!(serials, [last.serial(), next.serial()]);
    ca.json(&["log", "verify"]);
}
