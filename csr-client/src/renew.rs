//! When to ask again: pure functions of times and draws, and the one wait that follows the clocks.
//!
//! Renewal is counted from the moment a certificate was received, or from its NotBefore if that is later:
//! CAs set NotBefore two minutes back, which would bring the renewal of short certificates forward. The
//! loop that acts on this is in `identity`.

use crate::config::Renewal;
use signet_service::clock_watch::{Clocks, MachineClocks, Reading};
use std::time::{Duration, SystemTime};

/// First wait after a failure.
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// Longest wait while a certificate still works.
const LONGEST_RETRY: Duration = Duration::from_secs(60);
/// Longest wait when there is nothing left to lose: every second of it is an outage.
const LONGEST_RETRY_WITHOUT: Duration = Duration::from_secs(5);
/// Shortest wait, however little is left.
const SHORTEST_RETRY: Duration = Duration::from_millis(100);
/// Longest sleep without a look at the clocks: timers stand still while a machine is suspended.
const SLICE: Duration = Duration::from_secs(5);

/// The times of a certificate that matter here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lifetime {
    /// When it came.
    pub received: SystemTime,
    /// Its NotBefore.
    pub not_before: SystemTime,
    /// Its NotAfter.
    pub not_after: SystemTime,
}

/// When to renew. `draw` is in -1..=1 and belongs to this certificate: draw it once.
///
/// The result lies between the start of the lifetime and NotAfter.
pub fn due(lifetime: Lifetime, renewal: Renewal, draw: f64) -> SystemTime {
    let start = lifetime.received.max(lifetime.not_before);
    let Ok(whole) = lifetime.not_after.duration_since(start) else {
        return lifetime.not_after;
    };
    let ratio = (renewal.ratio + draw * renewal.jitter).clamp(0.0, 1.0);
    lifetime.not_after - whole.mul_f64(ratio).min(whole)
}

/// How long to wait after the `failures`-th failure in a row (from 1).
///
/// `draw` is in [0, 1). `hint` is what the server asked for. `left` is how long the present certificate
/// still works, zero if it does not: no wait spends more than a quarter of it, so that several attempts
/// always fit in.
pub fn retry_after(failures: u32, draw: f64, hint: Option<Duration>, left: Duration) -> Duration {
    let doubled = FIRST_RETRY.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let longest = if left.is_zero() { LONGEST_RETRY_WITHOUT } else { LONGEST_RETRY };
    let own = doubled.min(longest).mul_f64(0.8 + 0.4 * draw);
    let wait = own.max(hint.unwrap_or_default().min(LONGEST_RETRY));
    if left.is_zero() { wait } else { wait.min((left / 4).max(SHORTEST_RETRY)) }
}

/// Time as the agent lives by it; tests have their own.
pub trait Clock: Send + Sync {
    /// What the clocks say.
    fn read(&self) -> Reading;

    /// Sleeps; what a suspended machine sleeps on top of it is not counted.
    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send;

    /// Returns when the wall clock has reached `moment`, or when as much time has gone by as was left of it at
    /// the call: a clock that is set back must not put a renewal off. After a suspension it is a few seconds
    /// late at the most.
    fn until(&self, moment: SystemTime) -> impl Future<Output = ()> + Send {
        async move {
            let begin = self.read();
            let end = begin.since_start + moment.duration_since(begin.wall).unwrap_or_default();
            loop {
                let now = self.read();
                let left = moment.duration_since(now.wall).unwrap_or_default();
                let left = left.min(end.saturating_sub(now.since_start));
                if left.is_zero() {
                    return;
                }
                self.sleep(left.min(SLICE)).await;
            }
        }
    }
}

/// The machine's.
#[derive(Debug, Clone, Copy)]
pub struct Machine;

impl Clock for Machine {
    fn read(&self) -> Reading {
        MachineClocks.read()
    }

    fn sleep(&self, time: Duration) -> impl Future<Output = ()> + Send {
        tokio::time::sleep(time)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use signet_service::clock_watch::{ClocksByHand, Step};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    const HOUR: Duration = Duration::from_secs(3600);
    const BACKDATED: Duration = Duration::from_secs(120);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }

    fn lifetime(valid: Duration) -> Lifetime {
        Lifetime { received: start(), not_before: start() - BACKDATED, not_after: start() + valid }
    }

    fn minutes(lifetime: Lifetime, ratio: f64) -> u64 {
        let due = due(lifetime, Renewal { ratio, jitter: 0.0 }, 0.0);
        due.duration_since(start()).unwrap_or_default().as_secs() / 60
    }

