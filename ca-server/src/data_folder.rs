//! The folder that holds what the CA must not lose, and the files in it.
//!
//! One server at a time owns a folder, by a lock that the kernel drops with the process. The folder's parts:
//! `log/` (the issuance log), `state/` (the store), `log-key.pem` (the key that signs the log's checkpoints),
//! `authorities/` (a copy of the CA that is active) and `VERSION` (of this layout). Keys are
//! read and written by [`DataFolder::read_key`] and [`DataFolder::write_key`], which seal them if they are to
//! be sealed. Files that are replaced as a whole leave the old bytes or the new ones after a crash.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Access, AtFlags};
use signet_service::files;
use zeroize::Zeroizing;

use crate::backup::MANIFEST;
use crate::exposure;
use crate::sealing::{KeyFileError, Sealer};

/// The name of the issuance log's folder.
pub(crate) const LOG: &str = "log";
/// The name of the store's folder.
pub(crate) const STATE: &str = "state";
/// The name of the key that signs the log's checkpoints.
pub const LOG_KEY: &str = "log-key.pem";
/// The name of the folder with the authorities' files.
pub const AUTHORITIES: &str = "authorities";
/// The file that says which layout a folder has.
pub(crate) const VERSION_FILE: &str = "VERSION";
pub(crate) const LOCK_FILE: &str = "lock";
/// What a new file system has in its root.
const LOST_AND_FOUND: &str = "lost+found";

/// The layout that this program writes, and the newest that it reads.
const VERSION: u32 = 1;

/// A data folder that is ours as long as this value lives.
#[derive(Debug)]
pub struct DataFolder {
    path: PathBuf,
    /// Holds the lock; nothing else is ever done with it. A copied folder that no server ran in has none.
    _lock: Option<File>,
    /// For the keys.
    sealer: Arc<Sealer>,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataFolderError {
    /// It does not exist and cannot be made.
    #[error("cannot create the data folder {}", path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Files cannot be written in it.
    #[error("cannot write in the data folder {}", path.display())]
    NotWritable {
        /// The folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It, or a file in it, cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// What could not be read.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is another user's.
    #[error(
        "data folder {} belongs to the user {owner}, who could read its keys and change its log: give it to the user that the server runs as (chown)",
        path.display()
    )]
    Foreign {
        /// The folder.
        path: PathBuf,
        /// The other's user id.
        owner: u32,
    },
    /// Another server has it.
    #[error("data folder {} is in use by another server (pid {pid})", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
        /// The other's process id, or "unknown".
        pid: String,
    },
    /// It was to be read as a stopped server's, and the server runs.
    #[error(
        "data folder {} is in use by a running server (pid {pid}): ask that server over its admin socket",
        path.display()
    )]
    Running {
        /// The folder.
        path: PathBuf,
        /// The server's process id, or "unknown".
        pid: String,
    },
    /// It is a backup.
    #[error("{} is a backup: restore it into a data folder (ca-server restore)", path.display())]
    Backup {
        /// The folder.
        path: PathBuf,
    },
    /// Nothing says that this is a data folder.
    #[error("{} is not a data folder: it has no VERSION file", path.display())]
    NotADataFolder {
        /// The folder.
        path: PathBuf,
    },
    /// A later program wrote it, or its VERSION file is damaged.
    #[error("data folder {} has layout version {found:?}; this program knows {VERSION}", path.display())]
    Version {
        /// The folder.
        path: PathBuf,
        /// What its VERSION file says.
        found: String,
    },
    /// It was to be new.
    #[error("{} is not empty (it has {found:?}): nothing there is overwritten", path.display())]
    NotEmpty {
        /// The folder.
        path: PathBuf,
        /// One of the things in it.
        found: String,
    },
}

impl DataFolder {
    /// Takes the folder `path` for a server, and makes it (mode 0700) if there is none. One of ours that others may
    /// enter is closed.
    ///
    /// # Errors
    /// It cannot be made or written, is another user's, another server has it, its layout is not known, or it is a backup.
    pub fn open(path: &Path) -> Result<DataFolder, DataFolderError> {
        // A server there would begin without the state, and change what is to be kept.
        if path.join(MANIFEST).exists() {
            return Err(DataFolderError::Backup { path: path.to_owned() });
        }
        let folder = DataFolder::take(path)?;
        let not_writable = |source| DataFolderError::NotWritable { path: path.to_owned(), source };
        match check_version(path) {
            Err(DataFolderError::NotADataFolder { .. }) if !folder.log_dir().exists() => {
                folder.write_version()?;
            }
            checked => checked?,
        }
        DirBuilder::new().recursive(true).mode(0o700).create(folder.log_dir()).map_err(not_writable)?;
        Ok(folder)
    }

