//! The group commit in every order in which its threads may meet.
//!
//! `queue` and `writer` are compiled here once more, the very files, over a [`sync`] whose locks and waits belong
//! to `loom`. It runs a scenario again and again until each order has been seen: of those with up to a given
//! number of preemptions, since all there are would take days. A thread that nobody wakes is found as a
//! deadlock. Time passes where the scenario says so: any wait may then time out, and otherwise none does, so
//! that no timeout hides a wake-up that was lost.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant, UNIX_EPOCH};

use loom::future::block_on;
use loom::thread;

use self::queue::{COMPANY, Queue};
use self::writer::{AppendError, OpenSegment, Writer};
use super::{Arc, PathBuf, certificate};
use crate::issuance_log::checkpoint::SignedCheckpoint;
use crate::issuance_log::files::{Content, Disk, DiskFile};
use crate::issuance_log::segments::HEADER;
use crate::issuance_log::tree::{Frontier, Tree};
// Where the files below look for what is beside them.
use crate::issuance_log::{files, progress, record, segments, signer, tree};

#[path = "../queue.rs"]
#[allow(unreachable_pub, dead_code, clippy::duplicate_mod)]
mod queue;
#[path = "../writer.rs"]
#[allow(unreachable_pub, dead_code, clippy::duplicate_mod)]
mod writer;

mod sync {
    //! What std has by these names, under loom.
    use std::cell::Cell;
    use std::ops::{Add, Deref, DerefMut};
    pub(super) use std::sync::PoisonError;
    use std::sync::{LockResult, atomic::Ordering};
    use std::time::Duration;

    use loom::sync::atomic::AtomicBool;

    thread_local! {
        /// All of a scenario's threads are run by one.
        static NOW: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    loom::lazy_static! {
        static ref TIME_PASSES: AtomicBool = AtomicBool::new(false);
    }

    /// From here on the next wait that may end by time does.
    pub(super) fn let_time_pass() {
        TIME_PASSES.store(true, Ordering::SeqCst);
    }

    #[derive(Clone, Copy, PartialEq, PartialOrd)]
    pub(super) struct Instant(Duration);

    impl Instant {
        pub(super) fn now() -> Instant {
            Instant(NOW.get())
        }

        pub(super) fn elapsed(&self) -> Duration {
            NOW.get() - self.0
        }

        pub(super) fn saturating_duration_since(&self, earlier: Instant) -> Duration {
            self.0.saturating_sub(earlier.0)
        }
    }

    impl Add<Duration> for Instant {
        type Output = Instant;
        fn add(self, duration: Duration) -> Instant {
            Instant(self.0 + duration)
        }
    }

    pub(super) struct Mutex<T>(loom::sync::Mutex<T>);

    pub(super) struct MutexGuard<'a, T> {
        guard: loom::sync::MutexGuard<'a, T>,
        mutex: &'a Mutex<T>,
    }

    impl<T> Mutex<T> {
        pub(super) fn new(value: T) -> Mutex<T> {
            Mutex(loom::sync::Mutex::new(value))
        }

        pub(super) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
            let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            Ok(MutexGuard { guard, mutex: self })
        }
    }

    impl<T> Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            &self.guard
        }
    }

    impl<T> DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            &mut self.guard
        }
    }

    pub(super) struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub(super) fn new() -> Condvar {
            Condvar(loom::sync::Condvar::new())
        }

        pub(super) fn notify_one(&self) {
            self.0.notify_one();
        }

        pub(super) fn wait<'a, T>(&self, guard: MutexGuard<'a, T>) -> LockResult<MutexGuard<'a, T>> {
            let MutexGuard { guard, mutex } = guard;
            let guard = self.0.wait(guard).unwrap_or_else(PoisonError::into_inner);
            Ok(MutexGuard { guard, mutex })
        }

        /// A wait that times out lets go of the lock, and takes it again whenever it gets it.
        pub(super) fn wait_timeout<'a, T>(
            &self,
            guard: MutexGuard<'a, T>,
            duration: Duration,
        ) -> LockResult<(MutexGuard<'a, T>, ())> {
            if !TIME_PASSES.swap(false, Ordering::SeqCst) {
                let guard = self.wait(guard).unwrap_or_else(PoisonError::into_inner);
                return Ok((guard, ()));
            }
            let mutex = guard.mutex;
            drop(guard);
            NOW.set(NOW.get() + duration);
            let guard = mutex.lock().unwrap_or_else(PoisonError::into_inner);
            Ok((guard, ()))
        }
    }
}

/// A disk that counts the records that it has got and those that were synced.
#[derive(Default)]
struct CountingDisk {
    written: AtomicU64,
    synced: AtomicU64,
}

