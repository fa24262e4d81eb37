//! Issuance logs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use prost::Message;
use signet_ca_server::data_folder::DataFolder;
use signet_ca_server::issuance_log::{ActEntry, Entry, IssuanceLog, Options};
use signet_ca_server::store::MemoryStore;
use signet_proto::signet::log::v1 as proto;
use signet_tests::fuzzing::{log_folder, pki};

use super::seed;

fn act(kind: &str) -> ActEntry {
    let text = |text: &str| text.to_owned();
    ActEntry { kind: text(kind), actor: text("uid:0"), subject: text("0202"), reason: text("start") }
}

/// A record's body without its place, which the target puts before it.
fn body(certificate: Option<u8>) -> Vec<u8> {
    let body = match certificate {
        None => proto::record::Body::Act(proto::Act { kind: "start".into(), ..proto::Act::default() }),
        Some(serial) => proto::record::Body::Certificate(proto::Certificate {
            serial: vec![serial; 16],
            identity: pki::workload().to_string(),
            evidence: Some(proto::Evidence { kind: "token".into(), ..proto::Evidence::default() }),
            key_hash: vec![1; 32],
            not_before: 1_800_000_000,
            not_after: 1_800_086_400,
            profile: "workload".into(),
            root_digests: vec![vec![2; 32]],
            certificate_hash: vec![3; 32],
            ..proto::Certificate::default()
        }),
    };
    proto::Record { time: 1_800_000_000_000_000, body: Some(body), ..proto::Record::default() }
        .encode_to_vec()
}

fn record(flags: u8, body: &[u8]) -> Vec<u8> {
    [&[flags], &u16::try_from(body.len()).unwrap().to_le_bytes()[..], body].concat()
}

pub(super) fn logs() {
    let (first, second, start) = (body(Some(1)), body(Some(2)), body(None));
    for (name, records) in [
        ("empty", vec![]),
        ("three", vec![record(0, &start), record(0, &first), record(0, &second)]),
        ("segments", vec![record(0, &start), record(1, &first), record(1, &second)]),
        ("serial-twice", vec![record(0, &first), record(0, &first)]),
        ("wrong-checksum", vec![record(0, &first), record(4, &second), record(0, &start)]),
        ("wrong-checksum-at-the-end", vec![record(0, &first), record(4, &second)]),
        ("wrong-length", vec![record(0, &first), record(8, &second)]),
        ("wrong-header", vec![record(0, &first), record(17, &second)]),
        ("no-place", vec![record(0, &first), record(2, &second)]),
        ("torn", vec![record(0, &first), record(32, &second[..20])]),
        ("no-body", vec![record(0, &[]), record(0, &first)]),
        ("later-layout", vec![record(0, &[8, 2])]),
        ("empty-segment", vec![record(0, &first), record(33, &[]), record(1, &second)]),
    ] {
        seed("segments", name, records.concat());
    }
    let folder = log_folder();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for (name, records) in [("folder", 3), ("folder-of-one", 1)] {
        write(folder.path(), &runtime, records);
        let dir = folder.path().join("log");
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&dir).unwrap().map(Result::unwrap) {
            files.extend(format!("=== {}\n", entry.file_name().to_str().unwrap()).into_bytes());
            files.extend(std::fs::read(entry.path()).unwrap());
            files.push(b'\n');
        }
        seed("segments", name, files);
    }
}

fn write(folder: &Path, runtime: &tokio::runtime::Runtime, records: usize) {
    let options =
        Options { segment_bytes: 200, checkpoint_interval: Duration::from_secs(3600), ..Options::default() };
    let data = DataFolder::open(folder).unwrap();
    let log = IssuanceLog::open(&data, Arc::new(MemoryStore::default()), &options).unwrap();
    for _ in 0..records {
        runtime.block_on(log.append(Entry::act(pki::now(), act("authority-active")))).unwrap();
    }
    log.close();
}
