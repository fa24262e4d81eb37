//! Secret discovery over a real socket, with streams as Envoy opens them.
//!
//! That nothing is sent is shown by what comes next: a response too many would come before it.

#![allow(clippy::unwrap_used)]

use super::subscribers::Content;
use super::*;
use crate::identity::{Holder, Svid};
use crate::request::Answer;
use crate::testing::{self, Authority, Envoy, HOUR, Pki, ended, trust_domain, validity};
use signet_proto::envoy::config::core::v3::Node;
use signet_proto::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use std::os::unix::fs::MetadataExt;
use tokio_util::sync::DropGuard;
use tonic::Code;
use tonic::transport::Endpoint;

const BOTH: &[&str] = &["default", "ROOTCA"];

/// An agent's SDS side.
struct Agent {
    folder: tempfile::TempDir,
    pki: Pki,
    holder: Holder,
    subscribers: Arc<Subscribers>,
    metrics: Arc<Metrics>,
    stop: DropGuard,
}

impl Agent {
    async fn start() -> Self {
        Self::start_with(false).await
    }

    async fn start_with(include_roots_in_chain: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let holder = Holder::new(trust_domain(), None);
        let subscribers = Arc::new(Subscribers::default());
        let stop = CancellationToken::new();
        let socket = Socket::bind(&folder.path().join("sds")).await.unwrap();
        let source =
            Source { served: holder.subscribe(), trust_domain: trust_domain(), include_roots_in_chain };
        let metrics = Arc::new(Metrics::default());
        tokio::spawn(serve(socket, source, subscribers.clone(), metrics.clone(), stop.clone()));
        Self { folder, pki: Pki::new(), holder, subscribers, metrics, stop: stop.drop_guard() }
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("sds")
    }

    async fn open(&self, node: &str, names: &[&str]) -> Envoy {
        Envoy::open(&self.socket(), node, names).await
    }

    /// A new certificate under these roots.
    fn renew(&self, roots: &[&Authority]) {
        let trust = testing::trust(roots, None);
        self.holder.take_answer(Answer { svid: self.pki.svid(validity(HOUR)), trust });
    }

    /// Waits for a state of the subscribers.
    async fn until(&self, what: impl Fn(&[Subscriber]) -> bool) {
        let mut changes = self.subscribers.changes();
        while !what(&self.subscribers.snapshot()) {
            changes.changed().await.unwrap();
        }
    }
}

#[tokio::test]
async fn case_38_certificate_then_root_on_one_stream() {
    let agent = Agent::start().await;
    agent.renew(&[&agent.pki.root]);
    let mut envoy = agent.open("a", &["default"]).await;
    let first = envoy.next().await;
    assert_eq!(first.names(), ["default"]);
    let (chain, key) = first.certificate();
    assert_eq!(chain.matches("BEGIN CERTIFICATE").count(), 2, "leaf and intermediate, no root");
    assert!(key.starts_with("-----BEGIN PRIVATE KEY-----"));
    envoy.accept(BOTH, &first.nonce).await;
    let second = envoy.next().await;
    assert_eq!(second.names(), ["ROOTCA"], "only what was added");
    assert_eq!(second.roots(), std::slice::from_ref(&agent.pki.root.certificate));
    assert_ne!(first.nonce, second.nonce);
}

#[tokio::test]
async fn case_38_one_request_for_both_is_answered_as_asked() {
    let agent = Agent::start_with(true).await;
    agent.renew(&[&agent.pki.root]);
    let sent = agent.open("a", BOTH).await.next().await;
    assert_eq!(sent.names(), ["default", "ROOTCA"]);
    assert_eq!(sent.certificate().0.matches("BEGIN CERTIFICATE").count(), 3, "the option adds the root");
}

#[tokio::test]
async fn case_38_renewal_is_pushed_to_those_who_watch_the_certificate_only() {
    let agent = Agent::start().await;
    agent.renew(&[&agent.pki.root]);
    let mut certificate = agent.open("a", &["default"]).await;
    let mut roots = agent.open("a", &["ROOTCA"]).await;
    let old = certificate.next().await;
    let root = roots.next().await;
    agent.renew(&[&agent.pki.root]);
    let new = certificate.next().await;
    assert_ne!(new.serial(), old.serial());
    assert_eq!(Some(&new.serial()), agent.holder.served().svid.as_deref().map(|svid| svid.serial()));
    // Had the renewal been pushed here too, it would stand before this.
    roots.accept(BOTH, &root.nonce).await;
    assert_eq!(roots.next().await.names(), ["default"]);
}

