//! What opening repairs, and what it refuses.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::issuance_log::segments::{HEADER, push_frame};
use crate::issuance_log::{IndexError, LogKeyError, SegmentError};
use crate::sealing::{KeyFileError, SealError, Sealer, is_sealed};
use crate::store::{Batch, Table};

#[tokio::test]
async fn a_log_goes_on_where_it_ended() {
    let home = filled(Home::with_small_segments(), 9).await;
    let log = home.open();
    assert_eq!(log.stats().records, 9);
    assert_eq!(log.stats().checkpoint_size, 9);
    append(&log, 9..12).await;
    assert_eq!(log.verify(None).unwrap().records, 12);
}

#[tokio::test]
async fn a_torn_end_is_cut_wherever_it_was_torn() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..3).await;
    let whole = fs::read(home.segment(0)).unwrap();
    let mut next = Vec::new();
    push_frame(&mut next, &certificate(3).into_proto(&log.verifier().log_id(), 3));
    let mut damaged = next.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let ends = (1..next.len()).step_by(7).map(|cut| next[..cut].to_vec());
    for end in ends.chain([damaged, vec![0; 5000]]) {
        let crashed = home.crashed();
        edit(&crashed.segment(0), |bytes| bytes.extend_from_slice(&end));
        let log = crashed.open();
        assert_eq!(log.stats().records, 3);
        assert_eq!(fs::read(crashed.segment(0)).unwrap(), whole);
        assert_eq!(log.append(certificate(3)).await.unwrap(), 3);
        assert_eq!(log.verify(None).unwrap().records, 4);
    }
}

/// The frames of records that were written with one write.
fn batch(log_id: &[u8; 32], numbers: std::ops::Range<u64>) -> Vec<Vec<u8>> {
    let frame = |number: u64| {
        let mut record = certificate(number).into_proto(log_id, number);
        record.place_in_batch = u32::try_from(number - numbers.start).unwrap();
        let mut frame = Vec::new();
        push_frame(&mut frame, &record);
        frame
    };
    numbers.clone().map(frame).collect()
}

/// A disk writes pages in any order, so whole records may stand behind a hole.
#[tokio::test]
async fn a_batch_of_which_a_power_cut_left_the_end_is_cut() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..3).await;
    let whole = fs::read(home.segment(0)).unwrap();
    let frames = batch(&log.verifier().log_id(), 3..6);
    for lost in [0, 1] {
        let crashed = home.crashed();
        edit(&crashed.segment(0), |bytes| {
            for (place, frame) in frames.iter().enumerate() {
                let frame = if place == lost { vec![0; frame.len()] } else { frame.clone() };
                bytes.extend_from_slice(&frame);
            }
        });
        let log = crashed.open();
        assert_eq!(log.stats().records, 3 + lost as u64);
        assert_eq!(fs::read(crashed.segment(0)).unwrap(), [&whole[..], &frames[..lost].concat()].concat());
        append(&log, 6..8).await;
        log.verify(None).unwrap();
    }
}

/// What was synced before a batch was written is damage, wherever in the batch a record tells of it.
#[tokio::test]
async fn a_damaged_record_with_a_later_batch_behind_it_is_never_cut() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..3).await;
    let frames = batch(&log.verifier().log_id(), 3..6);
    let crashed = home.crashed();
    let last = home.frames(0)[2].clone();
    edit(&crashed.segment(0), |bytes| {
        bytes[last.end - 1] ^= 1;
        bytes.extend_from_slice(&vec![0; frames[0].len()]);
        bytes.extend_from_slice(&frames[1]);
    });
    // Not even where nothing else knows of it.
    fs::remove_file(crashed.dir().join("hashes")).unwrap();
    let before = fs::read(crashed.segment(0)).unwrap();
    assert!(matches!(crashed.open_error(), OpenError::Segment(SegmentError::Damaged { index: 2, .. })));
    assert_eq!(fs::read(crashed.segment(0)).unwrap(), before);
}

#[tokio::test]
async fn a_record_that_was_written_and_not_answered_stays() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..2).await;
    let crashed = home.crashed();
    edit(&crashed.segment(0), |bytes| {
        push_frame(bytes, &certificate(2).into_proto(&log.verifier().log_id(), 2));
    });
    let log = crashed.open();
    assert_eq!(log.stats().records, 3);
    assert_eq!(log.find_serial(&serial(2)).await.unwrap(), Some(2));
    assert_eq!(log.verify(None).unwrap().records, 3);
}

