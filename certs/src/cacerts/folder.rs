//! The input: what a folder of CA files holds, whatever its form. Whoever reads the disk fills a
//! [`Folder`]; what it means is [`Cacerts::read`](super::Cacerts::read)'s business.

use std::collections::BTreeMap;
use std::fmt;

use ring::digest::{Context, SHA256};
use zeroize::Zeroizing;

/// The signing certificate.
pub const CA_CERT: &str = "ca-cert.pem";
/// Its private key.
pub const CA_KEY: &str = "ca-key.pem";
/// The signing certificate and those above it, in order.
pub const CERT_CHAIN: &str = "cert-chain.pem";
/// One or more roots.
pub const ROOT_CERT: &str = "root-cert.pem";
/// Optional: a CRL of each CA of the chain.
pub const CA_CRL: &str = "ca-crl.pem";
/// The second form, as Kubernetes' TLS secrets have it: the signing certificate, then those above it.
pub const TLS_CERT: &str = "tls.crt";
/// The second form's private key.
pub const TLS_KEY: &str = "tls.key";
/// The second form's roots.
pub const TLS_CA: &str = "ca.crt";

/// Every file that is looked at.
pub const NAMES: [&str; 8] = [CA_CERT, CA_KEY, CERT_CHAIN, ROOT_CERT, CA_CRL, TLS_CERT, TLS_KEY, TLS_CA];

/// No CA file is larger, in bytes; what is was put there by mistake. Readers stop here.
pub const MAX_FILE: u64 = 1024 * 1024;

/// A file's content, or why a file that is there cannot be read.
pub type Content = Result<Zeroizing<Vec<u8>>, String>;

/// What a folder of CA files holds, by file name. Debug shows names only, since there is a key among
/// them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Folder(BTreeMap<&'static str, Content>);

impl Folder {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts in a file that is there; one that is absent is not put in. A name that is none of [`NAMES`]
    /// is passed over, as everything else in a folder is.
    pub fn insert(&mut self, name: &'static str, content: Content) {
        if NAMES.contains(&name) {
            self.0.insert(name, content);
        }
    }

    /// Whether none of the files is there: nothing is plugged in.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this file is there, readable or not.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A file's content; nothing where it is absent.
    pub fn get(&self, name: &str) -> Option<&Content> {
        self.0.get(name)
    }

    /// SHA-256 over, per file in the order of names: the name, whether it could be read, and its content
    /// or why not, each preceded by its length (8 bytes, big-endian). Equal where all of that is.
    pub fn digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        let mut part = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        for (name, content) in &self.0 {
            part(name.as_bytes());
            match content {
                Ok(bytes) => [b"read".as_slice(), bytes].into_iter().for_each(&mut part),
                Err(why) => [b"not read".as_slice(), why.as_bytes()].into_iter().for_each(&mut part),
            }
        }
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

impl fmt::Debug for Folder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl<const N: usize> From<[(&'static str, Vec<u8>); N]> for Folder {
    /// Files that were read.
    fn from(files: [(&'static str, Vec<u8>); N]) -> Self {
        let mut folder = Self::new();
        for (name, content) in files {
            folder.insert(name, Ok(Zeroizing::new(content)));
        }
        folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &'static str, content: Content) -> Folder {
        let mut folder = Folder::new();
        folder.insert(name, content);
        folder
    }

    #[test]
    fn a_folder_without_ca_files_is_empty_whatever_else_it_has() {
        let mut folder = Folder::new();
        folder.insert("istio-generated", Ok(Zeroizing::default()));
        assert!(folder.is_empty());
        folder.insert(TLS_CA, Err("is a directory".into()));
        assert!(!folder.is_empty() && folder.contains(TLS_CA));
    }

    #[test]
    fn a_digest_tells_names_contents_and_read_errors_apart() {
        let read = |text: &str| Ok(Zeroizing::new(text.as_bytes().to_vec()));
        let all = [
            Folder::new(),
            of(CA_CERT, read("a")),
            of(CA_CERT, read("b")),
            of(CA_CERT, read("")),
            of(CA_CERT, Err("a".into())),
            of(CA_KEY, read("a")),
            Folder::from([(CA_CERT, b"a".to_vec()), (CA_KEY, Vec::new())]),
            Folder::from([(CA_CERT, Vec::new()), (CA_KEY, b"a".to_vec())]),
        ];
        for (at, folder) in all.iter().enumerate() {
            assert_eq!(folder.digest(), folder.clone().digest());
            for other in &all[..at] {
                assert_ne!(folder.digest(), other.digest(), "{folder:?} {other:?}");
            }
        }
    }

    #[test]
    fn no_content_prints() {
        let folder = Folder::from([(CA_KEY, b"secret".to_vec())]);
        assert_eq!(format!("{folder:?}"), "{\"ca-key.pem\"}");
    }
}
