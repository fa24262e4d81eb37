//! The formats on disk that were ever released: a folder of each is kept, and must open for ever.
//!
//! `tests/fixtures/format-1-with-test-keys` is a backup of format 1 with a log of layout 1 and records of
//! layout 1, made as the last test here makes one. Its keys were made for it and are of no use elsewhere; the file
//! with the key that the log needs has another name there, because keys never go into version control.

use super::*;

const FIXTURE: &str = "tests/fixtures/format-1-with-test-keys";
const KEY_THERE: &str = "log-key.test-only";
const RECORDS: u64 = 7;

/// A copy of the folder of format 1, with its key in place.
fn format_1(root: &Path) -> PathBuf {
    let (from, to) = (Path::new(env!("CARGO_MANIFEST_DIR")).join(FIXTURE), root.join("format-1"));
    for name in files_in(&from) {
        let there = to.join(if name == KEY_THERE { "log-key.pem" } else { name.as_str() });
        fs::create_dir_all(there.parent().unwrap()).unwrap();
        fs::copy(from.join(&name), there).unwrap();
    }
    to
}

#[tokio::test]
async fn a_data_folder_of_layout_1_opens_verifies_and_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let path = format_1(root.path());
    fs::remove_file(path.join(MANIFEST)).unwrap();
    let log = path.join("log");
    let verifier = LogVerifier::of_folder(&log).unwrap();
    let note = fs::read_to_string(log.join("checkpoint")).unwrap();
    assert_eq!(verify(&log, &verifier, Some(&note)).unwrap().records, RECORDS);

    let folder = DataFolder::open(&path).unwrap();
    let store = Arc::new(SledStore::open(&folder.state_dir()).unwrap());
    let log = IssuanceLog::open(&folder, store, &Options::default()).unwrap();
    for index in 0..RECORDS {
        let record = log.reader().record(index).unwrap().unwrap();
        assert_eq!((record.index, &record.entry), (index, &certificate(index)));
    }
    assert_eq!(log.find_serial(&serial(3)).await.unwrap(), Some(3));
    assert_eq!(log.append(certificate(RECORDS)).await.unwrap(), RECORDS);
    log.verify(Some(&note)).unwrap();
}

#[tokio::test]
async fn a_backup_of_format_1_is_restored() {
    let root = tempfile::tempdir().unwrap();
    let path = format_1(root.path());
    let data = root.path().join("data");
    let restored = restore(&path, &data).await;
    assert_eq!((restored.records, restored.backed_up.size), (RECORDS, RECORDS));
    let store = SledStore::open(&data.join("state")).unwrap();
    assert_eq!(store.read(Table::Authorities, b"0a1b").unwrap().unwrap(), b"{\"row\":1}");
    let trust = Publisher::open(&store, bundles(), Default::default(), from_unix(NOW)).unwrap().current();
    assert_eq!((trust.epoch, trust.sequence), (NOW as u64, 1));
    assert_eq!(fs::read(data.join(AUTHORITY)).unwrap(), b"an authority's key");
}

#[tokio::test]
async fn what_is_made_now_has_the_files_of_format_1() {
    let root = tempfile::tempdir().unwrap();
    let server = Server::start(Sealer::plain());
    server.issue(0..RECORDS).await;
    let path = root.path().join("backup");
    server.try_backup(BackupFolder::create(&path).unwrap()).await.unwrap();
    fs::rename(path.join("log-key.pem"), path.join(KEY_THERE)).unwrap();
    assert_eq!(files_in(&path), files_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join(FIXTURE)));
}