#[tokio::test]
async fn case_40_changed_roots_are_pushed_before_the_certificate() {
    let agent = Agent::start().await;
    agent.renew(&[&agent.pki.root]);
    let mut both = agent.open("a", BOTH).await;
    let mut only = agent.open("a", &["ROOTCA"]).await;
    both.next().await;
    only.next().await;
    let other = Authority::root("Other");
    agent.renew(&[&agent.pki.root, &other]);
    let pushed = both.next().await;
    assert_eq!(pushed.names(), ["ROOTCA", "default"]);
    assert_eq!(pushed.roots().len(), 2);
    assert_eq!(only.next().await.names(), ["ROOTCA"]);
}

#[tokio::test]
async fn case_38_a_rejection_is_kept_and_not_answered() {
    let agent = Agent::start().await;
    agent.renew(&[&agent.pki.root]);
    let mut envoy = agent.open("a", &["default"]).await;
    let bad = envoy.next().await;
    envoy.reject(&["default"], &bad.nonce, "no such curve").await;
    let rejection = |all: &[Subscriber]| {
        let facts = all[0].streams.values().next().unwrap();
        facts.certificate.as_ref().unwrap().rejected.clone()
    };
    agent.until(|all| rejection(all).as_deref() == Some("no such curve")).await;
    agent.renew(&[&agent.pki.root]);
    let good = envoy.next().await;
    assert_ne!(good.serial(), bad.serial(), "the next response is the next certificate");
    envoy.accept(&["default"], &good.nonce).await;
    agent.until(|all| rejection(all).is_none()).await;
}

#[tokio::test]
async fn a_reader_that_was_stopped_finds_the_latest_state_only() {
    let agent = Agent::start().await;
    agent.renew(&[&agent.pki.root]);
    let mut envoy = agent.open("a", &["default"]).await;
    let first = envoy.next().await;
    envoy.accept(&["default"], &first.nonce).await;
    let settled = |all: &[Subscriber]| {
        all[0].streams.values().all(|facts| facts.certificate.as_ref().is_some_and(Delivery::is_settled))
    };
    agent.until(settled).await;
    agent.renew(&[&agent.pki.root]);
    let slept_at = envoy.next().await;
    let mut others = agent.open("b", &["default"]).await;
    for _ in 0..5 {
        agent.renew(&[&agent.pki.root]);
        // Somebody else has it: so it was served.
        let serial = agent.holder.served().svid.unwrap().serial().clone();
        while others.next().await.serial() != serial {}
    }
    envoy.accept(&["default"], &slept_at.nonce).await;
    let latest = envoy.next().await;
    assert_eq!(Some(&latest.serial()), agent.holder.served().svid.as_deref().map(Svid::serial));
    envoy.accept(&["default"], &latest.nonce).await;
    agent.until(|all| all.iter().any(|one| settled(std::slice::from_ref(one)))).await;
}

#[tokio::test]
async fn a_refusal_is_counted_once_and_its_secret_not_sent_again() {
    let agent = Agent::start().await;
    agent.renew(&[&agent.pki.root]);
    let mut envoy = agent.open("a", BOTH).await;
    let bad = envoy.next().await;
    for _ in 0..100 {
        envoy.reject(BOTH, &bad.nonce, "no such curve").await;
    }
    agent.renew(&[&agent.pki.root]);
    // The hundred refusals were read before it: one stream has one order.
    let next = envoy.next().await;
    assert_eq!(next.names(), ["default"], "the roots are the same, and were refused");
    let text = agent.metrics.text(&agent.holder.served(), std::time::SystemTime::now());
    for name in BOTH {
        let line = format!("signet_agent_sds_rejections{{resource_name=\"{name}\"}} 1");
        assert!(text.contains(&line), "{text}");
    }
}

#[tokio::test]
async fn case_38_an_unsubscribed_stream_is_silent() {
    let agent = Agent::start().await;
    agent.renew(&[&agent.pki.root]);
    let mut envoy = agent.open("a", &["default"]).await;
    let first = envoy.next().await;
    envoy.accept(&[], &first.nonce).await;
    agent.until(|all| all[0].streams.values().all(|facts| facts.certificate.is_none())).await;
    agent.renew(&[&agent.pki.root]);
    envoy.accept(&["ROOTCA"], "").await;
    assert_eq!(envoy.next().await.names(), ["ROOTCA"]);
}

#[tokio::test]
async fn case_38_a_reconnect_with_an_old_nonce_is_answered_in_full() {
    let agent = Agent::start().await;
    agent.renew(&[&agent.pki.root]);
    let first = agent.open("a", BOTH).await.next().await;
    let again = DiscoveryRequest {
        node: Some(Node { id: "a".into(), ..Default::default() }),
        resource_names: BOTH.iter().map(|name| (*name).to_owned()).collect(),
        response_nonce: first.nonce.clone(),
        version_info: "2026-11-22T05:00:00Z/1".into(),
        ..Default::default()
    };
    let mut envoy = Envoy::open_with(&agent.socket(), again).await.unwrap();
    let sent = envoy.next().await;
    assert_eq!((sent.names(), sent.serial()), (vec!["default", "ROOTCA"], first.serial()));
}

