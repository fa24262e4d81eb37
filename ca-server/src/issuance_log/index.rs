//! What the log is asked for by name: the record of a serial number, and the latest certificate of an
//! identity.
//!
//! Both are rows of the store, derived from the records by one thread that reads the log behind the writer,
//! in bulk, with the marker of how far it came in the same atomic batch. If the rows are lost they are made
//! again by reading the log from the start; so a lagging or failing index never holds up or fails an append.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, SystemTime};

use signet_certs::digest::hex;
use signet_service::logging::with_causes;
use tokio::sync::watch;
use tracing::{error, warn};

use super::cursor::Cursor;
use super::progress::Progress;
use super::record::{CertificateEntry, Record, RecordError, from_seconds, seconds};
use super::segments::SegmentError;
use crate::store::{Batch, Store, StoreError, Table};

/// Row of [`Table::Meta`]: log id, then how many records the index has seen (u64 BE).
pub(crate) const MARKER: &[u8] = b"log-index";

/// Between two looks at the log: how far the index may lag behind.
const PAUSE: Duration = Duration::from_millis(20);

/// Records per batch of rows: enough to share the marker's cost, few enough to keep a batch small.
const RECORDS_PER_BATCH: u64 = 1024;

/// What is wrong with the index.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// The store refused.
    #[error("cannot use the index of the log")]
    Store(#[source] StoreError),
    /// The store was filled from another log, or by a later program.
    #[error(
        "the store's index is of log {found}, not of {expected}: it can be made again by removing the store"
    )]
    OtherLog {
        /// This log's id, as hex.
        expected: String,
        /// What the marker says, as hex.
        found: String,
    },
    /// The index has seen records that the log does not have: the log lost them.
    #[error("the store's index has seen {indexed} records, the log holds {held}: records are lost")]
    Ahead {
        /// How many the index has seen.
        indexed: u64,
        /// How many there are.
        held: u64,
    },
    /// The records to be indexed cannot be read.
    #[error("cannot read the log for its index")]
    Segment(#[source] SegmentError),
    /// A record to be indexed says something unknown.
    #[error("cannot read record {index} for the index")]
    Record {
        /// Which.
        index: u64,
        /// Why not.
        #[source]
        source: RecordError,
    },
    /// The index does not come as far as it was asked about; the log says why.
    #[error("the index of the log is behind, at record {0}")]
    Behind(u64),
}

/// How far the index has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    through: u64,
    /// The last attempt to go on failed.
    failed: bool,
}

/// The side that is asked.
#[derive(Clone)]
pub(super) struct Index {
    store: Arc<dyn Store>,
    state: watch::Receiver<State>,
}

/// The side that follows the log; it runs on a thread of its own.
pub(super) struct Indexer {
    dir: PathBuf,
    log_id: [u8; 32],
    store: Arc<dyn Store>,
    progress: Arc<Progress>,
    state: watch::Sender<State>,
}

/// Opens the index that `store` has of the log `log_id`.
///
/// # Errors
/// The store cannot be read, or its index is not one of this log as it is now.
pub(super) fn open(
    dir: PathBuf,
    log_id: [u8; 32],
    store: Arc<dyn Store>,
    progress: Arc<Progress>,
) -> Result<(Index, Indexer), IndexError> {
    let through = match store.read(Table::Meta, MARKER).map_err(IndexError::Store)? {
        None => 0,
        Some(marker) => match (marker.strip_prefix(&log_id), marker.len()) {
            (Some(through), 40) => number(through),
            _ => return Err(IndexError::OtherLog { expected: hex(&log_id), found: hex(&marker) }),
        },
    };
    let held = progress.durable();
    if through > held {
        return Err(IndexError::Ahead { indexed: through, held });
    }
    let (sender, state) = watch::channel(State { through, failed: false });
    let index = Index { store: store.clone(), state };
    Ok((index, Indexer { dir, log_id, store, progress, state: sender }))
}

impl Index {
    /// How many records the index has seen.
    pub(super) fn through(&self) -> u64 {
        self.state.borrow().through
    }

    /// Waits until the index has seen `size` records.
    ///
    /// # Errors
    /// It cannot go on.
    pub(super) async fn reached(&self, size: u64) -> Result<(), IndexError> {
        let mut state = self.state.clone();
        // An error means that the indexer ended, and then what it left is what there is.
        let _ = state.wait_for(|state| state.through >= size || state.failed).await;
        let through = state.borrow().through;
        if through >= size { Ok(()) } else { Err(IndexError::Behind(through)) }
    }

