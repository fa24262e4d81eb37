//! Blocks: who gets no certificate and no renewal any more, from the next request on.
//!
//! A block is an act in the issuance log, an entry of the snapshot that requests ask and a row of the store, in
//! this order; its id is the index of that act. The act is what counts: from then on the block holds, or has
//! ended, after any crash and in any backup. A mark beside the rows says up to where acts are in them; those
//! behind it are followed at the start, and after a failure of the store. [`target`] says whom a block is for,
//! [`forecast`] what certificates it leaves.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
/// Row of [`Table::Meta`]: up to which record, big-endian, acts are in the rows. It goes before the rows in a
/// backup, and may be older than they are: acts can be followed twice.
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
    rows: Mutex<Rows>,
}

/// How far the rows have come.
#[derive(Debug)]
struct Rows {
    /// All acts before this record are in them; nothing where they are not to be relied on.
    through: Option<u64>,
    /// There may be acts behind it.
    behind: bool,
}

impl Blocks {
    /// The blocks of a store and its log, where no certificate lives longer than `longest`. Reads the log behind
    /// the store's mark; all of it where there is none.
    ///
    /// # Errors
    /// Rows or acts cannot be read.
    pub fn open(
        store: Arc<dyn Store>,
        log: Arc<IssuanceLog>,
        longest: Duration,
    ) -> Result<Blocks, BlockError> {
        let mark = store.read(Table::Meta, MARKER)?;
        // Before it was a number it only said that there are rows.
        let through = mark.and_then(|mark| Some(u64::from_be_bytes(mark.try_into().ok()?)));
        // A store that is ahead of the log is of another one.
        let through = through.filter(|through| *through <= log.reader().size());
        let rows = Mutex::new(Rows { through, behind: true });
        let blocks = Blocks { store, log, longest, targets: ArcSwap::default(), rows };
        blocks.follow(&mut blocks.rows())?;
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

    /// All of them, oldest first. Reads the disk, and waits for a change that is being made.
    ///
    /// # Errors
    /// The rows cannot be read, or do not follow the log.
    pub fn list(&self) -> Result<Vec<Block>, BlockError> {
        self.follow(&mut self.rows())?;
        self.scan()
    }

    /// Notes how far the rows have come, so that the next start reads no more of the log than is behind that.
    ///
    /// # Errors
    /// The rows cannot be written.
    pub fn mark(&self) -> Result<(), BlockError> {
        let mut rows = self.rows();
        self.follow(&mut rows)?;
        // Every act about a block is recorded by whoever holds the rows.
        let size = self.log.reader().size();
        if rows.through == Some(size) { Ok(()) } else { self.keep(&mut rows, Batch::default(), size) }
    }

    fn scan(&self) -> Result<Vec<Block>, BlockError> {
        let rows = self.store.scan_prefix(Table::Blocks, b"", None, MAX_BLOCKS)?;
        rows.into_iter().map(|(_, row)| Ok(serde_json::from_slice(&row)?)).collect()
    }

    /// Blocks; when this returns, it holds and is durable. It goes on to its end also if nobody waits for it.
    ///
    /// # Errors
    /// There is no such block, unless the log failed while it was recorded: then the next start knows.
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
    /// It stands as it was, unless the log failed while this was recorded: then the next start knows.
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
        let mut rows = self.rows();
        let followed = self.follow(&mut rows);
        let targets = self.targets.load_full();
        if let Some(id) = targets.find(&target) {
            followed?;
            let block = self.row(id)?.ok_or(BlockError::NotFound(id))?;
            return Ok(Added { block, already: true });
        }
        if targets.len() >= MAX_BLOCKS {
            return Err(BlockError::Full);
        }
        let Order { actor, reason, now } = order;
        let act = act(ADDED, &actor, target.to_string(), &reason);
        rows.behind = true;
        let id = runtime.block_on(self.log.append(Entry::act(now, act)))?;
        let mut targets = Targets::clone(&targets);
        targets.insert(&target, id);
        self.targets.store(Arc::new(targets));
        let block = Block { id, target, since: rfc3339(now), by: actor, reason, left: None };
        tracing::warn!(block = id, target = %block.target, by = block.by, reason = block.reason, "blocked");
        let mut batch = Batch::default();
        put(&mut batch, &block)?;
        self.keep_after(followed, &mut rows, batch, id);
        Ok(Added { block, already: false })
    }

