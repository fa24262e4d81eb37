//! The way back: a backup is checked as a whole, and only then put into an empty data folder.
//!
//! What comes back is the log with its key, the authorities' files and the state; the indexes are made again.
//! The trust object begins a new epoch, and the log gets a record of all this. No server takes the folder
//! for a data folder before everything is durable: `VERSION` is written last.

use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use ring::digest::{Context, SHA256};
use serde::Deserialize;
use signet_certs::digest::hex;
use thiserror::Error;
use zeroize::Zeroizing;

use super::folder::NewFolder;
use super::state::{self, StateFileError};
use super::{BackupError, FORMAT, FileEntry, MANIFEST, Manifest, PIECE, STATE, is_key, is_name};
use crate::data_folder::{self, DataFolder, DataFolderError, LOCK_FILE, LOG, LOG_KEY, VERSION_FILE};
use crate::issuance_log::{
    ActEntry, AppendError, Entry, IssuanceLog, LogVerifier, OpenError, Options, SignError, SignedCheckpoint,
    VerifierKeyError, VerifyError, verify,
};
use crate::sealing::{KeyFileError, SealError, Sealer};
use crate::store::{SledStore, Store, StoreError};
use crate::trust::publisher::{self, PublishError};

/// No manifest is larger: it has a line for each 64 MiB of log.
const MAX_MANIFEST: u64 = 256 * 1024 * 1024;
/// No key file is larger.
const MAX_KEY: u64 = 1024 * 1024;

