//! `verify`, proofs, and everything that they must not let pass.

use proptest::prelude::*;

use super::*;
use crate::issuance_log::{
    CheckError, Proof, ProveError, SegmentError, VerifyError, VerifyReport, check_proof, verify,
};

fn verify_stopped(home: &Home, since: Option<&str>) -> Result<VerifyReport, VerifyError> {
    verify(&home.dir(), &home.verifier(), since)
}

#[tokio::test]
async fn a_log_in_order_is_reported() {
    let home = Home::with_small_segments();
    let log = home.open();
    append(&log, 0..5).await;
    log.append(act()).await.unwrap();
    log.checkpoint().await.unwrap();
    append(&log, 5..7).await;
    let running = log.verify(None).unwrap();
    assert_eq!((running.records, running.certificates, running.acts), (8, 7, 1));
    assert_eq!((running.checkpoint_size, running.records_after_checkpoint), (6, 2));
    assert_eq!(running.log_id, log.verifier().log_id());
    assert_eq!(running.first_time, Some(certificate(0).time));
    assert_eq!(running.last_time, Some(certificate(6).time));
    assert_eq!(running.segments, crate::issuance_log::segments::list(&home.dir()).unwrap().len() as u64);
    assert_eq!(verify_stopped(&home.crashed(), None).unwrap(), running);
    drop(log);
    let stopped = verify_stopped(&home, None).unwrap();
    assert_eq!((stopped.checkpoint_size, stopped.records_after_checkpoint), (8, 0));
    assert_eq!(stopped.root, running.root);
    let json = serde_json::to_value(&stopped).unwrap();
    assert_eq!(json["records"], 8);
    assert_eq!(json["last_time"], "2026-09-21T14:13:26Z");
}

