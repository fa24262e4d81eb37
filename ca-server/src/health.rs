//! Readiness: true only if the CA can sign now, with a chain that verifies now, and record it. Each part is
//! tried for real; the answer is kept for a second, so that probes cost nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use tokio::time::Instant;

use crate::app::Running;

/// How long an answer is good for.
const FRESH: Duration = Duration::from_secs(1);
/// A part that takes longer is not ready.
const PATIENCE: Duration = Duration::from_secs(2);

/// The last answer.
#[derive(Debug, Default)]
pub struct Health {
    ready: AtomicBool,
    last: ArcSwapOption<(Instant, Result<(), String>)>,
}

impl Health {
    /// Whether the last check found everything in order.
    pub fn ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// Checks, unless the last check is fresh. The error says what is not in order, for operators.
    pub async fn check(&self, running: &Running) -> Result<(), String> {
        if let Some(last) = self.last.load_full()
            && last.0.elapsed() < FRESH
        {
            return last.1.clone();
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
}

async fn try_everything(running: &Running) -> Result<(), String> {
    let now = SystemTime::now();
    let issuer = running.issuance.issuer.load_full();
    issuer.valid_at(now).map_err(|error| format!("the issuer's chain {error}"))?;
    let leaf = running.serving.leaf().ok_or("there is no serving certificate")?;
    issuer
        .verify_serving(&leaf, now)
        .map_err(|error| format!("the serving certificate does not verify: {error}"))?;
    let patience = Instant::now() + PATIENCE;
    let turn = running.issuance.turns.take(patience).await.map_err(|overload| overload.to_string())?;
    let signs = move || issuer.cacerts().ca.key.sign(b"signet readiness").is_ok();
    match running.issuance.pool.run(signs).await {
        Ok(true) => {}
        Ok(false) => return Err("the issuer's key cannot sign".to_owned()),
        Err(error) => return Err(error.to_string()),
    }
    drop(turn);
    if running.issuance.log.probe().await { Ok(()) } else { Err("the log cannot record".to_owned()) }
}
