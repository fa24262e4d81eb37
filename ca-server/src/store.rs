//! Where the CA keeps what must outlive it, except the issuance log itself.
//!
//! A store is a few named tables of small rows, ordered by key. Everything in it is either state with one
//! owner (authorities, consumers) or derived from the log and rebuilt from it (the indexes). Rows are bytes;
//! their owner decides what they mean. Two implementations: [`SledStore`] on disk, [`MemoryStore`] for tests
//! and for programs that need no tomorrow. One conformance test, below, runs over both.

use std::path::PathBuf;

pub use self::memory::MemoryStore;
pub use self::sled::SledStore;

#[cfg(test)]
pub(crate) mod forgetful;
mod memory;
mod sled;

/// The tables. The numbers are written to disk: never give one a second meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Table {
    /// Markers of those who own other tables, such as how far an index has come.
    Meta = 0,
    /// The CA's authorities.
    Authorities = 1,
    /// What consumers said that they hold.
    Consumers = 2,
    /// Index of the log: serial number to record index.
    BySerial = 3,
    /// Index of the log: SPIFFE ID and instance to their latest certificate.
    ByIdentity = 4,
    /// Who is blocked.
    Blocks = 5,
}

impl Table {
    /// Those that nothing can make again, each with its name in a backup. Marks go before what they mark.
    pub(crate) const KEPT: [(Table, &str); 4] = [
        (Table::Meta, "meta"),
        (Table::Authorities, "authorities"),
        (Table::Consumers, "consumers"),
        (Table::Blocks, "blocks"),
    ];
}

/// A row: its key without the table, and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Ordered tables of rows with atomic batches. Calls block for at most a disk access.
pub trait Store: Send + Sync {
    /// The value under `key`, if there is one.
    ///
    /// # Errors
    /// The store cannot be read.
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// At most `limit` rows whose keys begin with `prefix`, in order of their keys, beginning behind `after`
    /// (the last key of the page before) or at the first.
    ///
    /// # Errors
    /// The store cannot be read.
    fn scan_prefix(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError>;

    /// Applies all of `batch` or nothing of it, also across a crash. It is visible at once, and durable after
    /// the next [`flush`](Store::flush).
    ///
    /// # Errors
    /// The store cannot be written.
    fn apply(&self, batch: Batch) -> Result<(), StoreError>;

    /// Makes every batch that was applied before durable.
    ///
    /// # Errors
    /// The store cannot be written; what was applied may be lost in a crash.
    fn flush(&self) -> Result<(), StoreError>;
}

/// Changes that happen together. Of two changes to one key the later holds.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    changes: Vec<Change>,
}

#[derive(Debug, Clone)]
struct Change {
    table: Table,
    key: Vec<u8>,
    /// Nothing removes the row.
    value: Option<Vec<u8>>,
}

impl Batch {
    /// Writes a row, in place of the one under the same key.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push(Change { table, key: key.into(), value: Some(value.into()) });
    }

    /// Removes the row, if it is there.
    pub fn remove(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.push(Change { table, key: key.into(), value: None });
    }
}

