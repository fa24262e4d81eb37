//! The course of one SDS stream: requests in, secrets out, facts to the registry.
//!
//! What is due and not available yet (no certificate so far, or only an ended one) stays due: the stream
//! is open and answered when there is something good.
//!
//! A reader that gives verdicts gets the next response after its verdict on the last one, made from what is
//! served then: one that was stopped finds the latest state, not each that it slept through.

use super::Source;
use super::process::Process;
use super::subscribers::{Content, Registration, Subscribers};
use super::subscription::{Meaning, Resource, Subscription, TYPE_URL};
use crate::identity::Served;
use crate::metrics::Metrics;
use crate::random;
use crate::trust::acknowledgement;
use prost::Message;
use signet_certs::clock::rfc3339;
use signet_proto::envoy::config::core::v3::data_source::Specifier;
use signet_proto::envoy::config::core::v3::{DataSource, Node};
use signet_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use signet_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;
use tonic::{Status, Streaming};

/// Key in a node's metadata by which a stream asks to be left out of acknowledgements.
pub(crate) const OBSERVER: &str = "signet_observer";
/// Most responses whose verdict is remembered; a reader that never gives one still gets its pushes.
const MOST_UNJUDGED: usize = 4;
/// How long a verdict is waited for before the next response goes out without it: a verdict that is never
/// given must not cost anybody a renewal.
const LONGEST_VERDICT: Duration = Duration::from_secs(30);
/// How long a stream may be open before it says what it wants.
pub(super) const FIRST_REQUEST: Duration = Duration::from_secs(10);
/// How often it is looked whether what is due has become available by time alone: a clock that was set right.
const LOOK: Duration = Duration::from_secs(5);

/// Whose stream it is, and who is told.
pub(super) struct Peer<'a> {
    pub(super) subscribers: &'a Arc<Subscribers>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) process: Option<Process>,
}

