//! The CA's time of day. Everything that is dated or judged by time asks here, and gets an error while the wall
//! clock is not believed: nothing is issued by a clock that jumped.
//!
//! What a step is says [`ClockWatch`]; when the clock is believed again, says [`verdict`]: when it has come back,
//! when it has stood long enough where it is and nothing speaks against it, or when an operator says so. Whoever
//! accepts it is an act in the issuance log. A clock that is behind the log at the start counts as stepped. What
//! was trusted is kept in the store, so that a restart believes no clock that the server before it refused.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::Serialize;
use signet_certs::clock::rfc3339;
use signet_service::clock_watch::{Change, ClockWatch, Clocks, MARGIN, Stepped, Trusted};
use signet_service::logging::with_causes;
use tokio::sync::watch;

use crate::issuance_log::{ActEntry, AppendError, Entry, IssuanceLog};
use crate::reason::Reason;
use crate::store::{Batch, Store, StoreError, Table};

/// Row of [`Table::Meta`]: what was trusted last.
const KEPT: &[u8] = b"clock";
/// Between two looks.
const TICK: Duration = Duration::from_secs(1);
/// A longer step is never accepted by itself: after it nothing of a mesh is valid any more, or everything is
/// again. (ntpd gives up at a quarter of an hour for the same reason.)
const LARGEST: Duration = Duration::from_secs(86_400);

/// The clock of one server.
#[derive(Debug)]
pub struct Clock {
    watch: Arc<ClockWatch>,
    settle: Duration,
    doubt: Mutex<Option<Doubt>>,
    believed: watch::Sender<bool>,
    /// What the store has.
    kept: Mutex<Option<Trusted>>,
}

/// The watch over these clocks, which goes on with what a server on the same store trusted since the machine's
/// start. Reads the store.
///
/// # Errors
/// The store cannot be read.
pub fn resume(clocks: Arc<dyn Clocks>, store: &dyn Store) -> Result<ClockWatch, StoreError> {
    let row = store.read(Table::Meta, KEPT)?;
    // One that is damaged is none.
    let kept = row.and_then(|row| serde_json::from_slice(&row).ok());
    Ok(ClockWatch::resume(clocks, MARGIN, kept.as_ref()))
}

/// Why the clock is not believed, and since when.
#[derive(Debug, Clone, Copy)]
struct Doubt {
    /// Where the clock went, as it was last said.
    stepped: Stepped,
    /// Since when it stands there, in time since the machine's start.
    since: Duration,
    /// It was behind the log when the server started: the time before the start is unknown, and the way to the
    /// right time may be long.
    at_start: bool,
}

/// What keeps a stepped clock from being believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It has not stood there for long enough.
    Settling(Duration),
    /// It is behind the newest checkpoint of the log, which was signed then.
    BehindLog(SystemTime),
    /// The step is too large.
    TooFar,
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settling(left) => {
                write!(f, "it is accepted in {} s if it stays there", left.as_secs().max(1))
            }
            Self::BehindLog(newest) => {
                write!(
                    f,
                    "it is behind the log, whose last checkpoint is of {}: set it right",
                    rfc3339(*newest)
                )
            }
            Self::TooFar => f.write_str(
                "that is too far to be accepted by itself: set it right, or ca-server clock accept",
            ),
        }
    }
}

/// How the clock stands, for status.
#[derive(Debug, Clone, Serialize)]
pub struct Standing {
    /// Whether it is believed.
    pub steady: bool,
    /// How far it is from where it should be; 0 while it is believed.
    pub step_seconds: f64,
    /// What it says, RFC 3339.
    pub wall: String,
    /// What it should say.
    pub expected: String,
    /// What keeps it from being believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waiting: Option<String>,
}

/// Whether a clock that has stood where it is for `stood` may be believed by itself. `newest` is when the log
/// was last signed.
pub fn verdict(
    stepped: &Stepped,
    stood: Duration,
    settle: Duration,
    at_start: bool,
    newest: SystemTime,
) -> Result<(), Waiting> {
    if stepped.wall + MARGIN < newest {
        return Err(Waiting::BehindLog(newest));
    }
    if stepped.by.size() > LARGEST && !at_start {
        return Err(Waiting::TooFar);
    }
    match settle.saturating_sub(stood) {
        Duration::ZERO => Ok(()),
        left => Err(Waiting::Settling(left)),
    }
}

