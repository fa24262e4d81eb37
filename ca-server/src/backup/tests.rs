//! Backups there and back, and what is refused on either way.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use signet_certs::bundle::{Bundles, TrustBundle};
use signet_certs::clock::from_unix;
use signet_certs::digest::{hex, sha256};
use signet_certs::spiffe_id::TrustDomain;
use tokio::runtime::Handle;

use super::stream::{Decoder, Frame, StreamDestination};
use super::*;
use crate::authority::tests::root;
use crate::blocks::{Blocks, Order, Target};
use crate::data_folder::DataFolder;
use crate::issuance_log::record::tests::certificate;
use crate::issuance_log::{EntryBody, Filter, IssuanceLog, LogReader, LogVerifier, Options, verify};
use crate::sealing::{SealError, Sealer, is_sealed};
use crate::store::{Batch, Row, SledStore, Store, StoreError, Table};
use crate::trust::publisher::Publisher;

mod formats;
mod refusals;

const NOW: i64 = 1_900_000_000;
const AUTHORITY: &str = "authorities/0a1b/ca-key.pem";

/// A server as far as backups know one: a data folder with a log, a store, and an authority's files.
struct Server {
    root: tempfile::TempDir,
    log: Option<Arc<IssuanceLog>>,
    store: Arc<SledStore>,
    folder: Option<DataFolder>,
}

impl Server {
    /// With segments of about two records.
    fn start(sealer: Sealer) -> Server {
        let root = tempfile::tempdir().unwrap();
        let folder = DataFolder::open(&root.path().join("data")).unwrap().sealed_by(sealer);
        let store = Arc::new(SledStore::open(&folder.state_dir()).unwrap());
        let options = Options {
            segment_bytes: 1000,
            checkpoint_interval: Duration::from_secs(3600),
            ..Options::default()
        };
        let log = Arc::new(IssuanceLog::open(&folder, store.clone(), &options).unwrap());
        Publisher::open(store.as_ref(), bundles(), Default::default(), from_unix(NOW - 100)).unwrap();
        let mut batch = Batch::default();
        batch.put(Table::Authorities, *b"0a1b", *b"{\"row\":1}");
        for number in 0..600_u32 {
            batch.put(Table::Consumers, number.to_be_bytes(), vec![0xff; 40]);
        }
        store.apply(batch).unwrap();
        fs::create_dir_all(folder.path().join("authorities/0a1b")).unwrap();
        folder.write_key(AUTHORITY, b"an authority's key").unwrap();
        fs::write(folder.path().join("authorities/0a1b/ca-cert.pem"), "public").unwrap();
        fs::write(folder.path().join("authorities/0a1b/ca-key.pem.tmp"), "half").unwrap();
        fs::create_dir(folder.path().join("authorities/.new")).unwrap();
        fs::write(folder.path().join("authorities/.new/ca-key.pem"), "of a copy that a crash cut short")
            .unwrap();
        Server { root, log: Some(log), store, folder: Some(folder) }
    }

    async fn issue(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            self.log().append(certificate(number)).await.unwrap();
        }
    }

    fn log(&self) -> &Arc<IssuanceLog> {
        self.log.as_ref().unwrap()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Takes a backup of the running server as the operator's program does.
    async fn try_backup(&self, folder: BackupFolder) -> Result<Manifest, BackupError> {
        let (log, store, data) = (self.log().clone(), self.store.clone(), self.path("data"));
        let runtime = Handle::current();
        let work = move || {
            let mut folder = folder;
            let records = send_running(&data, &log, store.as_ref(), &runtime, &mut folder)?;
            folder.finish(records, from_unix(NOW))
        };
        tokio::task::spawn_blocking(work).await.unwrap()
    }

    async fn backup(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        self.try_backup(BackupFolder::create(&path).unwrap()).await.unwrap();
        path
    }

    /// Ends as a server that was stopped, or as one that crashed: without its last checkpoint.
    fn stop(&mut self) {
        self.log.take().unwrap().close();
        self.folder = None;
        let elsewhere = self.path("elsewhere");
        self.store = Arc::new(SledStore::open(&elsewhere).unwrap());
    }
}

fn bundles() -> Bundles {
    static ROOT: std::sync::OnceLock<TrustBundle> = std::sync::OnceLock::new();
    let roots = ROOT.get_or_init(|| TrustBundle::new(vec![root("Root").certificate]));
    Bundles::of(TrustDomain::parse("td").unwrap(), roots.clone())
}

fn kek(server: &Server, byte: u8) -> Sealer {
    let path = server.path(&format!("kek-{byte}"));
    fs::write(&path, [byte; 32]).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    Sealer::from_file(Some(&path)).unwrap()
}

