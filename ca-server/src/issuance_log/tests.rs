//! Tests of the log as a whole: a folder to play in, and logs that run in it.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::cursor::Cursor;
use super::files::faults::FaultyDisk;
use super::record::tests::{act, certificate};
use super::segments::FRAME_HEADER;
use super::{IssuanceLog, LogVerifier, OpenError, Options};
use crate::data_folder::DataFolder;
use crate::store::{MemoryStore, Store};

mod appending;
mod crash;
mod export;
mod interleavings;
mod lookup;
mod queue;
mod recovery;
mod simulated_disk;
mod verification;

/// A data folder, a disk with faults, and a store that outlives the logs opened here.
struct Home {
    root: tempfile::TempDir,
    disk: Arc<FaultyDisk>,
    store: Arc<dyn Store>,
    options: Options,
}

/// A log that runs, and the lock on its folder.
struct Running {
    log: IssuanceLog,
    _folder: DataFolder,
}

impl Deref for Running {
    type Target = IssuanceLog;
    fn deref(&self) -> &IssuanceLog {
        &self.log
    }
}

impl Home {
    /// Checkpoints are signed when asked for and at the end, not in between.
    fn new() -> Home {
        Home::with(Options { checkpoint_interval: Duration::from_secs(3600), ..Options::default() })
    }

    /// Segments of about two records.
    fn with_small_segments() -> Home {
        let home = Home::new();
        Home { options: Options { segment_bytes: 1000, ..home.options.clone() }, ..home }
    }

    fn with(options: Options) -> Home {
        let root = tempfile::tempdir().unwrap();
        Home { root, disk: Arc::default(), store: Arc::new(MemoryStore::default()), options }
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn dir(&self) -> PathBuf {
        self.data().join("log")
    }

    fn segment(&self, first: u64) -> PathBuf {
        super::segments::segment_path(&self.dir(), first)
    }

    fn open(&self) -> Running {
        self.try_open().unwrap()
    }

    fn try_open(&self) -> Result<Running, OpenError> {
        let folder = DataFolder::open(&self.data()).unwrap();
        let log = IssuanceLog::open_on(&folder, self.store.clone(), &self.options, self.disk.clone())?;
        Ok(Running { log, _folder: folder })
    }

    fn open_error(&self) -> OpenError {
        self.try_open().err().unwrap()
    }

    fn verifier(&self) -> LogVerifier {
        LogVerifier::of_folder(&self.dir()).unwrap()
    }

    /// A home whose disk holds what this one's does now, as after a crash of the program; without its store.
    fn crashed(&self) -> Home {
        let copy = Home::with(self.options.clone());
        fs::create_dir_all(copy.dir()).unwrap();
        for (from, to) in [(self.data(), copy.data()), (self.dir(), copy.dir())] {
            for file in fs::read_dir(from).unwrap().map(Result::unwrap) {
                if file.file_type().unwrap().is_file() {
                    fs::copy(file.path(), to.join(file.file_name())).unwrap();
                }
            }
        }
        copy
    }

    /// Where each record's frame lies in the segment beginning with `first`.
    fn frames(&self, first: u64) -> Vec<std::ops::Range<usize>> {
        let end = super::segments::list(&self.dir()).unwrap().into_iter().find(|next| *next > first);
        let mut cursor = Cursor::new(&self.dir(), &self.verifier().log_id(), first, end).unwrap();
        let mut frames = Vec::new();
        while let Some(frame) = cursor.next().unwrap() {
            let start = usize::try_from(frame.offset).unwrap();
            frames.push(start..start + FRAME_HEADER + frame.body.len());
        }
        frames
    }
}

/// A home whose log holds the certificates 0 to `records`, and was closed in order.
async fn filled(home: Home, records: u64) -> Home {
    let log = home.open();
    append(&log, 0..records).await;
    drop(log);
    home
}

/// Appends certificates with these numbers, one after the other.
async fn append(log: &IssuanceLog, numbers: std::ops::Range<u64>) {
    for number in numbers {
        log.append(certificate(number)).await.unwrap();
    }
}

/// Changes the bytes of a file.
fn edit(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).unwrap();
    change(&mut bytes);
    fs::write(path, bytes).unwrap();
}

fn serial(number: u64) -> Vec<u8> {
    match certificate(number).body {
        super::EntryBody::Certificate(certificate) => certificate.serial,
        super::EntryBody::Act(_) => unreachable!(),
    }
}
