//! Keeps the CA's trust watch open: trust comes in, acknowledgements go out.
//!
//! The statement is made anew from the facts whenever one of them changes, and sent if it differs from the
//! last one. It is made in full on each connection. A CA without the watch is asked again only rarely.
//!
//! What the CA states is taken with care: at most one statement a second, whatever it sends, and none that
//! would leave us unable to believe the CA itself.

use super::acknowledgement::{self, Facts};
use super::{Trust, TrustError};
use crate::complaint::Complaint;
use crate::evidence::EvidenceError;
use crate::identity::Holder;
use crate::metrics::Metrics;
use crate::random;
use crate::reason::Reason;
use crate::renew;
use crate::request::{ConnectError, Requester};
use crate::sink::files::Written;
use crate::sink::sds::Subscribers;
use signet_proto::signet::trust::v1::trust_distribution_client::TrustDistributionClient;
use signet_proto::signet::trust::v1::{Acknowledgement, WatchRequest, WatchResponse};
use signet_service::logging::with_causes;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

/// How often a CA without the watch is asked again.
const RARELY: Duration = Duration::from_secs(1800);
/// How often processes of subscribers that went away are looked at.
const LOOK: Duration = Duration::from_secs(5);
/// Shortest time between two statements that are taken: all sidecars and files follow each of them.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(1);
/// A stream that stood for so long was a good one: the next is not put off for what was before it.
const GOOD: Duration = Duration::from_secs(60);
/// Largest message that is read: some thousand roots.
const MAX_TRUST: usize = 4 << 20;

