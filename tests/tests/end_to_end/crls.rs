//! CRLs of CAs: plugged in beside the CA's files, pushed to agents, handed to Envoys, which refuse what is under a
//! revoked intermediate; taken back, they are gone everywhere. And what they must not break.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use signet_certs::crl::Crls;
use signet_proto::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use signet_tests::harness::ca::Ca;
use signet_tests::harness::caller::{Ask, Caller};
use signet_tests::harness::eventually;
use signet_tests::harness::http::{self, get_json};
use signet_tests::harness::sds::{self, Push, Subscription};
use signet_tests::harness::site::Site;

use super::authorities::rsa_site;
use super::clock::{HOUR, Server, Shifted};
use super::envoys::sidecar;
use super::reload::{nothing_refused, refused};

/// Puts these CRLs beside the CA's files, in one step.
pub(crate) fn plug_in(site: &Site, crls: &[&str]) {
    fs::write(site.path("new-crl.pem"), crls.concat()).unwrap();
    fs::rename(site.path("new-crl.pem"), site.path("cacerts/ca-crl.pem")).unwrap();
}

/// A site of its own, with another intermediate of the same root.
fn beside(site: &Site, name: &str) -> Site {
    let other = Site::default();
    for folder in ["root", "cacerts"] {
        fs::remove_dir_all(other.path(folder)).unwrap();
    }
    fs::create_dir(other.path("root")).unwrap();
    for file in fs::read_dir(site.path("root")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), other.path("root").join(file.file_name())).unwrap();
    }
    other.certs(&["intermediate", "--root", "root", "--name", name, "--out", "cacerts"]);
    other
}

/// The CRLs that a push has, if any.
fn crls_in(push: &Push) -> Option<Crls> {
    let Some(Type::ValidationContext(context)) = &push.secret.r#type else { panic!("roots: {push:?}") };
    context.crl.as_ref().map(|crl| Crls::from_pem(&sds::inline(Some(crl))).unwrap())
}

/// Waits until a request through this Envoy is answered so.
async fn answers(outbound: SocketAddr, code: u16, when: &str) {
    eventually(when, async || (http::get(outbound, "/").0 == code).then_some(())).await;
}

#[tokio::test]
async fn envoys_refuse_what_is_under_a_revoked_intermediate_until_the_crl_is_taken_back() {
    let west = Site::default();
    let east = beside(&west, "cluster2");
    let (ca, ca_east) = (west.ca(&[]).await, east.ca(&[]).await);
    let (agent, reviews) = sidecar(&west, &ca, "reviews", "1h", &[]).await;
    let ports = [("REVIEWS", reviews.listener("inbound").await.port())];
    let (_agent, caller) = sidecar(&west, &ca, "productpage", "1h", &ports).await;
    let (_agent, stranger) = sidecar(&east, &ca_east, "productpage", "1h", &ports).await;
    let (own, other) = (caller.listener("outbound").await, stranger.listener("outbound").await);
    let socket = sds::connect(&west.path("reviews/sds.sock")).await;
    let mut roots = Subscription::open(&socket, "watcher", "ROOTCA").await;
    let first = roots.next().await.unwrap();
    roots.ack(&first);
    assert_eq!(crls_in(&first), None);
    let file = agent.output.join("ca-crl.pem");
    assert!(!file.exists());
    answers(own, 200, "without CRLs").await;
    answers(other, 200, "without CRLs, under another intermediate").await;

    fs::copy(east.path("cacerts/ca-cert.pem"), west.path("east.pem")).unwrap();
    let of_east = east.crl("cacerts", &[]);
    let of_west = west.crl("cacerts", &[]);
    let (empty, revoking) = (west.crl("root", &[]), west.crl("root", &["east.pem"]));
    for (step, crls, code) in [
        ("CRLs that revoke nothing", [&empty[..], &of_west, &of_east], 200),
        ("a CA without a CRL", [&empty, &of_west, ""], 503),
        ("CRLs that revoke nothing again", [&of_east, &of_west, &empty], 200),
        ("a revoked intermediate", [&revoking, &of_west, &of_east], 503),
    ] {
        plug_in(&west, &crls);
        let push = roots.next().await.unwrap();
        roots.ack(&push);
        let expected = Crls::from_pem(crls.concat().as_bytes()).unwrap();
        assert_eq!(crls_in(&push), Some(expected.clone()), "{step}");
        assert_eq!(push.certificates(), first.certificates(), "{step}: the roots stay");
        answers(other, code, step).await;
        // That is no passing state, and the others are not touched.
        assert_eq!((http::get(own, "/").0, http::get(other, "/").0), (200, code), "{step}");
        eventually("the file", async || {
            (Crls::from_pem(&fs::read(&file).ok()?).unwrap() == expected).then_some(())
        })
        .await;
    }

    // An ended one is passed on as it is, and said.
    plug_in(&west, &[&west.ended_crl("root"), &of_west, &of_east]);
    let push = roots.next().await.unwrap();
    roots.ack(&push);
    answers(own, 503, "an ended CRL").await;
    let ended = get_json(&ca.admin, "/v1/status")["expiry"].as_array().unwrap().clone();
    let ended: Vec<_> = ended.iter().filter(|one| one["kind"] == "crl" && one["level"] == "ended").collect();
    assert_eq!(ended.len(), 1, "{ended:?}");
    assert_eq!(ended[0]["not_after"], "2024-02-01T00:00:00Z");

    fs::remove_file(west.path("cacerts/ca-crl.pem")).unwrap();
    assert_eq!(crls_in(&roots.next().await.unwrap()), None);
    answers(other, 200, "no CRLs any more").await;
    answers(own, 200, "no CRLs any more, not even an ended one").await;
    eventually("the file is gone", async || (!file.exists()).then_some(())).await;
}