    /// The index of the record of a serial number (big-endian; leading zeros do not count).
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn find_serial(&self, serial: &[u8]) -> Result<Option<u64>, IndexError> {
        let row = self.store.read(Table::BySerial, serial_key(serial)).map_err(IndexError::Store)?;
        Ok(row.map(|row| number(&row)))
    }

    /// The same, and where in its segment the record's frame begins; rows of the first layout do not say.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) fn place_of_serial(&self, serial: &[u8]) -> Result<Option<(u64, Option<u64>)>, IndexError> {
        let row = self.store.read(Table::BySerial, serial_key(serial)).map_err(IndexError::Store)?;
        Ok(row.map(|row| (number(&row), row.get(8..12).map(number))))
    }

    /// When the latest certificate of an identity and instance ends.
    pub(super) fn latest_not_after(&self, identity: &str, instance: &str) -> Option<SystemTime> {
        match self.store.read(Table::ByIdentity, &identity_key(identity, instance)) {
            Ok(row) => Some(from_seconds(number(row?.get(..8)?).cast_signed())),
            Err(error) => {
                warn!(error = with_causes(&error), "cannot look up an identity's latest certificate");
                None
            }
        }
    }
}

impl Indexer {
    /// Follows the log until nobody can wake it any more; then makes the rows durable.
    pub(super) fn run(self, wakes: &Receiver<()>) {
        let mut cursor = None;
        loop {
            if let Err(error) = self.catch_up(&mut cursor) {
                error!(
                    error = with_causes(&error),
                    "cannot index the issuance log; trying again with the next record"
                );
                cursor = None;
                self.state.send_modify(|state| state.failed = true);
            }
            // Under load many records come in a pause, and one batch of rows costs little more than one row.
            std::thread::sleep(PAUSE);
            if wakes.recv().is_err() {
                break;
            }
        }
        if let Err(error) = self.store.flush() {
            warn!(
                error = with_causes(&error),
                "the index of the issuance log is not durable; the next start completes it"
            );
        }
    }

    fn catch_up(&self, cursor: &mut Option<Cursor>) -> Result<(), IndexError> {
        loop {
            let (through, end) = (self.state.borrow().through, self.progress.durable());
            if through >= end {
                return Ok(());
            }
            let cursor = match cursor {
                Some(cursor) => {
                    cursor.extend(end).map_err(IndexError::Segment)?;
                    cursor
                }
                None => cursor.insert(
                    Cursor::new(&self.dir, &self.log_id, through, Some(end)).map_err(IndexError::Segment)?,
                ),
            };
            let through = self.apply_batch(cursor)?;
            self.state.send_replace(State { through, failed: false });
        }
    }

    /// Adds the rows of the next records; the index that comes after them.
    fn apply_batch(&self, cursor: &mut Cursor) -> Result<u64, IndexError> {
        let mut batch = Batch::default();
        for _ in 0..RECORDS_PER_BATCH {
            let Some(frame) = cursor.next().map_err(IndexError::Segment)? else { break };
            let (index, offset) = (frame.index, frame.offset);
            let record = Record::decode(frame.body).map_err(|source| IndexError::Record { index, source })?;
            if let Some(certificate) = record.certificate() {
                add_rows(&mut batch, index, offset, certificate);
            }
        }
        let through = cursor.index();
        batch.put(Table::Meta, MARKER, [&self.log_id[..], &through.to_be_bytes()].concat());
        self.store.apply(batch).map_err(IndexError::Store)?;
        Ok(through)
    }
}

fn add_rows(batch: &mut Batch, index: u64, offset: u64, certificate: &CertificateEntry) {
    let index = index.to_be_bytes();
    let mut place = index.to_vec();
    // Segments are far smaller than this can say; in one that is not, the record is found from its begin.
    place.extend(u32::try_from(offset).iter().flat_map(|offset| offset.to_be_bytes()));
    batch.put(Table::BySerial, serial_key(&certificate.serial), place);
    if !certificate.identity.is_empty() {
        let not_after = seconds(certificate.not_after).to_be_bytes();
        let key = identity_key(&certificate.identity, &certificate.instance);
        batch.put(Table::ByIdentity, key, [not_after, index].concat());
    }
}

fn serial_key(serial: &[u8]) -> &[u8] {
    let zeros = serial.iter().take_while(|octet| **octet == 0).count();
    &serial[zeros..]
}

/// No SPIFFE ID has a NUL in it, so one identity's rows are a prefix of no other's.
fn identity_key(identity: &str, instance: &str) -> Vec<u8> {
    [identity.as_bytes(), b"\0", instance.as_bytes()].concat()
}

/// A row's number; rows are written by this module only, so a short one reads as what it holds.
fn number(bytes: &[u8]) -> u64 {
    bytes.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
