//! Memory, handles and threads: do they level? In each life of a process that is long enough, its last third is held
//! against the third before, by their medians. The first is the warm-up: the store's cache fills with every page that
//! the random serial numbers touch, an allocator keeps what a burst took.

use crate::load::{Failure, Process};

/// Samples that a third has at the least; shorter lives say nothing.
const FEWEST: usize = 4;

/// One look at a process.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    life: usize,
    /// Bytes that are resident.
    pub(super) memory: u64,
    /// Open files and sockets.
    pub(super) handles: u64,
    /// Threads.
    pub(super) threads: u64,
}

impl Sample {
    /// Looks; `life` tells processes apart.
    pub(super) fn of(process: &Process, life: usize) -> Result<Self, Failure> {
        let (memory, handles, threads) = (process.memory()?, process.handles()?, process.threads()?);
        Ok(Self { life, memory, handles, threads })
    }
}

/// What may grow by how much between the thirds: a part of it and a constant.
struct Tolerance {
    what: &'static str,
    value: fn(&Sample) -> u64,
    part: f64,
    constant: u64,
}

/// A fifth and 4 MB: caches go on filling, more slowly. Handles come and go with slow clients, threads of the runtime
/// with blocking work.
const TOLERANCES: [Tolerance; 3] = [
    Tolerance { what: "bytes of memory", value: |sample| sample.memory, part: 0.2, constant: 4_000_000 },
    Tolerance { what: "handles", value: |sample| sample.handles, part: 0.1, constant: 16 },
    Tolerance { what: "threads", value: |sample| sample.threads, part: 0.1, constant: 3 },
];

/// What did not level, of every life that is long enough.
pub(super) fn judge(who: &str, samples: &[Sample]) -> Vec<String> {
    let lives = samples.iter().map(|sample| sample.life).max().map_or(0, |last| last + 1);
    let mut faults = Vec::new();
    for life in 0..lives {
        let of_life: Vec<_> = samples.iter().filter(|sample| sample.life == life).collect();
        let third = of_life.len() / 3;
        if third < FEWEST {
            continue;
        }
        for tolerance in &TOLERANCES {
            let before = median(&of_life[third..2 * third], tolerance.value);
            let last = median(&of_life[of_life.len() - third..], tolerance.value);
            if last > before + (before as f64 * tolerance.part) as u64 + tolerance.constant {
                let what = tolerance.what;
                faults.push(format!("{who}, life {}: from {before} to {last} {what}", life + 1));
            }
        }
    }
    faults
}

fn median(samples: &[&Sample], value: fn(&Sample) -> u64) -> u64 {
    let mut values: Vec<_> = samples.iter().map(|sample| value(sample)).collect();
    values.sort_unstable();
    values[values.len() / 2]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(handles: impl Fn(u64) -> u64) -> Vec<Sample> {
        let at = |second| Sample { life: 0, memory: 30_000_000, handles: handles(second), threads: 12 };
        (0..60).map(at).collect()
    }

    #[test]
    fn what_grows_without_end_is_found_and_what_swings_is_not() {
        assert!(judge("it", &life(|second| 100 + second % 7)).is_empty());
        assert!(judge("it", &life(|second| if second < 20 { 10 } else { 100 })).is_empty(), "a warm-up");
        let found = judge("it", &life(|second| 100 + 2 * second));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("handles"), "{found:?}");
    }
}
