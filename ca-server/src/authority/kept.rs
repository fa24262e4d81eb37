//! The copy of the active authority in the data folder (`authorities/`): what the CA goes on with, also after a
//! restart, when the plugged-in folder is emptied, damaged, or changed to something that must not be taken at
//! once. A self-signed CA has no other place at all.
//!
//! A copy is a folder of Istio's form. It is written whole under a name made of its content, and counts once
//! the authority's row names it; copies that no row names are removed.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use signet_certs::cacerts::{CA_CERT, CA_CRL, CA_KEY, CERT_CHAIN, Cacerts, ROOT_CERT};
use signet_certs::chain::Certificate;
use signet_certs::digest::{hex, sha256};
use signet_service::files;
use signet_service::logging::with_causes;
use thiserror::Error;
use zeroize::Zeroizing;

use super::loader::{self, LoadError};
use crate::data_folder::AUTHORITIES;
use crate::sealing::{SealError, Sealer, is_sealed};

/// A copy could not be written or removed.
#[derive(Debug, Error)]
pub enum KeepError {
    /// The disk refused.
    #[error("keeping the authority's files in {}", .0.display())]
    Disk(PathBuf, #[source] io::Error),
    /// The key could not be sealed.
    #[error("keeping the authority's key")]
    Seal(#[from] SealError),
}

/// The copies of a data folder.
#[derive(Debug, Clone)]
pub struct Kept {
    data: PathBuf,
    path: PathBuf,
    sealer: Arc<Sealer>,
}

impl Kept {
    /// In the data folder `data`; their folder is made with the first copy. Keys are stored as `sealer` has it.
    pub fn new(data: &Path, sealer: Arc<Sealer>) -> Self {
        Self { data: data.to_owned(), path: data.join(AUTHORITIES), sealer }
    }

    /// Where a copy is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The names of the copies that are whole. There is more than one only after a crash.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| !name.starts_with('.')).collect()
    }

    /// Writes a copy, durably, unless it is there; its name.
    pub fn write(&self, cacerts: &Cacerts) -> Result<String, KeepError> {
        let key = cacerts.ca.key.to_pkcs8_pem();
        let signer = cacerts.ca.certificate.to_pem();
        let chain: String = cacerts.intermediates.iter().map(Certificate::to_pem).collect();
        let chain = if chain.is_empty() { signer.clone() } else { chain };
        let roots: String = cacerts.roots.iter().map(Certificate::to_pem).collect();
        let mut parts = vec![
            (CA_CERT, 0o644, signer.as_bytes()),
            (CA_KEY, 0o600, key.as_bytes()),
            (CERT_CHAIN, 0o644, chain.as_bytes()),
            (ROOT_CERT, 0o644, roots.as_bytes()),
        ];
        parts.extend(cacerts.crl.as_deref().map(|crl| (CA_CRL, 0o644, crl)));

        let name = name_of(cacerts, &parts);
        let target = self.path(&name);
        if self.holds(&name, &parts) {
            return Ok(name);
        }
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |error| KeepError::Disk(path, error)
        };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(failed(&self.path))?;
        let new = self.path(".new");
        remove_if_there(&new).map_err(failed(&new))?;
        DirBuilder::new().mode(0o700).create(&new).map_err(failed(&new))?;
        for (file, mode, content) in parts {
            let sealed =
                if file == CA_KEY { Some(self.sealer.seal(&key_name(&name), content)?) } else { None };
            let content = sealed.as_ref().map_or(content, |sealed| sealed.as_slice());
            let file = new.join(file);
            files::write(&file, content, mode).map_err(failed(&file))?;
        }
        // What stands there under this name is damaged.
        remove_if_there(&target).map_err(failed(&target))?;
        fs::rename(&new, &target)
            .and_then(|()| File::open(&self.path)?.sync_all())
            .map_err(failed(&target))?;
        Ok(name)
    }

    /// Whether the copy is there and as it should be, sealed if keys are to be.
    fn holds(&self, name: &str, parts: &[(&str, u32, &[u8])]) -> bool {
        parts.iter().all(|(file, _, content)| {
            let Ok(stored) = fs::read(self.path(name).join(file)).map(Zeroizing::new) else { return false };
            if *file != CA_KEY {
                return stored.as_slice() == *content;
            }
            let opened = self.sealer.open(&key_name(name), &stored);
            is_sealed(&stored) == self.sealer.seals() && opened.is_ok_and(|key| key.as_slice() == *content)
        })
    }

