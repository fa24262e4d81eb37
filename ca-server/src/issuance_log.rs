//! The issuance log: what the CA signed, recorded before anybody is answered, so that it can be proven later
//! that nothing else was.
//!
//! Records (`record`) go to append-only segment files (`segments`, `cursor`) through one thread (`queue`,
//! `writer`), which answers after a sync. Over them grows a Merkle tree (`tree`), whose root the log's own key signs now and
//! then (`checkpoint`, `signer`). `index` answers lookups, `read` and `verify` read back, `proof` convinces
//! others. Opening, and what a crash may leave behind, is in `recover` and `tail`.
//!
//! Start with [`IssuanceLog::append`], then read `writer`.

use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use signet_service::clock_watch::ClockWatch;
use tokio::sync::oneshot;

pub use self::checkpoint::{CheckpointError, LogKeyError, LogVerifier, SignedCheckpoint, VerifierKeyError};
pub use self::export::{ExportError, LogExport};
pub use self::index::IndexError;
pub(crate) use self::index::MARKER as INDEX_MARKER;
pub use self::proof::{CheckError, Proof, ProveError, check_proof};
pub use self::queue::Announced;
pub use self::read::{Filter, IdentityFilter, Kind, LogReader, Page, ReadError};
pub use self::record::{
    ActEntry, CertificateEntry, Entry, EntryBody, EvidenceEntry, Record, RecordError, RenewalEntry,
};
pub use self::recover::OpenError;
pub use self::segments::SegmentError;
pub use self::signer::SignError;
pub(crate) use self::verify::verify_copy;
pub use self::verify::{VerifyError, VerifyReport, verify};
pub use self::writer::AppendError;

use self::files::{Disk, LocalDisk};
use self::index::Index;
use self::progress::Progress;
use self::queue::{Queue, Refusal};
use self::signer::Signer;
use self::writer::{Command, Writer};
use crate::data_folder::DataFolder;
use crate::store::Store;

mod checkpoint;
mod cursor;
mod export;
mod files;
mod index;
mod progress;
mod proof;
mod queue;
mod read;
pub mod record;
mod recover;
mod segments;
mod signer;
mod sync;
mod tail;
mod tree;
mod verify;
mod writer;

/// Checkpoints that may wait to be signed; more are refused.
const SIGNER_QUEUE: usize = 8;

/// How a log is run.
#[derive(Debug, Clone)]
pub struct Options {
    /// A segment file of this many bytes gets no further batch.
    pub segment_bytes: u64,
    /// Entries that may wait for the writer; more are refused as [`AppendError::Busy`].
    pub queue: usize,
    /// Unsigned records are signed this long after the latest checkpoint.
    pub checkpoint_interval: Duration,
    /// Dates checkpoints, and learns from the latest one how late it is at least.
    pub clock: Arc<ClockWatch>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: 64 << 20,
            queue: 4096,
            checkpoint_interval: Duration::from_secs(1),
            clock: Arc::new(ClockWatch::of_machine()),
        }
    }
}

/// Why a record was not found out.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// The index cannot say.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// The log is damaged.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The program is ending.
    #[error("cannot finish looking it up")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// Numbers for metrics and `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Records in the log; all of them are durable.
    pub records: u64,
    /// Batches written since the start.
    pub batches: u64,
    /// How long the latest sync took; zero before the first.
    pub last_sync: Duration,
    /// Whether appending has ended until a restart.
    pub poisoned: bool,
    /// Entries that wait for the writer.
    pub queue_depth: u64,
    /// Records that the indexes have seen.
    pub indexed_through: u64,
    /// Records that the latest checkpoint signs.
    pub checkpoint_size: u64,
}

