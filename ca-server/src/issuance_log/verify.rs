//! Reads a whole log again and checks all of it.
//!
//! Everything is recomputed from the records and compared with what stands beside: checksums, places,
//! segment headers, hashes, roots, signatures. It needs 24 bytes of memory per certificate, to find a serial
//! number that was used twice, and little else.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;
use signet_certs::digest::hex;
use tlog_tiles::HASH_SIZE;

use super::checkpoint::{CheckpointError, LogVerifier, SignedCheckpoint, checkpoint_path};
use super::cursor::Cursor;
use super::record::{EntryBody, Record, RecordError, hex_bytes, rfc3339};
use super::segments::SegmentError;
use super::tail;
use super::tree::{Frontier, hashes_path, records_covered};

/// What a log was found to hold, all of it in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerifyReport {
    /// SHA-256 of the log's public key.
    #[serde(serialize_with = "hex_bytes")]
    pub log_id: [u8; 32],
    /// Records that were read; the size of the tree over them.
    pub records: u64,
    /// Of these, certificates.
    pub certificates: u64,
    /// Of these, acts.
    pub acts: u64,
    /// Segment files.
    pub segments: u64,
    /// Root of the tree over all records.
    #[serde(serialize_with = "hex_bytes")]
    pub root: [u8; 32],
    /// How many records the latest checkpoint signs.
    pub checkpoint_size: u64,
    /// When it was signed.
    #[serde(serialize_with = "rfc3339")]
    pub checkpoint_time: SystemTime,
    /// Records that it does not sign yet.
    pub records_after_checkpoint: u64,
    /// Size of the earlier checkpoint that the log was found to continue, if one was given.
    pub since_size: Option<u64>,
    /// Time of the first record.
    #[serde(serialize_with = "optional_rfc3339")]
    pub first_time: Option<SystemTime>,
    /// Time of the last record.
    #[serde(serialize_with = "optional_rfc3339")]
    pub last_time: Option<SystemTime>,
    /// Bytes of an unfinished batch at the end, which the next start cuts.
    pub unfinished_bytes: u64,
}

/// Why a log is not in order.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A segment is missing, damaged, or holds what is not its own.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A record is in its place, and cannot be read.
    #[error("{} has at byte {offset} a record {index} that cannot be read", path.display())]
    Record {
        /// The segment.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// Which record.
        index: u64,
        /// Why not.
        #[source]
        source: RecordError,
    },
    /// Two certificates have one serial number.
    #[error("records {first} and {second} have the same serial number")]
    DuplicateSerial {
        /// The earlier record.
        first: u64,
        /// The later one.
        second: u64,
    },
    /// The hash file differs from the records.
    #[error("{} is damaged at byte {offset}, record {index}: expected {expected}, found {found}", path.display())]
    Hash {
        /// The hash file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// The record that completes the subtree.
        index: u64,
        /// The hash that the records have, as hex.
        expected: String,
        /// What stands there.
        found: String,
    },
    /// A checkpoint signs other records than those that are there.
    #[error(
        "the first {size} records are not those that {checkpoint} signs: expected root {expected}, found {found}"
    )]
    Root {
        /// Which checkpoint: a file, or the one that was given.
        checkpoint: String,
        /// How many records it signs.
        size: u64,
        /// Its root, as hex.
        expected: String,
        /// The root of the records, as hex.
        found: String,
    },
    /// There are fewer records than something beside them knows of.
    #[error("records are lost: {witness} knows of {expected}, the segments hold {found}")]
    Shortened {
        /// What knows of more.
        witness: String,
        /// How many it knows of.
        expected: u64,
        /// How many there are.
        found: u64,
    },
    /// A checkpoint is not this log's.
    #[error("cannot use {checkpoint}")]
    Checkpoint {
        /// Which checkpoint: a file, or the one that was given.
        checkpoint: String,
        /// What is wrong with it.
        #[source]
        source: CheckpointError,
    },
    /// A file beside the segments cannot be read.
    #[error("cannot read {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Verifies the log in `dir`, which no server may be writing meanwhile, against the key in `verifier` and, if
/// given, an earlier checkpoint's note.
///
/// # Errors
/// The first thing that is not in order.
pub fn verify(dir: &Path, verifier: &LogVerifier, since: Option<&str>) -> Result<VerifyReport, VerifyError> {
    verify_stopped(dir, verifier, since, Some(Serials::default()))
}

