//! The owner of the trust object: versions it, keeps the version in the store, tells subscribers.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use signet_certs::bundle::Bundles;
use signet_certs::clock::to_unix;
use signet_certs::crl::Crls;
use thiserror::Error;
use tokio::sync::watch;

use super::Trust;
use crate::store::{Batch, Store, StoreError, Table};

const KEY: &[u8] = b"trust";

/// Why the version of the trust object cannot be known.
#[derive(Debug, Error)]
pub enum PublishError {
    /// The store failed.
    #[error("keeping the version of the trust object")]
    Store(#[from] StoreError),
    /// The row is damaged.
    #[error("reading the version of the trust object")]
    Row(#[from] serde_json::Error),
}

/// What the store keeps of the trust object: its version, not its content.
#[derive(Debug, Serialize, Deserialize)]
struct Version {
    epoch: u64,
    sequence: u64,
    digest: [u8; 32],
    /// Of the CRLs, where there are any; rows from before there were have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crls: Option<[u8; 32]>,
}

/// Publishes the trust object.
pub struct Publisher {
    current: watch::Sender<Arc<Trust>>,
}

impl Publisher {
    /// Publishes `bundles` and `crls`: with the version they had before, or the next sequence where they changed. A store
    /// without a version begins a new epoch, named by `now`.
    pub fn open(
        store: &dyn Store,
        bundles: Bundles,
        crls: Crls,
        now: SystemTime,
    ) -> Result<Self, PublishError> {
        let trust = next(store, bundles, crls, Some(now))?;
        Ok(Self { current: watch::Sender::new(Arc::new(trust)) })
    }

    /// The object that `bundles` and `crls` make next: its version is durable, and nobody sees it yet.
    pub fn prepare(
        &self,
        store: &dyn Store,
        bundles: Bundles,
        crls: Crls,
    ) -> Result<Arc<Trust>, PublishError> {
        let current = self.current();
        if current.bundles == bundles && current.crls == crls {
            return Ok(current);
        }
        Ok(Arc::new(next(store, bundles, crls, None)?))
    }

    /// Shows a prepared object to everybody.
    pub fn publish(&self, trust: Arc<Trust>) {
        self.current.send_if_modified(|current| {
            let newer = (trust.epoch, trust.sequence) != (current.epoch, current.sequence);
            if newer {
                *current = trust;
            }
            newer
        });
    }

    /// The object now.
    pub fn current(&self) -> Arc<Trust> {
        self.current.borrow().clone()
    }

    /// The object now and whenever it changes.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Trust>> {
        self.current.subscribe()
    }
}

fn next(
    store: &dyn Store,
    bundles: Bundles,
    crls: Crls,
    begin: Option<SystemTime>,
) -> Result<Trust, PublishError> {
    let (digest, crls_digest) = (bundles.digest(), crls.digest());
    let kept = store.read(Table::Meta, KEY)?;
    let kept: Option<Version> = kept.map(|row| serde_json::from_slice(&row)).transpose()?;
    let version = match kept {
        Some(version) if version.digest == digest && version.crls == crls_digest => version,
        Some(version) => Version { sequence: version.sequence + 1, digest, crls: crls_digest, ..version },
        None => {
            let epoch = begin.map_or(1, |now| u64::try_from(to_unix(now)).unwrap_or(1));
            Version { epoch, sequence: 1, digest, crls: crls_digest }
        }
    };
    let mut batch = Batch::default();
    batch.put(Table::Meta, KEY, serde_json::to_vec(&version)?);
    store.apply(batch)?;
    store.flush()?;
    Ok(Trust { epoch: version.epoch, sequence: version.sequence, digest, bundles, crls })
}

/// Begins an epoch that is later than the one that `store` knows, and not earlier than `now`: for a state that
/// was taken from a backup, so that no sequence that was given out after it comes again for something else.
/// What is published next has sequence 1. Answers the epoch; the caller makes it durable.
///
/// # Errors
/// The version cannot be read or kept.
pub(crate) fn begin_epoch(store: &dyn Store, now: SystemTime) -> Result<u64, PublishError> {
    let kept = store.read(Table::Meta, KEY)?;
    let kept: Option<Version> = kept.map(|row| serde_json::from_slice(&row)).transpose()?;
    let after = kept.map_or(1, |version| version.epoch.saturating_add(1));
    let epoch = u64::try_from(to_unix(now)).unwrap_or(0).max(after);
    let mut batch = Batch::default();
    // No bundles have this digest, so whatever is published first counts as a change.
    let version = Version { epoch, sequence: 0, digest: [0; 32], crls: None };
    batch.put(Table::Meta, KEY, serde_json::to_vec(&version)?);
    store.apply(batch)?;
    Ok(epoch)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::authority::tests::{crl, root};
    use crate::store::MemoryStore;
    use crate::store::forgetful::ForgetfulStore;
    use signet_certs::bundle::TrustBundle;
    use signet_certs::clock::from_unix;
    use signet_certs::spiffe_id::TrustDomain;

    /// One CRL, of a CA that is made for it.
    fn crls() -> Crls {
        Crls::from_der([crl(&root("A"))]).unwrap()
    }

    fn bundles(names: &[&str]) -> Bundles {
        let roots = names.iter().map(|name| root(name).certificate).collect();
        Bundles::of(TrustDomain::parse("td").unwrap(), TrustBundle::new(roots))
    }

    #[test]
    fn the_sequence_rises_with_each_change_and_only_then() {
        let store = MemoryStore::default();
        let (a, b) = (bundles(&["A"]), bundles(&["A", "B"]));
        let version = |bundles: &Bundles, at: i64| {
            let trust =
                Publisher::open(&store, bundles.clone(), Crls::default(), from_unix(at)).unwrap().current();
            (trust.epoch, trust.sequence)
        };
        assert_eq!(version(&a, 100), (100, 1));
        assert_eq!(version(&a, 200), (100, 1));
        assert_eq!(version(&b, 300), (100, 2));
        assert_eq!(version(&a, 400), (100, 3));
    }

    #[test]
    fn crls_are_a_change_and_without_them_the_row_is_as_it_was() {
        let store = MemoryStore::default();
        let publisher = Publisher::open(&store, bundles(&["A"]), Crls::default(), from_unix(100)).unwrap();
        let row = || String::from_utf8(store.read(Table::Meta, KEY).unwrap().unwrap()).unwrap();
        assert!(!row().contains("crls"), "a server from before there were any reads it");
        let (one, other) = (crls(), crls());
        let digest = publisher.current().digest;
        for (crls, sequence) in [(&one, 2), (&one, 2), (&other, 3), (&Crls::default(), 4), (&one, 5)] {
            let bundles = publisher.current().bundles.clone();
            let trust = publisher.prepare(&store, bundles, crls.clone()).unwrap();
            assert_eq!((trust.sequence, &trust.crls, trust.digest), (sequence, crls, digest));
            publisher.publish(trust);
        }
        let again = |crls| {
            let bundles = publisher.current().bundles.clone();
            Publisher::open(&store, bundles, crls, from_unix(200)).unwrap().current().sequence
        };
        assert_eq!((again(one), again(other)), (5, 6), "a restart is no change, other CRLs are");
    }

    #[test]
    fn a_version_that_anybody_saw_outlives_a_kill_and_is_not_given_twice() {
        let store = ForgetfulStore::default();
        let (a, b, c) = (bundles(&["A"]), bundles(&["A", "B"]), bundles(&["A", "B", "C"]));
        let open =
            |bundles: &Bundles| Publisher::open(&store, bundles.clone(), Crls::default(), from_unix(100));
        let publisher = open(&a).unwrap();
        let seen = publisher.prepare(&store, b.clone(), Crls::default()).unwrap();
        publisher.publish(seen);
        store.kill(0);
        assert_eq!(open(&b).unwrap().current().sequence, 2);
        store.kill(0);
        let publisher = open(&c).unwrap();
        assert_eq!(publisher.current().sequence, 3, "2 was another object");
        // Neither a write nor a sync that fails is taken for one.
        for step in 0..2 {
            store.fail(store.operations() + step, 1);
            assert!(
                matches!(publisher.prepare(&store, a.clone(), Crls::default()), Err(PublishError::Store(_))),
                "{step}"
            );
        }
    }

    #[test]
    fn a_prepared_object_is_seen_when_it_is_published_and_an_equal_one_is_no_change() {
        let store = MemoryStore::default();
        let (a, b) = (bundles(&["A"]), bundles(&["A", "B"]));
        let publisher = Publisher::open(&store, a.clone(), Crls::default(), from_unix(100)).unwrap();
        let mut seen = publisher.subscribe();
        let same = publisher.prepare(&store, a, Crls::default()).unwrap();
        publisher.publish(same);
        assert!(!seen.has_changed().unwrap());
        let next = publisher.prepare(&store, b, Crls::default()).unwrap();
        assert_eq!((publisher.current().sequence, next.sequence), (1, 2));
        publisher.publish(next);
        assert_eq!(seen.borrow_and_update().sequence, 2);
    }

    #[test]
    fn an_epoch_that_is_begun_is_later_and_starts_at_one_whatever_the_clock_says() {
        let store = MemoryStore::default();
        let bundles = bundles(&["A"]);
        let version = |at: i64| {
            let trust =
                Publisher::open(&store, bundles.clone(), Crls::default(), from_unix(at)).unwrap().current();
            (trust.epoch, trust.sequence)
        };
        assert_eq!(begin_epoch(&store, from_unix(50)).unwrap(), 50, "nothing was published before");
        assert_eq!(version(60), (50, 1));
        assert_eq!(begin_epoch(&store, from_unix(200)).unwrap(), 200);
        assert_eq!(version(201), (200, 1), "the same bundles, and still the first of their epoch");
        assert_eq!(version(202), (200, 1));
        assert_eq!(begin_epoch(&store, from_unix(7)).unwrap(), 201, "the clock was set back");
        assert_eq!(version(8), (201, 1));
    }
}
