//! The agent's own folder: the last good roots, the instance id, and who subscribes.
//!
//! Nothing in it is secret, but whoever can write it decides whom this agent believes, hence 0700. A
//! damaged bundle is passed over with a warning: the configured roots then serve for a new first contact.

use crate::complaint::Complaint;
use crate::identity::Served;
use crate::metrics::{Metrics, Writes};
use crate::random;
use crate::sink::sds::{SubscriberKey, Subscribers};
use crate::trust::{Trust, Version};
use serde::{Deserialize, Serialize};
use signet_certs::bundle::{Bundles, TrustBundle};
use signet_certs::chain::Certificate;
use signet_certs::crl::Crls;
use signet_certs::spiffe_id::TrustDomain;
use signet_service::files;
use signet_service::logging::with_causes;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Layout of `bundle.json`.
const LAYOUT: u32 = 1;

/// Wait before a failed write is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Why the folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The folder or a file in it.
    #[error("cannot use {path}", path = path.display())]
    Io {
        /// Folder or file.
        path: PathBuf,
        /// The operating system's word.
        #[source]
        source: io::Error,
    },
    /// A file that cannot be read; also one of a later layout.
    #[error("{path} is damaged: {what}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// The folder.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// `bundle.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    layout: u32,
    /// See [`Trust::first_contact`].
    first_contact: String,
    /// Epoch and sequence.
    version: Option<(u64, u64)>,
    /// PEM per trust domain.
    bundles: BTreeMap<String, String>,
    /// PEM; left out where there are none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    crls: String,
}

impl Folder {
    /// Makes it if it is not there.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |source| StateError::Io { path: path.to_owned(), source };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
        Ok(Self(path.to_owned()))
    }

    /// The id that tells this agent from others of the same identity; made once.
    pub fn instance_id(&self) -> Result<String, StateError> {
        let path = self.0.join("instance-id");
        match std::fs::read_to_string(&path) {
            Ok(id) if is_id(id.trim()) => return Ok(id.trim().to_owned()),
            Ok(_) => tracing::warn!(path = %path.display(), "the instance id is damaged; a new one is made"),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(StateError::Io { path, source }),
        }
        let id = random::id();
        files::write(&path, id.as_bytes(), 0o600).map_err(|source| StateError::Io { path, source })?;
        Ok(id)
    }

    /// The last good roots; `None` before the first.
    pub fn trust(&self) -> Result<Option<Trust>, StateError> {
        let path = self.bundle();
        match std::fs::read(&path) {
            Ok(bytes) => read(&bytes).map(Some).map_err(|what| StateError::Damaged { path, what }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Io { path, source }),
        }
    }

    /// Keeps these roots for the next start.
    pub fn store(&self, trust: &Trust) -> Result<(), StateError> {
        let stored = Stored {
            layout: LAYOUT,
            first_contact: trust.first_contact.clone(),
            version: trust.version.map(|version| (version.epoch, version.sequence)),
            bundles: trust.bundles.iter().map(|(name, bundle)| (name.to_string(), bundle.to_pem())).collect(),
            crls: trust.crls.to_pem(),
        };
        let path = self.bundle();
        // Strings and numbers always have a JSON form.
        let bytes = serde_json::to_vec_pretty(&stored).expect("a bundle has a JSON form");
        files::write(&path, &bytes, 0o600).map_err(|source| StateError::Io { path, source })
    }

    /// Who subscribed in the last run. Without it a new run would take silence for consent.
    pub(crate) fn subscribers(&self) -> Result<Vec<SubscriberKey>, StateError> {
        let path = self.0.join("subscribers.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| StateError::Damaged { path, what: error.to_string() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(StateError::Io { path, source }),
        }
    }

    fn store_subscribers(&self, subscribers: &[SubscriberKey]) -> Result<(), StateError> {
        // Strings and numbers always have a JSON form.
        let bytes = serde_json::to_vec(subscribers).expect("a list has a JSON form");
        let path = self.0.join("subscribers.json");
        files::write(&path, &bytes, 0o600).map_err(|source| StateError::Io { path, source })
    }

    fn bundle(&self) -> PathBuf {
        self.0.join("bundle.json")
    }
}

/// Stores each new trust, for ever; a failure costs nothing now.
pub(crate) async fn follow_trust(folder: Folder, mut served: watch::Receiver<Served>, metrics: Arc<Metrics>) {
    let mut stored = served.borrow().trust.clone();
    let mut writer = Writer { folder, what: Writes::Bundle, metrics, complaint: Complaint::default() };
    loop {
        let trust = served.borrow_and_update().trust.clone();
        let mut retry = false;
        if trust != stored {
            let write = trust.clone();
            retry = !writer.write(move |folder| write.map_or(Ok(()), |trust| folder.store(&trust))).await;
            if !retry {
                stored = trust;
            }
        }
        tokio::select! {
            changed = served.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if retry => {}
        }
    }
}

