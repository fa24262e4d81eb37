//! The loop that keeps the certificate fresh: it asks, waits and asks again for as long as the agent runs,
//! whether anybody is subscribed or not. What an attempt does is in `request`, when the next one is due in
//! `renew`.
//!
//! Besides the time there are two reasons to ask: the CA is back after a failure, which the trust watch finds
//! out, and roots that no longer anchor the certificate.

use super::{Holder, Served};
use crate::complaint::Complaint;
use crate::config::Renewal;
use crate::metrics::Metrics;
use crate::random;
use crate::renew::{self, Clock, Lifetime};
use crate::request::{Answer, RequestError, Requester};
use crate::trust::Trust;
use signet_certs::clock::rfc3339;
use signet_service::logging::with_causes;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Shortest time between two certificates, whatever ratio and lifetime say.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// Longest wait after a failure that costs nobody but us: a token is often back within a moment.
const LONGEST_OWN_WAIT: Duration = Duration::from_secs(5);

/// Who makes attempts.
pub trait Asker: Send + Sync + 'static {
    /// One attempt, by what is held already.
    fn ask(&self, held: Option<Arc<Trust>>) -> impl Future<Output = Result<Answer, RequestError>> + Send;
}

impl Asker for Requester {
    async fn ask(&self, held: Option<Arc<Trust>>) -> Result<Answer, RequestError> {
        self.obtain(held.as_deref()).await
    }
}

/// Gets certificates for ever, the first at `first`; ends only by being dropped.
pub async fn keep<A: Asker>(
    asker: Arc<A>,
    holder: &Holder,
    renewal: Renewal,
    first: SystemTime,
    clock: &impl Clock,
    metrics: &Metrics,
) {
    let (mut failures, mut complaint) = (0, Complaint::default());
    let mut next = first;
    metrics.renewal_due(first);
    // Who asked us to wait is not asked because he can be reached.
    let mut waits_for_ca = false;
    let mut reasons = Reasons { served: holder.subscribe(), watching: holder.watching.subscribe() };
    loop {
        tokio::select! {
            () = clock.until(next) => {}
            () = reasons.arise(holder, waits_for_ca, clock) => {}
        }
        // What happens during the attempt is a reason for the next one.
        reasons.watching.mark_unchanged();
        next = match attempt(&asker, holder, clock, metrics).await {
            Ok(lifetime) => {
                (failures, waits_for_ca) = (0, false);
                complaint.over();
                let now = clock.read().wall;
                let due = renew::due(lifetime, renewal, random::unit() * 2.0 - 1.0);
                let due = due.max(now + SHORTEST_INTERVAL);
                metrics.renewal_due(due);
                due
            }
            Err(error) => {
                failures += 1;
                let now = clock.read();
                let left = holder.served().svid.map(|svid| svid.left(now.wall)).unwrap_or_default();
                let mut wait = renew::retry_after(failures, random::unit(), error.hint(), left);
                if error.is_ours() {
                    wait = wait.min(LONGEST_OWN_WAIT);
                }
                waits_for_ca = error.hint().is_none();
                if let Some(held_back) = complaint.about_at(&error.trouble(), now.since_start) {
                    tracing::warn!(
                        reason = error.reason().code(),
                        error = %with_causes(&error),
                        failures,
                        retry_in = ?wait,
                        certificate_left = ?left,
                        held_back,
                        "no certificate from the CA"
                    );
                }
                now.wall + wait
            }
        };
    }
}

/// What may make it useful to ask before the time.
struct Reasons {
    served: watch::Receiver<Served>,
    watching: watch::Receiver<bool>,
}

impl Reasons {
    /// Returns when there is one.
    async fn arise(&mut self, holder: &Holder, waits_for_ca: bool, clock: &impl Clock) {
        loop {
            tokio::select! {
                changed = self.served.changed() => {
                    let now = clock.read().wall;
                    let present = self.served.borrow_and_update().clone();
                    let judged = present.svid.map(|svid| holder.judge(&svid, present.trust.as_deref(), now));
                    if changed.is_ok() && judged.is_some_and(|judged| judged.is_err()) {
                        return;
                    }
                }
                changed = self.watching.changed(), if waits_for_ca => {
                    if changed.is_ok() && *self.watching.borrow_and_update() {
                        return;
                    }
                }
            }
        }
    }
}

async fn attempt<A: Asker>(
    asker: &Arc<A>,
    holder: &Holder,
    clock: &impl Clock,
    metrics: &Metrics,
) -> Result<Lifetime, RequestError> {
    let began = tokio::time::Instant::now();
    // A task of its own: what a CA sends must not be able to end the agent, whatever a library does with it.
    let (mut task, asker, held) = (JoinSet::new(), asker.clone(), holder.served().trust);
    task.spawn(async move { asker.ask(held).await });
    let result = match task.join_next().await {
        Some(Ok(result)) => result,
        _ => Err(RequestError::Fault),
    };
    let result = result.and_then(|answer| match holder.rehearse(&answer, clock.read().wall) {
        Ok(()) => Ok(answer),
        Err(error) => Err(RequestError::NotUnderHeldRoots(error)),
    });
    metrics.requested(began.elapsed(), result.as_ref().err().map(RequestError::reason));
    let answer = result?;
    let (lifetime, serial) = (answer.svid.lifetime(), answer.svid.serial().to_string());
    holder.take_answer(answer);
    tracing::info!(
        serial,
        not_after = rfc3339(lifetime.not_after),
        latency = ?began.elapsed(),
        "new certificate"
    );
    Ok(lifetime)
}

#[cfg(test)]
mod tests;
