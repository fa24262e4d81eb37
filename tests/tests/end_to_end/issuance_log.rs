//! The issuance log as an operator sees it: everything signed is in it, it proves what it holds, and what
//! was done to it behind the server's back is found.

use std::fs;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::Value;
use signet_certs::digest::sha256;
use signet_tests::harness::ca::{Ca, done, failed, records};
use signet_tests::harness::caller::{Answer, Caller};
use signet_tests::harness::site::{IDENTITY, ISSUER, Site, token_issuer};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A CA that issued one certificate each to these service accounts.
async fn issued(site: &Site, accounts: &[&str]) -> (Ca, Vec<Answer>) {
    let ca = site.ca(&[]).await;
    let caller = Caller::to(site, &ca).await;
    let mut answers = Vec::new();
    for account in accounts {
        answers.push(caller.ask(site.ask_for(&site.token(account))).await.unwrap());
    }
    (ca, answers)
}

#[tokio::test]
async fn a_record_says_who_got_what_why_and_with_which_roots() {
    let site = Site::default();
    let ca = site.ca(&[]).await;
    let draft = site.draft();
    let token = token_issuer().sign(&draft).unwrap();
    let answer = Caller::to(&site, &ca).await.ask(site.ask_for(&token)).await.unwrap();
    let record = ca.records(&["--serial", &answer.serial()]).remove(0);

    let (pod, node) = (&draft.claims["kubernetes.io"]["pod"], &draft.claims["kubernetes.io"]["node"]);
    let evidence = &record["evidence"];
    assert_eq!((&evidence["kind"], &evidence["issuer"]), (&"token".into(), &ISSUER.into()));
    let id = sha256(draft.claims["jti"].as_str().unwrap().as_bytes());
    assert_eq!(evidence["token_id_hash"], hex(&id));
    assert_eq!((&evidence["pod_name"], &evidence["pod_uid"]), (&pod["name"], &pod["uid"]));
    assert_eq!((&evidence["node_name"], &evidence["node_uid"]), (&node["name"], &node["uid"]));
    assert_eq!((&record["identity"], &record["instance"]), (&IDENTITY.into(), &pod["uid"]));
    let leaf = answer.leaf();
    assert_eq!(record["serial"], answer.serial());
    assert_eq!(record["key_hash"], hex(&sha256(&leaf.facts().spki)));
    assert_eq!(record["certificate_hash"], hex(&leaf.digest()));
    assert_eq!(record["issuer_key_id"], hex(&site.certificates("cacerts/ca-cert.pem")[0].key_id()));
    assert_eq!(
        record["root_digests"],
        Value::from(vec![hex(&site.certificates("root/root-cert.pem")[0].digest())])
    );
    let validity = leaf.facts().validity;
    assert_eq!(record["not_before"], signet_certs::clock::rfc3339(validity.not_before));
    assert_eq!(record["not_after"], signet_certs::clock::rfc3339(validity.not_after));
    assert_eq!((&record["kind"], &record["profile"]), (&"certificate".into(), &"workload".into()));
    for (field, header) in
        [("trust_epoch", "x-signet-trust-epoch"), ("trust_sequence", "x-signet-trust-sequence")]
    {
        assert_eq!(record[field].to_string(), answer.headers.get(header).unwrap().to_str().unwrap());
    }
    let line = ca.process.message("certificate issued").await;
    assert_eq!((&record["request_id"], &record["index"]), (&line.json["request_id"], &line.json["index"]));
}

