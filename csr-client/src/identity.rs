//! The certificate that we have and the loop that keeps it fresh.
//!
//! [`Holder`] is the one owner of what is served: a certificate with its key, and trust. It replaces them
//! only by something that was verified; sinks follow with a `watch` receiver. [`keep`] asks, waits and asks
//! again for as long as the agent runs, whether anybody is subscribed or not. What an attempt does is in
//! `request`, when the next one is due in `renew`.

use crate::config::Renewal;
use crate::metrics::Metrics;
use crate::random;
use crate::renew::{self, Lifetime};
use crate::request::{Answer, RequestError, Requester};
use crate::trust::Trust;
use signet_certs::bundle::TrustBundle;
use signet_certs::chain::{self, Certificate, ChainError};
use signet_certs::serial::Serial;
use signet_certs::spiffe_id::TrustDomain;
use signet_service::logging::with_causes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Shortest time between two certificates, whatever ratio and lifetime say.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);

/// A verified X.509-SVID with its key.
pub struct Svid {
    leaf: Certificate,
    intermediates: Vec<Certificate>,
    key: Zeroizing<String>,
    received: SystemTime,
}

impl std::fmt::Debug for Svid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Svid").field("leaf", &self.leaf).finish_non_exhaustive()
    }
}

impl Svid {
    /// Puts together what `request` has verified; `key` is PKCS#8 PEM.
    pub(crate) fn new(
        leaf: Certificate,
        intermediates: Vec<Certificate>,
        key: Zeroizing<String>,
        received: SystemTime,
    ) -> Self {
        Self { leaf, intermediates, key, received }
    }

    /// The leaf.
    pub fn leaf(&self) -> &Certificate {
        &self.leaf
    }

    /// The leaf's serial number.
    pub fn serial(&self) -> &Serial {
        &self.leaf.facts().serial
    }

    /// Leaf and intermediates as PEM. It ends before the root, which a peer has or must not trust.
    pub fn chain_pem(&self) -> String {
        std::iter::once(&self.leaf).chain(&self.intermediates).map(Certificate::to_pem).collect()
    }

    /// The private key as PKCS#8 PEM.
    pub fn key_pem(&self) -> &Zeroizing<String> {
        &self.key
    }

    /// The times that renewal is counted by.
    pub fn lifetime(&self) -> Lifetime {
        let validity = self.leaf.facts().validity;
        Lifetime { received: self.received, not_before: validity.not_before, not_after: validity.not_after }
    }

    /// Whether it can be used at `now`.
    pub fn is_valid_at(&self, now: SystemTime) -> bool {
        self.leaf.facts().validity.at(now).is_ok()
    }

    /// What is left of it.
    fn left(&self, now: SystemTime) -> Duration {
        self.leaf.facts().validity.not_after.duration_since(now).unwrap_or_default()
    }
}

/// What is served; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Served {
    /// The last good certificate. It may have ended: ask [`Served::valid_svid`].
    pub svid: Option<Arc<Svid>>,
    /// The last good roots.
    pub trust: Option<Arc<Trust>>,
}

impl Served {
    /// The certificate, if it can be used at `now`.
    pub fn valid_svid(&self, now: SystemTime) -> Option<&Arc<Svid>> {
        self.svid.as_ref().filter(|svid| svid.is_valid_at(now))
    }
}

/// Why a peer would refuse what is served.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// Nothing so far.
    #[error("no certificate yet")]
    NoCertificate,
    /// Its dates, those above it, or roots that do not anchor it.
    #[error(transparent)]
    Chain(#[from] ChainError),
}

/// The owner of what is served.
#[derive(Debug)]
pub struct Holder {
    trust_domain: TrustDomain,
    served: watch::Sender<Served>,
    /// Whether the trust watch has told us the CA's present trust on a stream that still stands.
    watching: AtomicBool,
}

