//! The certificate that we have.
//!
//! [`Holder`] is the one owner of what is served: a certificate with its key, and trust. It replaces them
//! only by something that was verified; sinks follow with a `watch` receiver. The loop that keeps it fresh is
//! in `upkeep`.

pub mod upkeep;

use crate::renew::Lifetime;
use crate::request::Answer;
use crate::trust::Trust;
use signet_certs::bundle::TrustBundle;
use signet_certs::chain::{self, Certificate, ChainError};
use signet_certs::crl::Crls;
use signet_certs::serial::Serial;
use signet_certs::spiffe_id::TrustDomain;
use signet_certs::validity::ValidityError;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use zeroize::Zeroizing;

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

    /// Whether it has ended at `now`. That it is not valid yet is no reason to withhold it: it was valid when it
    /// came, so that the clock was set back since, and peers may know better.
    fn has_ended(&self, now: SystemTime) -> bool {
        matches!(self.leaf.facts().validity.at(now), Err(ValidityError::Ended(_)))
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
    /// The certificate, if it has not ended at `now`.
    pub fn valid_svid(&self, now: SystemTime) -> Option<&Arc<Svid>> {
        self.svid.as_ref().filter(|svid| !svid.has_ended(now))
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
    watching: watch::Sender<bool>,
}

impl Holder {
    /// Starts with the trust of an earlier run, if there is any.
    pub fn new(trust_domain: TrustDomain, trust: Option<Trust>) -> Self {
        let served = Served { svid: None, trust: trust.map(Arc::new) };
        Self { trust_domain, served: watch::Sender::new(served), watching: watch::Sender::new(false) }
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

    /// Begins with a certificate of an earlier run, which was judged under the roots that are held.
    pub(crate) fn begin_with(&self, svid: Svid) {
        self.served.send_modify(|served| served.svid = Some(Arc::new(svid)));
    }

    /// Judges the certificate at `now` as a peer with the roots that are served beside it would.
    pub fn verify(&self, now: SystemTime) -> Result<(), Unusable> {
        let served = self.served();
        let svid = served.svid.ok_or(Unusable::NoCertificate)?;
        Ok(self.judge(&svid, served.trust.as_deref(), now)?)
    }

    /// Judges the certificate of an answer under the roots that would be served beside it.
    pub(crate) fn rehearse(&self, answer: &Answer, now: SystemTime) -> Result<(), ChainError> {
        let held = self.served().trust;
        let after = Trust::after_answer(held.as_deref(), *self.watching.borrow(), answer.trust.clone());
        self.judge(&answer.svid, after.as_ref().or(held.as_deref()), now)
    }

    fn judge(&self, svid: &Svid, trust: Option<&Trust>, now: SystemTime) -> Result<(), ChainError> {
        let bundle = trust.and_then(|trust| trust.bundles.get(&self.trust_domain));
        let roots = bundle.map(TrustBundle::roots).unwrap_or_default();
        chain::verify_svid(&svid.leaf, &svid.intermediates, roots, now).map(drop)
    }

    /// Takes over an answer of the CA: certificate and roots in one step, so that no reader sees one
    /// without the other.
    pub fn take_answer(&self, answer: Answer) {
        let watching = *self.watching.borrow();
        self.served.send_modify(|served| {
            if let Some(trust) = Trust::after_answer(served.trust.as_deref(), watching, answer.trust) {
                served.trust = Some(Arc::new(trust));
            }
            served.svid = Some(Arc::new(answer.svid));
        });
    }

    /// Takes over what the trust watch said; from now on it is newer than what answers say.
    pub fn take_trust(&self, trust: Trust) {
        self.watching.send_if_modified(|watching| !std::mem::replace(watching, true));
        self.served.send_if_modified(|served| {
            let changes = served.trust.as_deref() != Some(&trust);
            if changes {
                served.trust = Some(Arc::new(trust));
            }
            changes
        });
    }

    /// The CA has no trust watch, so nobody renews the CRLs: ended ones would have every peer refused.
    pub fn forget_crls(&self) {
        self.served.send_if_modified(|served| {
            let Some(trust) = served.trust.as_deref().filter(|trust| !trust.crls.is_empty()) else {
                return false;
            };
            served.trust = Some(Arc::new(Trust { crls: Crls::default(), ..trust.clone() }));
            true
        });
    }

    /// The watch's stream has ended: answers are the newest word again.
    pub fn stopped_watching(&self) {
        self.watching.send_replace(false);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{Monitoring, Renewal};
    use crate::metrics::Metrics;
    use crate::request::Requester;
    use crate::testing::{Authority, FakeCa, HOUR, Lie, Pki, ended, reviews, trust, trust_domain, validity};
    use crate::{monitoring, renew};
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
            let requester = Arc::new(Requester::new(&config, None));
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
                    () = upkeep::keep(requester, &kept, renewal, SystemTime::now(), &renew::Machine, &counted) => {}
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
    async fn a_lie_that_a_library_cannot_stand_does_not_end_the_agent() {
        let running = Loop::start(|ca| ca.lie(Lie::Details), Duration::from_secs(60)).await;
        let faults = "signet_agent_request_failures{reason=\"fault\"}";
        while running.metric(faults) < Some(1) {
            tokio::task::yield_now().await;
        }
        running.ca.recover();
        running.serial_after(None).await;
    }

    #[tokio::test]
    async fn a_certificate_that_the_held_roots_do_not_anchor_is_not_taken() {
        let running = Loop::start(|_| {}, Duration::from_secs(3600)).await;
        running.serial_after(None).await;
        let (root, other) = (&running.ca.pki.root, Pki::new());
        running.holder.take_trust(trust(&[root], Some((1, 2))));
        let answer = |roots: &[&Authority], version| Answer {
            svid: other.svid(validity(HOUR)),
            trust: trust(roots, version),
        };
        let now = SystemTime::now();
        let rehearse = |answer: &Answer| running.holder.rehearse(answer, now).is_ok();
        assert!(!rehearse(&answer(&[&other.root], Some((1, 2)))), "no newer than the watch's word");
        assert!(!rehearse(&answer(&[&other.root], None)));
        assert!(rehearse(&answer(&[root, &other.root], Some((1, 3)))), "newer, and so taken");
        running.holder.stopped_watching();
        assert!(rehearse(&answer(&[&other.root], None)), "the answers' word counts");
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
