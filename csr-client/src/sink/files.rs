//! `key.pem`, `cert-chain.pem` and `root-cert.pem` for programs that read files, and `ca-crl.pem` where there are
//! CRLs.
//!
//! All are written and synced beside their targets first and then renamed one right after another:
//! CRLs, roots, key, chain. A reader sees whole files only. Between the last two renames the new key stands
//! beside the old chain; a reader that finds them not to fit reads again, and finds the new pair. The
//! chain comes last, so that whoever waits for a change of it finds everything that belongs to it. For as long
//! the old key stays beside them: whoever is killed between the two finds a pair that fits when he comes back.

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
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::watch;
use zeroize::Zeroizing;

/// Wait before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How often it is looked whether somebody else has removed or changed the files.
const LOOK: Duration = Duration::from_secs(3);

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

/// The key of the chain that is there, until that is replaced.
const OLD_KEY: &str = "key.pem.old";

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
    let staged = stage_pair(folder, svid, roots, roots_in_chain)?;
    let crl = folder.join(CA_CRL);
    // Without a CRL in it, the file would be a damaged one.
    if crls.is_empty() {
        remove(&crl)?;
    } else {
        stage(folder, CA_CRL, &crls.to_pem(), 0o644)?.commit().map_err(|source| failed(&crl, source))?;
    }
    for file in staged {
        file.commit().map_err(|source| failed(folder, source))?;
    }
    remove(&folder.join(OLD_KEY))?;
    atomic::sync_folder_of(&folder.join("key.pem")).map_err(|source| failed(folder, source))
}

/// All but the CRLs, in the order in which they get their names.
fn stage_pair(
    folder: &Path,
    svid: &Svid,
    roots: &TrustBundle,
    roots_in_chain: bool,
) -> Result<Vec<Staged>, FilesError> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o755).create(folder);
    made.map_err(|source| FilesError { file: folder.to_owned(), source })?;
    let roots = roots.to_pem();
    let mut chain = svid.chain_pem();
    if roots_in_chain {
        chain.push_str(&roots);
    }
    let mut staged = Vec::with_capacity(4);
    // What does not read serves nobody, and is not kept.
    if let Ok(Some((_, key))) = read(folder) {
        staged.push(stage(folder, OLD_KEY, &key.to_pkcs8_pem(), 0o600)?);
    }
    staged.extend([
        stage(folder, "root-cert.pem", &roots, 0o644)?,
        stage(folder, "key.pem", svid.key_pem(), 0o600)?,
        stage(folder, "cert-chain.pem", &chain, 0o644)?,
    ]);
    Ok(staged)
}

fn stage(folder: &Path, name: &str, content: &str, mode: u32) -> Result<Staged, FilesError> {
    let file = folder.join(name);
    atomic::stage(&file, content.as_bytes(), mode).map_err(|source| FilesError { file, source })
}

