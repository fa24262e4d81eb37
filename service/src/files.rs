//! Files that are either the old ones or the new ones, also after a power cut.
//!
//! A file is staged (temporary name, synced) and then committed (renamed, folder synced). Staging several
//! before committing any keeps the time between their renames as short as a rename.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file that is complete on disk and does not have its name yet. Dropped, it is removed.
pub struct Staged {
    temporary: Option<PathBuf>,
    target: PathBuf,
}

/// Writes one file, durably; its folder must exist.
///
/// # Errors
/// The file is as it was before; only a failure of the last step, the sync of the folder, leaves the new
/// content in place without its being durable.
pub fn write(target: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    stage(target, content, mode)?.commit()?;
    sync_folder_of(target)
}

/// Writes and syncs the content beside `target`, with `mode` less the umask.
///
/// # Errors
/// Nothing has changed.
pub fn stage(target: &Path, content: &[u8], mode: u32) -> io::Result<Staged> {
    let mut temporary = target.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    // What a killed process left behind may have another mode; there is one writer per folder.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    let staged = Staged { temporary: Some(temporary), target: target.to_owned() };
    file.write_all(content)?;
    file.sync_all()?;
    Ok(staged)
}

impl Staged {
    /// Gives the file its name. The folder is not synced yet: see [`sync_folder_of`].
    ///
    /// # Errors
    /// The old file is still there.
    pub fn commit(mut self) -> io::Result<()> {
        if let Some(temporary) = &self.temporary {
            std::fs::rename(temporary, &self.target)?;
        }
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // The error that brought us here is the one to report.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// Makes the names in the folder of `target` durable.
///
/// # Errors
/// The folder cannot be opened or synced.
pub fn sync_folder_of(target: &Path) -> io::Result<()> {
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_with_its_mode_and_no_trace() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, "old").unwrap();
        std::fs::write(folder.path().join("key.pem.tmp"), "left by a killed process").unwrap();
        write(&path, b"new", 0o600).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_staged_and_not_committed_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, "old").unwrap();
        drop(stage(&path, b"new", 0o600).unwrap());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
