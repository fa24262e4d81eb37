//! The issuing sequence: one function, forward only. Start reading here.
//!
//! Evidence becomes a caller, the caller waits for its turn, the request becomes a verified CSR, policy
//! grants, the issuer signs, the log records, and only then does anybody hear of the certificate.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use futures::FutureExt;
use signet_certs::check::Bounds;
use signet_certs::csr::{Asked as AskedInCsr, CsrError, VerifiedCsr};
use signet_certs::serial::Serial;
use signet_certs::spiffe_id::SpiffeId;
use signet_service::clock_watch::Stepped;
use thiserror::Error;
use tokio::time::Instant;

use crate::api::admission::{Asker, Need, Overload, Turn, Turns};
use crate::attestation::client_certificate::ClientCertificates;
use crate::attestation::{Attestation, AttestationError, Caller, Evidence};
use crate::authority::Issuer;
use crate::authority::issuer::{Signed, SigningError};
use crate::authority::pool::{PoolError, SigningPool};
use crate::blocks::{Blocked, Blocks};
use crate::clock::Clock;
use crate::config::Lifetimes;
use crate::issuance_log::{Announced, AppendError, CertificateEntry, Entry, IssuanceLog};
use crate::policy::{self, Asked, Denied, Grant};
use crate::trust::Trust;

/// A request for one certificate.
#[derive(Debug)]
pub struct Request {
    /// For the log.
    pub id: String,
    /// When an answer is of no use any more.
    pub deadline: Instant,
    /// Who says to send it, and how that can be proven.
    pub evidence: Evidence,
    /// PEM.
    pub csr: String,
    /// What is asked for beside the key.
    pub asked: Asked,
}

/// A certificate that is recorded and may leave.
#[derive(Debug)]
pub struct Issued {
    /// Leaf, intermediates, and one last element with all roots; PEM.
    pub chain: Vec<String>,
    /// What the roots are a version of.
    pub trust: Arc<Trust>,
    /// Whose it is.
    pub identity: SpiffeId,
    /// Its serial number.
    pub serial: Serial,
    /// When it ends.
    pub not_after: SystemTime,
    /// Its place in the issuance log.
    pub index: u64,
    /// What the CSR asked for, where that differs from what was given.
    pub ignored: Option<AskedInCsr>,
}

