#![allow(clippy::unwrap_used)]
use super::*;
use crate::data_folder::DataFolder;
use crate::issuance_log::record::tests::certificate;
use crate::issuance_log::{CertificateEntry, Options, RenewalEntry};
use crate::policy::tests::caller;
use crate::store::MemoryStore;
use crate::store::forgetful::ForgetfulStore;

const LONGEST: Duration = Duration::from_secs(90 * 86_400);
const IDENTITY: &str = "spiffe://example.org/ns/shop/sa/account-1";

/// A log in a folder, and a store beside it.
struct Home {
    folder: tempfile::TempDir,
    store: Arc<dyn Store>,
}

/// What runs there, and the lock on the folder.
struct Open {
    blocks: Arc<Blocks>,
    log: Arc<IssuanceLog>,
    _folder: DataFolder,
}

impl Home {
    fn new() -> Home {
        Home { folder: tempfile::tempdir().unwrap(), store: Arc::new(MemoryStore::default()) }
    }

    fn open(&self) -> Open {
        let folder = DataFolder::open(&self.folder.path().join("data")).unwrap();
        let log = Arc::new(IssuanceLog::open(&folder, self.store.clone(), &Options::default()).unwrap());
        let blocks = Arc::new(Blocks::open(self.store.clone(), log.clone(), LONGEST).unwrap());
        Open { blocks, log, _folder: folder }
    }
}

impl Open {
    async fn add(&self, kind: &str, value: &str) -> Added {
        self.blocks.add(target(kind, value), order("theft")).await.unwrap()
    }

    async fn left(&self, kind: &str, value: &str) -> (u64, Option<String>) {
        let left = self.add(kind, value).await.block.left.unwrap();
        (left.certificates, left.last_ends)
    }

    async fn record(&self, number: u64, change: impl FnOnce(&mut CertificateEntry)) {
        let mut entry = certificate(number);
        if let EntryBody::Certificate(certificate) = &mut entry.body {
            change(certificate);
        }
        self.log.append(entry).await.unwrap();
    }
}

fn target(kind: &str, value: &str) -> Target {
    Target::parse(kind, value).unwrap()
}

/// An hour after the first certificates of the made-up log.
fn now() -> SystemTime {
    certificate(0).time + Duration::from_secs(3600)
}

fn order(reason: &str) -> Order {
    Order { actor: "uid:7".to_owned(), reason: reason.to_owned(), now: now() }
}

fn ends(number: u64) -> Option<String> {
    match certificate(number).body {
        EntryBody::Certificate(certificate) => Some(rfc3339(certificate.not_after)),
        EntryBody::Act(_) => None,
    }
}

#[tokio::test]
async fn a_block_holds_from_its_answer_on_and_after_every_restart_until_it_is_ended() {
    let home = Home::new();
    let caller = caller();
    let identity = caller.identity.as_str();
    let open = home.open();
    assert_eq!(open.blocks.check(&caller), Ok(()));
    let added = open.add("identity", identity).await;
    let id = added.block.id;
    assert!(!added.already && added.block.by == "uid:7" && added.block.reason == "theft");
    let blocked = Err(Blocked { id, kind: "identity" });
    assert_eq!(open.blocks.check(&caller), blocked);

    let again = open.blocks.add(target("identity", identity), order("other words")).await.unwrap();
    assert_eq!((again.already, &again.block), (true, &added.block), "twice is once");
    assert_eq!(open.log.stats().records, 1);
    drop(open);

    let open = home.open();
    assert_eq!((open.blocks.check(&caller), open.blocks.count()), (blocked, 1));
    assert_eq!(open.blocks.list().unwrap(), std::slice::from_ref(&added.block));
    assert_eq!(open.blocks.end(id, order("found again")).await.unwrap(), added.block);
    assert_eq!((open.blocks.check(&caller), open.blocks.count()), (Ok(()), 0));
    let error = open.blocks.end(id, order("twice")).await.unwrap_err();
    assert_eq!(error.to_string(), format!("there is no block {id}"));
    let acts: Vec<_> = (0..2).map(|index| open.log.reader().record(index).unwrap().unwrap().entry).collect();
    let act =
        |kind: &str, subject: String, reason: &str| Entry::act(now(), act(kind, "uid:7", subject, reason));
    assert_eq!(acts[0], act("block", format!("identity {identity}"), "theft"));
    assert_eq!(acts[1], act("block-end", format!("{id} identity {identity}"), "found again"));
    drop(open);
    assert_eq!(home.open().blocks.check(&caller), Ok(()));
}

