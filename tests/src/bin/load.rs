//! `load`: measures the floor, issuing, memory and start-up in one run; `make bench` calls it.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use signet_tests::load::reload::{self, Reloaded};
use signet_tests::load::{Failure, Stage, floor, footprint, issuing, rsa};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::from(1)
        }
    }
}

fn run() -> Result<(), Failure> {
    // One thread for the client: the server has the rest of the machine.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    println!("start-up and idle memory (best of 3)");
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(runtime.block_on(footprint::measure(&Stage::new()?))?);
    }
    let best =
        |value: fn(&footprint::Footprint) -> Duration| runs.iter().map(value).min().unwrap_or_default();
    let most = |value: fn(&footprint::Footprint) -> u64| runs.iter().map(value).max().unwrap_or_default();
    println!("  CA listens after                {:>9.1} ms", milliseconds(best(|run| run.listens_after)));
    println!(
        "  first certificate after         {:>9.1} ms",
        milliseconds(best(|run| run.first_certificate_after))
    );
    println!("  CA, idle                        {:>9.1} MB", megabytes(most(|run| run.ca_memory)));
    println!("  agent, idle                     {:>9.1} MB", megabytes(most(|run| run.agent_memory)));

    let stage = Stage::new()?;
    println!("\none certificate on one core, P-256 issuer, RS256 token");
    let floor = floor::measure(&stage)?;
    println!("  signatures alone (the floor)    {:>9.1} us", microseconds(floor.signatures));
    println!("  the server's steps              {:>9.1} us", microseconds(floor.steps));

    println!("\nissuing over TLS, records durable, client and server on the same cores");
    println!("  in flight  certificates/s  server CPU s/1,000  over the floor  p50 ms  p99 ms");
    let callers = Arc::new(issuing::Callers::new(&stage)?);
    let ca = stage.start_ca()?;
    let channel = runtime.block_on(issuing::connect(&stage, &ca.address))?;
    for in_flight in [1, 16, 64] {
        let issued = runtime.block_on(issuing::measure(&ca, &channel, &callers, in_flight))?;
        println!(
            "  {:>9}  {:>14.0}  {:>18.3}  {:>13.1}x  {:>6.1}  {:>6.1}",
            issued.in_flight,
            issued.per_second,
            issued.cpu_per_thousand.as_secs_f64(),
            issued.cpu_per_thousand.as_secs_f64() / 1000.0 / floor.signatures.as_secs_f64(),
            milliseconds(issued.p50),
            milliseconds(issued.p99),
        );
    }
    println!("  CA after the load               {:>9.1} MB", megabytes(ca.memory()?));
    drop(ca);

    println!("\nissuing with 64 in flight under other CAs, certificates/s");
    let per_second = |flags: &[&str]| -> Result<f64, Failure> {
        Ok(runtime.block_on(rsa::issuing(flags, 64))?.per_second)
    };
    println!("  P-256                              {:>7.0}", per_second(&[])?);
    let with_room = ["--key", "rsa4096", "--path-length", "1"];
    println!("  RSA 4096, issuing intermediate     {:>7.0}", per_second(&with_room)?);
    println!("  RSA 4096, path length 0            {:>7.0}", per_second(&["--key", "rsa4096"])?);
    println!("  (RSA 4096 signatures of ring alone {:>7.0})", rsa::signatures_of_ring()?);

    println!("\nchanging the CA files under 200 requests a second");
    println!(
        "  way           answers  failed  mixed  changes  old issuer after the last write, median  longest ms"
    );
    for way in reload::Way::ALL {
        let Reloaded { answers, failed, mixed, changes, median, longest, .. } =
            runtime.block_on(reload::measure(way, 3_000, Duration::from_millis(5)))?;
        println!(
            "  {:<12}  {answers:>7}  {failed:>6}  {mixed:>5}  {changes:>7}  {:>40.1}  {:>10.1}",
            way.name(),
            milliseconds(median),
            milliseconds(longest),
        );
    }
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
