//! `flood`: what the CA does under five times its load, under an address that does its worst, and under a thousand
//! requests at once; judges it, and exits with 1 where a figure misses what is promised. `make flood` calls it;
//! `flood 10 stalled` runs one part for ten seconds.

use std::process::ExitCode;
use std::time::Duration;

use signet_tests::load::flood::{self, Flooded};
use signet_tests::load::stalled::{self, Stalled, quantiles};
use signet_tests::load::{Failure, percentile};

/// Of each part.
const SECONDS: u64 = 60;
/// Requests that come at the same moment.
const AT_ONCE: usize = 1_000;

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("flood: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints a promise and what became of it.
fn judge(kept: bool, promise: &str, found: &str) -> bool {
    println!("  {}  {promise}: {found}", if kept { "kept  " } else { "MISSED" });
    kept
}

fn run() -> Result<bool, Failure> {
    let seconds = match std::env::args().nth(1) {
        Some(seconds) => seconds.parse().map_err(|_| format!("{seconds:?} is not a number of seconds"))?,
        None => SECONDS,
    };
    let time = Duration::from_secs(seconds);
    let only = std::env::args().nth(2);
    if only.as_deref().is_some_and(|only| !["at-once", "stalled", "flood"].contains(&only)) {
        return Err("expected at most: a number of seconds, and at-once, stalled or flood".into());
    }
    let is_wanted = |part: &str| only.as_deref().is_none_or(|only| only == part);
    // One thread for the clients: the server has the rest of the machine.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut kept = true;
    if is_wanted("at-once") {
        kept &= at_once(runtime.block_on(stalled::at_once(AT_ONCE))?);
    }
    if is_wanted("stalled") {
        kept &= stalled(&runtime.block_on(stalled::measure(time))?);
    }
    if is_wanted("flood") {
        kept &= flood(&runtime.block_on(flood::measure(time))?);
    }
    Ok(kept)
}

fn at_once(took: Duration) -> bool {
    println!("{AT_ONCE} requests at once, P-256");
    let found = format!("{:.0} ms", took.as_secs_f64() * 1e3);
    judge(took <= Duration::from_millis(300), "all answered within 300 ms", &found)
}

fn stalled(seen: &Stalled) -> bool {
    println!(
        "\none address with 1,000 silent connections, 1,000 half handshakes, 1,000 requests of a byte a second and \
         {:.0} bad tokens a second",
        seen.bad_tokens
    );
    println!(
        "  callers elsewhere            {} answers, {}",
        seen.latencies.len(),
        quantiles(&seen.latencies)
    );
    println!("  /ready                       {}", quantiles(&seen.health));
    println!("  memory                       {:.0} MB", seen.memory as f64 / 1e6);
    let limit = Duration::from_millis(50);
    let p99 = percentile(&seen.latencies, 0.99);
    judge(p99 < limit, "99 of 100 callers elsewhere wait less than 50 ms", &format!("{p99:.1?}"))
        & judge(seen.refusals.is_empty(), "none of them is refused", &format!("{:?}", seen.refusals))
        & judge(
            percentile(&seen.health, 0.99) < limit,
            "/ready answers within 50 ms",
            &quantiles(&seen.health),
        )
}

fn flood(seen: &Flooded) -> bool {
    println!("\nfive times the capacity, RSA 4096 without an issuing intermediate");
    println!("  capacity                     {:.0} certificates/s", seen.capacity);
    println!(
        "  flood                        {} requests sent, {} answered, {} not sent for want of room here",
        seen.sent, seen.answered, seen.skipped
    );
    println!("  refusals                     {:?}", seen.refusals);
    let pieces: Vec<String> =
        seen.goodput.iter().map(|piece| format!("{:.2}", piece / seen.capacity)).collect();
    println!("  goodput / capacity, each 5 s {}", pieces.join(" "));
    println!("  /ready                       {}", quantiles(&seen.health));
    let worst = seen.goodput.iter().copied().fold(f64::INFINITY, f64::min) / seen.capacity;
    let renewed = format!(
        "{} renewals, {} too late, the latest at {:.0} % of its life",
        seen.renewals,
        seen.ended,
        seen.latest * 100.0
    );
    let health = percentile(&seen.health, 0.99);
    let normal = seen.normal_after;
    judge(worst >= 0.9, "goodput at least 0.9 of the capacity throughout", &format!("{worst:.2}"))
        & judge(seen.renewals > 0 && seen.ended == 0, "what ends is renewed in time", &renewed)
        & judge(health < Duration::from_millis(50), "/ready answers within 50 ms", &quantiles(&seen.health))
        & judge(
            seen.memory < 300_000_000,
            "memory stays within 300 MB",
            &format!("{:.0} MB", seen.memory as f64 / 1e6),
        )
        & judge(
            normal.is_some_and(|after| after < Duration::from_secs(2)),
            "a newcomer is served as before within 2 s after it",
            &format!("{normal:.1?}"),
        )
}
