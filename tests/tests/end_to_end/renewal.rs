//! Renewal by certificate: what a leaf of ours is good for without a token, and everything that it is not.

use std::time::{Duration, SystemTime};

use serde_json::Value;
use signet_ca_server::authority::loader;
use signet_ca_server::reason::Reason;
use signet_certs::ca::Ca as Signer;
use signet_certs::check::Bounds;
use signet_certs::clock::{from_unix, rfc3339};
use signet_certs::key::PrivateKey;
use signet_certs::pem;
use signet_certs::profile::Profile;
use signet_certs::serial::Serial;
use signet_certs::spiffe_id::SpiffeId;
use signet_certs::template::Names;
use signet_certs::validity::Validity;
use signet_proto::signet::trust::v1::WatchRequest;
use signet_proto::signet::trust::v1::trust_distribution_client::TrustDistributionClient;
use signet_tests::harness::ca::Ca;
use signet_tests::harness::caller::{Answer, Ask, Caller, csr_of, reason};
use signet_tests::harness::site::{IDENTITY, Site};
use signet_tests::harness::{PATIENCE, eventually, unix_now};
use signet_tests::token_issuer::Object;
use tonic::{Code, Status};
use tonic_types::StatusExt;

const ON: (&str, &str) = ("renewal-by-certificate", "on");

/// A leaf that was issued for a key, and that key.
struct Held {
    answer: Answer,
    key: PrivateKey,
}

impl Held {
    /// Issued for a token.
    async fn by_token(site: &Site, ca: &Ca, lifetime: i64) -> Held {
        let key = PrivateKey::generate_p256().unwrap();
        let ask = Ask { csr: csr_of(&key), lifetime, ..site.ask() };
        Held { answer: Caller::to(site, ca).await.ask(ask).await.unwrap(), key }
    }

    /// Leaf and intermediates, as TLS clients present them.
    fn chain(&self) -> String {
        self.answer.chain[..self.answer.chain.len() - 1].concat()
    }

    /// A connection that presents it.
    async fn connection(&self, site: &Site, ca: &Ca) -> Caller {
        Caller::with_certificate(site, ca, &self.chain(), &self.key.to_pkcs8_pem()).await
    }

    /// Renewed without a token.
    async fn renewed(&self, site: &Site, ca: &Ca) -> Result<Held, Status> {
        let (key, ask) = without_token(site);
        Ok(Held { answer: self.connection(site, ca).await.ask(ask).await?, key })
    }

    /// Why it is not renewed.
    async fn refused(&self, site: &Site, ca: &Ca) -> String {
        match self.renewed(site, ca).await {
            Ok(renewed) => panic!("{} was renewed as {}", self.answer.serial(), renewed.answer.serial()),
            Err(status) => opaque(&status),
        }
    }
}

fn without_token(site: &Site) -> (PrivateKey, Ask) {
    let key = PrivateKey::generate_p256().unwrap();
    let ask = Ask { csr: csr_of(&key), token: None, ..site.ask() };
    (key, ask)
}

/// The reason of a refusal that says nothing more.
fn opaque(status: &Status) -> String {
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "request authenticate failure"));
    let info = status.get_details_error_info().unwrap();
    assert!(info.metadata.is_empty(), "{info:?}");
    info.reason
}

fn record(ca: &Ca, held: &Held) -> Value {
    ca.records(&["--serial", &held.answer.serial()]).remove(0)
}

