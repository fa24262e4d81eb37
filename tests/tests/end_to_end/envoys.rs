//! Real Envoys: mutual TLS on certificates from our agents, through renewals, and with a caller whose
//! certificate came by the wire contract alone. The sidecars' configurations are the demo's.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;
use signet_certs::key::{NewKey, PrivateKey};
use signet_tests::harness::agent::Agent;
use signet_tests::harness::ca::{Ca, done};
use signet_tests::harness::caller::{Ask, Caller, csr_of};
use signet_tests::harness::envoy::Envoy;
use signet_tests::harness::http::{self, get_json};
use signet_tests::harness::openssl::try_openssl;
use signet_tests::harness::process::Line;
use signet_tests::harness::sds::{self, Subscription};
use signet_tests::harness::site::Site;
use signet_tests::harness::{PATIENCE, eventually};
use tokio::time::{Instant, interval};

const STRANGER: &str = include_str!("stranger.yaml");

/// An agent and its Envoy, configured as in the demo, where `ports` are those of others.
pub(crate) async fn sidecar(
    site: &Site,
    ca: &Ca,
    name: &str,
    ttl: &str,
    ports: &[(&str, u16)],
) -> (Agent, Envoy) {
    let socket = format!("{name}/sds.sock");
    let changes = [("ttl", ttl), ("sds-socket", socket.as_str())];
    let agent = site.agent(ca.listen, &format!("bookinfo-{name}"), &changes).await;
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/demo/envoy");
    let mut configuration = std::fs::read_to_string(demo.join(format!("{name}.yaml"))).unwrap();
    for (port, value) in ports {
        configuration = configuration.replace(&format!("@{port}@"), &value.to_string());
    }
    let own = name.to_uppercase();
    let configuration =
        configuration.replace(&format!("@{own}@"), "0").replace(&format!("@{own}_ADMIN@"), "0");
    (agent, site.envoy(name, &configuration).await)
}

/// Renewals that an agent has made after its first certificate.
fn renewals(agent: &Agent) -> usize {
    let new = |line: &&Line| line.message() == "new certificate";
    agent.process.log().iter().filter(new).count().saturating_sub(1)
}

/// Waits for this text in reviews' access log, which Envoy writes a little later.
async fn logged(site: &Site, text: &str) {
    eventually(text, async || site.read("reviews/access.log").contains(text).then_some(())).await;
}

#[tokio::test]
async fn two_envoys_talk_mutual_tls_and_renewals_cost_no_request() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let (reviews_agent, reviews) = sidecar(&site, &ca, "reviews", "4s", &[]).await;
    let inbound = reviews.listener("inbound").await;
    let ports = [("REVIEWS", inbound.port())];
    let (productpage_agent, productpage) = sidecar(&site, &ca, "productpage", "4s", &ports).await;
    let outbound = productpage.listener("outbound").await;

    // `/` shakes hands for each request, `/kept` stays on connections that are older than the renewals.
    let mut pace = interval(Duration::from_millis(10));
    let end = Instant::now() + PATIENCE;
    let mut requests = 0;
    while renewals(&reviews_agent).min(renewals(&productpage_agent)) < 2 {
        for path in ["/", "/kept"] {
            let (code, body) = http::get(outbound, path);
            assert_eq!(code, 200, "request {requests} of {path}: {body}");
            requests += 1;
        }
        assert!(Instant::now() < end, "no renewals");
        pace.tick().await;
    }
    assert!(requests > 100, "{requests}");
    logged(&site, "spiffe://cluster.local/ns/default/sa/bookinfo-productpage GET / 200").await;
    let log = site.read("reviews/access.log");
    let serials: BTreeSet<_> = log.lines().filter_map(|line| line.split("serial=").nth(1)).collect();
    assert!(serials.len() >= 2, "renewed certificates were used: {serials:?}");

    let mut secret = std::process::Command::new(signet_tests::programs::program("csr-client"));
    let table =
        done(secret.args(["secret", "--envoy-admin", &productpage.admin.to_string()]).output().unwrap());
    for row in ["default", "ROOTCA"] {
        let line = table.lines().find(|line| line.starts_with(row)).unwrap();
        assert!(line.contains("ACTIVE") && line.contains("true"), "{table}");
    }

    // Who has no certificate is refused by TLS itself.
    let address = inbound.to_string();
    let nobody = ["s_client", "-connect", &address, "-tls1_2"];
    assert!(!try_openssl(site.folder(), &nobody).status.success());
}

/// The serial number of `default` as this Envoy has it.
fn serial_in(envoy: &Envoy) -> String {
    let mut secret = std::process::Command::new(signet_tests::programs::program("csr-client"));
    let table = secret.args(["secret", "--envoy-admin", &envoy.admin.to_string()]).output().unwrap();
    let table = done(table);
    let row = table.lines().find(|line| line.starts_with("default")).unwrap();
    let cells: Vec<_> = row.split("  ").map(str::trim).filter(|cell| !cell.is_empty()).collect();
    cells[4].to_owned()
}

