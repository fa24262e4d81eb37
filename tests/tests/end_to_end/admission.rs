//! More than the CA takes: who is kept out, who is not, and what each of them is told.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use futures::future::join_all;
use signet_tests::harness::ca::Ca;
use signet_tests::harness::caller::{Answer, Ask, Caller, reason};
use signet_tests::harness::http::{get, metric};
use signet_tests::harness::site::{ISSUER, Site, token_issuer};
use signet_tests::harness::{PATIENCE, eventually};
use signet_tests::token_issuer::{Algorithm, Object, Subject, TokenIssuer};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::requests::call;

/// A CA whose every signature takes more than a millisecond.
pub(super) async fn slow_ca(site: &Site, changes: &[(&str, &str)]) -> Ca {
    let name = ["intermediate", "--root", "root", "--name", "slow", "--key", "rsa4096", "--out", "slow"];
    site.certs(&name);
    site.ca(&[&[("cacerts", "slow")], changes].concat()).await
}

/// A request of a pod of its own, on the node of its namespace.
fn pod(site: &Site, namespace: &str, name: &str) -> Ask {
    let subject = Subject::new(namespace, "default").on(Object::named(name), Object::named(namespace));
    let draft = token_issuer().draft(ISSUER, "istio-ca", &subject, std::time::SystemTime::now());
    site.ask_for(&token_issuer().sign(&draft).unwrap())
}

/// Asks for all at once.
pub(super) async fn at_once(caller: &Caller, asks: Vec<Ask>) -> (Vec<Answer>, Vec<Status>) {
    let (answers, refused): (Vec<_>, Vec<_>) =
        join_all(asks.into_iter().map(|ask| caller.ask(ask))).await.into_iter().partition(Result::is_ok);
    (answers.into_iter().map(Result::unwrap).collect(), refused.into_iter().map(Result::unwrap_err).collect())
}

fn connections_refused(ca: &Ca, reason: &str) -> f64 {
    metric(ca.monitoring, &format!("signet_connections_refused_total{{reason=\"{reason}\"}}")).unwrap_or(0.0)
}

#[tokio::test]
async fn silent_connections_make_room_for_whoever_comes_next() {
    let site = Site::default();
    let ca = site.ca(&[("handshakes", "4"), ("handshake-timeout", "60s")]).await;
    // One for each address; the fifth address has the place of the first.
    let mut silent = Vec::new();
    for last in 1..=8 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, last], 0).into()).unwrap();
        silent.push(socket.connect(ca.listen).await.unwrap());
    }
    let (began, caller) = (Instant::now(), Caller::from(&site, &ca, [127, 0, 0, 9]).await);
    caller.ask(site.ask()).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "long before any of them was given up");
    assert!(connections_refused(&ca, "OVERLOAD_SLOW") >= 5.0);
    // The oldest are told by the end of their connection.
    use tokio::io::AsyncReadExt;
    assert_eq!(silent[0].read(&mut [0]).await.unwrap_or(0), 0);
}

#[tokio::test]
async fn connections_on_which_nobody_was_attested_make_room_when_there_are_too_many() {
    let site = Site::default();
    let ca = site.ca(&[("connections", "4"), ("connections-per-address", "4")]).await;
    let used = Caller::to(&site, &ca).await;
    used.ask(site.ask()).await.unwrap();
    let mut idle = Vec::new();
    for last in 2..=4 {
        idle.push(Caller::from(&site, &ca, [127, 0, 0, last]).await);
    }
    // Not in the first moment, in which a request may be on its way.
    tokio::time::timeout(PATIENCE, async {
        loop {
            let endpoint = Caller::try_from_address(&site, &ca, [127, 0, 0, 9]).await;
            match endpoint {
                Ok(newcomer) if newcomer.ask(site.ask()).await.is_ok() => break,
                _ => tokio::task::yield_now().await,
            }
        }
    })
    .await
    .expect("a newcomer never got in");
    used.ask(site.ask()).await.unwrap();
}

#[tokio::test]
async fn health_is_not_watched_on_the_issuing_port_where_anybody_could() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let mut health =
        tonic_health::pb::health_client::HealthClient::new(Caller::to(&site, &ca).await.channel());
    let ask = || tonic_health::pb::HealthCheckRequest { service: String::new() };
    assert_eq!(health.watch(ask()).await.unwrap_err().code(), Code::Unimplemented);
    health.check(ask()).await.unwrap();
}

