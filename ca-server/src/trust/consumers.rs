//! What consumers say that they really hold: one fact per identity and instance, the latest statement.
//!
//! A lower statement replaces a higher one, because it is what is true now. Facts survive restarts.
//!
//! Instances come and go with their pods, so of one identity only the latest are kept. A dropped fact is
//! never a yes: who has no fact has stated nothing, and who lives states again when its stream is renewed,
//! at the latest after half an hour.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use signet_certs::clock::rfc3339;
use signet_certs::digest::hex;
use signet_proto::signet::trust::v1::{Acknowledgement, Holding};
use thiserror::Error;

use crate::attestation::Caller;
use crate::reason::Reason;
use crate::store::{Batch, Row, Store, StoreError, Table};

/// Instances that one identity has facts for, so that neither time nor a stolen token fills the store.
const MAX_INSTANCES: usize = 1024;
/// Rows that are read at once to count them.
const PAGE: usize = 1024;
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
    /// The store failed.
    #[error("keeping an acknowledgement")]
    Store(#[from] StoreError),
    /// The fact cannot be written down or read.
    #[error("encoding an acknowledgement")]
    Row(#[from] serde_json::Error),
}

impl ConsumerError {
    /// Stable code.
    pub fn reason(&self) -> Reason {
        match self {
            Self::TooManyRoots(_) => Reason::AcknowledgementTooLarge,
            Self::Store(_) | Self::Row(_) => Reason::AcknowledgementNotKept,
        }
    }
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
    /// A statement that takes a root back is not durable yet.
    owed: Arc<AtomicBool>,
}

impl Consumers {
    /// Facts kept in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, owed: Arc::default() }
    }

    /// Keeps what `caller` states, in place of what it stated before; the oldest statement of its identity
    /// gives way where there are too many. A crash may lose the latest statements, as if they had not been
    /// made, but not one that takes a root back: nobody may believe the one before any more.
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
        let mut batch = Batch::default();
        let before = self.store.read(Table::Consumers, &key)?;
        let takes_back = before.as_ref().is_some_and(|row| takes_back(row, &fact));
        if before.is_none() {
            // Two at once may leave one too many; the next one finds and drops it.
            let known = self.store.scan_prefix(Table::Consumers, &prefix, None, 2 * MAX_INSTANCES)?;
            for old in oldest(known, MAX_INSTANCES - 1) {
                batch.remove(Table::Consumers, old);
            }
        }
        batch.put(Table::Consumers, key, serde_json::to_vec(&fact)?);
        self.store.apply(batch)?;
        if self.owed.swap(false, Ordering::AcqRel) || takes_back {
            // One that was not made durable is owed, also by a statement that says the same.
            self.store.flush().inspect_err(|_| self.owed.store(true, Ordering::Release))?;
        }
        Ok(())
    }

    /// At most `limit` facts, in the order of identity and instance.
    pub fn list(&self, limit: usize) -> Result<Vec<Fact>, ConsumerError> {
        let rows = self.store.scan_prefix(Table::Consumers, b"", None, limit)?;
        rows.into_iter().map(|(_, row)| Ok(serde_json::from_slice(&row)?)).collect()
    }

    /// How many facts there are.
    pub fn count(&self) -> Result<usize, ConsumerError> {
        let (mut count, mut after) = (0, None);
        loop {
            let page = self.store.scan_prefix(Table::Consumers, b"", after.as_deref(), PAGE)?;
            count += page.len();
            if page.len() < PAGE {
                return Ok(count);
            }
            after = page.into_iter().next_back().map(|(key, _)| key);
        }
    }
}

/// Whether a root that was held by what `before` says is not held by what `now` says.
fn takes_back(before: &[u8], now: &Fact) -> bool {
    let held = |root: &&HeldRoot| root.holding == "held";
    serde_json::from_slice(before)
        .is_ok_and(|before: Fact| before.roots.iter().filter(held).any(|root| !now.roots.contains(root)))
}

