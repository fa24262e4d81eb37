//! Whether the wall clock may be believed: it is compared with the time since the machine was started, which
//! nobody sets. Where the two move apart by more than a margin, the wall clock was stepped.
//!
//! What is trusted is one number: how far the wall clock is from the time since the start. Whoever needs the
//! time of day asks [`ClockWatch::now`], which compares at that moment: a step is seen by the first request
//! after it, not by the next tick. Once a second [`ClockWatch::tick`] says what has changed. After a step the
//! clock is trusted again when it has come back, or when somebody says so with [`ClockWatch::accept`]; who
//! may, and when, is the business of the program. A program that keeps [`ClockWatch::trusted`] goes on with it
//! after a restart, until the machine is started anew: a restart makes no clock better.
//!
//! Linux slews both clocks alike, so that only steps move them apart. Small ones (a leap second, a daily
//! correction) are forgotten with time, a tenth of it at the most. A suspended machine steps nothing: the time
//! since the start goes on meanwhile.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, Timespec, clock_gettime};
use serde::{Deserialize, Serialize};

/// By how much the clocks may move apart: what tokens may be off by, and far less than leaves are backdated.
pub const MARGIN: Duration = Duration::from_secs(10);

/// Differences below the margin are forgotten at this share of the time, one in so many.
const FORGETTING: i64 = 10;
/// A suspension that is worth a word.
const SUSPENDED: Duration = Duration::from_secs(1);
/// The clocks are read this closely together, or again: a thread may be stopped between two readings.
const TOGETHER: Duration = Duration::from_millis(1);
const READINGS: usize = 16;

/// The clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Time of day.
    pub wall: SystemTime,
    /// Since the machine was started, suspensions included.
    pub since_start: Duration,
    /// Since the machine was started, suspensions not included.
    pub awake: Duration,
}

/// Where readings come from: the machine, or a test's hand.
pub trait Clocks: fmt::Debug + Send + Sync {
    /// What they say now.
    fn read(&self) -> Reading;

    /// Names what the time since the start is counted from; nothing where that is not known.
    fn boot(&self) -> Option<String> {
        None
    }
}

/// The machine's clocks.
#[derive(Debug, Clone, Copy, Default)]
pub struct MachineClocks;

impl Clocks for MachineClocks {
    fn read(&self) -> Reading {
        let mut reading = read_once();
        for _ in 1..READINGS {
            if reading.1 <= TOGETHER {
                break;
            }
            reading = read_once();
        }
        reading.0
    }

    /// The kernel's random id of this start, and the time namespace, which may have a count of its own.
    fn boot(&self) -> Option<String> {
        let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = std::fs::read_link("/proc/self/ns/time").unwrap_or_default();
        Some(format!("{} {}", id.trim(), namespace.display()))
    }
}

/// A reading, and how long it took.
fn read_once() -> (Reading, Duration) {
    let awake = duration(clock_gettime(ClockId::Monotonic));
    let since_start = duration(clock_gettime(ClockId::Boottime));
    let wall = SystemTime::now();
    let took = duration(clock_gettime(ClockId::Boottime)).saturating_sub(since_start);
    (Reading { wall, since_start, awake }, took)
}

