//! Opens a log: makes a new one, or brings one that a crash or a stop left into the state that the writer
//! goes on from.
//!
//! What is repaired is only what a crash explains: a torn end of the last segment is cut, hashes are made
//! again from the records behind the latest checkpoint. What only loss or tampering explains is an error:
//! fewer records than a checkpoint, the hash file or the index have seen, a missing key or checkpoint.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use signet_certs::digest::hex;
use tracing::warn;

use super::checkpoint::{
    CheckpointError, LogKey, LogKeyError, LogVerifier, SignedCheckpoint, VerifierKeyError, checkpoint_path,
    vkey_path,
};
use super::cursor::Cursor;
use super::files::Disk;
use super::index::IndexError;
use super::segments::{self, Header, SegmentError};
use super::tail;
use super::tree::{Frontier, StoredHashes, Tree, hashes_length, hashes_path, records_covered};
use super::writer::{OpenSegment, begin_segment};
use crate::data_folder::DataFolder;

/// Hashes of this many records are written at once while a hash file is made again.
const HASH_BATCH: u64 = 4096;

/// Why a log does not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log's key is missing, damaged or another log's.
    #[error(transparent)]
    Key(#[from] LogKeyError),
    /// The log's verifier key is unreadable.
    #[error(transparent)]
    VerifierKey(#[from] VerifierKeyError),
    /// The latest checkpoint is not of this log.
    #[error("cannot use the checkpoint {}", path.display())]
    Checkpoint {
        /// The checkpoint's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: CheckpointError,
    },
    /// There are records or hashes, and no checkpoint, which is the first file that a log gets.
    #[error("the checkpoint {} is missing: put it back", path.display())]
    NoCheckpoint {
        /// The checkpoint's file.
        path: PathBuf,
    },
    /// A segment is missing or damaged.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// Records that were durable are gone.
    #[error("the log in {} has lost records: {} knows of {expected}, the segments hold {found}", dir.display(), witness.display())]
    Shortened {
        /// The log's folder.
        dir: PathBuf,
        /// The file that knows of more records.
        witness: PathBuf,
        /// How many it knows of.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// The records are not those that were signed.
    #[error("the first {size} records in {} are not those that were signed: expected root {expected}, found {found}", dir.display())]
    Root {
        /// The log's folder.
        dir: PathBuf,
        /// Size of the latest checkpoint.
        size: u64,
        /// Its root, as hex.
        expected: String,
        /// The root that the records have, as hex.
        found: String,
    },
    /// The index does not fit this log.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A file cannot be read or written, or a thread not be started.
    #[error("cannot {attempted} {}", path.display())]
    Io {
        /// What was attempted.
        attempted: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// A log that is ready to be written.
pub(super) struct Recovered {
    pub(super) key: LogKey,
    pub(super) segment: OpenSegment,
    pub(super) tree: Tree,
    pub(super) checkpoint: SignedCheckpoint,
}

/// Opens the log of a data folder, or makes it; `now` is when a new one begins.
///
/// # Errors
/// See [`OpenError`]; nothing is ever cut that was acknowledged.
pub(super) fn recover(
    folder: &DataFolder,
    disk: &Arc<dyn Disk>,
    now: SystemTime,
) -> Result<Recovered, OpenError> {
    let dir = folder.log_dir();
    let key = open_key(folder, &dir)?;
    open_vkey(folder, &dir, key.verifier(), &**disk)?;
    let log_id = key.verifier().log_id();
    if let Some(path) = segments::find_unfinished(&dir)? {
        // Were it left, a segment that goes on beyond its first index would hide it.
        disk.remove(&path).map_err(failed("remove the unfinished segment", path))?;
    }
    let found = tail::find(&dir, &log_id)?;
    let covered = records_covered(length_of(&hashes_path(&dir))?);
    let checkpoint = open_checkpoint(&dir, &key, &**disk, (found.is_none() && covered == 0).then_some(now))?;

    let size = found.as_ref().map_or(0, |tail| tail.size);
    for (witness, expected) in [(checkpoint_path(&dir), checkpoint.size), (hashes_path(&dir), covered)] {
        if size < expected {
            return Err(OpenError::Shortened { dir, witness, expected, found: size });
        }
    }
    let segment = match found {
        Some(tail) => continue_segment(&dir, &log_id, &tail, checkpoint.size, &**disk)?,
        None => {
            let header = Header { log_id, first: 0, previous: (0, 0) };
            begin_segment(&**disk, &dir, &header)
                .map_err(|source| failed("begin a segment in", dir.clone())(source))?
        }
    };
    let tree = open_tree(&dir, &log_id, &**disk, &checkpoint, covered)?;
    Ok(Recovered { key, segment, tree, checkpoint })
}

fn failed(attempted: &'static str, path: PathBuf) -> impl Fn(io::Error) -> OpenError {
    move |source| OpenError::Io { attempted, path: path.clone(), source }
}

/// A new key is made only where nothing says that there was one before.
fn open_key(folder: &DataFolder, dir: &Path) -> Result<LogKey, OpenError> {
    let path = folder.log_key_path();
    if path.exists() {
        return Ok(LogKey::load(folder)?);
    }
    let log_exists = vkey_path(dir).exists()
        || checkpoint_path(dir).exists()
        || hashes_path(dir).exists()
        || !segments::list(dir)?.is_empty();
    if log_exists {
        return Err(LogKeyError::Missing { path, log_dir: dir.to_owned() }.into());
    }
    Ok(LogKey::create(folder)?)
}

fn open_vkey(
    folder: &DataFolder,
    dir: &Path,
    verifier: &LogVerifier,
    disk: &dyn Disk,
) -> Result<(), OpenError> {
    let path = vkey_path(dir);
    if !path.exists() {
        return disk
            .replace(&path, format!("{}\n", verifier.vkey()).as_bytes())
            .map_err(failed("write", path));
    }
    if LogVerifier::of_folder(dir)? != *verifier {
        let error = LogKeyError::OtherLog { path: folder.log_key_path(), log_dir: dir.to_owned() };
        return Err(error.into());
    }
    Ok(())
}

/// The latest checkpoint; of the empty tree if the log is new, as of `new`.
fn open_checkpoint(
    dir: &Path,
    key: &LogKey,
    disk: &dyn Disk,
    new: Option<SystemTime>,
) -> Result<SignedCheckpoint, OpenError> {
    let path = checkpoint_path(dir);
    match fs::read_to_string(&path) {
        Ok(note) => SignedCheckpoint::verify(&note, key.verifier())
            .map_err(|source| OpenError::Checkpoint { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let Some(now) = new else { return Err(OpenError::NoCheckpoint { path }) };
            let checkpoint = key.sign(Frontier::empty().head(), now);
            disk.replace(&path, checkpoint.note.as_bytes()).map_err(failed("write", path))?;
            Ok(checkpoint)
        }
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Cuts what a crash left behind the last record. What the last server wrote and did not live to sync reads
/// like a record already: it is made durable before anybody relies on it. It is written once more for that:
/// after a sync that failed, systems show their readers what the disk never got, and sync it no more. The first
/// `signed` records are known to be durable.
fn continue_segment(
    dir: &Path,
    log_id: &[u8; 32],
    tail: &tail::Tail,
    signed: u64,
    disk: &dyn Disk,
) -> Result<OpenSegment, OpenError> {
    let path = tail.path(dir);
    let mut file = disk.open(&path).map_err(failed("open", path.clone()))?;
    if tail.torn > 0 {
        warn!(
            path = %path.display(), offset = tail.length, bytes = tail.torn, index = tail.size,
            "cut the unfinished end of the issuance log; nobody was answered for it"
        );
        file.truncate(tail.length).map_err(failed("cut", path.clone()))?;
    }
    let unsigned =
        if signed <= tail.first { 0 } else { Cursor::new(dir, log_id, signed, Some(signed))?.offset() };
    let bytes = tail::read_from(&path, unsigned)?;
    file.write_at(&bytes, unsigned).map_err(failed("write", path.clone()))?;
    file.sync().map_err(failed("sync", path))?;
    Ok(OpenSegment { file, first: tail.first, length: tail.length })
}

/// The tree over all records, checked against the latest checkpoint. The hashes below the checkpoint are
/// taken from the file if they give its root, and those behind it are made from the records. If the file is not
/// as a checkpoint leaves it, which no crash explains, another takes its place: never is a file by that name
/// only partly right, for who would find the parts?
fn open_tree(
    dir: &Path,
    log_id: &[u8; 32],
    disk: &dyn Disk,
    checkpoint: &SignedCheckpoint,
    covered: u64,
) -> Result<Tree, OpenError> {
    let path = hashes_path(dir);
    if covered >= checkpoint.size {
        match grow_tree(dir, log_id, disk, checkpoint, checkpoint.size, &path) {
            Err(OpenError::Root { .. }) if checkpoint.size > 0 => {}
            grown => return grown,
        }
    }
    warn!(path = %path.display(), "the hashes of the issuance log are damaged or missing; making them again");
    let new = path.with_extension("new");
    let mut tree = grow_tree(dir, log_id, disk, checkpoint, 0, &new)?;
    tree.sync().map_err(failed("sync", new.clone()))?;
    disk.rename(&new, &path).and_then(|()| disk.sync_folder_of(&path)).map_err(failed("replace", path))?;
    Ok(tree)
}

/// Keeps the hashes of the first `kept` records in the file at `path`, and makes the rest.
fn grow_tree(
    dir: &Path,
    log_id: &[u8; 32],
    disk: &dyn Disk,
    checkpoint: &SignedCheckpoint,
    kept: u64,
    path: &Path,
) -> Result<Tree, OpenError> {
    let refused = |attempted| failed(attempted, path.to_owned());
    let mut file = disk.open(path).map_err(refused("open"))?;
    file.truncate(hashes_length(kept)).map_err(refused("cut"))?;
    let frontier =
        StoredHashes::open(path).and_then(|hashes| Frontier::read(kept, &hashes)).map_err(refused("read"))?;
    let mut tree = Tree::new(frontier, file);
    let mut cursor = Cursor::new(dir, log_id, kept, None)?;
    loop {
        if tree.size() == checkpoint.size {
            check_root(dir, &tree, checkpoint)?;
        }
        let Some(frame) = cursor.next()? else { break };
        tree.extend(std::iter::once(frame.body));
        if tree.size().is_multiple_of(HASH_BATCH) {
            tree.write().map_err(refused("write"))?;
        }
    }
    tree.write().map_err(refused("write"))?;
    Ok(tree)
}

fn check_root(dir: &Path, tree: &Tree, checkpoint: &SignedCheckpoint) -> Result<(), OpenError> {
    let root = tree.head().root.0;
    if root == checkpoint.root {
        return Ok(());
    }
    Err(OpenError::Root {
        dir: dir.to_owned(),
        size: checkpoint.size,
        expected: hex(&checkpoint.root),
        found: hex(&root),
    })
}

fn length_of(path: &Path) -> Result<u64, OpenError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(failed("read", path.to_owned())(error)),
    }
}