#[tokio::test]
async fn a_handshake_that_is_not_finished_is_given_up() {
    let site = Site::default();
    let ca = site.ca(&[("handshake-timeout", "300ms")]).await;
    let mut half = TcpStream::connect(ca.listen).unwrap();
    // A record header that promises more than comes.
    half.write_all(&[0x16, 0x03, 0x01, 0x02, 0x00, 0x01]).unwrap();
    assert_eq!(half.read(&mut [0]).unwrap_or(0), 0);
    // TLS alone is not enough: HTTP/2 must begin.
    let address = ca.listen.to_string();
    let connect =
        ["s_client", "-connect", &address, "-alpn", "h2", "-CAfile", "root/root-cert.pem", "-quiet"];
    let mut command = std::process::Command::new("openssl");
    let mut mute = command
        .current_dir(site.folder())
        .args(connect)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    mute.wait().unwrap();
    eventually("both are counted", async || (connections_refused(&ca, "HANDSHAKE") >= 2.0).then_some(()))
        .await;
}

#[tokio::test]
async fn a_message_that_does_not_come_makes_room_for_one_that_does() {
    let site = Site::default();
    let ca = site.ca(&[("deadline", "60s"), ("in-flight", "1")]).await;
    let caller = Caller::to(&site, &ca).await;
    let stalled = tokio::spawn({
        let caller = caller.clone();
        async move { call(&caller, futures::stream::pending()).await }
    });
    eventually("the message that does not come has a place", async || {
        metric(ca.monitoring, "signet_in_flight").filter(|taken| *taken == 1.0)
    })
    .await;
    // Not in the first moment, in which its message may be on its way.
    eventually("the next has the place", async || caller.ask(site.ask()).await.ok()).await;
    let status = stalled.await.unwrap();
    assert_eq!(
        (status.code(), reason(&status).as_str()),
        (Code::ResourceExhausted, "OVERLOAD_SLOW"),
        "{status}"
    );
}

#[tokio::test]
async fn an_address_that_sends_bad_tokens_spends_its_share_and_no_other_s() {
    let site = Site::default();
    let ca = site.ca(&[("failures-per-address", "1")]).await;
    let stranger = TokenIssuer::generate(Algorithm::Es256).unwrap();
    let bad = site.ask_for(&stranger.sign(&site.draft()).unwrap());
    let (there, elsewhere) =
        (Caller::from(&site, &ca, [127, 0, 0, 3]).await, Caller::from(&site, &ca, [127, 0, 0, 2]).await);
    // On a slow machine some are forgiven meanwhile.
    let mut looked_at = 0;
    while reason(&there.ask(bad.clone()).await.unwrap_err()) != "OVERLOAD_FAILURES" {
        looked_at += 1;
        assert!(looked_at < 1000, "the share is never spent");
    }
    assert!(looked_at >= 10, "ten may fail at once: {looked_at}");
    let status = there.ask(site.ask()).await.unwrap_err();
    assert_eq!(reason(&status), "OVERLOAD_FAILURES", "nothing of it is looked at");
    assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
    elsewhere.ask(site.ask()).await.unwrap();
    // It is forgiven with time.
    eventually("the address may try again", async || there.ask(site.ask()).await.ok()).await;
}

#[tokio::test]
async fn what_cannot_be_taken_at_once_is_shed_with_a_hint_and_the_rest_is_answered() {
    let site = Site::default();
    let ca = slow_ca(&site, &[("in-flight-per-address", "2")]).await;
    let caller = Caller::to(&site, &ca).await;
    let (answers, refused) = at_once(&caller, vec![site.ask(); 64]).await;
    assert!(!answers.is_empty() && !refused.is_empty(), "{} of 64 were answered", answers.len());
    for status in refused {
        let found = (status.code(), reason(&status));
        assert_eq!(found, (Code::ResourceExhausted, "OVERLOAD_ADDRESS".to_owned()), "{status}");
        assert!(status.get_details_retry_info().unwrap().retry_delay.is_some());
    }
    caller.ask(site.ask()).await.unwrap();
    assert_eq!(ca.records(&["--profile", "workload"]).len(), answers.len() + 1);
    assert!(get(ca.monitoring, "/metrics").1.contains("signet_refusals_total{reason=\"OVERLOAD_ADDRESS\"}"));
}

