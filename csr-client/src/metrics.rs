//! What the agent counts: Istio's names where its agent has them, ours beside with `signet_agent_`.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::{Duration, SystemTime};

use crate::identity::Served;
use crate::request::RequestError;
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
struct Reason {
    reason: &'static str,
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
    failures: Family<Reason, BareCounter>,
    left: Family<ResourceName, Gauge<i64, AtomicI64>>,
    not_after: Family<ResourceName, Gauge<i64, AtomicI64>>,
    share_left: Family<ResourceName, Gauge<f64, AtomicU64>>,
    watching: Gauge<i64, AtomicI64>,
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
            registry,
        };
        // All exist from the start, so that a rate can be computed for the first failure too.
        metrics.requests.get_or_create(&CSR).add(0);
        metrics.failed.get_or_create(&CSR).add(0);
        for reason in RequestError::REASONS {
            metrics.failures.get_or_create(&Reason { reason }).add(0);
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
    pub(crate) fn requested(&self, latency: Duration, failure: Option<&'static str>) {
        self.requests.get_or_create(&CSR).add(1);
        self.latency.get_or_create(&CSR).add(u64::try_from(latency.as_millis()).unwrap_or(u64::MAX));
        if let Some(reason) = failure {
            self.failed.get_or_create(&CSR).add(1);
            self.failures.get_or_create(&Reason { reason }).add(1);
        }
    }

    /// Whether the trust watch stands.
    pub(crate) fn watching(&self, connected: bool) {
        self.watching.set(connected.into());
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
        let mut text = String::new();
        // Writing to a String does not fail.
        encode(&mut text, &self.registry).expect("a String takes all text");
        text
    }
}