/// How many CAs stand between a new leaf and the root.
async fn intermediates(site: &Site, ca: &Ca) -> usize {
    Caller::to(site, ca).await.ask(site.ask()).await.unwrap().chain.len() - 2
}

#[tokio::test]
async fn crls_wait_for_what_an_issuing_intermediate_signed_and_it_is_back_without_them() {
    let site = rsa_site("1");
    let ca = site.ca(&[]).await;
    assert_eq!(intermediates(&site, &ca).await, 2);
    plug_in(&site, &[&site.crl("root", &[]), &site.crl("cacerts", &[])]);
    let wish = refused(&ca, "CRLS_WAIT").await;
    assert_eq!(intermediates(&site, &ca).await, 1, "so that the wait has an end");
    // Neither the time nor the wish hangs on this run.
    ca.process.terminated().await;
    let ca = site.ca(&[]).await;
    assert_eq!(refused(&ca, "CRLS_WAIT").await["reasons"], wish["reasons"]);
    assert_eq!(intermediates(&site, &ca).await, 1);
    assert_eq!(ca.records(&["--profile", "issuing-intermediate"]).len(), 1);
    fs::remove_file(site.path("cacerts/ca-crl.pem")).unwrap();
    nothing_refused(&ca).await;
    eventually("an issuing intermediate", async || (intermediates(&site, &ca).await == 2).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crls_are_taken_when_what_the_issuing_intermediate_signed_has_ended() {
    let (site, clocks) = (rsa_site("1"), Arc::<Shifted>::default());
    let flags = ["--default-ttl=10m"];
    let server = Server::start(&site, &clocks, &flags).await;
    let caller = Caller::connect(server.listen, site.tls()).await.unwrap();
    let ask = Ask { lifetime: 600, ..site.ask() };
    assert_eq!(caller.ask(ask).await.unwrap().chain.len(), 4);
    plug_in(&site, &[&site.crl("root", &[]), &site.crl("cacerts", &[])]);
    eventually("the CRLs wait", async || (server.metric("signet_cacerts_refused") == 1.0).then_some(()))
        .await;
    server.stop().await;
    clocks.by(2 * HOUR);
    let server = Server::start(&site, &clocks, &flags).await;
    assert_eq!(server.metric("signet_cacerts_refused"), 0.0);
    // No caller of this time takes its certificate, but its operators do not mind.
    let status = tokio::task::block_in_place(|| get_json(&server.admin, "/v1/status"));
    assert_eq!(status["trust"]["sequence"], 2, "the CRLs are a new statement: {status}");
    let absent = status["issuer"]["issuing_intermediate"]["absent"].as_str().unwrap();
    assert!(absent.contains("with a CRL"), "{absent}");
    server.stop().await;
}
