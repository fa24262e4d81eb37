//! Metrics: Istio's names where Istio has them, ours (`signet_…`) beside. Labels are bounded: reasons are
//! our own codes, serials are of CA and serving certificates.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use signet_certs::chain::Certificate;
use signet_certs::clock::to_unix;
use signet_service::counter::BareCounter;

use crate::app::Running;
use crate::issue::IssueError;
use crate::reason::{Place, Reason};

/// Seconds; from a fifth of a millisecond to the deadline.
const LATENCY: [f64; 12] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct IstioError {
    error: &'static str,
}

/// A change of the CA files that was taken, among the reasons for which others were not.
const TAKEN: &str = "TAKEN";
/// Istio's words for what went wrong behind attestation.
const SIGN_ERRORS: [&str; 4] = ["CSR_ERROR", "TTL_ERROR", "CERT_GEN_ERROR", "UNKNOWN"];

/// What is counted as it happens.
#[derive(Debug)]
pub struct Metrics {
    csr_count: BareCounter,
    csr_parsing_errors: BareCounter,
    authentication_failures: BareCounter,
    issued: BareCounter,
    sign_errors: Family<IstioError, BareCounter>,
    refused: Family<By, Counter>,
    connections_refused: Family<By, Counter>,
    watches_refused: Family<By, Counter>,
    acknowledgements_refused: Family<By, Counter>,
    reloads: Family<By, Counter>,
    watches: Gauge,
    acknowledgements: Counter,
    latency: Histogram,
    last_leaf: AtomicI64,
}

impl Default for Metrics {
    fn default() -> Self {
        let reloads = reasons(Place::CaFiles);
        drop(reloads.get_or_create(&By { reason: TAKEN }));
        Self {
            csr_count: BareCounter::default(),
            csr_parsing_errors: BareCounter::default(),
            authentication_failures: BareCounter::default(),
            issued: BareCounter::default(),
            sign_errors: from_zero(SIGN_ERRORS.map(|error| IstioError { error })),
            refused: reasons(Place::Certificate),
            connections_refused: reasons(Place::Connection),
            watches_refused: reasons(Place::Watch),
            acknowledgements_refused: reasons(Place::Acknowledgement),
            reloads,
            watches: Gauge::default(),
            acknowledgements: Counter::default(),
            latency: Histogram::new(LATENCY),
            last_leaf: AtomicI64::new(0),
        }
    }
}

/// One series for each reason that there can be, at zero: a rate over a series that begins with its first event
/// does not see that event.
fn reasons(place: Place) -> Family<By, Counter> {
    from_zero(Reason::at(place).map(|reason| By { reason: reason.code() }))
}

fn from_zero<L, M>(labels: impl IntoIterator<Item = L>) -> Family<L, M>
where
    L: Clone + std::hash::Hash + Eq,
    M: Default,
{
    let family = Family::default();
    for label in labels {
        drop(family.get_or_create(&label));
    }
    family
}

