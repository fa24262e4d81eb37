//! Backups: a folder with everything of a data folder that cannot be made again, taken from a running server
//! or a stopped one, and put back into an empty data folder.
//!
//! A backup looks like a data folder, so that `log verify --data` and `log list --data` read it:
//!
//! ```text
//! VERSION                    the data folder's layout
//! log/                       segments, hashes, checkpoint and verifier key, up to one moment
//! log-key.pem                as it is stored: sealed if it is sealed
//! authorities/ID/            the authorities' files, as they are stored
//! state.jsonl                the store's rows that nothing can make again (`state`)
//! MANIFEST.json              format, what the log holds, size and SHA-256 of each file; written last
//! ```
//!
//! [`source`] reads, [`folder`] writes. Between them lies a call, or a stream over the admin socket
//! ([`stream`]): the server sends and the operator's program writes, because the two may see other files and
//! run as other users. Nothing is held in memory but a piece of a file. A folder without a manifest is no
//! backup, and one whose making fails is removed. [`restore`] checks all of it before it writes anything.

use std::path::{Path, PathBuf};
use std::{fs, io};

use serde::{Deserialize, Serialize};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::data_folder::DataFolderError;
use crate::issuance_log::{ExportError, VerifierKeyError, VerifyError};
use crate::sealing::is_sealed;
use crate::store::StoreError;

pub(crate) use self::folder::BackupFolder;
pub use self::restore::{RestoreError, Restored, VerifiedBackup};
pub(crate) use self::source::{send_running, send_stopped};

mod folder;
mod restore;
mod source;
mod state;
pub(crate) mod stream;

/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;
/// The file that makes a folder a backup.
pub(crate) const MANIFEST: &str = "MANIFEST.json";
/// The store's rows.
const STATE: &str = "state.jsonl";
/// Bytes of a file that are in memory at once.
const PIECE: usize = 64 * 1024;

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The backup's format.
    format: u32,
    /// Version of the program that made it.
    pub program: String,
    /// When it was complete, RFC 3339.
    pub made_at: String,
    /// The log in it.
    pub log: LogFacts,
    /// Every file but this one.
    pub files: Vec<FileEntry>,
}

/// The log in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogFacts {
    /// Its name.
    pub origin: String,
    /// How many records it has.
    pub records: u64,
    /// Root of the tree over them, hex.
    pub root: String,
    /// How many of them the checkpoint signs.
    pub checkpoint_size: u64,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Relative, with slashes.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// Its digest, hex.
    pub sha256: String,
}

/// Why there is no backup.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The folder for it, or the stopped server's, cannot be used.
    #[error(transparent)]
    Folder(#[from] DataFolderError),
    /// A file cannot be read or written.
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
    /// A file became shorter while it was read.
    #[error("{} has fewer than the {bytes} bytes that belong to the log", path.display())]
    Shrunk {
        /// The file.
        path: PathBuf,
        /// What it should have.
        bytes: u64,
    },
    /// The CA files were changed while they were copied: what was sent may not fit together.
    #[error("the CA's files were changed while the backup was taken: take it again")]
    Changed,
    /// A file has a name that no part of a data folder has.
    #[error("{0:?} is no name of a file in a backup")]
    Name(String),
    /// The log cannot be copied.
    #[error("reading the log")]
    Log(#[from] ExportError),
    /// The state cannot be read.
    #[error("reading the state")]
    Store(#[from] StoreError),
    /// The copy of the log has no verifier key.
    #[error("reading the copied log's public key")]
    Key(#[from] VerifierKeyError),
    /// The copy of the log does not verify.
    #[error("the copied log does not verify")]
    Verify(#[from] VerifyError),
    /// The copy of the log has not all of the records.
    #[error("the copied log has {found} records instead of {expected}")]
    Records {
        /// What the source has.
        expected: u64,
        /// What was copied.
        found: u64,
    },
    /// The server could not go on.
    #[error("the server could not send all of it: {0}")]
    Server(String),
    /// The stream ended before the backup did.
    #[error("the server's answer broke off")]
    CutShort,
    /// The stream is not one of a backup.
    #[error("the server's answer was not understood: {0}")]
    Stream(&'static str),
    /// Whoever was to get it has gone.
    #[error("nobody takes the backup any more")]
    Gone,
}

impl Manifest {
    /// The private keys in the backup `folder`, each with whether it is sealed.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn keys(&self, folder: &Path) -> Result<Vec<(&str, bool)>, BackupError> {
        let is_sealed = |path: PathBuf| match fs::read(&path) {
            Ok(stored) => Ok(is_sealed(&Zeroizing::new(stored))),
            Err(source) => Err(BackupError::Io { attempted: "read", path, source }),
        };
        let names = self.files.iter().map(|file| file.name.as_str()).filter(|name| is_key(name));
        names.map(|name| Ok((name, is_sealed(folder.join(name))?))).collect()
    }
}

/// Where the files of a backup go, one after the other.
pub(crate) trait Destination {
    /// The file `name` begins, and the one before is complete.
    fn begin(&mut self, name: &str) -> Result<(), BackupError>;

    /// The next bytes of the file that began last.
    fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError>;
}

/// Whether this names a file in a backup: relative, and of letters, digits, `-`, `_` and `.` between slashes.
fn is_name(name: &str) -> bool {
    let is_part = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    name.split('/').all(is_part)
}

/// Whether a file of a backup holds a private key.
fn is_key(name: &str) -> bool {
    name.ends_with("key.pem")
}

#[cfg(test)]
mod tests;