/// Stores who subscribes, for ever.
pub(crate) async fn follow_subscribers(folder: Folder, subscribers: Arc<Subscribers>, metrics: Arc<Metrics>) {
    let mut changes = subscribers.changes();
    let mut stored = subscribers.to_remember();
    let mut writer = Writer { folder, what: Writes::Subscribers, metrics, complaint: Complaint::default() };
    loop {
        let present = subscribers.to_remember();
        let mut retry = false;
        if present != stored {
            let list = present.clone();
            retry = !writer.write(move |folder| folder.store_subscribers(&list)).await;
            if !retry {
                stored = present;
            }
        }
        if retry {
            // However often they change meanwhile: a full disk stays full for longer than that.
            tokio::time::sleep(RETRY).await;
        } else if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Writes off the runtime, and says what goes wrong.
struct Writer {
    folder: Folder,
    what: Writes,
    metrics: Arc<Metrics>,
    complaint: Complaint,
}

impl Writer {
    /// Whether it succeeded.
    async fn write(
        &mut self,
        write: impl FnOnce(&Folder) -> Result<(), StateError> + Send + 'static,
    ) -> bool {
        let folder = self.folder.clone();
        let failure = match tokio::task::spawn_blocking(move || write(&folder)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(with_causes(&error)),
            Err(error) => Some(error.to_string()),
        };
        self.metrics.wrote(self.what, failure.is_none());
        match failure {
            None => {
                if self.complaint.over() {
                    tracing::info!("the agent's folder is up to date again");
                }
                true
            }
            Some(error) => {
                if let Some(held_back) = self.complaint.about(&error) {
                    tracing::warn!(error, held_back, "the agent's folder is not up to date");
                }
                false
            }
        }
    }
}

fn is_id(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn read(bytes: &[u8]) -> Result<Trust, String> {
    let stored: Stored = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if stored.layout != LAYOUT {
        return Err(format!("layout {} is not known, {LAYOUT} is", stored.layout));
    }
    let bundle = |(name, pem): (String, String)| -> Result<_, String> {
        let trust_domain = TrustDomain::parse(&name).map_err(|error| error.to_string())?;
        let roots = Certificate::all_from_pem(pem.as_bytes()).map_err(|error| error.to_string())?;
        Ok((trust_domain, TrustBundle::new(roots)))
    };
    let bundles = stored.bundles.into_iter().map(bundle).collect::<Result<Bundles, _>>()?;
    let version = stored.version.map(|(epoch, sequence)| Version { epoch, sequence });
    let crls = Crls::from_pem(stored.crls.as_bytes()).map_err(|error| error.to_string())?;
    Ok(Trust { version, bundles, crls, first_contact: stored.first_contact })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sink::sds::Process;
    use crate::testing::{Authority, HOUR, trust};
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn what_is_stored_is_read_by_the_next_run() {
        let outer = tempfile::tempdir().unwrap();
        let path = outer.path().join("agent").join("state");
        let folder = Folder::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert_eq!(folder.trust().unwrap(), None);
        assert!(folder.subscribers().unwrap().is_empty());
        let id = folder.instance_id().unwrap();
        for version in [None, Some((1, 7))] {
            let mut trust = trust(&[&Authority::root("A"), &Authority::root("B")], version);
            folder.store(&trust).unwrap();
            let text = std::fs::read_to_string(folder.bundle()).unwrap();
            assert!(!text.contains("crls"), "an agent from before there were any reads it");
            trust.crls = Crls::from_der([Authority::root("A").crl(HOUR)]).unwrap();
            folder.store(&trust).unwrap();
            assert_eq!(Folder::open(&path).unwrap().trust().unwrap(), Some(trust));
        }
        let me = Process::of(std::process::id() as i32).unwrap();
        let subscribers = [("node".to_owned(), Some(me)), ("of another container".to_owned(), None)];
        folder.store_subscribers(&subscribers).unwrap();
        let again = Folder::open(&path).unwrap();
        assert_eq!(again.instance_id().unwrap(), id);
        assert_eq!(again.subscribers().unwrap(), subscribers);
    }

    #[test]
    fn damage_is_named_and_a_damaged_id_replaced() {
        let outer = tempfile::tempdir().unwrap();
        let folder = Folder::open(outer.path()).unwrap();
        let good = trust(&[&Authority::root("A")], None);
        folder.store(&good).unwrap();
        let text = std::fs::read_to_string(folder.bundle()).unwrap();
        for bad in [
            "not JSON".to_owned(),
            text.replace("\"layout\": 1", "\"layout\": 2"),
            text.replace("cluster.local", "UPPER"),
            text.replace("BEGIN CERTIFICATE", "BEGIN SOMETHING"),
            text.replace("first_contact", "else"),
        ] {
            std::fs::write(folder.bundle(), &bad).unwrap();
            assert!(matches!(folder.trust(), Err(StateError::Damaged { .. })), "{bad}");
        }
        std::fs::write(outer.path().join("subscribers.json"), "{").unwrap();
        assert!(matches!(folder.subscribers(), Err(StateError::Damaged { .. })));
        std::fs::write(outer.path().join("instance-id"), "short\n").unwrap();
        let id = folder.instance_id().unwrap();
        assert!(is_id(&id));
        assert_eq!(folder.instance_id().unwrap(), id);
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error() {
        let outer = tempfile::tempdir().unwrap();
        let file = outer.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(matches!(Folder::open(&file.join("state")), Err(StateError::Io { .. })));
    }
}
