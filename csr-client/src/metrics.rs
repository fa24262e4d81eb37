//! What the agent counts: Istio's names where its agent has them, ours beside with `signet_agent_`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::identity::Served;
use crate::reason::{Place, Reason};
use crate::sink::sds::Resource;
use signet_certs::clock::to_unix;
use signet_service::counter::BareCounter;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestType {
    request_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceName {
    resource_name: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct By {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Target {
    target: &'static str,
}

/// What the agent writes to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writes {
    /// `--output-certs`.
    Certificates,
    /// The roots in the agent's folder.
    Bundle,
    /// The subscribers in it.
    Subscribers,
}

impl Writes {
    fn target(self) -> Target {
        let target = match self {
            Self::Certificates => "output_certs",
            Self::Bundle => "bundle",
            Self::Subscribers => "subscribers",
        };
        Target { target }
    }
}

const CSR: RequestType = RequestType { request_type: "csr" };
const DEFAULT: ResourceName = ResourceName { resource_name: "default" };

/// All of the agent's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestType, BareCounter>,
    failed: Family<RequestType, BareCounter>,
    latency: Family<RequestType, BareCounter>,
    failures: Family<By, BareCounter>,
    left: Family<ResourceName, Gauge<i64, AtomicI64>>,
    not_after: Family<ResourceName, Gauge<i64, AtomicI64>>,
    share_left: Family<ResourceName, Gauge<f64, AtomicU64>>,
    watching: Gauge<i64, AtomicI64>,
    overdue: Gauge<i64, AtomicI64>,
    /// When the next certificate was or is due, in seconds since 1970.
    due: AtomicI64,
    trust_refused: Family<By, BareCounter>,
    sds_rejections: Family<ResourceName, BareCounter>,
    write_failures: Family<Target, BareCounter>,
    unwritten: Family<Target, Gauge<i64, AtomicI64>>,
    clock_steps: BareCounter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::default();
        let metrics = Self {
            requests: add(&mut registry, "istio_agent_num_outgoing_requests", "Requests sent to the CA"),
            failed: add(
                &mut registry,
                "istio_agent_num_failed_outgoing_requests",
                "Requests that gave no certificate",
            ),
            latency: add(
                &mut registry,
                "istio_agent_outgoing_latency",
                "Sum of the requests' latencies, in milliseconds",
            ),
            failures: add(
                &mut registry,
                "signet_agent_request_failures",
                "Requests that gave no certificate, by reason",
            ),
            left: add(
                &mut registry,
                "istio_agent_cert_expiry_seconds",
                "Time until the certificate ends, in seconds; negative after its end",
            ),
            not_after: add(
                &mut registry,
                "signet_agent_cert_not_after_timestamp_seconds",
                "When the certificate ends, in seconds since 1970",
            ),
            share_left: add(
                &mut registry,
                "signet_agent_cert_life_left_ratio",
                "Share of the certificate's life that is left, 0 to 1",
            ),
            watching: add(
                &mut registry,
                "signet_agent_trust_watch_connected",
                "1 while the CA's trust watch stands",
            ),
            overdue: add(
                &mut registry,
                "signet_agent_renewal_overdue_seconds",
                "For how long a new certificate has been due; 0 while it is not",
            ),
            due: AtomicI64::new(i64::MAX),
            trust_refused: add(
                &mut registry,
                "signet_agent_trust_refused",
                "Statements of the trust watch that were dropped, by reason",
            ),
            sds_rejections: add(
                &mut registry,
                "signet_agent_sds_rejections",
                "Secrets that a subscriber refused, by name",
            ),
            write_failures: add(
                &mut registry,
                "signet_agent_write_failures",
                "Writes to disk that failed, by target",
            ),
            unwritten: add(
                &mut registry,
                "signet_agent_write_failing",
                "1 while what is on disk is not what is held, because writing failed",
            ),
            clock_steps: add(
                &mut registry,
                "signet_agent_clock_steps",
                "How often the wall clock was stepped",
            ),
            registry,
        };
        // All exist from the start, so that a rate can be computed for the first failure too.
        metrics.requests.get_or_create(&CSR).add(0);
        metrics.failed.get_or_create(&CSR).add(0);
        for (family, place) in [(&metrics.failures, Place::Request), (&metrics.trust_refused, Place::Trust)] {
            for reason in Reason::at(place) {
                family.get_or_create(&By { reason: reason.code() }).add(0);
            }
        }
        for resource in [Resource::Roots, Resource::Certificate] {
            metrics.sds_rejections.get_or_create(&ResourceName { resource_name: resource.name() }).add(0);
        }
        for what in [Writes::Certificates, Writes::Bundle, Writes::Subscribers] {
            metrics.write_failures.get_or_create(&what.target()).add(0);
            metrics.unwritten.get_or_create(&what.target()).set(0);
        }
        metrics
    }
}

fn add<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// A request ended, with a reason if it gave no certificate.
    pub(crate) fn requested(&self, latency: Duration, failure: Option<Reason>) {
        self.requests.get_or_create(&CSR).add(1);
        self.latency.get_or_create(&CSR).add(u64::try_from(latency.as_millis()).unwrap_or(u64::MAX));
        if let Some(reason) = failure {
            self.failed.get_or_create(&CSR).add(1);
            self.failures.get_or_create(&By { reason: reason.code() }).add(1);
        }
    }

    /// Whether the trust watch stands.
    pub(crate) fn watching(&self, connected: bool) {
        self.watching.set(connected.into());
    }

    /// A new certificate is due at this moment.
    pub(crate) fn renewal_due(&self, due: SystemTime) {
        self.due.store(to_unix(due), Ordering::Relaxed);
    }

    /// A statement of the trust watch was dropped.
    pub(crate) fn trust_refused(&self, reason: Reason) {
        self.trust_refused.get_or_create(&By { reason: reason.code() }).add(1);
    }

    /// A subscriber refused a secret.
    pub(crate) fn rejected(&self, resource_name: &'static str) {
        self.sds_rejections.get_or_create(&ResourceName { resource_name }).add(1);
    }

    /// A write succeeded or failed.
    pub(crate) fn wrote(&self, what: Writes, succeeded: bool) {
        self.unwritten.get_or_create(&what.target()).set((!succeeded).into());
        if !succeeded {
            self.write_failures.get_or_create(&what.target()).add(1);
        }
    }

    /// The wall clock was stepped.
    pub(crate) fn clock_stepped(&self) {
        self.clock_steps.add(1);
    }

    /// The text that is scraped.
    pub(crate) fn text(&self, served: &Served, now: SystemTime) -> String {
        if let Some(svid) = &served.svid {
            let lifetime = svid.lifetime();
            let end = to_unix(lifetime.not_after);
            self.not_after.get_or_create(&DEFAULT).set(end);
            let life = lifetime.not_after.duration_since(lifetime.not_before).unwrap_or_default();
            let left = lifetime.not_after.duration_since(now).unwrap_or_default();
            let share = left.as_secs_f64() / life.as_secs_f64().max(1.0);
            self.share_left.get_or_create(&DEFAULT).set(share.min(1.0));
            self.left.get_or_create(&DEFAULT).set(end - to_unix(now));
        }
        self.overdue.set(to_unix(now).saturating_sub(self.due.load(Ordering::Relaxed)).max(0));
        let mut text = String::new();
        // Writing to a String does not fail.
        encode(&mut text, &self.registry).expect("a String takes all text");
        text
    }
}
