//! Kills, power cuts and failing disks, and what must hold after each of them.
//!
//! A [`World`] is a data folder on a disk that forgets and a store that forgets. Lives follow each other in it,
//! each ended by a kill; what callers were told is kept beside, and the log must bear it out ever after.

use signet_service::clock_watch::ClockWatch;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use super::simulated_disk::{Done, Left, Plan, Random, SimulatedDisk};
use super::*;
use crate::issuance_log::files::Disk;
use crate::issuance_log::progress::Progress;
use crate::issuance_log::segments::push_frame;
use crate::issuance_log::signer::{SignRequest, Signer};
use crate::issuance_log::tree::Frontier;
use crate::issuance_log::{
    AppendError, Entry, Filter, INDEX_MARKER, Record, SignError, SignedCheckpoint, index, recover, verify,
};
use crate::store::forgetful::ForgetfulStore;
use crate::store::{Row, Table};

/// What callers were told, and what was seen in a log that had been opened.
#[derive(Default)]
struct Told {
    /// Entries by their index.
    records: BTreeMap<u64, Entry>,
    checkpoints: Vec<SignedCheckpoint>,
}

struct World {
    root: tempfile::TempDir,
    disk: Arc<SimulatedDisk>,
    store: Arc<ForgetfulStore>,
    options: Options,
    random: Random,
    told: Told,
    /// Number of the next certificate; no two are alike.
    next: Arc<AtomicU64>,
    /// To say on a failure.
    story: String,
}

impl World {
    fn new(seed: u64) -> World {
        let options = Options {
            // A segment for some ten records.
            segment_bytes: 4000,
            checkpoint_interval: Duration::from_millis(3),
            ..Options::default()
        };
        World {
            root: folder(),
            disk: Arc::new(SimulatedDisk::new(seed)),
            store: Arc::default(),
            options,
            random: Random(seed),
            told: Told::default(),
            next: Arc::default(),
            story: format!("seed {seed}"),
        }
    }

    fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    fn dir(&self) -> PathBuf {
        self.data().join("log")
    }

    fn start(&self, plan: Plan) -> Result<Running, OpenError> {
        self.disk.start(plan);
        let folder = DataFolder::open(&self.data()).unwrap();
        let log = IssuanceLog::open_on(&folder, self.store.clone(), &self.options, self.disk.clone())?;
        Ok(Running { log, _folder: folder })
    }

    /// One life under a load of several callers, as far as it comes.
    fn live(&mut self, runtime: &tokio::runtime::Runtime, plan: Plan) {
        let log = match self.start(plan) {
            Ok(log) => Arc::new(log),
            Err(error) => {
                assert!(plan != Plan::Works, "{}: {error:?}", self.story);
                return self.kill();
            }
        };
        let callers: Vec<_> = (0..5)
            .map(|caller| {
                let (log, next, disk) = (log.clone(), self.next.clone(), self.disk.clone());
                runtime.spawn(async move { call(&log, &next, &disk, caller == 0).await })
            })
            .collect();
        for caller in callers {
            let told = runtime.block_on(caller).unwrap();
            self.hear(told);
        }
        self.disk.kill();
        drop(log);
        self.kill();
    }

    /// One life that does the same each time: it begins segments, signs, and ends in order.
    fn follow_script(&mut self, runtime: &tokio::runtime::Runtime, plan: Plan) {
        match self.start(plan) {
            Ok(log) => {
                let next = self.next.clone();
                let told = runtime.block_on(async {
                    let mut told = Told::default();
                    for _ in 0..3 {
                        let entries: Vec<_> =
                            (0..3).map(|_| certificate(next.fetch_add(1, Ordering::Relaxed))).collect();
                        let appends = entries.iter().map(|entry| log.append(entry.clone()));
                        let answers = futures::future::join_all(appends).await;
                        for (entry, answer) in entries.into_iter().zip(answers) {
                            told.records.extend(answer.map(|index| (index, entry)));
                        }
                        told.checkpoints.extend(log.checkpoint().await);
                    }
                    told
                });
                drop(log);
                self.hear(told);
            }
            Err(error) => assert!(plan != Plan::Works, "{}: {error:?}", self.story),
        }
        self.kill();
    }

