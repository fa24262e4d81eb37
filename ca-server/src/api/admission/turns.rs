//! Turns at the signing pool: who waits for one, who gets one, who is refused. The order is that of
//! [`super::order`]; the measure is the time that work on the pool really takes.
//!
//! The pool holds some milliseconds of work and no more, so that whose turn is next is decided late; and what
//! waits is what can be done in a second, so that after a flood nobody waits for what nobody wants any more.

use std::hash::RandomState;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::Overload;
use super::order::{Asker, Entered, Groups, Need, Order, Place};

/// Work that the pool has before it, for each of its threads.
const AHEAD: Duration = Duration::from_millis(10);
/// Jobs that a thread has before it, at the least: one in work, and some to find while the runtime is busy.
const FEWEST: usize = 4;
/// And at the most: a thread that falls asleep and is woken for each job costs a third more.
pub const MOST: usize = 16;
/// Work that may wait.
const BACKLOG: Duration = Duration::from_secs(1);
/// As many may wait, however slow the key.
const SHORTEST: usize = 64;
/// No job counts as longer: the process may have been stopped in the middle of one.
const LONGEST: Duration = Duration::from_millis(250);
/// How long a job is taken to be before the first one is measured.
const UNKNOWN: Duration = Duration::from_micros(200);

/// The queue for turns.
#[derive(Debug, Clone)]
pub struct Turns {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    threads: usize,
    queue: usize,
    hasher: RandomState,
    /// Of one job, in nanoseconds.
    mean: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    turns: usize,
    order: Order<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    deadline: Instant,
    answer: oneshot::Sender<Result<Turn, Overload>>,
}

/// The right to use the signing pool, to be dropped when the work there has ended.
#[derive(Debug)]
pub struct Turn {
    shared: Arc<Shared>,
    caller: u64,
    began: Option<Instant>,
}

impl Turns {
    /// Turns for a pool of so many threads, and a queue that is never longer than this.
    pub fn new(threads: usize, queue: usize) -> Self {
        let mean = AtomicU64::new(UNKNOWN.as_nanos() as u64);
        let (hasher, state) = (RandomState::new(), Mutex::default());
        Self { shared: Arc::new(Shared { threads, queue, hasher, mean, state }) }
    }

    /// Waits for a turn, at most until `deadline`. What the caller needs is asked only where somebody waits.
    pub async fn take(
        &self,
        asker: &Asker<'_>,
        need: impl FnOnce() -> Need,
        deadline: Instant,
    ) -> Result<Turn, Overload> {
        let groups = Groups::of(asker, &self.shared.hasher);
        if let Some(turn) = self.shared.take_at_once(groups.caller) {
            return Ok(turn);
        }
        let mut waiting = self.shared.wait(groups, need(), deadline)?;
        // One may have been given back in between.
        self.shared.serve();
        match timeout_at(deadline, &mut waiting.answer).await {
            Ok(Ok(answer)) => answer,
            // A waiter is never dropped without an answer; if it were, there would be no turn either.
            Ok(Err(_)) | Err(_) => Err(Overload::Deadline),
        }
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.shared.lock().order.len()
    }
}

impl Turn {
    /// The work begins.
    pub fn begin(&mut self) {
        self.began = Some(Instant::now());
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(began) = self.began {
            self.shared.measured(began.elapsed());
        }
        let mut state = self.shared.lock();
        state.turns -= 1;
        state.order.leave(self.caller);
        drop(state);
        self.shared.serve();
    }
}

/// One that waits. Whoever stops waiting leaves the queue.
struct Waiting {
    shared: Arc<Shared>,
    place: Place,
    answer: oneshot::Receiver<Result<Turn, Overload>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let gone = self.shared.lock().order.remove(self.place);
        drop(gone);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mean(&self) -> Duration {
        Duration::from_nanos(self.mean.load(Ordering::Relaxed))
    }

    fn measured(&self, job: Duration) {
        let job = job.min(LONGEST).as_nanos() as u64;
        // A lost update between two threads costs one measurement.
        let mean = self.mean.load(Ordering::Relaxed);
        self.mean.store((mean * 15 + job) / 16, Ordering::Relaxed);
    }