fn duration(time: Timespec) -> Duration {
    // Both clocks begin at zero and count up.
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// Clocks that move when they are told to, for tests and rehearsals.
#[derive(Debug)]
pub struct ClocksByHand {
    reading: Mutex<Reading>,
    boots: AtomicU32,
}

impl ClocksByHand {
    /// They stand at this.
    pub fn at(reading: Reading) -> Arc<Self> {
        Arc::new(Self { reading: Mutex::new(reading), boots: AtomicU32::new(0) })
    }

    /// They stand at what the machine's say now.
    pub fn at_now() -> Arc<Self> {
        Self::at(MachineClocks.read())
    }

    /// Time goes by.
    pub fn pass(&self, time: Duration) {
        self.change(|clocks| {
            clocks.wall += time;
            clocks.since_start += time;
            clocks.awake += time;
        });
    }

    /// The machine sleeps for so long.
    pub fn suspend(&self, time: Duration) {
        self.change(|clocks| {
            clocks.wall += time;
            clocks.since_start += time;
        });
    }

    /// The machine is started anew, in no time.
    pub fn reboot(&self) {
        self.boots.fetch_add(1, Ordering::Relaxed);
        self.change(|clocks| (clocks.since_start, clocks.awake) = Default::default());
    }

    /// The wall clock is set.
    pub fn step(&self, step: Step) {
        self.change(|clocks| clocks.wall = step.added_to(clocks.wall));
    }

    fn change(&self, change: impl FnOnce(&mut Reading)) {
        change(&mut self.reading.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Clocks for ClocksByHand {
    fn read(&self) -> Reading {
        *self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn boot(&self) -> Option<String> {
        Some(self.boots.load(Ordering::Relaxed).to_string())
    }
}

/// How far the wall clock was stepped, in nanoseconds; forwards is positive. Displayed in seconds: `+3600.0s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step(i64);

impl Step {
    /// Forwards.
    pub fn forwards(by: Duration) -> Self {
        Self(nanoseconds(by))
    }

    /// Backwards.
    pub fn backwards(by: Duration) -> Self {
        Self(-nanoseconds(by))
    }

    /// Whether it leads to a later time.
    pub fn is_forwards(self) -> bool {
        self.0 > 0
    }

    /// Its size.
    pub fn size(self) -> Duration {
        Duration::from_nanos(self.0.unsigned_abs())
    }

    /// In seconds, for metrics.
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e9
    }

    fn added_to(self, time: SystemTime) -> SystemTime {
        let moved =
            if self.is_forwards() { time.checked_add(self.size()) } else { time.checked_sub(self.size()) };
        // Neither end of what a time can say is near.
        moved.unwrap_or(time)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:+.1}s", self.seconds())
    }
}

/// The wall clock is not believed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the wall clock was stepped by {by} and is not believed yet")]
pub struct Stepped {
    /// How far it is from where it should be.
    pub by: Step,
    /// The time of day as it should be: the time before the step, and what has gone by since.
    pub expected: SystemTime,
    /// What it says.
    pub wall: SystemTime,
    /// What would be trusted if this were.
    offset: i64,
}

/// What is trusted, to be kept for the next start of the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trusted {
    /// As [`Clocks::boot`] names it.
    boot: String,
    /// Wall clock less time since the start, in nanoseconds.
    offset: i64,
}

impl Trusted {
    /// Whether it says about the same, to a tenth of the usual margin.
    pub fn is_close_to(&self, other: &Self) -> bool {
        let apart = self.offset.saturating_sub(other.offset).saturating_abs();
        self.boot == other.boot && apart <= nanoseconds(MARGIN) / 10
    }
}

/// What a tick found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The wall clock is not believed from now on, or was stepped once more.
    Stepped(Stepped),
    /// It is back where it should be, and believed.
    Returned,
    /// The machine slept for so long; the wall clock is believed as before.
    Suspended(Duration),
}

/// The wall clock, watched. Shared by all who need the time of day.
#[derive(Debug)]
pub struct ClockWatch {
    clocks: Arc<dyn Clocks>,
    margin: i64,
    /// Wall clock less time since the start, as it is trusted, in nanoseconds.
    trusted: AtomicI64,
    /// Nothing where it is not known.
    boot: Option<String>,
    /// Whether that was known from before this program started.
    resumed: AtomicBool,
    looked: Mutex<Looked>,
}

/// The last tick.
#[derive(Debug)]
struct Looked {
    reading: Reading,
    step: Option<Step>,
}

impl ClockWatch {
    /// Trusts the clock as it is now.
    pub fn new(clocks: Arc<dyn Clocks>, margin: Duration) -> Self {
        Self::resume(clocks, margin, None)
    }

    /// Trusts what was kept, if the machine was not started anew since then; otherwise the clock as it is now.
    pub fn resume(clocks: Arc<dyn Clocks>, margin: Duration, kept: Option<&Trusted>) -> Self {
        let (reading, boot) = (clocks.read(), clocks.boot());
        let kept = kept.filter(|kept| boot.as_ref() == Some(&kept.boot));
        let trusted = AtomicI64::new(kept.map_or(offset(&reading), |kept| kept.offset));
        let resumed = AtomicBool::new(kept.is_some());
        let looked = Mutex::new(Looked { reading, step: None });
        Self { clocks, margin: nanoseconds(margin), trusted, boot, resumed, looked }
    }

    /// Whether what was kept is trusted: then a step is one, also at the start.
    pub fn resumed(&self) -> bool {
        self.resumed.load(Ordering::Acquire)
    }

    /// What is trusted, for [`ClockWatch::resume`]; nothing where the machine's starts have no names.
    pub fn trusted(&self) -> Option<Trusted> {
        let boot = self.boot.clone()?;
        Some(Trusted { boot, offset: self.trusted.load(Ordering::Acquire) })
    }

    /// Watches the machine's clocks, with the usual margin.
    pub fn of_machine() -> Self {
        Self::new(Arc::new(MachineClocks), MARGIN)
    }

    /// Says that the time of day is `time` at least, whatever the wall clock says: a clock that is behind it by
    /// more than the margin counts as stepped, until it is accepted or has come there.
    pub fn not_before(&self, time: SystemTime) {
        let reading = self.clocks.read();
        let floor = to_nanoseconds(time).saturating_sub(nanoseconds(reading.since_start));
        let is_behind = |offset: i64| offset.saturating_add(self.margin) < floor;
        if is_behind(self.trusted.load(Ordering::Acquire)) {
            // What was kept is older than what is known now.
            let now = offset(&reading);
            self.trusted.store(if is_behind(now) { floor } else { now }, Ordering::Release);
            self.resumed.store(false, Ordering::Release);
        }
    }

    /// The time of day, compared at this moment.
    ///
    /// # Errors
    /// The wall clock is not believed.
    pub fn now(&self) -> Result<SystemTime, Stepped> {
        let reading = self.clocks.read();
        self.judge(&reading).map_or(Ok(reading.wall), Err)
    }

    /// Nothing while the wall clock is believed.
    pub fn stepped(&self) -> Option<Stepped> {
        self.now().err()
    }

    /// The time of day as far as it is known: the wall clock while it is believed, what it should say
    /// otherwise. For what must be dated and cannot wait.
    pub fn reckoned(&self) -> SystemTime {
        self.now().unwrap_or_else(|stepped| stepped.expected)
    }

    /// Time since the start, which nobody sets.
    pub fn since_start(&self) -> Duration {
        self.clocks.read().since_start
    }

    /// Believes the wall clock as it is now; says by how much it was stepped, if it was.
    pub fn accept(&self) -> Option<Stepped> {
        let stepped = self.stepped()?;
        self.accept_only(&stepped);
        Some(stepped)
    }

    /// Believes the wall clock as it was when `stepped` was found; if it was stepped once more meanwhile, that
    /// is a step like any other.
    pub fn accept_only(&self, stepped: &Stepped) {
        let mut looked = self.looked();
        self.trusted.store(stepped.offset, Ordering::Release);
        looked.step = None;
    }

    /// Looks at the clocks; to be called about once a second.
    pub fn tick(&self) -> Vec<Change> {
        let mut looked = self.looked();
        let reading = self.clocks.read();
        let went_by = |of: fn(&Reading) -> Duration| of(&reading).saturating_sub(of(&looked.reading));
        let (elapsed, awake) = (went_by(|reading| reading.since_start), went_by(|reading| reading.awake));
        let mut changes = Vec::new();
        let asleep = elapsed.saturating_sub(awake);
        if asleep >= SUSPENDED {
            changes.push(Change::Suspended(asleep));
        }
        let step = match self.judge(&reading) {
            None => {
                self.forget(&reading, elapsed);
                if looked.step.is_some() {
                    changes.push(Change::Returned);
                }
                None
            }
            Some(stepped) => {
                let said = looked.step.is_some_and(|step| (step.0 - stepped.by.0).abs() <= self.margin);
                if said {
                    looked.step
                } else {
                    changes.push(Change::Stepped(stepped));
                    Some(stepped.by)
                }
            }
        };
        *looked = Looked { reading, step };
        changes
    }

    /// A difference that is no step becomes the new normal, little by little.
    fn forget(&self, reading: &Reading, elapsed: Duration) {
        let trusted = self.trusted.load(Ordering::Acquire);
        let most = nanoseconds(elapsed) / FORGETTING;
        self.trusted.store(trusted + (offset(reading) - trusted).clamp(-most, most), Ordering::Release);
    }

    fn judge(&self, reading: &Reading) -> Option<Stepped> {
        let trusted = self.trusted.load(Ordering::Acquire);
        let offset = offset(reading);
        let by = Step(offset.saturating_sub(trusted));
        (by.0.saturating_abs() > self.margin).then(|| Stepped {
            by,
            expected: Step(-by.0).added_to(reading.wall),
            wall: reading.wall,
            offset,
        })
    }

    fn looked(&self) -> std::sync::MutexGuard<'_, Looked> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wall clock less time since the start.
fn offset(reading: &Reading) -> i64 {
    to_nanoseconds(reading.wall).saturating_sub(nanoseconds(reading.since_start))
}

/// Since 1970; good from 1678 to 2262.
fn to_nanoseconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => nanoseconds(after),
        Err(before) => -nanoseconds(before.duration()),
    }
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    fn watched() -> (Arc<ClocksByHand>, ClockWatch) {
        let wall = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let clocks = ClocksByHand::at(Reading { wall, since_start: HOUR, awake: HOUR });
        (clocks.clone(), ClockWatch::new(clocks, MARGIN))
    }

    fn second_by_second(clocks: &ClocksByHand, watch: &ClockWatch, seconds: u32) -> Vec<Change> {
        (0..seconds)
            .flat_map(|_| {
                clocks.pass(SECOND);
                watch.tick()
            })
            .collect()
    }

    #[test]
    fn a_step_beyond_the_margin_is_seen_at_once_and_said_once() {
        for step in [Step::forwards(HOUR), Step::backwards(HOUR), Step::backwards(MARGIN + SECOND)] {
            let (clocks, watch) = watched();
            let before = watch.now().unwrap();
            clocks.step(step);
            let stepped = watch.now().unwrap_err();
            assert_eq!((stepped.by, stepped.expected, watch.reckoned()), (step, before, before));
            assert_eq!(watch.tick(), [Change::Stepped(stepped)]);
            assert_eq!(
                second_by_second(&clocks, &watch, 600),
                [],
                "it stays where it is, and stays unbelieved"
            );
            assert_eq!(watch.now().unwrap_err().expected, before + SECOND * 600);
        }
    }

    #[test]
    fn within_the_margin_it_is_believed_and_the_difference_is_forgotten() {
        let (clocks, watch) = watched();
        for _ in 0..20 {
            clocks.step(Step::forwards(MARGIN));
            watch.now().unwrap();
            assert_eq!(second_by_second(&clocks, &watch, 100), []);
        }
        clocks.step(Step::forwards(MARGIN - SECOND));
        clocks.step(Step::forwards(MARGIN - SECOND));
        assert!(watch.now().is_err(), "small steps at once are one step");
    }

    #[test]
    fn a_clock_that_is_slewed_by_a_twelfth_is_never_stepped() {
        let (clocks, watch) = watched();
        for _ in 0..3600 {
            clocks.pass(SECOND);
            clocks.step(Step::backwards(SECOND / 12));
            assert_eq!(watch.tick(), []);
        }
    }

    #[test]
    fn a_clock_that_comes_back_is_believed_again() {
        let (clocks, watch) = watched();
        clocks.step(Step::forwards(HOUR));
        assert_eq!(watch.tick().len(), 1);
        clocks.step(Step::backwards(HOUR * 2));
        assert!(
            matches!(watch.tick()[..], [Change::Stepped(Stepped { by, .. })] if by == Step::backwards(HOUR))
        );
        clocks.step(Step::forwards(HOUR - SECOND * 3));
        watch.now().unwrap();
        assert_eq!(watch.tick(), [Change::Returned]);
        assert_eq!(watch.tick(), []);
    }

    #[test]
    fn an_accepted_clock_is_believed_from_then_on() {
        let (clocks, watch) = watched();
        assert_eq!(watch.accept(), None, "there is nothing to accept");
        clocks.step(Step::backwards(HOUR));
        watch.tick();
        assert_eq!(watch.accept().unwrap().by, Step::backwards(HOUR));
        watch.now().unwrap();
        assert_eq!(second_by_second(&clocks, &watch, 60), []);
        clocks.step(Step::forwards(HOUR));
        assert!(watch.now().is_err(), "the way back is a step as well");
    }

    #[test]
    fn a_suspended_machine_steps_nothing() {
        let (clocks, watch) = watched();
        clocks.suspend(HOUR * 8);
        watch.now().unwrap();
        assert_eq!(watch.tick(), [Change::Suspended(HOUR * 8)]);
        clocks.suspend(HOUR);
        clocks.step(Step::forwards(HOUR));
        assert!(matches!(watch.tick()[..], [Change::Suspended(_), Change::Stepped(_)]));
    }

    #[test]
    fn a_clock_behind_what_is_known_counts_as_stepped_until_it_is_there() {
        let (clocks, watch) = watched();
        let known = watch.now().unwrap();
        watch.not_before(known - HOUR);
        watch.not_before(known + MARGIN);
        watch.now().unwrap();
        clocks.step(Step::backwards(HOUR));
        let watch = ClockWatch::new(clocks.clone(), MARGIN);
        watch.now().unwrap();
        watch.not_before(known);
        let stepped = watch.now().unwrap_err();
        assert_eq!((stepped.by, stepped.expected), (Step::backwards(HOUR), known));
        assert_eq!(watch.tick(), [Change::Stepped(stepped)]);
        clocks.step(Step::forwards(HOUR));
        assert_eq!(watch.tick(), [Change::Returned]);
    }

    #[test]
    fn what_was_kept_is_trusted_until_the_machine_is_started_anew() {
        let (clocks, watch) = watched();
        let (before, kept) = (watch.now().unwrap(), watch.trusted().unwrap());
        let resume = || ClockWatch::resume(clocks.clone(), MARGIN, Some(&kept));
        clocks.suspend(HOUR);
        assert!(resume().now().is_ok() && resume().resumed());
        for step in [Step::forwards(HOUR), Step::backwards(HOUR * 2)] {
            clocks.step(step);
            let watch = resume();
            assert_eq!(watch.trusted().as_ref(), Some(&kept));
            let stepped = watch.now().unwrap_err();
            assert_eq!(stepped.expected, before + HOUR);
            // The log knows less than what was kept, or what was accepted since then.
            watch.not_before(before);
            assert_eq!((watch.now(), watch.resumed()), (Err(stepped), true));
            watch.not_before(before + HOUR * 2);
            assert_eq!((watch.now().is_ok(), watch.resumed()), (step.is_forwards(), false));
        }
        clocks.reboot();
        assert!(resume().now().is_ok() && !resume().resumed());
    }

    #[test]
    fn the_machine_names_its_start() {
        let boot = MachineClocks.boot().unwrap();
        assert_eq!(boot, MachineClocks.boot().unwrap());
        assert!(boot.len() > 36, "{boot:?}");
    }

    #[test]
    fn the_machine_s_clocks_are_read_together() {
        let readings: Vec<_> = (0..1000).map(|_| MachineClocks.read()).collect();
        let offsets: Vec<_> = readings.iter().map(offset).collect();
        let (least, most) = (offsets.iter().min().unwrap(), offsets.iter().max().unwrap());
        // The clock of the machine that tests run on may be corrected meanwhile, by less than a step.
        assert!(most - least < nanoseconds(MARGIN), "{least} to {most}");
        assert!(readings.is_sorted_by_key(|reading| reading.since_start));
        assert!(readings[0].awake <= readings[0].since_start && !readings[0].awake.is_zero());
    }

    #[test]
    fn steps_are_written_in_seconds_with_their_sign() {
        assert_eq!(Step::forwards(HOUR).to_string(), "+3600.0s");
        assert_eq!(Step::backwards(SECOND / 2).to_string(), "-0.5s");
        assert_eq!(Step::backwards(HOUR).seconds(), -3600.0);
    }
}