/// Why there is no certificate. Each step has its own.
#[derive(Debug, Error)]
pub enum IssueError {
    /// It is not known what time it is.
    #[error("reading the clock")]
    Clock(#[from] Stepped),
    /// Who sends it could not be proven.
    #[error("attesting the caller")]
    Attestation(#[from] AttestationError),
    /// An operator blocked the caller.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// Not now.
    #[error("admitting the request")]
    Overload(#[from] Overload),
    /// The CSR is no good.
    #[error("verifying the CSR")]
    Csr(#[from] CsrError),
    /// Policy says no.
    #[error("deciding what the caller may have")]
    Denied(#[from] Denied),
    /// The issuer could not sign.
    #[error("signing")]
    Signing(#[from] SigningError),
    /// The signing pool did not do its work.
    #[error("using the signing pool")]
    Pool(#[from] PoolError),
    /// The certificate could not be recorded, so it is dropped.
    #[error("recording the certificate")]
    Record(#[from] AppendError),
    /// The message could not be read.
    #[error("reading the message: {0}")]
    Unreadable(String),
    /// Time ran out on the way.
    #[error("the deadline passed")]
    Deadline,
}

/// Everything that issuing needs.
pub struct Issuance {
    /// What time it is.
    pub clock: Arc<Clock>,
    /// Who is who.
    pub attestation: Attestation,
    /// Who is who without a token; nothing where that is off.
    pub client_certificates: Option<ClientCertificates>,
    /// Who gets nothing any more.
    pub blocks: Arc<Blocks>,
    /// Whose turn it is.
    pub turns: Turns,
    /// How long certificates live.
    pub lifetimes: Lifetimes,
    /// Who signs.
    pub issuer: Arc<ArcSwap<Issuer>>,
    /// Where signing happens.
    pub pool: SigningPool,
    /// Where it is recorded.
    pub log: Arc<IssuanceLog>,
}

impl Issuance {
    /// Issues one certificate, or says why not, by the request's deadline. If time runs out while the record
    /// is being written, the certificate stands in the log and nobody has it.
    pub fn issue(&self, request: Request) -> impl Future<Output = Result<Issued, IssueError>> {
        let deadline = request.deadline;
        // Adapted and not awaited: what would wait here would stand in memory twice.
        tokio::time::timeout_at(deadline, self.sequence(request))
            .map(|in_time| in_time.unwrap_or(Err(IssueError::Deadline)))
    }

    /// How much a caller needs what it asks for; asked only where requests wait.
    fn need(&self, caller: &Caller, lifetime: Duration, now: SystemTime) -> Need {
        let instance = caller.instance.as_deref().unwrap_or_default();
        Need::of(self.log.latest_not_after(caller.identity.as_str(), instance), lifetime, now)
    }

    /// Who brings this evidence, unless that is somebody who is blocked. A token decides, if there is one.
    pub async fn caller(&self, evidence: &Evidence, now: SystemTime) -> Result<Caller, IssueError> {
        let caller = match (&evidence.token, &evidence.certificates, &self.client_certificates) {
            (None, Some(_), None) => return Err(AttestationError::RenewalOff.into()),
            (None, Some(presented), Some(client_certificates)) => {
                client_certificates.attest(presented, &self.attestation, now).await?
            }
            _ => self.attestation.attest(evidence, now).await?,
        };
        self.blocks.check(&caller)?;
        Ok(caller)
    }

    async fn sequence(&self, request: Request) -> Result<Issued, IssueError> {
        // Read once, and judged at that moment: nothing here is dated by a clock that jumped.
        let now = self.clock.now()?;
        let caller = self.caller(&request.evidence, now).await?;
        let grant = policy::decide(&caller, &request.asked, self.lifetimes)?;
        let issuer = self.issuer.load_full();

        let announced = self.log.announce();
        let need = || self.need(&caller, grant.lifetime, now);
        let turn = self.turns.take(&asker(&caller), need, request.deadline).await?;
        // Whoever waits or is refused does not pay for the room that the rest needs.
        let Request { id, csr, .. } = request;
        Box::pin(self.sign(Granted { id, csr, now, caller, grant, issuer, announced, turn })).await
    }

    async fn sign(&self, granted: Granted<'_>) -> Result<Issued, IssueError> {
        let Granted { id, csr, now, caller, grant, issuer, announced, mut turn } = granted;
        let bounds = Bounds { now, maximum: self.lifetimes.maximum };
        let signer = issuer.clone();
        let work = move || -> Result<_, IssueError> {
            // It ends with the work, not with whoever waits for it: the pool is never fuller than there are turns.
            turn.begin();
            let csr = VerifiedCsr::from_pem(&csr)?;
            let signed = signer.sign_workload(&csr, &grant, bounds)?;
            let chain = signer.answer(&signed, grant.identity.trust_domain());
            let ignored = csr.asked().differs_from(&grant.identity).then(|| csr.asked().clone());
            drop(turn);
            Ok((signed, chain, ignored))
        };
        let (signed, chain, ignored) = self.pool.run(work).await??;

        // Whoever was blocked while this waited for its turn gets nothing either.
        self.blocks.check(&caller)?;
        let index = announced.append(Entry::certificate(now, record(&caller, &issuer, &signed, id))).await?;
        Ok(Issued {
            chain,
            trust: issuer.trust().clone(),
            identity: caller.identity,
            serial: signed.serial,
            not_after: signed.validity.not_after,
            index,
            ignored,
        })
    }
}

/// A request whose turn has come.
struct Granted<'log> {
    id: String,
    csr: String,
    now: SystemTime,
    caller: Caller,
    grant: Grant,
    issuer: Arc<Issuer>,
    announced: Announced<'log>,
    turn: Turn,
}

/// Who asks, for its turn: only what the evidence proves.
fn asker(caller: &Caller) -> Asker<'_> {
    let evidence = &caller.evidence;
    let node = [&evidence.node_uid, &evidence.node_name].into_iter().find(|node| !node.is_empty());
    Asker {
        caller: (caller.identity.as_str(), &evidence.pod_uid),
        namespace: (caller.identity.trust_domain().as_str(), &caller.namespace),
        node: node.map(String::as_str),
    }
}

fn record(caller: &Caller, issuer: &Issuer, signed: &Signed, request_id: String) -> CertificateEntry {
    let trust = issuer.trust();
    CertificateEntry {
        serial: signed.serial.as_bytes().to_vec(),
        identity: caller.identity.to_string(),
        instance: caller.instance.clone().unwrap_or_default(),
        evidence: caller.evidence.clone(),
        key_hash: signed.key_hash,
        issuer_key_id: signed.issuer_key_id.clone(),
        not_before: signed.validity.not_before,
        not_after: signed.validity.not_after,
        profile: "workload".to_owned(),
        trust_epoch: trust.epoch,
        trust_sequence: trust.sequence,
        root_digests: issuer.root_digests(caller.identity.trust_domain()).to_vec(),
        cluster: caller.cluster.clone().unwrap_or_default(),
        request_id,
        certificate_hash: signed.digest(),
        dns_names: Vec::new(),
        subject_key_id: Vec::new(),
    }
}