#[tokio::test]
async fn rows_that_are_lost_are_made_again_from_the_log() {
    let mut home = Home::new();
    let open = home.open();
    let ended = open.add("pod", "pod-1").await.block;
    open.record(1, |_| {}).await;
    open.add("node", "node-1").await;
    open.add("identity", IDENTITY).await;
    open.blocks.end(ended.id, order("over")).await.unwrap();
    let before = open.blocks.list().unwrap();
    assert_eq!(before.len(), 2);
    drop(open);

    home.store = Arc::new(MemoryStore::default());
    let open = home.open();
    let without = |blocks: &[Block]| -> Vec<Block> {
        blocks.iter().map(|block| Block { left: None, ..block.clone() }).collect()
    };
    assert_eq!(open.blocks.list().unwrap(), without(&before));
    let mut caller = caller();
    caller.evidence.node_name = "node-1".to_owned();
    assert!(open.blocks.check(&caller).is_err());
    open.blocks.count_unknown(now());
    assert_eq!(open.blocks.list().unwrap(), before);
    // What was recorded, and lost by a crash before its row, is ordered again: the later one counts.
    let act = act(ADDED, "uid:7", "pod pod-2".to_owned(), "lost");
    open.log.append(Entry::act(now(), act)).await.unwrap();
    let later = open.add("pod", "pod-2").await.block;
    drop(open);
    home.store = Arc::new(MemoryStore::default());
    let ids: Vec<u64> = home.open().blocks.list().unwrap().iter().map(|block| block.id).collect();
    assert_eq!(ids, [before[0].id, before[1].id, later.id]);
}

/// A home whose store fails on demand.
fn fragile() -> (Home, Arc<ForgetfulStore>) {
    let store = Arc::<ForgetfulStore>::default();
    (Home { store: store.clone(), ..Home::new() }, store)
}

#[tokio::test]
async fn a_block_whose_row_is_lost_by_a_failed_store_holds_from_its_act_on() {
    // The row, or its flush; and a store that is well again at once, or not before the next start.
    for (skipped, failures, crash) in [(0, 1, true), (1, 1, true), (0, u64::MAX, true), (0, 1, false)] {
        let (home, store) = fragile();
        let open = home.open();
        open.add("pod", "before").await;
        open.record(1, |_| {}).await;
        let caller = caller();
        let identity = target("identity", caller.identity.as_str());
        store.fail(store.operations() + skipped, failures);
        assert!(!open.blocks.add(identity, order("theft")).await.unwrap().already);
        assert!(open.blocks.check(&caller).is_err(), "it holds in this process");
        if crash {
            drop(open);
            store.kill(0);
            let open = home.open();
            assert!(open.blocks.check(&caller).is_err(), "after a restart");
            assert_eq!(open.blocks.list().unwrap().len(), 2);
        } else {
            assert_eq!(open.blocks.list().unwrap().len(), 2, "whoever looks finds the row");
            assert_eq!(open.add("pod", "later").await.block.id, 3);
            assert_eq!(open.blocks.count(), 3);
        }
    }
}

#[tokio::test]
async fn an_act_without_its_row_is_followed_at_the_next_start() {
    let home = Home::new();
    let open = home.open();
    let stays = open.add("pod", "stays").await.block;
    let ends = open.add("pod", "ends").await.block;
    // As a crash leaves them between the act and the row.
    let added = act(ADDED, "uid:7", "pod comes".to_owned(), "theft");
    let ended = act(ENDED, "uid:7", format!("{} pod ends", ends.id), "over");
    for act in [added, ended] {
        open.log.append(Entry::act(now(), act)).await.unwrap();
    }
    drop(open);
    for _ in 0..2 {
        let open = home.open();
        let list = open.blocks.list().unwrap();
        assert_eq!(list[0], stays, "with what it leaves");
        let ids: Vec<u64> = list.iter().map(|block| block.id).collect();
        assert_eq!((ids, open.blocks.count()), (vec![stays.id, 2], 2));
    }
}

