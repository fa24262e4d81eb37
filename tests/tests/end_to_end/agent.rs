//! The real agent against the real CA: secrets over SDS, files, renewals, outages, readiness.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::Value;
use signet_certs::chain::Certificate;
use signet_certs::key::PrivateKey;
use signet_tests::harness::agent::Agent;
use signet_tests::harness::ca::{done, failed};
use signet_tests::harness::http;
use signet_tests::harness::process::Process;
use signet_tests::harness::sds::{self, Push, Subscription};
use signet_tests::harness::site::{IDENTITY, Site, token_issuer};
use signet_tests::harness::{eventually, openssl};
use signet_tests::programs::program;
use signet_tests::token_issuer::write_token;

/// The two secrets of a sidecar, taken.
async fn both(agent: &Agent, node: &str) -> (Subscription, Push, Subscription, Push) {
    let channel = sds::connect(&agent.sds).await;
    let mut default = Subscription::open(&channel, node, "default").await;
    let mut roots = Subscription::open(&channel, node, "ROOTCA").await;
    let (chain, trusted) = (default.next().await.unwrap(), roots.next().await.unwrap());
    default.ack(&chain);
    roots.ack(&trusted);
    (default, chain, roots, trusted)
}

#[tokio::test]
async fn a_sidecar_gets_a_key_its_chain_and_the_roots_and_files_hold_the_same() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let agent = site.agent(ca.listen, "sleep", &[]).await;
    let serial = agent.certificate().await;
    let (_default, chain, _roots, trusted) = both(&agent, "sidecar").await;
    assert_eq!(trusted.certificates(), site.certificates("root/root-cert.pem"));
    let served = chain.certificates();
    // The root is for the peer to have, not for us to send.
    assert_eq!((served.len(), &served[1]), (2, &site.certificates("cacerts/ca-cert.pem")[0]));
    assert_eq!((served[0].facts().uris[0].as_str(), chain.serial()), (IDENTITY, serial.clone()));
    let key = PrivateKey::from_pem(&chain.private_key()).unwrap();
    assert_eq!(key.spki(), served[0].facts().spki);

    // The chain is written last.
    let chain_file = agent.output.join("cert-chain.pem");
    eventually("the files", async || chain_file.exists().then_some(())).await;
    assert_eq!(agent.file("cert-chain.pem"), served);
    assert_eq!(agent.file("root-cert.pem"), trusted.certificates());
    let key = std::fs::read(agent.output.join("key.pem")).unwrap();
    assert_eq!(PrivateKey::from_pem(&key).unwrap().spki(), served[0].facts().spki);
    let verify = ["verify", "-x509_strict", "-CAfile", "root-cert.pem", "-untrusted", "cert-chain.pem"];
    openssl::openssl(&agent.output, &[&verify[..], &["cert-chain.pem"]].concat());
    assert_eq!(ca.records(&["--serial", &serial]).len(), 1);
    let uid = &site.draft().claims["kubernetes.io"]["pod"]["uid"];
    assert_eq!(&ca.records(&["--serial", &serial])[0]["instance"], uid);
}

#[tokio::test]
async fn two_agents_with_nothing_but_the_contract_s_flags_run_on_one_machine() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let mut agents = Vec::new();
    for account in ["productpage", "reviews"] {
        let socket = format!("{account}.sock");
        let command = site.agent_command("run", ca.listen, account, &[("sds-socket", &socket)]);
        agents.push(Process::start(account, command));
        let socket = site.path(&socket);
        eventually("the socket", async || socket.exists().then_some(())).await;
        let channel = sds::connect(&socket).await;
        let push = Subscription::open(&channel, account, "default").await.next().await.unwrap();
        let identity = format!("spiffe://cluster.local/ns/default/sa/{account}");
        assert_eq!(push.certificates()[0].facts().uris, [identity]);
    }
}

