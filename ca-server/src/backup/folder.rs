//! The writing side: a new folder that is filled, checked and then called a backup, or removed.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ring::digest::{Context, SHA256};
use signet_certs::clock::rfc3339;
use signet_certs::digest::hex;
use signet_service::files;

use super::{BackupError, Destination, FORMAT, FileEntry, LogFacts, MANIFEST, Manifest, is_name};
use crate::data_folder::{LOG, check_empty};
use crate::issuance_log::{LogVerifier, verify_copy};

/// How a new file is opened; a test has it opened elsewhere.
type Create = fn(&Path) -> io::Result<File>;

/// A folder that is being filled. Unless it is [`kept`](NewFolder::keep), what was made in it is removed with
/// this value.
pub(super) struct NewFolder {
    path: PathBuf,
    /// What there is to remove: names directly in the folder.
    made: BTreeSet<PathBuf>,
    made_itself: bool,
    /// Folders whose names have to be made durable.
    folders: BTreeSet<PathBuf>,
    kept: bool,
    create: Create,
}

impl NewFolder {
    /// Takes the folder `path`, which is empty or not there, mode 0700.
    pub(super) fn create(path: &Path) -> Result<NewFolder, BackupError> {
        check_empty(path)?;
        let made_itself = !path.exists();
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|source| BackupError::Io {
            attempted: "make",
            path: path.to_owned(),
            source,
        })?;
        Ok(NewFolder {
            path: path.to_owned(),
            made: BTreeSet::new(),
            made_itself,
            folders: BTreeSet::from([path.to_owned()]),
            kept: false,
            create: create_private,
        })
    }

    /// Makes the file `name`, mode 0600, and the folders above it.
    pub(super) fn file(&mut self, name: &str) -> Result<File, BackupError> {
        if !is_name(name) {
            return Err(BackupError::Name(name.to_owned()));
        }
        let path = self.path.join(name);
        let folder = path.parent().unwrap_or(&self.path);
        self.made.extend(Path::new(name).iter().next().map(PathBuf::from));
        self.folders.extend(folder.ancestors().take_while(|above| *above != self.path).map(Path::to_owned));
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)
            .and_then(|()| (self.create)(&path))
            .map_err(|source| BackupError::Io { attempted: "make", path, source })
    }

    /// Counts what somebody else makes in the folder among what goes with it.
    pub(super) fn adopt(&mut self, names: &[&str]) {
        self.made.extend(names.iter().map(PathBuf::from));
    }

    /// Makes all names in it durable.
    pub(super) fn sync(&self) -> Result<(), BackupError> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| BackupError::Io { attempted: "sync", path, source }
        };
        let adopted = self.made.iter().map(|name| self.path.join(name)).filter(|path| path.is_dir());
        for folder in adopted.chain(self.folders.iter().cloned()) {
            let folder = &folder;
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))?;
        }
        files::sync_folder_of(&self.path).map_err(failed(&self.path))
    }

    /// It is as it should be.
    pub(super) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        // The error that brought us here is the one to report.
        for path in self.made.iter().map(|name| self.path.join(name)) {
            let _ = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        }
        if self.made_itself {
            let _ = fs::remove_dir(&self.path);
        }
    }
}

fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// A backup that is being written. Dropped before it is [`finished`](BackupFolder::finish), it is removed.
pub(crate) struct BackupFolder {
    folder: NewFolder,
    open: Option<OpenFile>,
    files: Vec<FileEntry>,
}

struct OpenFile {
    name: String,
    file: File,
    digest: Context,
    bytes: u64,
}

impl BackupFolder {
    /// Takes the folder `path` for a backup.
    ///
    /// # Errors
    /// There is something in it, or it cannot be made.
    pub(crate) fn create(path: &Path) -> Result<BackupFolder, BackupError> {
        Ok(BackupFolder { folder: NewFolder::create(path)?, open: None, files: Vec::new() })
    }

    /// The same, with files that `create` makes.
    #[cfg(test)]
    pub(super) fn made_by(mut self, create: Create) -> BackupFolder {
        self.folder.create = create;
        self
    }

    /// Makes everything durable, verifies the copied log, which must have `records` records, and writes the
    /// manifest, which makes it a backup. Blocks for as long as it takes to read the log.
    ///
    /// # Errors
    /// Something cannot be written, or is not as it should be; nothing is left.
    pub(crate) fn finish(mut self, records: u64, now: SystemTime) -> Result<Manifest, BackupError> {
        self.close()?;
        self.folder.sync()?;
        let log = self.folder.path.join(LOG);
        let verifier = LogVerifier::of_folder(&log)?;
        let report = verify_copy(&log, &verifier)?;
        if report.records != records {
            return Err(BackupError::Records { expected: records, found: report.records });
        }
        let manifest = Manifest {
            format: FORMAT,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            made_at: rfc3339(now),
            log: LogFacts {
                origin: verifier.origin().to_owned(),
                records,
                root: hex(&report.root),
                checkpoint_size: report.checkpoint_size,
            },
            files: std::mem::take(&mut self.files),
        };
        let path = self.folder.path.join(MANIFEST);
        let failed = |source| BackupError::Io { attempted: "write", path: path.clone(), source };
        let json = serde_json::to_vec_pretty(&manifest).map_err(|error| failed(error.into()))?;
        files::write(&path, &json, 0o600).map_err(failed)?;
        self.folder.keep();
        Ok(manifest)
    }

    fn close(&mut self) -> Result<(), BackupError> {
        let Some(OpenFile { name, file, digest, bytes }) = self.open.take() else { return Ok(()) };
        file.sync_all().map_err(|source| self.failed("sync", &name, source))?;
        self.files.push(FileEntry { name, bytes, sha256: hex(digest.finish().as_ref()) });
        Ok(())
    }

    fn failed(&self, attempted: &'static str, name: &str, source: io::Error) -> BackupError {
        BackupError::Io { attempted, path: self.folder.path.join(name), source }
    }
}

impl Destination for BackupFolder {
    fn begin(&mut self, name: &str) -> Result<(), BackupError> {
        self.close()?;
        let file = self.folder.file(name)?;
        self.open = Some(OpenFile { name: name.to_owned(), file, digest: Context::new(&SHA256), bytes: 0 });
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let Some(open) = &mut self.open else { return Err(BackupError::Stream("a piece of no file")) };
        open.digest.update(bytes);
        open.bytes += bytes.len() as u64;
        match open.file.write_all(bytes) {
            Ok(()) => Ok(()),
            Err(source) => {
                let name = open.name.clone();
                Err(self.failed("write", &name, source))
            }
        }
    }
}
