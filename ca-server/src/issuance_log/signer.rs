//! Signs checkpoints, on a thread of its own, so that no append ever waits for one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Receiver;

use signet_service::clock_watch::ClockWatch;
use signet_service::logging::with_causes;
use tokio::sync::oneshot;
use tracing::{debug, error};

use super::checkpoint::{LogKey, SignedCheckpoint, checkpoint_path};
use super::files::Disk;
use super::progress::Progress;
use super::tree::{StoredHashes, TreeHead};

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
    key: LogKey,
    disk: Arc<dyn Disk>,
    hashes: StoredHashes,
    path: PathBuf,
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
        Ok(Signer {
            key,
            disk,
            hashes: StoredHashes::open(dir)?,
            path: checkpoint_path(dir),
            progress,
            clock,
        })
    }

    /// Signs what is asked for until nobody can ask any more.
    pub(super) fn run(self, requests: &Receiver<SignRequest>) {
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
    fn publish(&self, head: TreeHead) -> Result<SignedCheckpoint, SignError> {
        self.hashes.sync().map_err(SignError::Write)?;
        let signed = self.key.sign(head, self.clock.reckoned());
        self.disk.replace(&self.path, signed.note.as_bytes()).map_err(SignError::Write)?;
        self.progress.set_signed(signed.clone());
        Ok(signed)
    }
}