/// Runs until the reader goes (`Ok`) or breaks a rule (`Err`, which ends the stream). Gives
/// `silent` back with the first request, from which on it is counted among the subscribers.
pub(super) async fn run(
    mut requests: Streaming<DiscoveryRequest>,
    silent: OwnedSemaphorePermit,
    answers: mpsc::Sender<Result<DiscoveryResponse, Status>>,
    mut source: Source,
    peer: Peer<'_>,
) -> Result<(), Status> {
    let first = tokio::time::timeout(FIRST_REQUEST, requests.message()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no request came"))?;
    let Ok(Some(first)) = first else { return Ok(()) };
    let mut stream = Stream::open(first, &peer)?;
    drop(silent);
    loop {
        let served = source.served.borrow_and_update().clone();
        let due = stream.due(&served, &source);
        let wait = stream.waits_for_verdict();
        let look = wait.unwrap_or(LOOK);
        tokio::select! {
            request = requests.message() => match request {
                Ok(Some(request)) => stream.take(request)?,
                Ok(None) | Err(_) => return Ok(()),
            },
            changed = source.served.changed() => {
                // The owner ends with the agent, which cancels this stream.
                if changed.is_err() {
                    return Ok(());
                }
            }
            () = tokio::time::sleep(look), if wait.is_some() || stream.lacks(&due) => {}
            place = answers.reserve(), if !due.is_empty() && wait.is_none() => match place {
                Ok(place) => place.send(Ok(stream.respond(&due, &served, &source))),
                Err(_) => return Ok(()),
            },
        }
    }
}

fn is_observer(node: &Node) -> bool {
    let value = node.metadata.as_ref().and_then(|metadata| metadata.fields.get(OBSERVER));
    matches!(value.and_then(|value| value.kind.as_ref()), Some(prost_types::value::Kind::BoolValue(true)))
}

/// What one stream asked for and was sent.
pub(super) struct Stream {
    node: String,
    registration: Registration,
    subscription: Subscription,
    /// Asked for and not sent yet, in the order of asking.
    asked: Vec<Resource>,
    /// What was sent last, per resource.
    sent: Vec<Content>,
    /// Responses without a verdict, oldest first.
    unjudged: VecDeque<(String, Vec<Content>)>,
    /// When the last response went out.
    responded: Instant,
    /// Whether it has ever given a verdict.
    judges: bool,
    responses: u64,
    metrics: Arc<Metrics>,
}

impl Stream {
    /// A stream by its first request, which must say whose it is.
    pub(super) fn open(first: DiscoveryRequest, peer: &Peer<'_>) -> Result<Self, Status> {
        let node = first.node.clone().filter(|node| !node.id.is_empty());
        let node = node.ok_or_else(|| Status::invalid_argument("missing node information"))?;
        let observer = is_observer(&node);
        let registration = peer
            .subscribers
            .join(node.id.clone(), peer.process, observer)
            .map_err(|_| Status::resource_exhausted("too many subscribers"))?;
        let mut stream = Self {
            node: node.id,
            registration,
            subscription: Subscription::default(),
            asked: Vec::new(),
            sent: Vec::new(),
            unjudged: VecDeque::new(),
            responded: Instant::now(),
            judges: false,
            responses: 0,
            metrics: peer.metrics.clone(),
        };
        stream.take(first)?;
        Ok(stream)
    }

    /// A request came. `Err` ends the stream.
    pub(super) fn take(&mut self, request: DiscoveryRequest) -> Result<(), Status> {
        match self.subscription.take(request)? {
            Meaning::Asked(resources) => self.asked = resources,
            Meaning::Accepted { nonce, added } => {
                self.asked.retain(|resource| self.subscription.watched().contains(resource));
                self.asked.extend(added);
                self.accepted(&nonce);
            }
            Meaning::AcceptedLate { nonce } => self.accepted(&nonce),
            Meaning::Rejected { nonce, reason } => {
                let reason = acknowledgement::cut(&reason);
                // Said once for each response, however often it is refused.
                if let Some(contents) = self.judged(&nonce) {
                    let names: Vec<_> = contents.iter().map(|content| content.resource().name()).collect();
                    names.iter().for_each(|name| self.metrics.rejected(name));
                    tracing::warn!(node = %self.node, ?names, %nonce, %reason, "a subscriber refused its secret");
                    self.registration.rejected(&contents, &reason);
                }
            }
            Meaning::Unsubscribed => self.asked.clear(),
        }
        self.registration.watches(self.subscription.watched());
        Ok(())
    }

    fn accepted(&mut self, nonce: &str) {
        if let Some(contents) = self.judged(nonce) {
            self.registration.accepted(&contents);
        }
    }

    fn judged(&mut self, nonce: &str) -> Option<Vec<Content>> {
        let at = self.unjudged.iter().position(|(of, _)| of == nonce)?;
        self.judges = true;
        // What was sent before it is overtaken: no verdict on that is to come.
        self.unjudged.drain(..=at).next_back().map(|(_, contents)| contents)
    }

    /// How long the verdict on the last response is to be waited for yet.
    fn waits_for_verdict(&self) -> Option<Duration> {
        if !self.judges || self.unjudged.is_empty() {
            return None;
        }
        LONGEST_VERDICT.checked_sub(self.responded.elapsed()).filter(|left| !left.is_zero())
    }

    /// Whether something was asked for that is not available.
    fn lacks(&self, due: &[(Resource, Content)]) -> bool {
        self.asked.iter().any(|asked| due.iter().all(|(resource, _)| resource != asked))
    }

    /// What is due and available: what was asked for, then what changed since it was sent.
    pub(super) fn due(&self, served: &Served, source: &Source) -> Vec<(Resource, Content)> {
        let now = SystemTime::now();
        let available = |resource| Some((resource, content(resource, served, source, now)?));
        let mut others: Vec<_> =
            self.subscription.watched().iter().copied().filter(|one| !self.asked.contains(one)).collect();
        others.sort_unstable();
        let changed = others.into_iter().filter_map(available).filter(|(_, new)| !self.sent.contains(new));
        self.asked.iter().copied().filter_map(available).chain(changed).collect()
    }

    /// The response that says what is due; from now on it waits for a verdict.
    pub(super) fn respond(
        &mut self,
        due: &[(Resource, Content)],
        served: &Served,
        source: &Source,
    ) -> DiscoveryResponse {
        let nonce = random::id();
        let contents: Vec<_> = due.iter().map(|(_, content)| content.clone()).collect();
        self.asked.retain(|asked| !due.iter().any(|(resource, _)| resource == asked));
        for new in &contents {
            self.sent.retain(|old| std::mem::discriminant(old) != std::mem::discriminant(new));
            self.sent.push(new.clone());
        }
        self.registration.sent(&contents);
        self.subscription.answered(&nonce);
        if self.unjudged.len() == MOST_UNJUDGED {
            self.unjudged.pop_front();
        }
        self.unjudged.push_back((nonce.clone(), contents));
        self.responses += 1;
        self.responded = Instant::now();
        tracing::debug!(node = %self.node, ?due, "secrets sent");
        DiscoveryResponse {
            version_info: format!("{}/{}", rfc3339(SystemTime::now()), self.responses),
            resources: due.iter().filter_map(|(resource, _)| secret(*resource, served, source)).collect(),
            type_url: TYPE_URL.to_owned(),
            nonce,
        }
    }
}

/// Names the content that a resource has now; `None` while there is nothing good to send.
fn content(resource: Resource, served: &Served, source: &Source, now: SystemTime) -> Option<Content> {
    match resource {
        Resource::Certificate => Some(Content::Certificate(served.valid_svid(now)?.serial().clone())),
        Resource::Roots => {
            let trust = served.trust.as_ref()?;
            let bundle = trust.bundles.get(&source.trust_domain)?;
            let digests = bundle.roots().iter().map(|root| root.digest()).collect();
            Some(Content::Roots(Arc::new(digests), trust.crls.digest()))
        }
    }
}

/// The resource as Envoy reads it.
fn secret(resource: Resource, served: &Served, source: &Source) -> Option<prost_types::Any> {
    let roots = || Some(served.trust.as_ref()?.bundles.get(&source.trust_domain)?.to_pem());
    let crls = || Some(served.trust.as_ref()?.crls.to_pem());
    let inline = |bytes: &str| Some(DataSource { specifier: Some(Specifier::InlineBytes(bytes.into())) });
    let content = match resource {
        Resource::Certificate => {
            let svid = served.svid.as_ref()?;
            let mut chain = svid.chain_pem();
            if source.include_roots_in_chain {
                chain.push_str(&roots()?);
            }
            secret::Type::TlsCertificate(TlsCertificate {
                certificate_chain: inline(&chain),
                private_key: inline(svid.key_pem()),
            })
        }
        Resource::Roots => secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: inline(&roots()?),
            // Without a CRL in it, Envoy takes the field for a damaged one.
            crl: crls().filter(|crls| !crls.is_empty()).and_then(|crls| inline(&crls)),
        }),
    };
    let secret = Secret { name: resource.name().to_owned(), r#type: Some(content) };
    Some(prost_types::Any { type_url: TYPE_URL.to_owned(), value: secret.encode_to_vec() })
}
