//! One issuer's current keys: loaded, kept fresh, and asked for again when a token names an unknown one.
//!
//! A set is replaced only by a good one. There is at most one load at a time; whoever needs its result waits
//! for that one, a bounded time. Tokens with made-up key ids cause one load per [`PAUSE`], not one each.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use signet_certs::digest::sha256;
use signet_service::logging::with_causes;
use tokio::sync::{Semaphore, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::KeySource;
use super::error::AttestationError;
use super::fetch::{Endpoint, FetchError};
use super::jwks::{JwksError, KeySet};

/// How often a file is read again.
const FILE_INTERVAL: Duration = Duration::from_secs(30);
/// How often a URL is fetched again.
const URL_INTERVAL: Duration = Duration::from_secs(300);
/// Least time between two loads that tokens cause.
const PAUSE: Duration = Duration::from_secs(10);
/// How long a request waits for a load; its caller has a deadline of its own.
const PATIENCE: Duration = Duration::from_secs(2);
/// Requests that wait for one: anybody can make key ids up, and each that waits holds a place.
const WAITING: usize = 1024;
/// Largest key set, in bytes.
pub(super) const MAX_BYTES: usize = 1024 * 1024;

/// How an issuer's keys stand.
#[derive(Debug, Clone)]
pub struct KeySetStatus {
    /// The issuer.
    pub issuer: String,
    /// The file or URL that its keys come from.
    pub source: String,
    /// How many keys are held; 0 if none could be had yet.
    pub keys: usize,
    /// When the source was last read and good.
    pub last_success: Option<SystemTime>,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<String>,
}

/// Why a key set could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("reading key set {}", .path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The URL cannot be used or fetched.
    #[error("fetching key set {url}")]
    Fetch {
        /// Which URL.
        url: String,
        /// Why.
        source: FetchError,
    },
    /// It was had, and is no key set.
    #[error("parsing key set {from}")]
    Parse {
        /// The file or URL.
        from: String,
        /// Why.
        source: JwksError,
    },
}

/// One issuer's keys.
#[derive(Debug)]
pub(super) struct Keys {
    issuer: String,
    source: Source,
    current: ArcSwapOption<KeySet>,
    progress: Mutex<Progress>,
    waiting: Semaphore,
}

#[derive(Debug, Clone)]
enum Source {
    File(PathBuf),
    Url(Endpoint),
}

/// Locked for moments only, never while a load is under way.
#[derive(Debug, Default)]
struct Progress {
    /// Closed as soon as the load that it belongs to has ended, however it did.
    running: Option<watch::Receiver<()>>,
    /// When a token last caused a load.
    last_demand: Option<Instant>,
    /// SHA-256 of the text that the current set was read from.
    digest: Option<[u8; 32]>,
    last_success: Option<SystemTime>,
    last_error: Option<String>,
}

impl Keys {
    /// The keys at `source`: a file is read now, a URL is only checked.
    pub(super) fn new(issuer: &str, source: KeySource) -> Result<Keys, KeysError> {
        let source = match source {
            KeySource::File(path) => Source::File(path),
            KeySource::Url { url, ca_file } => Source::Url(
                Endpoint::new(url.clone(), ca_file)
                    .map_err(|source| KeysError::Fetch { url: url.into(), source })?,
            ),
        };
        let keys = Keys {
            issuer: issuer.to_owned(),
            source,
            current: ArcSwapOption::empty(),
            progress: Mutex::default(),
            waiting: Semaphore::new(WAITING),
        };
        if let Source::File(path) = &keys.source {
            keys.accept(&read_file(path)?)?;
        }
        Ok(keys)
    }

    /// A set that has the key `id`, asking the source again if the current one has not; a set without it, if
    /// the source says that there is no such key.
    pub(super) async fn with(self: &Arc<Self>, id: Option<&str>) -> Result<Arc<KeySet>, AttestationError> {
        // Without an id there is no knowing whether another set would do better.
        let has = |set: &Arc<KeySet>| id.is_none() || set.find(id).is_some();
        if let Some(set) = self.current.load_full().filter(has) {
            return Ok(set);
        }
        let late = match (self.demand(), self.waiting.try_acquire()) {
            (Some(running), Ok(_waits)) => timeout(PATIENCE, ended(running)).await.is_err(),
            (Some(_), Err(_)) => true,
            (None, _) => false,
        };
        let current = self.current.load_full();
        if let Some(set) = current.clone().filter(has) {
            return Ok(set);
        }
        let failure =
            if late { Some("no answer yet".to_owned()) } else { self.progress().last_error.clone() };
        match (failure, current) {
            (None, Some(set)) => Ok(set),
            (failure, _) => Err(AttestationError::KeysUnavailable {
                issuer: self.issuer.clone(),
                cause: failure.unwrap_or_else(|| "not loaded yet".to_owned()),
            }),
        }
    }

