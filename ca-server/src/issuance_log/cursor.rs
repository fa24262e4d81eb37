//! Reads the records of a log in order, across its segments.
//!
//! Each record that is given out was checked against its checksum and its place: the log's id and the index
//! inside must be those of where it lies. Readers of a running log say where to stop, because what lies
//! behind the last durable record may still be cut away.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use prost::Message;

use signet_certs::digest::hex;

use super::record::{LAYOUT, Place};
use super::segments::{
    FRAME_HEADER, FrameHeader, HEADER, MAX_BODY, SegmentError, list, open_segment, segment_path,
};

const READ_BUFFER: usize = 64 << 10;
/// For one record.
const RECORD_BUFFER: usize = 2 << 10;

/// A place between two records of a log.
pub(super) struct Cursor {
    dir: PathBuf,
    log_id: [u8; 32],
    /// The open segment; its first index.
    first: u64,
    file: BufReader<File>,
    /// Of the next frame in the open segment, and of the record in it.
    offset: u64,
    index: u64,
    /// Records from here on are not read; without it, all that is there.
    end: Option<u64>,
    body: Vec<u8>,
}

/// A record as it was read.
pub(super) struct Frame<'a> {
    pub(super) index: u64,
    /// Where its frame begins in its segment.
    pub(super) offset: u64,
    pub(super) body: &'a [u8],
}

impl Cursor {
    /// A cursor before record `index` that will stop at record `end`, or at the end of the log. What lies
    /// between the segment's begin and the record is stepped over without being checked.
    ///
    /// # Errors
    /// The log does not hold the record, or is damaged.
    pub(super) fn new(
        dir: &Path,
        log_id: &[u8; 32],
        index: u64,
        end: Option<u64>,
    ) -> Result<Cursor, SegmentError> {
        let firsts = list(dir)?;
        let first = *firsts
            .iter()
            .rev()
            .find(|first| **first <= index)
            .ok_or_else(|| SegmentError::Missing { path: segment_path(dir, index), index })?;
        let (file, _) = open_segment(dir, log_id, first)?;
        let mut cursor = Cursor {
            dir: dir.to_owned(),
            log_id: *log_id,
            first,
            file: BufReader::with_capacity(READ_BUFFER, file),
            offset: HEADER as u64,
            index: first,
            end,
            body: Vec::new(),
        };
        while cursor.index < index {
            let header = cursor.frame_header()?.ok_or_else(|| cursor.missing())?;
            // Lengths are at most MAX_BODY, so the conversion holds.
            let skipped = cursor.file.seek_relative(header.length as i64);
            skipped.map_err(|source| cursor.failed(source))?;
            cursor.step(header.length);
        }
        Ok(cursor)
    }

    /// A cursor before record `index` alone, whose frame is known to begin at `offset` of its segment.
    ///
    /// # Errors
    /// The log does not hold the record; that it lies elsewhere shows when it is read.
    pub(super) fn at(dir: &Path, log_id: &[u8; 32], index: u64, offset: u64) -> Result<Cursor, SegmentError> {
        let before = list(dir)?.into_iter().rev().find(|first| *first <= index);
        let first = before.ok_or_else(|| SegmentError::Missing { path: segment_path(dir, index), index })?;
        let (file, _) = open_segment(dir, log_id, first)?;
        let mut file = BufReader::with_capacity(RECORD_BUFFER, file);
        let sought = file.seek(SeekFrom::Start(offset));
        let end = Some(index + 1);
        let cursor = Cursor {
            dir: dir.to_owned(),
            log_id: *log_id,
            first,
            file,
            offset,
            index,
            end,
            body: Vec::new(),
        };
        sought.map_err(|source| cursor.failed(source))?;
        Ok(cursor)
    }

    /// Of the record that [`next`](Cursor::next) would give.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    /// The path of the open segment.
    pub(super) fn path(&self) -> PathBuf {
        segment_path(&self.dir, self.first)
    }

    /// Where in the open segment the next frame begins.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The first index of the open segment.
    pub(super) fn first(&self) -> u64 {
        self.first
    }

    /// Lets the cursor go on to record `end`. Bytes read ahead are forgotten: behind the old end they may
    /// have been of a batch that failed and was written over.
    ///
    /// # Errors
    /// The segment cannot be read.
    pub(super) fn extend(&mut self, end: u64) -> Result<(), SegmentError> {
        self.end = Some(end);
        self.file.seek(SeekFrom::Start(self.offset)).map_err(|source| self.failed(source))?;
        Ok(())
    }