/// Verifies a copy of a log as [`verify`] does, except that it does not look for serial numbers that were
/// used twice: no copying makes any, and without that it needs next to no memory.
///
/// # Errors
/// The first thing that is not in order.
pub(crate) fn verify_copy(dir: &Path, verifier: &LogVerifier) -> Result<VerifyReport, VerifyError> {
    verify_stopped(dir, verifier, None, None)
}

fn verify_stopped(
    dir: &Path,
    verifier: &LogVerifier,
    since: Option<&str>,
    serials: Option<Serials>,
) -> Result<VerifyReport, VerifyError> {
    let tail = tail::find(dir, &verifier.log_id())?;
    let (size, torn) = tail.map_or((0, 0), |tail| (tail.size, tail.torn));
    // Nothing writes: hashes of more records than there are mean that records are lost.
    let covered = records_covered(length_of(&hashes_path(dir))?);
    if covered > size {
        return Err(VerifyError::Shortened {
            witness: hashes_path(dir).display().to_string(),
            expected: covered,
            found: size,
        });
    }
    let report = verify_with(dir, verifier, since, || size, serials, Hashes::Signed)?;
    Ok(VerifyReport { unfinished_bytes: torn, ..report })
}

/// Verifies as many records as `size` says after the checkpoint was read.
pub(super) fn verify_records(
    dir: &Path,
    verifier: &LogVerifier,
    since: Option<&str>,
    size: impl FnOnce() -> u64,
) -> Result<VerifyReport, VerifyError> {
    verify_with(dir, verifier, since, size, Some(Serials::default()), Hashes::Written)
}

/// Which of the stored hashes have to be right.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hashes {
    /// All that there are.
    Written,
    /// Those below the latest checkpoint. A power cut may have left any part of the others, and the next start
    /// makes them again.
    Signed,
}

/// Looks for serial numbers that were used twice only if given where to keep them.
fn verify_with(
    dir: &Path,
    verifier: &LogVerifier,
    since: Option<&str>,
    size: impl FnOnce() -> u64,
    mut serials: Option<Serials>,
    which: Hashes,
) -> Result<VerifyReport, VerifyError> {
    let path = checkpoint_path(dir);
    let note = fs::read_to_string(&path).map_err(|source| VerifyError::Io { path: path.clone(), source })?;
    let latest = Expected::new(path.display().to_string(), &note, verifier)?;
    let since =
        since.map(|note| Expected::new("the earlier checkpoint".to_owned(), note, verifier)).transpose()?;
    let size = size();
    let expected: Vec<&Expected> = [Some(&latest), since.as_ref()].into_iter().flatten().collect();
    for checkpoint in &expected {
        checkpoint.check_size(size)?;
    }

    let mut report = VerifyReport {
        log_id: verifier.log_id(),
        records: size,
        certificates: 0,
        acts: 0,
        segments: 0,
        root: [0; 32],
        checkpoint_size: latest.checkpoint.size,
        checkpoint_time: latest.checkpoint.time,
        records_after_checkpoint: size - latest.checkpoint.size,
        since_size: since.as_ref().map(|since| since.checkpoint.size),
        first_time: None,
        last_time: None,
        unfinished_bytes: 0,
    };
    let mut hashes = HashFile::open(dir, latest.checkpoint.size, which)?;
    let mut frontier = Frontier::empty();
    let mut last_segment = None;
    let mut cursor = Cursor::new(dir, &verifier.log_id(), 0, Some(size))?;
    loop {
        for checkpoint in &expected {
            checkpoint.check_root(&frontier)?;
        }
        let Some(frame) = cursor.next()? else { break };
        let (index, offset) = (frame.index, frame.offset);
        let decoded = Record::decode(frame.body);
        let made = frontier.push(frame.body);
        let record =
            decoded.map_err(|source| VerifyError::Record { path: cursor.path(), offset, index, source })?;
        for hash in made {
            hashes.check(index, hash.0)?;
        }
        match &record.entry.body {
            EntryBody::Certificate(certificate) => {
                report.certificates += 1;
                if let Some(serials) = &mut serials {
                    serials.add(&certificate.serial, index);
                }
            }
            EntryBody::Act(_) => report.acts += 1,
        }
        report.first_time.get_or_insert(record.entry.time);
        report.last_time = Some(record.entry.time);
        if last_segment.replace(cursor.first()) != Some(cursor.first()) {
            report.segments += 1;
        }
    }
    cursor.cross()?;
    serials.map_or(Ok(()), Serials::check)?;
    report.root = frontier.head().root.0;
    Ok(report)
}