#[tokio::test]
async fn a_leaf_of_ours_gets_its_own_identity_again_and_the_log_says_from_where() {
    let site = Site::default();
    let ca = site.ca(&[ON]).await;
    let first = Held::by_token(&site, &ca, 3600).await;
    let second = first.renewed(&site, &ca).await.unwrap();
    let third = second.renewed(&site, &ca).await.unwrap();
    assert_eq!(third.answer.leaf().facts().uris, [IDENTITY]);
    let [of_first, of_second, of_third] = [&first, &second, &third].map(|held| record(&ca, held));
    for (record, predecessor) in [(&of_second, &first), (&of_third, &second)] {
        let evidence = &record["evidence"];
        assert_eq!(evidence["kind"], "certificate");
        assert_eq!(evidence["renewal"]["predecessor"], predecessor.answer.serial());
        assert_eq!(evidence["renewal"]["first"], first.answer.serial());
        assert_eq!(
            &evidence["renewal"]["token_time"].as_str().unwrap()[..19],
            &of_first["time"].as_str().unwrap()[..19]
        );
        for key in ["issuer", "token_id_hash", "pod_name", "pod_uid", "node_name", "node_uid"] {
            assert_eq!(evidence[key], of_first["evidence"][key], "{key}");
        }
        assert_eq!(
            (&record["identity"], &record["instance"]),
            (&of_first["identity"], &of_first["instance"])
        );
    }
    assert!(of_first["evidence"].get("renewal").is_none());

    // Nobody else's identity, and no longer a life than policy allows.
    let caller = third.connection(&site, &ca).await;
    let other =
        prost_types::value::Kind::StringValue("spiffe://cluster.local/ns/default/sa/other".to_owned());
    let (_, ask) = without_token(&site);
    let ask = Ask { metadata: vec![("ImpersonatedIdentity", other)], ..ask };
    assert_eq!(reason(&caller.ask(ask).await.unwrap_err()), "IMPERSONATION");
    let (_, ask) = without_token(&site);
    let status = caller.ask(Ask { lifetime: 91 * 86_400, ..ask }).await.unwrap_err();
    assert_eq!(reason(&status), "LIFETIME_TOO_LONG");
    // A token that comes along decides, for better or worse.
    let status = caller.ask(Ask { token: Some("garbage".to_owned()), ..site.ask() }).await.unwrap_err();
    assert_eq!(reason(&status), "TOKEN_MALFORMED");
    let other = caller.ask(site.ask_for(&site.token("other"))).await.unwrap();
    assert_eq!(other.leaf().facts().uris, ["spiffe://cluster.local/ns/default/sa/other"]);
    // And without either there is nothing.
    let (_, ask) = without_token(&site);
    assert_eq!(reason(&Caller::to(&site, &ca).await.ask(ask).await.unwrap_err()), "TOKEN_MISSING");
}

#[tokio::test]
async fn case_48_a_connection_that_outlives_its_certificate_renews_nothing_more() {
    let site = Site::default();
    let ca = site.ca(&[ON]).await;
    let held = Held::by_token(&site, &ca, 3).await;
    let caller = held.connection(&site, &ca).await;
    caller.ask(without_token(&site).1).await.unwrap();
    let end = held.answer.validity().1;
    eventually("the certificate's end", async || (unix_now() > end).then_some(())).await;
    assert_eq!(opaque(&caller.ask(without_token(&site).1).await.unwrap_err()), "CERTIFICATE_ENDED");
    assert_eq!(held.refused(&site, &ca).await, "CERTIFICATE_ENDED");
    let cause = ca.process.message("certificate refused").await.json["cause"].as_str().unwrap().to_owned();
    assert!(cause.contains(&format!("ended at {}", rfc3339(from_unix(end)))), "{cause}");
}

/// A leaf that `signer` signed without any log; it lives an hour from `from` on, and may take another's serial.
fn smuggled(signer: &Signer, chain: &str, from: SystemTime, serial: Option<Serial>) -> Held {
    let key = PrivateKey::generate_p256().unwrap();
    let names = Names::SpiffeId(SpiffeId::parse(IDENTITY).unwrap());
    let validity = Validity { not_before: from, not_after: from + Duration::from_secs(3600) };
    let mut template = signer.template(Profile::Workload, names, key.spki().to_vec(), validity).unwrap();
    template.serial = serial.unwrap_or(template.serial);
    let bounds = Bounds { now: from, maximum: Duration::from_secs(3600) };
    let leaf = pem::encode("CERTIFICATE", &signer.sign(&template, bounds).unwrap());
    let chain = vec![leaf, chain.to_owned(), String::new()];
    Held { answer: Answer { chain, headers: Default::default() }, key }
}