    /// Loads at once and then at the source's interval. Never returns; may be dropped at any time.
    pub(super) async fn refresh_forever(self: &Arc<Self>) {
        let interval = match self.source {
            Source::File(_) => FILE_INTERVAL,
            Source::Url(_) => URL_INTERVAL,
        };
        loop {
            let running = self.join_or_start(&mut self.progress());
            ended(running).await;
            sleep(interval).await;
        }
    }

    /// How these keys stand.
    pub(super) fn status(&self) -> KeySetStatus {
        let progress = self.progress();
        KeySetStatus {
            issuer: self.issuer.clone(),
            source: self.source.to_string(),
            keys: self.current.load().as_ref().map_or(0, |set| set.len()),
            last_success: progress.last_success,
            last_error: progress.last_error.clone(),
        }
    }

    /// A load because of a token: the one that is running, or a new one if the last demand is long enough ago.
    fn demand(self: &Arc<Self>) -> Option<watch::Receiver<()>> {
        let mut progress = self.progress();
        let idle = progress.running.as_ref().is_none_or(|running| running.has_changed().is_err());
        if idle {
            if progress.last_demand.is_some_and(|last| last.elapsed() < PAUSE) {
                return None;
            }
            progress.last_demand = Some(Instant::now());
        }
        Some(self.join_or_start(&mut progress))
    }

    /// The load that is running, or a new one. It is a task of its own: the request that caused it may go away.
    fn join_or_start(self: &Arc<Self>, progress: &mut Progress) -> watch::Receiver<()> {
        if let Some(running) = progress.running.as_ref().filter(|running| running.has_changed().is_ok()) {
            return running.clone();
        }
        let (open, running) = watch::channel(());
        progress.running = Some(running.clone());
        let keys = Arc::clone(self);
        tokio::spawn(async move {
            keys.load().await;
            drop(open);
        });
        running
    }

    async fn load(&self) {
        let outcome = match self.source.read().await {
            Ok(text) => self.accept(&text),
            Err(error) => Err(error),
        };
        if let Err(error) = outcome {
            let error = with_causes(&error);
            warn!(issuer = self.issuer, error, "token keys could not be loaded; the last good ones stay");
            self.progress().last_error = Some(error);
        }
    }

    /// Makes `text` the current set if it is a good one.
    fn accept(&self, text: &[u8]) -> Result<(), KeysError> {
        let digest = sha256(text);
        if self.progress().digest != Some(digest) {
            let (set, skipped) = KeySet::parse(text)
                .map_err(|source| KeysError::Parse { from: self.source.to_string(), source })?;
            for key in skipped {
                warn!(issuer = self.issuer, kid = key.id, reason = key.why, "token key left out");
            }
            info!(issuer = self.issuer, source = %self.source, keys = set.len(), "token keys loaded");
            self.current.store(Some(Arc::new(set)));
        }
        let mut progress = self.progress();
        progress.digest = Some(digest);
        progress.last_success = Some(SystemTime::now());
        progress.last_error = None;
        Ok(())
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // No update of it can be left half done by a panic.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Source {
    async fn read(&self) -> Result<Vec<u8>, KeysError> {
        match self {
            Source::File(path) => {
                let file = path.clone();
                spawn_blocking(move || read_file(&file)).await.unwrap_or_else(|stopped| {
                    Err(KeysError::Read { path: path.clone(), source: io::Error::other(stopped) })
                })
            }
            Source::Url(endpoint) => {
                endpoint.get().await.map_err(|source| KeysError::Fetch { url: endpoint.to_string(), source })
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => path.display().fmt(formatter),
            Source::Url(endpoint) => endpoint.fmt(formatter),
        }
    }
}

/// Waits until the load that `running` belongs to has ended.
async fn ended(mut running: watch::Receiver<()>) {
    // Nothing is ever sent: this ends when the sender is gone.
    while running.changed().await.is_ok() {}
}

fn read_file(path: &Path) -> Result<Vec<u8>, KeysError> {
    let read = || {
        let mut text = Vec::new();
        File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut text)?;
        if text.len() > MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 1 MiB"));
        }
        Ok(text)
    };
    read().map_err(|source| KeysError::Read { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
