//! Blocks: who gets no certificate and no renewal any more, from the next request on.
//!
//! A block is an act in the issuance log, a row of the store and an entry of the snapshot that requests ask, in
//! this order; its id is the index of that act. Whoever was told that a block holds will find it again after
//! any crash. The rows can be lost: then they are made again from the acts. [`target`] says whom a block is
//! for, [`forecast`] what certificates it leaves.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use signet_certs::clock::rfc3339;
use signet_service::logging::with_causes;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::task::{JoinError, spawn_blocking};

pub use self::forecast::Forecast;
pub use self::target::Target;
use self::target::Targets;
use crate::attestation::Caller;
use crate::issuance_log::{ActEntry, AppendError, Entry, EntryBody, IssuanceLog, ReadError};
use crate::store::{Batch, Store, StoreError, Table};

mod forecast;
mod target;

/// Blocks at once: some 30 MB of rows.
const MAX_BLOCKS: usize = 100_000;
/// Longest reason, in bytes.
const LONGEST_REASON: usize = 1000;
/// Row of [`Table::Meta`]: says that the rows are those of the log.
const MARKER: &[u8] = b"blocks";

const ADDED: &str = "block";
const ENDED: &str = "block-end";

/// One block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Block {
    /// Index of its act in the issuance log.
    pub id: u64,
    /// Who is blocked.
    #[serde(flatten)]
    pub target: Target,
    /// RFC 3339.
    pub since: String,
    /// `uid:<n>` over the admin socket.
    pub by: String,
    /// Why.
    pub reason: String,
    /// What it leaves; nothing while that is not counted.
    pub left: Option<Forecast>,
}

/// A block, and whether it was there before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Added {
    /// As it stands.
    #[serde(flatten)]
    pub block: Block,
    /// Whoever it is for was blocked already; nothing was changed.
    pub already: bool,
}

/// Who wants a change, and why.
#[derive(Debug, Clone)]
pub struct Order {
    /// `uid:<n>` over the admin socket.
    pub actor: String,
    /// One line.
    pub reason: String,
    /// When.
    pub now: SystemTime,
}

/// A caller is blocked. For our log; the outside learns no more than the reason code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the caller is blocked: block {id}, by {kind}")]
pub struct Blocked {
    /// Which block.
    pub id: u64,
    /// Of which kind.
    pub kind: &'static str,
}

