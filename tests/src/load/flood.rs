//! A flood: five times what the CA can sign, for a minute, from thousands of pods that hold good tokens; beside it
//! a few whose certificates end soon and that renew as agents do. The CA's key is RSA 4096 with no room for an
//! issuing intermediate, so that this program has processor time left.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::transport::Channel;

use super::crowd::{Member, connections};
use super::wire::{Connection, Encoded, Pace, Tally};
use super::{Failure, Stage, memory_of, percentile};
use crate::harness::http;

/// Pods of the flood, in so many namespaces.
const PODS: usize = 2_000;
const NAMESPACES: usize = 8;
/// Pods whose certificates end, and their lifetime.
const ENDING: usize = 60;
const LIFETIME: Duration = Duration::from_secs(20);
/// An agent that was refused asks again after this time.
const AGAIN: Duration = Duration::from_secs(1);
const CONNECTIONS: usize = 8;
/// Requests in flight while the capacity is measured.
const IN_FLIGHT: usize = 64;
/// Times the capacity.
const TIMES: f64 = 5.0;
/// How long the capacity is measured.
const CAPACITY: Duration = Duration::from_secs(8);
/// Goodput is judged in pieces of this length.
const PIECE: Duration = Duration::from_secs(5);

/// What came of it.
#[derive(Debug)]
pub struct Flooded {
    /// Certificates a second with 64 requests in flight and no flood.
    pub capacity: f64,
    /// Certificates a second under the flood, piece by piece.
    pub goodput: Vec<f64>,
    /// Requests of the flood that were sent.
    pub sent: usize,
    /// Requests answered with a certificate, renewals included.
    pub answered: usize,
    /// Not sent, because too many were in flight here.
    pub skipped: usize,
    /// Refusals by reason.
    pub refusals: BTreeMap<String, usize>,
    /// Renewals of certificates that end.
    pub renewals: usize,
    /// Of those, times a certificate ended before its successor came.
    pub ended: usize,
    /// The most of its life that one of them had used up when it was renewed, 0 to 1.
    pub latest: f64,
    /// Times of `/ready`, sorted.
    pub health: Vec<Duration>,
    /// Most resident memory, in bytes.
    pub memory: u64,
    /// The first request of a newcomer that was as fast as before the flood, after its end.
    pub normal_after: Option<Duration>,
}

/// Runs it for this long.
pub async fn measure(time: Duration) -> Result<Flooded, Failure> {
    let stage = Stage::with(&["ca"], &["--key", "rsa4096"])?;
    let ca = stage.start_ca()?;
    let monitoring = ca.monitoring.parse()?;
    let (root, here) = (stage.root()?, IpAddr::from(Ipv4Addr::LOCALHOST));
    let channel = connections(&root, &ca.address, here, 1).await?[0].clone();
    let mut flooding = Vec::new();
    for _ in 0..CONNECTIONS {
        flooding.push(Connection::new(&root, &ca.address, here).await?);
    }
    let members = |count: usize, kind: &str, lifetime| -> Result<Vec<Member>, Failure> {
        let member = |number: usize| {
            let namespace = format!("namespace-{}", number % NAMESPACES);
            Member::new(&stage, &namespace, &format!("{kind}-{number}"), lifetime)
        };
        (0..count).map(member).collect()
    };
    let day = Duration::from_secs(86_400);
    let pods = members(PODS, "pod", day)?.iter().map(Member::encoded).collect::<Result<Vec<_>, _>>()?;
    let ending = members(ENDING, "ending", LIFETIME)?;

    let before = alone(&channel, &members(64, "before", day)?).await?;
    let tally = Tally::default();
    let (began, until) = (Instant::now(), Instant::now() + CAPACITY);
    drive(&mut flooding, &pods, Pace::InFlight(IN_FLIGHT / CONNECTIONS), until, &tally).await?;
    let capacity = tally.answered.load(Ordering::Relaxed) as f64 / began.elapsed().as_secs_f64();

    let (tally, refused_before) = (Arc::new(Tally::default()), refusals(monitoring));
    let until = Instant::now() + time;
    let mut renewing = JoinSet::new();
    for member in ending {
        renewing.spawn(renew(member, channel.clone(), tally.clone(), until));
    }
    let looking = tokio::spawn(look(monitoring, until));
    let goodput = tokio::spawn(pieces(tally.clone(), until));
    let memory = tokio::spawn(watch_memory(ca.id(), until));
    let pace = Pace::PerSecond(capacity * TIMES / CONNECTIONS as f64);
    drive(&mut flooding, &pods, pace, until, &tally).await?;
    let normal_after = normal(&channel, &members(200, "after", day)?, before).await;

    let renewals = renewing.join_all().await;
    let mut refusals = refusals(monitoring);
    for (reason, count) in refused_before {
        refusals.entry(reason).and_modify(|all| *all -= count);
    }
    refusals.retain(|_, count| *count > 0);
    Ok(Flooded {
        capacity,
        goodput: goodput.await?,
        sent: tally.sent.load(Ordering::Relaxed),
        answered: tally.answered.load(Ordering::Relaxed),
        skipped: tally.skipped.load(Ordering::Relaxed),
        refusals,
        renewals: renewals.iter().map(|one| one.times).sum(),
        ended: renewals.iter().map(|one| one.ended).sum(),
        latest: renewals.iter().map(|one| one.latest).fold(0.0, f64::max),
        health: looking.await??,
        memory: memory.await??,
        normal_after,
    })
}

