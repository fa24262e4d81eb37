//! What the queue gives the writer, and when. `interleavings` has the orders in which threads may meet in it.

use std::time::Instant;

use tokio::sync::oneshot;

use super::*;
use crate::issuance_log::queue::{COMPANY, LINGER, Queue, Refusal};
use crate::issuance_log::writer::Command;

fn probe() -> Command {
    Command::Probe(oneshot::channel().0)
}

fn append() -> Command {
    Command::Append { entry: Box::new(act()), reply: oneshot::channel().0 }
}

#[test]
fn a_full_or_closed_queue_refuses_and_what_waits_is_still_taken() {
    let queue = Queue::new(2);
    assert!(queue.push(append()).is_ok() && queue.push(append()).is_ok());
    assert!(matches!(queue.push(append()), Err(Refusal::Full)));
    assert!(queue.push(probe()).is_ok(), "whether it can record is asked while it is full, too");
    queue.close();
    assert!(matches!(queue.push(probe()), Err(Refusal::Closed)));
    let (commands, closed) = queue.take(None);
    assert_eq!((commands.len(), closed, queue.len()), (3, true, 0));
}

#[test]
fn nothing_to_do_ends_at_the_due_time_and_company_is_waited_for_a_moment_only() {
    let queue = Queue::new(2);
    assert!(queue.take(Some(Instant::now())).0.is_empty());
    let announced: Vec<_> = (0..COMPANY).map(|_| queue.announce()).collect();
    assert!(queue.push(probe()).is_ok());
    let began = Instant::now();
    assert_eq!(queue.take(None).0.len(), 1);
    assert!(began.elapsed() >= LINGER, "it lingers while enough is announced");
    drop(announced);
}

#[test]
fn a_writer_that_lingers_takes_all_company_with_it() {
    let queue = Queue::new(1024);
    std::thread::scope(|threads| {
        let writer = threads.spawn(|| {
            let mut taken = 0;
            loop {
                let (commands, closed) = queue.take(None);
                taken += commands.len();
                if closed {
                    return taken;
                }
            }
        });
        for _ in 0..100 {
            let announced: Vec<_> = (0..COMPANY).map(|_| queue.announce()).collect();
            for announced in announced {
                assert!(queue.push(probe()).is_ok());
                drop(announced);
            }
        }
        queue.close();
        assert!(writer.join().is_ok_and(|taken| taken == 100 * COMPANY));
    });
}