#[tokio::test]
async fn one_namespace_that_floods_the_queue_does_not_keep_another_out() {
    let site = Site::default();
    let ca = slow_ca(&site, &[("queue", "16")]).await;
    let caller = Caller::to(&site, &ca).await;
    let flood: Vec<_> = (0..120).map(|number| pod(&site, "busy", &format!("busy-{number}"))).collect();
    let quiet: Vec<_> = (0..4).map(|number| pod(&site, "quiet", &format!("quiet-{number}"))).collect();
    let (flooded, served) = tokio::join!(at_once(&caller, flood), async {
        // It comes when the flood is there.
        eventually("the queue is full", async || {
            metric(ca.monitoring, "signet_queue").filter(|waiting| *waiting > 0.0)
        })
        .await;
        at_once(&caller, quiet).await
    });
    assert!(flooded.1.iter().any(|status| reason(status) == "OVERLOAD_QUEUE"), "the flood was too small");
    assert!(served.1.is_empty(), "{:?}", served.1);
}

#[tokio::test]
async fn a_caller_that_reads_hints_is_refused_at_once_and_another_a_moment_later() {
    let site = Site::default();
    let ca = slow_ca(&site, &[("queue", "1"), ("park", "2s")]).await;
    let caller = Caller::to(&site, &ca).await;
    let ours = |ask: Ask| Ask { headers: vec![("x-signet-instance", "an-agent".to_owned())], ..ask };
    let timed = async |ask: Ask| {
        let began = Instant::now();
        (caller.ask(ask).await, began.elapsed())
    };
    let asks = (0..96).map(|number| {
        let ask = pod(&site, "default", &format!("pod-{number}"));
        timed(if number % 2 == 0 { ours(ask) } else { ask })
    });
    let (mut at_once, mut later) = (0, 0);
    for (number, (answer, took)) in join_all(asks).await.into_iter().enumerate() {
        let Err(status) = answer else { continue };
        assert_eq!(reason(&status), "OVERLOAD_QUEUE", "{status}");
        if number % 2 == 0 {
            assert!(took < Duration::from_secs(2), "{took:?}");
            at_once += 1;
        } else {
            assert!(took >= Duration::from_secs(2), "{took:?}");
            later += 1;
        }
    }
    assert!(at_once > 0 && later > 0, "{at_once} and {later}");
}

#[tokio::test]
async fn what_does_not_come_before_the_caller_s_own_deadline_is_refused() {
    let site = Site::default();
    let ca = slow_ca(&site, &[]).await;
    let caller = Caller::to(&site, &ca).await;
    // Requests that wait make the queue longer than these few have time.
    let waiting: Vec<_> = (0..200).map(|number| pod(&site, "default", &format!("pod-{number}"))).collect();
    let hurried = async {
        eventually("requests wait", async || {
            metric(ca.monitoring, "signet_queue").filter(|waiting| *waiting > 50.0)
        })
        .await;
        let ask = Ask { headers: vec![("grpc-timeout", "80m".to_owned())], ..site.ask() };
        at_once(&caller, vec![ask; 4]).await
    };
    let ((answers, refused), (_, late)) = tokio::join!(at_once(&caller, waiting), hurried);
    assert_eq!((answers.len(), refused.len()), (200, 0));
    assert!(late.iter().any(|status| reason(status) == "OVERLOAD_DEADLINE"), "{late:?}");
}

#[tokio::test]
async fn watches_are_bounded_for_one_address() {
    let site = Site::default();
    let ca = site.ca(&[("watches-per-address", "1")]).await;
    let (there, elsewhere) =
        (Caller::from(&site, &ca, [127, 0, 0, 3]).await, Caller::from(&site, &ca, [127, 0, 0, 2]).await);
    let token = site.token("sleep");
    let _first = super::trust_watch::watch(&there, Some(&token)).await.unwrap();
    let status = super::trust_watch::watch(&there, Some(&token)).await.unwrap_err();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::ResourceExhausted, "OVERLOAD_ADDRESS"));
    super::trust_watch::watch(&elsewhere, Some(&token)).await.unwrap();
}