/// Sends the pods' requests on all connections, each those of its own share.
async fn drive(
    connections: &mut [Connection],
    pods: &[Encoded],
    pace: Pace,
    until: Instant,
    tally: &Tally,
) -> Result<(), Failure> {
    let shares = pods.chunks(pods.len().div_ceil(connections.len()));
    let driving = connections
        .iter_mut()
        .zip(shares)
        .map(|(connection, share)| connection.drive(share, pace, until, tally));
    futures::future::try_join_all(driving).await?;
    Ok(())
}

/// Requests for certificates that the CA has refused, by reason.
fn refusals(monitoring: SocketAddr) -> BTreeMap<String, usize> {
    let metrics = http::get(monitoring, "/metrics").1;
    let refused = metrics.lines().filter_map(|line| line.strip_prefix("signet_refusals_total{reason=\""));
    refused
        .filter_map(|line| line.split_once("\"} "))
        .map(|(reason, count)| (reason.to_owned(), count.parse().unwrap_or_default()))
        .collect()
}

/// How long 99 of 100 wait at the most, one after the other.
async fn alone(channel: &Channel, members: &[Member]) -> Result<Duration, Failure> {
    let mut times = Vec::new();
    for member in members {
        let (answer, took) = member.ask(channel).await;
        answer?;
        times.push(took);
    }
    times.sort_unstable();
    Ok(percentile(&times, 0.99))
}

/// How one whose certificates end fared.
struct Renewals {
    times: usize,
    ended: usize,
    latest: f64,
}

/// Renews at half of each lifetime; when refused, again and again until it has one.
async fn renew(member: Member, channel: Channel, tally: Arc<Tally>, until: Instant) -> Renewals {
    let mut renewals = Renewals { times: 0, ended: 0, latest: 0.0 };
    let mut since: Option<Instant> = None;
    while Instant::now() < until {
        if member.ask(&channel).await.0.is_err() {
            tokio::time::sleep(AGAIN).await;
            continue;
        }
        tally.answered.fetch_add(1, Ordering::Relaxed);
        if let Some(since) = since.replace(Instant::now()) {
            let used = since.elapsed().as_secs_f64() / LIFETIME.as_secs_f64();
            renewals.times += 1;
            renewals.ended += usize::from(used >= 1.0);
            renewals.latest = renewals.latest.max(used);
        }
        tokio::time::sleep(LIFETIME / 2).await;
    }
    renewals
}

/// Asks for readiness ten times a second, each time on a new connection.
pub async fn look(monitoring: SocketAddr, until: Instant) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::new();
    let mut ticks = tokio::time::interval(Duration::from_millis(100));
    while Instant::now() < until {
        ticks.tick().await;
        let began = Instant::now();
        let mut stream = TcpStream::connect(monitoring).await?;
        stream.write_all(b"GET /ready HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        if !answer.starts_with("HTTP/1.1 200") {
            return Err(format!("not ready: {answer}").into());
        }
        times.push(began.elapsed());
    }
    times.sort_unstable();
    Ok(times)
}

async fn pieces(tally: Arc<Tally>, until: Instant) -> Vec<f64> {
    let mut pieces = Vec::new();
    let mut ticks = tokio::time::interval(PIECE);
    ticks.tick().await;
    while Instant::now() + PIECE <= until {
        let (began, before) = (Instant::now(), tally.answered.load(Ordering::Relaxed));
        ticks.tick().await;
        let done = tally.answered.load(Ordering::Relaxed) - before;
        pieces.push(done as f64 / began.elapsed().as_secs_f64());
    }
    pieces
}

async fn watch_memory(id: u32, until: Instant) -> Result<u64, Failure> {
    let mut most = 0;
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    while Instant::now() < until {
        ticks.tick().await;
        most = most.max(memory_of(id)?);
    }
    Ok(most)
}

/// When a newcomer is first served as fast as before, and stays so for as many as are left.
async fn normal(channel: &Channel, newcomers: &[Member], before: Duration) -> Option<Duration> {
    let (over, mut since) = (Instant::now(), None);
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    for newcomer in newcomers {
        ticks.tick().await;
        let (answer, took) = newcomer.ask(channel).await;
        let fast = answer.is_ok() && took <= before * 2;
        match (fast, since) {
            (true, None) => since = Some(over.elapsed()),
            // One slow answer on a noisy machine is no flood; a refusal or a long wait is.
            (false, _) if answer.is_err() || took > before * 10 => since = None,
            _ => {}
        }
    }
    since
}
