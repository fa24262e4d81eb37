//! The owner of the active authority while the server runs: takes what the plugged-in folder asks for, where
//! that is safe, and makes the issuing intermediate anew before it ends. Nobody else writes the issuer.
//!
//! What is taken is durable before it is used: copy, record, row, and only then the snapshot that requests
//! sign with, in one step. Whatever fails on the way leaves everything as it was.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use serde::Serialize;
use signet_certs::cacerts::{Cacerts, Folder};
use signet_certs::clock::rfc3339;
use signet_service::logging::with_causes;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::Instant;

use super::Issuer;
use super::aftermath;
use super::issuing::{self, Absent, IssuingCa, MintError, Mode};
use super::kept::{KeepError, Kept};
use super::loader;
use super::serving::ServingCertificate;
use super::state::{self, Source, StateError};
use super::wish::{Outcome, Refused, Rules, judge};
use crate::clock::Clock;
use crate::issuance_log::{ActEntry, AppendError, Entry, IssuanceLog};
use crate::metrics::Metrics;
use crate::reason::Reason;
use crate::store::Store;
use crate::trust::publisher::{PublishError, Publisher};
use crate::trust::{self, Trust};

/// After a failure, and between two looks at a clock that may have been suspended.
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Why a CA was not taken, or the issuing intermediate not made.
#[derive(Debug, Error)]
pub enum TakeError {
    /// Its files could not be kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// The act or certificate could not be recorded.
    #[error("recording it")]
    Record(#[from] AppendError),
    /// Its row could not be kept.
    #[error(transparent)]
    State(#[from] StateError),
    /// The trust object's version could not be kept.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// There is no issuing intermediate.
    #[error(transparent)]
    Mint(#[from] MintError),
    /// A task did not end.
    #[error("working away from the runtime")]
    Task(#[from] tokio::task::JoinError),
}

/// How the plugged-in folder stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Wish {
    /// The folder.
    pub folder: PathBuf,
    /// When this was first seen, RFC 3339.
    pub since: String,
    /// What it asks for, and why that is not granted.
    #[serde(flatten)]
    pub refused: Refused,
}

/// What issuing intermediates are made by.
pub struct Issuing {
    /// Whether there may be one.
    pub mode: Mode,
    /// The mesh's name.
    pub organization: String,
    /// Of leaves, where none is asked for.
    pub lifetime: Duration,
    /// Keeps until when leaves of theirs may be there.
    pub store: Arc<dyn Store>,
}

/// See the module's text.
pub struct Authorities {
    /// Where the wish is.
    pub folder: PathBuf,
    /// What it is judged by.
    pub rules: Rules,
    /// What issuing intermediates are made by.
    pub issuing: Issuing,
    /// Copies.
    pub kept: Kept,
    /// Rows.
    pub store: Arc<dyn Store>,
    /// Records.
    pub log: Arc<IssuanceLog>,
    /// The trust object.
    pub publisher: Arc<Publisher>,
    /// Our own certificate, made anew by a new issuer.
    pub serving: Arc<ServingCertificate>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// What time it is.
    pub clock: Arc<Clock>,
    /// What requests sign with.
    pub issuer: Arc<ArcSwap<Issuer>>,
    /// Where the active authority came from.
    pub source: Source,
    /// Nothing where the folder says what is active.
    pub wish: watch::Sender<Option<Wish>>,
    /// A change came while the clock was not believed.
    pub put_off: bool,
    /// CRLs wait for the end of what issuing intermediates signed, so that none is to be made.
    pub crls_wait: bool,
}

impl Authorities {
    /// Follows the folder and the clock. Never returns; may be dropped between two changes.
    pub async fn run(mut self, mut folders: mpsc::Receiver<Folder>) {
        // Not begun anew with each change, or a folder without rest would put it off for ever.
        let mut look = Instant::now() + RETRY;
        let mut believed = self.clock.believed();
        loop {
            tokio::select! {
                folder = folders.recv() => match folder {
                    Some(folder) => self.consider(folder).await,
                    // Whoever watches has ended with the server.
                    None => return,
                },
                () = tokio::time::sleep_until(look) => {
                    let mut due = RETRY;
                    if let Ok(now) = self.clock.now() {
                        self.renew(now).await;
                        // What was not valid yet may be now, and a disk that was full may have room.
                        if self.put_off || self.wish.borrow().is_some() {
                            let folder = block_in_place(|| loader::read(&self.folder));
                            self.consider(folder).await;
                        }
                        due = self.due(now);
                    }
                    look = Instant::now() + due.clamp(RETRY, LONGEST_SLEEP);
                }
                Ok(()) = believed.changed() => look = Instant::now(),
            }
        }
    }

    /// Takes a folder's wish or says why not. While the clock is not believed, that is put off.
    pub async fn consider(&mut self, folder: Folder) {
        let now = self.clock.now();
        self.put_off = now.is_err();
        let Ok(now) = now else {
            let folder = self.folder.display();
            tracing::warn!(reason = Reason::ClockStepped.code(), %folder, "CA files are looked at when the clock is believed");
            return;
        };
        self.crls_wait = false;
        let active = self.issuer.load().cacerts().clone();
        let (source, rules) = (self.source, &self.rules);
        // Parsing, path building and signatures of a large folder take their time; the runtime goes on.
        let outcome = block_in_place(|| judge(&folder, &active, source, rules, now));
        match outcome {
            Outcome::Same => {
                if self.wish.send_replace(None).is_some() {
                    tracing::info!(folder = %self.folder.display(), "the CA files say again what is active");
                }
            }
            Outcome::Take(wished) if wished.crl.is_some() && active.crl.is_none() => {
                match self.crls_wait_until(now).await {
                    Ok(None) => self.carry_out(wished, now).await,
                    Ok(Some(until)) => self.let_crls_wait(&wished, until, now),
                    Err(error) => self.refuse(Refused::failed(&wished, with_causes(&error)), now),
                }
            }
            Outcome::Take(wished) => self.carry_out(wished, now).await,
            Outcome::Refuse(refused) => self.refuse(refused, now),
        }
    }

    async fn carry_out(&mut self, wished: Arc<Cacerts>, now: SystemTime) {
        match self.take(wished.clone(), now).await {
            Ok(()) => {
                self.wish.send_replace(None);
                self.metrics.reloaded();
            }
            Err(error) => self.refuse(Refused::failed(&wished, with_causes(&error)), now),
        }
    }

    /// How long CRLs have to wait, if they have to: peers with CRLs refuse leaves under an issuing intermediate,
    /// which has none.
    async fn crls_wait_until(&self, now: SystemTime) -> Result<Option<SystemTime>, TakeError> {
        let store = self.store.clone();
        let end = spawn_blocking(move || aftermath::end(store.as_ref())).await??;
        Ok(end.filter(|end| *end > now))
    }

    /// Lets CRLs wait; meanwhile the plugged-in key signs, so that the wait has an end.
    fn let_crls_wait(&mut self, wished: &Cacerts, until: SystemTime, now: SystemTime) {
        self.crls_wait = true;
        let issuer = self.issuer.load_full();
        if issuer.issuing().is_some() {
            let without = Issuer::new(issuer.cacerts().clone(), None, issuer.trust().clone());
            self.issuer.store(Arc::new(without));
        }
        self.refuse(Refused::crls_wait(wished, until), now);
    }

    fn refuse(&self, refused: Refused, now: SystemTime) {
        if self.wish.borrow().as_ref().is_some_and(|wish| wish.refused == refused) {
            return;
        }
        for reason in &refused.reasons {
            self.metrics.reload_refused(reason.code);
            tracing::error!(
                folder = %self.folder.display(),
                reason = reason.code,
                cause = reason.text,
                active = self.issuer.load().id(),
                "CA files not taken; the CA goes on with what it has"
            );
        }
        let (folder, since) = (self.folder.clone(), rfc3339(now));
        self.wish.send_replace(Some(Wish { folder, since, refused }));
    }

    async fn take(&mut self, wished: Arc<Cacerts>, now: SystemTime) -> Result<(), TakeError> {
        let before = self.issuer.load_full();
        let bundles = trust::same_for_all(&self.rules.domains, &wished.roots);
        let trust = self.publisher.prepare(self.store.as_ref(), bundles, wished.crls())?;
        let same_signer = before.cacerts().ca.certificate == wished.ca.certificate
            && before.cacerts().intermediates == wished.intermediates;
        let issuing = match before.issuing() {
            Some(issuing) if same_signer && issuing::wanted(&wished, self.issuing.mode).is_ok() => {
                Some(issuing.clone())
            }
            _ => self.issuing.make(&wished, &self.log, &trust, now).await?,
        };
        let issuer = Arc::new(Issuer::new(wished, issuing, trust.clone()));
        activate(&self.kept, self.store.clone(), &self.log, issuer.clone(), Source::Cacerts, now).await?;
        self.issuer.store(issuer.clone());
        loader::tell_of_readable_key(&self.folder);
        self.publisher.publish(trust);
        self.source = Source::Cacerts;
        tell_notes(issuer.cacerts());
        tracing::info!(
            issuer = issuer.id(),
            before = before.id(),
            folder = %self.folder.display(),
            "CA files taken"
        );
        // What is served now still verifies: its root stays. It is only better signed by the new one.
        if let Err(error) = self.serving.renew(&self.log, now).await {
            tracing::error!(error = with_causes(&error), "serving certificate not renewed");
        }
        Ok(())
    }

    /// How long until the issuing intermediate is to be made anew.
    fn due(&self, now: SystemTime) -> Duration {
        match self.issuer.load().issuing() {
            Some(issuing) => issuing.due().duration_since(now).unwrap_or_default(),
            None => LONGEST_SLEEP,
        }
    }

    async fn renew(&mut self, now: SystemTime) {
        let issuer = self.issuer.load_full();
        let due = match issuer.issuing() {
            Some(issuing) => issuing.is_due(now),
            // After CRLs that waited and were taken back.
            None => {
                let cacerts = issuer.cacerts();
                !self.crls_wait
                    && issuing::wanted(cacerts, self.issuing.mode).is_ok()
                    && cacerts.validities().all(|validity| validity.at(now).is_ok())
            }
        };
        if !due {
            return;
        }
        match self.issuing.make(issuer.cacerts(), &self.log, issuer.trust(), now).await {
            Ok(issuing) => {
                let new = Issuer::new(issuer.cacerts().clone(), issuing, issuer.trust().clone());
                self.issuer.store(Arc::new(new));
            }
            Err(error) => {
                tracing::error!(
                    error = with_causes(&error),
                    "issuing intermediate not made anew; trying again"
                );
            }
        }
    }
}

impl Issuing {
    /// A data folder of a server that kept no account of it: leaves may be there as long as an issuing
    /// intermediate that was made at this moment would last.
    pub fn assume(&self, cacerts: &Cacerts, now: SystemTime) -> Result<(), StateError> {
        let known = aftermath::end(self.store.as_ref())?.is_some();
        if known || !cacerts.is_better_with_issuing_intermediate() {
            return Ok(());
        }
        aftermath::extend(self.store.as_ref(), now + issuing::life(self.lifetime))
    }

    /// Makes an issuing intermediate under `cacerts` and records it, if there is to be one.
    pub async fn make(
        &self,
        cacerts: &Arc<Cacerts>,
        log: &IssuanceLog,
        trust: &Trust,
        now: SystemTime,
    ) -> Result<Option<Arc<IssuingCa>>, TakeError> {
        if let Err(absent) = issuing::wanted(cacerts, self.mode) {
            if absent == Absent::PathLength {
                tracing::info!(issuing_intermediate = %absent, "every certificate costs a signature of the RSA key");
            }
            return Ok(None);
        }
        let (parent, organization, lifetime) = (cacerts.clone(), self.organization.clone(), self.lifetime);
        let issuing = spawn_blocking(move || issuing::mint(&parent, &organization, lifetime, now)).await??;
        log.append(Entry::certificate(now, issuing.entry(trust))).await?;
        let (store, end) = (self.store.clone(), issuing.certificate().facts().validity.not_after);
        spawn_blocking(move || aftermath::extend(store.as_ref(), end)).await??;
        let facts = issuing.certificate().facts();
        let (serial, not_after) = (facts.serial.to_string(), rfc3339(facts.validity.not_after));
        tracing::info!(serial, not_after, "issuing intermediate made");
        Ok(Some(Arc::new(issuing)))
    }
}

/// Logs what was put right in the CA files, or is worth knowing of them.
pub fn tell_notes(cacerts: &Cacerts) {
    for note in &cacerts.notes {
        tracing::warn!(code = note.code, note = %note, "a note on the CA files; certs lint says more");
    }
}

/// Makes `issuer` the active authority, durably: its copy, the act's record, its row. Nothing of it counts
/// before the row is there.
pub async fn activate(
    kept: &Kept,
    store: Arc<dyn Store>,
    log: &IssuanceLog,
    issuer: Arc<Issuer>,
    source: Source,
    now: SystemTime,
) -> Result<(), TakeError> {
    let copy = {
        let (kept, issuer) = (kept.clone(), issuer.clone());
        spawn_blocking(move || kept.write(issuer.cacerts())).await??
    };
    let change = {
        let (store, issuer, copy) = (store.clone(), issuer.clone(), copy.clone());
        spawn_blocking(move || state::change(store.as_ref(), &issuer, source, copy, now)).await??
    };
    let tidy = {
        let kept = kept.clone();
        move || {
            if let Err(error) = kept.remove_all_but(&copy) {
                tracing::warn!(
                    error = with_causes(&error),
                    "the files of an earlier authority are still there"
                );
            }
        }
    };
    let Some(change) = change else {
        // A crash may have left some, and keys that sign nothing more are not left lying about.
        return Ok(spawn_blocking(tidy).await?);
    };
    let act = ActEntry {
        kind: change.act.to_owned(),
        actor: "ca-server".to_owned(),
        subject: issuer.id().to_owned(),
        reason: source.reason().to_owned(),
    };
    log.append(Entry::act(now, act)).await?;
    spawn_blocking(move || -> Result<(), TakeError> {
        change.apply(store.as_ref())?;
        tidy();
        Ok(())
    })
    .await?
}