#[tokio::test]
async fn renewals_are_pushed_at_half_of_the_life_with_a_fresh_key_and_roots_are_not() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let agent = site.agent(ca.listen, "sleep", &[("ttl", "4s")]).await;
    let (mut default, mut last, mut roots, _) = both(&agent, "sidecar").await;
    for _ in 0..2 {
        let next = default.next().await.unwrap();
        default.ack(&next);
        let [old, new] = [&last, &next].map(|push| push.certificates().remove(0));
        assert_ne!(old.facts().spki, new.facts().spki, "a key serves one certificate");
        let (begin, end) = (old.facts().validity.not_before, new.facts().validity.not_before);
        let passed = end.duration_since(begin).unwrap().as_secs();
        assert!((1..4).contains(&passed), "about half of 4 s, in whole seconds: {passed}");
        last = next;
    }
    let quiet = tokio::time::timeout(std::time::Duration::ZERO, roots.next()).await;
    assert!(quiet.is_err(), "unchanged roots are not pushed again");
    assert!(ca.records(&["--identity", IDENTITY]).len() >= 3);
}

#[tokio::test]
async fn case_36_an_agent_is_ready_with_a_certificate_and_not_before() {
    let site = Site::default();
    // A port that was just free, for a CA that comes later.
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let agent = site.agent(listen, "sleep", &[]).await;
    let (code, _) = http::get(agent.monitoring, "/ready");
    assert_eq!(code, 503);
    let channel = sds::connect(&agent.sds).await;
    let mut default = Subscription::open(&channel, "sidecar", "default").await;
    let nothing = tokio::time::timeout(std::time::Duration::from_millis(50), default.next()).await;
    assert!(nothing.is_err(), "there is nothing to push yet");

    let _ca = site.ca(&[("listen", &listen.to_string())]).await;
    let push = default.next().await.unwrap();
    assert_eq!(push.certificates()[0].facts().uris, [IDENTITY]);
    eventually("readiness", async || agent.is_ready().then_some(())).await;
}

#[tokio::test]
async fn a_certificate_outlives_its_ca_and_the_agent_finds_the_next_one() {
    let site = Site::default();
    let mut ca = site.ca(&[]).await;
    let agent = site.agent(ca.listen, "sleep", &[("ttl", "10s")]).await;
    let (mut default, first, _roots, _) = both(&agent, "sidecar").await;
    ca.process.kill();
    // Half of its life is over and nobody answers: it stays what it is.
    let failing = |line: &signet_tests::harness::process::Line| line.json["level"] == "WARN";
    agent.process.line_from(0, "a failed renewal", failing).await;
    assert!(agent.is_ready());
    let (_d, again, _r, _) = both(&agent, "another sidecar").await;
    assert_eq!(again.serial(), first.serial());

    let ca = site.ca(&[("listen", &ca.listen.to_string())]).await;
    let next = default.next().await.unwrap();
    assert_ne!(next.serial(), first.serial());
    let report = ca.json(&["log", "verify"]);
    assert!(report["certificates"].as_u64().unwrap() >= 4, "{report}");
    let recorded = ca.records(&["--identity", IDENTITY]);
    for serial in [first.serial(), next.serial()] {
        assert!(recorded.iter().any(|record| record["serial"] == serial), "{serial}");
    }
}

#[tokio::test]
async fn the_token_is_read_at_each_attempt() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let agent = site.agent(ca.listen, "sleep", &[("ttl", "3s")]).await;
    agent.certificate().await;
    std::fs::write(site.path("sleep.token"), "no.such.token").unwrap();
    let refused = ca.process.message("certificate refused").await;
    assert_eq!(refused.json["reason"], "TOKEN_MALFORMED");
    let seen = agent.process.log().len();
    site.token_file("sleep");
    let serial = agent.certificate_after(seen).await;
    assert_eq!(ca.records(&["--serial", &serial]).len(), 1);
}

