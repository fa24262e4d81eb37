//! Trust: which roots the mesh trusts and which CRLs come with them, as one versioned object, and what consumers say they hold.
//!
//! [`publisher`] owns the object; [`consumers`] keeps the acknowledgements as facts. Nothing acts on the
//! facts yet: rotations will.

pub mod consumers;
pub mod publisher;

use std::collections::BTreeSet;

use signet_certs::bundle::{Bundles, TrustBundle};
use signet_certs::chain::Certificate;
use signet_certs::crl::Crls;
use signet_certs::spiffe_id::TrustDomain;

/// What is trusted, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust {
    /// Rises when the CA's state begins anew; sequences compare only within one epoch.
    pub epoch: u64,
    /// Rises with every change.
    pub sequence: u64,
    /// [`Bundles::digest`].
    pub digest: [u8; 32],
    /// Roots per trust domain.
    pub bundles: Bundles,
    /// CRLs of CAs under these roots, as plugged in.
    pub crls: Crls,
}

/// The same roots for every trust domain that we sign in: our own and those of the token issuers.
pub fn same_for_all(domains: &BTreeSet<TrustDomain>, roots: &[Certificate]) -> Bundles {
    let bundle = TrustBundle::new(roots.to_vec());
    let each = domains.iter().map(|domain| Bundles::of(domain.clone(), bundle.clone()));
    each.fold(Bundles::default(), |all, one| all.merge(&one))
}
