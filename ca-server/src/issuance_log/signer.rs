//! Signs checkpoints, on a thread of its own, so that no append ever waits for one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use signet_service::clock_watch::ClockWatch;
use signet_service::logging::with_causes;
use tokio::sync::oneshot;
use tracing::{debug, error};

use super::checkpoint::{LogKey, SignedCheckpoint, checkpoint_path};
use super::cursor::Cursor;
use super::files::{Disk, DiskFile};
use super::progress::Progress;
use super::tree::{Frontier, StoredHashes, TreeHead, hashes_length, hashes_path, records_covered};

/// Why there is no new checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The hashes could not be made durable, or the checkpoint not be written.
    #[error("cannot write a checkpoint of the log")]
    Write(#[source] io::Error),
    /// Too many are being signed, or the disk refuses the tree's hashes for now.
    #[error("cannot sign a checkpoint of the log now")]
    Busy,
    /// The log was shut down.
    #[error("the log is closed")]
    Closed,
}

/// Where the answer to a wish for a checkpoint goes.
pub(super) type SignReply = oneshot::Sender<Result<SignedCheckpoint, SignError>>;

/// A tree head to be signed. Without a reply it is only signed if it says more than the latest.
pub(super) struct SignRequest {
    pub(super) head: TreeHead,
    pub(super) reply: Option<SignReply>,
}

/// The signing thread's things.
pub(super) struct Signer {
    dir: PathBuf,
    key: LogKey,
    disk: Arc<dyn Disk>,
    hashes: Box<dyn DiskFile>,
    /// A sync failed when the file may have had the hashes of so many records: of those that are not signed
    /// nobody knows what the disk has.
    in_doubt: u64,
    progress: Arc<Progress>,
    clock: Arc<ClockWatch>,
}

impl Signer {
    /// A signer of the log in `dir`.
    ///
    /// # Errors
    /// The hash file does not open.
    pub(super) fn new(
        dir: &Path,
        key: LogKey,
        disk: Arc<dyn Disk>,
        progress: Arc<Progress>,
        clock: Arc<ClockWatch>,
    ) -> io::Result<Signer> {
        let hashes = disk.open(&hashes_path(dir))?;
        Ok(Signer { dir: dir.to_owned(), key, disk, hashes, in_doubt: 0, progress, clock })
    }

    /// Signs what is asked for until nobody can ask any more.
    pub(super) fn run(mut self, requests: &Receiver<SignRequest>) {
        for request in requests {
            if request.reply.is_none() && request.head.size <= self.progress.signed().size {
                continue;
            }
            let signed = self.publish(request.head);
            match &signed {
                Ok(signed) => debug!(size = signed.size, "signed a checkpoint of the issuance log"),
                Err(error) => error!(error = with_causes(error), "no checkpoint of the issuance log"),
            }
            if let Some(reply) = request.reply {
                // Whoever asked may have gone.
                let _ = reply.send(signed);
            }
        }
    }

    /// The hashes below a checkpoint are durable before it is, so that opening can rely on them.
    fn publish(&mut self, head: TreeHead) -> Result<SignedCheckpoint, SignError> {
        self.sync_hashes(head.size).map_err(SignError::Write)?;
        let signed = self.key.sign(head, self.clock.reckoned());
        let path = checkpoint_path(&self.dir);
        self.disk.replace(&path, signed.note.as_bytes()).map_err(SignError::Write)?;
        self.progress.set_signed(signed.clone());
        Ok(signed)
    }

    /// Makes the hashes of the first `size` records durable. After a failure they are made again from the
    /// records: a second sync alone would succeed and write nothing of what the first one lost.
    fn sync_hashes(&mut self, size: u64) -> io::Result<()> {
        let signed = self.progress.signed().size;
        if self.in_doubt > signed {
            self.write_hashes_again(signed, size)?;
        }
        self.hashes.sync().inspect_err(|_| {
            // The writer may have been beyond what was to be signed, and its latest write be cut short.
            let length = fs::metadata(hashes_path(&self.dir)).map(|metadata| metadata.len());
            self.in_doubt = length.map_or(u64::MAX, |length| records_covered(length) + 1);
        })
    }

    /// The writer is beyond these already.
    fn write_hashes_again(&mut self, signed: u64, size: u64) -> io::Result<()> {
        let mut frontier = Frontier::read(signed, &StoredHashes::open(&hashes_path(&self.dir))?)?;
        let log_id = self.key.verifier().log_id();
        let mut cursor = Cursor::new(&self.dir, &log_id, signed, Some(size)).map_err(io::Error::other)?;
        let mut hashes = Vec::new();
        while let Some(frame) = cursor.next().map_err(io::Error::other)? {
            hashes.extend(frontier.push(frame.body).iter().flat_map(|hash| hash.0));
        }
        self.hashes.write_at(&hashes, hashes_length(signed))
    }
}