/// How many certificates this Envoy has taken.
fn taken_by(envoy: &Envoy) -> u64 {
    let (_, stats) = http::get(envoy.admin, "/stats?filter=sds.default.update_success");
    stats.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

#[tokio::test]
async fn an_envoy_that_is_stopped_holds_nobody_up_and_finds_the_latest_certificate() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let (agent, envoy) = sidecar(&site, &ca, "reviews", "4s", &[]).await;
    let socket = sds::connect(&site.path("reviews/sds.sock")).await;
    let mut other = Subscription::open(&socket, "other", "default").await;
    let first = other.next().await.unwrap();
    other.ack(&first);
    let before = taken_by(&envoy);
    assert!(before >= 1, "{before}");
    envoy.process.signal(Signal::STOP);
    let mut renewed = Vec::new();
    for _ in 0..4 {
        let push = other.next().await.unwrap();
        other.ack(&push);
        renewed.push(push.serial());
    }
    // The CA knows that not everybody has the present certificate.
    eventually("a statement that somebody lags behind", async || {
        let facts = get_json(&ca.admin, "/v1/consumers");
        let fact = facts.as_array()?.iter().find(|fact| fact["subscribers"]["connected"] == 2)?;
        let serial = fact["serving_serial"].as_str()?;
        let lags = renewed.iter().skip(1).all(|renewed| renewed != serial);
        (lags && fact["subscribers"]["acknowledged"] != 2).then_some(())
    })
    .await;
    envoy.process.signal(Signal::CONT);
    let latest = || {
        let new = |line: &&Line| line.message() == "new certificate";
        agent.process.log().iter().rfind(new).unwrap().json["serial"].as_str().unwrap().to_owned()
    };
    eventually("the latest certificate in Envoy", async || (serial_in(&envoy) == latest()).then_some(()))
        .await;
    let taken = taken_by(&envoy) - before;
    let made = renewals(&agent) as u64;
    assert!(taken < made, "{taken} of {made} renewals: those in between were not sent");
}

/// A request to reviews through an Envoy whose certificate is for `account` and came from a stranger's call.
async fn stranger(site: &Site, ca: &Ca, account: &str, reviews: SocketAddr) -> (u16, String) {
    stranger_with(site, ca, account, PrivateKey::generate_p256().unwrap(), reviews).await
}

/// The same with this key in its certificate.
async fn stranger_with(
    site: &Site,
    ca: &Ca,
    account: &str,
    key: PrivateKey,
    reviews: SocketAddr,
) -> (u16, String) {
    let ask = Ask { csr: csr_of(&key), ..site.ask_for(&site.token(account)) };
    let answer = Caller::to(site, ca).await.ask(ask).await.unwrap();
    let folder = site.path(account);
    std::fs::create_dir(&folder).unwrap();
    let (roots, chain) = answer.chain.split_last().unwrap();
    let secret = |name: &str, what: &str| {
        let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
        format!("resources: [{{ \"@type\": {kind}, name: {name}, {what} }}]\n")
    };
    let file = |name: &str| format!("{{ filename: {account}/{name} }}");
    let pair = format!("certificate_chain: {}, private_key: {}", file("chain.pem"), file("key.pem"));
    let default = secret("default", &format!("tls_certificate: {{ {pair} }}"));
    let trusted = format!("validation_context: {{ trusted_ca: {} }}", file("roots.pem"));
    for (name, text) in [
        ("chain.pem", chain.concat()),
        ("key.pem", key.to_pkcs8_pem().to_string()),
        ("roots.pem", roots.clone()),
        ("default.yaml", default),
        ("ROOTCA.yaml", secret("ROOTCA", &trusted)),
    ] {
        std::fs::write(folder.join(name), text).unwrap();
    }
    let configuration = STRANGER.replace("@REVIEWS@", &reviews.port().to_string()).replace("@NAME@", account);
    let envoy = site.envoy(account, &configuration).await;
    http::get(envoy.listener("outbound").await, "/")
}

#[tokio::test]
async fn a_stranger_s_envoy_with_a_certificate_of_ours_gets_in_by_its_identity() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let (_agent, reviews) = sidecar(&site, &ca, "reviews", "1h", &[]).await;
    let inbound = reviews.listener("inbound").await;
    let (code, body) = stranger(&site, &ca, "bookinfo-productpage", inbound).await;
    assert_eq!(code, 200, "{body}");
    let (code, body) = stranger(&site, &ca, "sleep", inbound).await;
    assert_eq!((code, body.as_str()), (403, "RBAC: access denied"));
    logged(&site, "sa/bookinfo-productpage GET / 200").await;
    logged(&site, "sa/sleep GET / 403").await;
}

/// The matrix of issuers and leaves that OpenSSL and webpki judge stands in `certificates/matrix`; here are the
/// kinds that Envoy takes, and the one that it does not.
#[tokio::test]
async fn envoy_takes_leaves_of_every_kind_of_issuer() {
    for kind in ["rsa2048", "rsa4096", "p384", "ed25519"] {
        let site = Site::default();
        std::fs::remove_dir_all(site.path("cacerts")).unwrap();
        let intermediate = ["intermediate", "--root", "root", "--name", "cluster1", "--out", "cacerts"];
        site.certs(&[&intermediate[..], &["--key", kind]].concat());
        let ca = site.ca(&[]).await;
        let (_agent, reviews) = sidecar(&site, &ca, "reviews", "1h", &[]).await;
        let inbound = reviews.listener("inbound").await;
        let (code, body) = stranger(&site, &ca, "bookinfo-productpage", inbound).await;
        assert_eq!(code, 200, "{kind}: {body}");
    }
}

#[tokio::test]
async fn envoy_takes_peers_with_leaf_keys_of_every_kind_but_ed25519() {
    for (kind, code) in
        [(NewKey::Rsa2048, 200), (NewKey::Rsa4096, 200), (NewKey::P384, 200), (NewKey::Ed25519, 503)]
    {
        let site = Site::default();
        let ca = site.ca(&[]).await;
        let (_agent, reviews) = sidecar(&site, &ca, "reviews", "1h", &[]).await;
        let inbound = reviews.listener("inbound").await;
        let key = PrivateKey::generate(kind).unwrap();
        let answered = stranger_with(&site, &ca, "bookinfo-productpage", key, inbound).await;
        assert_eq!(answered.0, code, "{kind:?}: {}", answered.1);
    }
}
