//! Days of trouble, on clocks that are moved by hand: no network, and no time of the machine that runs them.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::evidence::EvidenceError;
use crate::request::AnswerError;
use crate::testing::{Authority, HOUR, Pki, trust, trust_domain};
use signet_certs::clock::whole_seconds;
use signet_certs::validity::Validity;
use signet_service::clock_watch::{Clocks, ClocksByHand, Reading, Step};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio::sync::Notify;
use tracing::{Event, Level, Metadata, Subscriber, span};

const MINUTE: Duration = Duration::from_secs(60);
/// What the certificates of these tests live.
const LIFE: Duration = HOUR;

type Then = Box<dyn FnOnce(&ClocksByHand) + Send>;

/// Clocks that a sleep moves; at `end` the test is over.
struct Hand {
    clocks: Arc<ClocksByHand>,
    begin: Duration,
    end: Duration,
    over: Notify,
    /// Done once, so long after the begin.
    events: Mutex<Vec<(Duration, Then)>>,
}

impl Hand {
    fn until(end: Duration) -> Self {
        let clocks = ClocksByHand::at_now();
        let begin = clocks.read().since_start;
        Self { clocks, begin, end, over: Notify::new(), events: Mutex::default() }
    }

    fn at(&self, moment: Duration, event: impl FnOnce(&ClocksByHand) + Send + 'static) {
        self.events.lock().unwrap().push((moment, Box::new(event)));
    }

    fn passed(&self) -> Duration {
        self.clocks.read().since_start - self.begin
    }
}

impl Clock for Hand {
    fn read(&self) -> Reading {
        self.clocks.read()
    }

    async fn sleep(&self, time: Duration) {
        self.clocks.pass(time);
        let passed = self.passed();
        let due =
            self.events.lock().unwrap().extract_if(.., |(moment, _)| *moment <= passed).collect::<Vec<_>>();
        for (_, event) in due {
            event(&self.clocks);
        }
        if passed >= self.end {
            self.over.notify_one();
            std::future::pending::<()>().await;
        }
        tokio::task::yield_now().await;
    }
}

type Script = Box<dyn FnMut(Duration) -> Option<RequestError> + Send>;

/// A CA as a script: what goes wrong, so long after the begin; a good answer otherwise.
struct Scripted {
    pki: Arc<Pki>,
    hand: Arc<Hand>,
    script: Mutex<Script>,
    asked: Mutex<Vec<Duration>>,
}

impl Asker for Scripted {
    async fn ask(&self, _: Option<Arc<Trust>>) -> Result<Answer, RequestError> {
        let passed = self.hand.passed();
        self.asked.lock().unwrap().push(passed);
        if let Some(error) = (self.script.lock().unwrap())(passed) {
            return Err(error);
        }
        let now = whole_seconds(self.hand.read().wall);
        let validity = Validity { not_before: now - 2 * MINUTE, not_after: now + LIFE };
        Ok(Answer { svid: self.pki.svid(validity), trust: trust(&[&self.pki.root], None) })
    }
}

/// Counts what is said.
#[derive(Default)]
struct Said(Arc<AtomicU32>);