impl Clock {
    /// A clock that is believed by itself after `settle`. The log was opened with the same watch, and has told
    /// it how late it is at least.
    pub fn new(watch: Arc<ClockWatch>, settle: Duration) -> Self {
        let (doubt, believed, kept) = (Mutex::default(), watch::Sender::new(true), Mutex::default());
        let clock = Self { watch, settle, doubt, believed, kept };
        let at_start = !clock.watch.resumed();
        for change in clock.watch.tick() {
            if let Change::Stepped(stepped) = change {
                clock.begin(stepped, at_start);
            }
        }
        clock
    }

    /// The time of day, compared with the time since the machine's start at this moment.
    ///
    /// # Errors
    /// The clock is not believed.
    pub fn now(&self) -> Result<SystemTime, Stepped> {
        self.watch.now()
    }

    /// The time of day as far as it is known: for what must be dated and cannot wait.
    pub fn reckoned(&self) -> SystemTime {
        self.watch.reckoned()
    }

    /// Changes when the clock is believed no more, or again.
    pub fn believed(&self) -> watch::Receiver<bool> {
        self.believed.subscribe()
    }

    /// How it stands, beside a log whose newest checkpoint is of `newest`.
    pub fn standing(&self, newest: SystemTime) -> Standing {
        let (wall, expected, stepped) = match self.watch.now() {
            Ok(now) => (now, now, None),
            Err(stepped) => (stepped.wall, stepped.expected, Some(stepped)),
        };
        let waiting = stepped.and_then(|stepped| self.verdict(&stepped, newest).err());
        Standing {
            steady: stepped.is_none(),
            step_seconds: stepped.map_or(0.0, |stepped| stepped.by.seconds()),
            wall: rfc3339(wall),
            expected: rfc3339(expected),
            waiting: waiting.map(|waiting| waiting.to_string()),
        }
    }

    /// Looks at the clocks and says what has changed; answers a step that may be accepted by itself.
    fn look(&self, newest: SystemTime) -> Option<Stepped> {
        for change in self.watch.tick() {
            match change {
                Change::Stepped(stepped) => self.begin(stepped, false),
                Change::Returned => self.end("the wall clock is back where it should be"),
                Change::Suspended(during) => {
                    tracing::warn!(seconds = during.as_secs(), "the machine was suspended");
                }
            }
        }
        let stepped = self.watch.stepped()?;
        self.verdict(&stepped, newest).is_ok().then_some(stepped)
    }

    fn verdict(&self, stepped: &Stepped, newest: SystemTime) -> Result<(), Waiting> {
        let doubt = *self.doubt();
        let stood = doubt.map(|doubt| self.watch.since_start().saturating_sub(doubt.since));
        let at_start = doubt.is_some_and(|doubt| doubt.at_start);
        verdict(stepped, stood.unwrap_or_default(), self.settle, at_start, newest)
    }

    fn begin(&self, stepped: Stepped, at_start: bool) {
        let since = self.watch.since_start();
        let mut doubt = self.doubt();
        let at_start = at_start || doubt.is_some_and(|doubt| doubt.at_start);
        *doubt = Some(Doubt { stepped, since, at_start });
        drop(doubt);
        self.believed.send_replace(false);
        let (wall, expected) = (rfc3339(stepped.wall), rfc3339(stepped.expected));
        let by = stepped.by.to_string();
        tracing::error!(
            reason = Reason::ClockStepped.code(),
            by,
            wall,
            expected,
            "the wall clock is not believed: nothing is issued until it is back, has settled, or is accepted"
        );
    }

    fn end(&self, how: &'static str) {
        let doubt = self.doubt().take();
        self.believed.send_replace(true);
        let by = doubt.map(|doubt| doubt.stepped.by.to_string());
        tracing::warn!(by, "{how}");
    }

    /// Believes the clock as it is now, after the act is in the log; nothing where it is believed already.
    ///
    /// # Errors
    /// The act could not be recorded: nothing has changed.
    pub async fn accept(
        &self,
        log: &IssuanceLog,
        actor: String,
        reason: String,
    ) -> Result<Option<Stepped>, AppendError> {
        let Some(stepped) = self.watch.stepped() else { return Ok(None) };
        let (kind, subject) = ("clock-accepted".to_owned(), stepped.by.to_string());
        let act = ActEntry { kind, actor, subject, reason };
        log.append(Entry::act(stepped.wall, act)).await?;
        self.watch.accept_only(&stepped);
        self.end("the wall clock is accepted as it is");
        Ok(Some(stepped))
    }

    /// Keeps what is trusted, if the store has another.
    ///
    /// # Errors
    /// The store does not take it.
    fn keep(&self, store: &dyn Store) -> Result<(), StoreError> {
        let Some(trusted) = self.watch.trusted() else { return Ok(()) };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_some_and(|kept| kept.is_close_to(&trusted)) {
            return Ok(());
        }
        let mut batch = Batch::default();
        let row = serde_json::to_vec(&trusted).expect("a name and a number can be written as JSON");
        batch.put(Table::Meta, KEPT, row);
        store.apply(batch)?;
        store.flush()?;
        *kept = Some(trusted);
        Ok(())
    }

