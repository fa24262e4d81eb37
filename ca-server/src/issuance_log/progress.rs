//! What the log's threads tell each other and everybody else: plain numbers, read without a lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::checkpoint::SignedCheckpoint;

/// Shared by the writer, the signer, the indexer and the readers.
pub(super) struct Progress {
    durable: AtomicU64,
    batches: AtomicU64,
    last_sync_nanos: AtomicU64,
    poisoned: AtomicBool,
    signed: ArcSwap<SignedCheckpoint>,
}

impl Progress {
    /// Of a log with `size` records that are durable, and its latest checkpoint.
    pub(super) fn new(size: u64, signed: SignedCheckpoint) -> Progress {
        Progress {
            durable: AtomicU64::new(size),
            batches: AtomicU64::new(0),
            last_sync_nanos: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
            signed: ArcSwap::from_pointee(signed),
        }
    }

    /// How many records are durable. Those before it can be read, and their hashes are written unless the
    /// disk refused them.
    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// A batch is durable, and the log now has `size` records.
    pub(super) fn committed(&self, size: u64, sync: Duration) {
        let nanos = u64::try_from(sync.as_nanos()).unwrap_or(u64::MAX);
        self.last_sync_nanos.store(nanos, Ordering::Relaxed);
        self.batches.fetch_add(1, Ordering::Relaxed);
        self.durable.store(size, Ordering::Release);
    }

    /// Batches since the start.
    pub(super) fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// How long the latest sync took; zero before the first.
    pub(super) fn last_sync(&self) -> Duration {
        Duration::from_nanos(self.last_sync_nanos.load(Ordering::Relaxed))
    }

    /// Whether appending has ended until a restart.
    pub(super) fn is_poisoned(&self) -> bool {
        self.poisoned.load(Ordering::Relaxed)
    }

    /// Ends appending until a restart.
    pub(super) fn poison(&self) {
        self.poisoned.store(true, Ordering::Relaxed);
    }

    /// The latest checkpoint.
    pub(super) fn signed(&self) -> Arc<SignedCheckpoint> {
        self.signed.load_full()
    }

    /// There is a newer checkpoint.
    pub(super) fn set_signed(&self, checkpoint: SignedCheckpoint) {
        self.signed.store(Arc::new(checkpoint));
    }
}