struct CountingFile(Arc<CountingDisk>);

impl Disk for CountingDisk {
    fn open_file(&self, _: &Path, _: Content, _: u32) -> io::Result<Box<dyn DiskFile>> {
        unreachable!("no segment is full and nobody probes")
    }
    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        unreachable!("checkpoints are signed elsewhere")
    }
    fn unlink(&self, _: &Path) -> io::Result<()> {
        unreachable!("the writer removes nothing")
    }
    fn sync_folder_of(&self, _: &Path) -> io::Result<()> {
        unreachable!("no file is new")
    }
}

impl DiskFile for CountingFile {
    fn write_at(&mut self, bytes: &[u8], _: u64) -> io::Result<()> {
        self.0.written.fetch_add(segments::bodies(bytes).count() as u64, Ordering::SeqCst);
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        // Others may run in the middle of a sync.
        thread::yield_now();
        self.0.synced.store(self.0.written.load(Ordering::SeqCst), Ordering::SeqCst);
        Ok(())
    }
    fn truncate(&mut self, _: u64) -> io::Result<()> {
        unreachable!("no write fails")
    }
}

/// The hashes of the tree go nowhere.
struct Nowhere;

impl DiskFile for Nowhere {
    fn write_at(&mut self, _: &[u8], _: u64) -> io::Result<()> {
        Ok(())
    }
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn truncate(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }
}

/// A queue whose writer runs.
struct Commit {
    queue: Arc<Queue>,
    disk: Arc<CountingDisk>,
    writer: thread::JoinHandle<()>,
    /// Kept, as the signer and the indexer would.
    _others: (Receiver<signer::SignRequest>, Receiver<()>),
}

impl Commit {
    fn start(capacity: usize) -> Commit {
        let disk = Arc::new(CountingDisk::default());
        let queue = Arc::new(Queue::new(capacity));
        let signed = SignedCheckpoint { size: 0, root: [0; 32], time: UNIX_EPOCH, note: String::new() };
        let (signer, signs) = mpsc::sync_channel(8);
        let (indexer, wakes) = mpsc::sync_channel(1);
        let file = Box::new(CountingFile(disk.clone()));
        let writer = Writer {
            dir: PathBuf::new(),
            log_id: [0; 32],
            disk: disk.clone(),
            segment: OpenSegment { file, first: 0, length: HEADER as u64 },
            tree: Tree::new(Frontier::empty(), Box::new(Nowhere)),
            progress: Arc::new(progress::Progress::new(0, signed)),
            segment_bytes: u64::MAX,
            checkpoint_interval: Duration::from_secs(1),
            signer,
            indexer,
        };
        let writer = thread::spawn({
            let queue = queue.clone();
            move || writer.run(&queue)
        });
        Commit { queue, disk, writer, _others: (signs, wakes) }
    }

    /// A caller that appends so many entries, one after the other; where they are.
    fn caller(&self, entries: u64) -> thread::JoinHandle<Vec<Result<u64, AppendError>>> {
        let (queue, disk) = (self.queue.clone(), self.disk.clone());
        thread::spawn(move || (0..entries).map(|number| append(&queue, &disk, number)).collect())
    }

    /// Closes the queue; the writer has to come to its end.
    fn close(self) {
        self.queue.close();
        self.writer.join().unwrap();
        assert_eq!(self.queue.len(), 0, "something waits that nobody will answer");
        let late = append(&self.queue, &self.disk, 9);
        assert!(matches!(late, Err(AppendError::Closed)), "answered after the close: {late:?}");
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        assert_eq!(of(&self.disk.synced), of(&self.disk.written));
    }
}

/// Appends one entry, which must be durable once it is answered.
fn append(queue: &Queue, disk: &CountingDisk, number: u64) -> Result<u64, AppendError> {
    let index = block_on(queue.announce().append(certificate(number)))?;
    assert!(disk.synced.load(Ordering::SeqCst) > index, "answered before the sync");
    Ok(index)
}

/// Those indexes that were answered, in the order of their callers; every other answer is this refusal.
fn places(
    answers: impl IntoIterator<Item = Result<u64, AppendError>>,
    refusal: fn(&AppendError) -> bool,
) -> Vec<u64> {
    let place = |answer: Result<u64, AppendError>| match answer {
        Ok(index) => Some(index),
        Err(error) => {
            assert!(refusal(&error), "{error:?}");
            None
        }
    };
    answers.into_iter().filter_map(place).collect()
}

fn nothing_is_refused(_: &AppendError) -> bool {
    false
}