#[tokio::test]
async fn streams_before_the_first_certificate_wait_and_ended_ones_are_not_served() {
    let agent = Agent::start().await;
    let mut early = agent.open("a", &["default"]).await;
    agent.until(|all| all.len() == 1).await;
    let trust = || testing::trust(&[&agent.pki.root], None);
    agent.holder.take_answer(Answer { svid: agent.pki.svid(ended()), trust: trust() });
    let mut roots = agent.open("a", BOTH).await;
    assert_eq!(roots.next().await.names(), ["ROOTCA"], "the ended certificate is left out");
    agent.renew(&[&agent.pki.root]);
    let good = agent.holder.served().svid.unwrap();
    assert_eq!(early.next().await.serial(), *good.serial());
    assert_eq!(roots.next().await.serial(), *good.serial());
}

#[tokio::test]
async fn case_39_bad_streams_end_with_their_reason() {
    let agent = Agent::start().await;
    agent.renew(&[&agent.pki.root]);
    let mut nameless = Envoy::open(&agent.socket(), "", &["default"]).await;
    let status = nameless.answers.message().await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "missing node information"));
    let mut unknown = agent.open("a", &["other"]).await;
    assert_eq!(unknown.answers.message().await.unwrap_err().code(), Code::InvalidArgument);
    // Nobody else is disturbed, and the same node is served when it asks for something that exists.
    assert_eq!(agent.open("a", &["default"]).await.next().await.names(), ["default"]);

    let url = format!("unix://{}", agent.socket().display());
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let mut client = SecretDiscoveryServiceClient::new(channel);
    let fetched = client.fetch_secrets(DiscoveryRequest::default()).await.unwrap_err();
    let delta = client.delta_secrets(tokio_stream::empty()).await.unwrap_err();
    assert_eq!((fetched.code(), delta.code()), (Code::Unimplemented, Code::Unimplemented));
}

#[tokio::test]
async fn a_reader_that_never_acknowledges_still_gets_each_push() {
    let agent = Agent::start().await;
    let mut envoy = agent.open("a", &["default"]).await;
    for _ in 0..6 {
        agent.renew(&[&agent.pki.root]);
        let serial = agent.holder.served().svid.unwrap().serial().clone();
        assert_eq!(envoy.next().await.serial(), serial);
    }
}

#[tokio::test]
async fn streams_of_one_process_are_one_subscriber_and_it_is_remembered_while_it_lives() {
    let agent = Agent::start().await;
    agent.renew(&[&agent.pki.root]);
    let mut certificate = agent.open("a", &["default"]).await;
    let mut roots = agent.open("a", &["ROOTCA"]).await;
    let sent = certificate.next().await;
    certificate.accept(&["default"], &sent.nonce).await;
    let root = roots.next().await;
    roots.accept(&["ROOTCA"], &root.nonce).await;
    let settled = |one: &Subscriber| {
        one.streams.values().all(|facts| {
            facts.certificate.as_ref().is_none_or(Delivery::is_settled)
                && facts.roots.as_ref().is_none_or(Delivery::is_settled)
        })
    };
    agent.until(|all| all.len() == 1 && all[0].streams.len() == 2 && settled(&all[0])).await;
    drop((certificate, roots));
    agent.until(|all| all.len() == 1 && all[0].streams.is_empty()).await;
    assert_eq!(agent.subscribers.snapshot()[0].last_serial, Some(sent.serial()));
}

#[tokio::test]
async fn streams_that_never_ask_are_bounded_and_ended() {
    let agent = Agent::start().await;
    agent.renew(&[&agent.pki.root]);
    let mut good = agent.open("a", &["default"]).await;
    good.next().await;
    let url = format!("unix://{}", agent.socket().display());
    let endpoint = Endpoint::from_shared(url).unwrap();
    let (mut silent, mut refused) = (Vec::new(), 0);
    for _ in 0..5 {
        let channel = endpoint.connect().await.unwrap();
        for _ in 0..60 {
            let mut client = SecretDiscoveryServiceClient::new(channel.clone());
            match client.stream_secrets(tokio_stream::pending()).await {
                Ok(answers) => silent.push(answers.into_inner()),
                Err(status) => {
                    assert_eq!(status.code(), Code::ResourceExhausted);
                    refused += 1;
                }
            }
        }
    }
    assert_eq!((silent.len(), refused), (MOST_SILENT, 300 - MOST_SILENT));
    for mut answers in silent {
        assert_eq!(answers.message().await.unwrap_err().code(), Code::DeadlineExceeded);
    }
    // Their places are free, and who asks is not disturbed.
    assert_eq!(agent.open("b", &["default"]).await.next().await.names(), ["default"]);
    agent.renew(&[&agent.pki.root]);
    assert_eq!(good.next().await.names(), ["default"]);
}

