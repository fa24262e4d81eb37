//! An issuance log's folder: its files one behind the other (`=== hashes`), or records for which good segments
//! are made. A record is flags (1 byte), a length (2, little-endian) and so many bytes of its body.

use std::fs;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use ring::signature::{Ed25519KeyPair, KeyPair};
use signet_ca_server::data_folder::DataFolder;
use signet_ca_server::fuzzing::{encoded, recovered};
use signet_ca_server::issuance_log::{
    ActEntry, Entry, Filter, IssuanceLog, LogReader, LogVerifier, Options, Record, VerifyError, verify,
};
use signet_ca_server::store::MemoryStore;
use signet_certs::pem;
use tempfile::TempDir;

use super::{parts, pki};

/// Before this record a new segment begins.
const NEW_SEGMENT: u8 = 1;
/// The body does not begin with its place in the log.
const NO_PLACE: u8 = 2;
/// The checksum is another one.
const WRONG_CHECKSUM: u8 = 4;
/// The length is another one.
const WRONG_LENGTH: u8 = 8;
/// The header of the new segment has a flipped bit, its checksum not.
const WRONG_HEADER: u8 = 16;
/// Just these bytes, without a frame.
const NO_FRAME: u8 = 32;

/// A folder reads and opens or is refused, in little time and memory. What is read back is what was written;
/// what verifies opens; what opens takes a record and verifies with it.
pub fn segments(data: &[u8]) {
    let folder = log_folder();
    let dir = folder.path().join("log");
    if data.starts_with(b"=== ") {
        put_files(&dir, data);
    } else {
        put_records(&dir, data);
    }
    let Ok(verifier) = LogVerifier::of_folder(&dir) else { return };
    let records = LogReader::of_stopped(&dir).ok().and_then(|reader| read(&reader));
    let verified = verify(&dir, &verifier, None);
    if let Ok(report) = &verified {
        assert_eq!(records.as_ref().map(Vec::len), usize::try_from(report.records).ok());
    }
    let recovered = DataFolder::open(folder.path()).ok().and_then(|folder| recovered(&folder).ok());
    assert!(recovered.is_some() || verified.is_err(), "a log in order does not open");
    // Threads take longer than all the rest.
    let is_one_in_eight = data.iter().fold(0, |sum: u8, byte| sum.wrapping_add(*byte)).is_multiple_of(8);
    if let (Some(size), Some(records)) = (recovered, records) {
        assert_eq!(size, records.len() as u64);
        if !is_one_in_eight {
            return;
        }
        let log = open(folder.path()).unwrap();
        go_on(&log, &records);
        drop(log);
        match verify(&dir, &verifier, None) {
            Ok(report) => assert_eq!(report.records, records.len() as u64 + 1),
            // Neither is looked for when a log opens.
            Err(VerifyError::DuplicateSerial { .. } | VerifyError::Hash { .. }) => {}
            Err(error) => panic!("an open log does not verify: {error}"),
        }
    }
}

