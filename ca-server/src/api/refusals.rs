//! What happens to those who are refused on the issuing port: counted, logged, charged to their address where
//! they could not be attested, and told; whoever cannot read when to come again is told a moment later.
//!
//! A flood is one log line a second for each kind of overload, with how many it stands for; the metrics count
//! them all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use signet_service::logging::with_causes;
use tokio::time::Instant;
use tonic::Status;

use super::admission::{Failures, Overload, Parking};
use super::status;
use crate::issue::IssueError;
use crate::metrics::Metrics;
use crate::reason::Reason;

/// Between two log lines of one kind of overload.
const QUIET: Duration = Duration::from_secs(1);

/// Whose request is refused.
#[derive(Debug, Clone)]
pub struct Refused<'a> {
    /// Names the request.
    pub id: &'a str,
    /// Where it comes from.
    pub address: IpAddr,
    /// When an answer is of no use any more.
    pub deadline: Instant,
    /// Whether the caller understands when to come again.
    pub reads_hints: bool,
}

/// Refuses.
#[derive(Debug)]
pub struct Refusals {
    metrics: Arc<Metrics>,
    failures: Failures,
    parking: Parking,
    /// When a kind of overload was last logged, and how many were not since.
    said: Mutex<HashMap<Reason, (Instant, u64)>>,
}

impl Refusals {
    /// Counts in these metrics; an address may fail so often a second.
    pub fn new(metrics: Arc<Metrics>, failures: Failures, parking: Parking) -> Self {
        Self { metrics, failures, parking, said: Mutex::default() }
    }

    /// Whether an address may try to be attested.
    pub fn may_try(&self, address: IpAddr) -> Result<(), Overload> {
        self.failures.may_try(address, Instant::now())
    }

    /// Charges a refusal to the address where whoever is there could not be attested, by a fault of its own.
    pub fn charge(&self, address: IpAddr, error: &IssueError) {
        if let IssueError::Attestation(error) = error
            && error.unavailable().is_none()
        {
            self.failures.failed(address, Instant::now());
        }
    }

    /// Refuses a request for a certificate.
    pub async fn refuse(&self, who: Refused<'_>, error: &IssueError) -> Status {
        let outside = status::of_issue(error);
        self.metrics.refused(error, outside.reason);
        let Refused { id: request_id, address, deadline, reads_hints } = who;
        match error {
            IssueError::Overload(overload) => {
                if let Some(others) = self.is_due(overload.reason()) {
                    let reason = outside.reason.code();
                    tracing::warn!(request_id, reason, %address, others, "certificates refused for want of room");
                }
                // Whoever spent its share by guessing is not worth a place.
                if !reads_hints && *overload != Overload::Failures {
                    self.parking.hold(deadline).await;
                }
            }
            IssueError::Attestation(error) if error.unavailable().is_some() => {
                // Our trouble, and cheap to meet for whoever makes key ids up.
                if let Some(others) = self.is_due(outside.reason) {
                    let (reason, cause) = (outside.reason.code(), with_causes(error));
                    tracing::warn!(request_id, reason, %address, cause, others, "certificate refused");
                }
            }
            other => {
                self.charge(address, other);
                let (reason, cause) = (outside.reason.code(), with_causes(other));
                tracing::warn!(request_id, reason, %address, cause, "certificate refused");
            }
        }
        outside.into_status()
    }

    /// Whether a line is due, and how many were not logged since the last.
    fn is_due(&self, reason: Reason) -> Option<u64> {
        let now = Instant::now();
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        match said.get_mut(&reason) {
            Some((last, others)) if now - *last < QUIET => {
                *others += 1;
                None
            }
            _ => said.insert(reason, (now, 0)).map_or(Some(0), |(_, others)| Some(others)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_one_line_a_second_that_says_how_many_it_stands_for() {
        let refusals =
            Refusals::new(Arc::default(), Failures::new(1), Parking::new(0, Duration::from_secs(1)));
        let mut lines = Vec::new();
        for _ in 0..25 {
            lines.extend(refusals.is_due(Reason::OverloadQueue));
            tokio::time::advance(Duration::from_millis(100)).await;
        }
        assert_eq!(lines, [0, 9, 9]);
        assert_eq!(refusals.is_due(Reason::OverloadServer), Some(0), "each kind by itself");
    }
}
