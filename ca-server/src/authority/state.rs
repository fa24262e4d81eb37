//! Rows of authorities: what outlives a restart of each CA key that was ever active here.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use signet_certs::chain::Certificate;
use signet_certs::clock::rfc3339;
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
    /// The certificate and those above it, PEM.
    pub chain: String,
    /// Subjects of the roots that it was loaded with.
    pub roots: Vec<String>,
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

/// Makes `issuer` the active authority and every other one old, durably; answers whether that is a change.
pub fn activate(store: &dyn Store, issuer: &Issuer, now: SystemTime) -> Result<bool, StateError> {
    let mut batch = Batch::default();
    let mut since = None;
    for mut row in list(store)? {
        if row.id == issuer.id() && row.state == State::Active {
            since = Some(row.active_since);
        } else if row.state == State::Active {
            row.state = State::Old;
            batch.put(Table::Authorities, row.id.clone(), serde_json::to_vec(&row)?);
        }
    }
    let change = since.is_none();
    let row = row(issuer, since.unwrap_or_else(|| rfc3339(now)));
    batch.put(Table::Authorities, row.id.clone(), serde_json::to_vec(&row)?);
    store.apply(batch)?;
    store.flush()?;
    Ok(change)
}

/// All authorities, in the order of their ids.
pub fn list(store: &dyn Store) -> Result<Vec<Row>, StateError> {
    let rows = store.scan_prefix(Table::Authorities, b"", None, 10_000)?;
    rows.into_iter().map(|(_, row)| Ok(serde_json::from_slice(&row)?)).collect()
}

fn row(issuer: &Issuer, active_since: String) -> Row {
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
        chain: cacerts.intermediates.iter().chain([&cacerts.anchor]).map(Certificate::to_pem).collect(),
        roots: cacerts.roots.iter().map(|root| name::display(&root.facts().subject)).collect(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::authority::issuer::tests::issuer;
    use crate::authority::tests::{YEAR, cacerts, now};
    use crate::store::MemoryStore;

    #[test]
    fn exactly_one_authority_is_active() {
        let store = MemoryStore::default();
        let (a, b) = (issuer(cacerts(YEAR)), issuer(cacerts(YEAR)));
        assert!(activate(&store, &a, now()).unwrap());
        assert!(!activate(&store, &a, now() + YEAR).unwrap(), "a restart changes nothing");
        assert_eq!(list(&store).unwrap()[0].active_since, rfc3339(now()));
        assert!(activate(&store, &b, now()).unwrap());
        let rows = list(&store).unwrap();
        let active: Vec<_> = rows.iter().filter(|row| row.state == State::Active).collect();
        assert_eq!((rows.len(), active.len(), active[0].id.as_str()), (2, 1, b.id()));
    }
}
