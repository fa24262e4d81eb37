//! The few things that the log does to a disk, behind a trait, so that tests can let each of them fail and can
//! forget what was not synced.
//!
//! A disk gives the single steps. What takes several, such as a file whose name must survive a power cut, is
//! made of them here, once for the real disk and those of the tests.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use signet_service::files;

/// The records name pods and nodes: they are for the CA's own user.
const PRIVATE: u32 = 0o600;

/// What a file has when it is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    Kept,
    Removed,
}

/// Where the log's files live.
pub(super) trait Disk: Send + Sync {
    /// The file at `path`, made with `mode` if there is none. Its name is durable after the next
    /// [`sync_folder_of`](Disk::sync_folder_of).
    fn open_file(&self, path: &Path, content: Content, mode: u32) -> io::Result<Box<dyn DiskFile>>;

    /// Gives the file `from` the name `to`, in place of whatever had it. Atomic, durable as above.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Takes a file's name away; durable as above.
    fn unlink(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in the folder of `path` durable.
    fn sync_folder_of(&self, path: &Path) -> io::Result<()>;

    /// An empty file, in place of whatever is at `path`, with its name durable.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.open_file(path, Content::Removed, PRIVATE)?;
        self.sync_folder_of(path)?;
        Ok(file)
    }

    /// The file at `path`, made empty if there is none, with its name durable.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.open_file(path, Content::Kept, PRIVATE)?;
        self.sync_folder_of(path)?;
        Ok(file)
    }

    /// Atomically and durably gives the file at `path` these bytes. If only the last step fails, the file has
    /// them, and a power cut may bring the old ones back.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        let mut file = self.open_file(&temporary, Content::Removed, 0o644)?;
        file.write_at(bytes, 0)?;
        file.sync()?;
        self.rename(&temporary, path)?;
        self.sync_folder_of(path)
    }

    /// Durably removes the file at `path`.
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.unlink(path)?;
        self.sync_folder_of(path)
    }
}

/// One file. Positions are given, so that a write that failed can be made again.
pub(super) trait DiskFile: Send {
    /// Writes all of `bytes` at `offset`, or fails and may have written a part.
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the contents and the length durable.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts the file, or fills it with zeros, to `length` bytes.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// The real disk.
pub(super) struct LocalDisk;

impl Disk for LocalDisk {
    fn open_file(&self, path: &Path, content: Content, mode: u32) -> io::Result<Box<dyn DiskFile>> {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(content == Content::Removed).mode(mode);
        Ok(Box::new(options.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_folder_of(&self, path: &Path) -> io::Result<()> {
        files::sync_folder_of(path)
    }
}

impl DiskFile for File {
    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.set_len(length)
    }
}

#[cfg(test)]
pub(super) mod faults {
    //! The real disk with faults on order.
    #![allow(clippy::unwrap_used)]

    use std::sync::{Arc, Mutex, MutexGuard};

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub(in crate::issuance_log) enum Operation {
        Create,
        /// Fails after this many bytes.
        Write(usize),
        Sync,
        Truncate,
        Rename,
    }

    /// Fails what was ordered, once per order, and holds syncs back while told to.
    #[derive(Default)]
    pub(in crate::issuance_log) struct FaultyDisk {
        shared: Arc<Shared>,
    }

    #[derive(Default)]
    struct Shared {
        /// Operations to fail, each on the next file whose name ends so.
        orders: Mutex<Vec<(Operation, &'static str)>>,
        syncs: Mutex<()>,
    }

    impl FaultyDisk {
        /// The next `operation` on a file whose name ends with `name` fails.
        pub(in crate::issuance_log) fn fail(&self, operation: Operation, name: &'static str) {
            self.shared.orders.lock().unwrap().push((operation, name));
        }

        /// No sync ends while the guard lives.
        pub(in crate::issuance_log) fn hold_syncs(&self) -> MutexGuard<'_, ()> {
            self.shared.syncs.lock().unwrap()
        }
    }

    impl Shared {
        /// Takes the order to fail an operation like this one on this file, if there is one.
        fn take(&self, path: &Path, is_meant: impl Fn(Operation) -> bool) -> Option<Operation> {
            let name = path.file_name().unwrap().to_str().unwrap();
            let mut orders = self.orders.lock().unwrap();
            let at =
                orders.iter().position(|(operation, end)| is_meant(*operation) && name.ends_with(end))?;
            Some(orders.remove(at).0)
        }

        fn obey(&self, path: &Path, operation: Operation) -> io::Result<()> {
            self.take(path, |ordered| ordered == operation).map_or(Ok(()), |_| Err(full()))
        }
    }

    fn full() -> io::Error {
        io::ErrorKind::StorageFull.into()
    }

    struct FaultyFile {
        file: Box<dyn DiskFile>,
        path: PathBuf,
        shared: Arc<Shared>,
    }

    impl Disk for FaultyDisk {
        fn open_file(&self, path: &Path, content: Content, mode: u32) -> io::Result<Box<dyn DiskFile>> {
            if content == Content::Removed {
                self.shared.obey(path, Operation::Create)?;
            }
            let file = LocalDisk.open_file(path, content, mode)?;
            Ok(Box::new(FaultyFile { file, path: path.to_owned(), shared: self.shared.clone() }))
        }

        fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            self.shared.obey(to, Operation::Rename)?;
            LocalDisk.rename(from, to)
        }

        fn unlink(&self, path: &Path) -> io::Result<()> {
            LocalDisk.unlink(path)
        }

        fn sync_folder_of(&self, path: &Path) -> io::Result<()> {
            LocalDisk.sync_folder_of(path)
        }
    }

    impl DiskFile for FaultyFile {
        fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
            match self.shared.take(&self.path, |ordered| matches!(ordered, Operation::Write(_))) {
                Some(Operation::Write(part)) => {
                    self.file.write_at(&bytes[..part.min(bytes.len())], offset)?;
                    Err(full())
                }
                _ => self.file.write_at(bytes, offset),
            }
        }

        fn sync(&mut self) -> io::Result<()> {
            let _held = self.shared.syncs.lock().unwrap();
            self.shared.obey(&self.path, Operation::Sync)?;
            self.file.sync()
        }

        fn truncate(&mut self, length: u64) -> io::Result<()> {
            self.shared.obey(&self.path, Operation::Truncate)?;
            self.file.truncate(length)
        }
    }
}
