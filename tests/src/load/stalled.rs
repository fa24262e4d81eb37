//! One address does its worst: silent connections, half handshakes, requests that send a byte a second, and bad
//! tokens; callers elsewhere should not notice.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::StreamBody;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::transport::Channel;
use tower::ServiceExt;

use super::crowd::{Member, connections, open_loop, reason};
use super::wire::{Connection, Pace, Tally};
use super::{Failure, Stage, flood, percentile};

/// Of each kind of attacker.
const EACH: usize = 1_000;
/// A second.
const BAD_TOKENS: f64 = 10_000.0;
/// A second, of callers elsewhere.
const CALLS: f64 = 100.0;
/// Where the attackers are, and where the callers.
const THERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 3));
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// What the callers elsewhere saw.
#[derive(Debug)]
pub struct Stalled {
    /// Times of their requests, sorted.
    pub latencies: Vec<Duration>,
    /// Requests without a certificate, by reason.
    pub refusals: BTreeMap<String, usize>,
    /// Times of `/ready`, sorted.
    pub health: Vec<Duration>,
    /// Bad tokens sent a second.
    pub bad_tokens: f64,
    /// Resident memory at the end, in bytes.
    pub memory: u64,
}

/// Runs it for this long.
pub async fn measure(time: Duration) -> Result<Stalled, Failure> {
    let stage = Stage::new()?;
    let ca = stage.start_ca()?;
    let address = ca.address.parse()?;
    let impostors = Member::impostors(64)?.iter().map(Member::encoded).collect::<Result<Vec<_>, _>>()?;
    let callers: Arc<[Member]> = (0..64)
        .map(|number| Member::new(&stage, "quiet", &format!("caller-{number}"), Duration::from_secs(3600)))
        .collect::<Result<_, _>>()?;
    let there = connections(&stage.root()?, &ca.address, THERE, 8).await?;

    let mut guessing = Vec::new();
    for _ in 0..8 {
        let mut connection = Connection::new(&stage.root()?, &ca.address, THERE).await?;
        // Those that have sent nothing would go when the others come.
        let soon = Instant::now() + Duration::from_millis(50);
        connection.drive(&impostors, Pace::InFlight(1), soon, &Tally::default()).await?;
        guessing.push(connection);
    }
    let mut silent = Vec::with_capacity(2 * EACH);
    for number in 0..2 * EACH {
        let mut stream = connect(address).await?;
        if number >= EACH {
            stream.write_all(&HALF_HELLO).await?;
        }
        silent.push(stream);
    }
    let trickling: Vec<_> =
        (0..EACH).map(|number| tokio::spawn(trickle(there[number % there.len()].clone()))).collect();

    let until = Instant::now() + time;
    // On a thread of its own: what is measured there is not the attackers' own load.
    let (monitoring, issuing, root) = (ca.monitoring.parse()?, ca.address.clone(), stage.root()?);
    let calling = std::thread::spawn(move || -> Result<Calls, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let elsewhere = connections(&root, &issuing, ELSEWHERE, 4).await?;
            call(callers, elsewhere, monitoring, until).await
        })
    });
    let tally = Tally::default();
    let pace = Pace::PerSecond(BAD_TOKENS / guessing.len() as f64);
    let guesses = guessing.iter_mut().map(|connection| connection.drive(&impostors, pace, until, &tally));
    futures::future::try_join_all(guesses).await?;
    let memory = ca.memory()?;
    let Calls { latencies, refusals, health } =
        tokio::task::spawn_blocking(move || calling.join()).await?.map_err(|_| "the callers panicked")??;
    for one in trickling {
        one.abort();
    }
    drop(silent);
    let bad_tokens = tally.sent.load(Ordering::Relaxed) as f64 / time.as_secs_f64();
    Ok(Stalled { latencies, refusals, health, bad_tokens, memory })
}

/// What callers see.
#[derive(Default)]
struct Calls {
    latencies: Vec<Duration>,
    refusals: BTreeMap<String, usize>,
    health: Vec<Duration>,
}

async fn call(
    callers: Arc<[Member]>,
    elsewhere: Arc<[Channel]>,
    monitoring: SocketAddr,
    until: Instant,
) -> Result<Calls, Failure> {
    let seen: Arc<Mutex<Calls>> = Arc::default();
    let looking = tokio::spawn(flood::look(monitoring, until));
    open_loop(CALLS, until, EACH, |number| {
        let (seen, callers, elsewhere) = (seen.clone(), callers.clone(), elsewhere.clone());
        async move {
            let (answer, took) =
                callers[number % callers.len()].ask(&elsewhere[number % elsewhere.len()]).await;
            let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
            match answer {
                Ok(()) => seen.latencies.push(took),
                Err(status) => *seen.refusals.entry(reason(&status)).or_default() += 1,
            }
        }
    })
    .await;
    let health = looking.await??;
    let mut seen = std::mem::take(&mut *seen.lock().unwrap_or_else(PoisonError::into_inner));
    seen.latencies.sort_unstable();
    Ok(Calls { health, ..seen })
}

/// The begin of a ClientHello: a record header that promises more than comes.
const HALF_HELLO: [u8; 9] = [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc];

async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((THERE, 0).into())?;
    Ok(socket.connect(address).await?)
}

/// Sends requests whose message comes a byte a second.
async fn trickle(channel: Channel) {
    loop {
        let bytes = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let frame = http_body::Frame::data(Bytes::from_static(&[0]));
            Some((Ok::<_, Infallible>(frame), ()))
        });
        let request =
            Request::post("https://localhost/istio.v1.auth.IstioCertificateService/CreateCertificate")
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(Body::new(StreamBody::new(bytes)));
        let Ok(request) = request else { return };
        if channel.clone().oneshot(request).await.is_err() {
            return;
        }
    }
}

/// A thousand requests of as many pods at the same moment: how long until all have their certificate.
pub async fn at_once(count: usize) -> Result<Duration, Failure> {
    let stage = Stage::new()?;
    let ca = stage.start_ca()?;
    let channels = connections(&stage.root()?, &ca.address, ELSEWHERE, 16).await?;
    let members: Vec<Member> = (0..count)
        .map(|number| Member::new(&stage, "load", &format!("pod-{number}"), Duration::from_secs(3600)))
        .collect::<Result<_, _>>()?;
    members[0].ask(&channels[0]).await.0?;
    let began = Instant::now();
    let asks =
        members.iter().enumerate().map(|(number, member)| member.ask(&channels[number % channels.len()]));
    for (answer, _) in futures::future::join_all(asks).await {
        answer?;
    }
    Ok(began.elapsed())
}

/// For people.
pub fn quantiles(sorted: &[Duration]) -> String {
    let milliseconds = |share| percentile(sorted, share).as_secs_f64() * 1e3;
    format!(
        "p50 {:.1}, p99 {:.1}, longest {:.1} ms",
        milliseconds(0.5),
        milliseconds(0.99),
        milliseconds(1.0)
    )
}
