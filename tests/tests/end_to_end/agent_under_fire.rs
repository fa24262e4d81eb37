//! The real agent when everything around it fails: what it serves stays good, what it says stays true, and
//! neither its processor time, nor its memory, nor its log grow with the trouble.

use std::time::{Duration, SystemTime};

use rustix::process::Signal;
use signet_certs::key::PrivateKey;
use signet_tests::harness::agent::Agent;
use signet_tests::harness::http::{get, metric};
use signet_tests::harness::process::{Line, Process, without_xfsz};
use signet_tests::harness::sds::{self, Subscription};
use signet_tests::harness::site::Site;
use signet_tests::harness::{PATIENCE, eventually};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const OVERDUE: &str = "signet_agent_renewal_overdue_seconds ";

/// A stream for one secret.
async fn subscribe(agent: &Agent, node: &str, name: &str) -> Subscription {
    Subscription::open(&sds::connect(&agent.sds).await, node, name).await
}

/// Whether nothing is pushed for a moment.
async fn is_silent(subscription: &mut Subscription) -> bool {
    timeout(Duration::from_millis(100), subscription.next()).await.is_err()
}

fn warnings(agent: &Agent) -> usize {
    agent.process.log().iter().filter(|line| line.json["level"] == "WARN").count()
}

/// Waits for a failed renewal, from this line on, with this reason.
async fn failure(agent: &Agent, from: usize, reason: &str) {
    let wanted = |line: &Line| line.json["reason"] == reason;
    agent.process.line_from(from, reason, wanted).await;
}

#[tokio::test]
async fn a_certificate_that_ends_while_the_ca_is_away_is_not_served_anew_and_replaced_when_it_is_back() {
    let site = Site::default();
    let mut ca = site.ca(&[]).await;
    let agent = site.agent(ca.listen, "sleep", &[("ttl", "4s")]).await;
    let mut old = subscribe(&agent, "old", "default").await;
    let first = old.next().await.unwrap();
    old.ack(&first);
    assert_eq!(metric(agent.monitoring, OVERDUE), Some(0.0));
    ca.process.kill();
    let used = agent.process.cpu();
    eventually("the end", async || (!agent.is_ready()).then_some(())).await;
    let (_, body) = get(agent.monitoring, "/ready");
    assert!(body.contains("ended at"), "{body}");
    assert!(metric(agent.monitoring, OVERDUE) >= Some(1.0));
    // Whoever has the ended one keeps it; who comes now gets the roots, which have not ended.
    let mut new = subscribe(&agent, "new", "default").await;
    let mut roots = subscribe(&agent, "new", "ROOTCA").await;
    assert_eq!(roots.next().await.unwrap().certificates(), site.certificates("root/root-cert.pem"));
    let ended = metric(agent.monitoring, "istio_agent_cert_expiry_seconds");
    eventually("time goes by", async || {
        (metric(agent.monitoring, "istio_agent_cert_expiry_seconds") < ended.map(|left| left - 2.0))
            .then_some(())
    })
    .await;
    assert!(is_silent(&mut new).await);
    // Renewals may have come before the CA was gone; after that nothing did.
    while let Ok(push) = timeout(Duration::ZERO, old.next()).await {
        old.ack(&push.unwrap());
    }
    let used = agent.process.cpu() - used;
    assert!(used < Duration::from_secs(1), "{used:?}");
    assert!(warnings(&agent) < 12, "{}", warnings(&agent));

    let _ca = site.ca(&[("listen", &ca.listen.to_string())]).await;
    let began = Instant::now();
    let (push, again) = (new.next().await.unwrap(), old.next().await.unwrap());
    assert_eq!(push.serial(), again.serial());
    assert_ne!(push.serial(), first.serial());
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert!(agent.is_ready());
    assert_eq!(metric(agent.monitoring, OVERDUE), Some(0.0));
}

