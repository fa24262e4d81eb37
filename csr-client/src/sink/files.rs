//! `key.pem`, `cert-chain.pem` and `root-cert.pem` for programs that read files, and `ca-crl.pem` where there are
//! CRLs.
//!
//! All are written and synced beside their targets first and then renamed one right after another:
//! CRLs, roots, key, chain. A reader sees whole files only. Between the last two renames the new key stands
//! beside the old chain; a reader that finds them not to fit reads again, and finds the new pair. The
//! chain comes last, so that whoever waits for a change of it finds everything that belongs to it.

use crate::complaint::Complaint;
use crate::identity::{Served, Svid};
use crate::metrics::{Metrics, Writes};
use crate::sink::sds::RootDigests;
use signet_certs::bundle::TrustBundle;
use signet_certs::cacerts::CA_CRL;
use signet_certs::chain::{Certificate, CertificateError};
use signet_certs::crl::Crls;
use signet_certs::key::{KeyError, PrivateKey};
use signet_certs::serial::Serial;
use signet_certs::spiffe_id::TrustDomain;
use signet_service::files::{self as atomic, Staged};
use signet_service::logging::with_causes;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Wait before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// What was written by an earlier run cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused.
    #[error("cannot read {file}", file = file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// `cert-chain.pem`.
    #[error("cert-chain.pem")]
    Chain(#[from] CertificateError),
    /// `key.pem`.
    #[error("key.pem")]
    Key(#[from] KeyError),
}

/// The files could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {file}", file = file.display())]
pub struct FilesError {
    file: PathBuf,
    #[source]
    source: io::Error,
}

/// What the files hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Written {
    /// Serial of the leaf.
    pub(crate) serial: Option<Serial>,
    /// The roots.
    pub(crate) roots: RootDigests,
    /// Of the CRLs, if there are any.
    pub(crate) crls: Option<[u8; 32]>,
    /// Why the last attempt failed, if it did.
    pub(crate) error: Option<String>,
}

/// Writes one set; `roots_in_chain` ends the chain with the roots. A folder that is made for it is open to
/// readers, who come for the certificates; the key is for our own user alone, whatever the folder's mode.
pub fn write(
    folder: &Path,
    svid: &Svid,
    roots: &TrustBundle,
    crls: &Crls,
    roots_in_chain: bool,
) -> Result<(), FilesError> {
    let failed = |file: &Path, source| FilesError { file: file.to_owned(), source };
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
    made.map_err(|source| failed(folder, source))?;
    let stage = |name: &str, content: &str, mode| -> Result<Staged, FilesError> {
        let path = folder.join(name);
        atomic::stage(&path, content.as_bytes(), mode).map_err(|source| failed(&path, source))
    };
    let roots = roots.to_pem();
    let mut chain = svid.chain_pem();
    if roots_in_chain {
        chain.push_str(&roots);
    }
    let staged = [
        stage("root-cert.pem", &roots, 0o644)?,
        stage("key.pem", svid.key_pem(), 0o600)?,
        stage("cert-chain.pem", &chain, 0o644)?,
    ];
    let crl = folder.join(CA_CRL);
    if crls.is_empty() {
        // Without a CRL in it, the file would be a damaged one.
        match std::fs::remove_file(&crl) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&crl, error)),
            _ => {}
        }
    } else {
        stage(CA_CRL, &crls.to_pem(), 0o644)?.commit().map_err(|source| failed(&crl, source))?;
    }
    for file in staged {
        file.commit().map_err(|source| failed(folder, source))?;
    }
    atomic::sync_folder_of(&folder.join("key.pem")).map_err(|source| failed(folder, source))
}

/// Chain and key as they were written; `None` if they never were. Nothing is judged yet.
pub(crate) fn read(folder: &Path) -> Result<Option<(Vec<Certificate>, PrivateKey)>, ReadError> {
    let read = |name: &str| match std::fs::read(folder.join(name)) {
        Ok(content) => Ok(Some(Zeroizing::new(content))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ReadError::Io { file: folder.join(name), source }),
    };
    let (Some(chain), Some(key)) = (read("cert-chain.pem")?, read("key.pem")?) else { return Ok(None) };
    Ok(Some((Certificate::all_from_pem(&chain)?, PrivateKey::from_pem(&key)?)))
}

