//! The signing pool: as many threads as cores for the work of keys, so that a slow RSA signature never
//! holds up the runtime. What waits for it is bounded by admission; the pool itself takes no more than some
//! milliseconds of work, so that whose turn comes next is decided late.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

use thiserror::Error;
use tokio::sync::oneshot;

type Job = Box<dyn FnOnce() + Send>;

/// Why work was not done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PoolError {
    /// More work than admission should let through.
    #[error("the signing pool is full")]
    Full,
    /// The work panicked, or the pool has ended.
    #[error("the signing pool did not finish the work")]
    Lost,
}

/// The threads. Dropping the last handle ends them after what they do.
#[derive(Clone)]
pub struct SigningPool {
    jobs: SyncSender<Job>,
}

impl SigningPool {
    /// Starts this many threads, and a queue with room for `capacity` jobs before them: whoever lets no more
    /// than these in is never refused.
    pub fn start(threads: usize, capacity: usize) -> io::Result<Self> {
        let (jobs, queue) = sync_channel(capacity);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..threads {
            let queue = queue.clone();
            thread::Builder::new().name(format!("signing-{number}")).spawn(move || work(&queue))?;
        }
        Ok(Self { jobs })
    }

    /// Does `work` on one of the threads.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, PoolError> {
        let (done, result) = oneshot::channel();
        let job = Box::new(move || {
            // Nobody waits any more if the request ran out of time or the caller went away.
            if !done.is_closed() {
                let _ = done.send(work());
            }
        });
        match self.jobs.try_send(job) {
            Ok(()) => result.await.map_err(|_| PoolError::Lost),
            Err(TrySendError::Full(_)) => Err(PoolError::Full),
            Err(TrySendError::Disconnected(_)) => Err(PoolError::Lost),
        }
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(job)).is_err() {
            tracing::error!("work in the signing pool panicked");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::api::admission::{Asker, Need, Turns};

    #[tokio::test]
    async fn work_is_done_and_a_panic_costs_only_itself() {
        let pool = SigningPool::start(1, 4).unwrap();
        assert_eq!(pool.run(|| 6 * 7).await, Ok(42));
        assert_eq!(pool.run(|| panic!("on purpose")).await, Err::<(), _>(PoolError::Lost));
        assert_eq!(pool.run(|| 1).await, Ok(1));
    }

    #[tokio::test]
    async fn a_turn_is_over_with_its_work_and_not_with_whoever_waited_for_it() {
        let (pool, turns) = (SigningPool::start(1, 1).unwrap(), Turns::new(1, 1));
        let asker = Asker { caller: ("a", ""), namespace: ("b", "c"), node: None };
        let take = |milliseconds| {
            let until = tokio::time::Instant::now() + std::time::Duration::from_millis(milliseconds);
            turns.take(&asker, || Need::First, until)
        };
        let turn = take(20).await.unwrap();
        let mut others = Vec::new();
        while let Ok(other) = take(20).await {
            others.push(other);
        }
        let ((began, begun), (release, gate)) = (sync_channel::<()>(1), sync_channel::<()>(0));
        let work = pool.run(move || {
            let _turn = turn;
            let _ = began.send(());
            let _ = gate.recv();
        });
        // Its caller goes away when it has begun.
        let gone = tokio::time::timeout(std::time::Duration::from_millis(50), work).await;
        assert!(gone.is_err() && begun.recv().is_ok());
        assert!(take(20).await.is_err(), "the work goes on, and so does its turn");
        release.send(()).unwrap();
        take(5_000).await.unwrap();
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_not_done() {
        let pool = SigningPool::start(1, 2).unwrap();
        let (release, gate) = sync_channel::<()>(0);
        let busy = pool.run(move || gate.recv());
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let dead = pool.run({
            let done = done.clone();
            move || done.store(true, std::sync::atomic::Ordering::Relaxed)
        });
        let mut busy = std::pin::pin!(busy);
        assert!(futures::poll!(&mut busy).is_pending());
        {
            let mut dead = std::pin::pin!(dead);
            assert!(futures::poll!(&mut dead).is_pending());
        }
        release.send(()).unwrap();
        busy.await.unwrap().unwrap();
        pool.run(|| ()).await.unwrap();
        assert!(!done.load(std::sync::atomic::Ordering::Relaxed));
    }

    #[tokio::test]
    async fn more_than_fits_is_refused_at_once() {
        let pool = SigningPool::start(1, 1).unwrap();
        let (release, gate) = sync_channel::<()>(0);
        let (began, begun) = oneshot::channel();
        let busy = tokio::spawn({
            let pool = pool.clone();
            async move {
                pool.run(move || {
                    let _ = began.send(());
                    let _ = gate.recv();
                })
                .await
            }
        });
        begun.await.unwrap();
        let waits = pool.run(|| ());
        let refused = pool.run(|| ());
        tokio::pin!(waits);
        assert!(futures::poll!(&mut waits).is_pending());
        assert_eq!(refused.await, Err(PoolError::Full));
        release.send(()).unwrap();
        assert_eq!((waits.await, busy.await.unwrap()), (Ok(()), Ok(())));
    }
}
