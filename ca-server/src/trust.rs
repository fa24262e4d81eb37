//! Trust: which roots the mesh trusts, as one versioned object, and what consumers say they hold.
//!
//! [`publisher`] owns the object; [`consumers`] keeps the acknowledgements as facts. Nothing acts on the
//! facts yet: rotations will.

pub mod consumers;
pub mod publisher;

use signet_certs::bundle::Bundles;

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
}