/// Sets a log's only segment aside.
fn take_segment(site: &Site) {
    let files = std::fs::read_dir(site.path("data/log")).unwrap().map(|file| file.unwrap().path());
    let segment = files.into_iter().find(|path| path.extension().is_some_and(|end| end == "seg")).unwrap();
    std::fs::rename(segment, site.path("aside")).unwrap();
}

/// A renewal that is refused for this reason, and the CA that refused it.
pub(crate) async fn refused_renewal(reason: Reason) -> (Site, Ca, Status) {
    let site = Site::default();
    let changes: &[_] = match reason {
        Reason::RenewalOff => &[],
        Reason::TokenTooLongAgo => &[ON, ("max-age-since-token", "1s")],
        _ => &[ON],
    };
    let mut ca = site.ca(changes).await;
    let now = signet_certs::clock::whole_seconds(SystemTime::now());
    let ours = |from| {
        let signer = loader::load(&site.path("cacerts"), now).unwrap().ca;
        smuggled(&signer, &site.read("cacerts/cert-chain.pem"), from, None)
    };
    let held = match reason {
        Reason::CertificateUnknown => ours(now),
        Reason::CertificateNotYetValid => ours(now + Duration::from_secs(600)),
        Reason::CertificateIssuer => {
            site.intermediate("other", "3650d");
            let other = site.ca(&[ON, ("cacerts", "other"), ("data", "elsewhere")]).await;
            Held::by_token(&site, &other, 3600).await
        }
        Reason::CertificateEnded => Held::by_token(&site, &ca, 1).await,
        _ => Held::by_token(&site, &ca, 3600).await,
    };
    match reason {
        Reason::Blocked => drop(ca.json(&["block", "add", "--identity", IDENTITY, "--reason", "stolen"])),
        Reason::CertificateTokenIssuer => {
            drop(ca);
            ca = site.ca(&[ON, ("token-issuer", "https://another.example")]).await;
        }
        Reason::CertificateLookup => take_segment(&site),
        _ => {}
    }
    let refused = async || held.renewed(&site, &ca).await.err();
    let status = eventually("the renewal is refused", refused).await;
    (site, ca, status)
}

#[tokio::test]
async fn what_our_log_does_not_have_is_not_ours_whoever_signed_it() {
    let site = Site::default();
    let ca = site.ca(&[ON]).await;
    let now = signet_certs::clock::whole_seconds(SystemTime::now());
    let ours = loader::load(&site.path("cacerts"), now).unwrap().ca;
    let chain = site.read("cacerts/cert-chain.pem");
    // The key of our own CA, used behind its back.
    assert_eq!(smuggled(&ours, &chain, now, None).refused(&site, &ca).await, "CERTIFICATE_UNKNOWN");
    let recorded = Held::by_token(&site, &ca, 3600).await.answer.leaf().facts().serial.clone();
    let double = smuggled(&ours, &chain, now, Some(recorded));
    assert_eq!(double.refused(&site, &ca).await, "CERTIFICATE_UNKNOWN", "one serial, other bytes");
    let early = smuggled(&ours, &chain, now + Duration::from_secs(600), None);
    assert_eq!(early.refused(&site, &ca).await, "CERTIFICATE_NOT_YET_VALID");

    // Another CA under the same root, which the whole mesh trusts.
    site.intermediate("other", "3650d");
    let elsewhere = [ON, ("cacerts", "other"), ("data", "elsewhere")];
    let other = site.ca(&elsewhere).await;
    let foreign = Held::by_token(&site, &other, 3600).await;
    foreign.renewed(&site, &other).await.unwrap();
    assert_eq!(foreign.refused(&site, &ca).await, "CERTIFICATE_ISSUER");
    // It becomes ours when that CA's key is active here; the leaf is still in another log.
    for file in ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"] {
        std::fs::copy(site.path(&format!("other/{file}")), site.path(&format!("cacerts/{file}"))).unwrap();
    }
    ca.process.message("CA files taken").await;
    assert_eq!(foreign.refused(&site, &ca).await, "CERTIFICATE_UNKNOWN");
}