    fn hear(&mut self, told: Told) {
        for (index, entry) in told.records {
            let before = self.told.records.insert(index, entry);
            assert_eq!(before, None, "{}: two callers were answered with record {index}", self.story);
        }
        self.told.checkpoints.extend(told.checkpoints);
    }

    /// Ends the life: sometimes only the program's, sometimes the machine's.
    fn kill(&mut self) {
        self.disk.kill();
        let survive = self.random.below(self.store.unflushed() as u64 + 1);
        self.store.kill(usize::try_from(survive).unwrap());
        let left = [None, Some(Left::Nothing), Some(Left::Everything), Some(Left::Begin), Some(Left::Pages)]
            [usize::try_from(self.random.below(5)).unwrap()];
        self.story += &format!(", then {left:?}");
        if let Some(left) = left {
            self.disk.cut_power(left);
        }
    }

    /// Opens the log on a disk that works and compares it with all that was ever told. Then goes on.
    fn check(&mut self) {
        self.check_but_strangers(false);
    }

    /// The same for a log of which a stranger would say that it is not in order.
    fn check_but_strangers(&mut self, is_damaged: bool) {
        let story = self.story.clone();
        let kept = self.index_rows();
        if !is_damaged && !self.told.records.is_empty() {
            // A stranger finds it in order as it was left, except for an end that is to be cut.
            let verifier = LogVerifier::of_folder(&self.dir()).unwrap();
            let latest = self.told.checkpoints.last().map(|checkpoint| &*checkpoint.note);
            verify(&self.dir(), &verifier, latest).unwrap_or_else(|error| panic!("{story}: {error:?}"));
        }
        let log = self.start(Plan::Works).unwrap_or_else(|error| panic!("{story}: {error:?}"));
        let dir = self.dir();
        let log_id = log.verifier().log_id();
        let page = log.reader().records(&Filter::default(), 0, usize::MAX).unwrap();
        let records: BTreeMap<u64, Record> =
            page.records.into_iter().map(|record| (record.index, record)).collect();
        let size = records.len() as u64;
        assert_eq!(size, log.stats().records, "{story}");
        for (index, entry) in &self.told.records {
            let found = records.get(index).map(|record| &record.entry);
            assert_eq!(found, Some(entry), "{story}: record {index} of {size} is not what was answered");
        }

        // Nothing that was signed is lost or another, and no serial number stands there twice.
        let mut frontier = Frontier::empty();
        let mut roots = vec![frontier.head().root.0];
        let mut cursor = Cursor::new(&dir, &log_id, 0, Some(size)).unwrap();
        while let Some(frame) = cursor.next().unwrap() {
            frontier.push(frame.body);
            roots.push(frontier.head().root.0);
        }
        for checkpoint in &self.told.checkpoints {
            let root = roots.get(usize::try_from(checkpoint.size).unwrap());
            assert_eq!(root, Some(&checkpoint.root), "{story}: a checkpoint of {}", checkpoint.size);
        }
        let latest = self.told.checkpoints.last().map(|checkpoint| &*checkpoint.note);
        log.verify(latest).unwrap_or_else(|error| panic!("{story}: {error:?}"));

        // The index that was kept is that of a part of the log, and grows to that of all of it.
        let rebuilt = self.rebuilt(&log, kept.through(&log_id));
        assert_eq!(kept.rows, rebuilt.rows, "{story}: the index that was kept");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(log.find_serial(&[])).unwrap();
        assert_eq!(self.index_rows().rows, self.rebuilt(&log, size).rows, "{story}: the index");

        for (index, record) in records {
            self.told.records.insert(index, record.entry);
        }
        let entry = certificate(self.next.fetch_add(1, Ordering::Relaxed));
        let index = runtime.block_on(log.append(entry.clone())).unwrap();
        assert_eq!(index, size, "{story}");
        self.told.records.insert(index, entry);
        let signed = runtime.block_on(async {
            loop {
                match log.checkpoint().await {
                    // The signer is behind with those that nobody asked for.
                    Err(SignError::Busy) => tokio::task::yield_now().await,
                    signed => break signed.unwrap(),
                }
            }
        });
        self.told.checkpoints.push(signed);
        drop(log);
        // What stands there after an end in order is in order for a stranger, too.
        let verifier = LogVerifier::of_folder(&dir).unwrap();
        verify(&dir, &verifier, None).unwrap_or_else(|error| panic!("{story}: {error:?}"));
    }