    #[test]
    fn case_35_rotation_times() {
        let hour = lifetime(HOUR);
        for (ratio, expected) in [(0.5, 30), (0.25, 45), (0.75, 15), (1.0, 0), (0.0, 60)] {
            assert_eq!(minutes(hour, ratio), expected, "ratio {ratio}");
        }
        let ended = Lifetime { not_after: start() - Duration::from_secs(1), ..hour };
        assert_eq!(minutes(ended, 0.5), 0);
        let early = Lifetime { not_before: start() + HOUR, not_after: start() + 2 * HOUR, ..hour };
        assert_eq!(minutes(early, 0.5), 90);
    }

    proptest! {
        #[test]
        fn case_35_jitter_stays_within_its_band_and_before_the_end(
            seconds in 1u64..10_000_000, ratio in 0.0f64..=1.0, jitter in 0.0f64..=1.0, draw in -1.0f64..=1.0,
        ) {
            let lifetime = lifetime(Duration::from_secs(seconds));
            let due = due(lifetime, Renewal { ratio, jitter }, draw);
            prop_assert!(due >= start() && due <= lifetime.not_after);
            let share = lifetime.not_after.duration_since(due).unwrap().as_secs_f64() / seconds as f64;
            prop_assert!(share <= ratio + jitter + 1e-6 && share >= ratio - jitter - 1e-6);
        }

        #[test]
        fn a_wait_never_costs_the_certificate(
            failures in 1u32..100, draw in 0.0f64..1.0, hint in 0u64..100_000, left in 1u64..100_000,
        ) {
            let left = Duration::from_secs(left);
            let wait = retry_after(failures, draw, Some(Duration::from_secs(hint)), left);
            prop_assert!(wait <= left / 4 && wait >= SHORTEST_RETRY);
        }
    }

    #[test]
    fn waits_double_up_to_a_limit() {
        let middle = |failures, left| retry_after(failures, 0.5, None, left).as_millis();
        let waits: Vec<_> = (1..=9).map(|failures| middle(failures, 24 * HOUR)).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(middle(40, Duration::ZERO), 5000);
        assert_ne!(retry_after(3, 0.0, None, HOUR), retry_after(3, 0.9, None, HOUR));
    }

    #[test]
    fn the_server_s_hint_is_honoured_within_what_is_left() {
        let hint = Some(Duration::from_secs(20));
        assert_eq!(retry_after(1, 0.5, hint, HOUR), Duration::from_secs(20));
        assert_eq!(retry_after(1, 0.5, hint, Duration::ZERO), Duration::from_secs(20));
        assert_eq!(retry_after(1, 0.5, hint, Duration::from_secs(8)), Duration::from_secs(2));
        assert_eq!(retry_after(1, 0.5, Some(24 * HOUR), 24 * HOUR), LONGEST_RETRY);
    }

    /// Waits for `wait` while the clocks are moved by `each` in every sleep; answers how many those were.
    async fn sleeps(wait: Duration, each: impl Fn(&ClocksByHand, Duration) + Send + Sync) -> u32 {
        struct Hand<F>(Arc<ClocksByHand>, AtomicU32, F);
        impl<F: Fn(&ClocksByHand, Duration) + Send + Sync> Clock for Hand<F> {
            fn read(&self) -> Reading {
                self.0.read()
            }
            async fn sleep(&self, time: Duration) {
                self.1.fetch_add(1, Ordering::Relaxed);
                (self.2)(&self.0, time);
            }
        }
        let reading = Reading { wall: start(), since_start: HOUR, awake: HOUR };
        let clock = Hand(ClocksByHand::at(reading), AtomicU32::new(0), each);
        clock.until(start() + wait).await;
        clock.1.into_inner()
    }

    #[tokio::test]
    async fn a_wait_ends_by_the_wall_clock_or_by_the_time_that_went_by() {
        assert_eq!(sleeps(HOUR, ClocksByHand::pass).await, 720, "nothing happens");
        let slept = sleeps(12 * HOUR, |clocks, time| {
            clocks.pass(time);
            clocks.suspend(16 * HOUR);
        });
        assert_eq!(slept.await, 1, "the machine slept past the moment");
        let forwards = sleeps(HOUR, |clocks, time| {
            clocks.pass(time);
            clocks.step(Step::forwards(2 * HOUR));
        });
        assert_eq!(forwards.await, 1);
        let backwards = sleeps(HOUR, |clocks, time| {
            clocks.pass(time);
            clocks.step(Step::backwards(HOUR));
        });
        assert_eq!(backwards.await, 720, "set back all the time, and no later than planned");
    }
}