    /// Watches once a second. Never returns.
    pub async fn run(self: &Arc<Self>, log: &IssuanceLog, store: &Arc<dyn Store>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (clock, at) = (self.clone(), store.clone());
            if let Ok(Err(error)) = tokio::task::spawn_blocking(move || clock.keep(at.as_ref())).await {
                tracing::warn!(error = with_causes(&error), "what the clock should say is not kept");
            }
            if self.look(log.latest_checkpoint().time).is_none() {
                continue;
            }
            let reason = format!("it stood there for {} s", self.settle.as_secs());
            if let Err(error) = self.accept(log, "ca-server".to_owned(), reason).await {
                tracing::error!(error = with_causes(&error), "the wall clock is not accepted");
            }
        }
    }

    fn doubt(&self) -> std::sync::MutexGuard<'_, Option<Doubt>> {
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::data_folder::DataFolder;
    use crate::issuance_log::{Filter, Options};
    use crate::store::MemoryStore;
    use signet_service::clock_watch::{ClocksByHand, Step};

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);
    const SETTLE: Duration = Duration::from_secs(120);

    /// A server's clock and log, as they start.
    struct Server {
        clocks: Arc<ClocksByHand>,
        clock: Clock,
        log: IssuanceLog,
        folder: DataFolder,
        store: Arc<MemoryStore>,
        _place: tempfile::TempDir,
    }

    impl Server {
        fn start() -> Self {
            let place = tempfile::tempdir().unwrap();
            let folder = DataFolder::open(&place.path().join("data")).unwrap();
            let (clocks, store) = (ClocksByHand::at_now(), Arc::<MemoryStore>::default());
            let (clock, log) = open(&folder, &clocks, &store);
            Self { clocks, clock, log, folder, store, _place: place }
        }

        fn restart(self) -> Self {
            self.log.close();
            let (clock, log) = open(&self.folder, &self.clocks, &self.store);
            Self { clock, log, ..self }
        }

        /// A second goes by; answers whether the clock may be believed by itself.
        fn second(&self) -> bool {
            self.clocks.pass(SECOND);
            self.clock.look(self.log.latest_checkpoint().time).is_some()
        }

        /// How many seconds go by until it may.
        fn settles_after(&self) -> Option<u32> {
            (1..4000).find(|_| self.second())
        }

        fn waiting(&self) -> Waiting {
            let stepped = self.clock.now().unwrap_err();
            self.clock.verdict(&stepped, self.log.latest_checkpoint().time).unwrap_err()
        }

        fn acts(&self) -> Vec<serde_json::Value> {
            let page = self.log.reader().records(&Filter::default(), 0, 100).unwrap();
            page.records.iter().map(|record| serde_json::to_value(record).unwrap()).collect()
        }
    }

    fn open(
        folder: &DataFolder,
        clocks: &Arc<ClocksByHand>,
        store: &Arc<MemoryStore>,
    ) -> (Clock, IssuanceLog) {
        let watch = Arc::new(resume(clocks.clone(), store.as_ref()).unwrap());
        let options = Options { clock: watch.clone(), ..Options::default() };
        let log = IssuanceLog::open(folder, store.clone(), &options).unwrap();
        (Clock::new(watch, SETTLE), log)
    }

    #[test]
    fn a_clock_that_stays_where_it_was_set_is_believed_after_it_has_settled() {
        let server = Server::start();
        assert!(!server.second());
        server.clocks.step(Step::forwards(HOUR));
        assert!(server.clock.now().is_err(), "before anybody looked");
        assert_eq!(server.settles_after(), Some(121), "one look to see it, and the time to settle");
        // It is set once more before anybody has accepted it: that time counts anew.
        server.clocks.step(Step::forwards(HOUR));
        assert_eq!(server.settles_after(), Some(121));
    }

    #[test]
    fn a_clock_that_comes_back_is_believed_at_once() {
        let server = Server::start();
        let mut believed = server.clock.believed();
        server.clocks.step(Step::backwards(HOUR));
        server.second();
        assert!(!*believed.borrow_and_update());
        server.clocks.step(Step::forwards(HOUR));
        server.clock.now().unwrap();
        assert!(!server.second(), "there is nothing to accept");
        assert!(*believed.borrow_and_update());
        assert!(server.clock.standing(SystemTime::UNIX_EPOCH).steady);
    }

    #[test]
    fn a_clock_behind_the_log_is_not_believed_until_it_has_passed_it() {
        let server = Server::start();
        server.clocks.step(Step::backwards(HOUR));
        server.second();
        assert!(matches!(server.waiting(), Waiting::BehindLog(_)));
        assert_eq!(server.settles_after(), Some(3600 - 11), "the margin less than an hour");
    }

    #[test]
    fn a_step_of_more_than_a_day_is_an_operator_s_to_accept() {
        let server = Server::start();
        server.clocks.step(Step::forwards(LARGEST + SECOND));
        assert_eq!(server.settles_after(), None);
        assert_eq!(server.waiting(), Waiting::TooFar);
        assert!(server.clock.standing(SystemTime::UNIX_EPOCH).waiting.unwrap().contains("clock accept"));
    }

    #[tokio::test]
    async fn whoever_accepts_it_is_an_act_in_the_log() {
        let server = Server::start();
        let accept = || server.clock.accept(&server.log, "uid:7".to_owned(), "NTP was down".to_owned());
        assert_eq!(accept().await.unwrap(), None);
        assert_eq!(server.acts().len(), 0);
        server.clocks.step(Step::backwards(HOUR));
        assert_eq!(accept().await.unwrap().unwrap().by, Step::backwards(HOUR));
        server.clock.now().unwrap();
        let acts = server.acts();
        let text = acts[0].to_string();
        for part in ["clock-accepted", "uid:7", "-3600.0s", "NTP was down"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        // What is signed after it is of the new time: the log holds nothing against it any more.
        let checkpoint = server.log.checkpoint().await.unwrap();
        assert!(checkpoint.time <= server.clock.now().unwrap());
        let server = server.restart();
        server.clock.now().unwrap();
    }

    #[tokio::test]
    async fn a_clock_whose_acceptance_cannot_be_recorded_is_not_believed() {
        let server = Server::start();
        server.clocks.step(Step::forwards(HOUR));
        server.log.close();
        let refused = server.clock.accept(&server.log, "uid:7".to_owned(), String::new()).await;
        assert!(matches!(refused, Err(AppendError::Closed)), "{refused:?}");
        assert!(server.clock.now().is_err());
    }

    #[test]
    fn a_clock_that_is_behind_the_log_at_the_start_waits_however_far_the_way_is() {
        let server = Server::start();
        let began = server.clock.now().unwrap();
        server.clocks.step(Step::backwards(LARGEST * 365));
        let server = server.restart();
        let stepped = server.clock.now().unwrap_err();
        assert_eq!(stepped.by, Step::backwards(LARGEST * 365));
        assert_eq!(server.clock.reckoned(), began, "as late as the log knows");
        assert!(matches!(server.waiting(), Waiting::BehindLog(_)));
        assert!(!server.second());
        // The machine was off for a month.
        server.clocks.step(Step::forwards(LARGEST * (365 + 30)));
        assert_eq!(server.settles_after(), Some(121));
    }

    #[test]
    fn a_restart_believes_no_clock_that_was_refused_until_the_machine_is_started_anew() {
        let server = Server::start();
        server.clock.keep(server.store.as_ref()).unwrap();
        server.clocks.step(Step::forwards(LARGEST + HOUR));
        assert!(server.clock.now().is_err());
        server.clock.keep(server.store.as_ref()).unwrap();
        let server = server.restart();
        assert_eq!(server.clock.now().unwrap_err().by, Step::forwards(LARGEST + HOUR));
        assert_eq!(server.settles_after(), None, "it is too far, as it was before the restart");
        assert_eq!(server.waiting(), Waiting::TooFar);
        // What was accepted is what the next start goes on with.
        server.clock.watch.accept();
        server.clock.keep(server.store.as_ref()).unwrap();
        let server = server.restart();
        server.clock.now().unwrap();
        server.clocks.step(Step::forwards(HOUR));
        server.clocks.reboot();
        server.restart().clock.now().unwrap();
    }

    #[test]
    fn what_is_kept_and_cannot_be_read_is_none() {
        let server = Server::start();
        let mut batch = Batch::default();
        batch.put(Table::Meta, KEPT, *b"{\"boot\":7}");
        server.store.apply(batch).unwrap();
        server.clocks.step(Step::forwards(HOUR));
        server.restart().clock.now().unwrap();
    }

    #[test]
    fn a_long_stop_or_a_little_backwards_is_no_step() {
        let server = Server::start();
        server.clocks.step(Step::backwards(MARGIN));
        let server = server.restart();
        server.clock.now().unwrap();
        server.clocks.step(Step::forwards(LARGEST * 30));
        let server = server.restart();
        server.clock.now().unwrap();
        assert!(server.clock.standing(server.clock.reckoned()).steady);
    }
}
