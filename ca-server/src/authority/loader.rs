//! Reading the plugged-in `cacerts` folder from disk; `signet_certs::cacerts` says what it means.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::OFlags;
use signet_certs::cacerts::{CA_KEY, Cacerts, Fault, Folder, MAX_FILE, NAMES, TLS_KEY};
use thiserror::Error;
use zeroize::Zeroizing;

use crate::exposure;

/// Everything that is wrong with a folder.
#[derive(Debug, Error)]
#[error("the CA files in {} cannot be used:{}", folder.display(), lines(faults))]
pub struct LoadError {
    /// The folder.
    pub folder: PathBuf,
    /// Each with its file.
    pub faults: Vec<Fault>,
}

fn lines(faults: &[Fault]) -> String {
    faults.iter().map(|fault| format!("\n  {fault}")).collect()
}

/// Reads and judges the folder's files at `now`. Blocks for the disk.
pub fn load(folder: &Path, now: SystemTime) -> Result<Cacerts, LoadError> {
    // Files that are there are judged even where others are not, so that one start shows all that must
    // be mended.
    Cacerts::read(&read(folder), now).map_err(|faults| LoadError { folder: folder.to_owned(), faults })
}

/// Every CA file of the folder that is there; a file that is there and cannot be read says why. Blocks for
/// the disk.
pub fn read(path: &Path) -> Folder {
    let mut folder = Folder::new();
    for name in NAMES {
        match read_bounded(&path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            content => folder.insert(name, content.map_err(|error| error.to_string())),
        }
    }
    folder
}

/// Says that anybody may read the plugged-in key, whichever form the folder has.
pub fn tell_of_readable_key(folder: &Path) {
    for name in [CA_KEY, TLS_KEY] {
        exposure::tell_of_readable_key(&folder.join(name));
    }
}

fn read_bounded(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    // A pipe would be waited for, for ever.
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file, but a directory or a pipe"));
    }
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::authority::tests::{YEAR, cacerts, now};
    use signet_certs::cacerts::{CA_CERT, CERT_CHAIN, ROOT_CERT};
    use std::fs;

    fn write(folder: &Path) {
        let cacerts = cacerts(YEAR);
        let (signer, root) = (cacerts.ca.certificate.to_pem(), cacerts.anchor.to_pem());
        fs::write(folder.join(CA_CERT), &signer).unwrap();
        fs::write(folder.join(CA_KEY), cacerts.ca.key.to_pkcs8_pem().as_bytes()).unwrap();
        fs::write(folder.join(CERT_CHAIN), format!("{signer}{root}")).unwrap();
        fs::write(folder.join(ROOT_CERT), root).unwrap();
    }

    #[test]
    fn a_pipe_is_said_to_be_none_of_the_files_and_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        let pipe = folder.path().join(CA_CERT);
        fs::remove_file(&pipe).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .unwrap();
        let text = load(folder.path(), now()).unwrap_err().to_string();
        assert!(text.contains("ca-cert.pem: cannot be read: it is no regular file"), "{text}");
    }

    #[test]
    fn a_whole_folder_loads() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        assert_eq!(load(folder.path(), now()).unwrap().intermediates.len(), 1);
    }

    #[test]
    fn every_file_that_is_missing_too_large_or_bad_is_named_at_once() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path());
        fs::remove_file(folder.path().join(CA_KEY)).unwrap();
        fs::write(folder.path().join(ROOT_CERT), vec![b'x'; MAX_FILE as usize + 1]).unwrap();
        fs::write(folder.path().join(CERT_CHAIN), "nothing").unwrap();
        let text = load(folder.path(), now()).unwrap_err().to_string();
        for expected in [
            "ca-key.pem: is missing",
            "root-cert.pem: cannot be read: it is larger",
            "cert-chain.pem: expected a block CERTIFICATE",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in {text}");
        }
        assert_eq!(text.matches("\n  ").count(), 3, "{text}");
    }
}
