//! The rehearsal: a CA signs one certificate of each kind before it is taken, and they are verified as peers
//! would. What no rule of ours foresees (a name constraint, a usage, an extension) is found here and not by
//! the mesh. Nothing of it leaves this function.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use signet_certs::cacerts::Cacerts;
use signet_certs::check::Bounds;
use signet_certs::csr::{self, CsrError, VerifiedCsr};
use signet_certs::key::{KeyError, PrivateKey};
use signet_certs::spiffe_id::{SpiffeId, SpiffeIdError, TrustDomain};
use thiserror::Error;

use super::Issuer;
use super::issuer::SigningError;
use crate::config::Serving;
use crate::policy::Grant;
use crate::trust::{self, Trust};

/// Long enough to be a certificate; nobody will use it.
const LIFETIME: Duration = Duration::from_secs(3600);

/// What the CA cannot do.
#[derive(Debug, Error)]
pub enum RehearsalError {
    /// There is no key or request to rehearse with.
    #[error("making a key to rehearse with")]
    Key(#[from] KeyError),
    /// As above.
    #[error("making a request to rehearse with")]
    Csr(#[from] CsrError),
    /// As above.
    #[error("making an identity to rehearse with")]
    Identity(#[from] SpiffeIdError),
    /// Peers would refuse its workloads.
    #[error("a workload certificate that this CA signs in {0} would not verify")]
    Workload(TrustDomain, #[source] SigningError),
    /// Agents would refuse our own port.
    #[error("the certificate that this CA signs for our own port would not verify")]
    Serving(#[source] SigningError),
}

/// Signs and verifies a leaf in each trust domain, and one for our own port.
pub fn rehearse(
    cacerts: Arc<Cacerts>,
    domains: &BTreeSet<TrustDomain>,
    serving: &Serving,
    now: SystemTime,
) -> Result<(), RehearsalError> {
    let bundles = trust::same_for_all(domains, &cacerts.roots);
    let trust = Arc::new(Trust {
        epoch: 0,
        sequence: 0,
        digest: bundles.digest(),
        bundles,
        crls: Default::default(),
    });
    let key = PrivateKey::generate_p256()?;
    for domain in domains {
        // A new issuer verifies its first leaf.
        let issuer = Issuer::new(cacerts.clone(), None, trust.clone());
        let identity = SpiffeId::workload(domain, "signet", "rehearsal")?;
        let csr = VerifiedCsr::from_pem(&csr::create(&key, &identity)?)?;
        let grant = Grant { identity, lifetime: LIFETIME };
        issuer
            .sign_workload(&csr, &grant, Bounds { now, maximum: LIFETIME })
            .map_err(|error| RehearsalError::Workload(domain.clone(), error))?;
    }
    Issuer::new(cacerts, None, trust)
        .sign_serving(key.spki(), serving, now)
        .map_err(RehearsalError::Serving)?;
    Ok(())
}
