//! What a copy of a log consists of: which bytes of which files, at one moment.
//!
//! Files of a log only grow, and what they have below a durable record never changes. So a copy of a running
//! log is the begin of each file up to a checkpoint; nothing has to stand still. Of a stopped server's log
//! the records behind its last checkpoint are copied too: they were answered.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::checkpoint::{
    CheckpointError, LogVerifier, SignedCheckpoint, VerifierKeyError, checkpoint_path, vkey_path,
};
use super::cursor::Cursor;
use super::segments::{self, HEADER, SegmentError, segment_path};
use super::signer::SignError;
use super::tail;
use super::tree::{hashes_length, hashes_path};

/// Why a log cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// No checkpoint could be signed for the copy.
    #[error(transparent)]
    Sign(#[from] SignError),
    /// The log's verifier key is missing or malformed.
    #[error(transparent)]
    VerifierKey(#[from] VerifierKeyError),
    /// A segment is missing or damaged.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// The latest checkpoint is not one of this log.
    #[error("cannot use the checkpoint {}", path.display())]
    Checkpoint {
        /// Its file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: CheckpointError,
    },
    /// There are fewer records than the checkpoint signs.
    #[error("records are lost: the checkpoint knows of {expected}, the segments hold {found}")]
    Shortened {
        /// How many it signs.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// A file cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The task that reads was stopped.
    #[error("reading the log was interrupted")]
    Interrupted(#[source] tokio::task::JoinError),
}

/// A log that can be copied: its files, in the order in which they should be, and what stands beside them.
#[derive(Debug)]
pub struct LogExport {
    /// Records in the copy.
    pub records: u64,
    /// The latest checkpoint; for a running log it signs all of the records.
    pub checkpoint: SignedCheckpoint,
    /// The log's verifier key, as its file has it.
    pub vkey: String,
    /// The other files.
    pub parts: Vec<LogPart>,
}

/// The begin of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPart {
    /// The file.
    pub path: PathBuf,
    /// Its first bytes, so many.
    pub bytes: u64,
}

impl LogExport {
    /// Of a stopped server's log, which nobody may be writing meanwhile.
    ///
    /// # Errors
    /// It is damaged near its end, or its checkpoint is not its own.
    pub fn of_stopped(dir: &Path) -> Result<LogExport, ExportError> {
        let verifier = LogVerifier::of_folder(dir)?;
        let path = checkpoint_path(dir);
        let note =
            fs::read_to_string(&path).map_err(|source| ExportError::Io { path: path.clone(), source })?;
        let checkpoint = SignedCheckpoint::verify(&note, &verifier)
            .map_err(|source| ExportError::Checkpoint { path, source })?;
        let found = tail::find(dir, &verifier.log_id())?.map_or(0, |tail| tail.size);
        if found < checkpoint.size {
            return Err(ExportError::Shortened { expected: checkpoint.size, found });
        }
        LogExport::new(dir, &verifier, found, checkpoint)
    }

    /// Of a log whose records below `checkpoint`, and their hashes, are durable.
    pub(super) fn of_checkpoint(
        dir: &Path,
        verifier: &LogVerifier,
        checkpoint: SignedCheckpoint,
    ) -> Result<LogExport, ExportError> {
        LogExport::new(dir, verifier, checkpoint.size, checkpoint)
    }

    /// The names of the files beside [`parts`](LogExport::parts), with their content.
    pub(crate) fn notes(&self) -> [(PathBuf, &[u8]); 2] {
        let here = Path::new("");
        [(checkpoint_path(here), self.checkpoint.note.as_bytes()), (vkey_path(here), self.vkey.as_bytes())]
    }

    fn new(
        dir: &Path,
        verifier: &LogVerifier,
        records: u64,
        checkpoint: SignedCheckpoint,
    ) -> Result<LogExport, ExportError> {
        let mut parts = segments_of(dir, &verifier.log_id(), records)?;
        // Hashes above the checkpoint need not be durable; opening makes them from the records.
        parts.push(LogPart { path: hashes_path(dir), bytes: hashes_length(checkpoint.size) });
        Ok(LogExport { records, checkpoint, vkey: format!("{}\n", verifier.vkey()), parts })
    }
}

/// The segments that hold the first `records` records, the last of them up to the end of the last record.
fn segments_of(dir: &Path, log_id: &[u8; 32], records: u64) -> Result<Vec<LogPart>, ExportError> {
    let mut firsts = segments::list(dir)?;
    // The very first segment belongs to the log also while it is empty.
    firsts.retain(|first| *first < records || *first == 0);
    let Some(last) = firsts.pop() else { return Ok(Vec::new()) };
    let mut parts = Vec::with_capacity(firsts.len() + 1);
    for first in firsts {
        let path = segment_path(dir, first);
        let metadata =
            fs::metadata(&path).map_err(|source| ExportError::Io { path: path.clone(), source })?;
        parts.push(LogPart { path, bytes: metadata.len() });
    }
    let mut bytes = HEADER as u64;
    if records > last {
        let mut cursor = Cursor::new(dir, log_id, last, Some(records))?;
        while cursor.next()?.is_some() {}
        bytes = cursor.offset();
    }
    parts.push(LogPart { path: segment_path(dir, last), bytes });
    Ok(parts)
}