/// A log that is open for appending. Dropping it stops its threads after what they are doing.
pub struct IssuanceLog {
    queue: Arc<Queue>,
    progress: Arc<Progress>,
    index: Index,
    reader: LogReader,
    verifier: LogVerifier,
    /// Emptied by whoever stops the log first.
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl IssuanceLog {
    /// Opens the log of a data folder, or makes it. Its indexes live in `store`. Blocks: it reads the last
    /// segment, and hashes the records behind the latest checkpoint.
    ///
    /// # Errors
    /// The log is damaged, has lost records, or its key or folder cannot be used.
    pub fn open(
        folder: &DataFolder,
        store: Arc<dyn Store>,
        options: &Options,
    ) -> Result<IssuanceLog, OpenError> {
        IssuanceLog::open_on(folder, store, options, Arc::new(LocalDisk))
    }

    fn open_on(
        folder: &DataFolder,
        store: Arc<dyn Store>,
        options: &Options,
        disk: Arc<dyn Disk>,
    ) -> Result<IssuanceLog, OpenError> {
        let dir = folder.log_dir();
        let recovered = recover::recover(folder, &disk, options.clock.reckoned())?;
        options.clock.not_before(recovered.checkpoint.time);
        let verifier = recovered.key.verifier().clone();
        let log_id = verifier.log_id();
        let progress = Arc::new(Progress::new(recovered.tree.size(), recovered.checkpoint));
        let (index, indexer) = index::open(dir.clone(), log_id, store, progress.clone())?;
        let failed = |attempted| move |source| OpenError::Io { attempted, path: folder.log_dir(), source };
        let signer = Signer::new(&dir, recovered.key, disk.clone(), progress.clone(), options.clock.clone())
            .map_err(failed("open the hashes in"))?;

        let queue = Arc::new(Queue::new(options.queue));
        let (sign, sign_requests) = mpsc::sync_channel(SIGNER_QUEUE);
        let (wake, wakes) = mpsc::sync_channel(1);
        let writer = Writer {
            dir: dir.clone(),
            log_id,
            disk,
            segment: recovered.segment,
            tree: recovered.tree,
            progress: progress.clone(),
            segment_bytes: options.segment_bytes,
            checkpoint_interval: options.checkpoint_interval,
            signer: sign,
            indexer: wake,
        };
        // The writer last: if it does not start, its ends of the channels are gone and the others stop.
        let threads = vec![
            spawn("log-signer", move || signer.run(&sign_requests)),
            spawn("log-indexer", move || indexer.run(&wakes)),
            spawn("log-writer", {
                let queue = queue.clone();
                move || writer.run(&queue)
            }),
        ];
        let threads = threads.into_iter().collect::<Result<_, _>>().map_err(failed("start a thread for"))?;
        let reader = LogReader::of_running(dir, log_id, progress.clone());
        Ok(IssuanceLog { queue, progress, index, reader, verifier, threads: Mutex::new(threads) })
    }

    /// Says that an entry is on its way, so that under load the writer may wait a moment for it rather than
    /// sync for one.
    pub fn announce(&self) -> Announced<'_> {
        self.queue.announce()
    }

    /// Records an entry that was not announced, as [`Announced::append`] does.
    ///
    /// # Errors
    /// It is not known to be recorded: what it is about must not leave the CA.
    pub async fn append(&self, entry: Entry) -> Result<u64, AppendError> {
        self.announce().append(entry).await
    }

    /// Whether the log can record now: it is not poisoned, takes entries, and its disk takes a small file.
    pub async fn probe(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        self.queue.push(Command::Probe(reply)).is_ok() && answer.await.unwrap_or(false)
    }

    /// Signs the log as it is now.
    ///
    /// # Errors
    /// The disk refuses, or the log is too busy or closed.
    pub async fn checkpoint(&self) -> Result<SignedCheckpoint, SignError> {
        let (reply, answer) = oneshot::channel();
        match self.queue.push(Command::Checkpoint(reply)) {
            Ok(()) => answer.await.unwrap_or(Err(SignError::Closed)),
            Err(Refusal::Full) => Err(SignError::Busy),
            Err(Refusal::Closed) => Err(SignError::Closed),
        }
    }

    /// What a copy of the log as it is now consists of, up to a checkpoint that is signed for it.
    ///
    /// # Errors
    /// No checkpoint can be signed, or the log is damaged near its end.
    pub async fn export(&self) -> Result<LogExport, ExportError> {
        let checkpoint = self.checkpoint().await?;
        let (dir, verifier) = (self.dir().to_owned(), self.verifier.clone());
        let found = move || LogExport::of_checkpoint(&dir, &verifier, checkpoint);
        tokio::task::spawn_blocking(found)
            .await
            .unwrap_or_else(|failed| Err(ExportError::Interrupted(failed)))
    }

    /// The checkpoint that was signed last.
    pub fn latest_checkpoint(&self) -> Arc<SignedCheckpoint> {
        self.progress.signed()
    }

    /// The log's public key and name.
    pub fn verifier(&self) -> &LogVerifier {
        &self.verifier
    }

