//! Soaking: everything at once for a long while, on a CA that is reloaded, restarted and killed meanwhile. Steady
//! requests ([`traffic`]), bad ones among them, strangers that are slow ([`strangers`]), agents with subscribers of
//! which some do not read ([`subscribers`]). At the end nothing may have grown ([`levels`]), no good request may have
//! been refused while the CA was up ([`ledger`]), and every certificate that was received must stand in a log that
//! verifies. `make soak` prints it.

mod ledger;
mod levels;
mod strangers;
mod subscribers;
mod traffic;

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::reload::{self, Way};
use super::{Failure, Process, Stage, percentile};
use crate::programs::program;
use ledger::Ledger;
use levels::Sample;

/// Agents; one subscriber of each reads, and of the first one does not.
const AGENTS: usize = 3;
/// So that agents renew many times: at half of it.
const AGENT_TTL: &str = "20s";
/// Between two looks at the programs.
const LOOK: Duration = Duration::from_secs(1);

/// What is done how often.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// How long all of it takes.
    pub time: Duration,
    /// Good requests a second.
    pub rate: u32,
    /// Between two changes of the CA files.
    pub reload: Duration,
    /// Between two restarts, which are clean and kills in turn.
    pub restart: Duration,
    /// Between two rows of the table.
    pub row: Duration,
}

impl Plan {
    /// Reloads every half minute and restarts every five minutes, in a short run more often. The second half is one life
    /// of the CA, so that slow growth shows.
    pub fn of(time: Duration) -> Self {
        let (reload, restart) =
            ((time / 8).min(Duration::from_secs(30)), (time / 5).min(Duration::from_secs(300)));
        Self { time, rate: 200, reload, restart, row: (time / 8).min(Duration::from_secs(60)) }
    }
}

/// Soaks by `plan`, tells row by row, and answers what was not as it should be.
pub async fn run(plan: &Plan, mut tell: impl FnMut(String)) -> Result<Vec<String>, Failure> {
    let stage = Arc::new(Stage::with_intermediates(&["v1", "v2"])?);
    reload::plug(Way::Swap, &stage, &stage.path("ca"))?;
    // A port that is free now, and the CA's again after each restart.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let mut ca = start(&stage, &address).await?;
    let ledger = Arc::new(Ledger::default());
    let agents = start_agents(&stage, &address).await?;
    let mut sockets = JoinSet::new();
    subscribers::subscribe(&stage, AGENTS, &mut sockets).await?;
    let mut tasks = JoinSet::new();
    traffic::begin(&stage, &address, plan.rate, &ledger, &mut tasks)?;
    strangers::begin(&stage, &address, &ledger, &mut tasks)?;

    tell(
        "  time s  certificates/s  p50 ms  p99 ms  bad input  excused  unexpected  CA: MB  handles  threads  agents: \
         MB  handles"
            .to_owned(),
    );
    let began = Instant::now();
    let mut life = 0;
    let (mut next_reload, mut next_restart, mut next_row) =
        (began + plan.reload, began + plan.restart, began + plan.row);
    let (mut samples, mut agent_samples, mut row_began) = (Vec::new(), Vec::new(), began);
    let mut looks = interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut version = "v1";
    while began.elapsed() < plan.time {
        looks.tick().await;
        let now = Instant::now();
        samples.push(Sample::of(&ca, life)?);
        for (number, agent) in agents.iter().enumerate() {
            agent_samples.push(Sample::of(agent, number)?);
        }
        if now >= next_reload {
            version = if version == "v1" { "v2" } else { "v1" };
            reload::change(Way::Swap, &stage.path(version), &stage.path("ca")).await?;
            next_reload = now + plan.reload;
        }
        // A clean restart may take as long as the slowest request: the kill comes after it all the same.
        if now >= next_restart && (life < 2 || now - began <= plan.time / 2) {
            let outage = ledger.outage();
            end(ca, life % 2 == 1).await?;
            ca = start(&stage, &address).await?;
            drop(outage);
            life += 1;
            next_restart = Instant::now() + plan.restart;
        }
        if now >= next_row {
            tell(row(&ledger, now - began, now - row_began, &samples, &agent_samples));
            (next_row, row_began) = (now + plan.row, now);
        }
    }
    tasks.shutdown().await;
    let mut faults = Vec::new();
    if sockets.try_join_next().is_some() {
        faults.push("an agent cut off a subscriber that reads, or had no new secret for it".to_owned());
    }
    sockets.shutdown().await;
    for (kind, count) in ledger.totals() {
        tell(format!("  {count:>9}  {kind}"));
    }
    faults.extend(ledger.faults());
    faults.extend(levels::judge("the CA", &samples));
    faults.extend(levels::judge("an agent", &agent_samples));
    drop(agents);
    end(ca, false).await?;
    let (received, recorded) = (ledger.received(), recorded(&stage)?);
    let counts = (received.len(), recorded.len(), life + 1);
    tell(format!(
        "  certificates received {}, recorded {}, lives of the CA {}",
        counts.0, counts.1, counts.2
    ));
    faults.extend(lost(&received, &recorded));
    faults.extend(verified(&stage)?);
    Ok(faults)
}

