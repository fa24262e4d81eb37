//! Doors for the fuzz targets (`tests/src/fuzzing`): what reads bytes from outside and is private to this
//! crate. No interface for anybody else; it changes with what is behind it.

use std::time::SystemTime;

use signet_certs::bundle::TrustBundle;
use signet_certs::chain::Certificate;
use signet_certs::key::PrivateKey;
use signet_certs::spiffe_id::{SpiffeId, TrustDomain};
use signet_proto::signet::trust::v1::WatchResponse;

use crate::request::{AnswerError, answer};
pub use crate::sink::sds::fuzzing::Sds;
use crate::trust::{Trust, TrustError};

/// A CA's answer, taken apart: leaf, intermediates, roots.
///
/// # Errors
/// Why it is dropped.
pub fn judge(
    elements: &[String],
    key: &PrivateKey,
    identity: &SpiffeId,
    now: SystemTime,
) -> Result<(Certificate, Vec<Certificate>, TrustBundle), AnswerError> {
    let judged = answer::judge(elements, key, identity, now)?;
    Ok((judged.leaf, judged.intermediates, judged.roots))
}

/// A message of the CA's trust watch.
///
/// # Errors
/// Why it is dropped.
pub fn trust(message: WatchResponse, own: &TrustDomain) -> Result<Trust, TrustError> {
    Trust::read(message, own, "fuzzing")
}
