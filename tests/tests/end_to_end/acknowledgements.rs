//! What the agent tells the CA of its sidecars is true: seen at the CA's end, where rotations will look.

use serde_json::{Value, json};
use signet_tests::harness::agent::Agent;
use signet_tests::harness::ca::Ca;
use signet_tests::harness::eventually;
use signet_tests::harness::http::get_json;
use signet_tests::harness::sds::{self, Subscription};
use signet_tests::harness::site::Site;

/// Waits until the CA knows of `account` a fact that `wanted` takes.
async fn fact(ca: &Ca, account: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let identity = format!("spiffe://cluster.local/ns/default/sa/{account}");
    let what = format!("{account}: {what}");
    eventually(&what, async || {
        let facts = get_json(&ca.admin, "/v1/consumers");
        let mut of_account = facts.as_array()?.iter().filter(|fact| fact["identity"] == identity);
        of_account.find(|fact| wanted(fact)).cloned()
    })
    .await
}

fn holding(fact: &Value) -> &Value {
    &fact["roots"][0]["holding"]
}

/// A sidecar's stream for one secret, and what came first on it.
async fn subscribe(agent: &Agent, node: &str, name: &str) -> (Subscription, sds::Push) {
    let mut subscription = Subscription::open(&sds::connect(&agent.sds).await, node, name).await;
    let push = subscription.next().await.unwrap();
    (subscription, push)
}

#[tokio::test]
async fn a_root_is_held_when_every_sidecar_took_it_and_the_files_are_written() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let agent = site.agent(ca.listen, "sleep", &[]).await;
    let serial = agent.certificate().await;
    let mut sidecars = Vec::new();
    for node in ["one", "two"] {
        for name in ["default", "ROOTCA"] {
            let (mut subscription, push) = subscribe(&agent, node, name).await;
            subscription.ack(&push);
            sidecars.push(subscription);
        }
    }
    // The files may be written a little later; until then it is not held.
    let all = |fact: &Value| fact["subscribers"]["acknowledged"] == 2 && holding(fact) == "held";
    let fact = fact(&ca, "sleep", "two sidecars took everything", all).await;
    let subscribers =
        json!({ "connected": 2, "acknowledged": 2, "rejected": 0, "unknown": 0, "files_written": true });
    assert_eq!(fact["subscribers"], subscribers);
    assert_eq!((&fact["serving_serial"], &fact["errors"]), (&json!(serial), &json!([])));
    let status = ca.json(&["status"]);
    assert_eq!((&fact["digest"], &fact["epoch"]), (&status["trust"]["digest"], &status["trust"]["epoch"]));
}

#[tokio::test]
async fn a_refused_root_is_not_held_and_the_reason_is_passed_on() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let agent = site.agent(ca.listen, "sleep", &[]).await;
    let (mut good, push) = subscribe(&agent, "one", "ROOTCA").await;
    good.ack(&push);
    let (mut bad, push) = subscribe(&agent, "two", "ROOTCA").await;
    bad.nack(&push, "Failed to load trusted CA certificates from <inline>");
    let refused = |fact: &Value| fact["subscribers"]["rejected"] == 1;
    let fact = fact(&ca, "sleep", "one sidecar refused", refused).await;
    assert_eq!(holding(&fact), "not held");
    assert!(fact["errors"].to_string().contains("Failed to load trusted CA certificates"), "{fact}");
}

#[tokio::test]
async fn a_sidecar_that_took_only_its_certificate_or_went_away_cannot_be_told() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let agent = site.agent(ca.listen, "sleep", &[]).await;
    let (mut only, push) = subscribe(&agent, "one", "default").await;
    only.ack(&push);
    // The files may be written a little later; until then it is not held for certain.
    let unknown = |fact: &Value| fact["subscribers"]["unknown"] == 1 && holding(fact) == "unknown";
    fact(&ca, "sleep", "a sidecar with a certificate alone", unknown).await;

    let agent = site.agent(ca.listen, "reviews", &[]).await;
    let (mut gone, push) = subscribe(&agent, "one", "ROOTCA").await;
    gone.ack(&push);
    fact(&ca, "reviews", "it holds the root", |fact| holding(fact) == "held").await;
    // Its process, this test, lives on: what it holds now nobody knows.
    drop(gone);
    fact(&ca, "reviews", "it went away", |fact| holding(fact) == "unknown").await;
}

#[tokio::test]
async fn case_40_a_root_that_is_added_reaches_sidecars_and_is_acknowledged() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let listen = ca.listen.to_string();
    let agent = site.agent(ca.listen, "sleep", &[]).await;
    let (mut roots, push) = subscribe(&agent, "one", "ROOTCA").await;
    roots.ack(&push);
    let (mut chain, push) = subscribe(&agent, "one", "default").await;
    chain.ack(&push);
    let serial = push.serial();
    let before = fact(&ca, "sleep", "one root is held", |fact| holding(fact) == "held").await;
    ca.process.terminated().await;

    site.certs(&["root-ca", "--out", "second"]);
    let both = site.read("root/root-cert.pem") + &site.read("second/root-cert.pem");
    std::fs::write(site.path("cacerts/root-cert.pem"), both).unwrap();
    let ca = site.ca(&[("listen", &listen)]).await;
    let push = roots.next().await.unwrap();
    assert_eq!(push.certificates().len(), 2);
    let known = fact(&ca, "sleep", "the new root came", |fact| fact["roots"].as_array().unwrap().len() == 2);
    let known = known.await;
    assert!(known["sequence"].as_u64() > before["sequence"].as_u64(), "{known}");
    let held = |fact: &Value, holdings: [&str; 2]| {
        let roots = fact["roots"].as_array().unwrap();
        let mut found: Vec<_> = roots.iter().map(|root| root["holding"].as_str().unwrap()).collect();
        found.sort_unstable();
        found == holdings
    };
    fact(&ca, "sleep", "and is not held yet", |fact| held(fact, ["held", "not held"])).await;
    roots.ack(&push);
    let known = fact(&ca, "sleep", "until it is", |fact| held(fact, ["held", "held"])).await;
    assert_eq!(known["serving_serial"], serial, "new roots need no new certificate");
}
