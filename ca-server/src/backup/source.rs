//! Reads what a backup consists of, from a running server or a stopped one's folder.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use tokio::runtime::Handle;

use super::{BackupError, Destination, PIECE, state};
use crate::data_folder::{AUTHORITIES, DataFolder, LOG, LOG_KEY, VERSION_FILE};
use crate::issuance_log::{IssuanceLog, LogExport};
use crate::store::{SledStore, Store};

/// Sends what a running server has in its data folder `data`; answers how many records the log in it has.
/// Blocks, and the log's checkpoint is awaited on `runtime`.
///
/// # Errors
/// Something cannot be read, or `to` does not take it.
pub(crate) fn send_running(
    data: &Path,
    log: &IssuanceLog,
    store: &dyn Store,
    runtime: &Handle,
    to: &mut impl Destination,
) -> Result<u64, BackupError> {
    // State before the log and the files: what a row speaks of is recorded and written before the row is, or
    // is done again by a server that does not find the row. Blocks carry a mark of how far they have come, and
    // acts of the log behind it are followed. A copy of CA files comes before its row and goes
    // after it, so rows and copies fit if the copies are the same before and after.
    let copies = copies(data)?;
    state::send(store, to)?;
    let log = runtime.block_on(log.export())?;
    send_files(data, &log, to)?;
    if self::copies(data)? == copies { Ok(log.records) } else { Err(BackupError::Changed) }
}

/// Sends what a stopped server left in its data folder; answers how many records the log in it has.
///
/// # Errors
/// Something cannot be read, or `to` does not take it.
pub(crate) fn send_stopped(folder: &DataFolder, to: &mut impl Destination) -> Result<u64, BackupError> {
    let state = folder.state_dir();
    // Opening one that is not there would make it.
    if state.exists() {
        state::send(&SledStore::open(&state)?, to)?;
    }
    let log = LogExport::of_stopped(&folder.log_dir())?;
    send_files(folder.path(), &log, to)?;
    Ok(log.records)
}

fn send_files(data: &Path, log: &LogExport, to: &mut impl Destination) -> Result<(), BackupError> {
    for part in &log.parts {
        send(&part.path, &in_log(&part.path), Some(part.bytes), to)?;
    }
    for (path, content) in log.notes() {
        to.begin(&in_log(&path))?;
        to.write(content)?;
    }
    for name in [VERSION_FILE, LOG_KEY] {
        send(&data.join(name), name, None, to)?;
    }
    send_folder(&data.join(AUTHORITIES), AUTHORITIES, to)
}

/// The names of the copies of CA files that are whole.
fn copies(data: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let mut copies = list(&data.join(AUTHORITIES))?;
    copies.retain(|path| !is_unfinished(path));
    Ok(copies)
}

/// What is being written has a name of its own until it is whole.
fn is_unfinished(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') || name.ends_with(".tmp")
}

/// What is in a folder, in the order of the names; nothing if it is not there.
fn list(path: &Path) -> Result<Vec<PathBuf>, BackupError> {
    let failed = |source| BackupError::Io { attempted: "list", path: path.to_owned(), source };
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(failed)?,
    };
    let mut paths =
        entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<PathBuf>, _>>().map_err(failed)?;
    paths.sort();
    Ok(paths)
}

/// The log's folder is flat.
fn in_log(path: &Path) -> String {
    format!("{LOG}/{}", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Sends a folder's files and those below it, if it is there, in the order of their names.
fn send_folder(path: &Path, name: &str, to: &mut impl Destination) -> Result<(), BackupError> {
    for path in list(path)?.into_iter().filter(|path| !is_unfinished(path)) {
        let name = format!("{name}/{}", path.file_name().unwrap_or_default().to_string_lossy());
        if path.is_dir() {
            send_folder(&path, &name, to)?;
        } else {
            send(&path, &name, None, to)?;
        }
    }
    Ok(())
}

/// Sends the first `bytes` bytes of a file, or all of it.
fn send(path: &Path, name: &str, bytes: Option<u64>, to: &mut impl Destination) -> Result<(), BackupError> {
    let failed = |source| BackupError::Io { attempted: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?.take(bytes.unwrap_or(u64::MAX));
    to.begin(name)?;
    let mut piece = zeroize::Zeroizing::new(vec![0; PIECE]);
    loop {
        match file.read(&mut piece).map_err(failed)? {
            0 => break,
            read => to.write(&piece[..read])?,
        }
    }
    match bytes {
        Some(bytes) if file.limit() > 0 => Err(BackupError::Shrunk { path: path.to_owned(), bytes }),
        _ => Ok(()),
    }
}
