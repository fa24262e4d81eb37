//! Reading the folder of a CA that is to sign: a root for an intermediate, any CA for a workload. It is
//! ours, or the one that Istio's certificate tools write.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use signet_certs::ca::Ca;
use signet_certs::cacerts::{CA_CERT, CA_KEY, CERT_CHAIN, Cacerts, Fault, Folder, ROOT_CERT};
use signet_certs::name;
use thiserror::Error;

use super::text::lines;

/// The root's key in Istio's layout.
pub(crate) const ROOT_KEY: &str = "root-key.pem";
const OURS: Layout = Layout { certificate: CA_CERT, chain: CERT_CHAIN, key: CA_KEY };
const ISTIO: Layout = Layout { certificate: ROOT_CERT, chain: ROOT_CERT, key: ROOT_KEY };

/// Where a folder keeps its signing certificate, the chain and the key.
#[derive(Clone, Copy)]
struct Layout {
    certificate: &'static str,
    chain: &'static str,
    key: &'static str,
}

/// A root that can sign, and what its folder gives to everybody.
#[derive(Debug)]
pub(crate) struct Root {
    /// Who signs.
    pub(crate) ca: Ca,
    /// `root-cert.pem` byte for byte.
    pub(crate) root_cert: Vec<u8>,
}

/// A root or an intermediate that can sign leaves, and what its folder gives to everybody.
#[derive(Debug)]
pub(crate) struct Signer {
    /// Who signs, and what is above it.
    pub(crate) cacerts: Cacerts,
    /// `root-cert.pem` byte for byte.
    pub(crate) root_cert: Vec<u8>,
}

/// Why there is no CA in a folder.
#[derive(Debug, Error)]
pub(crate) enum RootFolderError {
    /// A file, or the folder itself, cannot be read.
    #[error("read {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// No key of either layout.
    #[error("expected the root's key in {0}, as {CA_KEY} or (Istio's layout) as {ROOT_KEY}; found neither")]
    NoKey(String),
    /// The keys of both layouts.
    #[error("expected one CA in {0}, found two keys: {CA_KEY} and {ROOT_KEY}")]
    TwoKeys(String),
    /// The CA is signed by another.
    #[error("expected a root in {file}, found ({subject}), signed by ({issuer})")]
    NotRoot {
        /// The certificate's file.
        file: String,
        /// Its subject.
        subject: String,
        /// Its issuer.
        issuer: String,
    },
    /// The files do not make a CA.
    #[error("the CA in {0} cannot sign:\n{list}", list = lines(.1))]
    Faults(String, Vec<Fault>),
}

/// Reads and judges the root of a folder at `now`.
pub(crate) fn read(folder: &Path, now: SystemTime) -> Result<Root, RootFolderError> {
    let layout = Layout::of(folder)?;
    // A root needs no chain; whatever stands in that file, it is not asked.
    let Signer { cacerts, root_cert } = layout.read(folder, layout.certificate, now)?;
    if !cacerts.intermediates.is_empty() {
        let facts = cacerts.ca.certificate.facts();
        return Err(RootFolderError::NotRoot {
            file: folder.join(layout.certificate).display().to_string(),
            subject: name::display(&facts.subject),
            issuer: name::display(&facts.issuer),
        });
    }
    Ok(Root { ca: cacerts.ca, root_cert })
}

/// Reads and judges the CA of a folder at `now`, be it a root or an intermediate.
pub(crate) fn signer(folder: &Path, now: SystemTime) -> Result<Signer, RootFolderError> {
    let layout = Layout::of(folder)?;
    layout.read(folder, layout.chain, now)
}

impl Layout {
    fn of(folder: &Path) -> Result<Self, RootFolderError> {
        folder.metadata().map_err(|error| RootFolderError::Read(folder.to_owned(), error))?;
        let there = |layout: Self| folder.join(layout.key).exists();
        let shown = || folder.display().to_string();
        match (there(OURS), there(ISTIO)) {
            (true, false) => Ok(OURS),
            (false, true) => Ok(ISTIO),
            (true, true) => Err(RootFolderError::TwoKeys(shown())),
            (false, false) => Err(RootFolderError::NoKey(shown())),
        }
    }

