//! Copies of a log that is being written.

use super::*;
use crate::issuance_log::{ExportError, LogExport, SegmentError, verify_copy};

/// Copies what an export names, as it is now.
fn copied(export: &LogExport) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for part in &export.parts {
        let mut bytes = fs::read(&part.path).unwrap();
        bytes.truncate(usize::try_from(part.bytes).unwrap());
        fs::write(copy.path().join(part.path.file_name().unwrap()), bytes).unwrap();
    }
    for (name, content) in export.notes() {
        fs::write(copy.path().join(name), content).unwrap();
    }
    copy
}

#[tokio::test]
async fn a_copy_is_the_log_at_its_checkpoint_however_far_the_log_goes_on() {
    // Segments end at some of these sizes, and within others.
    let home = Home::with_small_segments();
    let log = home.open();
    let mut exports = Vec::new();
    for size in 0..9 {
        exports.push(log.export().await.unwrap());
        append(&log, size..size + 1).await;
    }
    for (size, export) in exports.iter().enumerate() {
        assert_eq!((export.records, export.checkpoint.size), (size as u64, size as u64));
        let copy = copied(export);
        let report = verify_copy(copy.path(), log.verifier()).unwrap();
        assert_eq!((report.records, report.root), (size as u64, export.checkpoint.root));
        assert_eq!((report.records_after_checkpoint, report.unfinished_bytes), (0, 0));
    }
    drop(log);
    let stopped = LogExport::of_stopped(&home.dir()).unwrap();
    assert_eq!(verify_copy(copied(&stopped).path(), &home.verifier()).unwrap().records, 9);
}

#[tokio::test]
async fn a_log_that_is_damaged_near_its_end_is_not_copied() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..4).await;
    let frames = home.frames(0);
    edit(&home.segment(0), |bytes| bytes[frames[2].end - 1] ^= 1);
    let error = log.export().await.unwrap_err();
    assert!(matches!(error, ExportError::Segment(SegmentError::Damaged { index: 2, .. })), "{error:?}");
}