/// Runs a scenario in each order with at most so many preemptions.
fn in_each_order(preemptions: usize, scenario: impl Fn() + Send + Sync + 'static) {
    let orders = Arc::new(AtomicU64::new(0));
    let began = Instant::now();
    let mut explorer = loom::model::Builder::new();
    // LOOM_MAX_PREEMPTIONS goes deeper.
    explorer.preemption_bound = explorer.preemption_bound.or(Some(preemptions));
    explorer.max_branches = 20_000;
    explorer.check({
        let orders = orders.clone();
        move || {
            orders.fetch_add(1, Ordering::Relaxed);
            scenario();
        }
    });
    let orders = orders.load(Ordering::Relaxed);
    println!("{orders} orders in {:?}", began.elapsed());
    assert!(orders > 100, "{orders} orders: the threads did not meet");
}

#[test]
fn each_of_two_callers_is_answered_with_a_place_of_its_own() {
    in_each_order(2, || {
        let commit = Commit::start(8);
        let callers = [commit.caller(1), commit.caller(1)];
        let answers = callers.map(|caller| caller.join().unwrap());
        let mut places = places(answers.into_iter().flatten(), nothing_is_refused);
        places.sort_unstable();
        assert_eq!(places, [0, 1]);
        commit.close();
    });
}

#[test]
fn the_entries_of_one_caller_stay_in_order() {
    in_each_order(1, || {
        let commit = Commit::start(8);
        let (other, caller) = (commit.caller(1), commit.caller(2));
        let places = places(caller.join().unwrap(), nothing_is_refused);
        assert!(places.len() == 2 && places.is_sorted(), "{places:?}");
        other.join().unwrap();
        commit.close();
    });
}

#[test]
fn who_comes_while_the_log_is_closed_is_recorded_or_refused() {
    in_each_order(2, || {
        let commit = Commit::start(8);
        let callers = [commit.caller(1), commit.caller(1)];
        let disk = commit.disk.clone();
        commit.close();
        let answers = callers.map(|caller| caller.join().unwrap());
        let mut places = places(answers.into_iter().flatten(), |error| matches!(error, AppendError::Closed));
        places.sort_unstable();
        let recorded = disk.synced.load(Ordering::SeqCst);
        assert_eq!(places, (0..recorded).collect::<Vec<_>>(), "each record was answered, and no other");
    });
}

#[test]
fn a_full_queue_refuses_and_answers_the_others() {
    in_each_order(2, || {
        let commit = Commit::start(1);
        let callers = [commit.caller(1), commit.caller(1)];
        assert!(commit.queue.len() <= 1);
        let answers = callers.map(|caller| caller.join().unwrap());
        let places = places(answers.into_iter().flatten(), |error| matches!(error, AppendError::Busy));
        assert!(!places.is_empty(), "both were refused");
        commit.close();
    });
}

/// Without time: the writer lingers for those who are announced, and the last of them has to wake it.
#[test]
fn a_writer_that_lingers_is_woken_by_the_last_who_was_announced() {
    in_each_order(1, || {
        let commit = Commit::start(8);
        let queue = commit.queue.clone();
        let crowd: Vec<_> = (0..COMPANY).map(|_| queue.announce()).collect();
        let callers = [commit.caller(1), commit.caller(1)];
        drop(crowd);
        let answers = callers.map(|caller| caller.join().unwrap());
        assert_eq!(places(answers.into_iter().flatten(), nothing_is_refused).len(), 2);
        commit.close();
    });
}

/// Nothing but time ends this wait: those who are announced stay until the entry is answered.
#[test]
fn a_writer_that_lingers_goes_on_when_its_time_is_over() {
    in_each_order(3, || {
        let commit = Commit::start(8);
        let queue = commit.queue.clone();
        let crowd: Vec<_> = (0..COMPANY).map(|_| queue.announce()).collect();
        sync::let_time_pass();
        let caller = commit.caller(1);
        assert_eq!(places(caller.join().unwrap(), nothing_is_refused), [0]);
        drop(crowd);
        commit.close();
    });
}

/// Time may pass at any moment: while the writer lingers, or waits until a checkpoint is due, or not at all.
#[test]
fn a_timeout_at_any_moment_loses_nothing() {
    in_each_order(1, || {
        let commit = Commit::start(8);
        let clock = thread::spawn(sync::let_time_pass);
        let callers = [commit.caller(1), commit.caller(1)];
        let answers = callers.map(|caller| caller.join().unwrap());
        assert_eq!(places(answers.into_iter().flatten(), nothing_is_refused).len(), 2);
        clock.join().unwrap();
        commit.close();
    });
}