    /// Reads a copy and judges it at `now`. A key that is stored plain is sealed on the way, if keys are to be.
    pub fn read(&self, name: &str, now: SystemTime) -> Result<Cacerts, LoadError> {
        let mut folder = loader::read(&self.path(name));
        if folder.get(CA_KEY).is_some_and(Result::is_ok) {
            let key = self.sealer.read_file(&self.data, &key_name(name));
            folder.insert(CA_KEY, key.map_err(|error| with_causes(&error)));
        }
        Cacerts::read(&folder, now).map_err(|faults| LoadError { folder: self.path(name), faults })
    }

    /// Removes every copy but this one: keys that sign nothing more are not left lying about.
    pub fn remove_all_but(&self, name: &str) -> Result<(), KeepError> {
        let failed = |path: PathBuf| move |error| KeepError::Disk(path, error);
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed(self.path.clone()))?,
        };
        for entry in entries {
            let path = entry.map_err(failed(self.path.clone()))?.path();
            if path.file_name().is_some_and(|found| found != name) {
                remove_if_there(&path).map_err(failed(path.clone()))?;
            }
        }
        Ok(())
    }
}

/// A copy's key file, as the data folder calls it: the seal is bound to that name.
fn key_name(copy: &str) -> String {
    format!("{AUTHORITIES}/{copy}/{CA_KEY}")
}

/// The key's identifier, for people, and a digest of everything in the copy.
fn name_of(cacerts: &Cacerts, parts: &[(&str, u32, &[u8])]) -> String {
    let mut all = Zeroizing::new(Vec::new());
    for (file, _, content) in parts {
        all.extend_from_slice(file.as_bytes());
        all.extend_from_slice(&(content.len() as u64).to_be_bytes());
        all.extend_from_slice(content);
    }
    format!("{}-{}", hex(&cacerts.ca.certificate.key_id()), &hex(&sha256(&all))[..16])
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::authority::tests::{YEAR, cacerts, now};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_copy_reads_back_as_it_was_and_its_key_is_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path(), Arc::default());
        let cacerts = cacerts(YEAR);
        let name = kept.write(&cacerts).unwrap();
        let read = kept.read(&name, now()).unwrap();
        assert_eq!(read.ca.certificate, cacerts.ca.certificate);
        assert_eq!(read.ca.key.spki(), cacerts.ca.key.spki());
        assert_eq!((read.intermediates, read.roots), (cacerts.intermediates, cacerts.roots));
        let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(kept.path(&name)), mode(kept.path(&name).join(CA_KEY))), (0o700, 0o600));
    }

    #[test]
    fn with_a_key_encryption_key_the_copy_s_key_is_sealed_and_a_plain_one_is_sealed_when_read() {
        let folder = tempfile::tempdir().unwrap();
        let kek = folder.path().join("kek");
        files::write(&kek, &[7; 32], 0o600).unwrap();
        let sealed = Kept::new(folder.path(), Arc::new(Sealer::from_file(Some(&kek)).unwrap()));
        let plain = Kept::new(folder.path(), Arc::default());
        let (a, b) = (cacerts(YEAR), cacerts(YEAR));
        let stored_sealed = |name: &str| is_sealed(&fs::read(sealed.path(name).join(CA_KEY)).unwrap());
        let name = sealed.write(&a).unwrap();
        assert!(stored_sealed(&name));
        assert_eq!(sealed.read(&name, now()).unwrap().ca.key.spki(), a.ca.key.spki());
        let refused = plain.read(&name, now()).unwrap_err().to_string();
        assert!(refused.contains("ca-key.pem") && refused.contains("sealed"), "{refused}");
        let name = plain.write(&b).unwrap();
        assert!(!stored_sealed(&name));
        sealed.read(&name, now()).unwrap();
        assert!(stored_sealed(&name));
        sealed.read(&name, now()).unwrap();
    }

    #[test]
    fn a_copy_is_written_once_and_others_go() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path(), Arc::default());
        let (a, b) = (cacerts(YEAR), cacerts(YEAR));
        let (first, second) = (kept.write(&a).unwrap(), kept.write(&b).unwrap());
        assert_eq!(kept.write(&a).unwrap(), first);
        fs::write(kept.path(&first).join(CA_KEY), "damaged").unwrap();
        assert_eq!(kept.write(&a).unwrap(), first);
        assert!(kept.read(&first, now()).is_ok(), "a damaged copy is written anew");
        fs::create_dir(kept.path(".new")).unwrap();
        kept.remove_all_but(&second).unwrap();
        assert_eq!(fs::read_dir(kept.path("")).unwrap().count(), 1);
        assert!(kept.read(&first, now()).is_err() && kept.read(&second, now()).is_ok());
        // A crash in the middle of writing leaves a folder of another name.
        fs::create_dir(kept.path(".new")).unwrap();
        kept.write(&a).unwrap();
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error_with_its_path() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Kept::new(&file, Arc::default()).write(&cacerts(YEAR)).unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
        assert!(std::error::Error::source(&error).is_some());
    }
}