#[tokio::test]
async fn an_agent_that_is_killed_and_started_without_its_ca_serves_what_it_had() {
    let site = Site::default();
    let mut ca = site.ca(&[]).await;
    let mut agent = site.agent(ca.listen, "sleep", &[]).await;
    let serial = agent.certificate().await;
    let bundle = site.path("sleep/sds.sock.state/bundle.json");
    let chain = agent.output.join("cert-chain.pem");
    eventually("the files", async || (chain.exists() && bundle.exists()).then_some(())).await;
    ca.process.kill();
    agent.process.kill();
    assert!(agent.sds.exists(), "its socket is left behind");

    let agent = site.agent(ca.listen, "sleep", &[]).await;
    assert!(agent.is_ready());
    let push = subscribe(&agent, "node", "default").await.next().await.unwrap();
    assert_eq!(push.serial(), serial);
    assert_eq!(metric(agent.monitoring, "istio_agent_num_outgoing_requests"), Some(0.0), "it is not due");
    drop(agent);

    // Without the files there is nothing to serve, and it says so.
    std::fs::remove_file(site.path("sleep/certs/key.pem")).unwrap();
    let agent = site.agent(ca.listen, "sleep", &[]).await;
    assert!(!agent.is_ready());
}

#[tokio::test]
async fn each_state_of_the_token_s_file_is_named_and_costs_no_certificate() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let changes = [("ttl", "60s"), ("renew-ratio", "0.95")];
    let agent = site.agent(ca.listen, "sleep", &changes).await;
    let serial = agent.certificate().await;
    let token = site.path("sleep.token");
    let good = std::fs::read(&token).unwrap();
    let header = good.iter().position(|byte| *byte == b'.').unwrap();
    std::fs::remove_file(&token).unwrap();
    failure(&agent, 0, "token_unreadable").await;
    let huge = vec![b'a'; 4 << 20];
    for (content, reason) in
        [(&b""[..], "token_empty"), (&good[..header + 40], "token_malformed"), (&huge, "token_too_long")]
    {
        let seen = agent.process.log().len();
        std::fs::write(&token, content).unwrap();
        failure(&agent, seen, reason).await;
    }
    std::fs::remove_file(&token).unwrap();
    std::fs::create_dir(&token).unwrap();
    failure(&agent, 0, "token_not_a_file").await;
    assert!(agent.is_ready());
    let push = subscribe(&agent, "node", "default").await.next().await.unwrap();
    assert_eq!(push.serial(), serial);
    let text: String = agent.process.log().iter().map(|line| line.text.clone()).collect();
    assert!(!text.contains(std::str::from_utf8(&good[header + 1..header + 40]).unwrap()));

    let (seen, began) = (agent.process.log().len(), Instant::now());
    std::fs::remove_dir(&token).unwrap();
    std::fs::write(&token, good).unwrap();
    agent.certificate_after(seen).await;
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_socket_is_taken_over_from_the_dead_alone() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let agent = site.agent(ca.listen, "sleep", &[]).await;
    let serial = agent.certificate().await;
    let second = || Process::start("a second agent", site.agent_run(ca.listen, "sleep", &[])).ended();
    let refused = |(status, log): (std::process::ExitStatus, Vec<Line>), why: &str| {
        let text: String = log.into_iter().map(|line| line.text).collect();
        assert!(status.code() == Some(1) && text.contains(why), "{status}: {text}");
    };
    refused(second().await, "is served by another process");
    // One that is stopped answers nobody, and is alive.
    agent.process.signal(Signal::STOP);
    refused(second().await, "is served by another process");
    agent.process.signal(Signal::CONT);
    assert_eq!(subscribe(&agent, "node", "default").await.next().await.unwrap().serial(), serial);
    agent.process.terminated().await;

    std::fs::write(site.path("sleep/sds.sock"), "somebody's").unwrap();
    refused(second().await, "exists and is not a socket");
    assert_eq!(site.read("sleep/sds.sock"), "somebody's");
    let beneath = [("sds-socket", "sleep/sds.sock/beneath")];
    let command = site.agent_run(ca.listen, "sleep", &beneath);
    refused(Process::start("an agent", command).ended().await, "sleep/sds.sock");
}

