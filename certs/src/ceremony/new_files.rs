//! Writing the files of a new CA: all of them or none, and never over anything that is there.
//!
//! Each file is written and synced under a temporary name, then linked to its own. A link, other than a
//! rename, fails where the name is taken, so two ceremonies at once cannot destroy each other's keys.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;

use thiserror::Error;

/// Mode of files for everybody.
pub(crate) const PUBLIC: u32 = 0o644;
/// Mode of private keys.
pub(crate) const PRIVATE: u32 = 0o600;

/// A file to be.
pub(crate) struct NewFile<'a> {
    /// Name within its folder.
    pub(crate) name: &'a str,
    /// [`PUBLIC`] or [`PRIVATE`].
    pub(crate) mode: u32,
    /// What it will hold.
    pub(crate) content: &'a [u8],
}

/// Why nothing was written.
#[derive(Debug, Error)]
pub(crate) enum NewFilesError {
    /// A file of that name is there.
    #[error("{} is there already and nothing is overwritten; choose another folder", .0.display())]
    Exists(PathBuf),
    /// The folder cannot be made.
    #[error("make the folder {}", .0.display())]
    Folder(PathBuf, #[source] io::Error),
    /// A file cannot be written.
    #[error("write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// Writes all files into `folder`, which is made if it is not there; on an error none of them is left.
pub(crate) fn write_all(folder: &Path, files: &[NewFile<'_>]) -> Result<(), NewFilesError> {
    // Looked at first, so that a refusal touches nothing at all. A dangling link is something, too.
    for path in files.iter().map(|file| folder.join(file.name)) {
        if path.symlink_metadata().is_ok() {
            return Err(NewFilesError::Exists(path));
        }
    }
    fs::create_dir_all(folder).map_err(|error| NewFilesError::Folder(folder.to_owned(), error))?;
    let mut temporary = RemoveOnDrop(Vec::with_capacity(files.len()));
    for file in files {
        let path = folder.join(format!(".{}.{}", file.name, process::id()));
        let mut open = OpenOptions::new();
        let mut opened = open
            .write(true)
            .create_new(true)
            .mode(file.mode)
            .open(&path)
            .map_err(|error| NewFilesError::Write(path.clone(), error))?;
        temporary.0.push(path.clone());
        opened
            .write_all(file.content)
            .and_then(|()| opened.sync_all())
            .map_err(|error| NewFilesError::Write(path, error))?;
    }
    let mut placed = RemoveOnDrop(Vec::with_capacity(files.len()));
    for (file, temporary) in files.iter().zip(&temporary.0) {
        let path = folder.join(file.name);
        match fs::hard_link(temporary, &path) {
            Ok(()) => placed.0.push(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(NewFilesError::Exists(path));
            }
            Err(error) => return Err(NewFilesError::Write(path, error)),
        }
    }
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| NewFilesError::Write(folder.to_owned(), error))?;
    placed.0.clear();
    Ok(())
}

struct RemoveOnDrop(Vec<PathBuf>);

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        for path in &self.0 {
            // The error that led here is the one to report.
            let _ = fs::remove_file(path);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const FILES: [NewFile<'_>; 2] = [
        NewFile { name: "a.pem", mode: PUBLIC, content: b"a" },
        NewFile { name: "b.pem", mode: PRIVATE, content: b"b" },
    ];

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_missing_folder_is_made_and_holds_just_the_files() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("x/y");
        write_all(&folder, &FILES).unwrap();
        assert_eq!(names(&folder), ["a.pem", "b.pem"]);
        assert_eq!(fs::read(folder.join("b.pem")).unwrap(), b"b");
        let mode = folder.join("b.pem").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE);
    }

    #[test]
    fn a_file_that_is_there_stays_and_nothing_comes_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("b.pem"), "mine").unwrap();
        let error = write_all(folder.path(), &FILES).unwrap_err();
        assert!(matches!(&error, NewFilesError::Exists(path) if path.ends_with("b.pem")), "{error}");
        assert_eq!(names(folder.path()), ["b.pem"]);
        assert_eq!(fs::read(folder.path().join("b.pem")).unwrap(), b"mine");
    }

    #[test]
    fn a_dangling_link_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        symlink("nowhere", folder.path().join("a.pem")).unwrap();
        assert!(matches!(write_all(folder.path(), &FILES), Err(NewFilesError::Exists(_))));
        assert_eq!(names(folder.path()), ["a.pem"]);
    }

    #[test]
    fn what_was_written_before_a_failure_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let [first, _] = FILES;
        let files = [first, NewFile { name: "no/such/folder", mode: PUBLIC, content: b"" }];
        assert!(matches!(write_all(folder.path(), &files), Err(NewFilesError::Write(..))));
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
        // The same name twice passes the first look and fails at the second link.
        let twice = [FILES[0].name, FILES[0].name].map(|name| NewFile { name, mode: PUBLIC, content: b"" });
        assert!(write_all(folder.path(), &twice).is_err());
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = write_all(&file.join("sub"), &FILES).unwrap_err();
        assert!(matches!(error, NewFilesError::Folder(..)), "{error}");
    }
}
