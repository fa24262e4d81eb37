//! Against a CA that states what it should not.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{Authority, FakeCa, statement, trust, trust_domain};
use signet_certs::chain::Certificate;
use signet_proto::signet::trust::v1 as proto;
use std::time::SystemTime;

/// A watch that holds the root of its CA and a second one.
struct Watching {
    ca: FakeCa,
    second: Authority,
    holder: Arc<Holder>,
    metrics: Arc<Metrics>,
    watch: Watch,
    folder: tempfile::TempDir,
    _tasks: JoinSet<()>,
}

impl Watching {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = FakeCa::start().await;
        let second = Authority::root("Second");
        ca.trust.send_replace(Some(statement(&[&ca.pki.root, &second], 7, 1)));
        let requester = Arc::new(Requester::new(&ca.config(folder.path()), None));
        let held = trust(&[&ca.pki.root, &second], None);
        let holder = Arc::new(Holder::new(trust_domain(), Some(held)));
        let metrics = Arc::new(Metrics::default());
        let (watched, counted) = (holder.clone(), metrics.clone());
        let watch =
            Watch { requester, holder: watched, subscribers: Arc::default(), files: None, metrics: counted };
        let mut tasks = JoinSet::new();
        tasks.spawn(watch.clone().keep());
        let this = Self { ca, second, holder, metrics, watch, folder, _tasks: tasks };
        this.until(7, 1).await;
        this
    }

    /// Waits for the statement with this version.
    async fn until(&self, epoch: u64, sequence: u64) -> Vec<Certificate> {
        let wanted =
            |trust: &Trust| trust.version.is_some_and(|at| (at.epoch, at.sequence) == (epoch, sequence));
        let mut served = self.holder.subscribe();
        let served = served.wait_for(|served| served.trust.as_deref().is_some_and(wanted)).await.unwrap();
        served.trust.as_ref().unwrap().bundles.get(&trust_domain()).unwrap().roots().to_vec()
    }

    /// The next statement, with its bundle spoiled.
    fn changed(&self, change: fn(&mut proto::TrustBundle)) -> proto::Trust {
        let mut statement = statement(&[&self.ca.pki.root, &self.second], 7, 2);
        change(&mut statement.bundles[0]);
        statement
    }

    fn refused(&self, reason: &str) -> bool {
        let text = self.metrics.text(&self.holder.served(), SystemTime::now());
        text.contains(&format!("signet_agent_trust_refused{{reason=\"{reason}\"}}"))
    }
}

#[tokio::test]
async fn statements_that_would_cost_the_roots_are_dropped_with_their_reason() {
    type Lie = fn(&Watching) -> proto::Trust;
    let lies: [(Lie, &str); 7] = [
        (|_| proto::Trust { epoch: 7, sequence: 2, ..Default::default() }, "no_roots"),
        (|watching| watching.changed(|bundle| bundle.roots.clear()), "no_roots"),
        (|watching| watching.changed(|bundle| bundle.roots.push(vec![7; 1000])), "unreadable"),
        (|watching| watching.changed(|bundle| bundle.roots.truncate(1)), "digest"),
        (|watching| watching.changed(|bundle| bundle.roots.push(vec![7; MAX_TRUST])), "too_large"),
        (|watching| statement(&[&watching.ca.pki.root, &watching.ca.pki.intermediate], 7, 2), "not_a_root"),
        // A good certificate, and not one by which the CA could be believed.
        (|watching| statement(&[&watching.second], 7, 2), "roots"),
    ];
    for (lie, reason) in lies {
        let watching = Watching::start().await;
        let lie = lie(&watching);
        watching.ca.trust.send_replace(Some(lie));
        while !watching.refused(reason) {
            tokio::task::yield_now().await;
        }
        let held = watching.holder.served().trust.unwrap();
        assert_eq!(held.version.unwrap().sequence, 1, "{reason}");
        assert_eq!(held.bundles.get(&trust_domain()).unwrap().roots().len(), 2, "{reason}");
        // What it says next is taken: the CA's own root alone is enough to believe it.
        watching.ca.trust.send_replace(Some(statement(&[&watching.ca.pki.root], 7, 3)));
        assert_eq!(watching.until(7, 3).await, std::slice::from_ref(&watching.ca.pki.root.certificate));
    }
}

#[tokio::test]
async fn a_missing_token_is_said_before_the_ca_is_connected_to() {
    let mut watching = Watching::start().await;
    std::fs::remove_file(watching.folder.path().join("token")).unwrap();
    // Without a root of the CA's there is no connection, either.
    std::fs::remove_file(watching.folder.path().join("ca-root.pem")).unwrap();
    watching.holder.take_trust(trust(&[&watching.second], None));
    assert!(matches!(watching.watch.stream().await, Err(WatchError::Evidence(_))));
}

#[tokio::test]
async fn an_earlier_epoch_is_taken_since_the_ca_may_have_lost_its_state() {
    let watching = Watching::start().await;
    watching.ca.trust.send_replace(Some(statement(&[&watching.ca.pki.root], 3, 1)));
    assert_eq!(watching.until(3, 1).await.len(), 1);
}

#[tokio::test]
async fn a_ca_that_cannot_stop_talking_is_heard_once_a_second() {
    let watching = Watching::start().await;
    let mut served = watching.holder.subscribe();
    let begin = Instant::now();
    let talk = async {
        for sequence in 2.. {
            let both = statement(&[&watching.ca.pki.root, &watching.second], 7, sequence);
            watching.ca.trust.send_replace(Some(both));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let hear = async {
        for _ in 0..3 {
            served.changed().await.unwrap();
        }
    };
    tokio::select! {
        () = talk => {}
        () = hear => {}
    }
    // The first came just before, and so none of these at once.
    assert!(begin.elapsed() > SHORTEST_INTERVAL * 2, "{:?}", begin.elapsed());
}