#[tokio::test]
async fn a_full_disk_leaves_the_old_files_whole_and_stops_no_renewal() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let command = without_xfsz(&site.agent_run(ca.listen, "sleep", &[("ttl", "4s")]));
    let agent = site.agent_of("sleep", command).await;
    let mut default = subscribe(&agent, "node", "default").await;
    let first = default.next().await.unwrap();
    default.ack(&first);
    let chain = agent.output.join("cert-chain.pem");
    eventually("the files", async || chain.exists().then_some(())).await;
    agent.process.limit_files(Some(0));
    agent.process.message("the certificate's files are not written").await;
    let kept = agent.file("cert-chain.pem");
    for _ in 0..2 {
        let next = default.next().await.unwrap();
        default.ack(&next);
    }
    let failing = "signet_agent_write_failing{target=\"output_certs\"}";
    assert_eq!(metric(agent.monitoring, failing), Some(1.0));
    assert_eq!(agent.file("cert-chain.pem"), kept);
    let key = std::fs::read(agent.output.join("key.pem")).unwrap();
    assert_eq!(PrivateKey::from_pem(&key).unwrap().spki(), kept[0].facts().spki, "they fit together");
    let said = || {
        let about = |line: &&Line| line.message() == "the certificate's files are not written";
        agent.process.log().iter().filter(about).count()
    };
    assert!(said() <= 3, "{} lines", said());

    agent.process.limit_files(None);
    agent.process.message("the certificate's files are written again").await;
    assert_ne!(agent.file("cert-chain.pem"), kept);
    assert_eq!(metric(agent.monitoring, failing), Some(0.0));
}

#[tokio::test]
async fn an_agent_that_was_stopped_past_the_end_renews_when_it_goes_on() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let agent = site.agent(ca.listen, "sleep", &[("ttl", "4s")]).await;
    let mut default = subscribe(&agent, "node", "default").await;
    let first = default.next().await.unwrap();
    default.ack(&first);
    agent.process.signal(Signal::STOP);
    let end = first.certificates()[0].facts().validity.not_after + Duration::from_secs(5);
    eventually("its end, and some time after it", async || (SystemTime::now() > end).then_some(())).await;
    let (seen, began) = (agent.process.log().len(), Instant::now());
    agent.process.signal(Signal::CONT);
    agent.certificate_after(seen).await;
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
    eventually("readiness", async || agent.is_ready().then_some(())).await;
}

#[tokio::test]
async fn a_hundred_sidecars_of_which_half_do_not_read_cost_a_bound_of_memory_and_nobody_a_renewal() {
    const HALF: usize = 50;
    let site = Site::default();
    // Many roots make long chains: what is kept for those that do not read would show.
    let mut roots = site.read("root/root-cert.pem");
    for number in 0..30 {
        let folder = format!("other-{number}");
        site.certs(&["root-ca", "--out", &folder]);
        roots += &site.read(&format!("{folder}/root-cert.pem"));
    }
    std::fs::write(site.path("cacerts/root-cert.pem"), roots).unwrap();
    let ca = site.ca(&[]).await;
    let mut command = site.agent_run(ca.listen, "sleep", &[("ttl", "4s")]);
    command.arg("--include-roots-in-chain");
    let agent = site.agent_of("sleep", command).await;
    agent.certificate().await;
    let mut deaf = Vec::new();
    for number in 0..HALF {
        let channel = sds::connect_narrow(&agent.sds, 1024).await;
        deaf.push(Subscription::open(&channel, &format!("deaf-{number}"), "default").await);
    }
    let mut readers = JoinSet::new();
    let mut hear = tokio::sync::mpsc::unbounded_channel();
    for number in 0..HALF {
        let mut reader = subscribe(&agent, &format!("reader-{number}"), "default").await;
        let heard = hear.0.clone();
        readers.spawn(async move {
            loop {
                let push = reader.next().await.unwrap();
                reader.ack(&push);
                if heard.send((push.serial(), Instant::now())).is_err() {
                    return;
                }
            }
        });
    }
    // Each round is one certificate that all who read have.
    let mut round = async || {
        let mut times = std::collections::BTreeMap::<String, Vec<Instant>>::new();
        loop {
            let (serial, at) = timeout(PATIENCE, hear.1.recv()).await.unwrap().unwrap();
            let of_serial = times.entry(serial).or_default();
            of_serial.push(at);
            if of_serial.len() == HALF {
                let (first, last) = (of_serial.iter().min().unwrap(), of_serial.iter().max().unwrap());
                return *last - *first;
            }
        }
    };
    for _ in 0..2 {
        round().await;
    }
    let before = agent.process.memory();
    for _ in 0..5 {
        let took = round().await;
        assert!(took < Duration::from_secs(2), "the last reader came {took:?} after the first");
    }
    let after = agent.process.memory();
    println!("memory with {} sidecars: {before} bytes, {after} bytes five renewals later", 2 * HALF);
    assert!(after < before + (3 << 20), "{before} bytes became {after}");
    assert!(after < 64 << 20, "{after}");
    drop((deaf, readers));
}
