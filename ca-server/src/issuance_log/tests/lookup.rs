//! The indexes, and reading by filter.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use super::*;
use crate::issuance_log::{EntryBody, Filter, IdentityFilter, IndexError, Kind, LogReader, ReadError};
use crate::store::{Batch, Row, SledStore, StoreError, Table};

fn not_after(number: u64) -> SystemTime {
    match certificate(number).body {
        EntryBody::Certificate(certificate) => certificate.not_after,
        EntryBody::Act(_) => unreachable!(),
    }
}

/// What the index says about the certificates 0 to `records`, after it has seen them all.
async fn answers(log: &IssuanceLog, records: u64) -> Vec<(Option<u64>, Option<SystemTime>)> {
    let mut answers = Vec::new();
    for number in 0..=records {
        let index = log.find_serial(&serial(number)).await.unwrap();
        let identity = format!("spiffe://example.org/ns/shop/sa/account-{}", number % 3);
        answers.push((index, log.latest_not_after(&identity, &format!("pod-{number}"))));
    }
    answers
}

#[tokio::test]
async fn the_index_follows_the_log_and_can_be_made_again() {
    let mut home = Home::with_small_segments();
    let state = home.data().join("state");
    home.store = Arc::new(SledStore::open(&state).unwrap());
    let log = home.open();
    append(&log, 0..40).await;
    log.append(act()).await.unwrap();
    let right = answers(&log, 40).await;
    assert_eq!(right[39], (Some(39), Some(not_after(39))));
    assert_eq!(right[40], (None, None));
    assert_eq!(log.stats().indexed_through, 41);
    drop(log);

    home.store = Arc::new(MemoryStore::default());
    fs::remove_dir_all(&state).unwrap();
    home.store = Arc::new(SledStore::open(&state).unwrap());
    let log = home.open();
    assert_eq!(answers(&log, 40).await, right);
    drop(log);

    // And it goes on from where it came to, without reading what it has seen: the first segment is gone.
    let log = home.open();
    fs::remove_file(home.segment(0)).unwrap();
    append(&log, 41..43).await;
    assert_eq!(log.find_serial(&serial(42)).await.unwrap(), Some(42));
}

#[tokio::test]
async fn the_record_of_a_serial_number_is_read_from_its_place() {
    let home = Home::with_small_segments();
    let log = home.open();
    append(&log, 0..9).await;
    log.append(act()).await.unwrap();
    append(&log, 10..12).await;
    for number in [0, 1, 4, 8, 11] {
        let record = log.certificate(&serial(number)).await.unwrap().unwrap();
        assert_eq!((record.index, record.entry), (number, certificate(number)));
    }
    assert_eq!(log.certificate(&serial(9)).await.unwrap(), None);

    // A row of the first layout has no place in it, and is found from its segment's begin.
    let mut batch = Batch::default();
    batch.put(Table::BySerial, serial(8), 8_u64.to_be_bytes());
    home.store.apply(batch).unwrap();
    assert_eq!(log.certificate(&serial(8)).await.unwrap().unwrap().entry, certificate(8));
    // One that is wrong is noticed, not believed.
    let mut batch = Batch::default();
    batch.put(Table::BySerial, serial(8), [&8_u64.to_be_bytes()[..], &[0, 0, 0, 90]].concat());
    home.store.apply(batch).unwrap();
    log.certificate(&serial(8)).await.unwrap_err();
}

#[tokio::test]
async fn a_scan_begins_in_the_last_segment_that_begins_before_its_time() {
    let home = Home::with_small_segments();
    let log = home.open();
    append(&log, 0..30).await;
    let time = |number| certificate(number).time;
    let firsts = crate::issuance_log::segments::list(log.dir()).unwrap();
    assert!(firsts.len() > 3, "{firsts:?}");
    let first_since = |time| log.reader().first_since(time).unwrap();
    assert_eq!(first_since(time(0)), 0);
    assert_eq!(first_since(time(29) + Duration::from_secs(1)), *firsts.last().unwrap());
    for number in 1..30 {
        let found = first_since(time(number));
        assert!(found < number && firsts.contains(&found), "{found} for {number}");
        assert!(firsts.iter().all(|first| *first <= found || *first >= number), "{found} for {number}");
    }
}

#[tokio::test]
async fn leading_zeros_of_a_serial_number_do_not_count() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..1).await;
    assert_eq!(log.find_serial(&[&[0, 0], &serial(0)[..]].concat()).await.unwrap(), Some(0));
}

#[tokio::test]
async fn the_latest_certificate_is_the_one_recorded_last() {
    let home = Home::new();
    let log = home.open();
    let mut entries = [certificate(5), certificate(3)];
    for entry in &mut entries {
        let EntryBody::Certificate(certificate) = &mut entry.body else { unreachable!() };
        certificate.identity = "spiffe://example.org/ns/a/sa/b".to_owned();
        certificate.instance = String::new();
    }
    for entry in entries {
        log.append(entry).await.unwrap();
    }
    log.find_serial(&[]).await.unwrap();
    assert_eq!(log.latest_not_after("spiffe://example.org/ns/a/sa/b", ""), Some(not_after(3)));
    assert_eq!(log.latest_not_after("spiffe://example.org/ns/a/sa/b", "pod"), None);
    assert_eq!(log.latest_not_after("spiffe://example.org/ns/a/sa", ""), None);
}

/// A store whose disk can be pulled.
struct FailingStore {
    store: MemoryStore,
    fails: AtomicBool,
}

