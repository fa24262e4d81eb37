//! Reading records back: one by its index, or page by page through a filter.
//!
//! The same reader serves a running log, up to the records that are durable at the time of the call, and the
//! folder of a stopped server. It blocks on the disk: call it off the async threads.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use super::checkpoint::{LogVerifier, VerifierKeyError};
use super::cursor::Cursor;
use super::progress::Progress;
use super::record::{EntryBody, Record, RecordError};
use super::segments::{HEADER, SegmentError, list};
use super::tail;

/// A page ends after this many records were looked at, however few of them matched.
const SCAN_LIMIT: u64 = 1 << 16;

/// Why records cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The log's verifier key, which names the log, is not there or malformed.
    #[error(transparent)]
    VerifierKey(#[from] VerifierKeyError),
    /// A segment is missing or damaged.
    #[error(transparent)]
    Segment(#[from] SegmentError),
    /// A record says something that this program does not know.
    #[error("cannot read record {index}")]
    Record {
        /// Which.
        index: u64,
        /// Why not.
        #[source]
        source: RecordError,
    },
}

/// Which records are wanted; all conditions that are set must hold. Conditions on certificates leave out acts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Certificates or acts only.
    pub kind: Option<Kind>,
    /// Of this SPIFFE ID, or of those that begin so.
    pub identity: Option<IdentityFilter>,
    /// Of this instance.
    pub instance: Option<String>,
    /// With this serial number, big-endian, without a leading zero octet.
    pub serial: Option<Vec<u8>>,
    /// Recorded at this time or later.
    pub since: Option<SystemTime>,
    /// Recorded before this time.
    pub until: Option<SystemTime>,
    /// Signed by the issuer with this subject key identifier.
    pub issuer_key_id: Option<Vec<u8>>,
    /// Of this profile, "workload" or "serving".
    pub profile: Option<String>,
}

/// The kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A certificate was signed.
    Certificate,
    /// The CA's state was changed.
    Act,
}

/// A condition on an identity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdentityFilter {
    /// This SPIFFE ID.
    Exact(String),
    /// SPIFFE IDs that begin with this text.
    Prefix(String),
}

impl Filter {
    /// Whether a record is wanted.
    pub fn matches(&self, record: &Record) -> bool {
        fn holds<T: ?Sized>(wanted: Option<&T>, condition: impl FnOnce(&T) -> bool) -> bool {
            wanted.is_none_or(condition)
        }
        let time = record.entry.time;
        let in_time =
            self.since.is_none_or(|since| since <= time) && self.until.is_none_or(|until| time < until);
        in_time
            && match &record.entry.body {
                EntryBody::Act(_) => {
                    self.kind != Some(Kind::Certificate)
                        && self.identity.is_none()
                        && self.instance.is_none()
                        && self.serial.is_none()
                        && self.issuer_key_id.is_none()
                        && self.profile.is_none()
                }
                EntryBody::Certificate(certificate) => {
                    self.kind != Some(Kind::Act)
                        && holds(self.identity.as_ref(), |wanted| match wanted {
                            IdentityFilter::Exact(identity) => certificate.identity == *identity,
                            IdentityFilter::Prefix(prefix) => certificate.identity.starts_with(prefix),
                        })
                        && holds(self.instance.as_deref(), |instance| certificate.instance == *instance)
                        && holds(self.serial.as_deref(), |serial| certificate.serial == *serial)
                        && holds(self.issuer_key_id.as_deref(), |id| certificate.issuer_key_id == *id)
                        && holds(self.profile.as_deref(), |profile| certificate.profile == *profile)
                }
            }
    }
}

/// Some records, oldest first.
#[derive(Debug)]
pub struct Page {
    /// Those that matched.
    pub records: Vec<Record>,
    /// Where to go on; nothing if the end of the log was reached. A page with few records, or none, may
    /// still have one behind it.
    pub next: Option<u64>,
}

/// Reads the records of one log.
#[derive(Clone)]
pub struct LogReader {
    dir: PathBuf,
    log_id: [u8; 32],
    end: End,
}

/// How far a reader may go.
#[derive(Clone)]
enum End {
    Durable(Arc<Progress>),
    Fixed(u64),
}

impl LogReader {
    pub(super) fn of_running(dir: PathBuf, log_id: [u8; 32], progress: Arc<Progress>) -> LogReader {
        LogReader { dir, log_id, end: End::Durable(progress) }
    }