#[tokio::test]
async fn an_old_authority_s_leaves_renew_and_become_the_new_one_s() {
    let site = Site::default();
    let ca = site.ca(&[ON]).await;
    let held = Held::by_token(&site, &ca, 3600).await;
    site.intermediate("next", "3650d");
    for file in ["ca-cert.pem", "ca-key.pem", "cert-chain.pem", "root-cert.pem"] {
        std::fs::copy(site.path(&format!("next/{file}")), site.path(&format!("cacerts/{file}"))).unwrap();
    }
    ca.process.message("CA files taken").await;
    let renewed = held.renewed(&site, &ca).await.unwrap();
    let keys = [&held, &renewed].map(|held| record(&ca, held)["issuer_key_id"].clone());
    assert_ne!(keys[0], keys[1]);
    // Until the old key is blocked: its leaves are believed no more, and the new one's are.
    let old = keys[0].as_str().unwrap();
    let added = ca.json(&["block", "add", "--issuer-key", old, "--reason", "the old key leaked"]);
    assert_eq!(added["left"]["certificates"], 1, "{added}");
    assert_eq!(held.refused(&site, &ca).await, "BLOCKED");
    renewed.renewed(&site, &ca).await.unwrap();
    Held::by_token(&site, &ca, 3600).await;
}

#[tokio::test]
async fn under_an_issuing_intermediate_leaves_renew_also_when_it_is_gone() {
    let site = Site::default();
    std::fs::remove_dir_all(site.path("cacerts")).unwrap();
    let name = ["intermediate", "--root", "root", "--name", "cluster1", "--key", "rsa2048"];
    site.certs(&[&name[..], &["--out", "cacerts", "--path-length", "1"]].concat());
    let ca = site.ca(&[ON]).await;
    let held = Held::by_token(&site, &ca, 3600).await;
    assert_eq!(held.answer.chain.len(), 4, "leaf, issuing intermediate, intermediate, root");
    held.renewed(&site, &ca).await.unwrap();
    drop(ca);
    let ca = site.ca(&[ON]).await;
    let renewed = held.renewed(&site, &ca).await.unwrap();
    let keys = [&held, &renewed].map(|held| record(&ca, held)["issuer_key_id"].clone());
    assert_ne!(keys[0], keys[1], "another one signs after a restart");
    // A block of the key above both concerns both.
    let id = ca.json(&["authority", "list"])[0]["id"].as_str().unwrap().to_owned();
    let added = ca.json(&["block", "add", "--issuer-key", &id, "--reason", "leaked"]);
    assert_eq!(added["left"]["certificates"], 3, "{added}");
    assert_eq!(held.refused(&site, &ca).await, "BLOCKED");
    assert_eq!(renewed.refused(&site, &ca).await, "BLOCKED");
}