/// An open trust watch, counted until it is dropped.
pub struct OpenWatch(Gauge);

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    /// A request for a certificate came.
    pub fn csr_received(&self) {
        self.csr_count.inc();
    }

    /// It was answered with a certificate that ends then.
    pub fn issued(&self, after: Duration, not_after: SystemTime) {
        self.issued.inc();
        self.latency.observe(after.as_secs_f64());
        self.last_leaf.store(to_unix(not_after), Ordering::Relaxed);
    }

    /// It was refused.
    pub fn refused(&self, error: &IssueError, reason: Reason) {
        self.refused.get_or_create(&By { reason: reason.code() }).inc();
        let istio = match error {
            IssueError::Attestation(_) | IssueError::Blocked(_) => return self.authentication_failures.inc(),
            IssueError::Csr(_) | IssueError::Unreadable(_) => {
                self.csr_parsing_errors.inc();
                "CSR_ERROR"
            }
            IssueError::Denied(crate::policy::Denied::Impersonation { .. }) => {
                return self.authentication_failures.inc();
            }
            IssueError::Denied(_) => "TTL_ERROR",
            IssueError::Signing(_) | IssueError::Pool(_) => "CERT_GEN_ERROR",
            IssueError::Clock(_) | IssueError::Overload(_) | IssueError::Record(_) | IssueError::Deadline => {
                "UNKNOWN"
            }
        };
        self.sign_errors.get_or_create(&IstioError { error: istio }).inc();
    }

    /// A connection was refused, or its handshake failed.
    pub fn connection_refused(&self, reason: Reason) {
        self.connections_refused.get_or_create(&By { reason: reason.code() }).inc();
    }

    /// A trust watch was refused.
    pub fn watch_refused(&self, reason: Reason) {
        self.watches_refused.get_or_create(&By { reason: reason.code() }).inc();
    }

    /// An acknowledgement was not kept.
    pub fn acknowledgement_refused(&self, reason: Reason) {
        self.acknowledgements_refused.get_or_create(&By { reason: reason.code() }).inc();
    }

    /// A change of the CA files was taken.
    pub fn reloaded(&self) {
        self.reloads.get_or_create(&By { reason: TAKEN }).inc();
    }

    /// A change of the CA files was refused: a reason of ours or a code of `certs lint`.
    pub fn reload_refused(&self, code: &'static str) {
        self.reloads.get_or_create(&By { reason: code }).inc();
    }

    /// A trust watch begins.
    pub fn watch_open(&self) -> OpenWatch {
        self.watches.inc();
        OpenWatch(self.watches.clone())
    }

    /// An acknowledgement was kept.
    pub fn acknowledged(&self) {
        self.acknowledgements.inc();
    }

    /// Certificates issued since the start.
    pub fn issued_count(&self) -> u64 {
        self.issued.value()
    }

    /// Trust watches open now.
    pub fn watches_now(&self) -> i64 {
        self.watches.get()
    }

    /// NotAfter of the leaf issued last, in seconds since 1970; 0 before the first.
    pub fn last_leaf_not_after(&self) -> i64 {
        self.last_leaf.load(Ordering::Relaxed)
    }

    fn register(&self, registry: &mut Registry) {
        let r = registry;
        r.register("citadel_server_csr_count", "Requests for certificates", self.csr_count.clone());
        r.register("citadel_server_csr_parsing_err_count", "CSRs refused", self.csr_parsing_errors.clone());
        let failures = self.authentication_failures.clone();
        r.register("citadel_server_authentication_failure_count", "Callers refused", failures);
        let issued = self.issued.clone();
        r.register("citadel_server_success_cert_issuance_count", "Certificates issued", issued);
        let errors = self.sign_errors.clone();
        r.register("citadel_server_csr_sign_err_count", "Requests refused after attestation", errors);
        r.register("signet_refusals", "Requests refused, by reason", self.refused.clone());
        let refused = self.connections_refused.clone();
        r.register("signet_connections_refused", "Connections refused, by reason", refused);
        let refused = self.watches_refused.clone();
        r.register("signet_trust_watches_refused", "Trust watches refused, by reason", refused);
        let refused = self.acknowledgements_refused.clone();
        r.register("signet_acknowledgements_refused", "Acknowledgements not kept, by reason", refused);
        let help = "Changes of the CA files that were taken (TAKEN), or refused, by reason";
        r.register("signet_cacerts_reloads", help, self.reloads.clone());
        r.register("signet_trust_watches", "Trust watches open", self.watches.clone());
        r.register("signet_acknowledgements", "Acknowledgements kept", self.acknowledgements.clone());
        r.register("signet_issuance_seconds", "Time from request to answer", self.latency.clone());
    }
}

/// Everything as OpenMetrics text.
pub fn render(running: &Arc<Running>) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::default();
    running.metrics.register(&mut registry);
    registry.register_collector(Box::new(Snapshot(running.clone())));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

/// What is read when somebody asks.
struct Snapshot(Arc<Running>);

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Snapshot")
    }
}