impl FailingStore {
    fn check(&self) -> std::io::Result<()> {
        if self.fails.load(Ordering::SeqCst) { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Store for FailingStore {
    fn read(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.check().map_err(|error| StoreError::Read(error.into()))?;
        self.store.read(table, key)
    }
    fn scan_prefix(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Row>, StoreError> {
        self.store.scan_prefix(table, prefix, after, limit)
    }
    fn apply(&self, batch: Batch) -> Result<(), StoreError> {
        self.check().map_err(|error| StoreError::Apply(error.into()))?;
        self.store.apply(batch)
    }
    fn flush(&self) -> Result<(), StoreError> {
        self.check().map_err(|error| StoreError::Flush(error.into()))
    }
}

#[tokio::test]
async fn a_failing_index_holds_up_no_append_and_recovers() {
    let mut home = Home::new();
    let store = Arc::new(FailingStore { store: MemoryStore::default(), fails: AtomicBool::new(false) });
    home.store = store.clone();
    let log = home.open();
    append(&log, 0..1).await;
    assert_eq!(log.find_serial(&serial(0)).await.unwrap(), Some(0));
    store.fails.store(true, Ordering::SeqCst);
    append(&log, 1..3).await;
    assert!(matches!(log.find_serial(&serial(1)).await, Err(IndexError::Behind(1))));
    assert_eq!(log.latest_not_after("spiffe://example.org/ns/shop/sa/account-0", "pod-0"), None);
    store.fails.store(false, Ordering::SeqCst);
    append(&log, 3..4).await;
    let caught_up = async {
        while log.stats().indexed_through < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), caught_up).await.unwrap();
    assert_eq!(log.find_serial(&serial(1)).await.unwrap(), Some(1));
    drop(log);
    store.fails.store(true, Ordering::SeqCst);
    assert!(matches!(home.open_error(), OpenError::Index(IndexError::Store(_))));
}

#[tokio::test]
async fn each_condition_of_a_filter_holds() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..6).await;
    log.append(act()).await.unwrap();
    let indexes = |filter: &Filter| -> Vec<u64> {
        let page = log.reader().records(filter, 0, 100).unwrap();
        assert_eq!(page.next, None);
        page.records.iter().map(|record| record.index).collect()
    };
    let filter = Filter::default;
    assert_eq!(indexes(&filter()), [0, 1, 2, 3, 4, 5, 6]);
    assert_eq!(indexes(&Filter { kind: Some(Kind::Certificate), ..filter() }), [0, 1, 2, 3, 4, 5]);
    assert_eq!(indexes(&Filter { kind: Some(Kind::Act), ..filter() }), [6]);
    let account = |n| format!("spiffe://example.org/ns/shop/sa/account-{n}");
    let exact = |id| Some(IdentityFilter::Exact(id));
    let prefix = |id: &str| Some(IdentityFilter::Prefix(id.to_owned()));
    assert_eq!(indexes(&Filter { identity: exact(account(1)), ..filter() }), [1, 4]);
    assert!(indexes(&Filter { identity: exact("spiffe://example.org".to_owned()), ..filter() }).is_empty());
    assert_eq!(indexes(&Filter { identity: prefix("spiffe://example.org/ns/shop"), ..filter() }).len(), 6);
    assert_eq!(indexes(&Filter { instance: Some("pod-2".to_owned()), ..filter() }), [2]);
    assert_eq!(indexes(&Filter { serial: Some(serial(3)), ..filter() }), [3]);
    assert_eq!(indexes(&Filter { since: Some(certificate(4).time), ..filter() }), [4, 5]);
    assert_eq!(indexes(&Filter { until: Some(certificate(1).time), ..filter() }), [0, 6]);
    assert_eq!(indexes(&Filter { issuer_key_id: Some(vec![2; 20]), ..filter() }).len(), 6);
    assert!(indexes(&Filter { issuer_key_id: Some(vec![3; 20]), ..filter() }).is_empty());
    assert_eq!(indexes(&Filter { profile: Some("workload".to_owned()), ..filter() }).len(), 6);
    assert!(indexes(&Filter { profile: Some("serving".to_owned()), ..filter() }).is_empty());
    let both = Filter { identity: exact(account(1)), since: Some(certificate(2).time), ..filter() };
    assert_eq!(indexes(&both), [4]);
}

#[tokio::test]
async fn pages_join_up_across_segments() {
    let home = filled(Home::with_small_segments(), 11).await;
    let reader = LogReader::of_stopped(&home.dir()).unwrap();
    let (mut indexes, mut next) = (Vec::new(), Some(0));
    while let Some(from) = next {
        let page = reader.records(&Filter::default(), from, 3).unwrap();
        assert!(page.records.len() <= 3);
        indexes.extend(page.records.iter().map(|record| record.index));
        next = page.next;
    }
    assert_eq!(indexes, (0..11).collect::<Vec<_>>());
    let beyond = reader.records(&Filter::default(), 11, 3).unwrap();
    assert!(beyond.records.is_empty() && beyond.next.is_none());
    assert_eq!(reader.size(), 11);
}

#[tokio::test]
async fn what_cannot_be_read_is_named() {
    let home = filled(Home::with_small_segments(), 9).await;
    let reader = LogReader::of_stopped(&home.dir()).unwrap();
    let firsts = crate::issuance_log::segments::list(&home.dir()).unwrap();
    fs::remove_file(home.segment(firsts[1])).unwrap();
    for result in [reader.record(firsts[1]).map(drop), reader.records(&Filter::default(), 0, 100).map(drop)] {
        let error = result.unwrap_err();
        assert!(error.to_string().contains(&format!("record {}", firsts[1])), "{error}");
    }
    fs::remove_file(home.dir().join("log.vkey")).unwrap();
    assert!(matches!(LogReader::of_stopped(&home.dir()), Err(ReadError::VerifierKey(_))));
}