/// A data folder with a log that has a key and no record.
pub fn log_folder() -> TempDir {
    static EMPTY: LazyLock<Vec<(&str, Vec<u8>)>> = LazyLock::new(|| {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("log-key.pem"), log_key()).unwrap();
        fs::create_dir(folder.path().join("log")).unwrap();
        fs::write(folder.path().join("VERSION"), "1\n").unwrap();
        open(folder.path()).unwrap().close();
        let files = ["VERSION", "log-key.pem", "log/log.vkey", "log/checkpoint", "log/hashes"];
        files.map(|name| (name, fs::read(folder.path().join(name)).unwrap())).to_vec()
    });
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("log")).unwrap();
    for (name, content) in EMPTY.iter() {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

/// PKCS#8 with the public half, which a log's key has.
fn log_key() -> String {
    const SEED: [u8; 32] = [6; 32];
    let public = Ed25519KeyPair::from_seed_unchecked(&SEED).unwrap().public_key().as_ref().to_vec();
    let before = [0x30, 0x51, 2, 1, 1, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    pem::encode("PRIVATE KEY", &[&before[..], &SEED, &[0x81, 0x21, 0], &public].concat())
}

fn open(folder: &Path) -> Option<IssuanceLog> {
    let options = Options { checkpoint_interval: Duration::from_secs(3600), ..Options::default() };
    let folder = DataFolder::open(folder).ok()?;
    IssuanceLog::open(&folder, Arc::new(MemoryStore::default()), &options).ok()
}

fn put_files(dir: &Path, data: &[u8]) {
    for (name, content) in parts(data).into_iter().take(8) {
        let Ok(name) = str::from_utf8(name) else { continue };
        let segment = name
            .strip_suffix(".seg")
            .is_some_and(|first| first.len() == 20 && first.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        if segment || ["hashes", "checkpoint", "log.vkey"].contains(&name) {
            fs::write(dir.join(name), content).unwrap();
        }
    }
}

fn put_records(dir: &Path, data: &[u8]) {
    let log_id = LogVerifier::of_folder(dir).unwrap().log_id();
    let mut segment = header(&log_id, 0, (0, 0));
    let (mut first, mut index) = (0_u64, 0_u64);
    let mut rest = data;
    while let [flags, low, high, more @ ..] = rest {
        let (given, behind) = more.split_at(more.len().min(usize::from(u16::from_le_bytes([*low, *high]))));
        rest = behind;
        let has = |flag: u8| flags & flag != 0;
        if has(NEW_SEGMENT) {
            fs::write(dir.join(format!("{first:020}.seg")), &segment).unwrap();
            segment = header(&log_id, index, (first, segment.len() as u64));
            segment[30] ^= u8::from(has(WRONG_HEADER));
            first = index;
        }
        if has(NO_FRAME) {
            segment.extend_from_slice(given);
            continue;
        }
        let mut body = Vec::new();
        if !has(NO_PLACE) {
            body.extend_from_slice(&[0x08, 1, 0x12, 32]);
            body.extend_from_slice(&log_id);
            body.push(0x18);
            prost::encoding::encode_varint(index, &mut body);
        }
        body.extend_from_slice(given);
        let length = (body.len() as u32) ^ (u32::from(has(WRONG_LENGTH)) << 4);
        let checksum = crc32fast::hash(&body) ^ u32::from(has(WRONG_CHECKSUM));
        segment.extend_from_slice(&length.to_le_bytes());
        segment.extend_from_slice(&checksum.to_le_bytes());
        segment.extend_from_slice(&body);
        index += 1;
    }
    fs::write(dir.join(format!("{first:020}.seg")), &segment).unwrap();
}

fn header(log_id: &[u8; 32], first: u64, previous: (u64, u64)) -> Vec<u8> {
    let numbers = [first, previous.0, previous.1].map(u64::to_le_bytes).concat();
    let mut header = [b"signetlg", &1_u32.to_le_bytes()[..], log_id, &numbers, &[0; 4]].concat();
    header.extend_from_slice(&crc32fast::hash(&header).to_le_bytes());
    header
}

/// All records, if all of them can be read.
fn read(reader: &LogReader) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    let mut from = Some(0);
    while let Some(at) = from {
        let page = reader.records(&Filter::default(), at, 100).ok()?;
        records.extend(page.records);
        from = page.next;
    }
    assert_eq!(records.len() as u64, reader.size());
    for (index, record) in records.iter().enumerate() {
        assert_eq!(record.index, index as u64);
        assert_eq!(Record::decode(&encoded(record.clone())).unwrap(), *record, "written again");
        serde_json::to_string(record).unwrap();
    }
    Some(records)
}

/// Another record goes in behind those that are there, which stay as they were.
fn go_on(log: &IssuanceLog, records: &[Record]) {
    let act = ActEntry {
        kind: "fuzzing".to_owned(),
        actor: "uid:0".to_owned(),
        subject: String::new(),
        reason: String::new(),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let index = runtime.block_on(log.append(Entry::act(pki::now(), act))).unwrap();
    assert_eq!(index, records.len() as u64);
    let again = read(log.reader()).unwrap();
    assert_eq!(again[..records.len()], *records);
    log.close();
}