/// Why a store did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder does not open as a store.
    #[error("cannot open the store in {}", path.display())]
    Open {
        /// The store's folder.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A later program wrote it.
    #[error("the store in {} has format {found}; this program knows {known}: run the program that wrote it or a later one", path.display())]
    Version {
        /// The store's folder.
        path: PathBuf,
        /// Its format.
        found: String,
        /// The format that is known here.
        known: u32,
    },
    /// A read failed.
    #[error("cannot read from the store")]
    Read(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A batch failed; nothing of it was applied.
    #[error("cannot write to the store")]
    Apply(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// What was applied could not be made durable.
    #[error("cannot make the store durable")]
    Flush(#[source] Box<dyn std::error::Error + Send + Sync>),
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What every store must do; each implementation's test calls it on an empty one.
    fn conforms(store: &dyn Store) {
        assert_eq!(store.read(Table::Meta, b"a").unwrap(), None);

        let mut batch = Batch::default();
        batch.put(Table::Meta, *b"a", *b"1");
        batch.put(Table::Meta, *b"ab", *b"2");
        batch.put(Table::Meta, *b"ac", *b"3");
        batch.put(Table::Meta, *b"b", *b"4");
        batch.put(Table::Authorities, *b"a", *b"other table");
        batch.put(Table::Authorities, [0xff, 0xff], *b"last key");
        batch.put(Table::Authorities, *b"", *b"empty key");
        store.apply(batch).unwrap();
        assert_eq!(store.read(Table::Meta, b"a").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(store.read(Table::Authorities, b"a").unwrap().as_deref(), Some(&b"other table"[..]));
        assert_eq!(store.read(Table::Authorities, b"").unwrap().as_deref(), Some(&b"empty key"[..]));
        assert_eq!(store.read(Table::Consumers, b"a").unwrap(), None);

        let keys = |table, prefix: &[u8], after: Option<&[u8]>, limit| -> Vec<Vec<u8>> {
            store.scan_prefix(table, prefix, after, limit).unwrap().into_iter().map(|(key, _)| key).collect()
        };
        assert_eq!(keys(Table::Meta, b"a", None, 10), [&b"a"[..], b"ab", b"ac"]);
        assert_eq!(keys(Table::Meta, b"a", None, 2), [&b"a"[..], b"ab"]);
        assert_eq!(keys(Table::Meta, b"a", Some(b"ab"), 2), [b"ac"]);
        assert_eq!(keys(Table::Meta, b"", None, 10).len(), 4, "a scan stays in its table");
        assert_eq!(keys(Table::Meta, b"a", Some(b"zz"), 10), Vec::<Vec<u8>>::new());
        assert_eq!(keys(Table::Meta, b"ab", Some(b"a"), 10), [b"ab"], "`after` may lie before the prefix");
        assert_eq!(keys(Table::Authorities, &[0xff], None, 10), [[0xff, 0xff]]);
        assert_eq!(keys(Table::Meta, b"", None, 0), Vec::<Vec<u8>>::new());

        let mut batch = Batch::default();
        batch.remove(Table::Meta, *b"a");
        batch.remove(Table::Meta, *b"never there");
        batch.put(Table::Meta, *b"ab", *b"first");
        batch.put(Table::Meta, *b"ab", *b"second");
        batch.put(Table::Meta, *b"ac", *b"gone again");
        batch.remove(Table::Meta, *b"ac");
        store.apply(batch).unwrap();
        assert_eq!(keys(Table::Meta, b"a", None, 10), [b"ab"]);
        assert_eq!(store.read(Table::Meta, b"ab").unwrap().as_deref(), Some(&b"second"[..]));
        assert_eq!(store.read(Table::Authorities, b"a").unwrap().as_deref(), Some(&b"other table"[..]));
        store.flush().unwrap();
    }

    #[test]
    fn the_memory_store_conforms() {
        conforms(&MemoryStore::default());
    }

    #[test]
    fn the_forgetful_store_conforms_and_forgets_at_a_kill_what_was_not_flushed() {
        let store = forgetful::ForgetfulStore::default();
        conforms(&store);
        for key in [b"x", b"y", b"z"] {
            let mut batch = Batch::default();
            batch.put(Table::Meta, *key, *b"unflushed");
            store.apply(batch).unwrap();
        }
        store.kill(2);
        let kept = |key: &[u8]| store.read(Table::Meta, key).unwrap().is_some();
        assert_eq!([b"ab", &b"x"[..], b"y", b"z"].map(kept), [true, true, true, false]);
        store.fail(store.operations(), 1);
        assert!(matches!(store.flush(), Err(StoreError::Flush(_))));
        store.flush().unwrap();
    }

    #[test]
    fn the_sled_store_conforms_and_keeps_what_was_flushed() {
        let folder = tempfile::tempdir().unwrap();
        let store = SledStore::open(folder.path()).unwrap();
        conforms(&store);
        drop(store);
        let store = SledStore::open(folder.path()).unwrap();
        assert_eq!(store.read(Table::Meta, b"ab").unwrap().as_deref(), Some(&b"second"[..]));
        assert_eq!(store.read(Table::Meta, b"a").unwrap(), None);
    }

    #[test]
    fn a_store_of_a_later_format_is_refused_and_one_without_a_number_is_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let marked = |number: Option<&[u8]>| {
            let db = sled_db(folder.path());
            let before = match number {
                Some(number) => db.insert(sled::FORMAT_KEY, number).unwrap(),
                None => db.remove(sled::FORMAT_KEY).unwrap(),
            };
            db.flush().unwrap();
            before.map(|before| before.to_vec())
        };
        drop(SledStore::open(folder.path()).unwrap());
        assert_eq!(marked(None).as_deref(), Some(&b"1"[..]), "a new store says its format");
        drop(SledStore::open(folder.path()).unwrap());
        assert_eq!(marked(Some(b"2")).as_deref(), Some(&b"1"[..]), "and so does one that did not");
        let error = SledStore::open(folder.path()).err().unwrap();
        assert!(matches!(error, StoreError::Version { .. }), "{error:?}");
        assert!(error.to_string().contains("has format 2; this program knows 1"), "{error}");
        assert_eq!(marked(Some(b"1")).as_deref(), Some(&b"2"[..]));
        SledStore::open(folder.path()).unwrap();
    }

    fn sled_db(path: &std::path::Path) -> ::sled::Db {
        ::sled::open(path).unwrap()
    }

    #[test]
    fn a_store_that_cannot_be_opened_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a-file");
        std::fs::write(&file, b"not a folder").unwrap();
        let error = SledStore::open(&file).err().unwrap();
        assert!(error.to_string().contains("a-file"), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }
}