/// A checkpoint that the records have to agree with.
struct Expected {
    name: String,
    checkpoint: SignedCheckpoint,
}

impl Expected {
    fn new(name: String, note: &str, verifier: &LogVerifier) -> Result<Expected, VerifyError> {
        match SignedCheckpoint::verify(note, verifier) {
            Ok(checkpoint) => Ok(Expected { name, checkpoint }),
            Err(source) => Err(VerifyError::Checkpoint { checkpoint: name, source }),
        }
    }

    fn check_size(&self, found: u64) -> Result<(), VerifyError> {
        if self.checkpoint.size <= found {
            return Ok(());
        }
        Err(VerifyError::Shortened { witness: self.name.clone(), expected: self.checkpoint.size, found })
    }

    /// Compares when the tree has grown to the checkpoint's size.
    fn check_root(&self, frontier: &Frontier) -> Result<(), VerifyError> {
        if frontier.size() != self.checkpoint.size {
            return Ok(());
        }
        let found = frontier.head().root.0;
        if found == self.checkpoint.root {
            return Ok(());
        }
        Err(VerifyError::Root {
            checkpoint: self.name.clone(),
            size: self.checkpoint.size,
            expected: hex(&self.checkpoint.root),
            found: hex(&found),
        })
    }
}

/// The hash file, read along with the records.
struct HashFile {
    path: PathBuf,
    file: BufReader<File>,
    offset: u64,
    ended: bool,
    /// Records below the latest checkpoint.
    signed: u64,
    which: Hashes,
}

impl HashFile {
    fn open(dir: &Path, signed: u64, which: Hashes) -> Result<HashFile, VerifyError> {
        let path = hashes_path(dir);
        match File::open(&path) {
            Ok(file) => {
                let file = BufReader::new(file);
                Ok(HashFile { path, file, offset: 0, ended: false, signed, which })
            }
            Err(source) => Err(VerifyError::Io { path, source }),
        }
    }

    /// Compares the next hash with `expected`, which record `index` completed. The file may end early, but
    /// not below the checkpoint, whose hashes were durable before it was signed.
    fn check(&mut self, index: u64, expected: [u8; HASH_SIZE]) -> Result<(), VerifyError> {
        let mut found = [0; HASH_SIZE];
        if !self.ended {
            match self.file.read_exact(&mut found) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => self.ended = true,
                Err(source) => return Err(VerifyError::Io { path: self.path.clone(), source }),
            }
        }
        let may_differ = index >= self.signed && (self.ended || self.which == Hashes::Signed);
        if may_differ || (!self.ended && found == expected) {
            self.offset += HASH_SIZE as u64;
            return Ok(());
        }
        Err(VerifyError::Hash {
            path: self.path.clone(),
            offset: self.offset,
            index,
            expected: hex(&expected),
            found: if self.ended { "the end of the file".to_owned() } else { hex(&found) },
        })
    }
}

/// Digests of the serial numbers, each with its record.
#[derive(Default)]
struct Serials {
    seen: Vec<([u8; 16], u64)>,
}

impl Serials {
    fn add(&mut self, serial: &[u8], index: u64) {
        let digest = ring::digest::digest(&ring::digest::SHA256, serial);
        let mut short = [0; 16];
        short.copy_from_slice(&digest.as_ref()[..16]);
        self.seen.push((short, index));
    }

    fn check(mut self) -> Result<(), VerifyError> {
        self.seen.sort_unstable();
        match self.seen.windows(2).find(|pair| pair[0].0 == pair[1].0) {
            Some(pair) => Err(VerifyError::DuplicateSerial { first: pair[0].1, second: pair[1].1 }),
            None => Ok(()),
        }
    }
}

fn length_of(path: &Path) -> Result<u64, VerifyError> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.len()),
        Err(source) => Err(VerifyError::Io { path: path.to_owned(), source }),
    }
}

fn optional_rfc3339<S: serde::Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}