impl Holder {
    /// Starts with the trust of an earlier run, if there is any.
    pub fn new(trust_domain: TrustDomain, trust: Option<Trust>) -> Self {
        let served = Served { svid: None, trust: trust.map(Arc::new) };
        Self { trust_domain, served: watch::Sender::new(served), watching: AtomicBool::new(false) }
    }

    /// Follows what is served.
    pub fn subscribe(&self) -> watch::Receiver<Served> {
        self.served.subscribe()
    }

    /// What is served now.
    pub fn served(&self) -> Served {
        self.served.borrow().clone()
    }

    /// Our own trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Judges the certificate at `now` as a peer with the roots that are served beside it would.
    pub fn verify(&self, now: SystemTime) -> Result<(), Unusable> {
        let served = self.served();
        let svid = served.svid.ok_or(Unusable::NoCertificate)?;
        let bundle = served.trust.as_ref().and_then(|trust| trust.bundles.get(&self.trust_domain));
        let roots = bundle.map(TrustBundle::roots).unwrap_or_default();
        chain::verify_svid(&svid.leaf, &svid.intermediates, roots, now)?;
        Ok(())
    }

    /// Takes over an answer of the CA: certificate and roots in one step, so that no reader sees one
    /// without the other.
    pub fn take_answer(&self, answer: Answer) {
        let watching = self.watching.load(Ordering::Relaxed);
        self.served.send_modify(|served| {
            if let Some(trust) = Trust::after_answer(served.trust.as_deref(), watching, answer.trust) {
                served.trust = Some(Arc::new(trust));
            }
            served.svid = Some(Arc::new(answer.svid));
        });
    }

    /// Takes over what the trust watch said; from now on it is newer than what answers say.
    pub fn take_trust(&self, trust: Trust) {
        self.watching.store(true, Ordering::Relaxed);
        self.served.send_modify(|served| served.trust = Some(Arc::new(trust)));
    }

    /// The watch's stream has ended: answers are the newest word again.
    pub fn stopped_watching(&self) {
        self.watching.store(false, Ordering::Relaxed);
    }
}

/// Gets certificates for ever; ends only by being dropped.
pub async fn keep(requester: &Requester, holder: &Holder, renewal: Renewal, metrics: &Metrics) {
    let mut failures = 0;
    loop {
        let next = match attempt(requester, holder, metrics).await {
            Ok(lifetime) => {
                failures = 0;
                let due = renew::due(lifetime, renewal, random::unit() * 2.0 - 1.0);
                due.max(SystemTime::now() + SHORTEST_INTERVAL)
            }
            Err(error) => {
                failures += 1;
                let now = SystemTime::now();
                let left = holder.served().svid.map(|svid| svid.left(now)).unwrap_or_default();
                let wait = renew::retry_after(failures, random::unit(), error.hint(), left);
                tracing::warn!(
                    reason = error.reason(),
                    error = %with_causes(&error),
                    failures,
                    retry_in = ?wait,
                    certificate_left = ?left,
                    "no certificate from the CA"
                );
                now + wait
            }
        };
        renew::wait_until(next, SystemTime::now).await;
    }
}

