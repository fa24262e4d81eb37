//! Files and folders with keys that others than we may open: what is ours is closed, and said; what is not ours to
//! close is said; a folder of a stranger's is not used.
//!
//! ssh refuses such a key, etcd warns of such a folder. We close it, since a CA that does not start ends every
//! certificate behind it; whoever reads the warning decides whether the key was known to others meanwhile.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

/// What is to be done about something of this owner and mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Nothing.
    None,
    /// It is ours, and others may open it: it is to be closed.
    Ours,
    /// Anybody may open it, and it is not ours to close.
    Open,
    /// It belongs to another user, who can do with it what he likes.
    Foreign,
}

/// Judges an owner and permission bits, as seen by the user `us`. Root's are as good as ours: root may do
/// everything anyway, and Kubernetes mounts volumes as root's, with the pod's group. Root itself takes what
/// belongs to the user that a server usually runs as.
pub fn judge(owner: u32, mode: u32, us: u32) -> Exposure {
    match owner {
        _ if owner == us && mode & 0o077 != 0 => Exposure::Ours,
        _ if owner == us => Exposure::None,
        _ if owner != 0 && us != 0 => Exposure::Foreign,
        _ if mode & 0o007 != 0 => Exposure::Open,
        _ => Exposure::None,
    }
}

fn of(found: &Metadata) -> (Exposure, u32) {
    let mode = found.mode() & 0o7777;
    (judge(found.uid(), mode, rustix::process::geteuid().as_raw()), mode)
}

/// Closes the folder (mode 0700) if it is ours; answers the owner if it is a stranger's.
pub fn close_folder(path: &Path) -> io::Result<Option<u32>> {
    let found = fs::metadata(path)?;
    let (exposure, mode) = of(&found);
    let (shown, mode) = (path.display(), format!("{mode:04o}"));
    match exposure {
        Exposure::None => {}
        Exposure::Ours => {
            fs::set_permissions(path, Permissions::from_mode(0o700))?;
            tracing::warn!(path = %shown, mode, "others could enter the data folder: it is closed (0700)");
        }
        Exposure::Open => {
            tracing::error!(path = %shown, mode, "anybody may enter the data folder, and it is not ours to close");
        }
        Exposure::Foreign => return Ok(Some(found.uid())),
    }
    Ok(None)
}

/// Closes an open key file (mode 0600) if it is ours. `path` is for people.
pub fn close_key(file: &File, path: &Path) -> io::Result<()> {
    let (exposure, mode) = of(&file.metadata()?);
    let (shown, mode) = (path.display(), format!("{mode:04o}"));
    match exposure {
        Exposure::None => {}
        Exposure::Ours => {
            file.set_permissions(Permissions::from_mode(0o600))?;
            tracing::warn!(
                path = %shown,
                mode,
                "others could open a key: it is closed (0600); if they may have read it, replace it"
            );
        }
        Exposure::Open | Exposure::Foreign => {
            tracing::error!(path = %shown, mode, "a key that others may open is not ours to close");
        }
    }
    Ok(())
}

/// Says that anybody may read a plugged-in key. Its folder is the administrators', and often cannot be written.
pub fn tell_of_readable_key(path: &Path) {
    let Ok(found) = fs::metadata(path) else { return };
    let mode = found.mode() & 0o7777;
    if mode & 0o007 != 0 {
        tracing::warn!(
            path = %path.display(),
            mode = format!("{mode:04o}"),
            "anybody on this machine may read the CA's key (chmod 600; defaultMode of a mounted secret)"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_is_ours_is_closed_root_s_is_taken_and_a_stranger_s_is_not() {
        for (owner, mode, us, expected) in [
            (7, 0o700, 7, Exposure::None),
            (7, 0o750, 7, Exposure::Ours),
            (7, 0o701, 7, Exposure::Ours),
            (0, 0o755, 0, Exposure::Ours),
            (0, 0o2770, 7, Exposure::None),
            (0, 0o2775, 7, Exposure::Open),
            (8, 0o700, 7, Exposure::Foreign),
            (8, 0o700, 0, Exposure::None),
            (8, 0o755, 0, Exposure::Open),
        ] {
            assert_eq!(judge(owner, mode, us), expected, "{owner} {mode:o} {us}");
        }
    }

    #[test]
    fn folders_and_keys_of_ours_are_closed() {
        let place = tempfile::tempdir().unwrap();
        let (folder, key) = (place.path().join("data"), place.path().join("key"));
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
        assert_eq!(close_folder(&folder).unwrap(), None);
        assert_eq!(mode(&folder), 0o700);
        fs::write(&key, "secret").unwrap();
        fs::set_permissions(&key, Permissions::from_mode(0o644)).unwrap();
        close_key(&File::open(&key).unwrap(), &key).unwrap();
        assert_eq!(mode(&key), 0o600);
        fs::set_permissions(&key, Permissions::from_mode(0o400)).unwrap();
        close_key(&File::open(&key).unwrap(), &key).unwrap();
        assert_eq!(mode(&key), 0o400, "what is closed already stays as it is");
    }
}