    fn index_rows(&self) -> IndexRows {
        IndexRows::of(&*self.store)
    }

    /// What an index of the first `size` records has, made from the log alone.
    fn rebuilt(&self, log: &IssuanceLog, size: u64) -> IndexRows {
        let store = Arc::new(MemoryStore::default());
        let progress = Arc::new(Progress::new(size, (*log.latest_checkpoint()).clone()));
        let (_, indexer) = index::open(self.dir(), log.verifier().log_id(), store.clone(), progress).unwrap();
        let (wake, wakes) = mpsc::sync_channel(1);
        drop(wake);
        indexer.run(&wakes);
        IndexRows::of(&*store)
    }
}

/// All that the store has of the indexes.
struct IndexRows {
    marker: Option<Vec<u8>>,
    rows: [Vec<Row>; 2],
}

impl IndexRows {
    fn of(store: &dyn Store) -> IndexRows {
        let rows = |table| store.scan_prefix(table, b"", None, usize::MAX).unwrap();
        let marker = store.read(Table::Meta, INDEX_MARKER).unwrap();
        IndexRows { marker, rows: [rows(Table::BySerial), rows(Table::ByIdentity)] }
    }

    fn through(&self, log_id: &[u8; 32]) -> u64 {
        self.marker.as_ref().map_or(0, |marker| {
            let through = marker.strip_prefix(log_id).unwrap();
            u64::from_be_bytes(through.try_into().unwrap())
        })
    }
}

/// A caller that goes on until the log does not.
async fn call(log: &IssuanceLog, next: &AtomicU64, disk: &SimulatedDisk, signs: bool) -> Told {
    let mut told = Told::default();
    for round in 0..8 {
        if disk.is_dead() {
            break;
        }
        if signs && round % 4 == 3 {
            told.checkpoints.extend(log.checkpoint().await);
        }
        let entry = certificate(next.fetch_add(1, Ordering::Relaxed));
        match log.append(entry.clone()).await {
            Ok(index) => drop(told.records.insert(index, entry)),
            // It may stand there all the same, and nobody was told.
            Err(AppendError::Write(_)) => {}
            Err(_) => break,
        }
    }
    told
}

/// Nothing is synced by the simulated disk, so the log may as well live in memory.
fn folder() -> tempfile::TempDir {
    match Path::new("/dev/shm") {
        memory if memory.is_dir() => tempfile::tempdir_in(memory).unwrap(),
        _ => tempfile::tempdir().unwrap(),
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap()
}

/// Runs this many at once: most of the time of each goes into waiting.
fn in_parallel(worlds: Vec<impl FnOnce() + Send>) {
    const AT_ONCE: usize = 24;
    let worlds = std::sync::Mutex::new(worlds);
    std::thread::scope(|threads| {
        for _ in 0..AT_ONCE {
            threads.spawn(|| {
                loop {
                    let Some(world) = worlds.lock().unwrap().pop() else { return };
                    world();
                }
            });
        }
    });
}

#[test]
fn a_thousand_kills_under_load_lose_nothing_that_was_answered() {
    const WORLDS: u64 = 50;
    const KILLS: u64 = 20;
    // Another one with each run; on a failure the assertion says which.
    let seed = std::env::var("SIGNET_CRASH_SEED").map_or_else(|_| fresh_seed(), |seed| seed.parse().unwrap());
    let answered = AtomicU64::new(0);
    let worlds = (0..WORLDS).map(|number| {
        let answered = &answered;
        move || {
            let seed = seed + number;
            let (mut world, runtime) = (World::new(seed), runtime());
            for kill in 0..KILLS {
                // Early ones meet the recovery, late ones the load.
                let latest = if world.random.chance() { 30 } else { 150 };
                let step = world.random.below(latest);
                let done =
                    [Done::Nothing, Done::Part, Done::All][usize::try_from(world.random.below(3)).unwrap()];
                let plan = match world.random.below(10) {
                    0 => Plan::Fails(step, done),
                    1 => Plan::FailsFrom(step, done),
                    _ => Plan::Kills(step, done),
                };
                world.story = format!("SIGNET_CRASH_SEED={seed}, kill {kill}, {plan:?}");
                let before = world.told.records.len();
                world.live(&runtime, plan);
                answered.fetch_add((world.told.records.len() - before) as u64, Ordering::Relaxed);
                if kill == KILLS - 1 || world.random.below(3) > 0 {
                    world.check();
                }
            }
        }
    });
    in_parallel(worlds.collect());
    let answered = answered.into_inner();
    println!("{} kills, {answered} answers, seed {seed}", WORLDS * KILLS);
    assert!(answered > 3 * WORLDS * KILLS, "{answered} answers in all: there was no load");
}

fn fresh_seed() -> u64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_micros() as u64
}