#[tokio::test]
async fn a_chain_of_renewals_ends_some_time_after_its_token() {
    let site = Site::default();
    let ca = site.ca(&[ON, ("max-age-since-token", "3s")]).await;
    let first = Held::by_token(&site, &ca, 3600).await;
    let second = first.renewed(&site, &ca).await.unwrap();
    let token_time = record(&ca, &second)["evidence"]["renewal"]["token_time"].as_str().unwrap().to_owned();
    let is_past = |seconds| {
        let token_time = &token_time;
        async move || (rfc3339(SystemTime::now() - Duration::from_secs(seconds)) > *token_time).then_some(())
    };
    // A renewal of a renewal, in another second, goes back to the same token.
    eventually("another second", is_past(0)).await;
    let third = second.renewed(&site, &ca).await.unwrap();
    let fourth = third.renewed(&site, &ca).await.unwrap();
    assert_eq!(record(&ca, &fourth)["evidence"]["renewal"]["token_time"], token_time.as_str());
    eventually("the age", is_past(4)).await;
    // A renewal is no token: it does not begin the count anew.
    for held in [&first, &second, &third, &fourth] {
        assert_eq!(held.refused(&site, &ca).await, "TOKEN_TOO_LONG_AGO");
    }
    let cause = ca.process.message("certificate refused").await.json["cause"].as_str().unwrap().to_owned();
    assert!(cause.contains(&token_time) && cause.contains("at most 3 s"), "{cause}");
    let again = Held::by_token(&site, &ca, 3600).await;
    again.renewed(&site, &ca).await.unwrap();
}

#[tokio::test]
async fn an_issuer_that_vouches_no_more_takes_its_leaves_with_it() {
    let site = Site::default();
    let ca = site.ca(&[ON]).await;
    let held = Held::by_token(&site, &ca, 3600).await;
    drop(ca);
    let ca = site.ca(&[ON, ("token-issuer", "https://another.example")]).await;
    assert_eq!(held.refused(&site, &ca).await, "CERTIFICATE_TOKEN_ISSUER");
}