    /// Takes the folder `path`, which is empty or not there, to be filled from a backup. Until
    /// [`write_version`](DataFolder::write_version) no server takes it for a data folder.
    ///
    /// # Errors
    /// It cannot be made or written, another process has it, or there is something in it.
    pub(crate) fn open_empty(path: &Path) -> Result<DataFolder, DataFolderError> {
        // Looked at before the lock, to leave no trace in a folder that is not ours, and again behind it.
        check_empty(path)?;
        let folder = DataFolder::take(path)?;
        check_empty(path)?;
        // A log without a VERSION is what `open` refuses.
        DirBuilder::new()
            .mode(0o700)
            .create(folder.log_dir())
            .map_err(|source| DataFolderError::NotWritable { path: path.to_owned(), source })?;
        Ok(folder)
    }

    /// Says that the folder has this program's layout.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn write_version(&self) -> Result<(), DataFolderError> {
        files::write(&self.path.join(VERSION_FILE), format!("{VERSION}\n").as_bytes(), 0o644)
            .map_err(|source| DataFolderError::NotWritable { path: self.path.clone(), source })
    }

    /// Makes the folder if there is none, and locks it.
    fn take(path: &Path) -> Result<DataFolder, DataFolderError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| DataFolderError::Create { path: path.to_owned(), source })?;
        let not_writable = |source| DataFolderError::NotWritable { path: path.to_owned(), source };
        if let Some(owner) = exposure::close_folder(path).map_err(not_writable)? {
            return Err(DataFolderError::Foreign { path: path.to_owned(), owner });
        }

        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(not_writable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataFolderError::InUse { path: path.to_owned(), pid: pid_in(&mut lock) });
            }
            Err(TryLockError::Error(source)) => return Err(not_writable(source)),
        }
        lock.set_len(0).and_then(|()| lock.rewind()).map_err(not_writable)?;
        write!(lock, "{}", std::process::id()).map_err(not_writable)?;
        Ok(DataFolder { path: path.to_owned(), _lock: Some(lock), sealer: Arc::default() })
    }

    /// Takes the folder of a stopped server for reading. Creates nothing, and keeps a server from starting
    /// in it meanwhile.
    ///
    /// # Errors
    /// A server runs in it, it is not a data folder, cannot be read, or its layout is not known.
    pub fn open_stopped(path: &Path) -> Result<DataFolder, DataFolderError> {
        let unreadable = |path: PathBuf| move |source| DataFolderError::Read { path: path.clone(), source };
        let lock_path = path.join(LOCK_FILE);
        let lock = match File::open(&lock_path) {
            Ok(mut lock) => match lock.try_lock() {
                Ok(()) => Some(lock),
                Err(TryLockError::WouldBlock) => {
                    return Err(DataFolderError::Running { path: path.to_owned(), pid: pid_in(&mut lock) });
                }
                Err(TryLockError::Error(source)) => return Err(unreadable(lock_path)(source)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(unreadable(lock_path)(source)),
        };
        let folder = DataFolder { path: path.to_owned(), _lock: lock, sealer: Arc::default() };
        check_version(path)?;
        Ok(folder)
    }

    /// The same folder, whose keys this sealer seals and opens.
    #[must_use]
    pub fn sealed_by(self, sealer: Sealer) -> DataFolder {
        DataFolder { sealer: Arc::new(sealer), ..self }
    }

    /// The plain content of the key file `name`, such as [`LOG_KEY`]. One that is stored plain is sealed on
    /// the way if keys are to be sealed.
    ///
    /// # Errors
    /// It is not there (the file's error says so), cannot be read or opened, or cannot be sealed.
    pub fn read_key(&self, name: &str) -> Result<Zeroizing<Vec<u8>>, KeyFileError> {
        self.sealer.read_file(&self.path, name)
    }

    /// Stores the plain content of the key file `name`, whose folder must exist: sealed if keys are to be
    /// sealed, mode 0600, atomically and durably.
    ///
    /// # Errors
    /// It cannot be sealed or written; what was there before still is.
    pub fn write_key(&self, name: &str, plain: &[u8]) -> Result<(), KeyFileError> {
        self.sealer.write_file(&self.path, name, plain)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The issuance log's folder: segments, hashes, checkpoint, verifier key.
    pub fn log_dir(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// The store's folder.
    pub fn state_dir(&self) -> PathBuf {
        self.path.join(STATE)
    }

    /// What seals and opens its keys.
    pub fn sealer(&self) -> Arc<Sealer> {
        self.sealer.clone()
    }

    /// The key that signs the log's checkpoints: PKCS#8 in PEM, perhaps sealed, mode 0600.
    pub fn log_key_path(&self) -> PathBuf {
        self.path.join(LOG_KEY)
    }
}

/// Whether the folder `path` says that it has a layout that is known here.
///
/// # Errors
/// It does not.
pub(crate) fn check_version(path: &Path) -> Result<(), DataFolderError> {
    let file = path.join(VERSION_FILE);
    match fs::read_to_string(&file) {
        Ok(text) if text.trim_end() == VERSION.to_string() => Ok(()),
        Ok(text) => Err(DataFolderError::Version {
            path: path.to_owned(),
            found: text.trim_end().chars().take(40).collect(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(DataFolderError::NotADataFolder { path: path.to_owned() })
        }
        Err(source) => Err(DataFolderError::Read { path: file, source }),
    }
}

/// Whether a folder is not there or has nothing in it that is somebody's.
pub(crate) fn check_empty(path: &Path) -> Result<(), DataFolderError> {
    let unreadable = |source| DataFolderError::Read { path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(unreadable)?,
    };
    for entry in entries {
        let name = entry.map_err(unreadable)?.file_name();
        if name != LOST_AND_FOUND && name != LOCK_FILE {
            let found = name.to_string_lossy().into_owned();
            return Err(DataFolderError::NotEmpty { path: path.to_owned(), found });
        }
    }
    Ok(())
}

/// Whether a CA was active in the data folder at `path`, so that a server there starts with that one.
pub fn has_authority(path: &Path) -> bool {
    path.join(AUTHORITIES).is_dir()
}

/// Whether a data folder at `path` could be made and written. Writes nothing.
///
/// # Errors
/// Why not, as the system says it of the folder or of the nearest one above it that is there.
pub fn check_writable(path: &Path) -> Result<(), DataFolderError> {
    let refused = |source| DataFolderError::NotWritable { path: path.to_owned(), source };
    let absolute = std::path::absolute(path).map_err(refused)?;
    let nearest = absolute.ancestors().find(|folder| folder.exists()).unwrap_or(Path::new("/"));
    if !nearest.is_dir() {
        return Err(refused(io::ErrorKind::NotADirectory.into()));
    }
    let access = Access::WRITE_OK | Access::EXEC_OK;
    rustix::fs::accessat(rustix::fs::CWD, nearest, access, AtFlags::EACCESS)
        .map_err(|error| refused(error.into()))
}

fn pid_in(lock: &mut File) -> String {
    let mut text = String::new();
    match lock.take(20).read_to_string(&mut text) {
        Ok(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => text,
        _ => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_new_folder_is_private_and_opens_again() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/data");
        let folder = DataFolder::open(&path).unwrap();
        assert_eq!(mode(&path), 0o700);
        assert_eq!(mode(&folder.log_dir()), 0o700);
        assert_eq!(folder.state_dir(), path.join("state"));
        assert_eq!(folder.log_key_path(), path.join("log-key.pem"));
        drop(folder);
        DataFolder::open(&path).unwrap();
        DataFolder::open_stopped(&path).unwrap();
    }

    #[test]
    fn a_second_server_is_told_who_has_the_folder() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        let _first = DataFolder::open(&path).unwrap();
        let pid = std::process::id();
        let error = DataFolder::open(&path).unwrap_err().to_string();
        assert_eq!(error, format!("data folder {} is in use by another server (pid {pid})", path.display()));
        let error = DataFolder::open_stopped(&path).unwrap_err().to_string();
        assert!(error.contains("admin socket") && error.contains(&pid.to_string()), "{error}");
    }

    #[test]
    fn a_reader_of_a_stopped_servers_folder_keeps_a_server_out() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        drop(DataFolder::open(&path).unwrap());
        let reader = DataFolder::open_stopped(&path).unwrap();
        assert!(matches!(DataFolder::open(&path), Err(DataFolderError::InUse { .. })));
        drop(reader);
        DataFolder::open(&path).unwrap();
    }

    #[test]
    fn reading_creates_nothing() {
        let parent = tempfile::tempdir().unwrap();
        let absent = parent.path().join("absent");
        assert!(matches!(DataFolder::open_stopped(&absent), Err(DataFolderError::NotADataFolder { .. })));
        assert!(!absent.exists());
        assert!(matches!(
            DataFolder::open_stopped(parent.path()),
            Err(DataFolderError::NotADataFolder { .. })
        ));
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_unknown_layout_is_refused_and_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("data");
        drop(DataFolder::open(&path).unwrap());
        fs::write(path.join("VERSION"), "2\n").unwrap();
        let error = DataFolder::open(&path).unwrap_err().to_string();
        assert!(error.contains("layout version \"2\"") && error.contains("knows 1"), "{error}");
        assert!(matches!(DataFolder::open_stopped(&path), Err(DataFolderError::Version { .. })));
        // A log without a VERSION is not a fresh folder either.
        fs::remove_file(path.join("VERSION")).unwrap();
        assert!(matches!(DataFolder::open(&path), Err(DataFolderError::NotADataFolder { .. })));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_refused() {
        // No file can be created in the kernel's own tree, whoever tries, root included.
        let error = DataFolder::open(Path::new("/sys")).unwrap_err();
        assert!(matches!(error, DataFolderError::NotWritable { .. }), "{error:?}");
        assert_eq!(error.to_string(), "cannot write in the data folder /sys");

        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(DataFolder::open(&file), Err(DataFolderError::Create { .. })));
    }
}