/// Small segments, and no checkpoint but those that are asked for.
fn quiet(seed: u64) -> World {
    let mut world = World::new(seed);
    world.options.checkpoint_interval = Duration::from_secs(3600);
    world.options.segment_bytes = 1000;
    world
}

/// Everything that can happen in a step.
fn plans(step: u64) -> Vec<Plan> {
    let parts = [Done::Nothing, Done::Part, Done::All];
    let fails = parts.map(|done| Plan::Fails(step, done));
    let kills = parts.map(|done| Plan::Kills(step, done));
    [&fails[..], &kills, &[Plan::FailsFrom(step, Done::Nothing)]].concat()
}

#[test]
fn each_step_of_a_log_may_fail_or_be_the_last() {
    let mut whole = quiet(0);
    whole.follow_script(&runtime(), Plan::Works);
    let steps = whole.disk.steps();
    assert!(steps > 40, "{steps} steps");
    whole.check();
    let worlds = (0..steps).map(|step| {
        move || {
            let runtime = runtime();
            for (number, plan) in plans(step).into_iter().enumerate() {
                let mut world = quiet(step * 100 + number as u64);
                world.story = format!("{plan:?}");
                world.follow_script(&runtime, plan);
                world.check();
            }
        }
    });
    in_parallel(worlds.collect());
}

/// What a crash may leave for the next start to put right.
#[derive(Debug, Clone, Copy)]
enum Wound {
    /// A batch at the end, whose first page is missing.
    Hole,
    /// A segment without a header.
    Unfinished,
    /// Hashes below the checkpoint that are wrong; this no crash leaves, and still it is put right.
    Hashes,
}

fn wounded(seed: u64, runtime: &tokio::runtime::Runtime, wound: Wound) -> World {
    let mut world = World::new(seed);
    world.options.checkpoint_interval = Duration::from_secs(3600);
    let log = world.start(Plan::Works).unwrap();
    runtime.block_on(async {
        for part in 0..6 {
            let entry = certificate(world.next.fetch_add(1, Ordering::Relaxed));
            let index = log.append(entry.clone()).await.unwrap();
            world.told.records.insert(index, entry);
            if part == 3 {
                world.told.checkpoints.push(log.checkpoint().await.unwrap());
            }
        }
    });
    let dir = world.dir();
    match wound {
        Wound::Hole => {
            let path = super::super::segments::segment_path(&dir, 0);
            let end = fs::metadata(&path).unwrap().len();
            let mut file = world.disk.open(&path).unwrap();
            file.write_at(&batch_with_a_hole(&log.verifier().log_id(), 6), end).unwrap();
        }
        Wound::Unfinished => {
            world.disk.create(&super::super::segments::segment_path(&dir, 6)).unwrap();
        }
        Wound::Hashes => {
            let mut file = world.disk.open(&dir.join("hashes")).unwrap();
            file.write_at(&[7; 32], 6 * 32).unwrap();
            file.sync().unwrap();
        }
    }
    world.disk.kill();
    drop(log);
    world.disk.cut_power(Left::Everything);
    world.store.kill(0);
    world
}