#[tokio::test]
async fn a_connection_has_a_most_of_streams() {
    let agent = Agent::start().await;
    let url = format!("unix://{}", agent.socket().display());
    let channel = Endpoint::from_shared(url).unwrap().connect().await.unwrap();
    let mut client = SecretDiscoveryServiceClient::new(channel);
    let mut open = Vec::new();
    for _ in 0..MOST_OF_A_CONNECTION {
        open.push(client.stream_secrets(tokio_stream::pending()).await.unwrap());
    }
    let one_more = client.stream_secrets(tokio_stream::pending());
    assert!(tokio::time::timeout(std::time::Duration::from_millis(200), one_more).await.is_err());
}

#[tokio::test]
async fn there_is_a_most_of_subscribers() {
    let subscribers = Arc::new(Subscribers::default());
    let join = |node: String| subscribers.join(node, None, false);
    let all: Vec<_> = (0..256).map(|number| join(number.to_string()).unwrap()).collect();
    assert!(join("one more".into()).is_err());
    drop(all);
    // Without a process to look at they may all still live: a known one returns, and others find room too.
    drop(join("7".into()).unwrap());
    assert_eq!(subscribers.snapshot().len(), 256);
    let more = join("one more".into()).unwrap();
    assert_eq!(subscribers.snapshot().len(), 2, "that some went away is not forgotten");
    drop(more);
    let all: Vec<_> = (0..254).map(|number| join(number.to_string()).unwrap()).collect();
    let last = join("last".into()).unwrap();
    assert!(join("one more".into()).is_err());
    drop((all, last));
    let next = Subscribers::remembering(subscribers.to_remember());
    assert_eq!(next.snapshot().len(), 256, "nor by the next run");
}

#[test]
fn a_subscriber_whose_process_cannot_be_seen_is_remembered_by_the_next_run() {
    let first = Arc::new(Subscribers::default());
    drop(first.join("node".into(), None, false).unwrap());
    drop(first.join("observer".into(), None, true).unwrap());
    let kept = first.to_remember();
    assert_eq!(kept, [("node".to_owned(), None)]);
    let next = Arc::new(Subscribers::remembering(kept));
    assert_eq!(next.snapshot(), [Subscriber::default()], "it may live and has not come back");
    let returned = next.join("node".into(), None, false).unwrap();
    assert!(matches!(next.snapshot().as_slice(), [one] if one.streams.len() == 1));
    drop(returned);
    assert_eq!(next.snapshot(), [Subscriber::default()], "gone again");
}

#[test]
fn a_node_that_comes_back_as_a_process_is_doubted_until_it_accepts_roots() {
    let subscribers = Arc::new(Subscribers::remembering(vec![("node".into(), None), ("other".into(), None)]));
    let me = Process::of(std::process::id() as i32);
    let returned = subscribers.join("node".into(), me, false).unwrap();
    returned.watches(&[Resource::Roots]);
    let roots = [Content::Roots(RootDigests::default(), None)];
    returned.sent(&roots);
    assert_eq!(subscribers.snapshot().len(), 3);
    returned.accepted(&roots);
    assert_eq!(subscribers.to_remember(), [("node".to_owned(), me), ("other".to_owned(), None)]);
}

#[tokio::test]
async fn stopping_ends_streams_and_removes_the_socket() {
    let agent = Agent::start().await;
    let mut envoy = agent.open("a", &["default"]).await;
    agent.until(|all| all.len() == 1).await;
    drop(agent.stop);
    assert_eq!(envoy.answers.message().await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_stale_socket_is_taken_over_and_a_live_one_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("made").join("sds");
    let first = Socket::bind(&path).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o666, 0o750));
    assert!(matches!(Socket::bind(&path).await, Err(SdsError::Taken(_))));
    drop(first);
    assert!(!path.exists());
    // What a killed agent leaves: a file that nobody listens on.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Socket::bind(&path).await.unwrap());
    std::fs::write(&path, "a file").unwrap();
    assert!(matches!(Socket::bind(&path).await, Err(SdsError::NotASocket(_))));
    std::fs::remove_file(&path).unwrap();
    // Somebody removed ours, and another agent came: its socket is not ours to remove.
    let ours = Socket::bind(&path).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let theirs = Socket::bind(&path).await.unwrap();
    drop(ours);
    assert!(path.exists());
    drop(theirs);
    std::fs::write(&path, "a file").unwrap();
    let beneath = path.join("sds");
    assert!(matches!(Socket::bind(&beneath).await, Err(SdsError::Listen { .. })));
}
