//! Readiness: true only if the CA can sign now, with a chain that verifies now, and record it. Each part is
//! tried for real; the answer is kept for a second, so that probes cost nothing. A server that is busy is
//! ready: the check waits for nobody's turn.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::app::Running;

/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(1);
/// A part that takes longer is not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// The last answer.
#[derive(Debug)]
pub struct Health {
    ready: AtomicBool,
    last: ArcSwapOption<(Instant, Result<(), String>)>,
    /// One check at a time: the signing pool and the log have room for one.
    checking: Semaphore,
}

impl Default for Health {
    fn default() -> Self {
        Self { ready: AtomicBool::default(), last: ArcSwapOption::default(), checking: Semaphore::new(1) }
    }
}

impl Health {
    /// Whether the last check found everything in order.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Checks, unless the last check is fresh. The error says what is not in order, for operators.
    pub async fn check(&self, running: &Running) -> Result<(), String> {
        if let Some(last) = self.fresh() {
            return last;
        }
        // The semaphore is never closed, and a check ends within its patience.
        let _turn = self.checking.acquire().await;
        if let Some(last) = self.fresh() {
            return last;
        }
        let checked = tokio::time::timeout(PATIENCE, try_everything(running))
            .await
            .unwrap_or_else(|_| Err("signing or recording takes too long".to_owned()));
        let was = self.ready.swap(checked.is_ok(), Ordering::Relaxed);
        match &checked {
            Ok(()) if !was => tracing::info!("ready"),
            Err(cause) if was => tracing::error!(cause, "not ready"),
            _ => {}
        }
        self.last.store(Some(Arc::new((Instant::now(), checked.clone()))));
        checked
    }

    fn fresh(&self) -> Option<Result<(), String>> {
        self.last.load_full().filter(|last| last.0.elapsed() < FRESH).map(|last| last.1.clone())
    }
}

async fn try_everything(running: &Running) -> Result<(), String> {
    let clock = &running.issuance.clock;
    let now = clock.now().map_err(|stepped| match running.standing().waiting {
        Some(waiting) => format!("{stepped}: {waiting}"),
        None => stepped.to_string(),
    })?;
    let issuer = running.issuance.issuer.load_full();
    issuer.valid_at(now).map_err(|error| format!("the issuer's chain {error}"))?;
    let serving = running.serving.verify(now).ok_or("there is no serving certificate")?;
    serving.map_err(|error| format!("the serving certificate does not verify: {error}"))?;
    let signs = move || issuer.keys_sign();
    match running.issuance.pool.run(signs).await {
        Ok(true) => {}
        Ok(false) => return Err("a key of the issuer cannot sign".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    if running.issuance.log.probe().await { Ok(()) } else { Err("the log cannot record".to_owned()) }
}