    fn end_one(&self, id: u64, order: Order, runtime: &Handle) -> Result<Block, BlockError> {
        let mut rows = self.rows();
        self.follow(&mut rows)?;
        let block = self.row(id)?.ok_or(BlockError::NotFound(id))?;
        let Order { actor, reason, now } = order;
        let act = act(ENDED, &actor, format!("{id} {}", block.target), &reason);
        rows.behind = true;
        let recorded = runtime.block_on(self.log.append(Entry::act(now, act)))?;
        let mut targets = Targets::clone(&self.targets.load());
        targets.remove(&block.target);
        self.targets.store(Arc::new(targets));
        tracing::warn!(block = id, target = %block.target, by = actor, reason, "block ended");
        let mut batch = Batch::default();
        batch.remove(Table::Blocks, id.to_be_bytes());
        self.keep_after(Ok(()), &mut rows, batch, recorded);
        Ok(block)
    }

    /// Keeps what record `index` did. It holds already, and whatever fails here is done by whoever follows.
    fn keep_after(&self, followed: Result<(), BlockError>, rows: &mut Rows, batch: Batch, index: u64) {
        if let Err(error) = followed.and_then(|()| self.keep(rows, batch, index + 1)) {
            let error = with_causes(&error);
            tracing::error!(index, error, "the rows of blocks are behind the log, and are tried again");
        }
    }

    fn keep(&self, rows: &mut Rows, mut batch: Batch, through: u64) -> Result<(), BlockError> {
        rows.behind = true;
        batch.put(Table::Meta, MARKER, through.to_be_bytes());
        self.store.apply(batch)?;
        // A later mark must not survive a crash that this one does not.
        self.store.flush()?;
        *rows = Rows { through: Some(through), behind: false };
        Ok(())
    }

    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What these leave, in the rows of those that still stand, and in the answer.
    fn count_left(&self, mut blocks: Vec<Block>, now: SystemTime) -> Result<Vec<Block>, BlockError> {
        let mut targets = Targets::default();
        for block in &blocks {
            targets.insert(&block.target, block.id);
        }
        let mut left = forecast::count(self.log.reader(), &targets, self.longest, now)?;
        let _rows = self.rows();
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

    /// Brings the rows, and what requests ask, to where the acts in the log are.
    fn follow(&self, rows: &mut Rows) -> Result<(), BlockError> {
        if !rows.behind {
            return Ok(());
        }
        let size = self.log.reader().size();
        let kept: HashMap<u64, Block> = self.scan()?.into_iter().map(|block| (block.id, block)).collect();
        let mut standing: HashMap<Target, Block> = HashMap::new();
        if rows.through.is_some() {
            standing.extend(kept.values().map(|block| (block.target.clone(), block.clone())));
        }
        self.replay(rows.through.unwrap_or(0), &mut standing)?;

        let mut batch = Batch::default();
        let mut targets = Targets::default();
        let mut ids = HashSet::new();
        for block in standing.values() {
            targets.insert(&block.target, block.id);
            ids.insert(block.id);
            // What it leaves is known to the row alone.
            if kept.get(&block.id).is_none_or(|row| row.target != block.target) {
                put(&mut batch, block)?;
            }
        }
        for id in kept.keys().filter(|id| !ids.contains(id)) {
            batch.remove(Table::Blocks, id.to_be_bytes());
        }
        // Also if the rows cannot be written.
        self.targets.store(Arc::new(targets));
        self.keep(rows, batch, size)
    }

    /// What acts from record `from` on make of the blocks that stand.
    fn replay(&self, from: u64, standing: &mut HashMap<Target, Block>) -> Result<(), BlockError> {
        let mut not_ours = None;
        self.log.reader().each(from, |record| {
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
                // In place of one that an earlier program recorded and, by a crash, did not keep.
                let (since, by, reason) = (rfc3339(time), act.actor, act.reason);
                let block = Block { id, target: target.clone(), since, by, reason, left: None };
                standing.insert(target, block);
            }
        })?;
        not_ours.map_or(Ok(()), |id| Err(BlockError::Act(id)))
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