impl Subscriber for Said {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() == Level::WARN
    }
    fn event(&self, _: &Event<'_>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }
    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

/// What came of a run.
struct Outcome {
    /// When the CA was asked.
    asked: Vec<Duration>,
    /// Warnings.
    said: u32,
    metrics: Metrics,
    wall: SystemTime,
}

impl Outcome {
    fn asked_between(&self, from: Duration, to: Duration) -> usize {
        self.asked.iter().filter(|at| (from..to).contains(*at)).count()
    }

    fn first_after(&self, moment: Duration) -> Duration {
        *self.asked.iter().find(|at| **at >= moment).unwrap()
    }

    fn overdue(&self, holder: &Holder) -> u64 {
        let text = self.metrics.text(&holder.served(), self.wall);
        let line = text.lines().find(|line| line.starts_with("signet_agent_renewal_overdue_seconds "));
        line.unwrap().rsplit(' ').next().unwrap().parse().unwrap()
    }
}

/// Runs the loop until the hand's end.
async fn run(
    pki: Arc<Pki>,
    holder: &Holder,
    hand: Arc<Hand>,
    script: impl FnMut(Duration) -> Option<RequestError> + Send + 'static,
) -> Outcome {
    let script = Mutex::new(Box::new(script) as Script);
    let asker = Arc::new(Scripted { pki, hand: hand.clone(), script, asked: Mutex::default() });
    let (said, metrics) = (Said::default(), Metrics::default());
    let count = said.0.clone();
    let _guard = tracing::subscriber::set_default(said);
    let renewal = Renewal { ratio: 0.5, jitter: 0.0 };
    let first = hand.read().wall;
    tokio::select! {
        () = keep(asker.clone(), holder, renewal, first, &*hand, &metrics) => {}
        () = hand.over.notified() => {}
    }
    let asked = std::mem::take(&mut *asker.asked.lock().unwrap());
    Outcome { asked, said: count.load(Ordering::Relaxed), metrics, wall: hand.read().wall }
}

fn holder() -> Arc<Holder> {
    Arc::new(Holder::new(trust_domain(), None))
}

fn away(passed: Duration, from: Duration, to: Duration) -> Option<RequestError> {
    (from..to).contains(&passed).then_some(RequestError::Deadline(Duration::from_secs(5)))
}

#[tokio::test]
async fn a_ca_that_is_away_past_the_end_costs_few_attempts_and_fewer_lines() {
    let (holder, hand) = (holder(), Arc::new(Hand::until(10 * HOUR)));
    let outcome = run(Arc::new(Pki::new()), &holder, hand.clone(), |at| away(at, MINUTE, 20 * HOUR)).await;
    // Of the certificate's hour, half is left when it is due, and its NotBefore counts.
    assert_eq!(outcome.asked_between(MINUTE, 28 * MINUTE), 0);
    let before_the_end = outcome.asked_between(28 * MINUTE, HOUR);
    assert!((30..100).contains(&before_the_end), "{before_the_end}: about one a minute, more near the end");
    let after_it = outcome.asked_between(HOUR + MINUTE, 10 * HOUR);
    let seconds = (9 * HOUR - MINUTE).as_secs() as usize;
    assert!((seconds / 7..seconds / 3).contains(&after_it), "{after_it}: one in about five seconds");
    assert!((100..200).contains(&outcome.said), "{}: one in five minutes", outcome.said);
    // It was served to its last second, and stays for the day when the clock says otherwise.
    let svid = holder.served().svid.unwrap();
    let end = svid.lifetime().not_after;
    assert!(holder.served().valid_svid(end).is_some());
    assert!(holder.served().valid_svid(end + Duration::from_secs(1)).is_none());
    assert!(holder.verify(end).is_ok() && holder.verify(end + Duration::from_secs(1)).is_err());
    let overdue = outcome.overdue(&holder);
    assert!((9 * 3600..10 * 3600).contains(&overdue), "{overdue}");
}

#[tokio::test]
async fn every_permanent_fault_is_asked_about_rarely_and_said_rarely() {
    type Fault = fn() -> RequestError;
    let faults: [Fault; 4] = [
        || RequestError::Fault,
        || RequestError::Answer(AnswerError::OtherKey),
        || RequestError::Evidence(EvidenceError::Empty { path: "token".into() }),
        || RequestError::TooLarge,
    ];
    for fault in faults {
        let (holder, hand) = (holder(), Arc::new(Hand::until(HOUR)));
        let outcome = run(Arc::new(Pki::new()), &holder, hand, move |_| Some(fault())).await;
        let (asked, said) = (outcome.asked.len(), outcome.said);
        assert!((500..1200).contains(&asked) && said <= 13, "{asked} attempts, {said} lines: {}", fault());
        assert!(outcome.overdue(&holder) >= 3599, "the first certificate is overdue from the start");
    }
}

#[tokio::test]
async fn a_token_that_comes_back_is_used_within_seconds() {
    let (holder, hand) = (holder(), Arc::new(Hand::until(HOUR - MINUTE)));
    let back = 50 * MINUTE;
    let gone = move |at| {
        let error = || RequestError::Evidence(EvidenceError::Empty { path: "token".into() });
        (MINUTE..back).contains(&at).then(error)
    };
    let outcome = run(Arc::new(Pki::new()), &holder, hand, gone).await;
    let after = outcome.first_after(back) - back;
    assert!(after <= Duration::from_secs(5), "{after:?}, though a quarter of what is left is more");
    assert_eq!(outcome.overdue(&holder), 0);
}

#[tokio::test]
async fn a_ca_that_is_back_is_asked_when_the_watch_has_found_it() {
    let found = 45 * MINUTE;
    for (hint, wait) in [(None, Duration::from_secs(10)), (Some(()), 2 * MINUTE)] {
        let pki = Arc::new(Pki::new());
        let (holder, hand) = (holder(), Arc::new(Hand::until(50 * MINUTE)));
        let (watched, root) = (holder.clone(), trust(&[&pki.root], Some((1, 1))));
        hand.at(found, move |_| watched.take_trust(root));
        let script = move |at| {
            if !(MINUTE..found).contains(&at) {
                return None;
            }
            match hint {
                None => away(at, MINUTE, found),
                Some(()) => Some(RequestError::refused_with_hint(MINUTE)),
            }
        };
        let outcome = run(pki, &holder, hand, script).await;
        let after = outcome.first_after(found) - found;
        assert!(after < wait, "{after:?} with hint {hint:?}");
        let before = outcome.asked.iter().rev().find(|at| **at < found).unwrap();
        let gap = outcome.first_after(found) - *before;
        assert!(hint.is_none() || gap >= MINUTE, "{gap:?}: who asks us to wait is not asked early");
    }
}

#[tokio::test]
async fn roots_that_no_longer_anchor_the_certificate_are_a_reason_to_ask_at_once() {
    let (pki, other) = (Arc::new(Pki::new()), Authority::root("Other"));
    let (holder, hand) = (holder(), Arc::new(Hand::until(20 * MINUTE)));
    for (minutes, roots) in
        [(5, trust(&[&pki.root, &other], Some((1, 1)))), (10, trust(&[&other], Some((1, 2))))]
    {
        let watched = holder.clone();
        hand.at(minutes * MINUTE, move |_| watched.take_trust(roots));
    }
    let outcome = run(pki, &holder, hand, |_| None).await;
    assert_eq!(outcome.asked_between(MINUTE, 10 * MINUTE), 0, "one root more changes nothing");
    assert!(outcome.first_after(10 * MINUTE) <= 10 * MINUTE + Duration::from_secs(5));
    // What came is under a root that is gone, and so the old one stays.
    assert!(outcome.asked_between(10 * MINUTE, 20 * MINUTE) < 30);
}

#[tokio::test]
async fn a_machine_that_slept_past_the_end_asks_when_it_wakes() {
    let (holder, hand) = (holder(), Arc::new(Hand::until(16 * HOUR + 20 * MINUTE)));
    hand.at(10 * MINUTE, |clocks| clocks.suspend(16 * HOUR));
    let outcome = run(Arc::new(Pki::new()), &holder, hand, |_| None).await;
    let woke = 16 * HOUR + 10 * MINUTE;
    assert_eq!(outcome.asked_between(MINUTE, woke), 0);
    assert!(outcome.first_after(woke) - woke <= Duration::from_secs(5));
    assert!(holder.served().valid_svid(outcome.wall).is_some());
}

#[tokio::test]
async fn a_clock_that_is_set_forwards_costs_no_certificate() {
    let (holder, hand) = (holder(), Arc::new(Hand::until(20 * MINUTE)));
    hand.at(10 * MINUTE, |clocks| clocks.step(Step::forwards(3 * HOUR)));
    hand.at(15 * MINUTE, |clocks| clocks.step(Step::backwards(3 * HOUR)));
    // By the wrong clock everything that the CA answers has ended.
    let ended = RequestError::Answer(AnswerError::Time(signet_certs::validity::ValidityError::Ended(
        SystemTime::UNIX_EPOCH,
    )));
    assert!(with_causes(&ended).contains("clock"), "{}", with_causes(&ended));
    let mut ended = Some(ended);
    let script = move |at: Duration| {
        let wrong = (10 * MINUTE..15 * MINUTE).contains(&at);
        wrong.then(|| ended.take().unwrap_or(RequestError::TooLarge))
    };
    let outcome = run(Arc::new(Pki::new()), &holder, hand, script).await;
    assert!(outcome.first_after(10 * MINUTE) <= 10 * MINUTE + Duration::from_secs(5));
    assert!(outcome.asked_between(10 * MINUTE, 15 * MINUTE) < 100);
    assert!(holder.served().valid_svid(outcome.wall).is_some(), "the good one is still there, or a new one");
}

#[tokio::test]
async fn a_clock_that_is_set_back_neither_hides_the_certificate_nor_puts_its_renewal_off() {
    let (holder, hand) = (holder(), Arc::new(Hand::until(40 * MINUTE)));
    hand.at(10 * MINUTE, |clocks| clocks.step(Step::backwards(5 * HOUR)));
    let observed = holder.clone();
    hand.at(11 * MINUTE, move |clocks| {
        assert!(observed.served().valid_svid(clocks.read().wall).is_some());
    });
    let outcome = run(Arc::new(Pki::new()), &holder, hand, |_| None).await;
    assert_eq!(outcome.asked_between(11 * MINUTE, 27 * MINUTE), 0);
    assert!((27 * MINUTE..31 * MINUTE).contains(&outcome.first_after(11 * MINUTE)));
}
