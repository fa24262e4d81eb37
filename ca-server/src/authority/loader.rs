//! Reading the plugged-in `cacerts` folder from disk; `signet_certs::cacerts` says what it means.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use signet_certs::cacerts::{CA_CERT, CA_KEY, CERT_CHAIN, Cacerts, Fault, Files, ROOT_CERT};
use thiserror::Error;
use zeroize::Zeroizing;

/// No CA file is larger; what is was put there by mistake.
const MAX_FILE: u64 = 1024 * 1024;

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

/// Reads and judges the folder's four files at `now`. Blocks for the disk.
pub fn load(folder: &Path, now: SystemTime) -> Result<Cacerts, LoadError> {
    let mut faults = Vec::new();
    let mut read = |file: &'static str| match read_bounded(&folder.join(file)) {
        Ok(bytes) => bytes,
        Err(error) => {
            faults.push(Fault { file, what: format!("cannot be read: {error}") });
            Zeroizing::default()
        }
    };
    let files = Files {
        ca_cert: read(CA_CERT).to_vec(),
        ca_key: read(CA_KEY),
        cert_chain: read(CERT_CHAIN).to_vec(),
        root_cert: read(ROOT_CERT).to_vec(),
    };
    // Files that are there are judged too, so that one start shows all that must be mended.
    match Cacerts::read(&files, now) {
        Ok(cacerts) if faults.is_empty() => Ok(cacerts),
        judged => {
            let unread: Vec<_> = faults.iter().map(|fault| fault.file).collect();
            let more = judged.err().unwrap_or_default();
            faults.extend(more.into_iter().filter(|fault| !unread.contains(&fault.file)));
            Err(LoadError { folder: folder.to_owned(), faults })
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("is larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::authority::tests::{YEAR, cacerts, now};
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
            "ca-key.pem: cannot be read: No such file",
            "root-cert.pem: cannot be read: is larger",
            "cert-chain.pem: expected a block CERTIFICATE",
        ] {
            assert!(text.contains(expected), "{expected:?} is not in {text}");
        }
        assert_eq!(text.matches("\n  ").count(), 3, "{text}");
    }
}