async fn attempt(
    requester: &Requester,
    holder: &Holder,
    metrics: &Metrics,
) -> Result<Lifetime, RequestError> {
    let began = tokio::time::Instant::now();
    let result = requester.obtain(holder.served().trust.as_deref()).await;
    metrics.requested(began.elapsed(), result.as_ref().err().map(RequestError::reason));
    let answer = result?;
    let (lifetime, serial) = (answer.svid.lifetime(), answer.svid.serial().to_string());
    holder.take_answer(answer);
    tracing::info!(
        serial,
        not_after = signet_certs::clock::rfc3339(lifetime.not_after),
        latency = ?began.elapsed(),
        "new certificate"
    );
    Ok(lifetime)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Monitoring;
    use crate::monitoring;
    use crate::testing::{Authority, FakeCa, HOUR, Pki, ended, reviews, trust, trust_domain, validity};
    use signet_certs::csr::VerifiedCsr;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio_util::sync::{CancellationToken, DropGuard};
    use tonic::Status;

    /// The renewal loop with its monitoring.
    struct Loop {
        ca: FakeCa,
        holder: Arc<Holder>,
        metrics: Arc<Metrics>,
        monitoring: std::net::SocketAddr,
        _folder: tempfile::TempDir,
        _stop: DropGuard,
    }

    impl Loop {
        async fn start(prepare: impl FnOnce(&FakeCa), ttl: Duration) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let ca = FakeCa::start().await;
            prepare(&ca);
            let mut config = ca.config(folder.path());
            config.ttl = ttl;
            let requester = Requester::new(&config, None);
            let holder = Arc::new(Holder::new(trust_domain(), None));
            let metrics = Arc::new(Metrics::default());
            let stop = CancellationToken::new();
            let any = Monitoring { address: "127.0.0.1:0".parse().unwrap(), asked: true };
            let listener = monitoring::bind(any).await.unwrap().unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(monitoring::serve(listener, metrics.clone(), holder.clone(), stop.clone()));
            let (kept, counted, stopped) = (holder.clone(), metrics.clone(), stop.clone());
            tokio::spawn(async move {
                let renewal = Renewal { ratio: 0.5, jitter: 0.0 };
                tokio::select! {
                    () = keep(&requester, &kept, renewal, &counted) => {}
                    () = stopped.cancelled() => {}
                }
            });
            Self { ca, holder, metrics, monitoring: address, _folder: folder, _stop: stop.drop_guard() }
        }

        async fn get(&self, path: &str) -> String {
            let mut stream = TcpStream::connect(self.monitoring).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        }

        async fn status(&self, path: &str) -> String {
            self.get(path).await.split(' ').nth(1).unwrap().to_owned()
        }

        /// The serial that follows `old`.
        async fn serial_after(&self, old: Option<&Serial>) -> Serial {
            let mut served = self.holder.subscribe();
            let new = |served: &Served| served.svid.as_ref().is_some_and(|svid| Some(svid.serial()) != old);
            let served = served.wait_for(new).await.unwrap();
            served.svid.as_ref().unwrap().serial().clone()
        }

        /// The value of a metric's line.
        fn metric(&self, line: &str) -> Option<i64> {
            let text = self.metrics.text(&self.holder.served(), SystemTime::now());
            let found = text.lines().find_map(|found| found.strip_prefix(line));
            found.map(|value| value.trim().parse().unwrap())
        }
    }

    #[tokio::test]
    async fn case_36_ready_only_with_a_certificate_and_renewed_before_its_end() {
        let refuse = |ca: &FakeCa| ca.behave(|_| Err(Status::unavailable("later")));
        let mut running = Loop::start(refuse, Duration::from_secs(4)).await;
        running.ca.seen.recv().await.unwrap();
        assert_eq!(running.status("/ready").await, "503");
        assert_eq!(running.status("/healthz/ready").await, "503");
        assert_eq!(running.status("/live").await, "200");
        running.ca.recover();
        let first = running.serial_after(None).await;
        assert_eq!(running.status("/ready").await, "200");
        let end = running.holder.served().svid.unwrap().lifetime().not_after;
        running.serial_after(Some(&first)).await;
        assert!(SystemTime::now() < end, "nobody is subscribed, and it is renewed all the same");
        assert!(running.get("/metrics").await.contains("istio_agent_num_outgoing_requests"));
    }

    #[tokio::test]
    async fn case_37_a_lie_changes_nothing_but_the_error_counter() {
        let mut running = Loop::start(|_| {}, Duration::from_secs(6)).await;
        let good = running.serial_after(None).await;
        running.ca.seen.recv().await.unwrap();
        let other = Pki::new();
        running.ca.behave(move |request| {
            let csr = VerifiedCsr::from_pem(&request.csr).unwrap();
            let mut chain =
                other.chain(&other.leaf(csr.spki(), &reviews(), validity(Duration::from_secs(60))));
            // Everything fits, but for the root.
            chain[2] = Pki::new().root.certificate.to_pem();
            Ok(chain)
        });
        // The second lie is asked for after the first one was judged.
        running.ca.seen.recv().await.unwrap();
        running.ca.seen.recv().await.unwrap();
        assert_eq!(*running.holder.served().svid.unwrap().serial(), good);
        assert_eq!(running.status("/ready").await, "200");
        let failed = "istio_agent_num_failed_outgoing_requests{request_type=\"csr\"}";
        let lies = "signet_agent_request_failures{reason=\"answer_chain\"}";
        assert!(running.metric(failed) >= Some(1) && running.metric(lies) >= Some(1));
        running.ca.recover();
        running.serial_after(Some(&good)).await;
    }

    #[tokio::test]
    async fn case_52_the_expiry_gauges_are_the_certificate_s_to_the_second() {
        let running = Loop::start(|_| {}, Duration::from_secs(3600)).await;
        running.serial_after(None).await;
        let end = signet_certs::clock::to_unix(running.holder.served().svid.unwrap().lifetime().not_after);
        let gauge = "signet_agent_cert_not_after_timestamp_seconds{resource_name=\"default\"}";
        assert_eq!(running.metric(gauge), Some(end));
        let now = signet_certs::clock::to_unix(SystemTime::now());
        let left = running.metric("istio_agent_cert_expiry_seconds{resource_name=\"default\"}").unwrap();
        assert!((end - now - 1..=end - now).contains(&left));
    }

    #[tokio::test]
    async fn an_ended_certificate_is_not_ready() {
        let running =
            Loop::start(|ca| ca.behave(|_| Err(Status::internal("no"))), Duration::from_secs(60)).await;
        let trust = trust(&[&running.ca.pki.root], None);
        let svid = running.ca.pki.svid(ended());
        running.holder.take_answer(Answer { svid, trust });
        assert!(running.get("/ready").await.contains("the certificate ended at"));
        assert!(running.holder.served().valid_svid(SystemTime::now()).is_none());
    }

    #[tokio::test]
    async fn a_certificate_is_not_ready_when_its_root_is_taken_from_the_served_ones() {
        let running = Loop::start(|_| {}, Duration::from_secs(3600)).await;
        running.serial_after(None).await;
        let root = &running.ca.pki.root;
        let other = Authority::root("Other");
        running.holder.take_trust(trust(&[root, &other], Some((1, 2))));
        assert_eq!(running.status("/ready").await, "200");
        running.holder.take_trust(trust(&[&other], Some((1, 3))));
        assert_eq!(running.status("/ready").await, "503");
        assert!(running.get("/ready").await.contains("does not chain to a root"));
        running.holder.take_trust(trust(&[root], Some((1, 4))));
        assert_eq!(running.status("/ready").await, "200");
    }

    #[tokio::test]
    async fn a_certificate_is_not_ready_before_its_time_or_past_the_end_of_its_issuer() {
        let refuse = |ca: &FakeCa| ca.behave(|_| Err(Status::internal("no")));
        let running = Loop::start(refuse, Duration::from_secs(60)).await;
        let take = |pki: &Pki, validity| {
            running.holder.take_answer(Answer { svid: pki.svid(validity), trust: trust(&[&pki.root], None) });
        };
        let mut early = validity(2 * HOUR);
        early.not_before = early.not_after - HOUR;
        take(&running.ca.pki, early);
        assert_eq!(running.status("/ready").await, "503");
        assert!(running.get("/ready").await.contains("the certificate is not valid before"));
        take(&Pki::with_intermediate(ended()), validity(HOUR));
        assert_eq!(running.status("/ready").await, "503");
        assert!(running.get("/ready").await.contains("does not chain to a root"));
        take(&running.ca.pki, validity(HOUR));
        assert_eq!(running.status("/ready").await, "200");
    }
}