    fn read(self, folder: &Path, chain: &'static str, now: SystemTime) -> Result<Signer, RootFolderError> {
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read(&path).map_err(|error| RootFolderError::Read(path, error))
        };
        let root_cert = read(ROOT_CERT)?;
        let files = Folder::from([
            (CA_CERT, read(self.certificate)?),
            (CA_KEY, read(self.key)?),
            (CERT_CHAIN, read(chain)?),
            (ROOT_CERT, root_cert.clone()),
        ]);
        let faults =
            |faults| RootFolderError::Faults(folder.display().to_string(), self.faults(chain, faults));
        let cacerts = Cacerts::read(&files, now).map_err(faults)?;
        Ok(Signer { cacerts, root_cert })
    }

    /// The faults with the files' names in this layout. One file stands for several, so faults repeat.
    fn faults(self, chain: &'static str, faults: Vec<Fault>) -> Vec<Fault> {
        let mut named: Vec<Fault> = Vec::with_capacity(faults.len());
        for mut fault in faults {
            fault.file = match fault.file {
                CA_KEY => self.key,
                ROOT_CERT => ROOT_CERT,
                CERT_CHAIN => chain,
                _ => self.certificate,
            };
            if !named.iter().any(|known| (known.file, &known.what) == (fault.file, &fault.what)) {
                named.push(fault);
            }
        }
        named
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use signet_certs::clock::from_unix;
    use signet_certs::key::PrivateKey;
    use signet_certs::name::ca_name;
    use signet_certs::validity::{BACKDATE, Validity};
    use std::time::Duration;
    use tempfile::TempDir;

    const HOUR: Duration = Duration::from_secs(3600);

    fn now() -> SystemTime {
        from_unix(1_800_000_000)
    }

    fn validity() -> Validity {
        Validity { not_before: now() - BACKDATE, not_after: now() + HOUR }
    }

    fn key() -> PrivateKey {
        PrivateKey::generate_p256().unwrap()
    }

    fn root() -> Ca {
        Ca::root(ca_name("Signet", None, "Root CA"), validity(), key()).unwrap()
    }

    /// A folder with these certificates and the key, under the names of a layout.
    fn folder(layout: Layout, certificate: &str, root_cert: &str, key: &PrivateKey) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(layout.certificate), certificate).unwrap();
        fs::write(folder.path().join(ROOT_CERT), root_cert).unwrap();
        fs::write(folder.path().join(layout.key), key.to_pkcs8_pem().as_bytes()).unwrap();
        folder
    }

    fn refusal(folder: &TempDir, now: SystemTime) -> String {
        read(folder.path(), now).unwrap_err().to_string()
    }

    #[test]
    fn both_layouts_are_read_and_the_root_s_bytes_kept() {
        let root = root();
        let text = format!("# ours\n{}", root.certificate.to_pem());
        for layout in [OURS, ISTIO] {
            let folder = folder(layout, &text, &text, &root.key);
            let read = read(folder.path(), now()).unwrap();
            assert_eq!(read.root_cert, text.as_bytes());
            assert_eq!(read.ca.certificate, root.certificate);
        }
    }

    #[test]
    fn a_folder_without_a_key_or_with_two_is_refused() {
        let root = root();
        let pem = root.certificate.to_pem();
        let folder = folder(OURS, &pem, &pem, &root.key);
        fs::copy(folder.path().join(CA_KEY), folder.path().join(ROOT_KEY)).unwrap();
        assert!(matches!(read(folder.path(), now()), Err(RootFolderError::TwoKeys(_))));
        fs::remove_file(folder.path().join(ROOT_KEY)).unwrap();
        fs::remove_file(folder.path().join(CA_KEY)).unwrap();
        assert!(matches!(read(folder.path(), now()), Err(RootFolderError::NoKey(_))));
    }

    #[test]
    fn what_is_missing_is_named() {
        let root = root();
        let pem = root.certificate.to_pem();
        let folder = folder(ISTIO, &pem, &pem, &root.key);
        fs::remove_file(folder.path().join(ROOT_CERT)).unwrap();
        let missing = [folder.path().join(ROOT_CERT), folder.path().join("nowhere")];
        let errors = [read(folder.path(), now()), read(&missing[1], now())];
        for (error, path) in errors.into_iter().zip(missing) {
            assert!(matches!(error, Err(RootFolderError::Read(found, _)) if found == path));
        }
    }

    #[test]
    fn an_intermediate_is_no_root() {
        let root = root();
        let subject = ca_name("Signet", Some("c"), "Intermediate CA");
        let below = root.intermediate(subject, 0, validity(), key()).unwrap();
        let folder = folder(OURS, &below.certificate.to_pem(), &root.certificate.to_pem(), &below.key);
        let text = refusal(&folder, now());
        assert!(text.contains("CN=Intermediate CA), signed by (O=Signet, CN=Root CA)"), "{text}");
    }

    #[test]
    fn faults_carry_the_file_names_of_the_layout_and_do_not_repeat() {
        let root = root();
        let pem = root.certificate.to_pem();
        for (layout, file) in [(OURS, CA_KEY), (ISTIO, ROOT_KEY)] {
            let text = refusal(&folder(layout, &pem, &pem, &key()), now());
            assert!(text.contains(&format!("\n  {file}: expected the P-256 key of")), "{text}");
        }
        let text = refusal(&folder(ISTIO, "", "", &root.key), now());
        assert_eq!(text.matches(ROOT_CERT).count(), 1, "{text}");
        let text = refusal(&folder(ISTIO, &pem, &pem, &root.key), now() + HOUR * 2);
        assert!(text.contains("ended at"), "{text}");
    }

    #[test]
    fn a_leaf_is_signed_by_a_root_or_by_an_intermediate_with_its_chain() {
        let root = root();
        let pem = root.certificate.to_pem();
        let istio = folder(ISTIO, &pem, &pem, &root.key);
        assert!(signer(istio.path(), now()).unwrap().cacerts.intermediates.is_empty());

        let subject = ca_name("Signet", Some("c"), "Intermediate CA");
        let below = root.intermediate(subject, 0, validity(), key()).unwrap();
        let folder = folder(OURS, &below.certificate.to_pem(), &pem, &below.key);
        let missing = signer(folder.path(), now());
        assert!(matches!(missing, Err(RootFolderError::Read(path, _)) if path.ends_with(CERT_CHAIN)));
        fs::write(folder.path().join(CERT_CHAIN), &pem).unwrap();
        let text = signer(folder.path(), now()).unwrap_err().to_string();
        assert!(text.contains("\n  cert-chain.pem: must begin with"), "{text}");
        fs::write(folder.path().join(CERT_CHAIN), below.certificate.to_pem() + &pem).unwrap();
        let read = signer(folder.path(), now()).unwrap();
        assert_eq!(read.cacerts.intermediates, [below.certificate]);
        assert_eq!(read.root_cert, pem.as_bytes());
    }
}
