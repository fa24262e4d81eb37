//! Changing the CA files under load, in the ways in which administrators and Kubernetes do it: does every
//! request get an answer, is every answer of one issuer, and how soon after the last write is the new one at work?

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use signet_certs::chain::Certificate;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::issuing::{Callers, ask, connect};
use super::{Failure, Stage, percentile};

/// The files that differ between two intermediates of one root.
const FILES: [&str; 4] = ["ca-key.pem", "ca-cert.pem", "cert-chain.pem", "root-cert.pem"];
/// Between two changes.
const PAUSE: Duration = Duration::from_millis(250);
/// Between two parts of a file that is copied slowly.
const PART: Duration = Duration::from_millis(10);

/// How the files are changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Each file is written over, in place.
    Overwrite,
    /// A link to the folder that holds them all is swapped, as Kubernetes does it.
    Swap,
    /// Each file is written over in parts, with time between.
    SlowCopy,
}

impl Way {
    /// All.
    pub const ALL: [Self; 3] = [Self::Overwrite, Self::Swap, Self::SlowCopy];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Overwrite => "overwrite",
            Self::Swap => "symlink swap",
            Self::SlowCopy => "slow copy",
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub struct Reloaded {
    /// Answers with a certificate.
    pub answers: usize,
    /// Requests without one, and why the first failed.
    pub failed: usize,
    /// See `failed`.
    pub first_failure: Option<String>,
    /// Answers whose leaf was not signed by the certificate behind it.
    pub mixed: usize,
    /// Changes of the files.
    pub changes: usize,
    /// From the last write of a change to when the last request was sent that the old issuer answered.
    pub median: Duration,
    /// The longest such time.
    pub longest: Duration,
}

struct Answered {
    sent: Instant,
    outcome: Result<Vec<String>, String>,
}

/// Sends this many requests, one in each `interval`, while the files change back and forth.
pub async fn measure(way: Way, requests: u32, interval: Duration) -> Result<Reloaded, Failure> {
    let stage = Stage::with_intermediates(&["v1", "v2"])?;
    let live = stage.path("ca");
    plug(way, &stage, &live)?;
    let ca = stage.start_ca()?;
    let channel = connect(&stage, &ca.address).await?;
    let callers = Arc::new(Callers::new(&stage)?);
    let load = tokio::spawn(send(channel, callers, requests, interval));
    let mut changes = Vec::new();
    while !load.is_finished() {
        let to = if changes.len() % 2 == 0 { "v2" } else { "v1" };
        changes.push((to, change(way, &stage.path(to), &live).await?));
        tokio::time::sleep(PAUSE).await;
    }
    judge(load.await?, &changes, &stage)
}

/// Makes the folder that the CA loads, with the intermediate v1 in it.
pub(super) fn plug(way: Way, stage: &Stage, live: &Path) -> Result<(), Failure> {
    fs::create_dir(live)?;
    if way == Way::Swap {
        symlink("../v1", live.join("..data"))?;
        for file in FILES {
            symlink(Path::new("..data").join(file), live.join(file))?;
        }
        Ok(())
    } else {
        put(&stage.path("v1"), live)
    }
}

async fn send(channel: Channel, callers: Arc<Callers>, requests: u32, interval: Duration) -> Vec<Answered> {
    let mut ticks = tokio::time::interval(interval);
    let mut tasks = JoinSet::new();
    for number in 0..requests {
        ticks.tick().await;
        let (channel, callers) = (channel.clone(), callers.clone());
        tasks.spawn(async move {
            let sent = Instant::now();
            let outcome = ask(channel, &callers, number as usize).await.map_err(|status| status.to_string());
            Answered { sent, outcome }
        });
    }
    tasks.join_all().await
}

/// Changes the files; when the last write was over.
pub(super) async fn change(way: Way, from: &Path, live: &Path) -> Result<Instant, Failure> {
    match way {
        Way::Overwrite => put(from, live)?,
        Way::Swap => {
            let name = from.file_name().unwrap_or_default();
            symlink(Path::new("..").join(name), live.join("..new"))?;
            fs::rename(live.join("..new"), live.join("..data"))?;
        }
        Way::SlowCopy => {
            for file in FILES {
                let content = fs::read(from.join(file))?;
                let mut to = fs::File::create(live.join(file))?;
                for part in content.chunks(content.len().div_ceil(3)) {
                    to.write_all(part)?;
                    tokio::time::sleep(PART).await;
                }
            }
        }
    }
    Ok(Instant::now())
}

fn put(from: &Path, live: &Path) -> Result<(), Failure> {
    for file in FILES {
        fs::write(live.join(file), fs::read(from.join(file))?)?;
    }
    Ok(())
}

fn judge(answers: Vec<Answered>, changes: &[(&str, Instant)], stage: &Stage) -> Result<Reloaded, Failure> {
    let mut reloaded = Reloaded {
        answers: 0,
        failed: 0,
        first_failure: None,
        mixed: 0,
        changes: changes.len(),
        median: Duration::ZERO,
        longest: Duration::ZERO,
    };
    let mut seen = Vec::with_capacity(answers.len());
    for Answered { sent, outcome } in answers {
        let chain = match outcome {
            Ok(chain) => chain,
            Err(why) => {
                reloaded.failed += 1;
                reloaded.first_failure.get_or_insert(why);
                continue;
            }
        };
        reloaded.answers += 1;
        let leaf = Certificate::from_pem(chain[0].as_bytes())?;
        let issuer = Certificate::from_pem(chain[1].as_bytes())?;
        let root = Certificate::from_pem(chain[chain.len() - 1].as_bytes())?;
        if chain.len() != 3 || !leaf.is_signed_by(&issuer) || !issuer.is_signed_by(&root) {
            reloaded.mixed += 1;
        }
        seen.push((sent, issuer.key_id()));
    }
    let mut delays = Vec::new();
    for (number, (to, written)) in changes.iter().enumerate() {
        let new = Certificate::from_pem(&fs::read(stage.path(to).join("ca-cert.pem"))?)?.key_id();
        let next = changes.get(number + 1).map_or(Instant::now(), |(_, next)| *next - PAUSE);
        let between = seen.iter().filter(|(sent, _)| sent > written && *sent < next);
        let old = between.clone().filter(|(_, issuer)| *issuer != new).map(|(sent, _)| *sent - *written);
        // The last change may come after the last request.
        if between.count() > 0 {
            delays.push(old.max().unwrap_or_default());
        }
    }
    delays.sort_unstable();
    reloaded.median = percentile(&delays, 0.5);
    reloaded.longest = delays.last().copied().unwrap_or_default();
    Ok(reloaded)
}