#[tokio::test]
async fn a_block_that_ended_while_the_store_failed_has_ended_for_good() {
    let (home, store) = fragile();
    let open = home.open();
    let caller = caller();
    let id = open.add("identity", caller.identity.as_str()).await.block.id;
    store.fail(store.operations(), u64::MAX);
    open.blocks.end(id, order("over")).await.unwrap();
    assert_eq!(open.blocks.check(&caller), Ok(()));
    assert!(matches!(open.blocks.list(), Err(BlockError::Store(_))), "rows behind the log are not shown");
    drop(open);
    store.kill(0);
    let open = home.open();
    assert_eq!((open.blocks.check(&caller), open.blocks.list().unwrap()), (Ok(()), vec![]));
}

#[tokio::test]
async fn the_log_behind_the_mark_is_read_and_no_more() {
    let home = Home::new();
    let open = home.open();
    let mark = || home.store.read(Table::Meta, MARKER).unwrap().unwrap();
    open.add("pod", "a").await;
    assert_eq!(mark(), 1_u64.to_be_bytes());
    open.record(1, |_| {}).await;
    open.blocks.mark().unwrap();
    assert_eq!(mark(), 2_u64.to_be_bytes());
    drop(open);
    // Rows that somebody took away, with marks that are none of this log: all of it is read.
    for old in [b"1".to_vec(), 3_u64.to_be_bytes().to_vec()] {
        let mut batch = Batch::default();
        batch.remove(Table::Blocks, 0_u64.to_be_bytes());
        batch.put(
            Table::Blocks,
            9_u64.to_be_bytes(),
            *br#"{"id":9,"kind":"pod","value":"b","since":"","by":"","reason":""}"#,
        );
        batch.put(Table::Meta, MARKER, old);
        home.store.apply(batch).unwrap();
        let open = home.open();
        let targets: Vec<Target> =
            open.blocks.list().unwrap().into_iter().map(|block| block.target).collect();
        assert_eq!(targets, [target("pod", "a")]);
        assert_eq!(mark(), 2_u64.to_be_bytes());
    }
}

#[tokio::test]
async fn an_act_that_is_not_understood_stops_the_start_rather_than_lifting_a_block() {
    let mut home = Home::new();
    let open = home.open();
    let act = act(ADDED, "uid:7", "person somebody".to_owned(), "why");
    open.log.append(Entry::act(now(), act)).await.unwrap();
    drop(open);
    home.store = Arc::new(MemoryStore::default());
    let folder = DataFolder::open(&home.folder.path().join("data")).unwrap();
    let log = Arc::new(IssuanceLog::open(&folder, home.store.clone(), &Options::default()).unwrap());
    let error = Blocks::open(home.store.clone(), log, LONGEST).err().unwrap();
    assert_eq!(error.to_string(), "record 0 is of a block that is not understood");
}

#[tokio::test]
async fn every_change_has_a_reason_of_one_line() {
    let home = Home::new();
    let open = home.open();
    for reason in ["", "  ", "two\nlines", "\u{1b}[31m", &"x".repeat(LONGEST_REASON + 1)] {
        let error = open.blocks.add(target("pod", "a"), order(reason)).await.unwrap_err();
        assert!(matches!(error, BlockError::Reason), "{reason:?}: {error}");
        assert!(matches!(open.blocks.end(0, order(reason)).await, Err(BlockError::Reason)), "{reason:?}");
    }
    assert_eq!((open.blocks.count(), open.log.stats().records), (0, 0));
}

