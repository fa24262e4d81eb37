//! The issuing port's own certificate: signed by the active authority, recorded like any other, renewed
//! and swapped while connections go on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use signet_certs::chain::{Certificate, CertificateError, ChainError, Usage, verify};
use signet_certs::clock::rfc3339;
use signet_certs::key::{KeyError, PrivateKey};
use signet_certs::validity::{BACKDATE, Validity};
use signet_service::logging::with_causes;
use thiserror::Error;
use zeroize::Zeroizing;

use super::Issuer;
use super::issuer::{Signed, SigningError};
use crate::clock::Clock;
use crate::config::Serving;
use crate::issuance_log::{AppendError, CertificateEntry, Entry, EvidenceEntry, IssuanceLog};

/// Between two renewals at the least.
const RETRY: Duration = Duration::from_secs(5);
/// Longest sleep, so that a suspended machine notices soon that time went by.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

/// Why there is no new serving certificate.
#[derive(Debug, Error)]
pub enum ServingError {
    /// No key could be made.
    #[error("making the key of the serving certificate")]
    Key(#[from] KeyError),
    /// It could not be signed.
    #[error("signing the serving certificate")]
    Sign(#[from] SigningError),
    /// It could not be recorded, so it is not used.
    #[error("recording the serving certificate")]
    Record(#[from] AppendError),
    /// TLS does not take it.
    #[error("loading the serving certificate into TLS")]
    Tls(#[from] rustls::Error),
    /// It does not read back.
    #[error("reading the serving certificate back")]
    Read(#[from] CertificateError),
}

/// The certificate in use.
#[derive(Debug)]
pub struct ServingCertificate {
    settings: Serving,
    issuer: Arc<ArcSwap<Issuer>>,
    key: ArcSwapOption<CertifiedKey>,
    held: ArcSwapOption<Held>,
}

/// What peers get, to be judged as they would.
#[derive(Debug)]
struct Held {
    leaf: Certificate,
    intermediates: Vec<Certificate>,
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.key.load_full()
    }
}

impl ServingCertificate {
    /// None yet: call [`Self::renew`] before serving.
    pub fn new(settings: Serving, issuer: Arc<ArcSwap<Issuer>>) -> Self {
        Self { settings, issuer, key: ArcSwapOption::empty(), held: ArcSwapOption::empty() }
    }

    /// The certificate in use.
    pub fn leaf(&self) -> Option<Certificate> {
        self.held.load().as_ref().map(|held| held.leaf.clone())
    }

    /// Whether peers that hold the roots of today accept it at `now`; nothing while there is none.
    pub fn verify(&self, now: SystemTime) -> Option<Result<(), ChainError>> {
        let (held, issuer) = (self.held.load_full()?, self.issuer.load());
        Some(verify(&held.leaf, &held.intermediates, &issuer.cacerts().roots, now, Usage::Server))
    }

    /// Makes a key, signs, records and swaps; on an error the old certificate stays.
    pub async fn renew(&self, log: &IssuanceLog, now: SystemTime) -> Result<(), ServingError> {
        let issuer = self.issuer.load_full();
        let key = PrivateKey::generate_p256()?;
        let signed = issuer.sign_serving(key.spki(), &self.settings, now)?;
        log.append(self.entry(&issuer, &signed, now)).await?;
        let intermediates = issuer.intermediates(&signed).to_vec();
        let above = intermediates.iter().map(|member| member.der().clone());
        let chain: Vec<CertificateDer<'static>> = std::iter::once(signed.der.clone()).chain(above).collect();
        let der = PrivatePkcs8KeyDer::from(key.to_pkcs8_der().to_vec());
        let der = Zeroizing::new(PrivateKeyDer::Pkcs8(der));
        let key = rustls::crypto::ring::sign::any_supported_type(&der)?;
        let leaf = Certificate::from_der(signed.der.to_vec())?;
        self.held.store(Some(Arc::new(Held { leaf, intermediates })));
        self.key.store(Some(Arc::new(CertifiedKey::new(chain, key))));
        let (serial, not_after) = (signed.serial.to_string(), rfc3339(signed.validity.not_after));
        tracing::info!(serial, not_after, "serving certificate renewed");
        Ok(())
    }

    /// Renews when half of the lifetime is over, and again after failures; not while the clock is not believed.
    /// Never returns.
    pub async fn renew_forever(&self, log: &IssuanceLog, clock: &Clock) {
        let mut believed = clock.believed();
        loop {
            let mut due = RETRY;
            if let Ok(now) = clock.now() {
                let validity = self.leaf().map(|leaf| leaf.facts().validity);
                due = validity.map_or(Duration::ZERO, |validity| until_due(validity, now));
                if due.is_zero()
                    && let Err(error) = self.renew(log, now).await
                {
                    tracing::error!(error = with_causes(&error), "serving certificate not renewed");
                }
            }
            tokio::select! {
                // Also after a success: an issuer about to end gives ever shorter lives.
                () = tokio::time::sleep(due.clamp(RETRY, LONGEST_SLEEP)) => {}
                // A clock that is accepted where it was set may find the certificate ended, or not valid yet.
                Ok(()) = believed.changed() => {}
            }
        }
    }

    fn entry(&self, issuer: &Issuer, signed: &Signed, now: SystemTime) -> Entry {
        let trust = issuer.trust();
        let certificate = CertificateEntry {
            serial: signed.serial.as_bytes().to_vec(),
            identity: String::new(),
            instance: String::new(),
            evidence: EvidenceEntry { kind: "none".to_owned(), ..EvidenceEntry::default() },
            key_hash: signed.key_hash,
            issuer_key_id: signed.issuer_key_id.clone(),
            not_before: signed.validity.not_before,
            not_after: signed.validity.not_after,
            profile: "serving".to_owned(),
            trust_epoch: trust.epoch,
            trust_sequence: trust.sequence,
            root_digests: Vec::new(),
            cluster: String::new(),
            request_id: String::new(),
            certificate_hash: signed.digest(),
            dns_names: self.settings.dns.clone(),
            subject_key_id: Vec::new(),
        };
        Entry::certificate(now, certificate)
    }
}

/// Time until half of the life is over, which began where the backdating ended; zero when it is, and when the
/// life has not begun yet, as after a clock was set back.
fn until_due(validity: Validity, now: SystemTime) -> Duration {
    if now < validity.not_before {
        return Duration::ZERO;
    }
    let begin = validity.not_before + BACKDATE;
    let half = validity.not_after.duration_since(begin).unwrap_or_default() / 2;
    (begin + half).duration_since(now).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::tests::now;

    #[test]
    fn renewal_is_due_at_half_of_the_life() {
        let hour = Duration::from_secs(3600);
        let validity = Validity { not_before: now() - BACKDATE, not_after: now() + hour };
        assert_eq!(until_due(validity, now()), hour / 2);
        assert_eq!(until_due(validity, now() + hour / 4), hour / 4);
        assert_eq!(until_due(validity, now() + hour / 2), Duration::ZERO);
        assert_eq!(until_due(validity, now() + hour * 2), Duration::ZERO);
        assert_eq!(until_due(validity, now() - hour), Duration::ZERO, "nobody takes it before its time");
    }
}