    /// How many jobs take this time on all threads together.
    fn jobs_in(&self, time: Duration) -> usize {
        let jobs = time.as_nanos() / self.mean().as_nanos().max(1);
        usize::try_from(jobs).unwrap_or(usize::MAX).saturating_mul(self.threads)
    }

    /// Turns at once.
    fn at_once(&self) -> usize {
        self.jobs_in(AHEAD).clamp(FEWEST * self.threads, MOST * self.threads)
    }

    /// How many may wait.
    fn room(&self) -> usize {
        self.jobs_in(BACKLOG).max(SHORTEST).min(self.queue)
    }

    fn take_at_once(self: &Arc<Self>, caller: u64) -> Option<Turn> {
        let mut state = self.lock();
        if state.order.len() > 0 || state.turns >= self.at_once() {
            return None;
        }
        state.turns += 1;
        state.order.come(caller);
        Some(Turn { shared: self.clone(), caller, began: None })
    }

    fn wait(self: &Arc<Self>, groups: Groups, need: Need, deadline: Instant) -> Result<Waiting, Overload> {
        let (answer, receiver) = oneshot::channel();
        let mut state = self.lock();
        let place = state.order.place(groups, need);
        // Counting is only worth it where the whole queue takes longer than there is time. Whoever is too late
        // has to be refused before anybody goes for it.
        let in_time = self.jobs_in(deadline.saturating_duration_since(Instant::now()));
        if state.order.len() >= in_time && state.order.ahead(place) + state.turns + 1 > in_time {
            return Err(Overload::Deadline);
        }
        let gone = match state.order.enter(place, groups, self.room(), Waiter { deadline, answer }) {
            Entered::Refused => return Err(Overload::Queue),
            Entered::Waits => None,
            Entered::InPlaceOf(gone) => Some(gone),
        };
        drop(state);
        if let Some(gone) = gone {
            // It may have gone by itself.
            let _ = gone.answer.send(Err(Overload::Queue));
        }
        Ok(Waiting { shared: self.clone(), place, answer: receiver })
    }

    /// Gives what turns there are to those whose turn it is.
    fn serve(self: &Arc<Self>) {
        loop {
            let mut state = self.lock();
            if state.turns >= self.at_once() {
                return;
            }
            let Some((groups, waiter)) = state.order.next() else { return };
            if waiter.deadline < Instant::now() + self.mean() {
                state.order.leave(groups.caller);
                drop(state);
                // Its own clock may have told it before.
                let _ = waiter.answer.send(Err(Overload::Deadline));
                continue;
            }
            // It has come already, when it began to wait.
            state.turns += 1;
            let turn = Turn { shared: self.clone(), caller: groups.caller, began: None };
            drop(state);
            // Whoever does not wait any more gives the turn back by dropping it, outside of the lock.
            let _ = waiter.answer.send(Ok(turn));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use futures::FutureExt;

    fn asker(caller: &str) -> Asker<'_> {
        Asker { caller: (caller, ""), namespace: ("cluster.local", "a"), node: None }
    }

    fn take<'a>(
        turns: &'a Turns,
        caller: &'a str,
        within: Duration,
    ) -> impl Future<Output = Result<Turn, Overload>> {
        let deadline = Instant::now() + within;
        async move { turns.take(&asker(caller), || Need::First, deadline).await }
    }

    /// Turns of one thread for jobs of this length, and all that it gives at once.
    async fn busy(job: Duration, queue: usize) -> (Turns, Vec<Turn>) {
        let turns = Turns::new(1, queue);
        turns.shared.mean.store(job.as_nanos() as u64, Ordering::Relaxed);
        let mut taken = Vec::new();
        for number in 0..turns.shared.at_once() {
            taken.push(take(&turns, &format!("busy-{number}"), Duration::from_secs(1)).await.unwrap());
        }
        (turns, taken)
    }

