//! The one thread that appends to the log.
//!
//! It takes what waits, gives each entry its index, writes all of it with one write, syncs once, and only
//! then answers. While it syncs, the next batch gathers: batches grow with the load, and an idle log answers
//! after one sync. Where many more entries are announced it waits for them for a moment ([`super::queue`]),
//! because a sync costs as much for one as for many. What the disk may do wrong is handled here and nowhere
//! else: a write that fails is cut away and the log goes on; after a sync or a cut that failed nobody knows
//! what the disk holds, so the log is poisoned until a restart reads it again.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError};
use std::time::Duration;

use prost::Message;
use tokio::sync::oneshot;
use tracing::{error, warn};

use super::files::{Disk, DiskFile};
use super::progress::Progress;
use super::queue::Queue;
use super::record::Entry;
use super::segments::{self, HEADER, Header, MAX_BODY, segment_path};
use super::signer::{SignError, SignReply, SignRequest};
use super::sync::Instant;
use super::tree::Tree;

/// A batch is closed when it has this many bytes, however much still waits: it bounds what one failure takes
/// along, and the memory for it.
const MAX_BATCH: usize = 1 << 20;

/// Why an entry was not recorded. Whatever it was for must not leave the CA.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// As many entries wait as may; come again.
    #[error("cannot record: too many entries wait for the log")]
    Busy,
    /// The disk refused this batch. Later ones may succeed.
    #[error("cannot record: writing to the log failed")]
    Write(#[source] Arc<io::Error>),
    /// An earlier failure left the file in a state that only a restart can find out.
    #[error("cannot record: the log has failed and needs a restart of the server")]
    Poisoned,
    /// The entry is longer than a record may be.
    #[error("cannot record: the entry has {0} bytes, the most is {MAX_BODY}")]
    TooLarge(usize),
    /// The log was shut down.
    #[error("cannot record: the log is closed")]
    Closed,
}

/// What the writer is asked for.
pub(super) enum Command {
    Append { entry: Box<Entry>, reply: oneshot::Sender<Result<u64, AppendError>> },
    Probe(oneshot::Sender<bool>),
    Checkpoint(SignReply),
}

/// The segment that is being written.
pub(super) struct OpenSegment {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) first: u64,
    /// Of the durable bytes; the file may have more only after a failure.
    pub(super) length: u64,
}

/// The writing thread's things.
pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) log_id: [u8; 32],
    pub(super) disk: Arc<dyn Disk>,
    pub(super) segment: OpenSegment,
    pub(super) tree: Tree,
    pub(super) progress: Arc<Progress>,
    /// A segment of this many bytes gets no further batch.
    pub(super) segment_bytes: u64,
    pub(super) checkpoint_interval: Duration,
    pub(super) signer: SyncSender<SignRequest>,
    /// Woken after each batch. A full channel means that it wakes anyway.
    pub(super) indexer: SyncSender<()>,
}

/// What was taken from the queue at once.
#[derive(Default)]
struct Batch {
    frames: Vec<u8>,
    replies: Vec<oneshot::Sender<Result<u64, AppendError>>>,
    probes: Vec<oneshot::Sender<bool>>,
    checkpoints: Vec<SignReply>,
}

impl Writer {
    /// Serves commands until there will be no more, and leaves a checkpoint.
    pub(super) fn run(mut self, queue: &Queue) {
        // Whoever waits for a writer that is gone would wait for ever.
        let _closing = Closing(queue);
        let mut signed_at = Instant::now();
        loop {
            let due = signed_at + self.checkpoint_interval;
            let (commands, closed) = queue.take(self.is_unsigned().then_some(due));
            let mut commands = commands.into_iter().peekable();
            while commands.peek().is_some() {
                let batch = self.gather(&mut commands);
                self.serve(batch);
            }
            if self.is_unsigned() && (closed || Instant::now() >= due) {
                signed_at = Instant::now();
                self.request_checkpoint(None, closed);
            }
            if closed {
                return;
            }
        }
    }

    fn is_unsigned(&self) -> bool {
        self.tree.size() > self.progress.signed().size
    }

    fn gather(&self, commands: &mut impl Iterator<Item = Command>) -> Batch {
        let mut batch = Batch::default();
        while batch.frames.len() < MAX_BATCH
            && let Some(command) = commands.next()
        {
            match command {
                Command::Append { entry, reply } => self.encode(*entry, reply, &mut batch),
                Command::Probe(reply) => batch.probes.push(reply),
                Command::Checkpoint(reply) => batch.checkpoints.push(reply),
            }
        }
        batch
    }

    fn encode(&self, entry: Entry, reply: oneshot::Sender<Result<u64, AppendError>>, batch: &mut Batch) {
        let place = batch.replies.len();
        let mut record = entry.into_proto(&self.log_id, self.tree.size() + place as u64);
        record.place_in_batch = u32::try_from(place).expect("a batch has fewer bytes than that");
        let length = record.encoded_len();
        if length > MAX_BODY {
            let _ = reply.send(Err(AppendError::TooLarge(length)));
            return;
        }
        segments::push_frame(&mut batch.frames, &record);
        batch.replies.push(reply);
    }