/// Why the watch ended.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("there is no evidence to show")]
    Evidence(#[from] EvidenceError),
    #[error("cannot connect to the CA")]
    Connect(#[from] ConnectError),
    #[error("the CA did not answer in time")]
    Deadline,
    // Said in short: a status and its sources, printed whole, bury this under the transport's details.
    #[error("the stream broke off ({:?}: {})", .0.code(), .0.message())]
    Stream(Status),
    #[error("what the CA said was dropped")]
    Trust(#[from] TrustError),
    #[error("what the CA said was dropped: with its roots alone the CA itself could not be reached again")]
    Roots(#[source] ConnectError),
    #[error("what the CA sent could not be dealt with: a fault in this program")]
    Fault,
}

impl WatchError {
    /// A stable word for metrics, where a statement was dropped.
    fn dropped(&self) -> Option<Reason> {
        match self {
            Self::Trust(error) => Some(error.reason()),
            Self::Roots(_) => Some(Reason::TrustRoots),
            Self::Stream(status) if status.code() == Code::OutOfRange => Some(Reason::TrustTooLarge),
            Self::Fault => Some(Reason::TrustFault),
            _ => None,
        }
    }
}

impl From<Status> for WatchError {
    fn from(status: Status) -> Self {
        Self::Stream(status)
    }
}

/// Everything that the watch connects.
#[derive(Clone)]
pub(crate) struct Watch {
    pub(crate) requester: Arc<Requester>,
    pub(crate) holder: Arc<Holder>,
    pub(crate) subscribers: Arc<Subscribers>,
    /// `None` if no files are written.
    pub(crate) files: Option<watch::Receiver<Written>>,
    pub(crate) metrics: Arc<Metrics>,
}

impl Watch {
    /// Watches for ever; ends only by being dropped.
    pub(crate) async fn keep(self) {
        let (mut failures, mut complaint) = (0, Complaint::default());
        loop {
            // Before that there is nothing to state, and the first certificate has the right of way.
            let mut served = self.holder.subscribe();
            if served.wait_for(|served| served.trust.is_some()).await.is_err() {
                return;
            }
            let began = Instant::now();
            // A task of its own: what a CA sends must not be able to end the agent.
            let (mut task, mut one) = (JoinSet::new(), self.clone());
            task.spawn(async move { one.stream().await });
            let end = match task.join_next().await {
                Some(Ok(end)) => end,
                _ => Err(WatchError::Fault),
            };
            self.holder.stopped_watching();
            self.metrics.watching(false);
            // A CA that says something and hangs up at once, again and again, is a failing one.
            failures = if began.elapsed() >= GOOD { 1 } else { failures + 1 };
            if let Some(reason) = end.as_ref().err().and_then(WatchError::dropped) {
                self.metrics.trust_refused(reason);
            }
            let wait = match &end {
                Err(WatchError::Stream(status)) if status.code() == Code::Unimplemented => {
                    tracing::info!("the CA has no trust watch; roots come with certificates");
                    self.holder.forget_crls();
                    RARELY.mul_f64(0.8 + 0.4 * random::unit())
                }
                end => {
                    let wait = renew::retry_after(failures, random::unit(), None, Duration::MAX);
                    match end {
                        Ok(()) => tracing::debug!(retry_in = ?wait, "the trust watch ended"),
                        Err(error) => {
                            let error = with_causes(error);
                            if let Some(held_back) = complaint.about(&error) {
                                tracing::warn!(error, retry_in = ?wait, held_back, "no trust watch");
                            }
                        }
                    }
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// One stream, until it ends.
    async fn stream(&mut self) -> Result<(), WatchError> {
        // One place: a statement that is overtaken before it was sent is not worth sending.
        let (statements, outgoing) = mpsc::channel(1);
        let mut stated = self.state();
        let first = WatchRequest { acknowledgement: stated.clone() };
        let mut request = Request::new(tokio_stream::StreamExt::chain(
            tokio_stream::once(first),
            ReceiverStream::new(outgoing),
        ));
        // Before the CA is bothered: what is ours to have.
        self.requester.identify(request.metadata_mut()).await?;
        let held = self.holder.served().trust;
        let (channel, first_contact) = self.requester.connect(held.as_deref()).await?;
        let mut client = TrustDistributionClient::new(channel).max_decoding_message_size(MAX_TRUST);
        let answer = tokio::time::timeout(self.requester.timeout(), client.watch(request)).await;
        let mut incoming = answer.map_err(|_| WatchError::Deadline)??.into_inner();
        let mut served = self.holder.subscribe();
        let mut subscribers = self.subscribers.changes();
        let mut next = Instant::now();
        loop {
            served.mark_unchanged();
            subscribers.mark_unchanged();
            let statement = self.state();
            let news = statement.is_some() && statement != stated;
            tokio::select! {
                // What is not read yet stays with the CA, for as much as a stream may hold.
                message = read_from(&mut incoming, next) => {
                    let Some(message) = message? else { return Ok(()) };
                    let trust = Trust::read(message, self.holder.trust_domain(), &first_contact)?;
                    self.take(trust).await?;
                    next = Instant::now() + SHORTEST_INTERVAL;
                }
                place = statements.reserve(), if news => {
                    // Without a reader the stream has ended, which the next message tells.
                    let Ok(place) = place else { return Ok(()) };
                    place.send(WatchRequest { acknowledgement: statement.clone() });
                    stated = statement;
                }
                _ = served.changed() => {}
                _ = subscribers.changed() => {}
                () = files_changed(&mut self.files) => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn take(&self, trust: Trust) -> Result<(), WatchError> {
        let held = self.holder.served().trust;
        let rehearsal = self.requester.rehearse(held.as_deref(), &trust);
        let rehearsal = tokio::time::timeout(self.requester.timeout(), rehearsal).await;
        rehearsal.map_err(|_| WatchError::Deadline)?.map_err(WatchError::Roots)?;
        self.metrics.watching(true);
        let version = trust.version.map(|version| (version.epoch, version.sequence));
        let (epoch, sequence) = version.unwrap_or_default();
        if held.is_some_and(|held| held.version > trust.version) {
            // Taken all the same: what the CA states now is what it will be asked about.
            tracing::warn!(
                epoch,
                sequence,
                "the CA states an earlier trust than before: was its state lost?"
            );
        } else {
            tracing::info!(epoch, sequence, "the CA states its trust");
        }
        self.holder.take_trust(trust);
        Ok(())
    }

    fn state(&self) -> Option<Acknowledgement> {
        let served = self.holder.served();
        let files = self.files.as_ref().map(|files| files.borrow().clone());
        acknowledgement::state(&Facts {
            own: self.holder.trust_domain(),
            trust: served.trust.as_deref()?,
            serial: served.svid.as_ref().map(|svid| svid.serial()),
            subscribers: &self.subscribers.snapshot(),
            files: files.as_ref(),
        })
    }
}

/// The next message, not before `earliest`; nothing is lost if this is dropped meanwhile.
async fn read_from(
    incoming: &mut Streaming<WatchResponse>,
    earliest: Instant,
) -> Result<Option<WatchResponse>, Status> {
    tokio::time::sleep_until(earliest).await;
    incoming.message().await
}

async fn files_changed(files: &mut Option<watch::Receiver<Written>>) {
    if let Some(files) = files
        && files.changed().await.is_ok()
    {
        return;
    }
    // No files, or a writer that ended with the agent.
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests;
