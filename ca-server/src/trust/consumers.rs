//! What consumers say that they really hold: one fact per identity and instance, the latest statement.
//!
//! A lower statement replaces a higher one, because it is what is true now. Facts survive restarts.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use signet_certs::clock::rfc3339;
use signet_certs::digest::hex;
use signet_proto::signet::trust::v1::{Acknowledgement, Holding};
use thiserror::Error;

use crate::attestation::Caller;
use crate::store::{Batch, Store, StoreError, Table};

/// Instances that one identity may have facts for, so that a stolen token cannot fill the store.
const MAX_INSTANCES: usize = 1024;
/// Roots and errors that one statement may carry.
const MAX_ROOTS: usize = 256;
const MAX_ERRORS: usize = 8;
const MAX_ERROR: usize = 256;

/// Why a statement is not kept.
#[derive(Debug, Error)]
pub enum ConsumerError {
    /// Too many roots.
    #[error("an acknowledgement of {0} roots; at most {MAX_ROOTS} are taken")]
    TooManyRoots(usize),
    /// Too many instances of one identity.
    #[error("{identity} has {MAX_INSTANCES} instances already")]
    TooManyInstances {
        /// Whose.
        identity: String,
    },
    /// The store failed.
    #[error("keeping an acknowledgement")]
    Store(#[from] StoreError),
    /// The fact cannot be written down or read.
    #[error("encoding an acknowledgement")]
    Row(#[from] serde_json::Error),
}

/// One consumer's latest statement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// SPIFFE ID.
    pub identity: String,
    /// What tells consumers of one identity apart; empty where nothing does.
    pub instance: String,
    /// RFC 3339.
    pub stated_at: String,
    /// Of the trust object that it has.
    pub epoch: u64,
    /// Of the trust object that it has.
    pub sequence: u64,
    /// Hex.
    pub digest: String,
    /// Per root.
    pub roots: Vec<HeldRoot>,
    /// Serial of the leaf that it serves, hex; empty before the first.
    pub serving_serial: String,
    /// How its subscribers stand.
    pub subscribers: Subscribers,
    /// Rejections and failures, newest last.
    pub errors: Vec<String>,
}

/// Whether one root is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldRoot {
    /// Of which trust domain.
    pub trust_domain: String,
    /// SHA-256 of the certificate, hex.
    pub digest: String,
    /// `held`, `not held` or `unknown`.
    pub holding: String,
}

/// Counts of an agent's subscribers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subscribers {
    /// Now.
    pub connected: u32,
    /// Accepted what they were last sent.
    pub acknowledged: u32,
    /// Rejected it.
    pub rejected: u32,
    /// Cannot be told.
    pub unknown: u32,
    /// Whether the files, if there are to be any, are written.
    pub files_written: bool,
}

/// The facts. Calls block for a disk access.
#[derive(Clone)]
pub struct Consumers {
    store: Arc<dyn Store>,
}

impl Consumers {
    /// Facts kept in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Keeps what `caller` states, in place of what it stated before.
    pub fn record(
        &self,
        caller: &Caller,
        acknowledgement: &Acknowledgement,
        now: SystemTime,
    ) -> Result<(), ConsumerError> {
        if acknowledgement.roots.len() > MAX_ROOTS {
            return Err(ConsumerError::TooManyRoots(acknowledgement.roots.len()));
        }
        let fact = fact(caller, acknowledgement, now);
        let mut prefix = fact.identity.clone().into_bytes();
        prefix.push(0);
        let key = [&prefix[..], fact.instance.as_bytes()].concat();
        if self.store.read(Table::Consumers, &key)?.is_none() {
            let known = self.store.scan_prefix(Table::Consumers, &prefix, None, MAX_INSTANCES)?;
            if known.len() >= MAX_INSTANCES {
                return Err(ConsumerError::TooManyInstances { identity: fact.identity });
            }
        }
        let mut batch = Batch::default();
        batch.put(Table::Consumers, key, serde_json::to_vec(&fact)?);
        Ok(self.store.apply(batch)?)
    }

    /// At most `limit` facts, in the order of identity and instance.
    pub fn list(&self, limit: usize) -> Result<Vec<Fact>, ConsumerError> {
        let rows = self.store.scan_prefix(Table::Consumers, b"", None, limit)?;
        rows.into_iter().map(|(_, row)| Ok(serde_json::from_slice(&row)?)).collect()
    }
}

