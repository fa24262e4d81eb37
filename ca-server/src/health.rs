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
/// How long an answer is given again while the next check is not done: whoever asks is not kept waiting by the
/// queue for the disk or for a slow key.
const STALE: Duration = Duration::from_secs(10);
/// How long a check may keep somebody waiting who could have the answer before it.
const QUICK: Duration = Duration::from_millis(20);
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

    /// What the last check found. One that is older than a second is made again, and waited for where it is
    /// quick. The error says what is not in order, for operators.
    pub async fn check(&self, running: &Arc<Running>) -> Result<(), String> {
        if let Some(last) = self.younger_than(FRESH) {
            return last;
        }
        let running = running.clone();
        // It goes on when nobody waits for it, and the next who asks has its answer.
        let mut check = tokio::spawn(async move { running.health.renew(&running).await });
        if self.younger_than(STALE).is_none() {
            return check.await.unwrap_or_else(|_| Err("the check was cut off".to_owned()));
        }
        match tokio::time::timeout(QUICK, &mut check).await {
            Ok(checked) => checked.unwrap_or_else(|_| Err("the check was cut off".to_owned())),
            Err(_) => self.younger_than(STALE).unwrap_or_else(|| Err("the check takes long".to_owned())),
        }
    }

    async fn renew(&self, running: &Running) -> Result<(), String> {
        // The semaphore is never closed, and a check ends within its patience.
        let _turn = self.checking.acquire().await;
        if let Some(last) = self.younger_than(FRESH) {
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

    fn younger_than(&self, age: Duration) -> Option<Result<(), String>> {
        self.last.load_full().filter(|last| last.0.elapsed() < age).map(|last| last.1.clone())
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