async fn restore(backup: &Path, data: &Path) -> Restored {
    VerifiedBackup::open(backup).unwrap().restore(data, Sealer::plain(), from_unix(NOW)).await.unwrap()
}

fn files_in(folder: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        if entry.path().is_dir() {
            names.extend(files_in(&entry.path()).into_iter().map(|below| format!("{name}/{below}")));
        } else {
            names.insert(name);
        }
    }
    names
}

fn serials(folder: &Path) -> Vec<Vec<u8>> {
    let reader = LogReader::of_stopped(&folder.join("log")).unwrap();
    let page = reader.records(&Filter::default(), 0, 1000).unwrap();
    let serial = |body: EntryBody| match body {
        EntryBody::Certificate(certificate) => Some(certificate.serial),
        EntryBody::Act(_) => None,
    };
    page.records.into_iter().filter_map(|record| serial(record.entry.body)).collect()
}

fn serial(number: u64) -> Vec<u8> {
    match certificate(number).body {
        EntryBody::Certificate(certificate) => certificate.serial,
        EntryBody::Act(_) => unreachable!(),
    }
}

#[tokio::test]
async fn a_running_server_comes_back_as_it_was_at_the_backup() {
    let server = Server::start(Sealer::plain());
    server.issue(0..5).await;
    let before = server.log().checkpoint().await.unwrap();
    server.issue(5..9).await;
    let backup = server.backup("backup").await;
    server.issue(9..12).await;

    let names = files_in(&backup);
    for name in [MANIFEST, "VERSION", "log-key.pem", "state.jsonl", "log/checkpoint", "log/hashes", AUTHORITY]
    {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
    assert!(!names.iter().any(|name| name.ends_with(".tmp")), "{names:?}");
    assert_eq!(fs::metadata(&backup).unwrap().permissions().mode() & 0o777, 0o700);
    for name in &names {
        assert_eq!(fs::metadata(backup.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
    let expected: Vec<_> = (0..9).map(serial).collect();
    assert_eq!(serials(&backup), expected, "as `log list --data` reads it");

    let data = server.path("restored");
    let restored = restore(&backup, &data).await;
    assert_eq!((restored.records, restored.backed_up.size, restored.checkpoint.size), (9, 9, 10));
    assert_eq!(serials(&data), expected);
    let verifier = LogVerifier::of_folder(&data.join("log")).unwrap();
    assert_eq!(&verifier, server.log().verifier());
    verify(&data.join("log"), &verifier, Some(&before.note)).unwrap();
    verify(&data.join("log"), &verifier, Some(&restored.backed_up.note)).unwrap();
    // What was exported after the backup is of another history now.
    let lost = server.log().checkpoint().await.unwrap();
    verify(&data.join("log"), &verifier, Some(&lost.note)).unwrap_err();
    assert_eq!(fs::read(data.join(AUTHORITY)).unwrap(), b"an authority's key");
    assert!(!data.join(MANIFEST).exists());

    // A server goes on there.
    let folder = DataFolder::open(&data).unwrap();
    let store = Arc::new(SledStore::open(&folder.state_dir()).unwrap());
    assert_eq!(store.read(Table::Authorities, b"0a1b").unwrap().unwrap(), b"{\"row\":1}");
    assert_eq!(store.scan_prefix(Table::Consumers, b"", None, 1000).unwrap().len(), 600);
    let log = IssuanceLog::open(&folder, store.clone(), &Options::default()).unwrap();
    assert_eq!(log.append(certificate(20)).await.unwrap(), 10);
    assert_eq!(log.find_serial(&serial(8)).await.unwrap(), Some(8), "the index was made again");
    assert_eq!(log.find_serial(&serial(9)).await.unwrap(), None);
    let act = log.reader().record(9).unwrap().unwrap();
    let EntryBody::Act(act) = act.entry.body else { panic!("{act:?}") };
    assert_eq!(act.kind, "restored");
    assert!(act.reason.contains("2030-03-17T17:46:40Z") && act.reason.contains(&restored.epoch.to_string()));
    assert!(act.subject.starts_with("9 records, root "), "{act:?}");
}

/// Takes a backup, while another copy of CA files comes as soon as the state was sent.
struct Meddler {
    folder: BackupFolder,
    copy: PathBuf,
}

impl Destination for Meddler {
    fn begin(&mut self, name: &str) -> Result<(), BackupError> {
        if name.starts_with("log/") {
            fs::create_dir_all(&self.copy).unwrap();
        }
        self.folder.begin(name)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.folder.write(bytes)
    }
}

#[tokio::test]
async fn ca_files_that_change_during_a_backup_are_an_error() {
    let server = Server::start(Sealer::plain());
    server.issue(0..3).await;
    let (log, store, data) = (server.log().clone(), server.store.clone(), server.path("data"));
    let folder = BackupFolder::create(&server.path("backup")).unwrap();
    let mut meddler = Meddler { folder, copy: data.join("authorities/0a1c") };
    let runtime = Handle::current();
    let work = move || send_running(&data, &log, store.as_ref(), &runtime, &mut meddler);
    let sent = tokio::task::spawn_blocking(work).await.unwrap();
    assert!(matches!(sent, Err(BackupError::Changed)), "{sent:?}");
    server.backup("again").await;
}

/// A store where somebody is blocked, and another block ended, when the rows of blocks were just read.
struct Late {
    store: Arc<SledStore>,
    meddle: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Store for Late {
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.read(table, key)
    }

    fn scan_prefix(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        let rows = self.store.scan_prefix(table, prefix, after, limit)?;
        if table == Table::Blocks && rows.is_empty() {
            self.meddle.lock().unwrap().take().unwrap()();
        }
        Ok(rows)
    }

    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.store.apply(batch)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.store.flush()
    }
}

#[tokio::test]
async fn who_is_blocked_during_a_backup_is_blocked_in_it() {
    const LONGEST: Duration = Duration::from_secs(3600);
    let server = Server::start(Sealer::plain());
    let blocks = Arc::new(Blocks::open(server.store.clone(), server.log().clone(), LONGEST).unwrap());
    let target = |pod: &str| Target::parse("pod", pod).unwrap();
    let order = || Order { actor: "uid:0".to_owned(), reason: "theft".to_owned(), now: from_unix(NOW) };
    server.issue(0..3).await;
    let before = blocks.add(target("before"), order()).await.unwrap().block.id;

    let runtime = Handle::current();
    let meddle = move || {
        runtime.block_on(blocks.add(target("during"), order())).unwrap();
        runtime.block_on(blocks.end(before, order())).unwrap();
    };
    let late = Late { store: server.store.clone(), meddle: Mutex::new(Some(Box::new(meddle))) };
    let (log, data, path) = (server.log().clone(), server.path("data"), server.path("backup"));
    let runtime = Handle::current();
    let work = move || {
        let mut folder = BackupFolder::create(&path).unwrap();
        let records = send_running(&data, &log, &late, &runtime, &mut folder).unwrap();
        folder.finish(records, from_unix(NOW)).unwrap();
    };
    tokio::task::spawn_blocking(work).await.unwrap();
    let data = server.path("restored");
    restore(&server.path("backup"), &data).await;

    let folder = DataFolder::open(&data).unwrap();
    let store = Arc::new(SledStore::open(&folder.state_dir()).unwrap());
    let log = Arc::new(IssuanceLog::open(&folder, store.clone(), &Options::default()).unwrap());
    let blocks = Blocks::open(store, log, LONGEST).unwrap();
    let blocked: Vec<Target> = blocks.list().unwrap().into_iter().map(|block| block.target).collect();
    assert_eq!(blocked, [target("during")]);
}

#[tokio::test]
async fn the_epoch_rises_so_that_no_sequence_comes_again() {
    let server = Server::start(Sealer::plain());
    let backup = server.backup("backup").await;
    // After the backup the server may have published anything under its epoch.
    let trust = Publisher::open(server.store.as_ref(), bundles(), Default::default(), from_unix(NOW))
        .unwrap()
        .current();
    assert_eq!((trust.epoch, trust.sequence), (NOW as u64 - 100, 1));
    for (name, clock, epoch) in [("a", NOW, NOW as u64), ("b", 50, NOW as u64 - 99)] {
        let data = server.path(name);
        let backup = VerifiedBackup::open(&backup).unwrap();
        let restored = backup.restore(&data, Sealer::plain(), from_unix(clock)).await.unwrap();
        let store = SledStore::open(&data.join("state")).unwrap();
        let trust =
            Publisher::open(&store, bundles(), Default::default(), from_unix(clock)).unwrap().current();
        assert_eq!((trust.epoch, trust.sequence, restored.epoch), (epoch, 1, epoch));
    }
}

#[tokio::test]
async fn a_stopped_server_is_backed_up_with_what_its_last_checkpoint_does_not_sign() {
    let mut server = Server::start(Sealer::plain());
    server.issue(0..4).await;
    server.log().checkpoint().await.unwrap();
    server.issue(4..7).await;
    // A crash: the folder as it is now, with a torn end and hashes that nobody synced.
    let crashed = server.path("crashed");
    for name in files_in(&server.path("data")).iter().filter(|name| !name.starts_with("state/")) {
        fs::create_dir_all(crashed.join(name).parent().unwrap()).unwrap();
        fs::copy(server.path("data").join(name), crashed.join(name)).unwrap();
    }
    let hashes = crashed.join("log/hashes");
    let length = fs::metadata(&hashes).unwrap().len();
    let file = OpenOptions::new().write(true).open(&hashes).unwrap();
    file.set_len(7 * 32).unwrap();
    file.set_len(length).unwrap();
    server.stop();

    for (data, signed) in [("crashed", 4), ("data", 7)] {
        let path = server.path(&format!("backup of {data}"));
        let mut backup = BackupFolder::create(&path).unwrap();
        let folder = DataFolder::open_stopped(&server.path(data)).unwrap();
        let records = send_stopped(&folder, &mut backup).unwrap();
        drop(folder);
        let manifest = backup.finish(records, from_unix(NOW)).unwrap();
        assert_eq!((records, manifest.log.checkpoint_size), (7, signed));
        assert_eq!(serials(&path).len(), 7);
        let restored = server.path(&format!("restored {data}"));
        assert_eq!(restore(&path, &restored).await.checkpoint.size, 8);
    }
    // A folder without a store has no rows, and the log is what counts.
    assert!(!files_in(&server.path("backup of crashed")).contains("state.jsonl"));
}

#[tokio::test]
async fn sealed_keys_stay_sealed_and_plain_ones_are_sealed_on_the_way() {
    let server = Server::start(Sealer::plain());
    let plain = server.backup("plain").await;
    let data = server.path("sealed");
    let sealer = kek(&server, 1);
    VerifiedBackup::open(&plain).unwrap().restore(&data, sealer, from_unix(NOW)).await.unwrap();
    for key in ["log-key.pem", AUTHORITY] {
        assert!(is_sealed(&fs::read(data.join(key)).unwrap()), "{key}");
    }

    let sealed = Server::start(kek(&server, 1));
    let backup = sealed.backup("backup").await;
    let manifest = VerifiedBackup::open(&backup).unwrap();
    let keys = manifest.manifest().keys(&backup).unwrap();
    assert_eq!(keys, [("log-key.pem", true), (AUTHORITY, true)]);
    for (sealer, expected) in [(Sealer::plain(), false), (kek(&server, 2), true)] {
        let refused = manifest.restore(&server.path("x"), sealer, from_unix(NOW)).await.unwrap_err();
        match refused {
            RestoreError::Seal { name, source: SealError::NoKey { .. } } if !expected => {
                assert_eq!(name, "log-key.pem");
            }
            RestoreError::Seal { source: SealError::OtherKey { .. }, .. } if expected => {}
            other => panic!("{other:?}"),
        }
        assert!(!server.path("x").exists());
    }
    let data = server.path("again");
    manifest.restore(&data, kek(&server, 1), from_unix(NOW)).await.unwrap();
    assert_eq!(fs::read(data.join(AUTHORITY)).unwrap(), fs::read(backup.join(AUTHORITY)).unwrap());
    let folder = DataFolder::open(&data).unwrap().sealed_by(kek(&server, 1));
    assert_eq!(*folder.read_key(AUTHORITY).unwrap(), b"an authority's key");
}

#[tokio::test]
async fn a_stream_carries_the_same_backup() {
    let server = Server::start(Sealer::plain());
    server.issue(0..3).await;
    let (sender, mut frames) = tokio::sync::mpsc::channel(1);
    let (log, store, data) = (server.log().clone(), server.store.clone(), server.path("data"));
    let runtime = Handle::current();
    let sent = tokio::task::spawn_blocking(move || {
        let mut stream = StreamDestination::new(sender);
        let records = send_running(&data, &log, store.as_ref(), &runtime, &mut stream).unwrap();
        stream.end(Ok(records)).unwrap();
    });
    let path = server.path("streamed");
    let mut folder = BackupFolder::create(&path).unwrap();
    let mut decoder = Decoder::default();
    let mut ended = None;
    while let Some(bytes) = frames.recv().await {
        decoder.push(&bytes);
        while let Some(frame) = decoder.next().unwrap() {
            match frame {
                Frame::File(name) => folder.begin(&name).unwrap(),
                Frame::Piece(bytes) => folder.write(&bytes).unwrap(),
                Frame::End(records) => ended = Some(records),
                Frame::Failed(what) => panic!("{what}"),
            }
        }
    }
    sent.await.unwrap();
    let streamed = folder.finish(ended.unwrap(), from_unix(NOW)).unwrap();
    let called = server.backup("called").await;
    let called = VerifiedBackup::open(&called).unwrap();
    let names = |manifest: &Manifest| manifest.files.iter().map(|file| file.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&streamed), names(called.manifest()));
    assert_eq!(streamed.log.root, called.manifest().log.root);
    VerifiedBackup::open(&path).unwrap();
}
