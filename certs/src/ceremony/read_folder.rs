//! Reading a folder of CA files from disk for judging, as the CA does.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use signet_certs::cacerts::{Folder, MAX_FILE, NAMES};
use zeroize::Zeroizing;

/// Every CA file of the folder that is there; a file that is there and cannot be read says why.
pub(crate) fn read_folder(path: &Path) -> Folder {
    let mut folder = Folder::new();
    for name in NAMES {
        match read_bounded(&path.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            content => folder.insert(name, content.map_err(|error| error.to_string())),
        }
    }
    folder
}

/// No more than a CA file can be long.
fn read_bounded(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::new());
    // A pipe would be waited for, for ever.
    if !path.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file, but a directory or a pipe"));
    }
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use signet_certs::cacerts::{CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT};
    use std::fs;

    #[test]
    fn absent_files_are_absent_and_unreadable_ones_say_why() {
        let folder = tempfile::tempdir().unwrap();
        assert!(read_folder(folder.path()).is_empty());
        fs::write(folder.path().join(CA_CERT), "a").unwrap();
        fs::create_dir(folder.path().join(CA_KEY)).unwrap();
        fs::write(folder.path().join(ROOT_CERT), vec![b'x'; MAX_FILE as usize + 1]).unwrap();
        let read = read_folder(folder.path());
        assert_eq!(read.get(CA_CERT).unwrap().as_deref().unwrap(), b"a");
        assert!(read.get(CA_KEY).unwrap().as_ref().unwrap_err().contains("directory"));
        assert!(read.get(ROOT_CERT).unwrap().as_ref().unwrap_err().contains("larger than 1048576"));
        assert!(read.get(CERT_CHAIN).is_none());
    }
}
