//! Rows of authorities: what outlives a restart of each CA key that was ever active here.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use signet_certs::chain::Certificate;
use signet_certs::clock::rfc3339;
use signet_certs::digest::hex;
use signet_certs::name;
use thiserror::Error;

use super::Issuer;
use crate::store::{Batch, Store, StoreError, Table};

/// Where an authority stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Signs.
    Active,
    /// Has signed before.
    Old,
}

/// Where an authority came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// The plugged-in folder.
    #[default]
    Cacerts,
    /// Made by the CA itself, because nothing was plugged in.
    SelfSigned,
}

impl Source {
    /// As the log gives it as the reason of an act.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Cacerts => "loaded from the cacerts folder",
            Self::SelfSigned => "made by the CA itself, because nothing was plugged in",
        }
    }
}

/// One authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Subject key identifier, hex.
    pub id: String,
    /// Where it stands.
    pub state: State,
    /// For people.
    pub subject: String,
    /// Hex.
    pub serial: String,
    /// `P-256`, `RSA 4096`, …
    pub key: String,
    /// RFC 3339.
    pub not_before: String,
    /// RFC 3339.
    pub not_after: String,
    /// When it became active here, RFC 3339.
    pub active_since: String,
    /// Where it came from; rows of the first layout do not say, and then it was plugged in.
    #[serde(default)]
    pub source: Source,
    /// Its copy in the data folder; empty for those that sign nothing more.
    #[serde(default)]
    pub copy: String,
    /// The certificate and those above it, PEM.
    pub chain: String,
    /// Subjects of the roots that it was loaded with.
    pub roots: Vec<String>,
    /// SHA-256 of each of them, hex; rows of the first layout have none.
    #[serde(default)]
    pub root_digests: Vec<String>,
}

