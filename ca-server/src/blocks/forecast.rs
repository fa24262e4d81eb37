//! What a block leaves: certificates that were issued before it and have not ended, counted from the log.
//!
//! One pass over the records that can still matter serves any number of blocks. It reads the disk for as long
//! as that takes, and never before the block holds.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use signet_certs::clock::rfc3339;

use super::target::Targets;
use crate::issuance_log::{LogReader, ReadError};

/// What was left when it was counted; later ones there are none of, because of the block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// Certificates that had not ended.
    pub certificates: u64,
    /// When the last of them ends, RFC 3339; nothing without one.
    pub last_ends: Option<String>,
}

#[derive(Default)]
struct Count {
    certificates: u64,
    last_ends: Option<SystemTime>,
}

/// For each block among `targets` that any record comes under: what is left at `now`. Records older than
/// `longest` are not looked at.
///
/// # Errors
/// The log is damaged.
pub(super) fn count(
    reader: &LogReader,
    targets: &Targets,
    longest: Duration,
    now: SystemTime,
) -> Result<HashMap<u64, Forecast>, ReadError> {
    let mut counts: HashMap<u64, Count> = HashMap::new();
    // CAs under a blocked key: what they signed is under it, too.
    let mut beneath: HashMap<Vec<u8>, u64> = HashMap::new();
    let since = now.checked_sub(longest).unwrap_or(SystemTime::UNIX_EPOCH);
    reader.each(reader.first_since(since)?, |record| {
        let Some(certificate) = record.certificate() else { return };
        let key = targets.of_key(&certificate.issuer_key_id);
        if !certificate.subject_key_id.is_empty() {
            beneath.extend(key.map(|id| (certificate.subject_key_id.clone(), id)));
        }
        if certificate.profile != "workload" || certificate.not_after < now {
            return;
        }
        let parent = beneath.get(&certificate.issuer_key_id).copied();
        let mut ids: Vec<u64> = targets.of_record(certificate).chain(key).chain(parent).collect();
        ids.sort_unstable();
        ids.dedup();
        for id in ids {
            let count = counts.entry(id).or_default();
            count.certificates += 1;
            count.last_ends = count.last_ends.max(Some(certificate.not_after));
        }
    })?;
    let forecast =
        |count: Count| Forecast { certificates: count.certificates, last_ends: count.last_ends.map(rfc3339) };
    Ok(counts.into_iter().map(|(id, count)| (id, forecast(count))).collect())
}
