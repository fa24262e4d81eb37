//! A store for tests that loses at a kill what was not flushed, and fails on demand.
#![allow(clippy::unwrap_used)]

use std::sync::{Mutex, MutexGuard};

use super::{Batch, MemoryStore, Row, Store, StoreError, Table};

/// See the module's text. Its readers see what was applied, as those of any store.
#[derive(Default)]
pub(crate) struct ForgetfulStore {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    durable: MemoryStore,
    visible: MemoryStore,
    /// What was applied and not flushed, oldest first.
    unflushed: Vec<Batch>,
    /// Applies and flushes so far.
    operations: u64,
    /// The first of them to fail, and how many do.
    failing: Option<(u64, u64)>,
}

impl ForgetfulStore {
    /// Kills the program that uses the store: of the batches that were not flushed, the first `survive` live on.
    pub(crate) fn kill(&self, survive: usize) {
        let mut state = self.state();
        for batch in std::mem::take(&mut state.unflushed).into_iter().take(survive) {
            state.durable.apply(batch).unwrap();
        }
        state.visible = state.durable.clone();
        state.failing = None;
    }

    /// Batches that a kill would lose.
    pub(crate) fn unflushed(&self) -> usize {
        self.state().unflushed.len()
    }

    /// Applies and flushes so far.
    pub(crate) fn operations(&self) -> u64 {
        self.state().operations
    }

    /// Lets `count` of these fail, from number `first` on.
    pub(crate) fn fail(&self, first: u64, count: u64) {
        self.state().failing = Some((first, count));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }
}

impl State {
    fn step(&mut self) -> std::io::Result<()> {
        let number = self.operations;
        self.operations += 1;
        match self.failing {
            Some((first, count)) if (first..first.saturating_add(count)).contains(&number) => {
                Err(std::io::ErrorKind::StorageFull.into())
            }
            _ => Ok(()),
        }
    }
}

impl Store for ForgetfulStore {
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.state().visible.read(table, key)
    }

    fn scan_prefix(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        self.state().visible.scan_prefix(table, prefix, after, limit)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        let mut state = self.state();
        state.step().map_err(|error| StoreError::Apply(error.into()))?;
        state.visible.apply(batch.clone())?;
        state.unflushed.push(batch);
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        let mut state = self.state();
        state.step().map_err(|error| StoreError::Flush(error.into()))?;
        for batch in std::mem::take(&mut state.unflushed) {
            state.durable.apply(batch)?;
        }
        Ok(())
    }
}