/// Three records from `first` on, written at once, of which the first did not reach the disk.
fn batch_with_a_hole(log_id: &[u8; 32], first: u64) -> Vec<u8> {
    let mut batch = Vec::new();
    for place in 0..3 {
        let begin = batch.len();
        let mut record = certificate(1000 + u64::from(place)).into_proto(log_id, first + u64::from(place));
        record.place_in_batch = place;
        push_frame(&mut batch, &record);
        if place == 0 {
            batch[begin..].fill(0);
        }
    }
    batch
}

#[test]
fn each_step_of_a_recovery_may_fail_or_be_the_last() {
    let wounds = [Wound::Hole, Wound::Unfinished, Wound::Hashes];
    let worlds = wounds.into_iter().enumerate().flat_map(|(number, wound)| {
        let mut whole = wounded(0, &runtime(), wound);
        drop(whole.start(Plan::Works).unwrap_or_else(|error| panic!("{wound:?}: {error:?}")));
        let steps = whole.disk.steps();
        assert!(steps > 8, "{wound:?}: {steps} steps");
        whole.disk.kill();
        whole.check_but_strangers(matches!(wound, Wound::Hashes));
        (0..steps).map(move |step| {
            move || {
                let runtime = runtime();
                for plan in plans(step) {
                    let mut world = wounded(step * 10 + number as u64, &runtime, wound);
                    world.story = format!("{wound:?}, {plan:?}");
                    drop(world.start(plan));
                    world.kill();
                    world.check_but_strangers(matches!(wound, Wound::Hashes));
                }
            }
        })
    });
    in_parallel(worlds.collect());
}

/// Whatever its size, the failed batch costs only itself, and with room again the log goes on without a restart.
#[test]
fn a_disk_that_fills_up_loses_nothing_and_may_be_emptied() {
    let worlds = (0..60).map(|number| {
        move || {
            let (mut world, runtime) = (quiet(number), runtime());
            world.story = format!("room {}", number * 97);
            let log = world.start(Plan::Works).unwrap();
            world.disk.limit(number * 97);
            runtime.block_on(async {
                let mut failures = 0;
                while failures < 3 {
                    let entry = certificate(world.next.fetch_add(1, Ordering::Relaxed));
                    match log.append(entry.clone()).await {
                        Ok(index) => drop(world.told.records.insert(index, entry)),
                        Err(AppendError::Write(_)) => failures += 1,
                        Err(other) => panic!("{}: {other:?}", world.story),
                    }
                    world.told.checkpoints.extend(log.checkpoint().await);
                }
                assert!(!log.stats().poisoned, "{}", world.story);
                world.disk.limit(u64::MAX);
                let entry = certificate(world.next.fetch_add(1, Ordering::Relaxed));
                let index = log.append(entry.clone()).await.unwrap();
                world.told.records.insert(index, entry);
            });
            world.disk.kill();
            drop(log);
            world.kill();
            world.check();
        }
    });
    in_parallel(worlds.collect());
}

/// A system forgets what a failed sync did not write: it shows the bytes, and a later sync succeeds without them.
#[test]
fn what_a_failed_sync_lost_is_not_taken_for_durable_after_a_restart() {
    let (mut world, runtime) = (quiet(1), runtime());
    let append = |log: &IssuanceLog, number| runtime.block_on(log.append(certificate(number)));
    let log = world.start(Plan::Works).unwrap();
    append(&log, 0).unwrap();
    // The write is done; the sync fails, and so does cutting what was written.
    world.disk.plan(Plan::FailsFrom(world.disk.steps() + 1, Done::Nothing));
    append(&log, 1).unwrap_err();
    drop(log);
    world.disk.kill();
    let log = world.start(Plan::Works).unwrap();
    let index = append(&log, 2).unwrap();
    world.told.records.extend([(0, certificate(0)), (index, certificate(2))]);
    world.disk.kill();
    drop(log);
    world.disk.cut_power(Left::Nothing);
    world.store.kill(0);
    world.next.store(3, Ordering::Relaxed);
    world.check();
}