impl Collector for Snapshot {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let running = &self.0;
        let now = running.issuance.clock.reckoned();
        let standing = running.standing();
        let forecast = running.forecast(now);
        let now = to_unix(now);
        let issuer = running.issuance.issuer.load();
        let cacerts = issuer.cacerts();
        let ends = |certificate: &Certificate| to_unix(certificate.facts().validity.not_after);
        let (signer, anchor) = (ends(&cacerts.ca.certificate), ends(&cacerts.anchor));

        let mut gauge = |name: &str, help: &str, value: i64| {
            let metric = ConstGauge::new(value);
            metric.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)
        };
        gauge("citadel_server_root_cert_expiry_timestamp", "When the root ends, seconds since 1970", anchor)?;
        gauge("citadel_server_root_cert_expiry_seconds", "Time until the root ends", anchor - now)?;
        gauge(
            "citadel_server_cert_chain_expiry_timestamp",
            "When the issuer ends, seconds since 1970",
            signer,
        )?;
        gauge("citadel_server_cert_chain_expiry_seconds", "Time until the issuer ends", signer - now)?;
        let log = running.issuance.log.stats();
        gauge("signet_log_records", "Records in the issuance log", count(log.records))?;
        gauge("signet_log_batches", "Batches synced since the start", count(log.batches))?;
        gauge("signet_log_queue", "Records that wait to be written", count(log.queue_depth))?;
        gauge("signet_log_indexed", "Records that the indexes have seen", count(log.indexed_through))?;
        gauge(
            "signet_log_checkpoint_size",
            "Records under the latest checkpoint",
            count(log.checkpoint_size),
        )?;
        gauge("signet_log_poisoned", "1 when appending has ended until a restart", log.poisoned.into())?;
        let trust = running.publisher.current();
        gauge("signet_trust_epoch", "Epoch of the trust object", count(trust.epoch))?;
        gauge("signet_trust_sequence", "Sequence of the trust object", count(trust.sequence))?;
        gauge("signet_in_flight", "Requests in flight", running.places.taken() as i64)?;
        gauge("signet_queue", "Requests that wait for their turn", running.issuance.turns.waiting() as i64)?;
        gauge(
            "signet_blocks",
            "Who is blocked: identities, pods, nodes, …",
            running.issuance.blocks.count() as i64,
        )?;
        gauge("signet_clock_steady", "1 while the wall clock is believed", standing.steady.into())?;
        let refused = running.wish.borrow().is_some();
        gauge("signet_cacerts_refused", "1 while the CA files ask for what is not taken", refused.into())?;
        gauge(
            "signet_ready",
            "1 when certificates can be signed and recorded",
            running.health.ready().into(),
        )?;

        let help = "How far the wall clock was stepped, forwards positive; 0 while it is believed";
        let step = ConstGauge::new(standing.step_seconds);
        step.encode(encoder.encode_descriptor(
            "signet_clock_step_seconds",
            help,
            None,
            MetricType::Gauge,
        )?)?;

        let help = "When certificates end, seconds since 1970";
        let name = "signet_certificate_expiry_timestamp_seconds";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        let mut expiry = |kind: &str, serial: &str, fingerprint: &str, at: i64| {
            let labels = [("kind", kind), ("serial", serial), ("fingerprint", fingerprint)];
            ConstGauge::new(at).encode(family.encode_family(&labels)?)
        };
        for one in &forecast {
            expiry(one.kind.name(), &one.serial, &one.fingerprint, to_unix(one.ends))?;
        }
        // Of the leaf issued last only the time: its serial would be a new series each time.
        let last = running.metrics.last_leaf_not_after();
        if last != 0 {
            expiry("leaf", "", "", last)?;
        }

        let help = "Share of their life that certificates have left, 0 to 1";
        let name = "signet_certificate_life_left_ratio";
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for one in &forecast {
            let labels = [
                ("kind", one.kind.name()),
                ("serial", one.serial.as_str()),
                ("fingerprint", one.fingerprint.as_str()),
            ];
            ConstGauge::new(one.share_left).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

fn count(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