/// Why a backup is not restored.
#[derive(Debug, Error)]
pub enum RestoreError {
    /// It has no manifest.
    #[error("{} is no backup, or one that was never finished: it has no {MANIFEST}", path.display())]
    NotABackup {
        /// The folder.
        path: PathBuf,
    },
    /// The manifest is not what this program writes.
    #[error("the manifest {} cannot be read", path.display())]
    Manifest {
        /// Its file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// A later program made it.
    #[error("backup {} has format {found}; this program knows {FORMAT}: restore it with the program that made it or a later one", path.display())]
    Format {
        /// The folder.
        path: PathBuf,
        /// What its manifest says.
        found: u32,
    },
    /// A file's name leads elsewhere.
    #[error("the manifest names {0:?}, which is no name of a file in a backup")]
    Name(String),
    /// A file that must be there is not.
    #[error("the backup has no {0}")]
    Missing(String),
    /// A file is not the one that was backed up.
    #[error("{} is not as it was when it was backed up: {what}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// The log is another one than the manifest says.
    #[error("the log in the backup is not the one that its manifest speaks of: {0} differs")]
    OtherLog(&'static str),
    /// A key cannot be opened with the key-encryption key that is given.
    #[error("cannot use the key {name}")]
    Seal {
        /// Its file.
        name: String,
        /// Why not.
        #[source]
        source: SealError,
    },
    /// A key cannot be sealed in its new place.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The log's public key cannot be read.
    #[error("reading the log's public key")]
    VerifierKey(#[from] VerifierKeyError),
    /// The log does not verify.
    #[error("the log in the backup does not verify")]
    Verify(#[from] VerifyError),
    /// The state is not readable.
    #[error("the backup's {STATE} cannot be put back")]
    State(#[from] StateFileError),
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
    /// The data folder cannot be used, or is not empty.
    #[error(transparent)]
    Folder(#[from] DataFolderError),
    /// A file cannot be made in it.
    #[error(transparent)]
    Write(#[from] BackupError),
    /// The store does not open or take the state.
    #[error("putting the state back")]
    Store(#[from] StoreError),
    /// The trust object's version cannot be raised.
    #[error("beginning a new trust epoch")]
    Epoch(#[from] PublishError),
    /// The restored log does not open.
    #[error("opening the restored log")]
    Log(#[from] OpenError),
    /// What was done cannot be recorded.
    #[error("recording the restore")]
    Record(#[from] AppendError),
    /// The record cannot be signed.
    #[error("signing the restored log")]
    Sign(#[from] SignError),
}

impl RestoreError {
    /// Whether the backup itself is to blame.
    pub fn is_of_the_backup(&self) -> bool {
        matches!(
            self,
            Self::NotABackup { .. }
                | Self::Manifest { .. }
                | Self::Format { .. }
                | Self::Name(_)
                | Self::Missing(_)
                | Self::Changed { .. }
                | Self::OtherLog(_)
                | Self::VerifierKey(_)
                | Self::Verify(_)
                | Self::State(_)
        )
    }
}

/// A backup in which every file is as the manifest says and the log verifies.
pub struct VerifiedBackup {
    path: PathBuf,
    manifest: Manifest,
}

/// What a restore did.
#[derive(Debug)]
pub struct Restored {
    /// The last state of the log that the backup has; records behind it are gone.
    pub backed_up: SignedCheckpoint,
    /// How many records the backup has.
    pub records: u64,
    /// The log as it is now, with the record of the restore.
    pub checkpoint: SignedCheckpoint,
    /// The epoch that the trust object begins.
    pub epoch: u64,
}

impl VerifiedBackup {
    /// Checks the backup in `path`. Blocks for as long as it takes to read all of it twice.
    ///
    /// # Errors
    /// The first thing that is not in order.
    pub fn open(path: &Path) -> Result<VerifiedBackup, RestoreError> {
        let manifest = read_manifest(path)?;
        for needed in [VERSION_FILE, LOG_KEY, "log/log.vkey", "log/checkpoint", "log/hashes"] {
            if !manifest.files.iter().any(|file| file.name == needed) {
                return Err(RestoreError::Missing(needed.to_owned()));
            }
        }
        for file in &manifest.files {
            if !is_name(&file.name) {
                return Err(RestoreError::Name(file.name.clone()));
            }
            copy(path, file, &mut io::sink())?;
        }
        data_folder::check_version(path)?;
        let log = path.join(LOG);
        let verifier = LogVerifier::of_folder(&log)?;
        let report = verify(&log, &verifier, None)?;
        for (same, what) in [
            (verifier.origin() == manifest.log.origin, "its name"),
            (report.records == manifest.log.records, "the number of records"),
            (hex(&report.root) == manifest.log.root, "the root"),
        ] {
            if !same {
                return Err(RestoreError::OtherLog(what));
            }
        }
        Ok(VerifiedBackup { path: path.to_owned(), manifest })
    }

    /// What it holds.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Puts it into the folder `data`, which is empty or not there. Keys stay sealed, and `sealer` must open
    /// them; keys that are plain are sealed by it.
    ///
    /// # Errors
    /// A key cannot be opened, the folder is not empty, or something cannot be written; nothing is left in it.
    pub async fn restore(
        &self,
        data: &Path,
        sealer: Sealer,
        now: SystemTime,
    ) -> Result<Restored, RestoreError> {
        self.check_keys(&sealer)?;
        let backed_up = self.checkpoint()?;

        data_folder::check_empty(data)?;
        let mut target = NewFolder::create(data)?;
        let folder = DataFolder::open_empty(data)?.sealed_by(sealer);
        target.adopt(&[LOCK_FILE, LOG, data_folder::STATE, VERSION_FILE]);
        for file in &self.manifest.files {
            if file.name != STATE && file.name != VERSION_FILE {
                let mut to = target.file(&file.name)?;
                copy(&self.path, file, &mut to)?;
                to.sync_all().map_err(failed("sync", &data.join(&file.name)))?;
            }
            if is_key(&file.name) {
                // Reading seals what is plain.
                folder.read_key(&file.name)?;
            }
        }
        let store: Arc<dyn Store> = Arc::new(SledStore::open(&folder.state_dir())?);
        let state = self.path.join(STATE);
        if self.manifest.files.iter().any(|file| file.name == STATE) {
            let file = File::open(&state).map_err(failed("open", &state))?;
            state::put_back(BufReader::new(file), store.as_ref())?;
        }
        let epoch = publisher::begin_epoch(store.as_ref(), now)?;
        store.flush()?;

        let log = IssuanceLog::open(&folder, store, &Options::default())?;
        log.append(Entry::act(now, self.act(epoch))).await?;
        let checkpoint = log.checkpoint().await?;
        log.close();
        target.sync()?;
        folder.write_version()?;
        target.keep();
        Ok(Restored { backed_up, records: self.manifest.log.records, checkpoint, epoch })
    }

    fn act(&self, epoch: u64) -> ActEntry {
        let Manifest { made_at, log, .. } = &self.manifest;
        ActEntry {
            kind: "restored".to_owned(),
            actor: format!("uid:{}", rustix::process::getuid().as_raw()),
            subject: format!("{} records, root {}", log.records, log.root),
            reason: format!("from the backup of {made_at}; later records are gone; trust epoch {epoch}"),
        }
    }

    fn check_keys(&self, sealer: &Sealer) -> Result<(), RestoreError> {
        for FileEntry { name, .. } in self.manifest.files.iter().filter(|file| is_key(&file.name)) {
            let path = self.path.join(name);
            let mut stored = Zeroizing::new(Vec::new());
            File::open(&path)
                .and_then(|file| file.take(MAX_KEY).read_to_end(&mut stored))
                .map_err(failed("read", &path))?;
            sealer.open(name, &stored).map_err(|source| RestoreError::Seal { name: name.clone(), source })?;
        }
        Ok(())
    }

    fn checkpoint(&self) -> Result<SignedCheckpoint, RestoreError> {
        let log = self.path.join(LOG);
        let path = log.join("checkpoint");
        let note = fs::read_to_string(&path).map_err(failed("read", &path))?;
        SignedCheckpoint::verify(&note, &LogVerifier::of_folder(&log)?).map_err(|source| {
            VerifyError::Checkpoint { checkpoint: path.display().to_string(), source }.into()
        })
    }
}

fn failed(attempted: &'static str, path: &Path) -> impl Fn(io::Error) -> RestoreError {
    let path = path.to_owned();
    move |source| RestoreError::Io { attempted, path: path.clone(), source }
}

/// The format is looked at first: a later one may have anything else in it.
fn read_manifest(backup: &Path) -> Result<Manifest, RestoreError> {
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let path = backup.join(MANIFEST);
    let mut text = Vec::new();
    match File::open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RestoreError::NotABackup { path: backup.to_owned() });
        }
        opened => opened
            .and_then(|file| file.take(MAX_MANIFEST).read_to_end(&mut text))
            .map_err(failed("read", &path))?,
    };
    let unreadable = |source| RestoreError::Manifest { path: path.clone(), source };
    let head: Head = serde_json::from_slice(&text).map_err(unreadable)?;
    if head.format != FORMAT {
        return Err(RestoreError::Format { path: backup.to_owned(), found: head.format });
    }
    serde_json::from_slice(&text).map_err(unreadable)
}

/// Copies a file of the backup, which must be the one that the manifest speaks of.
fn copy(backup: &Path, entry: &FileEntry, to: &mut impl Write) -> Result<(), RestoreError> {
    let path = backup.join(&entry.name);
    let changed = |what| RestoreError::Changed { path: path.clone(), what };
    let found = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(RestoreError::Missing(entry.name.clone()));
        }
        found => found.map_err(failed("read", &path))?,
    };
    if !found.is_file() {
        return Err(changed("it is no regular file"));
    }
    if found.len() != entry.bytes {
        return Err(changed("its length differs"));
    }
    let mut file = File::open(&path).map_err(failed("open", &path))?.take(entry.bytes);
    let mut digest = Context::new(&SHA256);
    let mut piece = Zeroizing::new(vec![0; PIECE]);
    loop {
        let read = file.read(&mut piece).map_err(failed("read", &path))?;
        if read == 0 {
            break;
        }
        digest.update(&piece[..read]);
        to.write_all(&piece[..read]).map_err(failed("copy", &path))?;
    }
    if hex(digest.finish().as_ref()) != entry.sha256 {
        return Err(changed("its SHA-256 differs"));
    }
    Ok(())
}