    /// Does what a batch asks for. A caller may have gone: its record stays.
    fn serve(&mut self, batch: Batch) {
        if !batch.replies.is_empty() {
            let first = self.tree.size();
            let committed = self.commit(&batch.frames);
            for (index, reply) in (first..).zip(batch.replies) {
                let _ = reply.send(committed.clone().map(|()| index));
            }
        }
        if !batch.probes.is_empty() {
            let can_record = self.probe();
            for reply in batch.probes {
                let _ = reply.send(can_record);
            }
        }
        for reply in batch.checkpoints {
            self.request_checkpoint(Some(reply), false);
        }
    }

    /// Makes the frames durable and tells the others.
    fn commit(&mut self, frames: &[u8]) -> Result<(), AppendError> {
        let sync = self.write(frames)?;
        self.tree.extend(segments::bodies(frames));
        self.write_hashes();
        self.progress.committed(self.tree.size(), sync);
        // It is told, or it has yet to look at an earlier telling.
        let _ = self.indexer.try_send(());
        Ok(())
    }

    /// Writes and syncs the frames; how long the sync took.
    fn write(&mut self, frames: &[u8]) -> Result<Duration, AppendError> {
        if self.progress.is_poisoned() {
            return Err(AppendError::Poisoned);
        }
        if self.segment.length >= self.segment_bytes {
            self.roll().map_err(|error| self.failed("begin a segment", error))?;
        }
        let length = self.segment.length;
        if let Err(error) = self.segment.file.write_at(frames, length) {
            if let Err(error) = self.segment.file.truncate(length) {
                self.poison("cut a failed write from the log", &error);
            }
            return Err(self.failed("write to the log", error));
        }
        let started = Instant::now();
        if let Err(error) = self.segment.file.sync() {
            // A record that might still come to light was never answered, but better none than one that
            // the disk may not have.
            let _ = self.segment.file.truncate(length);
            self.poison("sync the log", &error);
            return Err(self.failed("sync the log", error));
        }
        self.segment.length += frames.len() as u64;
        Ok(started.elapsed())
    }

    /// Begins the next segment. Until it succeeds nothing is written, and then it makes the same file again.
    fn roll(&mut self) -> io::Result<()> {
        let first = self.tree.size();
        let previous = (self.segment.first, self.segment.length);
        self.segment =
            begin_segment(&*self.disk, &self.dir, &Header { log_id: self.log_id, first, previous })?;
        Ok(())
    }

    fn failed(&self, attempted: &str, error: io::Error) -> AppendError {
        error!(%error, attempted, path = %segment_path(&self.dir, self.segment.first).display(), "the issuance log refused a batch");
        AppendError::Write(Arc::new(error))
    }

    fn poison(&self, attempted: &str, error: &io::Error) {
        error!(%error, attempted, "the issuance log records nothing more until a restart");
        self.progress.poison();
    }

    fn write_hashes(&mut self) {
        if let Err(error) = self.tree.write() {
            warn!(%error, "cannot write the hashes of the issuance log; they are kept for the next attempt");
        }
    }

    fn probe(&self) -> bool {
        let written = || {
            let mut file = self.disk.create(&self.dir.join("probe"))?;
            file.write_at(b"probe\n", 0)?;
            file.sync()
        };
        !self.progress.is_poisoned()
            && match written() {
                Ok(()) => true,
                Err(error) => {
                    warn!(%error, "the issuance log's disk refuses writes");
                    false
                }
            }
    }

    /// Has the tree as it is signed. Waits for the signer only if told to, and the signer waits for nobody.
    fn request_checkpoint(&mut self, reply: Option<SignReply>, wait: bool) {
        self.write_hashes();
        let Some(head) = self.tree.written_head() else {
            refuse(reply, SignError::Busy);
            return;
        };
        let request = SignRequest { head, reply };
        if wait {
            // It fails only if the signer is gone, and then there is nobody to tell.
            let _ = self.signer.send(request);
            return;
        }
        match self.signer.try_send(request) {
            Ok(()) => {}
            Err(TrySendError::Full(request)) => refuse(request.reply, SignError::Busy),
            Err(TrySendError::Disconnected(request)) => refuse(request.reply, SignError::Closed),
        }
    }
}

/// Closes the queue when the writer ends, however it does, and lets go of what waits there.
struct Closing<'a>(&'a Queue);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
        drop(self.0.take(Some(Instant::now())));
    }
}

fn refuse(reply: Option<SignReply>, error: SignError) {
    if let Some(reply) = reply {
        let _ = reply.send(Err(error));
    }
}

/// Makes a segment that holds a header and nothing else, durably.
///
/// # Errors
/// The disk refused. Nothing, or a file that does not count as a segment or holds no record, is left.
pub(super) fn begin_segment(
    disk: &dyn Disk,
    dir: &std::path::Path,
    header: &Header,
) -> io::Result<OpenSegment> {
    let mut file = disk.create(&segment_path(dir, header.first))?;
    file.write_at(&header.encode(), 0)?;
    file.sync()?;
    Ok(OpenSegment { file, first: header.first, length: HEADER as u64 })
}