#[tokio::test]
async fn a_segment_whose_making_was_cut_short_is_made_again() {
    let home = Home::with_small_segments();
    let log = home.open();
    append(&log, 0..4).await;
    for left in [&b""[..], b"signet", &[0; HEADER]] {
        let crashed = home.crashed();
        fs::write(crashed.segment(4), left).unwrap();
        let log = crashed.open();
        append(&log, 4..9).await;
        assert_eq!(log.verify(None).unwrap().records, 9);
    }
}

#[tokio::test]
async fn a_flipped_bit_before_the_end_is_damage_and_nothing_is_cut() {
    let home = filled(Home::new(), 5).await;
    let frames = home.frames(0);
    for at in [frames[1].start, frames[1].start + 5, frames[1].start + 40, frames[1].end - 1] {
        let copy = home.crashed();
        edit(&copy.segment(0), |bytes| bytes[at] ^= 0x10);
        let before = fs::read(copy.segment(0)).unwrap();
        match copy.open_error() {
            OpenError::Segment(SegmentError::Damaged { path, offset, index, .. }) => {
                assert_eq!((path, offset, index), (copy.segment(0), frames[1].start as u64, 1));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read(copy.segment(0)).unwrap(), before);
    }
}

#[tokio::test]
async fn a_damaged_last_record_was_answered_and_is_not_cut() {
    let home = filled(Home::new(), 5).await;
    let last = home.frames(0)[4].clone();
    for without_hashes in [false, true] {
        let copy = home.crashed();
        edit(&copy.segment(0), |bytes| bytes[last.end - 1] ^= 1);
        if without_hashes {
            fs::remove_file(copy.dir().join("hashes")).unwrap();
        }
        let before = fs::read(copy.segment(0)).unwrap();
        match copy.open_error() {
            OpenError::Shortened { expected: 5, found: 4, .. } => {}
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read(copy.segment(0)).unwrap(), before);
    }
}

#[tokio::test]
async fn records_that_were_synced_are_missed_even_before_they_are_signed() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..3).await;
    let crashed = home.crashed();
    let last = home.frames(0)[2].clone();
    edit(&crashed.segment(0), |bytes| bytes.truncate(last.start));
    match crashed.open_error() {
        OpenError::Shortened { witness, expected: 3, found: 2, .. } => assert!(witness.ends_with("hashes")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_removed_or_shortened_segment_is_named() {
    let home = filled(Home::with_small_segments(), 12).await;
    let firsts = super::super::segments::list(&home.dir()).unwrap();
    assert!(firsts.len() > 3, "{firsts:?}");
    for first in &firsts[..firsts.len() - 1] {
        let copy = home.crashed();
        fs::remove_file(copy.segment(*first)).unwrap();
        match copy.open_error() {
            OpenError::Segment(SegmentError::Missing { path, index }) => {
                assert_eq!((path, index), (copy.segment(*first), *first));
            }
            other => panic!("{other:?}"),
        }
        let copy = home.crashed();
        edit(&copy.segment(*first), |bytes| bytes.truncate(bytes.len() - 1));
        match copy.open_error() {
            OpenError::Segment(SegmentError::Damaged { path, .. }) => assert_eq!(path, copy.segment(*first)),
            other => panic!("{other:?}"),
        }
    }
    let copy = home.crashed();
    fs::remove_file(copy.segment(*firsts.last().unwrap())).unwrap();
    assert!(matches!(copy.open_error(), OpenError::Shortened { expected: 12, .. }));
    for first in firsts {
        fs::remove_file(copy.segment(first)).ok();
    }
    assert!(matches!(copy.open_error(), OpenError::Shortened { expected: 12, found: 0, .. }));
}

#[tokio::test]
async fn swapped_records_are_damage() {
    let home = filled(Home::new(), 5).await;
    let frames = home.frames(0);
    assert_eq!(frames[1].len(), frames[2].len());
    edit(&home.segment(0), |bytes| bytes[frames[1].start..frames[2].end].rotate_left(frames[1].len()));
    let error = home.open_error().to_string();
    assert!(error.contains("expected record 1 of") && error.contains("found record 2 of"), "{error}");
}

#[tokio::test]
async fn a_log_cut_below_its_checkpoint_is_refused() {
    let home = filled(Home::new(), 5).await;
    let frames = home.frames(0);
    edit(&home.segment(0), |bytes| bytes.truncate(frames[3].start));
    fs::remove_file(home.dir().join("hashes")).unwrap();
    match home.open_error() {
        OpenError::Shortened { witness, expected: 5, found: 3, .. } => {
            assert!(witness.ends_with("checkpoint"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn other_records_under_a_checkpoint_are_refused() {
    let home = filled(Home::new(), 3).await;
    // The same log key, another history.
    let forked = Home::new();
    drop(forked.open());
    fs::remove_dir_all(forked.dir()).unwrap();
    fs::copy(home.data().join("log-key.pem"), forked.data().join("log-key.pem")).unwrap();
    let log = forked.open();
    append(&log, 10..14).await;
    drop(log);
    fs::copy(home.dir().join("checkpoint"), forked.dir().join("checkpoint")).unwrap();
    match forked.crashed().open_error() {
        OpenError::Root { size: 3, expected, found, .. } => assert_ne!(expected, found),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn hashes_are_made_again_from_the_records() {
    let home = filled(Home::with_small_segments(), 11).await;
    let path = home.dir().join("hashes");
    let right = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    drop(home.open());
    assert_eq!(fs::read(&path).unwrap(), right);
    for cut in [0, 1, 31, 100, right.len() - 1] {
        edit(&path, |bytes| bytes.truncate(cut));
        drop(home.open());
        assert_eq!(fs::read(&path).unwrap(), right, "cut at {cut}");
    }
    // The last subtree's hash is part of the root that the checkpoint signs.
    edit(&path, |bytes| *bytes.last_mut().unwrap() ^= 1);
    drop(home.open());
    assert_eq!(fs::read(&path).unwrap(), right);
}

#[tokio::test]
async fn a_missing_key_is_never_replaced() {
    let mut home = filled(Home::new(), 2).await;
    let key = home.data().join("log-key.pem");
    fs::remove_file(&key).unwrap();
    let missing = |home: &Home| match home.open_error() {
        OpenError::Key(LogKeyError::Missing { path, .. }) => assert_eq!(path, key),
        other => panic!("{other:?}"),
    };
    missing(&home);
    // Any one of the log's files says that there was a key.
    for name in ["log.vkey", "checkpoint", "hashes"] {
        fs::remove_file(home.dir().join(name)).unwrap();
        missing(&home);
    }
    assert!(!key.exists());
    // Without any of them it is a new log, if no index says otherwise.
    fs::remove_file(home.segment(0)).unwrap();
    assert!(matches!(home.open_error(), OpenError::Index(IndexError::OtherLog { .. })));
    home.store = Arc::new(MemoryStore::default());
    home.open();
}

#[tokio::test]
async fn a_damaged_or_foreign_key_is_refused() {
    let home = filled(Home::new(), 2).await;
    let other = filled(Home::new(), 1).await;
    let key = home.data().join("log-key.pem");
    fs::copy(other.data().join("log-key.pem"), &key).unwrap();
    assert!(matches!(home.open_error(), OpenError::Key(LogKeyError::OtherLog { .. })));
    // Without its name beside, the segments still say whose they are.
    fs::remove_file(home.dir().join("log.vkey")).unwrap();
    assert!(matches!(home.open_error(), OpenError::Segment(SegmentError::Damaged { offset: 0, .. })));
    fs::write(&key, "not a key").unwrap();
    assert!(matches!(home.open_error(), OpenError::Key(LogKeyError::Damaged { .. })));
    fs::remove_file(&key).unwrap();
    fs::create_dir(&key).unwrap();
    assert!(matches!(home.open_error(), OpenError::Key(LogKeyError::File(KeyFileError::Read { .. }))));
}

#[tokio::test]
async fn the_key_is_sealed_when_a_key_encryption_key_comes_and_only_that_opens_it() {
    let home = filled(Home::new(), 2).await;
    let open = |kek: Option<&str>| {
        let sealer = Sealer::from_file(kek.map(|name| home.root.path().join(name)).as_deref()).unwrap();
        let folder = DataFolder::open(&home.data()).unwrap().sealed_by(sealer);
        IssuanceLog::open_on(&folder, home.store.clone(), &home.options, home.disk.clone()).map(drop)
    };
    for (name, byte) in [("kek", 7), ("other", 8)] {
        fs::write(home.root.path().join(name), [byte; 32]).unwrap();
        fs::set_permissions(home.root.path().join(name), fs::Permissions::from_mode(0o600)).unwrap();
    }
    let key = home.data().join("log-key.pem");
    assert!(!is_sealed(&fs::read(&key).unwrap()));
    open(Some("kek")).unwrap();
    assert!(is_sealed(&fs::read(&key).unwrap()));
    open(Some("kek")).unwrap();
    let refusal = |kek| match open(kek).unwrap_err() {
        OpenError::Key(LogKeyError::File(KeyFileError::Seal { source, .. })) => source,
        other => panic!("{other:?}"),
    };
    assert!(matches!(refusal(None), SealError::NoKey { .. }));
    assert!(matches!(refusal(Some("other")), SealError::OtherKey { .. }));
    // Reading needs the verifier's key alone.
    let report = crate::issuance_log::verify(&home.dir(), &home.verifier(), None).unwrap();
    assert_eq!(report.records, 2);
}

#[tokio::test]
async fn a_missing_or_foreign_checkpoint_is_refused() {
    let home = filled(Home::new(), 2).await;
    let path = home.dir().join("checkpoint");
    let other = filled(Home::new(), 1).await;
    fs::copy(other.dir().join("checkpoint"), &path).unwrap();
    assert!(matches!(home.open_error(), OpenError::Checkpoint { .. }));
    fs::remove_file(&path).unwrap();
    assert!(matches!(home.open_error(), OpenError::NoCheckpoint { .. }));
    fs::write(home.dir().join("log.vkey"), "no key").unwrap();
    assert!(matches!(home.open_error(), OpenError::VerifierKey(_)));
}

#[tokio::test]
async fn a_first_start_that_was_cut_short_is_finished() {
    let home = Home::new();
    drop(home.open());
    fs::remove_file(home.segment(0)).unwrap();
    drop(home.open());
    for name in ["hashes", "checkpoint"] {
        fs::remove_file(home.dir().join(name)).unwrap();
        fs::remove_file(home.segment(0)).unwrap();
        drop(home.open());
    }
    assert_eq!(home.open().verify(None).unwrap().records, 0);
}

#[tokio::test]
async fn an_index_that_does_not_fit_the_log_is_refused() {
    let home = filled(Home::new(), 3).await;
    let other = filled(Home::new(), 1).await;
    let misplaced = Home { store: home.store.clone(), ..other };
    assert!(matches!(misplaced.open_error(), OpenError::Index(IndexError::OtherLog { .. })));

    // The log is put back from a backup, the index is not.
    let mut backup = Home::new();
    backup.store = home.store.clone();
    let mut batch = Batch::default();
    let marker = home.store.read(Table::Meta, b"log-index").unwrap().unwrap();
    batch.put(Table::Meta, *b"log-index", [&marker[..32], &9_u64.to_be_bytes()].concat());
    home.store.apply(batch).unwrap();
    match home.open_error() {
        OpenError::Index(IndexError::Ahead { indexed: 9, held: 3 }) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_segment_of_a_later_layout_is_refused_and_left_alone() {
    let home = filled(Home::with_small_segments(), 5).await;
    let last = *super::super::segments::list(&home.dir()).unwrap().last().unwrap();
    // With records and without: an empty segment of ours that was cut short would be removed.
    for (cut, first) in [(None, last), (Some(HEADER), last), (None, 0)] {
        let copy = home.crashed();
        edit(&copy.segment(first), |bytes| {
            bytes[8] = 2;
            let checksum = crc32fast::hash(&bytes[..HEADER - 4]).to_le_bytes();
            bytes[HEADER - 4..HEADER].copy_from_slice(&checksum);
            bytes.truncate(cut.unwrap_or(bytes.len()));
        });
        let error = copy.open_error();
        assert!(
            matches!(error, OpenError::Segment(SegmentError::Layout { found: 2, known: 1, .. })),
            "{error:?}"
        );
        assert!(error.to_string().contains("a segment of layout 2; this program knows 1"), "{error}");
        assert!(copy.segment(first).exists());
    }
}

#[tokio::test]
async fn a_record_of_a_later_layout_is_refused_and_left_alone() {
    let home = filled(Home::new(), 2).await;
    let mut later = certificate(2).into_proto(&home.verifier().log_id(), 2);
    later.layout = 2;
    edit(&home.segment(0), |bytes| push_frame(bytes, &later));
    let before = fs::read(home.segment(0)).unwrap();
    let error = home.open_error();
    assert!(
        matches!(error, OpenError::Segment(SegmentError::Layout { found: 2, known: 1, .. })),
        "{error:?}"
    );
    assert!(error.to_string().contains("a record 2 of layout 2; this program knows 1"), "{error}");
    assert_eq!(fs::read(home.segment(0)).unwrap(), before);
    crate::issuance_log::verify(&home.dir(), &home.verifier(), None).unwrap_err();
}