#[tokio::test]
async fn there_are_not_more_blocks_than_memory_is_meant_for() {
    let home = Home::new();
    let open = home.open();
    let mut batch = Batch::default();
    for id in 0..MAX_BLOCKS as u64 {
        let target = target("pod", &format!("pod-{id}"));
        let (since, by, reason) = (rfc3339(now()), "uid:7".to_owned(), "x".to_owned());
        put(&mut batch, &Block { id, target, since, by, reason, left: None }).unwrap();
    }
    home.store.apply(batch).unwrap();
    drop(open);
    let open = home.open();
    assert_eq!(open.blocks.count(), MAX_BLOCKS);
    let error = open.blocks.add(target("pod", "one-more"), order("x")).await.unwrap_err();
    assert!(error.to_string().contains("there are 100000 blocks"), "{error}");
    assert!(open.blocks.add(target("pod", "pod-9"), order("x")).await.unwrap().already);
    open.blocks.end(9, order("room")).await.unwrap();
    open.blocks.add(target("pod", "one-more"), order("x")).await.unwrap();
}

#[tokio::test]
async fn a_block_that_cannot_be_recorded_is_none() {
    let home = Home::new();
    let open = home.open();
    open.log.close();
    let error = open.blocks.add(target("pod", "a"), order("x")).await.unwrap_err();
    assert!(matches!(error, BlockError::Record(_)), "{error}");
    assert_eq!((open.blocks.count(), open.blocks.list().unwrap().len()), (0, 0));
}

#[tokio::test]
async fn what_a_block_leaves_is_counted_by_kind_and_only_while_it_lives() {
    let home = Home::new();
    let open = home.open();
    // Ended an hour before now, and of the CA itself: neither counts.
    open.record(100, |certificate| certificate.not_after = now() - Duration::from_secs(1)).await;
    open.record(103, |certificate| certificate.profile = "serving".to_owned()).await;
    for number in 1..10 {
        open.record(number, |certificate| {
            certificate.evidence.pod_uid = format!("uid-{number}");
            certificate.evidence.node_name = format!("node-{}", number % 2);
            certificate.evidence.node_uid = "node-uid".to_owned();
        })
        .await;
    }
    assert_eq!(open.left("identity", IDENTITY).await, (3, ends(7)), "1, 4 and 7");
    assert_eq!(open.left("pod", "uid-5").await, (1, ends(5)));
    assert_eq!(open.left("pod", "uid-50").await, (0, None));
    assert_eq!(open.left("node", "node-0").await, (4, ends(8)));
    assert_eq!(open.left("node", "node-uid").await, (9, ends(9)));
    assert_eq!(open.left("issuer-key", &"02".repeat(20)).await, (9, ends(9)));
}

#[tokio::test]
async fn a_chain_of_renewals_and_the_cas_beneath_a_key_count_as_one() {
    let home = Home::new();
    let open = home.open();
    let first = serial_of(1);
    open.record(1, |_| {}).await;
    for number in 2..5 {
        open.record(number, |certificate| {
            let predecessor = serial_of(number - 1);
            let renewal = RenewalEntry { predecessor, first: first.clone(), token_time: now() };
            certificate.evidence.renewal = Some(renewal);
        })
        .await;
    }
    let serial = signet_certs::serial::Serial::from_bytes(&first).to_string();
    assert_eq!(open.left("serial", &serial).await, (4, ends(4)));
    open.record(5, |certificate| {
        certificate.profile = "issuing-intermediate".to_owned();
        certificate.issuer_key_id = vec![0xaa; 20];
        certificate.subject_key_id = vec![0xbb; 20];
    })
    .await;
    open.record(6, |certificate| certificate.issuer_key_id = vec![0xbb; 20]).await;
    assert_eq!(open.left("issuer-key", &"aa".repeat(20)).await, (1, ends(6)));
    assert_eq!(open.left("issuer-key", &"bb".repeat(20)).await, (1, ends(6)));
}

fn serial_of(number: u64) -> Vec<u8> {
    match certificate(number).body {
        EntryBody::Certificate(certificate) => certificate.serial,
        EntryBody::Act(_) => Vec::new(),
    }
}
