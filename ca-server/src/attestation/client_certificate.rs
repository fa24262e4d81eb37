//! Renewal by certificate, for machines whose token can be gone: a caller that proves to hold the key of a leaf
//! of ours (TLS has seen to that) may be who that leaf says, for a while after its last token.
//!
//! The connection gives only the bytes; everything is judged for each request, because connections outlive
//! certificates. What costs least comes first: no disk is read for a leaf that no key of ours signed, or that
//! has ended. What counts in the end is the record in our own log, not what the leaf says.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use signet_certs::chain::Certificate;
use signet_certs::clock::rfc3339;
use signet_certs::spiffe_id::SpiffeId;
use signet_service::logging::with_causes;
use tokio::sync::Semaphore;

use super::{Attestation, AttestationError, Caller};
use crate::authority::signers::Signers;
use crate::issuance_log::{CertificateEntry, EvidenceEntry, IssuanceLog, RenewalEntry};

/// Certificates read from the log at once.
const LOOKUPS: usize = 16;
/// Certificates above the leaf that are looked at: ours has one at most that we do not keep ourselves.
const MAX_ABOVE: usize = 3;

/// What a client presented on its connection, the leaf first.
pub type Presented = Arc<[CertificateDer<'static>]>;

/// See the module's text.
pub struct ClientCertificates {
    max_age: Duration,
    log: Arc<IssuanceLog>,
    signers: Signers,
    lookups: Semaphore,
}

impl ClientCertificates {
    /// Believes leaves that `log` has and one of `signers` signed, for `max_age` after the last token.
    pub fn new(max_age: Duration, log: Arc<IssuanceLog>, signers: Signers) -> Self {
        Self { max_age, log, signers, lookups: Semaphore::new(LOOKUPS) }
    }

    /// Says who presents these certificates. `attestation` knows whose tokens are still believed.
    ///
    /// # Errors
    /// Why they are refused, or that the log cannot be read.
    pub async fn attest(
        &self,
        presented: &Presented,
        attestation: &Attestation,
        now: SystemTime,
    ) -> Result<Caller, AttestationError> {
        let unavailable = |error: &dyn std::error::Error| AttestationError::Lookup(with_causes(error));
        let (leaf, above) = presented.split_first().ok_or(AttestationError::Missing)?;
        let leaf = Certificate::from_der(leaf.to_vec()).map_err(|_| AttestationError::CertificateIssuer)?;
        let signers = self.signers.current().await.map_err(|error| unavailable(&error))?;
        let above = above.iter().take(MAX_ABOVE).filter_map(|der| Certificate::from_der(der.to_vec()).ok());
        let issuer_key_ids = signers.above(&leaf, above).ok_or(AttestationError::CertificateIssuer)?;
        check_times(&leaf, now)?;

        let serial = leaf.facts().serial.as_bytes();
        let record = {
            // The semaphore is never closed.
            let _place = self.lookups.acquire().await.ok();
            self.log.certificate(serial).await.map_err(|error| unavailable(&error))?
        };
        let record = record.ok_or(AttestationError::CertificateUnknown)?;
        let recorded = record.certificate().ok_or(AttestationError::CertificateUnknown)?;
        if recorded.certificate_hash != leaf.digest() || recorded.profile != "workload" {
            return Err(AttestationError::CertificateUnknown);
        }
        let renewal = renewal(recorded, record.entry.time);
        let until = renewal.token_time + self.max_age;
        if now > until {
            return Err(AttestationError::TokenTooLongAgo {
                token_time: rfc3339(renewal.token_time),
                max_age: self.max_age,
            });
        }
        let not_after = leaf.facts().validity.not_after;
        let caller = caller(recorded, renewal, issuer_key_ids, not_after.min(until))?;
        attestation.still_vouches(&caller)?;
        Ok(caller)
    }
}

fn check_times(leaf: &Certificate, now: SystemTime) -> Result<(), AttestationError> {
    let validity = leaf.facts().validity;
    if now < validity.not_before {
        return Err(AttestationError::CertificateNotYetValid { from: rfc3339(validity.not_before) });
    }
    if now > validity.not_after {
        return Err(AttestationError::CertificateEnded { at: rfc3339(validity.not_after) });
    }
    Ok(())
}

/// The link of the chain of renewals that comes after a recorded certificate.
fn renewal(recorded: &CertificateEntry, recorded_at: SystemTime) -> RenewalEntry {
    let (first, token_time) = match &recorded.evidence.renewal {
        Some(renewal) => (renewal.first.clone(), renewal.token_time),
        None => (recorded.serial.clone(), recorded_at),
    };
    RenewalEntry { predecessor: recorded.serial.clone(), first, token_time }
}

fn caller(
    recorded: &CertificateEntry,
    renewal: RenewalEntry,
    issuer_key_ids: Vec<Vec<u8>>,
    expires: SystemTime,
) -> Result<Caller, AttestationError> {
    let unknown = || AttestationError::CertificateUnknown;
    let identity = SpiffeId::parse(&recorded.identity).map_err(|_| unknown())?;
    let (namespace, service_account) = {
        let path = identity.path().strip_prefix("/ns/").and_then(|path| path.split_once("/sa/"));
        let (namespace, service_account) = path.ok_or_else(unknown)?;
        (namespace.to_owned(), service_account.to_owned())
    };
    let evidence =
        EvidenceEntry { kind: "certificate".to_owned(), renewal: Some(renewal), ..recorded.evidence.clone() };
    Ok(Caller {
        identity,
        namespace,
        service_account,
        instance: Some(recorded.instance.clone()).filter(|instance| !instance.is_empty()),
        evidence,
        issuer_key_ids,
        expires,
        cluster: Some(recorded.cluster.clone()).filter(|cluster| !cluster.is_empty()),
    })
}