#[tokio::test]
async fn whatever_is_signed_is_listed_and_filters_find_it() {
    let site = Site::default();
    let (ca, answers) = issued(&site, &["sleep", "reviews", "sleep"]).await;
    let all = ca.records(&[]);
    let indexes: Vec<_> = all.iter().map(|record| record["index"].as_u64().unwrap()).collect();
    assert_eq!(indexes, [0, 1, 2, 3, 4]);
    let serials = |flags: &[&str]| -> Vec<String> {
        let listed = ca.records(flags);
        listed.iter().map(|record| record["serial"].as_str().unwrap_or("act").to_owned()).collect()
    };
    let [first, second, third] = [0, 1, 2].map(|at: usize| answers[at].serial());
    // The port's own certificate is one like any other.
    let presented = {
        let url = ca.listen.to_string();
        let connect = ["s_client", "-connect", &url, "-alpn", "h2", "-showcerts"];
        signet_tests::harness::openssl::openssl(site.folder(), &connect)
    };
    let presented = CertificateDer::pem_slice_iter(presented.as_bytes()).next().unwrap().unwrap();
    let serving = ca.records(&["--profile", "serving"]).remove(0);
    assert_eq!(serving["certificate_hash"], hex(&sha256(&presented)));
    assert!(serving["dns_names"].as_array().unwrap().contains(&"localhost".into()));
    let act = ca.records(&["--kind", "act"]).remove(0);
    assert_eq!((&act["act"], &act["actor"]), (&"authority-active".into(), &"ca-server".into()));

    let (issuer, pod) = (all[4]["issuer_key_id"].as_str().unwrap(), all[4]["instance"].as_str().unwrap());
    assert_eq!(serials(&["--identity", IDENTITY]), [first.as_str(), &third]);
    assert_eq!(serials(&["--identity", "spiffe://cluster.local/ns/default/sa/r*"]), [second.as_str()]);
    assert_eq!(serials(&["--instance", pod]), [first.as_str(), &third]);
    assert_eq!(serials(&["--serial", &second.to_uppercase()]), [second.as_str()]);
    assert_eq!(serials(&["--profile", "workload", "--issuer", issuer]), [first.as_str(), &second, &third]);
    assert_eq!(serials(&["--issuer", "00ff"]), [""; 0]);
    assert_eq!(serials(&["--from", "3"]), [second.as_str(), &third]);
    assert_eq!(serials(&["--from", "2", "--limit", "1"]), [first.as_str()]);
    assert_eq!(serials(&["--since", "1h", "--kind", "certificate"]).len(), 4);
    assert_eq!(serials(&["--until", "1h"]), [""; 0]);
    assert_eq!(serials(&["--since", all[4]["time"].as_str().unwrap()]), [third.as_str()]);
    let (code, text) = failed(&ca.operator(&["log", "list", "--serial", "xyz"]));
    assert!(code != 0 && text.contains("hex"), "{text}");

    let table = done(ca.operator(&["log", "list"]));
    let mut lines = table.lines();
    assert!(lines.next().unwrap().starts_with("INDEX"), "{table}");
    assert!(lines.next_back().unwrap().contains(&third), "{table}");
}

#[tokio::test]
async fn a_record_is_proven_and_an_unknown_one_is_not() {
    let site = Site::default();
    let (ca, answers) = issued(&site, &["sleep", "reviews"]).await;
    let serial = answers[0].serial();
    let proof = ca.json(&["log", "prove", "--serial", &serial]);
    assert_eq!(
        (&proof["record"]["serial"], &proof["record"]["identity"]),
        (&serial.as_str().into(), &IDENTITY.into())
    );
    let table = done(ca.operator(&["log", "prove", "--serial", &serial]));
    assert!(table.starts_with("proven    record 2 of 4"), "{table}");
    let (code, text) = failed(&ca.operator(&["log", "prove", "--serial", "0badc0de"]));
    assert_eq!(code, 1);
    assert!(text.contains("no certificate with this serial number"), "{text}");
}

