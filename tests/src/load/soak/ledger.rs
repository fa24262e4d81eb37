//! What was asked and what came of it. A request fails excusably only if the CA was away at some time between its being
//! sent and a moment after its answer.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Until connections are made again after a restart.
const RECONNECT: Duration = Duration::from_secs(2);

/// The ledger.
#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Entries>);

#[derive(Debug, Default)]
struct Entries {
    outages: Vec<(Instant, Option<Instant>)>,
    received: Vec<u128>,
    period: Period,
    totals: BTreeMap<String, u64>,
    unexpected: BTreeMap<String, u64>,
}

/// Since the last row.
#[derive(Debug, Default)]
pub(super) struct Period {
    /// Of certificates that came.
    pub(super) latencies: Vec<Duration>,
    /// Bad input that was refused for the right reason.
    pub(super) bad_input: u64,
    /// What failed because the CA was away.
    pub(super) excused: u64,
    /// What should not have failed, or not so.
    pub(super) unexpected: u64,
}

/// The CA is away until this is dropped.
pub(super) struct Outage(Arc<Ledger>);

impl Drop for Outage {
    fn drop(&mut self) {
        if let Some(outage) = self.0.entries().outages.last_mut() {
            outage.1 = Some(Instant::now());
        }
    }
}

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The CA goes away.
    pub(super) fn outage(self: &Arc<Self>) -> Outage {
        self.entries().outages.push((Instant::now(), None));
        Outage(self.clone())
    }

    /// A certificate came.
    pub(super) fn certificate(&self, serial: u128, latency: Duration) {
        let mut entries = self.entries();
        entries.received.push(serial);
        entries.period.latencies.push(latency);
    }

    /// Bad input was refused as it should be.
    pub(super) fn refused(&self, reason: &str) {
        let mut entries = self.entries();
        entries.period.bad_input += 1;
        *entries.totals.entry(format!("bad input refused: {reason}")).or_default() += 1;
    }

    /// Something sent at `sent` failed now that should not have, unless the CA was away.
    pub(super) fn failed(&self, sent: Instant, what: String) {
        let mut entries = self.entries();
        let back = |end: Option<Instant>| end.is_none_or(|end| sent <= end + RECONNECT);
        if entries.outages.iter().any(|(_, end)| back(*end)) {
            entries.period.excused += 1;
            *entries.totals.entry("failed while the CA was away".to_owned()).or_default() += 1;
        } else {
            entries.period.unexpected += 1;
            *entries.unexpected.entry(what).or_default() += 1;
        }
    }

    /// What there was since the last call.
    pub(super) fn period(&self) -> Period {
        std::mem::take(&mut self.entries().period)
    }

    /// Every serial number that came.
    pub(super) fn received(&self) -> Vec<u128> {
        self.entries().received.clone()
    }

    /// Counts by kind.
    pub(super) fn totals(&self) -> BTreeMap<String, u64> {
        self.entries().totals.clone()
    }

    /// What should not have failed.
    pub(super) fn faults(&self) -> Vec<String> {
        self.entries()
            .unexpected
            .iter()
            .map(|(what, count)| format!("{count} times unexpected: {what}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_overlaps_an_outage_is_excused() {
        let ledger = Arc::new(Ledger::default());
        ledger.failed(Instant::now(), "before".to_owned());
        let sent = Instant::now();
        let outage = ledger.outage();
        ledger.failed(sent, "during".to_owned());
        drop(outage);
        ledger.failed(Instant::now(), "a moment after".to_owned());
        ledger.failed(Instant::now() + RECONNECT + Duration::from_secs(1), "long after".to_owned());
        assert_eq!(ledger.faults(), ["1 times unexpected: before", "1 times unexpected: long after"]);
        assert_eq!(ledger.period().excused, 2);
    }
}
