//! Where a log ends, and what the bytes behind that end mean.
//!
//! A crash can leave parts of a batch at the end of the last segment: its begin, or, since a disk writes pages
//! in any order, whole records behind a hole. Nobody was answered for them, so they may be cut. Everything else
//! that does not read as records is damage, and damage is never cut: records behind it say so, which were
//! written when what is damaged was durable.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::cursor::Cursor;
use super::segments::{self, SegmentError, segment_path};

/// The end of a log's records on disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Tail {
    /// First index of the last segment.
    pub(super) first: u64,
    /// Bytes of the last segment, up to the end of its last whole record.
    pub(super) length: u64,
    /// How many records the log holds: the index of the next.
    pub(super) size: u64,
    /// Bytes behind the last whole record.
    pub(super) torn: u64,
}

impl Tail {
    /// The last segment's file.
    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        segment_path(dir, self.first)
    }
}

/// Finds the end of the log `log_id` in `dir`; nothing if it has no segment yet. Reads the last segment, and
/// of the others the header and the length: they say whether one is missing or cut, not whether each byte
/// is right, which takes [`verify`](super::verify()).
///
/// # Errors
/// A segment is missing, shortened or not of this log, or the last one is damaged before its end.
pub(super) fn find(dir: &Path, log_id: &[u8; 32]) -> Result<Option<Tail>, SegmentError> {
    let firsts = segments::list(dir)?;
    let Some(first) = firsts.last().copied() else {
        return Ok(None);
    };
    check_chain(dir, log_id, &firsts)?;

    let mut cursor = Cursor::new(dir, log_id, first, None)?;
    let fault = loop {
        match cursor.next() {
            Ok(Some(_)) => {}
            Ok(None) => break None,
            Err(fault @ SegmentError::Damaged { .. }) => break Some(fault),
            Err(error) => return Err(error),
        }
    };
    let mut tail = Tail { first, length: cursor.offset(), size: cursor.index(), torn: 0 };
    if let Some(fault) = fault {
        let behind = read_from(&tail.path(dir), tail.length)?;
        if segments::places_in(&behind, log_id).any(|place| place.durable_before() > tail.size) {
            return Err(fault);
        }
        tail.torn = behind.len() as u64;
    }
    Ok(Some(tail))
}

/// Each segment's header names the one before and how long it is.
fn check_chain(dir: &Path, log_id: &[u8; 32], firsts: &[u64]) -> Result<(), SegmentError> {
    let mut previous: Option<(u64, u64)> = None;
    for first in firsts {
        let path = segment_path(dir, *first);
        let (file, header) = segments::open_segment(dir, log_id, *first)?;
        match previous {
            None if *first != 0 => {
                return Err(SegmentError::Missing { path: segment_path(dir, 0), index: 0 });
            }
            Some((before, _)) if header.previous.0 != before => {
                let index = header.previous.0;
                return Err(SegmentError::Missing { path: segment_path(dir, index), index });
            }
            Some((before, length)) if header.previous.1 != length => {
                return Err(SegmentError::Damaged {
                    path: segment_path(dir, before),
                    offset: length.min(header.previous.1),
                    index: *first,
                    expected: format!("{} bytes", header.previous.1),
                    found: format!("{length} bytes"),
                });
            }
            _ => {}
        }
        let length =
            file.metadata().map_err(|source| SegmentError::Io { attempted: "read", path, source })?.len();
        previous = Some((*first, length));
    }
    Ok(())
}

pub(super) fn read_from(path: &Path, offset: u64) -> Result<Vec<u8>, SegmentError> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|mut file| {
        file.seek(SeekFrom::Start(offset))?;
        file.read_to_end(&mut bytes)
    });
    read.map_err(|source| SegmentError::Io { attempted: "read", path: path.to_owned(), source })?;
    Ok(bytes)
}
