//! `csr-client run`: puts the parts together and keeps them running until told to stop.
//!
//! One value, owned by [`Holder`], connects everything: the renewal loop and the trust watch replace it;
//! SDS, files, the agent's folder and monitoring follow it. Start reading in `identity`.

use crate::config::Config;
use crate::identity::{Holder, upkeep};
use crate::metrics::Metrics;
use crate::monitoring::{self, MonitoringError};
use crate::random;
use crate::renew::{self, Machine};
use crate::request::{Requester, adopt};
use crate::sink::files::{self, Written};
use crate::sink::sds::{self, SdsError, Socket, Source, Subscribers};
use crate::state::{self, Folder, StateError};
use crate::trust::watch::Watch;
use signet_certs::clock::rfc3339;
use signet_service::clock_watch::{Change, ClockWatch};
use signet_service::logging::with_causes;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long streams and connections may take to end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// How often the clocks are compared.
const CLOCK_LOOK: Duration = Duration::from_secs(1);

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its folder.
    #[error("the agent's folder cannot be used")]
    State(#[from] StateError),
    /// Its socket.
    #[error("secrets cannot be served")]
    Sds(#[from] SdsError),
    /// Its monitoring address.
    #[error("monitoring cannot be served")]
    Monitoring(#[from] MonitoringError),
    /// A part that should run for ever ended.
    #[error("a part of the agent ended: {0}")]
    Ended(String),
}

/// Runs until `stop`.
pub async fn run(config: &Config, stop: CancellationToken) -> Result<(), AgentError> {
    // First what may be refused, so that a wrong path leaves nothing behind.
    let socket = match &config.sds_socket {
        Some(path) => Some(Socket::bind(path).await?),
        None => None,
    };
    let listener = monitoring::bind(config.monitoring).await?;
    let folder = config.state.as_deref().map(Folder::open).transpose()?;
    let instance = folder.as_ref().map(Folder::instance_id).transpose()?;
    // What is damaged is passed over: the configured roots serve for a new first contact.
    let trust = folder.as_ref().and_then(|folder| good(folder.trust()));
    let earlier = folder.as_ref().map(|folder| good(folder.subscribers())).unwrap_or_default();

    let trust_domain = config.spiffe_id.trust_domain().clone();
    let holder = Arc::new(Holder::new(trust_domain.clone(), trust));
    let first = begin_with_files(config, &holder).unwrap_or_else(SystemTime::now);
    let requester = Requester::new(config, instance.as_deref());
    let requester = Arc::new(match config.renew_with_certificate {
        true => requester.showing(holder.subscribe()),
        false => requester,
    });
    let metrics = Arc::new(Metrics::default());
    let subscribers = Arc::new(Subscribers::remembering(earlier));
    // Servers end by themselves after `stop`; the loops are dropped.
    let (mut servers, mut loops) = (JoinSet::new(), JoinSet::new());

    if let Some(listener) = listener {
        let serve = monitoring::serve(listener, metrics.clone(), holder.clone(), stop.clone());
        servers.spawn(async move { serve.await.map_err(|error| error.to_string()) });
    }
    if let Some(socket) = socket {
        let include_roots_in_chain = config.include_roots_in_chain;
        let source =
            Source { served: holder.subscribe(), trust_domain: trust_domain.clone(), include_roots_in_chain };
        let serve = sds::serve(socket, source, subscribers.clone(), metrics.clone(), stop.clone());
        servers.spawn(async move { serve.await.map_err(|error| with_causes(&error)) });
    }
    let files = config.output_certs.clone().map(|folder| {
        let (writer, written) = watch::channel(Written::default());
        let include = config.include_roots_in_chain;
        let metrics = metrics.clone();
        loops.spawn(files::follow(folder, holder.subscribe(), trust_domain, include, writer, metrics));
        written
    });
    if let Some(folder) = folder {
        loops.spawn(state::follow_trust(folder.clone(), holder.subscribe(), metrics.clone()));
        loops.spawn(state::follow_subscribers(folder, subscribers.clone(), metrics.clone()));
    }
    let watch = Watch {
        requester: requester.clone(),
        holder: holder.clone(),
        subscribers,
        files,
        metrics: metrics.clone(),
    };
    loops.spawn(watch.keep());
    loops.spawn(follow_clock(metrics.clone()));
    let renewal = config.renewal;
    loops.spawn(async move { upkeep::keep(requester, &holder, renewal, first, &Machine, &metrics).await });

    let result = tokio::select! {
        // The servers end by the same token: who is told to stop has not failed.
        biased;
        () = stop.cancelled() => Ok(()),
        Some(ended) = servers.join_next() => Err(AgentError::Ended(format!("{ended:?}"))),
        Some(ended) = loops.join_next() => Err(AgentError::Ended(format!("{ended:?}"))),
    };
    stop.cancel();
    let last_words = async { while servers.join_next().await.is_some() {} };
    if tokio::time::timeout(LAST_WORDS, last_words).await.is_err() {
        tracing::debug!("connections are cut");
    }
    result
}

/// Takes over the certificate of an earlier run from its files, if it is good under the roots of that run; says
/// when it is to be renewed.
fn begin_with_files(config: &Config, holder: &Holder) -> Option<SystemTime> {
    let trust = holder.served().trust?;
    let bundle = trust.bundles.get(config.spiffe_id.trust_domain())?;
    let (now, folder) = (SystemTime::now(), config.output_certs.as_deref()?);
    let kept = files::read(folder).transpose()?.map_err(|error| with_causes(&error));
    let adopted = kept.and_then(|(chain, key)| {
        adopt(chain, &key, &config.spiffe_id, bundle, now).map_err(|error| with_causes(&error))
    });
    let svid = match adopted {
        Ok(svid) => svid,
        Err(error) => {
            tracing::warn!(error, folder = %folder.display(), "the certificate of an earlier run is not used");
            return None;
        }
    };
    let lifetime = svid.lifetime();
    let not_after = rfc3339(lifetime.not_after);
    tracing::info!(serial = %svid.serial(), not_after, "the certificate of an earlier run is served");
    holder.begin_with(svid);
    // A shorter lifetime is wished for by now.
    let whole = lifetime.not_after.duration_since(now).unwrap_or_default();
    if whole > config.ttl {
        return Some(now);
    }
    Some(renew::due(lifetime, config.renewal, random::unit() * 2.0 - 1.0))
}

/// Says when the wall clock is stepped. There is nobody to ask whether it is right now, so it is believed.
async fn follow_clock(metrics: Arc<Metrics>) {
    let watch = ClockWatch::of_machine();
    loop {
        tokio::time::sleep(CLOCK_LOOK).await;
        for change in watch.tick() {
            match change {
                Change::Stepped(stepped) => {
                    metrics.clock_stepped();
                    tracing::warn!(by = %stepped.by, "the wall clock was stepped");
                    watch.accept();
                }
                Change::Suspended(time) => tracing::info!(?time, "the machine slept"),
                Change::Returned => {}
            }
        }
    }
}

fn good<T: Default>(stored: Result<T, StateError>) -> T {
    stored.unwrap_or_else(|error| {
        tracing::warn!(error = %with_causes(&error), "a file of the agent's folder is passed over");
        T::default()
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::testing::{Envoy, FakeCa, statement};
    use signet_certs::key::PrivateKey;
    use signet_proto::signet::trust::v1::{Acknowledgement, Holding, WatchRequest};
    use std::path::Path;
    use tokio::task::JoinHandle;
    use tonic::Status;

    struct Running {
        stop: CancellationToken,
        agent: JoinHandle<Result<(), AgentError>>,
    }

    impl Running {
        fn start(config: Config) -> Self {
            let stop = CancellationToken::new();
            let token = stop.clone();
            Self { stop, agent: tokio::spawn(async move { run(&config, token).await }) }
        }

        async fn stop(self) {
            self.stop.cancel();
            self.agent.await.unwrap().unwrap();
        }
    }

    /// Waits for a file that appears by a rename, with what it holds.
    async fn file(path: &Path) -> String {
        loop {
            if let Ok(content) = std::fs::read_to_string(path) {
                return content;
            }
            tokio::task::yield_now().await;
        }
    }

    async fn until(ca: &mut FakeCa, what: impl Fn(&Acknowledgement) -> bool) -> Acknowledgement {
        loop {
            let stated = ca.stated.recv().await.unwrap();
            if let WatchRequest { acknowledgement: Some(stated) } = stated
                && what(&stated)
            {
                return stated;
            }
        }
    }

    fn holdings(stated: &Acknowledgement) -> Vec<Holding> {
        stated.roots.iter().map(|root| root.holding()).collect()
    }

    #[tokio::test]
    async fn one_run_from_the_first_certificate_to_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let mut ca = FakeCa::start().await;
        ca.trust.send_replace(Some(statement(&[&ca.pki.root], 1, 1)));
        let config = ca.config(folder.path());
        let (socket, certs) = (folder.path().join("sds"), folder.path().join("certs"));
        let running = Running::start(config);

        let chain = file(&certs.join("cert-chain.pem")).await;
        let key = std::fs::read_to_string(certs.join("key.pem")).unwrap();
        let mut envoy = Envoy::open(&socket, "node", &["default", "ROOTCA"]).await;
        let sent = envoy.next().await;
        assert_eq!(sent.certificate(), (chain, key));

        // Sent and not accepted: not held. Accepted: held.
        let connected = |stated: &Acknowledgement| stated.subscribers.is_some_and(|all| all.connected == 1);
        until(&mut ca, |stated| holdings(stated) == [Holding::NotHeld] && connected(stated)).await;
        envoy.accept(&["default", "ROOTCA"], &sent.nonce).await;
        let held = |stated: &Acknowledgement| holdings(stated) == [Holding::Held] && connected(stated);
        let stated = until(&mut ca, held).await;
        assert_eq!(stated.serving_serial, sent.serial().as_bytes());
        let subscribers = stated.subscribers.unwrap();
        assert_eq!((subscribers.connected, subscribers.acknowledged), (1, 1));
        assert!(subscribers.files_written);

        // New roots come over the watch, without a new certificate; a refusal is passed on.
        let other = crate::testing::Authority::root("Other");
        ca.trust.send_replace(Some(statement(&[&ca.pki.root, &other], 1, 2)));
        let pushed = envoy.next().await;
        assert_eq!((pushed.names(), pushed.roots().len()), (vec!["ROOTCA"], 2));
        envoy.reject(&["default", "ROOTCA"], &pushed.nonce, "too many").await;
        let stated = until(&mut ca, |stated| !stated.errors.is_empty()).await;
        assert_eq!((stated.sequence, stated.errors.as_slice()), (2, &["ROOTCA: too many".to_owned()][..]));
        assert_eq!(stated.subscribers.unwrap().rejected, 1);

        // The process lives on without a stream: nothing can be told.
        drop(envoy);
        until(&mut ca, |stated| holdings(stated).iter().all(|one| *one == Holding::Unknown)).await;
        running.stop().await;
        assert!(!socket.exists());
    }

    #[tokio::test]
    async fn a_restart_remembers_roots_instance_and_subscribers() {
        let folder = tempfile::tempdir().unwrap();
        let mut ca = FakeCa::start().await;
        ca.trust.send_replace(Some(statement(&[&ca.pki.root], 1, 1)));
        let config = ca.config(folder.path());
        let socket = folder.path().join("sds");
        let first = Running::start(config.clone());
        let instance = |seen: crate::testing::Seen| seen.headers.get("x-signet-instance").unwrap().clone();
        let before = instance(ca.seen.recv().await.unwrap());
        file(&folder.path().join("certs").join("cert-chain.pem")).await;
        let mut envoy = Envoy::open(&socket, "node", &["ROOTCA"]).await;
        envoy.next().await;
        file(&folder.path().join("state").join("subscribers.json")).await;
        file(&folder.path().join("state").join("bundle.json")).await;
        first.stop().await;

        // The first contact's file is gone, no certificate is kept, and the CA refuses: roots are there all the same.
        std::fs::remove_dir_all(folder.path().join("certs")).unwrap();
        std::fs::remove_file(folder.path().join("ca-root.pem")).unwrap();
        ca.behave(|_| Err(Status::unavailable("later")));
        while ca.stated.try_recv().is_ok() {}
        let second = Running::start(config);
        assert_eq!(instance(ca.seen.recv().await.unwrap()), before);
        // The subscriber of the first run lives and has not come back.
        let stated = until(&mut ca, |_| true).await;
        assert_eq!(holdings(&stated), [Holding::NotHeld], "the files are not written in this run");
        assert_eq!(stated.subscribers.unwrap().unknown, 1);
        let mut envoy = Envoy::open(&socket, "node", &["default", "ROOTCA"]).await;
        assert_eq!(envoy.next().await.names(), ["ROOTCA"]);
        second.stop().await;
    }

    #[tokio::test]
    async fn a_restart_without_the_ca_serves_the_certificate_that_it_wrote() {
        let folder = tempfile::tempdir().unwrap();
        let mut ca = FakeCa::start().await;
        let config = ca.config(folder.path());
        let (socket, certs) = (folder.path().join("sds"), folder.path().join("certs"));
        let first = Running::start(config.clone());
        let chain = file(&certs.join("cert-chain.pem")).await;
        let key = file(&certs.join("key.pem")).await;
        file(&folder.path().join("state").join("bundle.json")).await;
        first.stop().await;
        ca.seen.recv().await.unwrap();

        ca.behave(|_| Err(Status::unavailable("away")));
        let second = Running::start(config.clone());
        let mut envoy = Envoy::open_when_there(&socket, "node", &["default", "ROOTCA"]).await;
        let sent = envoy.next().await;
        assert_eq!((sent.names(), sent.certificate()), (vec!["default", "ROOTCA"], (chain.clone(), key)));
        second.stop().await;
        assert!(ca.seen.try_recv().is_err(), "it is not due, and nobody was asked for another");
        assert_eq!(file(&certs.join("cert-chain.pem")).await, chain);

        // A shorter life is wished for: it is served, and another is asked for.
        let third = Running::start(Config { ttl: config.ttl / 2, ..config.clone() });
        let mut envoy = Envoy::open_when_there(&socket, "node", &["default"]).await;
        assert_eq!(envoy.next().await.certificate().0, chain);
        ca.seen.recv().await.unwrap();
        third.stop().await;

        // Files that do not fit together, as a cut between two renames leaves them, are not served.
        std::fs::write(certs.join("key.pem"), PrivateKey::generate_p256().unwrap().to_pkcs8_pem()).unwrap();
        let fourth = Running::start(config);
        ca.seen.recv().await.unwrap();
        ca.recover();
        let mut envoy = Envoy::open_when_there(&socket, "node", &["default"]).await;
        assert_ne!(envoy.next().await.certificate().0, chain);
        fourth.stop().await;
    }

    #[tokio::test]
    async fn a_restart_does_not_hold_for_a_subscriber_whose_process_cannot_be_seen() {
        let folder = tempfile::tempdir().unwrap();
        let mut ca = FakeCa::start().await;
        ca.trust.send_replace(Some(statement(&[&ca.pki.root], 1, 1)));
        let config = Config { output_certs: None, ..ca.config(folder.path()) };
        // An earlier run served an Envoy of another pid namespace.
        std::fs::create_dir(folder.path().join("state")).unwrap();
        let earlier = folder.path().join("state").join("subscribers.json");
        std::fs::write(&earlier, r#"[["node",null]]"#).unwrap();
        let running = Running::start(config);
        let stated = until(&mut ca, |_| true).await;
        assert_eq!(holdings(&stated), [Holding::Unknown]);
        assert_eq!(stated.subscribers.unwrap().unknown, 1);
        let mut envoy = Envoy::open(&folder.path().join("sds"), "node", &["ROOTCA"]).await;
        let sent = envoy.next().await;
        envoy.accept(&["ROOTCA"], &sent.nonce).await;
        let stated = until(&mut ca, |stated| holdings(stated) == [Holding::Held]).await;
        assert_eq!(stated.subscribers.unwrap().unknown, 0);
        running.stop().await;
    }

    #[tokio::test]
    async fn a_path_that_is_no_socket_leaves_no_folder_behind() {
        let folder = tempfile::tempdir().unwrap();
        let config = FakeCa::start().await.config(folder.path());
        std::fs::write(folder.path().join("sds"), "a file").unwrap();
        let result = run(&config, CancellationToken::new()).await;
        assert!(matches!(result, Err(AgentError::Sds(SdsError::NotASocket(_)))), "{result:?}");
        assert!(!folder.path().join("state").exists());
    }

    #[tokio::test]
    async fn a_stop_is_not_taken_for_a_part_that_ended() {
        let folder = tempfile::tempdir().unwrap();
        let ca = FakeCa::start().await;
        let config = ca.config(folder.path());
        let socket = folder.path().join("sds");
        // Which of both was seen first was left to chance.
        for _ in 0..20 {
            let stop = CancellationToken::new();
            let mut agent = std::pin::pin!(run(&config, stop.clone()));
            while !socket.exists() {
                tokio::select! {
                    ended = &mut agent => panic!("{ended:?}"),
                    () = tokio::task::yield_now() => {}
                }
            }
            stop.cancel();
            // The server ends before the agent looks at either.
            while socket.exists() {
                tokio::task::yield_now().await;
            }
            agent.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_ca_without_the_watch_is_enough() {
        let folder = tempfile::tempdir().unwrap();
        let ca = FakeCa::start().await;
        let running = Running::start(ca.config(folder.path()));
        let mut envoy = Envoy::open_when_there(&folder.path().join("sds"), "node", &["default"]).await;
        assert_eq!(envoy.next().await.names(), ["default"]);
        running.stop().await;
    }

    #[tokio::test]
    async fn damaged_state_is_passed_over_and_a_taken_socket_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let ca = FakeCa::start().await;
        let config = ca.config(folder.path());
        std::fs::create_dir(folder.path().join("state")).unwrap();
        std::fs::write(folder.path().join("state").join("bundle.json"), "damaged").unwrap();
        let running = Running::start(config.clone());
        file(&folder.path().join("certs").join("cert-chain.pem")).await;
        let second = run(&config, CancellationToken::new()).await;
        assert!(matches!(second, Err(AgentError::Sds(SdsError::Taken(_)))));
        running.stop().await;
    }
}
