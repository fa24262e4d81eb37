//! What `append` promises, on a disk that works and on one that does not.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::*;
use crate::issuance_log::files::faults::Operation;
use crate::issuance_log::{AppendError, Entry, EntryBody, Filter, SignError};

/// Of each record in the log, in order.
fn request_ids(log: &IssuanceLog) -> Vec<String> {
    let page = log.reader().records(&Filter::default(), 0, usize::MAX).unwrap();
    page.records.iter().map(|record| record.certificate().unwrap().request_id.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_are_each_answered_once_with_their_place() {
    let home = Home::with(Options { segment_bytes: 50_000, ..Home::new().options });
    let log = Arc::new(home.open());
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut places = Vec::new();
                for number in task * 20..task * 20 + 20 {
                    places.push((log.append(certificate(number)).await.unwrap(), number));
                }
                assert!(places.is_sorted(), "one caller's entries stay in order");
                places
            })
        })
        .collect();
    let mut places = Vec::new();
    for task in tasks {
        places.extend(task.await.unwrap());
    }
    places.sort_unstable();
    assert_eq!(places.iter().map(|(index, _)| *index).collect::<Vec<_>>(), (0..1280).collect::<Vec<_>>());
    let expected: Vec<String> = places.iter().map(|(_, number)| format!("request-{number}")).collect();
    assert_eq!(request_ids(&log), expected);
    let stats = log.stats();
    assert_eq!((stats.records, stats.queue_depth), (1280, 0));
    assert!(stats.batches < 1280, "{} batches: nothing was committed together", stats.batches);
    let report = log.verify(None).unwrap();
    assert!(report.segments > 5, "{} segments", report.segments);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_answered_before_the_sync() {
    let home = Home::new();
    let log = home.open();
    let held = home.disk.hold_syncs();
    let mut append = pin!(log.append(certificate(0)));
    let mut context = Context::from_waker(Waker::noop());
    assert!(append.as_mut().poll(&mut context).is_pending());
    // The bytes are written, so only the sync is between the entry and its answer.
    while fs::metadata(home.segment(0)).unwrap().len() <= super::super::segments::HEADER as u64 {
        std::thread::yield_now();
    }
    assert!(append.as_mut().poll(&mut context).is_pending());
    assert_eq!(log.stats().records, 0);
    drop(held);
    assert_eq!(append.await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_queue_refuses_at_once() {
    let home = Home::with(Options { queue: 2, ..Home::new().options });
    let log = home.open();
    let held = home.disk.hold_syncs();
    let mut context = Context::from_waker(Waker::noop());
    let (mut refused, mut waiting) = (0, Vec::new());
    for number in 0..8 {
        let mut append = Box::pin(log.append(certificate(number)));
        match append.as_mut().poll(&mut context) {
            Poll::Ready(answer) => {
                assert!(matches!(answer, Err(AppendError::Busy)));
                refused += 1;
            }
            Poll::Pending => waiting.push(append),
        }
    }
    // At most one batch of up to two is in the writer's hands, and two wait.
    assert!(refused >= 4, "{refused} of 8 refused");
    drop(held);
    for append in waiting {
        append.await.unwrap();
    }
    assert_eq!(log.stats().records, 8 - refused);
    assert_eq!(log.stats().queue_depth, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_went_away_disturbs_nobody() {
    let home = Home::new();
    let log = home.open();
    let held = home.disk.hold_syncs();
    {
        let mut gone = pin!(log.append(certificate(0)));
        assert!(gone.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    }
    drop(held);
    assert_eq!(log.append(certificate(1)).await.unwrap(), 1);
    assert_eq!(request_ids(&log), ["request-0", "request-1"]);
}

/// Case 47: the record cannot be stored, so its caller gets an error, and nothing claims it later.
#[tokio::test]
async fn case_47_a_failed_write_fails_its_caller_and_the_log_goes_on() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..2).await;
    let length = fs::metadata(home.segment(0)).unwrap().len();
    for part in [0, 3, 100] {
        home.disk.fail(Operation::Write(part), ".seg");
        let error = log.append(certificate(7)).await.unwrap_err();
        assert!(matches!(&error, AppendError::Write(_)), "{error:?}");
        assert!(std::error::Error::source(&error).is_some());
        assert_eq!(fs::metadata(home.segment(0)).unwrap().len(), length, "the failed part is cut away");
    }
    assert_eq!(log.append(certificate(2)).await.unwrap(), 2);
    assert_eq!(log.find_serial(&serial(7)).await.unwrap(), None);
    assert_eq!(log.verify(None).unwrap().records, 3);
    assert!(!log.stats().poisoned && log.probe().await);
    drop(log);
    let log = home.open();
    assert_eq!(request_ids(&log), ["request-0", "request-1", "request-2"]);
    assert_eq!(log.find_serial(&serial(7)).await.unwrap(), None);
}

#[tokio::test]
async fn a_failed_sync_poisons_until_a_restart() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..2).await;
    home.disk.fail(Operation::Sync, ".seg");
    assert!(matches!(log.append(certificate(7)).await, Err(AppendError::Write(_))));
    for _ in 0..2 {
        assert!(matches!(log.append(certificate(8)).await, Err(AppendError::Poisoned)));
    }
    assert!(log.stats().poisoned && !log.probe().await);
    assert_eq!(log.verify(None).unwrap().records, 2, "what was durable can still be read");
    drop(log);
    let log = home.open();
    assert!(log.probe().await);
    assert_eq!(log.append(certificate(2)).await.unwrap(), 2);
    assert_eq!(request_ids(&log), ["request-0", "request-1", "request-2"]);
}

#[tokio::test]
async fn a_failed_write_that_cannot_be_cut_poisons_until_a_restart() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..2).await;
    home.disk.fail(Operation::Write(100), ".seg");
    home.disk.fail(Operation::Truncate, ".seg");
    assert!(matches!(log.append(certificate(7)).await, Err(AppendError::Write(_))));
    assert!(matches!(log.append(certificate(8)).await, Err(AppendError::Poisoned)));
    drop(log);
    let log = home.open();
    assert_eq!(log.append(certificate(2)).await.unwrap(), 2);
    assert_eq!(request_ids(&log), ["request-0", "request-1", "request-2"]);
}