    /// A reader of the log in `dir`, which no server may be writing meanwhile: see
    /// [`DataFolder::open_stopped`](crate::data_folder::DataFolder::open_stopped).
    ///
    /// # Errors
    /// It holds no log, or one that is missing a segment or is damaged near its end.
    pub fn of_stopped(dir: &Path) -> Result<LogReader, ReadError> {
        let log_id = LogVerifier::of_folder(dir)?.log_id();
        let size = tail::find(dir, &log_id)?.map_or(0, |tail| tail.size);
        Ok(LogReader { dir: dir.to_owned(), log_id, end: End::Fixed(size) })
    }

    /// How many records can be read now.
    pub fn size(&self) -> u64 {
        match &self.end {
            End::Durable(progress) => progress.durable(),
            End::Fixed(size) => *size,
        }
    }

    /// The log's folder.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The record `index`, if the log is that long.
    ///
    /// # Errors
    /// The log is damaged there.
    pub fn record(&self, index: u64) -> Result<Option<Record>, ReadError> {
        let Some(body) = self.body(index)? else { return Ok(None) };
        Record::decode(&body).map(Some).map_err(|source| ReadError::Record { index, source })
    }

    /// The record `index`, whose frame begins at `offset` of its segment where that is known.
    ///
    /// # Errors
    /// The log is damaged there.
    pub(super) fn record_at(&self, index: u64, offset: Option<u64>) -> Result<Option<Record>, ReadError> {
        let Some(offset) = offset.filter(|_| index < self.size()) else { return self.record(index) };
        let mut cursor = Cursor::at(&self.dir, &self.log_id, index, offset)?;
        let Some(frame) = cursor.next()? else { return Ok(None) };
        Record::decode(frame.body).map(Some).map_err(|source| ReadError::Record { index, source })
    }

    /// The index of a record before which all are older than `time`: near the first one that is not, and
    /// never behind it while times do not run backwards.
    ///
    /// # Errors
    /// The log is damaged where it was looked at.
    pub fn first_since(&self, time: SystemTime) -> Result<u64, ReadError> {
        // Only segments' first records are looked at, because every other one costs a walk to it.
        let firsts = list(&self.dir)?;
        let mut before = 0;
        for first in firsts {
            match self.record_at(first, Some(HEADER as u64))? {
                Some(record) if record.entry.time < time => before = first,
                _ => break,
            }
        }
        Ok(before)
    }

    /// The bytes of the record `index`, which are its leaf in the tree.
    pub(super) fn body(&self, index: u64) -> Result<Option<Vec<u8>>, SegmentError> {
        if index >= self.size() {
            return Ok(None);
        }
        let mut cursor = Cursor::new(&self.dir, &self.log_id, index, Some(index + 1))?;
        Ok(cursor.next()?.map(|frame| frame.body.to_vec()))
    }

    /// Shows every record from `from` on, up to the end as it is now, one at a time and in order.
    ///
    /// # Errors
    /// The log is damaged; what lies before that was shown.
    pub fn each(&self, from: u64, mut see: impl FnMut(Record)) -> Result<(), ReadError> {
        let size = self.size();
        if from >= size {
            return Ok(());
        }
        let mut cursor = Cursor::new(&self.dir, &self.log_id, from, Some(size))?;
        while let Some(frame) = cursor.next()? {
            let index = frame.index;
            see(Record::decode(frame.body).map_err(|source| ReadError::Record { index, source })?);
        }
        Ok(())
    }

    /// At most `limit` records that match, from the record `from` on.
    ///
    /// # Errors
    /// The log is damaged there.
    pub fn records(&self, filter: &Filter, from: u64, limit: usize) -> Result<Page, ReadError> {
        let size = self.size();
        let mut page = Page { records: Vec::new(), next: None };
        if from >= size {
            return Ok(page);
        }
        let end = size.min(from.saturating_add(SCAN_LIMIT));
        let mut cursor = Cursor::new(&self.dir, &self.log_id, from, Some(end))?;
        while page.records.len() < limit {
            let Some(frame) = cursor.next()? else { break };
            let index = frame.index;
            let record = Record::decode(frame.body).map_err(|source| ReadError::Record { index, source })?;
            if filter.matches(&record) {
                page.records.push(record);
            }
        }
        page.next = (cursor.index() < size).then(|| cursor.index());
        Ok(page)
    }
}
