//! Metrics and readiness over HTTP, for probes and scrapers.
//!
//! Ready means: there is a certificate that verifies at this moment, under the roots that are served with
//! it. Alive means that the agent answers.

use crate::config::Monitoring;
use crate::identity::Holder;
use crate::metrics::Metrics;
use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The address cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for monitoring")]
pub struct MonitoringError {
    address: std::net::SocketAddr,
    #[source]
    source: io::Error,
}

/// Binds the address. One that nobody asked for may be taken, by another agent of this machine: then there
/// is a warning and no monitoring.
pub async fn bind(monitoring: Monitoring) -> Result<Option<TcpListener>, MonitoringError> {
    match TcpListener::bind(monitoring.address).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if !monitoring.asked => {
            let address = monitoring.address;
            tracing::warn!(%address, %error, "no monitoring: the default address cannot be used");
            Ok(None)
        }
        Err(source) => Err(MonitoringError { address: monitoring.address, source }),
    }
}

#[derive(Clone)]
struct Shared {
    metrics: Arc<Metrics>,
    holder: Arc<Holder>,
}

/// Serves until `stop`.
pub async fn serve(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    holder: Arc<Holder>,
    stop: CancellationToken,
) -> io::Result<()> {
    tracing::info!(addr = %listener.local_addr()?, "monitoring listening");
    let router = Router::new()
        .route("/metrics", get(metrics_text))
        .route("/ready", get(ready))
        // Where Istio's probes look.
        .route("/healthz/ready", get(ready))
        .route("/live", get(|| async { "live\n" }))
        .with_state(Shared { metrics, holder });
    axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await
}

async fn metrics_text(State(shared): State<Shared>) -> impl IntoResponse {
    let text = shared.metrics.text(&shared.holder.served(), SystemTime::now());
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
}

async fn ready(State(shared): State<Shared>) -> impl IntoResponse {
    match shared.holder.verify(SystemTime::now()) {
        Ok(()) => (StatusCode::OK, "ready\n".to_owned()),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test]
    async fn a_taken_address_is_fatal_only_if_it_was_asked_for() {
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = other.local_addr().unwrap();
        assert!(bind(Monitoring { address, asked: false }).await.unwrap().is_none());
        assert!(bind(Monitoring { address, asked: true }).await.is_err());
    }
}
