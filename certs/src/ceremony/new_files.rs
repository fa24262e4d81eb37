//! Writing the files of a ceremony: all of them or none, and over something that is there only where a
//! person named it.
//!
//! Each file is written and synced under a temporary name, then linked to its own. A link, other than a
//! rename, fails where the name is taken, so two ceremonies at once cannot destroy each other's keys.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process;

use thiserror::Error;
use zeroize::Zeroizing;

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
    /// A file of that name is there and was not named.
    #[error(
        "{path} is there already, and only what is named is overwritten; choose another folder or add --overwrite {name}",
        path = path.display()
    )]
    Exists {
        /// Where it is.
        path: PathBuf,
        /// By which it could be named.
        name: String,
    },
    /// A name was given that no file here has.
    #[error("--overwrite {name}: expected one of the files that are written: {written}")]
    NotWritten {
        /// As given.
        name: String,
        /// The names that would do.
        written: String,
    },
    /// The folder cannot be made.
    #[error("make the folder {}", .0.display())]
    Folder(PathBuf, #[source] io::Error),
    /// A file cannot be written.
    #[error("write {}", .0.display())]
    Write(PathBuf, #[source] io::Error),
}

/// Writes all files into `folder`, which is made if it is not there. A file that is there is replaced if
/// `overwrite` has its name, left as it is if it holds just the same, and refused otherwise. On an error
/// everything is as it was before.
pub(crate) fn write_all(
    folder: &Path,
    files: &[NewFile<'_>],
    overwrite: &[String],
) -> Result<(), NewFilesError> {
    if let Some(name) = overwrite.iter().find(|name| files.iter().all(|file| file.name != **name)) {
        let written = files.iter().map(|file| file.name).collect::<Vec<_>>().join(", ");
        return Err(NewFilesError::NotWritten { name: name.clone(), written });
    }
    // Looked at first, so that a refusal touches nothing at all. A dangling link is something, too.
    let mut wanted = Vec::with_capacity(files.len());
    for file in files {
        let path = folder.join(file.name);
        let named = overwrite.iter().any(|name| name == file.name);
        match path.symlink_metadata() {
            Ok(_) if named => wanted.push((file, path, true)),
            Ok(_) if holds(&path, file.content) => {}
            Ok(_) => return Err(NewFilesError::Exists { path, name: file.name.to_owned() }),
            Err(_) => wanted.push((file, path, false)),
        }
    }
    fs::create_dir_all(folder).map_err(|error| NewFilesError::Folder(folder.to_owned(), error))?;
    // Declared before `undo`, so that it goes after it: what was replaced is put back from a temporary name.
    let mut temporary = RemoveOnDrop(Vec::with_capacity(wanted.len()));
    let mut staged = Vec::with_capacity(wanted.len());
    for (file, path, replace) in wanted {
        staged.push((stage(folder, file, &mut temporary)?, path, replace.then_some(file.name), file));
    }
    let mut undo = Undo::default();
    for (new, path, replaced, file) in staged {
        let failed = |error| NewFilesError::Write(path.clone(), error);
        if let Some(name) = replaced {
            let old = folder.join(format!(".{name}.{}.old", process::id()));
            fs::hard_link(&path, &old).map_err(failed)?;
            temporary.0.push(old.clone());
            fs::rename(&new, &path).map_err(failed)?;
            undo.replaced.push((old, path));
            continue;
        }
        match fs::hard_link(&new, &path) {
            Ok(()) => undo.placed.0.push(path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                // Another ceremony came first; a root that both copy is no matter.
                if !holds(&path, file.content) {
                    return Err(NewFilesError::Exists { path, name: file.name.to_owned() });
                }
            }
            Err(error) => return Err(failed(error)),
        }
    }
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| NewFilesError::Write(folder.to_owned(), error))?;
    undo.placed.0.clear();
    undo.replaced.clear();
    Ok(())
}

fn holds(path: &Path, content: &[u8]) -> bool {
    fs::read(path).map(Zeroizing::new).is_ok_and(|found| found.as_slice() == content)
}

/// Writes a file under a temporary name, which it answers.
fn stage(folder: &Path, file: &NewFile<'_>, temporary: &mut RemoveOnDrop) -> Result<PathBuf, NewFilesError> {
    let path = folder.join(format!(".{}.{}", file.name, process::id()));
    let failed = |error| NewFilesError::Write(path.clone(), error);
    let mut open = OpenOptions::new();
    let mut opened = open.write(true).create_new(true).mode(file.mode).open(&path).map_err(failed)?;
    temporary.0.push(path.clone());
    opened.write_all(file.content).and_then(|()| opened.sync_all()).map_err(failed)?;
    Ok(path)
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

/// Takes back what was done, unless it was cleared.
struct Undo {
    placed: RemoveOnDrop,
    /// The old file's temporary name and its own.
    replaced: Vec<(PathBuf, PathBuf)>,
}

impl Default for Undo {
    fn default() -> Self {
        Self { placed: RemoveOnDrop(Vec::new()), replaced: Vec::new() }
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        for (old, path) in &self.replaced {
            let _ = fs::rename(old, path);
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
        write_all(&folder, &FILES, &[]).unwrap();
        assert_eq!(names(&folder), ["a.pem", "b.pem"]);
        assert_eq!(fs::read(folder.join("b.pem")).unwrap(), b"b");
        let mode = folder.join("b.pem").metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE);
    }

    #[test]
    fn a_file_that_is_there_stays_and_nothing_comes_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("b.pem"), "mine").unwrap();
        let error = write_all(folder.path(), &FILES, &[]).unwrap_err();
        assert!(matches!(&error, NewFilesError::Exists { path, .. } if path.ends_with("b.pem")), "{error}");
        assert_eq!(names(folder.path()), ["b.pem"]);
        assert_eq!(fs::read(folder.path().join("b.pem")).unwrap(), b"mine");
    }

    #[test]
    fn a_dangling_link_is_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        symlink("nowhere", folder.path().join("a.pem")).unwrap();
        assert!(matches!(write_all(folder.path(), &FILES, &[]), Err(NewFilesError::Exists { .. })));
        assert_eq!(names(folder.path()), ["a.pem"]);
    }

    #[test]
    fn what_was_written_before_a_failure_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let [first, _] = FILES;
        let files = [first, NewFile { name: "no/such/folder", mode: PUBLIC, content: b"" }];
        assert!(matches!(write_all(folder.path(), &files, &[]), Err(NewFilesError::Write(..))));
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
        // The same name twice passes the first look and fails at the second file.
        let twice = [FILES[0].name, FILES[0].name].map(|name| NewFile { name, mode: PUBLIC, content: b"" });
        assert!(write_all(folder.path(), &twice, &[]).is_err());
        assert!(names(folder.path()).is_empty(), "{:?}", names(folder.path()));
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = write_all(&file.join("sub"), &FILES, &[]).unwrap_err();
        assert!(matches!(error, NewFilesError::Folder(..)), "{error}");
    }

    fn named(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_what_is_named_is_overwritten_and_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a.pem"), "old a").unwrap();
        fs::write(path("b.pem"), "old b").unwrap();
        let error = write_all(folder.path(), &FILES, &named(&["b.pem"])).unwrap_err();
        assert!(matches!(&error, NewFilesError::Exists { name, .. } if name == "a.pem"), "{error}");
        assert!(error.to_string().ends_with("--overwrite a.pem"), "{error}");
        assert_eq!(fs::read(path("b.pem")).unwrap(), b"old b");

        write_all(folder.path(), &FILES, &named(&["b.pem", "a.pem"])).unwrap();
        assert_eq!(names(folder.path()), ["a.pem", "b.pem"]);
        assert_eq!(
            (fs::read(path("a.pem")).unwrap(), fs::read(path("b.pem")).unwrap()),
            (b"a".into(), b"b".into())
        );
        assert_eq!(path("b.pem").metadata().unwrap().permissions().mode() & 0o777, PRIVATE);
    }

    #[test]
    fn a_name_that_is_not_written_is_refused_before_anything_happens() {
        let folder = tempfile::tempdir().unwrap();
        let error = write_all(folder.path(), &FILES, &named(&["a.pem", "c.pem"])).unwrap_err();
        assert!(error.to_string().starts_with("--overwrite c.pem: "), "{error}");
        assert!(error.to_string().ends_with("a.pem, b.pem"), "{error}");
        assert!(names(folder.path()).is_empty());
    }

    #[test]
    fn what_was_replaced_before_a_failure_is_put_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("a.pem"), "old").unwrap();
        // No file can take the place of a folder, which shows only when it is tried.
        fs::create_dir(path("b.pem")).unwrap();
        let refused = write_all(folder.path(), &FILES, &named(&["a.pem", "b.pem"]));
        assert!(matches!(refused, Err(NewFilesError::Write(..))));
        assert_eq!(fs::read(path("a.pem")).unwrap(), b"old");
        assert_eq!(names(folder.path()), ["a.pem", "b.pem"]);
    }

    #[test]
    fn a_link_is_replaced_and_not_written_through() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("elsewhere"), "mine").unwrap();
        symlink("elsewhere", path("a.pem")).unwrap();
        write_all(folder.path(), &FILES, &named(&["a.pem"])).unwrap();
        assert_eq!(fs::read(path("elsewhere")).unwrap(), b"mine");
        assert!(path("a.pem").symlink_metadata().unwrap().is_file());
    }

    #[test]
    fn a_file_that_holds_the_same_already_is_no_obstacle() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.pem");
        fs::write(&path, "a").unwrap();
        let before = path.metadata().unwrap().modified().unwrap();
        write_all(folder.path(), &FILES, &[]).unwrap();
        assert_eq!(names(folder.path()), ["a.pem", "b.pem"]);
        assert_eq!(path.metadata().unwrap().modified().unwrap(), before);
    }
}