#[tokio::test]
async fn a_log_is_verified_while_it_runs_after_it_stopped_and_against_checkpoints() {
    let site = Site::default();
    let (ca, answers) = issued(&site, &["sleep", "reviews"]).await;
    let checkpoint = done(ca.operator(&["log", "checkpoint"]));
    let since = site.path("checkpoint");
    fs::write(&since, &checkpoint).unwrap();
    let since = since.to_str().unwrap();
    Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();

    let report = ca.json(&["log", "verify", "--since", since]);
    let count = |report: &Value, field: &str| report[field].as_u64().unwrap();
    assert_eq!((count(&report, "records"), count(&report, "certificates")), (5, 4));
    assert_eq!((count(&report, "acts"), count(&report, "since_size")), (1, 4));

    // Another log's checkpoint is not one of this log.
    let elsewhere = Site::default();
    let (other, _) = issued(&elsewhere, &["sleep"]).await;
    let foreign = site.path("foreign");
    fs::write(&foreign, done(other.operator(&["log", "checkpoint"]))).unwrap();
    let foreign = foreign.to_str().unwrap();
    assert_eq!(failed(&ca.operator(&["log", "verify", "--since", foreign])).0, 1);

    // A running server's folder is its own.
    for verb in ["list", "verify"] {
        let (code, text) = failed(&site.operator(&["log", verb, "--data", "data"]));
        assert_eq!(code, 2, "{text}");
        assert!(text.contains("running server") && text.contains("admin socket"), "{text}");
    }
    let listed = ca.records(&[]);
    let (status, _) = ca.process.terminated().await;
    assert!(status.success());
    assert_eq!(records(site.operator(&["log", "list", "-o", "json", "--data", "data"])), listed);
    let report = done(site.operator(&["log", "verify", "-o", "json", "--data", "data", "--since", since]));
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((count(&report, "records"), count(&report, "records_after_checkpoint")), (5, 0));
    assert_eq!(failed(&site.operator(&["log", "verify", "--data", "data", "--since", foreign])).0, 1);
    assert_eq!(answers.len(), 2);
}

/// The first segment's file.
const SEGMENT: &str = "data/log/00000000000000000000.seg";
/// Bytes before its first record's frame, and of a frame before the record.
const HEADER: usize = 76;
const FRAME_HEADER: usize = 8;

/// The site of a CA that was stopped in order and had four records, with an exported checkpoint of all of them.
async fn stopped() -> (Site, String) {
    let site = Site::default();
    let (ca, _) = issued(&site, &["sleep", "reviews"]).await;
    let since = site.path("checkpoint");
    fs::write(&since, done(ca.operator(&["log", "checkpoint"]))).unwrap();
    ca.process.terminated().await;
    let since = since.to_str().unwrap().to_owned();
    verified(&site, &["--since", &since]);
    (site, since)
}

fn verified(site: &Site, flags: &[&str]) {
    done(site.operator(&[&["log", "verify", "--data", "data"], flags].concat()));
}

/// `log verify` fails, and says this.
fn not_verified(site: &Site, flags: &[&str], what: &str) {
    let (code, text) = failed(&site.operator(&[&["log", "verify", "--data", "data"], flags].concat()));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("does not verify") && text.contains(what), "{text}");
}

/// The frames of a segment's records.
fn frames(segment: &[u8]) -> Vec<std::ops::Range<usize>> {
    let (mut frames, mut begin) = (Vec::new(), HEADER);
    while begin < segment.len() {
        let length = u32::from_le_bytes(segment[begin..begin + 4].try_into().unwrap());
        let end = begin + FRAME_HEADER + length as usize;
        frames.push(begin..end);
        begin = end;
    }
    frames
}

#[tokio::test]
async fn a_flipped_byte_is_found_wherever_it_is() {
    let (site, _) = stopped().await;
    let segment = fs::read(site.path(SEGMENT)).unwrap();
    let second = frames(&segment)[1].clone();
    let last = segment.len() - 1;
    let hashes = "data/log/hashes";
    let note = fs::read_to_string(site.path("data/log/checkpoint")).unwrap();
    let signature = note.len() - 10;
    for (file, at, place) in [
        (SEGMENT, 0, "the header's magic"),
        (SEGMENT, 9, "the header's layout"),
        (SEGMENT, 20, "the header's log id"),
        (SEGMENT, 44, "the header's first index"),
        (SEGMENT, HEADER - 1, "the header's checksum"),
        (SEGMENT, second.start, "a frame's length"),
        (SEGMENT, second.start + 3, "a frame's length, beyond all bounds"),
        (SEGMENT, second.start + 4, "a frame's checksum"),
        (SEGMENT, second.start + FRAME_HEADER, "the begin of a record"),
        (SEGMENT, second.end - 1, "the end of a record"),
        (SEGMENT, last, "the last byte of all"),
        (hashes, 0, "the first hash"),
        (hashes, 6 * 32 + 31, "the last hash"),
        ("data/log/checkpoint", 1, "the checkpoint's origin"),
        ("data/log/checkpoint", 24, "the checkpoint's size"),
        ("data/log/checkpoint", 30, "the checkpoint's root"),
        ("data/log/checkpoint", signature, "the checkpoint's signature"),
    ] {
        let path = site.path(file);
        let good = fs::read(&path).unwrap();
        let mut bad = good.clone();
        bad[at] ^= 1;
        fs::write(&path, bad).unwrap();
        let (code, text) = failed(&site.operator(&["log", "verify", "--data", "data"]));
        assert_eq!(code, 1, "{place}: {text}");
        assert!(text.contains("does not verify"), "{place}: {text}");
        fs::write(&path, good).unwrap();
    }
    verified(&site, &[]);
}