/// The keys of the oldest of `rows`, all but `keep`.
fn oldest(rows: Vec<Row>, keep: usize) -> Vec<Vec<u8>> {
    let surplus = rows.len().saturating_sub(keep);
    if surplus == 0 {
        return Vec::new();
    }
    // RFC 3339 in UTC sorts as time does. A row that cannot be read says nothing and goes first.
    let stated = |row: &[u8]| serde_json::from_slice(row).ok().map(|fact: Fact| fact.stated_at);
    let mut aged: Vec<_> = rows.into_iter().map(|(key, row)| (stated(&row), key)).collect();
    aged.sort_unstable();
    aged.into_iter().take(surplus).map(|(_, key)| key).collect()
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
    use crate::store::forgetful::ForgetfulStore;
    use signet_certs::clock::from_unix;
    use signet_certs::spiffe_id::SpiffeId;
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
    fn a_statement_that_takes_a_root_back_outlives_a_kill() {
        let store = Arc::new(ForgetfulStore::default());
        let consumers = Consumers::new(store.clone());
        let at = from_unix(1_800_000_000);
        let holding =
            || consumers.list(10).unwrap().into_iter().next().map(|fact| fact.roots[0].holding.clone());
        consumers.record(&caller(), &statement(1, Holding::Held), at).unwrap();
        store.flush().unwrap();
        for less in [Holding::NotHeld, Holding::Unknown] {
            consumers.record(&caller(), &statement(2, Holding::Held), at).unwrap();
            store.flush().unwrap();
            consumers.record(&caller(), &statement(2, less), at).unwrap();
            store.kill(0);
            assert_ne!(holding().as_deref(), Some("held"));
        }
        // One that says more may be lost: then the CA knows too little, and is told again.
        consumers.record(&caller(), &statement(2, Holding::Held), at).unwrap();
        store.kill(0);
        assert_eq!(holding().as_deref(), Some("unknown"));
        consumers.record(&caller(), &statement(2, Holding::Held), at).unwrap();
        store.flush().unwrap();
        store.fail(store.operations() + 1, 1);
        let error = consumers.record(&caller(), &statement(2, Holding::NotHeld), at).unwrap_err();
        assert!(matches!(error, ConsumerError::Store(StoreError::Flush(_))), "{error:?}");
        consumers.record(&caller(), &statement(2, Holding::NotHeld), at).unwrap();
        store.kill(0);
        assert_eq!(holding().as_deref(), Some("not held"), "the same again is not taken for durable");
    }

    #[test]
    fn the_1025th_instance_is_kept_and_the_oldest_statement_gives_way() {
        let consumers = Consumers::new(Arc::new(MemoryStore::default()));
        let at = |second: usize| from_unix(1_800_000_000 + i64::try_from(second).unwrap());
        let instance = |name: String| Caller { instance: Some(name), ..caller() };
        let other =
            Caller { identity: SpiffeId::parse("spiffe://cluster.local/ns/a/sa/b").unwrap(), ..caller() };
        consumers.record(&other, &statement(1, Holding::Held), at(0)).unwrap();
        for number in 0..MAX_INSTANCES {
            consumers
                .record(&instance(number.to_string()), &statement(1, Holding::Held), at(number))
                .unwrap();
        }
        // The first one lives and states again: now the second one's statement is the oldest.
        consumers.record(&instance("0".into()), &statement(2, Holding::Held), at(2000)).unwrap();
        consumers.record(&instance("more".into()), &statement(1, Holding::Held), at(2001)).unwrap();
        assert_eq!(consumers.count().unwrap(), MAX_INSTANCES + 1, "the other identity's is untouched");
        let facts = consumers.list(2 * MAX_INSTANCES).unwrap();
        let has = |name: &str| facts.iter().any(|fact| fact.instance == name);
        assert!(has("0") && has("more") && has("2") && has("1023"));
        assert!(!has("1"), "its pod spoke longest ago");
    }

    #[test]
    fn a_surplus_and_a_row_that_cannot_be_read_go_with_the_next_new_instance() {
        let store = Arc::new(MemoryStore::default());
        let consumers = Consumers::new(store.clone());
        let prefix = [caller().identity.as_str().as_bytes(), &[0]].concat();
        let mut batch = Batch::default();
        batch.put(Table::Consumers, [&prefix[..], b"damaged"].concat(), *b"{");
        let old = fact(&caller(), &statement(1, Holding::Held), from_unix(0));
        for number in 0..=MAX_INSTANCES {
            let key = [&prefix[..], format!("{number:04}").as_bytes()].concat();
            batch.put(Table::Consumers, key, serde_json::to_vec(&old).unwrap());
        }
        store.apply(batch).unwrap();
        let new = Caller { instance: Some("new".into()), ..caller() };
        consumers.record(&new, &statement(1, Holding::Held), from_unix(1)).unwrap();
        assert_eq!(consumers.count().unwrap(), MAX_INSTANCES);
        assert!(consumers.list(2 * MAX_INSTANCES).unwrap().iter().any(|fact| fact.instance == "new"));
    }

    #[test]
    fn sizes_are_bounded() {
        let consumers = Consumers::new(Arc::new(MemoryStore::default()));
        let at = from_unix(0);
        let mut big = statement(1, Holding::Held);
        big.roots = vec![big.roots[0].clone(); MAX_ROOTS + 1];
        assert!(matches!(consumers.record(&caller(), &big, at), Err(ConsumerError::TooManyRoots(_))));
        let mut loud = statement(1, Holding::Held);
        loud.errors = (0..20).map(|number| format!("{number}{}", "x".repeat(1000))).collect();
        consumers.record(&caller(), &loud, at).unwrap();
        let errors = &consumers.list(10).unwrap()[0].errors;
        assert_eq!(errors.len(), MAX_ERRORS);
        assert!(errors[7].starts_with("19x") && errors[7].len() == MAX_ERROR);
    }
}