fn fact(caller: &Caller, stated: &Acknowledgement, now: SystemTime) -> Fact {
    let root = |root: &signet_proto::signet::trust::v1::HeldRoot| HeldRoot {
        trust_domain: root.trust_domain.chars().take(255).collect(),
        digest: bounded_hex(&root.digest),
        holding: match root.holding() {
            Holding::Held => "held",
            Holding::NotHeld => "not held",
            Holding::Unspecified | Holding::Unknown => "unknown",
        }
        .to_owned(),
    };
    let subscribers = stated.subscribers.unwrap_or_default();
    let skip = stated.errors.len().saturating_sub(MAX_ERRORS);
    Fact {
        identity: caller.identity.to_string(),
        instance: caller.instance.clone().unwrap_or_default(),
        stated_at: rfc3339(now),
        epoch: stated.epoch,
        sequence: stated.sequence,
        digest: bounded_hex(&stated.digest),
        roots: stated.roots.iter().map(root).collect(),
        serving_serial: bounded_hex(&stated.serving_serial),
        subscribers: Subscribers {
            connected: subscribers.connected,
            acknowledged: subscribers.acknowledged,
            rejected: subscribers.rejected,
            unknown: subscribers.unknown,
            files_written: subscribers.files_written,
        },
        errors: stated.errors[skip..].iter().map(|text| text.chars().take(MAX_ERROR).collect()).collect(),
    }
}

/// At most 64 bytes: digests and serials are shorter.
fn bounded_hex(bytes: &[u8]) -> String {
    hex(&bytes[..bytes.len().min(64)])
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::policy::tests::caller;
    use crate::store::MemoryStore;
    use signet_certs::clock::from_unix;
    use signet_proto::signet::trust::v1::HeldRoot as WireRoot;

    fn statement(sequence: u64, holding: Holding) -> Acknowledgement {
        let root =
            WireRoot { trust_domain: "cluster.local".into(), digest: vec![7; 32], holding: holding.into() };
        Acknowledgement { epoch: 1, sequence, roots: vec![root], ..Acknowledgement::default() }
    }

    #[test]
    fn the_latest_statement_replaces_a_higher_one() {
        let consumers = Consumers::new(Arc::new(MemoryStore::default()));
        let at = from_unix(1_800_000_000);
        consumers.record(&caller(), &statement(2, Holding::Held), at).unwrap();
        consumers.record(&caller(), &statement(1, Holding::NotHeld), at).unwrap();
        let facts = consumers.list(10).unwrap();
        assert_eq!(facts.len(), 1);
        assert_eq!((facts[0].sequence, facts[0].roots[0].holding.as_str()), (1, "not held"));
        assert_eq!(facts[0].identity, caller().identity.as_str());
    }

    #[test]
    fn instances_and_sizes_are_bounded() {
        let consumers = Consumers::new(Arc::new(MemoryStore::default()));
        let at = from_unix(0);
        for number in 0..MAX_INSTANCES {
            let caller = Caller { instance: Some(number.to_string()), ..caller() };
            consumers.record(&caller, &statement(1, Holding::Held), at).unwrap();
        }
        let more = Caller { instance: Some("more".into()), ..caller() };
        let refused = consumers.record(&more, &statement(1, Holding::Held), at);
        assert!(matches!(refused, Err(ConsumerError::TooManyInstances { .. })));
        let known = Caller { instance: Some("7".into()), ..caller() };
        consumers.record(&known, &statement(9, Holding::Held), at).unwrap();
        let mut big = statement(1, Holding::Held);
        big.roots = vec![big.roots[0].clone(); MAX_ROOTS + 1];
        assert!(matches!(consumers.record(&known, &big, at), Err(ConsumerError::TooManyRoots(_))));
        let mut loud = statement(1, Holding::Held);
        loud.errors = (0..20).map(|number| format!("{number}{}", "x".repeat(1000))).collect();
        consumers.record(&known, &loud, at).unwrap();
        let facts = consumers.list(2000).unwrap();
        let errors = &facts.iter().find(|fact| fact.instance == "7").unwrap().errors;
        assert_eq!(errors.len(), MAX_ERRORS);
        assert!(errors[7].starts_with("19x") && errors[7].len() == MAX_ERROR);
    }
}