/// Why rows cannot be kept or read.
#[derive(Debug, Error)]
pub enum StateError {
    /// The store failed.
    #[error("keeping the authorities")]
    Store(#[from] StoreError),
    /// A row is damaged.
    #[error("reading an authority's row")]
    Row(#[from] serde_json::Error),
}

/// What is to be written so that an authority is the active one.
#[derive(Debug)]
pub struct Change {
    /// As the log names it.
    pub act: &'static str,
    batch: Batch,
}

/// What it takes to make `issuer` the active authority, with its files in `copy`, and every other one old;
/// nothing if it is all that already, durably: an earlier [`Change::apply`] may have come only half way.
pub fn change(
    store: &dyn Store,
    issuer: &Issuer,
    source: Source,
    copy: String,
    now: SystemTime,
) -> Result<Option<Change>, StateError> {
    let mut batch = Batch::default();
    let mut since = None;
    for mut row in list(store)? {
        if row.id == issuer.id() && row.state == State::Active {
            if row.copy == copy && row.source == source {
                store.flush()?;
                return Ok(None);
            }
            since = Some(row.active_since);
        } else if row.state == State::Active {
            row.state = State::Old;
            row.copy = String::new();
            batch.put(Table::Authorities, row.id.clone(), serde_json::to_vec(&row)?);
        }
    }
    let act = if since.is_none() { "authority-active" } else { "authority-updated" };
    let row = row(issuer, source, copy, since.unwrap_or_else(|| rfc3339(now)));
    batch.put(Table::Authorities, row.id.clone(), serde_json::to_vec(&row)?);
    Ok(Some(Change { act, batch }))
}

impl Change {
    /// Writes it, durably.
    pub fn apply(self, store: &dyn Store) -> Result<(), StateError> {
        store.apply(self.batch)?;
        store.flush()?;
        Ok(())
    }
}

/// The active authority's row; there is none before the first start.
pub fn active(store: &dyn Store) -> Result<Option<Row>, StateError> {
    Ok(list(store)?.into_iter().find(|row| row.state == State::Active))
}

/// All authorities, in the order of their ids.
pub fn list(store: &dyn Store) -> Result<Vec<Row>, StateError> {
    let rows = store.scan_prefix(Table::Authorities, b"", None, 10_000)?;
    rows.into_iter().map(|(_, row)| Ok(serde_json::from_slice(&row)?)).collect()
}

fn row(issuer: &Issuer, source: Source, copy: String, active_since: String) -> Row {
    let cacerts = issuer.cacerts();
    let facts = cacerts.ca.certificate.facts();
    Row {
        id: issuer.id().to_owned(),
        state: State::Active,
        subject: name::display(&facts.subject),
        serial: facts.serial.to_string(),
        key: cacerts.ca.key.kind().to_string(),
        not_before: rfc3339(facts.validity.not_before),
        not_after: rfc3339(facts.validity.not_after),
        active_since,
        source,
        copy,
        chain: cacerts.intermediates.iter().chain([&cacerts.anchor]).map(Certificate::to_pem).collect(),
        roots: cacerts.roots.iter().map(|root| name::display(&root.facts().subject)).collect(),
        root_digests: cacerts.roots.iter().map(|root| hex(&root.digest())).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::authority::issuer::tests::issuer;
    use crate::authority::tests::{YEAR, cacerts, now};
    use crate::store::MemoryStore;
    use crate::store::forgetful::ForgetfulStore;

    fn activate(store: &dyn Store, issuer: &Issuer, copy: &str, at: SystemTime) -> Option<&'static str> {
        let change = change(store, issuer, Source::Cacerts, copy.to_owned(), at).unwrap()?;
        let act = change.act;
        change.apply(store).unwrap();
        Some(act)
    }

    #[test]
    fn exactly_one_authority_is_active() {
        let store = MemoryStore::default();
        let (a, b) = (issuer(cacerts(YEAR)), issuer(cacerts(YEAR)));
        assert_eq!(activate(&store, &a, "a1", now()), Some("authority-active"));
        assert_eq!(activate(&store, &a, "a1", now() + YEAR), None, "a restart changes nothing");
        assert_eq!(activate(&store, &a, "a2", now() + YEAR), Some("authority-updated"));
        assert_eq!(active(&store).unwrap().unwrap().active_since, rfc3339(now()));
        assert_eq!(activate(&store, &b, "b1", now()), Some("authority-active"));
        let rows = list(&store).unwrap();
        let states: Vec<_> = rows.iter().map(|row| (row.state, row.copy.as_str())).collect();
        assert!(
            rows.len() == 2 && states.contains(&(State::Active, "b1")) && states.contains(&(State::Old, ""))
        );
        assert_eq!(active(&store).unwrap().unwrap().id, b.id());
    }

    #[test]
    fn an_authority_that_is_said_to_be_active_is_so_after_a_kill() {
        let store = ForgetfulStore::default();
        let (a, b) = (issuer(cacerts(YEAR)), issuer(cacerts(YEAR)));
        activate(&store, &a, "a1", now());
        store.kill(0);
        assert_eq!(active(&store).unwrap().unwrap().id, a.id());
        // The rows are written, and not made durable: that is an error, and the next attempt makes up for it.
        store.fail(store.operations() + 1, 2);
        let change = |to: &Issuer| change(&store, to, Source::Cacerts, "b1".to_owned(), now());
        assert!(change(&b).unwrap().unwrap().apply(&store).is_err());
        assert!(change(&b).is_err(), "it is visible, and would be lost");
        assert!(change(&b).unwrap().is_none());
        store.kill(0);
        let rows = list(&store).unwrap();
        assert_eq!((active(&store).unwrap().unwrap().id.as_str(), rows.len()), (b.id(), 2));
    }

    #[test]
    fn a_row_of_the_first_layout_is_read() {
        let row = r#"{"id":"ab","state":"active","subject":"s","serial":"1","key":"P-256","not_before":"",
            "not_after":"","active_since":"","chain":"","roots":[]}"#;
        let row: Row = serde_json::from_str(row).unwrap();
        assert_eq!((row.source, row.copy.as_str()), (Source::Cacerts, ""));
    }
}