#[tokio::test]
async fn blocks_hold_for_certificates_as_for_tokens() {
    let site = Site::default();
    let ca = site.ca(&[ON]).await;
    let first = Held::by_token(&site, &ca, 3600).await;
    let second = first.renewed(&site, &ca).await.unwrap();
    let (pod, node) = (Object::named("sleep-0"), Object::named("node-1"));
    let serial = second.answer.serial();
    for (flag, value) in [
        ("--identity", IDENTITY),
        ("--pod", &pod.uid),
        ("--node", &node.name),
        ("--node", &node.uid),
        ("--serial", &serial),
    ] {
        let caller = second.connection(&site, &ca).await;
        let added = ca.json(&["block", "add", flag, value, "--reason", "stolen"]);
        // The whole chain is one holder's, before and behind the one that was named.
        for held in [&first, &second] {
            assert_eq!(held.refused(&site, &ca).await, "BLOCKED", "{flag}");
        }
        assert_eq!(opaque(&caller.ask(without_token(&site).1).await.unwrap_err()), "BLOCKED", "{flag}");
        if flag == "--serial" {
            assert_eq!(added["value"], first.answer.serial());
            // With a token its holder is somebody new.
            let token = Held::by_token(&site, &ca, 3600).await;
            token.renewed(&site, &ca).await.unwrap();
        }
        ca.json(&["block", "end", &added["id"].to_string(), "--reason", "found"]);
        first.renewed(&site, &ca).await.unwrap();
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_read_is_our_trouble_and_tokens_still_do() {
    let site = Site::default();
    let ca = site.ca(&[ON]).await;
    let held = Held::by_token(&site, &ca, 3600).await;
    held.renewed(&site, &ca).await.unwrap();
    let log = site.path("data/log");
    let segments = std::fs::read_dir(&log).unwrap().map(|file| file.unwrap().path());
    let segment = segments.into_iter().find(|path| path.extension().is_some_and(|end| end == "seg")).unwrap();
    let aside = site.path("aside");
    std::fs::rename(&segment, &aside).unwrap();
    let status = held.renewed(&site, &ca).await.err().unwrap();
    assert_eq!((status.code(), reason(&status).as_str()), (Code::Unavailable, "CERTIFICATE_LOOKUP"));
    assert!(status.get_details_retry_info().is_some());
    assert!(!status.message().contains("seg"), "{}", status.message());
    std::fs::rename(&aside, &segment).unwrap();
    held.renewed(&site, &ca).await.unwrap();
}

#[tokio::test]
async fn the_trust_watch_believes_a_certificate_as_long_as_issuing_does() {
    let site = Site::default();
    let ca = site.ca(&[ON, ("max-age-since-token", "3s")]).await;
    let held = Held::by_token(&site, &ca, 3600).await;
    let caller = held.connection(&site, &ca).await;
    let watch = async |caller: &Caller| {
        let (_open, requests) = tokio::sync::mpsc::unbounded_channel::<WatchRequest>();
        let requests = tokio_stream::wrappers::UnboundedReceiverStream::new(requests);
        let mut answers = TrustDistributionClient::new(caller.channel()).watch(requests).await?.into_inner();
        let first = answers.message().await?.unwrap().trust.unwrap();
        assert_eq!(first.bundles.len(), 1);
        // The evidence ends with its age, long before the leaf does.
        tokio::time::timeout(PATIENCE, answers.message()).await.unwrap()
    };
    let began = tokio::time::Instant::now();
    assert!(watch(&caller).await.unwrap().is_none(), "the stream ends in order");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    eventually("the end of the evidence", async || {
        let refused = watch(&caller).await.err()?;
        assert_eq!(opaque(&refused), "TOKEN_TOO_LONG_AGO");
        Some(())
    })
    .await;
    let fresh = Held::by_token(&site, &ca, 3600).await;
    ca.json(&["block", "add", "--identity", IDENTITY, "--reason", "stolen"]);
    let status = watch(&fresh.connection(&site, &ca).await).await.err().unwrap();
    assert_eq!(opaque(&status), "BLOCKED");
}

#[tokio::test]
async fn an_agent_whose_token_is_gone_renews_with_what_it_holds_if_both_sides_allow_it() {
    let site = Site::default();
    let ca = site.ca(&[ON]).await;
    let allowed = site.agent(ca.listen, "sleep", &[("ttl", "6s"), ("renew-with-certificate", "on")]).await;
    let cautious = site.agent(ca.listen, "other", &[("ttl", "6s")]).await;
    let (first, _) = (allowed.certificate().await, cautious.certificate().await);
    let lines = allowed.process.log().len();
    for name in ["sleep.token", "other.token"] {
        std::fs::remove_file(site.path(name)).unwrap();
    }
    let second = allowed.certificate_after(lines).await;
    let renewal = ca.records(&["--serial", &second]).remove(0)["evidence"]["renewal"].clone();
    assert_eq!(renewal["first"], first, "{renewal}");
    cautious.process.message("no certificate from the CA").await;
    // A token that is there and no good is not the end either; one that is good is preferred.
    let ended = site.draft().expiring(SystemTime::now() - Duration::from_secs(60));
    let ended = signet_tests::harness::site::token_issuer().sign(&ended).unwrap();
    signet_tests::token_issuer::write_token(&site.path("sleep.token"), &ended).unwrap();
    let lines = allowed.process.log().len();
    let third = allowed.certificate_after(lines).await;
    let evidence = ca.records(&["--serial", &third]).remove(0)["evidence"].clone();
    assert_eq!(evidence["renewal"]["first"], first, "{evidence}");
    site.token_file("sleep");
    let lines = allowed.process.log().len();
    let fourth = allowed.certificate_after(lines).await;
    assert_eq!(ca.records(&["--serial", &fourth]).remove(0)["evidence"]["kind"], "token");

    // Blocked, it keeps what it has until that ends, and gets nothing more.
    ca.json(&["block", "add", "--identity", IDENTITY, "--reason", "stolen"]);
    let lines = allowed.process.log().len();
    let wanted = |line: &signet_tests::harness::process::Line| line.message() == "no certificate from the CA";
    let line = allowed.process.line_from(lines, "a refusal", wanted).await;
    assert!(line.json["error"].as_str().unwrap().contains("BLOCKED"), "{line:?}");
}