fn remove(file: &Path) -> Result<(), FilesError> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(FilesError { file: file.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

/// Chain and key as they were written; `None` if they never were. Nothing is judged yet, but of two keys the one
/// is taken that is the chain's.
pub(crate) fn read(folder: &Path) -> Result<Option<(Vec<Certificate>, PrivateKey)>, ReadError> {
    let read = |name: &str| match std::fs::read(folder.join(name)) {
        Ok(content) => Ok(Some(Zeroizing::new(content))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ReadError::Io { file: folder.join(name), source }),
    };
    let (Some(chain), Some(key)) = (read("cert-chain.pem")?, read("key.pem")?) else { return Ok(None) };
    let (chain, key) = (Certificate::all_from_pem(&chain)?, PrivateKey::from_pem(&key)?);
    let fits = |key: &PrivateKey| chain.first().is_some_and(|leaf| leaf.facts().spki == key.spki());
    let old = || PrivateKey::from_pem(&read(OLD_KEY).ok()??).ok().filter(fits);
    let key = if fits(&key) { key } else { old().unwrap_or(key) };
    Ok(Some((chain, key)))
}

/// By which a file that somebody else removed or changed is told: its number, length and time of change.
type Mark = (u64, u64, Option<SystemTime>);

fn marks(folder: &Path) -> [Option<Mark>; 4] {
    [CA_CRL, "root-cert.pem", "key.pem", "cert-chain.pem"].map(|name| {
        let file = std::fs::symlink_metadata(folder.join(name)).ok()?;
        Some((file.ino(), file.len(), file.modified().ok()))
    })
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
    let (mut complaint, mut meddling) = (Complaint::default(), Complaint::default());
    let mut ours = None;
    loop {
        if let Some(marked) = ours {
            let folder = folder.clone();
            let found = tokio::task::spawn_blocking(move || marks(&folder)).await;
            if found.is_ok_and(|found| found != marked) {
                if let Some(held_back) = meddling.about("changed") {
                    tracing::warn!(held_back, "somebody else removed or changed the certificate's files");
                }
                // Until they are written again they hold nothing that we know of.
                written.send_replace(Written::default());
                ours = None;
            }
        }
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
                let write = move || {
                    write(&folder, &svid, &bundle, &trust.crls, roots_in_chain)?;
                    Ok::<_, FilesError>(marks(&folder))
                };
                // A panic within would be a fault of ours; it is reported as a failure to write.
                let result = tokio::task::spawn_blocking(write).await.map_err(|error| error.to_string());
                match result.and_then(|result| result.map_err(|error| with_causes(&error))) {
                    Ok(marked) => {
                        ours = Some(marked);
                        metrics.wrote(Writes::Certificates, true);
                        if complaint.over() {
                            tracing::info!("the certificate's files are written again");
                        }
                        written.send_replace(holds);
                    }
                    Err(error) => {
                        // Some may have their names already: what is there now is no meddling.
                        ours = None;
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
            () = tokio::time::sleep(LOOK), if !retry && ours.is_some() => {}
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
    use std::os::unix::fs::PermissionsExt;

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

    #[test]
    fn a_cut_between_any_two_renames_leaves_a_pair_that_fits() {
        let folder = tempfile::tempdir().unwrap();
        let (pki, crls) = (Pki::new(), Crls::default());
        let svid = || pki.svid(validity(HOUR));
        write(folder.path(), &svid(), &bundle(&pki), &crls, false).unwrap();
        // Each cut begins with what the one before it left.
        for cut in [0, 1, 2, 3, 3, 2, 4, 3, 1] {
            let set = stage_pair(folder.path(), &svid(), &bundle(&pki), false).unwrap();
            assert_eq!(set.len(), 4);
            set.into_iter().take(cut).for_each(|file| file.commit().unwrap());
            let (chain, key) = read(folder.path()).unwrap().unwrap();
            assert_eq!(chain[0].facts().spki, key.spki(), "{cut}");
        }
        write(folder.path(), &svid(), &bundle(&pki), &crls, false).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "the old key does not stay");
    }

    #[tokio::test]
    async fn files_that_somebody_removes_or_replaces_are_written_again() {
        let folder = tempfile::tempdir().unwrap();
        let (pki, holder) = (Pki::new(), Holder::new(trust_domain(), None));
        let svid = pki.svid(validity(HOUR));
        let (key, serial) = (svid.key_pem().to_string(), svid.serial().clone());
        holder.take_answer(Answer { svid, trust: trust(&[&pki.root], None) });
        let (sender, mut written) = watch::channel(Written::default());
        let path = folder.path().to_owned();
        let following = follow(path, holder.subscribe(), trust_domain(), false, sender, Arc::default());
        let following = tokio::spawn(following);
        let good = |written: &Written| written.serial.as_ref() == Some(&serial);
        written.wait_for(good).await.unwrap();
        let file = folder.path().join("key.pem");
        // While they cannot be written again, nothing is said to be there.
        let obstacle = folder.path().join("key.pem.tmp");
        std::fs::create_dir(&obstacle).unwrap();
        std::fs::remove_file(&file).unwrap();
        let failed = written.wait_for(|written| written.error.is_some()).await.unwrap().clone();
        assert_eq!((failed.serial, failed.roots.len()), (None, 0));
        std::fs::remove_dir(&obstacle).unwrap();
        written.wait_for(good).await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), key);
        following.abort();
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