#[tokio::test]
async fn an_empty_log_is_in_order() {
    let home = filled(Home::new(), 0).await;
    let report = verify_stopped(&home, None).unwrap();
    assert_eq!((report.records, report.segments, report.first_time), (0, 0, None));
    assert_eq!(report.root, tlog_tiles::EMPTY_HASH.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_log_is_verified_while_it_grows() {
    let home = Home::with_small_segments();
    let log = Arc::new(home.open());
    let growing = log.clone();
    let appends = tokio::spawn(async move { append(&growing, 0..300).await });
    let reading = log.clone();
    let reports = tokio::task::spawn_blocking(move || {
        let mut sizes = vec![reading.verify(None).unwrap().records];
        while *sizes.last().unwrap() < 300 {
            sizes.push(reading.verify(None).unwrap().records);
        }
        sizes
    });
    appends.await.unwrap();
    assert!(reports.await.unwrap().is_sorted());
}

#[tokio::test]
async fn an_unfinished_end_is_reported_and_no_fault() {
    let home = filled(Home::new(), 2).await;
    edit(&home.segment(0), |bytes| bytes.extend_from_slice(&[1; 11]));
    let report = verify_stopped(&home, None).unwrap();
    assert_eq!((report.records, report.unfinished_bytes), (2, 11));
}

#[tokio::test]
async fn each_flipped_byte_of_a_log_is_found() {
    let home = filled(Home::with_small_segments(), 6).await;
    let firsts = crate::issuance_log::segments::list(&home.dir()).unwrap();
    for first in &firsts {
        let path = home.segment(*first);
        let last_record = home.frames(*first).last().unwrap().start;
        for at in (0..fs::metadata(&path).unwrap().len()).step_by(13) {
            let at = usize::try_from(at).unwrap();
            edit(&path, |bytes| bytes[at] ^= 4);
            match verify_stopped(&home, None).unwrap_err() {
                VerifyError::Segment(SegmentError::Damaged { path: named, .. }) => assert_eq!(named, path),
                // The last record of all could be a torn one, but it is known to have been whole.
                VerifyError::Shortened { expected: 6, found: 5, .. } => {
                    assert!(first == firsts.last().unwrap() && at >= last_record);
                }
                other => panic!("byte {at} of {}: {other:?}", path.display()),
            }
            edit(&path, |bytes| bytes[at] ^= 4);
        }
    }
    let path = home.dir().join("hashes");
    for at in 0..usize::try_from(fs::metadata(&path).unwrap().len()).unwrap() {
        edit(&path, |bytes| bytes[at] ^= 4);
        match verify_stopped(&home, None).unwrap_err() {
            VerifyError::Hash { offset, expected, found, .. } => {
                assert_eq!(offset, (at / 32 * 32) as u64);
                assert_ne!(expected, found);
            }
            other => panic!("{other:?}"),
        }
        edit(&path, |bytes| bytes[at] ^= 4);
    }
    verify_stopped(&home, None).unwrap();
}

#[tokio::test]
async fn removed_and_swapped_records_are_found_in_any_segment() {
    let home = filled(Home::with_small_segments(), 8).await;
    let firsts = crate::issuance_log::segments::list(&home.dir()).unwrap();
    let copy = home.crashed();
    fs::remove_file(copy.segment(firsts[1])).unwrap();
    match verify_stopped(&copy, None).unwrap_err() {
        VerifyError::Segment(SegmentError::Missing { index, .. }) => assert_eq!(index, firsts[1]),
        other => panic!("{other:?}"),
    }
    let frames = home.frames(0);
    assert_eq!(frames[0].len() + 2, frames[1].len(), "an index of 0 takes no bytes");
    let frames = home.frames(firsts[1]);
    edit(&home.segment(firsts[1]), |bytes| {
        bytes[frames[0].start..frames[1].end].rotate_left(frames[0].len());
    });
    match verify_stopped(&home, None).unwrap_err() {
        VerifyError::Segment(SegmentError::Damaged { index, offset, .. }) => {
            assert_eq!((index, offset), (firsts[1], frames[0].start as u64));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_shortened_log_is_found_by_what_stands_beside_it() {
    let home = filled(Home::new(), 4).await;
    let frames = home.frames(0);
    edit(&home.segment(0), |bytes| bytes.truncate(frames[3].start));
    match verify_stopped(&home, None).unwrap_err() {
        VerifyError::Shortened { witness, expected: 4, found: 3 } => assert!(witness.ends_with("hashes")),
        other => panic!("{other:?}"),
    }
    edit(&home.dir().join("hashes"), |bytes| bytes.truncate(3 * 32));
    match verify_stopped(&home, None).unwrap_err() {
        VerifyError::Shortened { witness, expected: 4, found: 3 } => assert!(witness.ends_with("checkpoint")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn hashes_that_end_early_are_found_below_the_checkpoint_only() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..3).await;
    log.checkpoint().await.unwrap();
    append(&log, 3..4).await;
    let crashed = home.crashed();
    let path = crashed.dir().join("hashes");
    edit(&path, |bytes| bytes.truncate(4 * 32));
    assert_eq!(verify_stopped(&crashed, None).unwrap().records, 4);
    edit(&path, |bytes| bytes.truncate(3 * 32));
    match verify_stopped(&crashed, None).unwrap_err() {
        VerifyError::Hash { index: 2, found, .. } => assert_eq!(found, "the end of the file"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_serial_number_used_twice_is_found() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..5).await;
    append(&log, 2..3).await;
    match log.verify(None).unwrap_err() {
        VerifyError::DuplicateSerial { first: 2, second: 5 } => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn an_earlier_checkpoint_must_be_one_of_the_same_history() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..3).await;
    let earlier = log.checkpoint().await.unwrap().note;
    append(&log, 3..6).await;
    assert_eq!(log.verify(Some(&earlier)).unwrap().since_size, Some(3));
    drop(log);
    assert_eq!(verify_stopped(&home, Some(&earlier)).unwrap().since_size, Some(3));

    // The same key with another history, as long and consistent in itself.
    let forked = Home::new();
    drop(forked.open());
    fs::remove_dir_all(forked.dir()).unwrap();
    fs::copy(home.data().join("log-key.pem"), forked.data().join("log-key.pem")).unwrap();
    let forked = Home { store: Arc::new(MemoryStore::default()), ..forked };
    let forked = filled(forked, 0).await;
    let log = forked.open();
    append(&log, 20..22).await;
    match log.verify(Some(&earlier)).unwrap_err() {
        VerifyError::Shortened { expected: 3, found: 2, .. } => {}
        other => panic!("{other:?}"),
    }
    append(&log, 22..28).await;
    log.verify(None).unwrap();
    match log.verify(Some(&earlier)).unwrap_err() {
        VerifyError::Root { size: 3, checkpoint, .. } => assert_eq!(checkpoint, "the earlier checkpoint"),
        other => panic!("{other:?}"),
    }

    let other = filled(Home::new(), 3).await;
    let foreign = fs::read_to_string(other.dir().join("checkpoint")).unwrap();
    assert!(matches!(verify_stopped(&home, Some(&foreign)).unwrap_err(), VerifyError::Checkpoint { .. }));
    assert!(matches!(
        verify(&home.dir(), &other.verifier(), None).unwrap_err(),
        VerifyError::Segment(SegmentError::Damaged { offset: 0, .. })
    ));
}

#[tokio::test]
async fn a_folder_without_a_log_is_no_log() {
    let home = filled(Home::new(), 1).await;
    let verifier = home.verifier();
    for name in ["checkpoint", "hashes"] {
        let copy = home.crashed();
        fs::remove_file(copy.dir().join(name)).unwrap();
        match verify(&copy.dir(), &verifier, None).unwrap_err() {
            VerifyError::Io { path, .. } => assert!(path.ends_with(name)),
            other => panic!("{other:?}"),
        }
    }
    assert!(verify(&home.data().join("absent"), &verifier, None).is_err());
}

#[tokio::test]
async fn a_proof_convinces_whoever_has_the_logs_key() {
    let home = Home::with_small_segments();
    let log = home.open();
    append(&log, 0..7).await;
    for number in 0..7 {
        let proof = log.prove(&serial(number)).await.unwrap();
        // As it would travel.
        let proof: Proof = serde_json::from_str(&serde_json::to_string(&proof).unwrap()).unwrap();
        let record = check_proof(&proof, log.verifier()).unwrap();
        assert_eq!((record.index, record.entry), (number, certificate(number)));
    }
    assert_eq!(log.latest_checkpoint().size, 7, "one was signed because none covered the record");
    assert!(matches!(log.prove(&serial(8)).await, Err(ProveError::NotFound)));
    let other = filled(Home::new(), 1).await;
    let proof = log.prove(&serial(0)).await.unwrap();
    assert!(matches!(check_proof(&proof, &other.verifier()), Err(CheckError::Checkpoint(_))));
}

#[tokio::test]
async fn a_proof_that_cannot_be_made_says_why() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..4).await;
    log.prove(&serial(0)).await.unwrap();
    fs::File::options().write(true).open(home.dir().join("hashes")).unwrap().set_len(32).unwrap();
    assert!(matches!(log.prove(&serial(0)).await, Err(ProveError::Path { index: 0, .. })));
    fs::remove_file(home.dir().join("hashes")).unwrap();
    assert!(matches!(log.prove(&serial(0)).await, Err(ProveError::Hashes(_))));
    edit(&home.segment(0), |bytes| *bytes.last_mut().unwrap() ^= 1);
    assert!(matches!(log.prove(&serial(3)).await, Err(ProveError::Segment(_))));
}

/// A proof of a record in a tree that is not a power of two, and the key that it is checked with.
fn proof() -> (Proof, LogVerifier) {
    use std::sync::OnceLock;
    static PROOF: OnceLock<(Proof, LogVerifier)> = OnceLock::new();
    PROOF
        .get_or_init(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let home = Home::new();
                let log = home.open();
                append(&log, 0..11).await;
                let proof = log.prove(&serial(5)).await.unwrap();
                check_proof(&proof, log.verifier()).unwrap();
                (proof, log.verifier().clone())
            })
        })
        .clone()
}

proptest! {
    #[test]
    fn a_changed_proof_proves_nothing(which in 0_usize..8, at in any::<prop::sample::Index>(), flip in 1_u8..=255) {
        use base64::Engine;
        use base64::engine::general_purpose::STANDARD as BASE64;
        let (mut changed, verifier) = proof();
        let flipped = |text: &str| {
            let mut bytes = BASE64.decode(text).unwrap();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            BASE64.encode(bytes)
        };
        match which {
            0..3 => changed.record = flipped(&changed.record),
            3..5 => {
                let at = at.index(changed.audit_path.len());
                changed.audit_path[at] = flipped(&changed.audit_path[at]);
            }
            5 => changed.index ^= u64::from(flip),
            6 => changed.tree_size ^= u64::from(flip),
            _ => {
                let mut note = changed.checkpoint.into_bytes();
                let at = at.index(note.len());
                note[at] ^= flip;
                changed.checkpoint = String::from_utf8_lossy(&note).into_owned();
            }
        }
        prop_assert!(check_proof(&changed, &verifier).is_err());
    }

    #[test]
    fn a_path_of_another_length_proves_nothing(longer in any::<bool>()) {
        let (mut changed, verifier) = proof();
        if longer {
            changed.audit_path.push(changed.audit_path[0].clone());
        } else {
            changed.audit_path.pop();
        }
        prop_assert!(check_proof(&changed, &verifier).is_err());
    }
}
