//! Until when leaves may be out there that chain through an issuing intermediate. Peers with CRLs want one for
//! each CA of a chain and would refuse those leaves, so CRLs wait for that moment. It outlives restarts.

use std::time::SystemTime;

use signet_certs::clock::{from_unix, to_unix};

use super::state::StateError;
use crate::store::{Batch, Store, Table};

const KEY: &[u8] = b"issuing-intermediates-end";

/// The moment; nothing where there never was an issuing intermediate.
pub fn end(store: &dyn Store) -> Result<Option<SystemTime>, StateError> {
    let row = store.read(Table::Meta, KEY)?;
    Ok(row.map(|row| serde_json::from_slice(&row)).transpose()?.map(from_unix))
}

/// Leaves may be there until `until`, or longer if that was known before. Durable.
pub fn extend(store: &dyn Store, until: SystemTime) -> Result<(), StateError> {
    if end(store)?.is_some_and(|known| known >= until) {
        return Ok(());
    }
    let mut batch = Batch::default();
    batch.put(Table::Meta, KEY, serde_json::to_vec(&to_unix(until))?);
    store.apply(batch)?;
    store.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::store::forgetful::ForgetfulStore;

    #[test]
    fn the_latest_end_counts_and_outlives_a_kill() {
        let store = ForgetfulStore::default();
        assert_eq!(end(&store).unwrap(), None);
        for (until, known) in [(100, 100), (300, 300), (200, 300)] {
            extend(&store, from_unix(until)).unwrap();
            store.kill(0);
            assert_eq!(end(&store).unwrap(), Some(from_unix(known)));
        }
        store.fail(store.operations(), 1);
        assert!(extend(&store, from_unix(400)).is_err());
    }
}