/// Why blocks were not changed or read.
#[derive(Debug, Error)]
pub enum BlockError {
    /// Every change has one.
    #[error("a reason is needed: one line of at most {LONGEST_REASON} bytes")]
    Reason,
    /// No more are taken.
    #[error("there are {MAX_BLOCKS} blocks, and no more are kept: end some, or block by identity or node")]
    Full,
    /// Nothing to end.
    #[error("there is no block {0}")]
    NotFound(u64),
    /// The act could not be recorded, so nothing was changed.
    #[error("recording the act")]
    Record(#[from] AppendError),
    /// The rows cannot be used.
    #[error("keeping the blocks")]
    Store(#[from] StoreError),
    /// A row is damaged.
    #[error("reading the row of a block")]
    Row(#[from] serde_json::Error),
    /// The acts cannot be read.
    #[error("reading the acts in the log")]
    Read(#[from] ReadError),
    /// An act in the log is not one of ours.
    #[error("record {0} is of a block that is not understood")]
    Act(u64),
    /// The program is ending.
    #[error("cannot finish the change")]
    Interrupted(#[from] JoinError),
}

/// See the module's text.
pub struct Blocks {
    store: Arc<dyn Store>,
    log: Arc<IssuanceLog>,
    /// Records older than this are of certificates that have ended.
    longest: Duration,
    targets: ArcSwap<Targets>,
    /// Held by whoever changes them, on a thread that may wait.
    changing: Mutex<()>,
}

impl Blocks {
    /// The blocks of a store and its log, where no certificate lives longer than `longest`. Reads the disk; all
    /// of the log where the store does not know its blocks.
    ///
    /// # Errors
    /// Rows or acts cannot be read.
    pub fn open(
        store: Arc<dyn Store>,
        log: Arc<IssuanceLog>,
        longest: Duration,
    ) -> Result<Blocks, BlockError> {
        let blocks = Blocks { store, log, longest, targets: ArcSwap::default(), changing: Mutex::default() };
        if blocks.store.read(Table::Meta, MARKER)?.is_none() {
            blocks.make_again()?;
        }
        let mut targets = Targets::default();
        for block in blocks.list()? {
            targets.insert(&block.target, block.id);
        }
        blocks.targets.store(Arc::new(targets));
        Ok(blocks)
    }

    /// Whether a caller may have anything. Only memory is asked.
    ///
    /// # Errors
    /// It may not.
    pub fn check(&self, caller: &Caller) -> Result<(), Blocked> {
        match self.targets.load().of_caller(caller) {
            None => Ok(()),
            Some((id, kind)) => Err(Blocked { id, kind }),
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.targets.load().len()
    }

    /// All of them, oldest first. Reads the disk.
    ///
    /// # Errors
    /// The rows cannot be read.
    pub fn list(&self) -> Result<Vec<Block>, BlockError> {
        let rows = self.store.scan_prefix(Table::Blocks, b"", None, MAX_BLOCKS)?;
        rows.into_iter().map(|(_, row)| Ok(serde_json::from_slice(&row)?)).collect()
    }

    /// Blocks; when this returns, it holds and is durable. It goes on to its end also if nobody waits for it.
    ///
    /// # Errors
    /// There is no such block; or, if the store failed, one that may be gone after a crash.
    pub async fn add(self: &Arc<Self>, target: Target, order: Order) -> Result<Added, BlockError> {
        check_reason(&order.reason)?;
        let (blocks, runtime) = (self.clone(), Handle::current());
        spawn_blocking(move || {
            let now = order.now;
            let mut added = blocks.add_one(target, order, &runtime)?;
            if added.block.left.is_none() {
                // The block holds without it.
                match blocks.count_left(vec![added.block.clone()], now) {
                    Ok(mut counted) => added.block = counted.pop().unwrap_or(added.block),
                    Err(error) => {
                        tracing::warn!(error = with_causes(&error), "what a block leaves is not known");
                    }
                }
            }
            Ok(added)
        })
        .await?
    }

    /// Ends a block; when this returns, it does not hold any more. Answers what it was.
    ///
    /// # Errors
    /// It stands as it was; or, if the store failed, has ended and may be back after a crash.
    pub async fn end(self: &Arc<Self>, id: u64, order: Order) -> Result<Block, BlockError> {
        check_reason(&order.reason)?;
        let (blocks, runtime) = (self.clone(), Handle::current());
        spawn_blocking(move || blocks.end_one(id, order, &runtime)).await?
    }

    /// Counts what blocks leave of which that is not known: after a crash, or where rows were made again.
    /// Reads the log for as long as it takes.
    pub fn count_unknown(&self, now: SystemTime) {
        let counted = self.list().and_then(|mut all| {
            all.retain(|block| block.left.is_none());
            if all.is_empty() { Ok(all) } else { self.count_left(all, now) }
        });
        if let Err(error) = counted {
            tracing::warn!(error = with_causes(&error), "what blocks leave is not known");
        }
    }

    fn add_one(&self, target: Target, order: Order, runtime: &Handle) -> Result<Added, BlockError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let targets = self.targets.load_full();
        if let Some(id) = targets.find(&target) {
            let block = self.row(id)?.ok_or(BlockError::NotFound(id))?;
            // Whoever made it may have been told that this failed.
            self.store.flush()?;
            return Ok(Added { block, already: true });
        }
        if targets.len() >= MAX_BLOCKS {
            return Err(BlockError::Full);
        }
        let Order { actor, reason, now } = order;
        let act = act(ADDED, &actor, target.to_string(), &reason);
        let id = runtime.block_on(self.log.append(Entry::act(now, act)))?;
        let block = Block { id, target, since: rfc3339(now), by: actor, reason, left: None };
        let mut batch = Batch::default();
        put(&mut batch, &block)?;
        self.store.apply(batch)?;
        let mut targets = Targets::clone(&targets);
        targets.insert(&block.target, id);
        self.targets.store(Arc::new(targets));
        self.store.flush()?;
        tracing::warn!(block = id, target = %block.target, by = block.by, reason = block.reason, "blocked");
        Ok(Added { block, already: false })
    }

    fn end_one(&self, id: u64, order: Order, runtime: &Handle) -> Result<Block, BlockError> {
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let block = self.row(id)?.ok_or(BlockError::NotFound(id))?;
        let Order { actor, reason, now } = order;
        let act = act(ENDED, &actor, format!("{id} {}", block.target), &reason);
        runtime.block_on(self.log.append(Entry::act(now, act)))?;
        let mut batch = Batch::default();
        batch.remove(Table::Blocks, id.to_be_bytes());
        self.store.apply(batch)?;
        let mut targets = Targets::clone(&self.targets.load());
        targets.remove(&block.target);
        self.targets.store(Arc::new(targets));
        self.store.flush()?;
        tracing::warn!(block = id, target = %block.target, by = actor, reason, "block ended");
        Ok(block)
    }

    /// What these leave, in the rows of those that still stand, and in the answer.
    fn count_left(&self, mut blocks: Vec<Block>, now: SystemTime) -> Result<Vec<Block>, BlockError> {
        let mut targets = Targets::default();
        for block in &blocks {
            targets.insert(&block.target, block.id);
        }
        let mut left = forecast::count(self.log.reader(), &targets, self.longest, now)?;
        let _one = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut batch = Batch::default();
        for block in &mut blocks {
            block.left = Some(left.remove(&block.id).unwrap_or_default());
            if self.store.read(Table::Blocks, &block.id.to_be_bytes())?.is_some() {
                put(&mut batch, block)?;
            }
        }
        self.store.apply(batch)?;
        Ok(blocks)
    }

    fn row(&self, id: u64) -> Result<Option<Block>, BlockError> {
        let row = self.store.read(Table::Blocks, &id.to_be_bytes())?;
        Ok(row.map(|row| serde_json::from_slice(&row)).transpose()?)
    }

    /// The rows, from the acts.
    fn make_again(&self) -> Result<(), BlockError> {
        let mut standing: HashMap<Target, Block> = HashMap::new();
        let mut not_ours = None;
        self.log.reader().each(0, |record| {
            let (id, time) = (record.index, record.entry.time);
            let EntryBody::Act(act) = record.entry.body else { return };
            let subject = match act.kind.as_str() {
                ADDED => act.subject.as_str(),
                ENDED => act.subject.split_once(' ').unwrap_or_default().1,
                _ => return,
            };
            let (kind, value) = subject.split_once(' ').unwrap_or_default();
            let Ok(target) = Target::parse(kind, value) else {
                not_ours = Some(id);
                return;
            };
            if act.kind == ENDED {
                standing.remove(&target);
            } else {
                // In place of one that was recorded and, by a crash, not kept: it was ordered again.
                let (since, by, reason) = (rfc3339(time), act.actor, act.reason);
                let block = Block { id, target: target.clone(), since, by, reason, left: None };
                standing.insert(target, block);
            }
        })?;
        if let Some(id) = not_ours {
            return Err(BlockError::Act(id));
        }
        let mut batch = Batch::default();
        for block in standing.values() {
            put(&mut batch, block)?;
        }
        batch.put(Table::Meta, MARKER, *b"1");
        self.store.apply(batch)?;
        Ok(self.store.flush()?)
    }
}

fn check_reason(reason: &str) -> Result<(), BlockError> {
    let one_line = !reason.trim().is_empty() && !reason.chars().any(char::is_control);
    if one_line && reason.len() <= LONGEST_REASON { Ok(()) } else { Err(BlockError::Reason) }
}

fn put(batch: &mut Batch, block: &Block) -> Result<(), BlockError> {
    batch.put(Table::Blocks, block.id.to_be_bytes(), serde_json::to_vec(block)?);
    Ok(())
}

fn act(kind: &str, actor: &str, subject: String, reason: &str) -> ActEntry {
    ActEntry { kind: kind.to_owned(), actor: actor.to_owned(), subject, reason: reason.to_owned() }
}

#[cfg(test)]
mod tests;