#[tokio::test]
async fn a_tail_that_was_dropped_with_every_trace_is_found_by_an_exported_checkpoint() {
    let site = Site::default();
    let (ca, _) = issued(&site, &["sleep"]).await;
    ca.process.terminated().await;
    let names = [SEGMENT, "data/log/hashes", "data/log/checkpoint"];
    let before = names.map(|name| fs::read(site.path(name)).unwrap());
    let ca = site.ca(&[]).await;
    Caller::to(&site, &ca).await.ask(site.ask()).await.unwrap();
    let since = site.path("checkpoint");
    fs::write(&since, done(ca.operator(&["log", "checkpoint"]))).unwrap();
    let since = ["--since", since.to_str().unwrap()];
    ca.process.terminated().await;
    verified(&site, &since);

    let segment = fs::read(site.path(SEGMENT)).unwrap();
    let cut = frames(&segment).last().unwrap().start;
    fs::write(site.path(SEGMENT), &segment[..cut]).unwrap();
    not_verified(&site, &[], "records are lost");

    // As it was earlier, it is in order for whoever kept nothing.
    for (name, content) in names.iter().zip(before) {
        fs::write(site.path(name), content).unwrap();
    }
    verified(&site, &[]);
    not_verified(&site, &since, "records are lost: the earlier checkpoint knows of");
}

#[tokio::test]
async fn a_swapped_record_is_found() {
    let (site, since) = stopped().await;
    let mut segment = fs::read(site.path(SEGMENT)).unwrap();
    let frames = frames(&segment);
    let (second, third) = (frames[1].clone(), frames[2].clone());
    segment[second.start..third.end].rotate_left(second.len());
    fs::write(site.path(SEGMENT), segment).unwrap();
    not_verified(&site, &[], "expected record 1 of");
    not_verified(&site, &["--since", &since], "found record 2 of");
}

#[tokio::test]
async fn a_removed_segment_is_found() {
    let (site, since) = stopped().await;
    // A segment takes 64 MiB of records, so this log is put into two by hand.
    let whole = fs::read(site.path(SEGMENT)).unwrap();
    let (first, rest) = whole.split_at(frames(&whole)[2].start);
    let mut header = whole[..HEADER].to_vec();
    header[44..52].copy_from_slice(&2_u64.to_le_bytes());
    header[52..60].copy_from_slice(&0_u64.to_le_bytes());
    header[60..68].copy_from_slice(&(first.len() as u64).to_le_bytes());
    let checksum = crc32(&header[..HEADER - 4]).to_le_bytes();
    header[HEADER - 4..].copy_from_slice(&checksum);
    let second = site.path("data/log/00000000000000000002.seg");
    fs::write(site.path(SEGMENT), first).unwrap();
    fs::write(&second, [&header[..], rest].concat()).unwrap();
    verified(&site, &["--since", &since]);

    fs::remove_file(site.path(SEGMENT)).unwrap();
    not_verified(&site, &[], "00000000000000000000.seg is missing");
    fs::write(site.path(SEGMENT), first).unwrap();
    fs::remove_file(&second).unwrap();
    not_verified(&site, &[], "records are lost");
    not_verified(&site, &["--since", &since], "records are lost");
    fs::remove_file(site.path(SEGMENT)).unwrap();
    not_verified(&site, &[], "records are lost");
}

/// CRC-32 as Ethernet has it, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}
