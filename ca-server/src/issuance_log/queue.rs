//! What waits for the writer: a bounded list that it empties at once, and a count of what is on its way.
//!
//! The writer sleeps here. It is woken by the first entry when it has nothing to do, and after that only once
//! the batch is worth its sync: waking a thread for each entry would cost more than recording it.

use std::mem;
use std::time::Duration;

use super::record::Entry;
use super::sync::{Condvar, Instant, Mutex, MutexGuard, PoisonError};
use super::writer::{AppendError, Command};
use tokio::sync::oneshot;

/// A batch waits for more only while at least so many entries are announced: below, waiting would cost those
/// who wait more than it saves.
pub(super) const COMPANY: usize = 8;

/// And no longer than this.
pub(super) const LINGER: Duration = Duration::from_millis(1);

/// See the module's text.
pub(super) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
    capacity: usize,
}

#[derive(Default)]
struct State {
    commands: Vec<Command>,
    /// Entries that are on their way and not in the queue yet.
    announced: usize,
    writer: Writer,
    closed: bool,
}

/// What the writer does.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Writer {
    #[default]
    Works,
    /// Sleeps until anything comes.
    Idle,
    /// Sleeps until few enough entries are announced.
    Lingers,
}

impl State {
    fn wakes_writer(&self) -> bool {
        match self.writer {
            Writer::Works => false,
            Writer::Idle => self.closed || !self.commands.is_empty(),
            Writer::Lingers => self.closed || self.announced < COMPANY,
        }
    }
}

/// Why a command was not taken.
pub(super) enum Refusal {
    Full,
    Closed,
}

impl From<Refusal> for AppendError {
    fn from(refusal: Refusal) -> AppendError {
        match refusal {
            Refusal::Full => AppendError::Busy,
            Refusal::Closed => AppendError::Closed,
        }
    }
}

/// An entry that is on its way to the log. Dropped if nothing comes of it.
pub struct Announced<'a>(&'a Queue);

impl Queue {
    /// Takes this many commands before it refuses more.
    pub(super) fn new(capacity: usize) -> Queue {
        Queue { state: Mutex::new(State::default()), wake: Condvar::new(), capacity }
    }

    /// Says that an entry is on its way.
    pub(super) fn announce(&self) -> Announced<'_> {
        self.lock().announced += 1;
        Announced(self)
    }

    /// Adds a command. Only entries count against the capacity: there is one probe at a time, and checkpoints
    /// are asked for by operators.
    pub(super) fn push(&self, command: Command) -> Result<(), Refusal> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refusal::Closed);
        }
        if matches!(command, Command::Append { .. }) && state.commands.len() >= self.capacity {
            return Err(Refusal::Full);
        }
        state.commands.push(command);
        self.wake_if_worth_it(state);
        Ok(())
    }

    /// Takes no more commands; the writer still gets those that wait.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.wake_if_worth_it(state);
    }

    /// Commands that wait.
    pub(super) fn len(&self) -> usize {
        self.lock().commands.len()
    }

    /// Waits for a command until `due`, if there is such a time, and a moment longer where many entries are on
    /// their way. All that wait, and whether there will be no more.
    pub(super) fn take(&self, due: Option<Instant>) -> (Vec<Command>, bool) {
        let mut state = self.lock();
        if state.commands.is_empty() {
            state = self.sleep(state, Writer::Idle, due);
        }
        if !state.commands.is_empty() {
            state = self.sleep(state, Writer::Lingers, Some(Instant::now() + LINGER));
        }
        (mem::take(&mut state.commands), state.closed)
    }

    fn sleep<'q>(
        &'q self,
        mut state: MutexGuard<'q, State>,
        writer: Writer,
        until: Option<Instant>,
    ) -> MutexGuard<'q, State> {
        state.writer = writer;
        while !state.wakes_writer() {
            state = match until.map(|until| until.saturating_duration_since(Instant::now())) {
                None => self.wake.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(Duration::ZERO) => break,
                Some(left) => self.wake.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        state.writer = Writer::Works;
        state
    }

    fn wake_if_worth_it(&self, state: MutexGuard<'_, State>) {
        let wakes = state.wakes_writer();
        drop(state);
        if wakes {
            self.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole before the lock is let go.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Announced<'_> {
    /// Records the entry, and gives its index once it is durable. If the future is dropped the entry may be
    /// recorded all the same.
    ///
    /// # Errors
    /// It is not known to be recorded: what it is about must not leave the CA.
    pub async fn append(self, entry: Entry) -> Result<u64, AppendError> {
        let (reply, answer) = oneshot::channel();
        self.0.push(Command::Append { entry: Box::new(entry), reply })?;
        drop(self);
        answer.await.unwrap_or(Err(AppendError::Closed))
    }
}

impl Drop for Announced<'_> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.announced -= 1;
        self.0.wake_if_worth_it(state);
    }
}
