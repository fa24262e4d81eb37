#![allow(clippy::unwrap_used)]
use super::*;
use crate::data_folder::DataFolder;
use crate::issuance_log::record::tests::certificate;
use crate::issuance_log::{CertificateEntry, Options, RenewalEntry};
use crate::policy::tests::caller;
use crate::store::MemoryStore;

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
