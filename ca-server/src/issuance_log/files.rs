//! The few things that the writer does to a disk, behind a trait, so that tests can let each of them fail.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use signet_service::files;

/// Where the log's files live.
pub(super) trait Disk: Send + Sync {
    /// An empty file, in place of whatever is at `path`, with its name durable.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// The file at `path`, made empty if there is none.
    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;

    /// Atomically and durably gives the file at `path` these bytes.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()>;
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
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = private().truncate(true).open(path)?;
        files::sync_folder_of(path)?;
        Ok(Box::new(file))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(private().open(path)?))
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        files::write(path, bytes, 0o644)
    }
}

/// The records name pods and nodes: they are for the CA's own user.
fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
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
        Replace,
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
        path: std::path::PathBuf,
        shared: Arc<Shared>,
    }

    impl Disk for FaultyDisk {
        fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            self.shared.obey(path, Operation::Create)?;
            let file = LocalDisk.create(path)?;
            Ok(Box::new(FaultyFile { file, path: path.to_owned(), shared: self.shared.clone() }))
        }

        fn open(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
            let file = LocalDisk.open(path)?;
            Ok(Box::new(FaultyFile { file, path: path.to_owned(), shared: self.shared.clone() }))
        }

        fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
            self.shared.obey(path, Operation::Replace)?;
            LocalDisk.replace(path, bytes)
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