    const SECOND: Duration = Duration::from_secs(1);
    const JOB: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn a_turn_comes_before_the_deadline_or_is_refused() {
        let (turns, mut taken) = busy(JOB, 100).await;
        assert_eq!(taken.len(), 10, "ten milliseconds of work");
        assert_eq!(take(&turns, "late", SECOND).await.unwrap_err(), Overload::Deadline);
        assert_eq!(turns.waiting(), 0);
        let mut waits = std::pin::pin!(take(&turns, "waits", SECOND));
        assert!(futures::poll!(&mut waits).is_pending());
        taken.pop();
        waits.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_cannot_be_served_in_time_is_refused_at_once() {
        let (turns, _taken) = busy(Duration::from_millis(100), 100).await;
        let callers = ["a", "b", "c", "d", "e", "f", "g", "h"];
        let mut waiting = callers.map(|caller| Box::pin(take(&turns, caller, SECOND * 9)));
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        let refused = take(&turns, "in-a-hurry", Duration::from_millis(500)).now_or_never();
        assert_eq!(refused.unwrap().unwrap_err(), Overload::Deadline);
        assert_eq!(turns.waiting(), 8);
        assert!(take(&turns, "patient", SECOND * 2).now_or_never().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_certificate_that_ends_overtakes_and_takes_the_place_of_others_when_there_is_no_room() {
        let (turns, mut taken) = busy(JOB, 2).await;
        let (mut first, mut second) =
            (std::pin::pin!(take(&turns, "first", SECOND)), std::pin::pin!(take(&turns, "second", SECOND)));
        assert!(futures::poll!(&mut first).is_pending() && futures::poll!(&mut second).is_pending());
        assert_eq!(take(&turns, "third", SECOND).await.unwrap_err(), Overload::Queue);
        let ends = std::time::SystemTime::UNIX_EPOCH;
        let (asker, deadline) = (asker("ends"), Instant::now() + SECOND);
        let mut urgent = std::pin::pin!(turns.take(&asker, || Need::Ending(ends), deadline));
        assert!(futures::poll!(&mut urgent).is_pending());
        assert_eq!(second.await.unwrap_err(), Overload::Queue);
        taken.pop();
        let _turn = urgent.await.unwrap();
        assert!(futures::poll!(&mut first).is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stops_waiting_leaves_the_queue_and_one_with_a_turn_gives_it_back() {
        let (turns, mut taken) = busy(JOB, 100).await;
        let mut leaves = Box::pin(take(&turns, "leaves", SECOND));
        let mut stays = Box::pin(take(&turns, "stays", SECOND));
        assert!(futures::poll!(&mut leaves).is_pending() && futures::poll!(&mut stays).is_pending());
        drop(leaves);
        assert_eq!(turns.waiting(), 1);
        // The turn is on its way to somebody who does not take it.
        taken.pop();
        assert_eq!(turns.waiting(), 0);
        drop(stays);
        taken.clear();
        assert_eq!(turns.shared.lock().turns, 0);
        assert_eq!(take(&turns, "next", SECOND).now_or_never().map(|turn| turn.is_ok()), Some(true));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_is_too_late_takes_nobody_s_place() {
        let (turns, _taken) = busy(JOB, 1).await;
        let mut waits = Box::pin(take(&turns, "waits", SECOND));
        assert!(futures::poll!(&mut waits).is_pending());
        let (asker, ends) = (asker("hurries"), std::time::SystemTime::UNIX_EPOCH);
        let hurries = turns.take(&asker, || Need::Ending(ends), Instant::now() + Duration::from_nanos(1));
        assert_eq!(hurries.await.unwrap_err(), Overload::Deadline);
        assert!(futures::poll!(&mut waits).is_pending(), "it is still there");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_was_stopped_in_the_middle_of_a_job_does_not_refuse_everybody_after_it() {
        let (turns, mut taken) = busy(JOB, 100).await;
        taken[0].begin();
        tokio::time::advance(SECOND * 3600).await;
        taken.remove(0);
        assert!(turns.shared.mean() < Duration::from_millis(20), "{:?}", turns.shared.mean());
        let next = take(&turns, "next", SECOND).now_or_never();
        assert!(next.is_none_or(|turn| turn.is_ok()), "it waits or is served, and is not refused");
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_key_has_few_jobs_before_it_and_a_short_queue() {
        let turns = Turns::new(2, 2048);
        assert_eq!((turns.shared.at_once(), turns.shared.room()), (32, 2048));
        for _ in 0..200 {
            turns.shared.measured(Duration::from_micros(1600));
        }
        assert_eq!((turns.shared.at_once(), turns.shared.room()), (12, 1250));
        for _ in 0..200 {
            turns.shared.measured(Duration::from_micros(60));
        }
        assert_eq!(turns.shared.at_once(), 2 * MOST);
    }
}
