//! The store's rows in a backup: one JSON object a line, the first of them `{"format":1}`, the others
//! `{"table": name, "key": base64, "value": base64}`. It does not depend on the store's own format.

use std::io::{self, BufRead, Read};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{BackupError, Destination, STATE};
use crate::issuance_log::INDEX_MARKER;
use crate::store::{Batch, Store, StoreError, Table};

/// The format that is written, and the newest that is read.
const FORMAT: u32 = 1;
/// Rows in memory at once.
const ROWS: usize = 256;
/// No line is longer, in bytes.
const MAX_LINE: u64 = 4 * 1024 * 1024;

/// Why the state of a backup cannot be put back.
#[derive(Debug, Error)]
pub enum StateFileError {
    /// It cannot be read.
    #[error("cannot read it")]
    Read(#[source] io::Error),
    /// A later program wrote it.
    #[error("it has format {0}; this program knows {FORMAT}")]
    Format(u32),
    /// A line is not what it should be.
    #[error("line {0} is not a row of the store")]
    Line(usize),
    /// A row belongs to a table that is not known.
    #[error("line {0} is of the unknown table {1:?}")]
    Table(usize, String),
    /// The store does not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    #[serde(borrow)]
    table: std::borrow::Cow<'a, str>,
    key: String,
    value: String,
}

/// Sends every row that nothing can make again.
pub(super) fn send(store: &dyn Store, to: &mut impl Destination) -> Result<(), BackupError> {
    let line = |line: serde_json::Result<String>| {
        line.map(|line| line + "\n").map_err(|_| BackupError::Stream("a row cannot be encoded"))
    };
    to.begin(STATE)?;
    to.write(line(serde_json::to_string(&Head { format: FORMAT }))?.as_bytes())?;
    for (table, name) in Table::KEPT {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows = store.scan_prefix(table, b"", after.as_deref(), ROWS)?;
            for (key, value) in &rows {
                // The index is made again from the log, and this says how far it came.
                if table == Table::Meta && key == INDEX_MARKER {
                    continue;
                }
                let row = Line { table: name.into(), key: BASE64.encode(key), value: BASE64.encode(value) };
                to.write(line(serde_json::to_string(&row))?.as_bytes())?;
            }
            match rows.into_iter().next_back() {
                Some((last, _)) => after = Some(last),
                None => break,
            }
        }
    }
    Ok(())
}

/// Puts the rows into `store`; the caller makes them durable.
///
/// # Errors
/// They cannot be read, or are not such rows.
pub(super) fn put_back(mut from: impl BufRead, store: &dyn Store) -> Result<(), StateFileError> {
    let mut batch = Batch::default();
    let mut text = Vec::new();
    for number in 1.. {
        text.clear();
        let read = (&mut from).take(MAX_LINE).read_until(b'\n', &mut text).map_err(StateFileError::Read)?;
        if read == 0 {
            break;
        }
        if number == 1 {
            let head: Head = serde_json::from_slice(&text).map_err(|_| StateFileError::Line(number))?;
            if head.format != FORMAT {
                return Err(StateFileError::Format(head.format));
            }
            continue;
        }
        let line: Line<'_> = serde_json::from_slice(&text).map_err(|_| StateFileError::Line(number))?;
        let table = Table::KEPT.into_iter().find(|(_, name)| *name == line.table);
        let Some((table, _)) = table else {
            return Err(StateFileError::Table(number, line.table.chars().take(40).collect()));
        };
        let decoded = |text: &str| BASE64.decode(text).map_err(|_| StateFileError::Line(number));
        batch.put(table, decoded(&line.key)?, decoded(&line.value)?);
        if number % ROWS == 0 {
            store.apply(std::mem::take(&mut batch))?;
        }
    }
    Ok(store.apply(batch)?)
}