    /// Reads records back; it can be cloned into a blocking task.
    pub fn reader(&self) -> &LogReader {
        &self.reader
    }

    /// The log's folder.
    pub fn dir(&self) -> &Path {
        self.reader.dir()
    }

    /// Numbers for metrics and `status`.
    pub fn stats(&self) -> Stats {
        Stats {
            records: self.progress.durable(),
            batches: self.progress.batches(),
            last_sync: self.progress.last_sync(),
            poisoned: self.progress.is_poisoned(),
            queue_depth: self.queue.len() as u64,
            indexed_through: self.index.through(),
            checkpoint_size: self.progress.signed().size,
        }
    }

    /// The index of the record of a serial number (big-endian), among all records that are durable now.
    ///
    /// # Errors
    /// The index cannot be read, or cannot follow the log.
    pub async fn find_serial(&self, serial: &[u8]) -> Result<Option<u64>, IndexError> {
        self.index.reached(self.progress.durable()).await?;
        self.index.find_serial(serial)
    }

    /// The record of the certificate with a serial number (big-endian), among all records that are durable
    /// now. Reads the disk, away from the runtime.
    ///
    /// # Errors
    /// The index cannot be read, or cannot follow the log, or the log is damaged.
    pub async fn certificate(&self, serial: &[u8]) -> Result<Option<Record>, LookupError> {
        self.index.reached(self.progress.durable()).await?;
        let (index, reader, serial) = (self.index.clone(), self.reader.clone(), serial.to_owned());
        let found = move || match index.place_of_serial(&serial)? {
            Some((record, offset)) => Ok(reader.record_at(record, offset)?),
            None => Ok(None),
        };
        tokio::task::spawn_blocking(found)
            .await
            .unwrap_or_else(|failed| Err(LookupError::Interrupted(failed)))
    }

    /// When the certificate that was recorded last for an identity and instance ends. May lag behind the log
    /// by some milliseconds, and is nothing when the index cannot be read.
    pub fn latest_not_after(&self, identity: &str, instance: &str) -> Option<SystemTime> {
        self.index.latest_not_after(identity, instance)
    }

    /// Proves that the certificate with a serial number (big-endian) is recorded, by a checkpoint that covers
    /// it; one is signed if there is none.
    ///
    /// # Errors
    /// There is no such record, or what the proof is made of cannot be read.
    pub async fn prove(&self, serial: &[u8]) -> Result<Proof, ProveError> {
        let index = self.find_serial(serial).await?.ok_or(ProveError::NotFound)?;
        let mut checkpoint = self.latest_checkpoint();
        if checkpoint.size <= index {
            checkpoint = Arc::new(self.checkpoint().await?);
        }
        let reader = self.reader.clone();
        tokio::task::spawn_blocking(move || proof::prove(&reader, index, &checkpoint))
            .await
            .unwrap_or_else(|failed| Err(ProveError::Interrupted(failed)))
    }

    /// Verifies the records that are durable now, and that the log continues an earlier checkpoint, if one is
    /// given. Blocks for as long as it takes to read them; appending goes on.
    ///
    /// # Errors
    /// The first thing that is not in order.
    pub fn verify(&self, since: Option<&str>) -> Result<VerifyReport, VerifyError> {
        verify::verify_records(self.dir(), &self.verifier, since, || self.progress.durable())
    }

    /// Serves what waits, signs a last checkpoint, makes the indexes durable. Later appends are refused as
    /// [`AppendError::Closed`]. Blocks until the threads have ended.
    pub fn close(&self) {
        let mut threads = self.threads.lock().unwrap_or_else(PoisonError::into_inner);
        if threads.is_empty() {
            return;
        }
        self.queue.close();
        for thread in threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread of the issuance log panicked");
            }
        }
    }
}

impl Drop for IssuanceLog {
    fn drop(&mut self) {
        self.close();
    }
}

/// For the fuzz targets, which have no time for threads.
pub(crate) fn recovered_size(folder: &DataFolder) -> Result<u64, OpenError> {
    let disk: Arc<dyn Disk> = Arc::new(LocalDisk);
    Ok(recover::recover(folder, &disk, SystemTime::now())?.tree.size())
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> std::io::Result<JoinHandle<()>> {
    thread::Builder::new().name(name.to_owned()).spawn(run)
}

#[cfg(test)]
mod tests;
