//! The store on disk.
//!
//! All tables share one tree, with the table's number as the first byte of each key, because a batch is
//! atomic within one tree. Three habits of sled are worked around here: its `flush` returns before the disk
//! has the bytes (so we sync its file ourselves), its asynchronous flush can hang for ever, and so can its
//! subscriptions; neither of the last two is ever called.

use std::fs::File;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::{Batch, Row, Store, StoreError, Table};

/// Bytes of pages that sled keeps in memory. Its own default, a gibibyte, is more than the CA may use; our
/// working set is the right edge of a few indexes.
const CACHE_BYTES: u64 = 8 << 20;

/// How often sled writes out by itself what nobody asked it to flush, which is only what can be rebuilt or
/// is stated again. Its own default, twice a second, costs a tenth of the CA's time under load.
const FLUSH_EVERY_MS: u64 = 5_000;

/// The format that is written, and the newest that is read: of keys and tables, not of sled's file.
const FORMAT: u32 = 1;
/// Where the number of the format stands. No table has the number that is its first byte.
pub(super) const FORMAT_KEY: &[u8] = b"\xffformat";

/// See the module's text.
pub struct SledStore {
    db: sled::Db,
    /// Sled's own file, for the sync that it leaves out. The lock keeps flushes one after the other.
    file: Mutex<File>,
}

impl SledStore {
    /// Opens the store in the folder `path`, or makes it.
    ///
    /// # Errors
    /// The folder cannot be written, is in use by another process, or holds a damaged store or one of a later
    /// format.
    pub fn open(path: &Path) -> Result<SledStore, StoreError> {
        let failed = |source| StoreError::Open { path: path.to_owned(), source };
        let db = sled::Config::new()
            .path(path)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(Some(FLUSH_EVERY_MS))
            .open()
            .map_err(|error| failed(error.into()))?;
        let known = FORMAT.to_string();
        match db.get(FORMAT_KEY).map_err(|error| failed(error.into()))? {
            Some(found) if found == known.as_bytes() => {}
            Some(found) => {
                let found = String::from_utf8_lossy(&found).chars().take(40).collect();
                return Err(StoreError::Version { path: path.to_owned(), found, known: FORMAT });
            }
            // New, or from before formats were written down, and that was the first.
            None => drop(db.insert(FORMAT_KEY, known.as_bytes()).map_err(|error| failed(error.into()))?),
        }
        let file = File::open(path.join("db")).map_err(|error| failed(error.into()))?;
        Ok(SledStore { db, file: Mutex::new(file) })
    }
}

impl Store for SledStore {
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let value = self.db.get(sled_key(table, key)).map_err(|error| StoreError::Read(error.into()))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan_prefix(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let prefix_key = sled_key(table, prefix);
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(sled_key(table, after)),
            _ => Bound::Included(prefix_key.clone()),
        };
        let mut rows = Vec::new();
        for row in self.db.range((start, Bound::Unbounded)).take(limit) {
            let (key, value) = row.map_err(|error| StoreError::Read(error.into()))?;
            if !key.starts_with(&prefix_key) {
                break;
            }
            rows.push((key[1..].to_vec(), value.to_vec()));
        }
        Ok(rows)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let mut changes = sled::Batch::default();
        for change in batch.changes {
            let key = sled_key(change.table, &change.key);
            match change.value {
                Some(value) => changes.insert(key, value),
                None => changes.remove(key),
            }
        }
        self.db.apply_batch(changes).map_err(|error| StoreError::Apply(error.into()))
    }

    fn flush(&self) -> Result<(), StoreError> {
        let file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        self.db.flush().map_err(|error| StoreError::Flush(error.into()))?;
        file.sync_data().map_err(|error| StoreError::Flush(error.into()))
    }
}

fn sled_key(table: Table, key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1 + key.len());
    bytes.push(table as u8);
    bytes.extend_from_slice(key);
    bytes
}