    /// The next record, or nothing at the end that was set.
    ///
    /// # Errors
    /// The log does not hold the record, or is damaged there.
    pub(super) fn next(&mut self) -> Result<Option<Frame<'_>>, SegmentError> {
        if self.end.is_some_and(|end| self.index >= end) {
            return Ok(None);
        }
        let header = match (self.frame_header()?, self.end) {
            (Some(header), _) => header,
            (None, None) => return Ok(None),
            (None, Some(_)) => return Err(self.missing()),
        };
        self.body.resize(header.length, 0);
        if let Err(error) = self.file.read_exact(&mut self.body) {
            return Err(self.short(error));
        }
        let checksum = crc32fast::hash(&self.body);
        if checksum != header.checksum {
            let (expected, found) = (format!("checksum {:08x}", header.checksum), format!("{checksum:08x}"));
            return Err(self.damaged(expected, found));
        }
        match Place::decode(&self.body[..]) {
            Ok(place) if place.layout > LAYOUT => {
                let what = format!("a record {}", self.index);
                let found = place.layout;
                return Err(SegmentError::Layout { path: self.path(), what, found, known: LAYOUT });
            }
            Ok(place) if place.log_id == self.log_id && place.index == self.index => {}
            Ok(place) => {
                let expected = format!("record {} of log {}", self.index, hex(&self.log_id));
                let found = format!("record {} of log {}", place.index, hex(&place.log_id));
                return Err(self.damaged(expected, found));
            }
            Err(error) => return Err(self.damaged("a record".to_owned(), error.to_string())),
        }
        let (index, offset) = (self.index, self.offset);
        self.step(header.length);
        Ok(Some(Frame { index, offset, body: &self.body }))
    }

    /// Goes on to the segment that begins with the next record, if there is one: nothing may stand between it and
    /// the last record that was read. A cursor with an end does not look there by itself.
    ///
    /// # Errors
    /// Something does.
    pub(super) fn cross(&mut self) -> Result<(), SegmentError> {
        match list(&self.dir)?.into_iter().find(|first| *first > self.first) {
            Some(first) if first == self.index => self.next_segment(),
            _ => Ok(()),
        }
    }

    fn step(&mut self, length: usize) {
        self.offset += (FRAME_HEADER + length) as u64;
        self.index += 1;
    }

    /// Reads the next frame's header, in the next segment if this one is at its end; nothing where the last
    /// segment ends.
    fn frame_header(&mut self) -> Result<Option<FrameHeader>, SegmentError> {
        let mut bytes = [0; FRAME_HEADER];
        let mut read = self.read_up_to(&mut bytes)?;
        if read == 0 {
            match list(&self.dir)?.into_iter().find(|first| *first > self.first) {
                None => return Ok(None),
                Some(first) if first == self.index => self.next_segment()?,
                Some(_) => return Err(self.missing()),
            }
            read = self.read_up_to(&mut bytes)?;
            if read == 0 {
                return Ok(None);
            }
        }
        if read < FRAME_HEADER {
            let found = format!("the end of the file after {read} bytes");
            return Err(self.damaged(format!("{FRAME_HEADER} bytes before a record"), found));
        }
        let header = FrameHeader::decode(bytes);
        if !(1..=MAX_BODY).contains(&header.length) {
            let expected = format!("a length of 1 to {MAX_BODY}");
            return Err(self.damaged(expected, header.length.to_string()));
        }
        Ok(Some(header))
    }

    fn next_segment(&mut self) -> Result<(), SegmentError> {
        let (file, header) = open_segment(&self.dir, &self.log_id, self.index)?;
        let length = self.offset;
        if header.previous != (self.first, length) {
            return Err(SegmentError::Damaged {
                path: segment_path(&self.dir, self.index),
                offset: 0,
                index: self.index,
                expected: format!("previous segment {} of {length} bytes", self.first),
                found: format!("previous segment {} of {} bytes", header.previous.0, header.previous.1),
            });
        }
        self.first = self.index;
        self.offset = HEADER as u64;
        self.file = BufReader::with_capacity(READ_BUFFER, file);
        Ok(())
    }

    fn read_up_to(&mut self, bytes: &mut [u8]) -> Result<usize, SegmentError> {
        let mut read = 0;
        while read < bytes.len() {
            match self.file.read(&mut bytes[read..]) {
                Ok(0) => break,
                Ok(more) => read += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        Ok(read)
    }

    fn short(&self, error: io::Error) -> SegmentError {
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let expected = format!("a record of {} bytes", self.body.len());
            return self.damaged(expected, "the end of the file".to_owned());
        }
        self.failed(error)
    }

    fn missing(&self) -> SegmentError {
        SegmentError::Missing { path: segment_path(&self.dir, self.index), index: self.index }
    }

    fn failed(&self, source: io::Error) -> SegmentError {
        SegmentError::Io { attempted: "read", path: self.path(), source }
    }

    fn damaged(&self, expected: String, found: String) -> SegmentError {
        SegmentError::Damaged { path: self.path(), offset: self.offset, index: self.index, expected, found }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::issuance_log::record::tests::certificate;
    use crate::issuance_log::segments::{Header, push_frame};

    #[test]
    fn a_failed_batch_that_was_read_ahead_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let log_id = [9; 32];
        let mut good = Header { log_id, first: 0, previous: (0, 0) }.encode().to_vec();
        push_frame(&mut good, &certificate(0).into_proto(&log_id, 0));
        let begun = [&good[..], &[0xee; 300]].concat();
        let path = segment_path(folder.path(), 0);
        std::fs::write(&path, begun).unwrap();
        let mut cursor = Cursor::new(folder.path(), &log_id, 0, Some(1)).unwrap();
        assert_eq!(cursor.next().unwrap().unwrap().index, 0);
        assert!(cursor.next().unwrap().is_none());

        push_frame(&mut good, &certificate(1).into_proto(&log_id, 1));
        std::fs::write(&path, good).unwrap();
        cursor.extend(2).unwrap();
        assert_eq!(cursor.next().unwrap().unwrap().index, 1);
        assert!(cursor.next().unwrap().is_none());
    }
}