#[test]
fn hashes_whose_sync_failed_are_written_again_before_they_are_signed() {
    let (mut world, runtime) = (quiet(2), runtime());
    let log = world.start(Plan::Works).unwrap();
    for number in 0..5 {
        let index = runtime.block_on(log.append(certificate(number))).unwrap();
        world.told.records.insert(index, certificate(number));
    }
    world.disk.plan(Plan::Fails(world.disk.steps(), Done::Nothing));
    assert!(matches!(runtime.block_on(log.checkpoint()), Err(SignError::Write(_))));
    world.told.checkpoints.push(runtime.block_on(log.checkpoint()).unwrap());
    world.disk.kill();
    drop(log);
    world.disk.cut_power(Left::Nothing);
    world.store.kill(0);
    world.next.store(5, Ordering::Relaxed);
    // It begins with a stranger, who takes the hashes as they are.
    world.check();
}

/// The writer does not wait for the signer: a sync that fails may lose hashes of records behind those that it was
/// to sign.
#[test]
fn a_failed_sync_of_hashes_puts_those_in_doubt_too_that_were_not_to_be_signed_yet() {
    let (mut world, runtime) = (quiet(3), runtime());
    let log = world.start(Plan::Works).unwrap();
    for number in 0..9 {
        let index = runtime.block_on(log.append(certificate(number))).unwrap();
        world.told.records.insert(index, certificate(number));
    }
    world.disk.kill();
    drop(log);
    world.disk.start(Plan::Works);
    let folder = DataFolder::open(&world.data()).unwrap();
    let disk: Arc<dyn Disk> = world.disk.clone();
    let clock = Arc::new(ClockWatch::of_machine());
    let recovered = recover::recover(&folder, &disk, clock.reckoned()).unwrap();
    let progress = Arc::new(Progress::new(9, recovered.checkpoint));
    let mut frontier = Frontier::empty();
    let mut heads = vec![frontier.head()];
    let mut cursor = Cursor::new(&world.dir(), &recovered.key.verifier().log_id(), 0, None).unwrap();
    while let Some(frame) = cursor.next().unwrap() {
        frontier.push(frame.body);
        heads.push(frontier.head());
    }
    let signer = Signer::new(&world.dir(), recovered.key, disk, progress, clock).unwrap();
    world.disk.plan(Plan::Fails(world.disk.steps(), Done::Nothing));
    let (requests, taken) = mpsc::channel();
    let answers = [3, 3, 9].map(|size| {
        let (reply, answer) = tokio::sync::oneshot::channel();
        requests.send(SignRequest { head: heads[size], reply: Some(reply) }).unwrap();
        answer
    });
    drop(requests);
    signer.run(&taken);
    let signed = answers.map(|answer| answer.blocking_recv().unwrap().ok());
    assert_eq!(signed.each_ref().map(Option::is_some), [false, true, true]);
    world.told.checkpoints.extend(signed.into_iter().flatten());
    drop(folder);
    world.disk.kill();
    world.disk.cut_power(Left::Nothing);
    world.store.kill(0);
    world.next.store(9, Ordering::Relaxed);
    world.check();
}

/// Rows and marker go together: each step of the store may fail, and each batch be lost or not.
#[test]
fn an_index_whose_store_fails_or_forgets_says_nothing_wrong() {
    let worlds = (0..12).map(|step| {
        move || {
            let runtime = runtime();
            for count in [1, 3, u64::MAX] {
                let mut world = quiet(step);
                world.story = format!("{count} failures of the store from step {step} on");
                world.store.fail(step, count);
                let log = world.start(Plan::Works).unwrap();
                for number in 0..12 {
                    let index = runtime.block_on(log.append(certificate(number))).unwrap();
                    world.told.records.insert(index, certificate(number));
                    if number % 3 == 2 {
                        // It finds the right record, or says that it cannot tell.
                        let found = runtime.block_on(log.find_serial(&serial(number)));
                        assert!(matches!(found, Ok(Some(at)) if at == index) || found.is_err(), "{found:?}");
                    }
                }
                drop(log);
                world.next.store(12, Ordering::Relaxed);
                world.kill();
                world.check();
            }
        }
    });
    in_parallel(worlds.collect());
}