/// Ends a CA, as a crash does or with SIGTERM. Blocking, and clients go on meanwhile.
async fn end(ca: Process, hard: bool) -> Result<(), Failure> {
    let end = move || {
        if hard {
            return ca.kill();
        }
        drop(ca);
        Ok(())
    };
    tokio::task::spawn_blocking(end).await?
}

/// Every certificate that came stands in the log, and no serial number came twice.
fn lost(received: &[u128], recorded: &HashSet<u128>) -> Vec<String> {
    let mut faults = Vec::new();
    let lost = received.iter().filter(|serial| !recorded.contains(serial)).count();
    if lost > 0 {
        faults.push(format!("{lost} certificates were received and are not recorded"));
    }
    let twice = received.len() - received.iter().collect::<HashSet<_>>().len();
    if twice > 0 {
        faults.push(format!("{twice} serial numbers were received twice"));
    }
    if received.is_empty() {
        faults.push("no certificate was received".to_owned());
    }
    faults
}

async fn start(stage: &Arc<Stage>, address: &str) -> Result<Process, Failure> {
    let (stage, address) = (stage.clone(), address.to_owned());
    tokio::task::spawn_blocking(move || stage.start_ca_on(&address)).await?
}

async fn start_agents(stage: &Arc<Stage>, address: &str) -> Result<Vec<Process>, Failure> {
    let (stage, address) = (stage.clone(), address.to_owned());
    let start = move |number| stage.start_agent(&subscribers::agent(number), &address, &["--ttl", AGENT_TTL]);
    tokio::task::spawn_blocking(move || (0..AGENTS).map(start).collect()).await?
}

fn row(
    ledger: &Ledger,
    since_begin: Duration,
    long: Duration,
    samples: &[Sample],
    agents: &[Sample],
) -> String {
    let mut period = ledger.period();
    period.latencies.sort_unstable();
    let last = samples.last().copied().unwrap_or_default();
    let agents = &agents[agents.len().saturating_sub(AGENTS)..];
    let milliseconds = |share| percentile(&period.latencies, share).as_secs_f64() * 1e3;
    format!(
        "  {:>6}  {:>14.0}  {:>6.1}  {:>6.1}  {:>9}  {:>7}  {:>10}  {:>6.1}  {:>7}  {:>7}  {:>10.1}  {:>7}",
        since_begin.as_secs(),
        period.latencies.len() as f64 / long.as_secs_f64(),
        milliseconds(0.5),
        milliseconds(0.99),
        period.bad_input,
        period.excused,
        period.unexpected,
        last.memory as f64 / 1e6,
        last.handles,
        last.threads,
        agents.iter().map(|one| one.memory).max().unwrap_or_default() as f64 / 1e6,
        agents.iter().map(|one| one.handles).max().unwrap_or_default(),
    )
}

/// The serial numbers of all workload certificates in the log of the stopped server.
fn recorded(stage: &Stage) -> Result<HashSet<u128>, Failure> {
    let mut command = Command::new(program("ca-server"));
    command.args(["log", "list", "-o", "json", "--profile", "workload", "--data"]).arg(stage.path("data"));
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut serials = HashSet::new();
    for line in BufReader::new(child.stdout.take().ok_or("no standard output")?).lines() {
        let record: serde_json::Value = serde_json::from_str(&line?)?;
        let serial = record["serial"].as_str().ok_or("a record without a serial number")?;
        serials.insert(u128::from_str_radix(serial, 16)?);
    }
    if child.wait()?.success() { Ok(serials) } else { Err("log list failed".into()) }
}

/// What `log verify` says against the log, if anything.
fn verified(stage: &Stage) -> Result<Option<String>, Failure> {
    let mut command = Command::new(program("ca-server"));
    let output = command.args(["log", "verify", "--data"]).arg(stage.path("data")).output()?;
    let said = || format!("log verify: {}", String::from_utf8_lossy(&output.stderr));
    Ok((!output.status.success()).then(said))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_recorded_or_came_twice_is_a_fault() {
        let recorded = HashSet::from([1, 2, 3]);
        assert!(lost(&[1, 3], &recorded).is_empty());
        assert_eq!(lost(&[1, 4, 5], &recorded), ["2 certificates were received and are not recorded"]);
        assert_eq!(lost(&[1, 1], &recorded), ["1 serial numbers were received twice"]);
        assert_eq!(lost(&[], &recorded), ["no certificate was received"]);
    }
}