#[tokio::test]
async fn a_segment_that_cannot_be_begun_fails_its_batch_only() {
    let home = Home::with_small_segments();
    let log = home.open();
    let mut appended = 0;
    for fault in [Operation::Create, Operation::Write(10), Operation::Sync] {
        // As far as the next batch begins a segment.
        let begun = fs::read_dir(home.dir()).unwrap().count();
        while fs::metadata(home.segment(log.segment_first())).unwrap().len() < home.options.segment_bytes {
            append(&log, appended..appended + 1).await;
            appended += 1;
        }
        home.disk.fail(fault, ".seg");
        assert!(matches!(log.append(certificate(99)).await, Err(AppendError::Write(_))), "{fault:?}");
        assert!(!log.stats().poisoned, "{fault:?}");
        append(&log, appended..appended + 1).await;
        appended += 1;
        assert!(fs::read_dir(home.dir()).unwrap().count() > begun);
    }
    assert_eq!(log.verify(None).unwrap().records, appended);
    drop(log);
    assert_eq!(home.open().stats().records, appended);
}

impl IssuanceLog {
    /// The first index of the last segment.
    fn segment_first(&self) -> u64 {
        *crate::issuance_log::segments::list(self.dir()).unwrap().last().unwrap()
    }
}

#[tokio::test]
async fn hashes_that_cannot_be_written_are_written_later() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..3).await;
    home.disk.fail(Operation::Write(16), "hashes");
    home.disk.fail(Operation::Write(16), "hashes");
    assert_eq!(log.append(certificate(3)).await.unwrap(), 3, "the record is durable all the same");
    assert!(matches!(log.checkpoint().await, Err(SignError::Busy)), "unwritten hashes are not signed");
    assert_eq!(log.checkpoint().await.unwrap().size, 4);
    append(&log, 4..5).await;
    assert_eq!(log.verify(None).unwrap().records, 5);
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_is_not_given_out() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..1).await;
    home.disk.fail(Operation::Rename, "checkpoint");
    let error = log.checkpoint().await.unwrap_err();
    assert!(matches!(error, SignError::Write(_)));
    assert_eq!(log.latest_checkpoint().size, 0);
    assert_eq!(log.checkpoint().await.unwrap().size, 1);
    assert_eq!(log.latest_checkpoint().size, 1);
}

#[tokio::test]
async fn unsigned_records_are_signed_without_being_asked() {
    let home = Home::with(Options { checkpoint_interval: Duration::ZERO, ..Options::default() });
    let log = home.open();
    append(&log, 0..5).await;
    let signed = async {
        while log.latest_checkpoint().size < 5 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), signed).await.unwrap();
    let note = fs::read_to_string(home.dir().join("checkpoint")).unwrap();
    assert_eq!(note, log.latest_checkpoint().note);
}

#[tokio::test]
async fn an_entry_that_is_too_large_is_refused_alone() {
    let home = Home::new();
    let log = home.open();
    let mut large = certificate(0);
    if let EntryBody::Certificate(certificate) = &mut large.body {
        certificate.dns_names = vec!["x".repeat(1000); 66];
    }
    let (refused, recorded) = tokio::join!(log.append(large), log.append(certificate(1)));
    assert!(matches!(refused, Err(AppendError::TooLarge(length)) if length > 66_000));
    assert_eq!(recorded.unwrap(), 0);
    assert_eq!(request_ids(&log), ["request-1"]);
}

#[tokio::test]
async fn probing_tells_whether_the_disk_takes_writes() {
    let home = Home::new();
    let log = home.open();
    assert!(log.probe().await);
    for fault in [Operation::Create, Operation::Write(0), Operation::Sync] {
        home.disk.fail(fault, "probe");
        assert!(!log.probe().await, "{fault:?}");
        assert!(log.probe().await);
    }
}

#[tokio::test]
async fn a_closed_log_is_signed_to_its_end_and_takes_nothing_more() {
    let home = Home::new();
    let log = home.open();
    append(&log, 0..3).await;
    log.close();
    assert_eq!(log.latest_checkpoint().size, 3);
    assert!(matches!(log.append(certificate(3)).await, Err(AppendError::Closed)));
    assert!(matches!(log.checkpoint().await, Err(SignError::Closed)));
    assert!(!log.probe().await);
    log.close();
    assert_eq!(log.stats().indexed_through, 3);
}

#[tokio::test]
async fn acts_are_recorded_beside_certificates() {
    let home = Home::new();
    let log = home.open();
    assert_eq!(log.append(act()).await.unwrap(), 0);
    assert_eq!(log.append(certificate(0)).await.unwrap(), 1);
    let entry: Entry = log.reader().record(0).unwrap().unwrap().entry;
    assert_eq!(entry, act());
    assert_eq!(log.reader().record(2).unwrap(), None);
    let report = log.verify(None).unwrap();
    assert_eq!((report.acts, report.certificates), (1, 1));
}
