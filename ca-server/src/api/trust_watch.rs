//! The trust watch: the trust object at once and whenever it changes, and acknowledgements back.
//!
//! It needs the same evidence as a certificate; the consumer is who the evidence says. A stream ends when
//! the evidence does, at the latest after half an hour, so that a consumer proves itself again.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use signet_proto::signet::trust::v1 as proto;
use signet_proto::signet::trust::v1::trust_distribution_server::TrustDistribution;
use signet_service::logging::with_causes;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::admission::{Crowd, Overload, Place};
use super::headers::{self, RequestIds};
use super::listener::PeerAddress;
use super::refusals::Refusals;
use super::status;
use crate::attestation::Caller;
use crate::issue::Issuance;
use crate::metrics::Metrics;
use crate::reason::Reason;
use crate::shutdown;
use crate::trust::Trust;
use crate::trust::consumers::Consumers;
use crate::trust::publisher::Publisher;

/// Between two acknowledgements of a stream that are kept; what comes faster waits in the connection.
const BETWEEN: Duration = Duration::from_millis(50);
/// Longest life of a stream.
const LONGEST: Duration = Duration::from_secs(30 * 60);

/// The service.
pub struct TrustService {
    /// Attests, as for a certificate.
    pub issuance: Arc<Issuance>,
    /// What is watched.
    pub publisher: Arc<Publisher>,
    /// Where acknowledgements go.
    pub consumers: Consumers,
    /// Names for requests.
    pub ids: Arc<RequestIds>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Who may try to be attested.
    pub refusals: Arc<Refusals>,
    /// Places for streams.
    pub places: Arc<Crowd>,
    /// Says when the server ends; a stream that went on would hold up its end.
    pub stopped: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl TrustDistribution for TrustService {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<proto::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<Streaming<proto::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let id = self.ids.next();
        let evidence = headers::evidence_of(&request);
        let peer = request.extensions().get::<PeerAddress>().cloned();
        // Every connection of the issuing port has an address.
        let address = peer.as_ref().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0.ip());
        let refuse = |outside: status::Outside, cause: String| {
            self.metrics.watch_refused(outside.reason);
            tracing::warn!(request_id = id, reason = outside.reason.code(), cause, "trust watch refused");
            outside.into_status()
        };
        let no_room = |overload: Overload| refuse(status::of_overload(overload), overload.to_string());
        self.refusals.may_try(address).map_err(no_room)?;
        let now = match self.issuance.clock.now() {
            Ok(now) => now,
            Err(stepped) => return Err(refuse(status::of_stepped_clock(), stepped.to_string())),
        };
        // The roots are no secret, but what a blocked consumer says that it holds is not to be counted on.
        let caller = match self.issuance.caller(&evidence, now).await {
            Ok(caller) => caller,
            Err(error) => {
                self.refusals.charge(address, &error);
                return Err(refuse(status::of_issue(&error), with_causes(&error)));
            }
        };
        let place = self.places.settle(address).map_err(no_room)?;
        if let Some(peer) = peer {
            peer.is_attested();
        }
        let lifetime = caller.expires.duration_since(now).unwrap_or_default().min(LONGEST);
        let identity = caller.identity.as_str();
        tracing::info!(request_id = id, reason = "WATCHING", identity, "trust watch begins");
        // Room for one answer: a slow reader gets the latest state, never a queue of old ones.
        let (answers, stream) = mpsc::channel(1);
        let stopped = self.stopped.clone();
        let watch = Watch {
            caller,
            trust: self.publisher.subscribe(),
            consumers: self.consumers.clone(),
            issuance: self.issuance.clone(),
            metrics: self.metrics.clone(),
            request_id: id,
            answers,
            _place: place,
        };
        tokio::spawn(async move {
            tokio::select! {
                // Whoever reads may be gone: then there is nobody to tell.
                _ = tokio::time::timeout(lifetime, watch.run(request.into_inner())) => {}
                () = shutdown::begun(stopped) => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

/// One stream.
struct Watch {
    caller: Caller,
    trust: watch::Receiver<Arc<Trust>>,
    consumers: Consumers,
    issuance: Arc<Issuance>,
    metrics: Arc<Metrics>,
    request_id: String,
    answers: mpsc::Sender<Result<proto::WatchResponse, Status>>,
    _place: Place,
}

impl Watch {
    /// Runs until the consumer leaves.
    async fn run(mut self, mut requests: Streaming<proto::WatchRequest>) {
        let _open = self.metrics.watch_open();
        self.trust.mark_changed();
        let mut talks = true;
        let mut listens = Instant::now();
        loop {
            tokio::select! {
                room = room_for_change(&mut self.trust, &self.answers) => {
                    let Some(room) = room else { return };
                    let trust = wire(&self.trust.borrow_and_update());
                    room.send(Ok(proto::WatchResponse { trust: Some(trust) }));
                }
                request = next_after(listens, &mut requests), if talks => match request {
                    Ok(Some(request)) => {
                        // What a blocked consumer says that it holds is not to be counted on.
                        if self.issuance.blocks.check(&self.caller).is_err() {
                            return;
                        }
                        if let Some(acknowledgement) = request.acknowledgement {
                            self.acknowledge(acknowledgement).await;
                        }
                        listens = Instant::now() + BETWEEN;
                    }
                    // It has nothing more to say, but may go on listening.
                    Ok(None) => talks = false,
                    Err(_) => return,
                },
                () = self.answers.closed() => return,
            }
        }
    }

    async fn acknowledge(&self, acknowledgement: proto::Acknowledgement) {
        let (consumers, caller) = (self.consumers.clone(), self.caller.clone());
        let (epoch, sequence) = (acknowledgement.epoch, acknowledgement.sequence);
        let now = self.issuance.clock.reckoned();
        let kept =
            tokio::task::spawn_blocking(move || consumers.record(&caller, &acknowledgement, now)).await;
        let (request_id, identity) = (&self.request_id, self.caller.identity.as_str());
        match kept {
            Ok(Ok(())) => {
                self.metrics.acknowledged();
                tracing::debug!(request_id, identity, epoch, sequence, "acknowledgement kept");
            }
            Ok(Err(error)) => {
                let (reason, cause) = (error.reason(), with_causes(&error));
                self.metrics.acknowledgement_refused(reason);
                let reason = reason.code();
                tracing::warn!(request_id, identity, reason, cause, "acknowledgement not kept");
            }
            Err(error) => {
                self.metrics.acknowledgement_refused(Reason::AcknowledgementNotKept);
                let reason = Reason::AcknowledgementNotKept.code();
                tracing::error!(request_id, identity, reason, %error, "acknowledgement not kept");
            }
        }
    }
}

/// The next message, read at that time at the earliest. Giving up in between loses nothing.
async fn next_after(
    time: Instant,
    requests: &mut Streaming<proto::WatchRequest>,
) -> Result<Option<proto::WatchRequest>, Status> {
    tokio::time::sleep_until(time).await;
    requests.message().await
}

/// Waits for room to tell of a change, and for the change; nothing when either end is gone. Giving up in
/// between loses nothing: a change counts as seen only with `changed`, which comes last.
async fn room_for_change<'a, T>(
    trust: &mut watch::Receiver<Arc<Trust>>,
    answers: &'a mpsc::Sender<T>,
) -> Option<mpsc::Permit<'a, T>> {
    let room = answers.reserve().await.ok()?;
    trust.changed().await.ok()?;
    Some(room)
}

/// The trust object as it travels.
pub fn wire(trust: &Trust) -> proto::Trust {
    let bundles = trust.bundles.iter().map(|(trust_domain, bundle)| proto::TrustBundle {
        trust_domain: trust_domain.to_string(),
        roots: bundle.roots().iter().map(|root| root.der().to_vec()).collect(),
    });
    proto::Trust {
        epoch: trust.epoch,
        sequence: trust.sequence,
        digest: trust.digest.to_vec(),
        bundles: bundles.collect(),
        crls: trust.crls.ders().map(<[u8]>::to_vec).collect(),
        crls_digest: trust.crls.digest().map(Vec::from).unwrap_or_default(),
    }
}