/// Keeps the files at what is served, for ever; reports what they hold.
pub(crate) async fn follow(
    folder: PathBuf,
    mut served: watch::Receiver<Served>,
    trust_domain: TrustDomain,
    roots_in_chain: bool,
    written: watch::Sender<Written>,
    metrics: Arc<Metrics>,
) {
    let folder: Arc<Path> = folder.into();
    let mut complaint = Complaint::default();
    loop {
        let now = served.borrow_and_update().clone();
        let pair = now.valid_svid(SystemTime::now()).cloned().zip(now.trust.clone());
        let mut retry = false;
        if let Some((svid, trust)) = pair
            && let Some(bundle) = trust.bundles.get(&trust_domain).cloned()
        {
            let holds = Written {
                serial: Some(svid.serial().clone()),
                roots: Arc::new(bundle.roots().iter().map(|root| root.digest()).collect()),
                crls: trust.crls.digest(),
                error: None,
            };
            if *written.borrow() != holds {
                let folder = folder.clone();
                let write = move || write(&folder, &svid, &bundle, &trust.crls, roots_in_chain);
                // A panic within would be a fault of ours; it is reported as a failure to write.
                let result = tokio::task::spawn_blocking(write).await.map_err(|error| error.to_string());
                match result.and_then(|result| result.map_err(|error| with_causes(&error))) {
                    Ok(()) => {
                        metrics.wrote(Writes::Certificates, true);
                        if complaint.over() {
                            tracing::info!("the certificate's files are written again");
                        }
                        written.send_replace(holds);
                    }
                    Err(error) => {
                        metrics.wrote(Writes::Certificates, false);
                        if let Some(held_back) = complaint.about(&error) {
                            tracing::warn!(error, held_back, "the certificate's files are not written");
                        }
                        written.send_modify(|written| written.error = Some(error));
                        retry = true;
                    }
                }
            }
        }
        tokio::select! {
            changed = served.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if retry => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::identity::Holder;
    use crate::request::Answer;
    use crate::testing::{HOUR, Pki, trust, trust_domain, validity};
    use crate::trust::Trust;
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn bundle(pki: &Pki) -> TrustBundle {
        TrustBundle::new(vec![pki.root.certificate.clone()])
    }

    #[test]
    fn a_set_fits_together_and_has_its_modes() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("certs");
        let pki = Pki::new();
        for (roots_in_chain, members) in [(false, 2), (true, 3)] {
            write(&folder, &pki.svid(validity(HOUR)), &bundle(&pki), &Crls::default(), roots_in_chain)
                .unwrap();
            let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
            let chain = Certificate::all_from_pem(&read("cert-chain.pem")).unwrap();
            let key = PrivateKey::from_pem(&read("key.pem")).unwrap();
            assert_eq!((chain.len(), chain[0].facts().spki.as_slice()), (members, key.spki()));
            assert_eq!(Certificate::all_from_pem(&read("root-cert.pem")).unwrap(), bundle(&pki).roots());
        }
        let mode = |name: &str| std::fs::metadata(folder.join(name)).unwrap().mode() & 0o777;
        assert_eq!(mode("key.pem"), 0o600);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3, "no temporary files stay");
    }

    #[test]
    fn the_key_is_ours_alone_in_a_folder_that_is_open_to_others() {
        let outer = tempfile::tempdir().unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        let open = Permissions::from_mode(0o755);
        std::fs::set_permissions(outer.path(), open.clone()).unwrap();
        // What was there with another mode is replaced, not written over.
        std::fs::write(outer.path().join("key.pem"), "").unwrap();
        std::fs::set_permissions(outer.path().join("key.pem"), open).unwrap();
        let pki = Pki::new();
        write(outer.path(), &pki.svid(validity(HOUR)), &bundle(&pki), &Crls::default(), false).unwrap();
        assert_eq!((mode(outer.path()), mode(&outer.path().join("key.pem"))), (0o755, 0o600));
    }

    #[tokio::test]
    async fn crls_come_and_go_with_the_trust_alone() {
        let outer = tempfile::tempdir().unwrap();
        let (pki, holder) = (Pki::new(), Holder::new(trust_domain(), None));
        holder.take_answer(Answer { svid: pki.svid(validity(HOUR)), trust: trust(&[&pki.root], None) });
        let (sender, mut written) = watch::channel(Written::default());
        let folder = outer.path().to_owned();
        let following = follow(folder, holder.subscribe(), trust_domain(), false, sender, Arc::default());
        let following = tokio::spawn(following);
        let file = outer.path().join(CA_CRL);
        for (sequence, ders) in [(1, vec![]), (2, vec![pki.root.crl(HOUR)]), (3, vec![])] {
            let crls = Crls::from_der(ders).unwrap();
            holder.take_trust(Trust { crls: crls.clone(), ..trust(&[&pki.root], Some((1, sequence))) });
            written
                .wait_for(|written| written.serial.is_some() && written.crls == crls.digest())
                .await
                .unwrap();
            let found = std::fs::read_to_string(&file).ok();
            assert_eq!(found, (!crls.is_empty()).then(|| crls.to_pem()), "{sequence}");
        }
        // Whoever has no watch has nobody to renew them.
        let crls = Crls::from_der([pki.root.crl(HOUR)]).unwrap();
        holder.take_trust(Trust { crls, ..trust(&[&pki.root], Some((1, 4))) });
        written.wait_for(|written| written.crls.is_some()).await.unwrap();
        holder.forget_crls();
        written.wait_for(|written| written.crls.is_none()).await.unwrap();
        assert!(!file.exists());
        following.abort();
    }

    #[tokio::test]
    async fn the_files_follow_and_a_failure_leaves_the_old_ones() {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("certs");
        let pki = Pki::new();
        let holder = Holder::new(trust_domain(), None);
        let renew = || {
            let svid = pki.svid(validity(HOUR));
            let serial = svid.serial().clone();
            holder.take_answer(Answer { svid, trust: trust(&[&pki.root], None) });
            serial
        };
        let (sender, mut written) = watch::channel(Written::default());
        let following =
            follow(folder.clone(), holder.subscribe(), trust_domain(), false, sender, Arc::default());
        let following = tokio::spawn(following);
        for _ in 0..2 {
            let serial = renew();
            let holds = written.wait_for(|written| written.serial.as_ref() == Some(&serial)).await.unwrap();
            assert_eq!((holds.roots.len(), &holds.error), (1, &None));
        }
        let before = std::fs::read(folder.join("cert-chain.pem")).unwrap();
        // A folder in the place of a temporary file cannot be removed as one.
        std::fs::create_dir(folder.join("key.pem.tmp")).unwrap();
        let old = written.borrow().serial.clone();
        renew();
        let failed = written.wait_for(|written| written.error.is_some()).await.unwrap().clone();
        assert_eq!(failed.serial, old);
        assert!(failed.error.unwrap().contains("key.pem"));
        assert_eq!(std::fs::read(folder.join("cert-chain.pem")).unwrap(), before);
        following.abort();
    }
}