#[tokio::test]
async fn fetch_asks_once_and_says_why_it_was_refused() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let fetched = site.agent_command("fetch", ca.listen, "sleep", &[]).output().unwrap();
    let text = done(fetched);
    assert!(text.contains(IDENTITY), "{text}");
    let leaf =
        Certificate::all_from_pem(site.read("sleep/certs/cert-chain.pem").as_bytes()).unwrap().remove(0);
    assert!(text.contains(&leaf.facts().serial.to_string()), "{text}");
    let refused = site.agent_command("fetch", ca.listen, "sleep", &[("ttl", "2161h")]).output().unwrap();
    let (code, text) = failed(&refused);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("LIFETIME_TOO_LONG") && text.contains("7776000"), "{text}");
    // Another's identity: the CA answers with the token's own, and the agent does not take it.
    let token = site.token_file("reviews");
    let changes = [("token", token.to_str().unwrap())];
    let (_, text) = failed(&site.agent_command("fetch", ca.listen, "sleep", &changes).output().unwrap());
    assert!(text.contains("sa/reviews"), "{text}");
}

#[tokio::test]
async fn secret_shows_istioctl_s_columns_and_its_json_goes_through_people_s_pipelines() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let agent = site.agent(ca.listen, "sleep", &[]).await;
    let serial = agent.certificate().await;
    let table = done(agent.secret(&[]));
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect())
        .collect();
    let header =
        ["RESOURCE NAME", "TYPE", "STATUS", "VALID CERT", "SERIAL NUMBER", "NOT AFTER", "NOT BEFORE"];
    assert_eq!(rows[0], header);
    assert_eq!(rows[1][..5], ["default", "Cert Chain", "ACTIVE", "true", &serial]);
    let root = site.certificates("root/root-cert.pem")[0].facts().serial.to_string();
    assert_eq!(rows[2][..5], ["ROOTCA", "CA", "ACTIVE", "true", &root]);

    let json = done(agent.secret(&["-o", "json"]));
    let dump: Value = serde_json::from_str(&json).unwrap();
    let secrets = dump["dynamicActiveSecrets"].as_array().unwrap();
    let secret = &secrets.iter().find(|secret| secret["name"] == "default").unwrap()["secret"];
    let chain = secret["tlsCertificate"]["certificateChain"]["inlineBytes"].as_str().unwrap();
    assert_eq!(secret["tlsCertificate"]["privateKey"]["inlineBytes"], "W3JlZGFjdGVkXQ==", "[redacted]");
    // base64 -d | openssl x509 -noout -text
    let mut pipeline = Command::new("sh")
        .args(["-c", "base64 -d | openssl x509 -noout -text"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    pipeline.stdin.take().unwrap().write_all(chain.as_bytes()).unwrap();
    let text = String::from_utf8(pipeline.wait_with_output().unwrap().stdout).unwrap();
    assert!(text.contains(&format!("URI:{IDENTITY}")), "{text}");
    let Agent { mut process, sds, .. } = agent;
    process.kill();
    let mut gone = Command::new(program("csr-client"));
    let (code, text) = failed(&gone.arg("secret").arg("--sds-socket").arg(&sds).output().unwrap());
    assert!(code != 0 && text.contains("cannot reach an agent"), "{text}");
}

#[tokio::test]
async fn an_agent_whose_token_names_no_pod_keeps_an_id_of_its_own() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let mut draft = site.draft();
    draft.claims["kubernetes.io"].as_object_mut().unwrap().remove("pod");
    let token = site.path("no-pod.token");
    write_token(&token, &token_issuer().sign(&draft).unwrap()).unwrap();
    let changes = [("token", token.to_str().unwrap())];
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut agent = site.agent(ca.listen, "sleep", &changes).await;
        let serial = agent.certificate().await;
        // The next run has no certificate of this one, and asks for its own.
        eventually("the files", async || std::fs::remove_file(agent.output.join("cert-chain.pem")).ok())
            .await;
        ids.push(ca.records(&["--serial", &serial])[0]["instance"].as_str().unwrap().to_owned());
        agent.process.kill();
    }
    assert!(!ids[0].is_empty());
    assert_eq!(ids[0], ids[1]);
}
