//! Nothing secret is in any output, not even at the most talkative level.

use std::collections::BTreeSet;

use signet_tests::harness::process::Process;
use signet_tests::harness::sds::{self, Subscription};
use signet_tests::harness::site::Site;

/// Every line of a PEM file's bodies, which are too long to occur by chance.
fn bodies(pem: &str) -> impl Iterator<Item = String> + '_ {
    pem.lines().filter(|line| !line.starts_with("-----") && line.len() >= 16).map(str::to_owned)
}

fn keeps(process: &Process, secrets: &BTreeSet<String>) {
    let log = process.log();
    let talks = |level: &str| log.iter().any(|line| line.json["level"] == level);
    assert!(talks("TRACE") || talks("DEBUG"), "it does not talk enough for this test to show anything");
    for line in log {
        for secret in secrets {
            assert!(!line.text.contains(secret), "{secret:?} is in {:?}", line.text);
        }
    }
}

#[tokio::test]
async fn tokens_and_keys_are_in_no_log_at_trace_level() {
    let site = Site::default();
    let ca = site.ca(&[("log-level", "trace")]).await;
    let agent = site.agent(ca.listen, "sleep", &[("log-level", "trace")]).await;
    let channel = sds::connect(&agent.sds).await;
    let mut default = Subscription::open(&channel, "sidecar", "default").await;
    let push = default.next().await.unwrap();
    default.ack(&push);
    agent.process.message("the CA states its trust").await;
    let token = site.read("sleep.token");
    let mut secrets: BTreeSet<String> = token.split('.').skip(1).map(str::to_owned).collect();
    let key = String::from_utf8(push.private_key()).unwrap();
    secrets.extend(bodies(&key));
    for file in ["cacerts/ca-key.pem", "data/log-key.pem"] {
        secrets.extend(bodies(&site.read(file)));
    }
    // A refusal too, and a table of what the sidecar holds.
    let bad = site.path("bad.token");
    std::fs::write(&bad, format!("{token}x")).unwrap();
    let changes = [("token", bad.to_str().unwrap())];
    let fetched = site.agent_command("fetch", ca.listen, "sleep", &changes).output().unwrap();
    assert!(!fetched.status.success());
    let shown = agent.secret(&["-o", "json"]);
    for output in [fetched.stdout, fetched.stderr, shown.stdout, shown.stderr] {
        let text = String::from_utf8(output).unwrap();
        assert!(secrets.iter().all(|secret| !text.contains(secret)), "{text}");
    }
    keeps(&ca.process, &secrets);
    keeps(&agent.process, &secrets);
}
